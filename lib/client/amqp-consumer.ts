/**
 * A consumer that survives its channel: on a channel of its own it prepares, consumes, and when channel, connection or
 * consumer end, starts over; `consumer-status` draws its states. What is done with the messages is its owner's.
 */
import { AmqpError, quoted } from '../errors.js';
import type { AmqpConnection } from './amqp-connection.js';
import { Backoff } from './backoff.js';
import type { Channel } from './channel.js';
import type { Connection } from './connection.js';
import { type End, type Lost, asAmqpError, lost } from './consumer-end.js';
import type { AmqpConsumerOptions, AmqpConsumerOwner } from './consumer-owner.js';
import { type ConsumerState, type ConsumerStatus, type Setback, isHopeless, isLoss } from './consumer-status.js';
import { quietly } from './listeners.js';
import type { Message } from './message.js';
import { heedDeletion, orAnotherStream } from './stream-end.js';
import { StreamPosition } from './stream-position.js';
import { aborted, ended, orAborted, pause, within } from './wait.js';

const NOTHING = (): void => undefined;

export class AmqpConsumer {
  readonly #connection: AmqpConnection;
  readonly #options: AmqpConsumerOptions;
  readonly #owner: AmqpConsumerOwner;
  /** Aborted by `stop()`: no new attempt after that. */
  readonly #life = new AbortController();
  readonly #backoff: Backoff;
  /** Of the consumer of a stream. */
  readonly #position: StreamPosition | undefined;
  #status: ConsumerStatus = { state: 'idle', since: new Date() };
  /** False while what arrives is for somebody else: paused, or stopped. */
  #takesMessages = false;
  #isPaused = false;
  /** Ends the consuming, and the rest, that the loop waits in. */
  #onPause = NOTHING;
  #onResume = NOTHING;
  #active: { readonly channel: Channel; readonly consumerTag: string } | undefined;
  /** Resolves with the answer to a `basic.consume`; undefined when none is awaited. */
  #consuming: Promise<void> | undefined;
  /** The one `basic.cancel` for the last one. */
  #cancelled: Promise<void> | undefined;
  #loop: Promise<void> = Promise.resolve();
  /** Who waits for the first attempt. */
  #first: { readonly running: () => void; readonly refused: (error: unknown) => void } | undefined;
  /** Attempts that failed since it last ran. */
  #attempts = 0;

  constructor(connection: AmqpConnection, options: AmqpConsumerOptions, owner: AmqpConsumerOwner) {
    this.#connection = connection;
    this.#options = options;
    this.#owner = owner;
    this.#backoff = new Backoff(connection.recovery);
    this.#position = StreamPosition.of(options.consume.arguments, options.isStream ?? false);
  }

  /** The queue, by the name that it was given by. */
  get queue(): string {
    return this.#options.queue;
  }

  /** Resolves when it has stopped, with its last channel closed. */
  get stopped(): Promise<void> {
    return this.#loop;
  }

  get status(): ConsumerStatus {
    return this.#status;
  }

  /**
   * Starts it and resolves when it first runs; rejects when the broker refuses the first attempt, or with `ABORTED` when it
   * is stopped before. After that it recovers by itself.
   */
  async start(): Promise<void> {
    const first = new Promise<void>((running, refused) => {
      this.#first = { running, refused };
    });
    this.startInBackground();
    // The attempt that is under way may still wait for a broker that is slow, or blocks.
    await orAborted(first, this.#life.signal);
  }

  /** Starts it and returns at once; a refusal is not the end. */
  startInBackground(): void {
    this.#takesMessages = true;
    this.#become({ state: 'starting', since: new Date() });
    this.#loop = this.#run();
  }

  /**
   * Has the broker deliver nothing more, until `resume()` and also across reconnects, and resolves when it has said so. The
   * channel stays, for what came over it to be answered; what is given back after the call is not delivered here again. Does
   * nothing before the start and after the end.
   */
  async pause(): Promise<void> {
    const { state } = this.#status;
    if (state === 'idle' || state === 'stopping' || state === 'stopped') return;
    if (!this.#isPaused) {
      this.#takesMessages = false;
      this.#isPaused = true;
      this.#onPause();
      // Who is told may resume it at once.
      this.#become({ state: 'paused', since: new Date() });
    }
    await this.#cancelOnce();
  }

  /** Resolves when the broker has heard every answer that was given so far; also when the channel is gone. */
  async heard(): Promise<void> {
    try {
      // A channel is served in order, so that the answer to any request comes after what was said before it.
      await this.#active?.channel.basicQos(this.#options.prefetch ?? 0);
    } catch {
      // What was not heard is delivered again.
    }
  }

  /**
   * Consumes again after `pause()`, and starts what was not started. What is recovering, or has failed, is tried at once. Throws
   * `ABORTED` when it was stopped.
   */
  resume(): void {
    const { state } = this.#status;
    if (state === 'stopping' || state === 'stopped') {
      throw new AmqpError('ABORTED', `The consumer of queue ${quoted(this.queue)} was stopped: it cannot be resumed.`);
    }
    if (state === 'idle') {
      this.startInBackground();
      return;
    }
    if (this.#isPaused) {
      this.#isPaused = false;
      this.#takesMessages = true;
      this.#become({ state: 'starting', since: new Date() });
    }
    this.#onResume();
  }

  /**
   * Stops it: cancels, waits for `settled`, closes the channel. After `timeout` ms, or when `hurry` fires, it resolves whatever
   * the broker does; what is unanswered then goes back to the queue.
   */
  async stop(
    timeout: number,
    settled: () => Promise<unknown> = () => Promise.resolve(),
    hurry?: AbortSignal,
  ): Promise<void> {
    const ends = (work: Promise<unknown>): Promise<void> =>
      within(timeout, hurry === undefined ? work : Promise.race([work, aborted(hurry)]));
    if (this.#status.state === 'stopped') {
      // Its connection was closed for good; what it delivered may still run.
      await ends(settled());
      return;
    }
    if (this.#status.state === 'idle') {
      this.#life.abort();
      this.#become({ state: 'stopped', since: new Date(), error: undefined });
      return;
    }
    this.#end(`The consumer of queue ${quoted(this.queue)} was stopped before it ran.`);
    await ends(this.#windDown(settled));
    // Out of time: what is unanswered goes back to the queue.
    void this.#active?.channel.close();
    this.#become({ state: 'stopped', since: new Date(), error: undefined });
  }

  /** Ends the consumer and keeps its channel until what it delivered is answered, or `stop()` is called. */
  async cancel(): Promise<void> {
    const active = this.#active;
    this.#end('The consumer was cancelled.');
    await this.#cancelOnce();
    void active?.channel.allSettled().then(() => active.channel.close());
  }

  /** No new attempt, and no new message. */
  #end(why: string): void {
    this.#become({ state: 'stopping', since: new Date() });
    this.#takesMessages = false;
    this.#life.abort(new AmqpError('ABORTED', why));
    this.#onResume();
  }

  async #windDown(settled: () => Promise<unknown>): Promise<void> {
    const active = this.#active;
    await this.#cancelOnce();
    await settled();
    await active?.channel.close();
    await this.#loop;
  }

  /** Said at once, unless the broker has not confirmed yet what is to be cancelled. */
  async #cancelOnce(): Promise<void> {
    if (this.#consuming !== undefined) await this.#consuming;
    const active = this.#active;
    try {
      await (this.#cancelled ??= active?.channel.basicCancel(active.consumerTag));
    } catch {
      // The channel is gone, and with it the consumer.
    }
  }

  /** The loop: connect, consume, wait for the end, again. Of a start that is waited for, a refused first attempt is the last one. */
  async #run(): Promise<void> {
    const { signal } = this.#life;
    for (;;) {
      if (this.#isPaused) await this.#resumed();
      if (this.#isStopped()) break;
      let connection: Connection | undefined;
      let wait: number | undefined;
      try {
        connection = await this.#connection.opened(signal);
        const { why, error } = await this.#consume(connection);
        if (this.#isStopped()) break;
        wait = this.#lost(connection, why, error);
      } catch (thrown) {
        if (this.#isStopped()) break;
        const error = asAmqpError(thrown);
        if (!this.#goesOn(error)) {
          this.#giveUp(error);
          return;
        }
        wait = this.#refused(connection, error);
      }
      if (wait !== undefined && !this.#isPaused) await this.#resumedOrAfter(wait);
    }
    this.#first?.refused(signal.reason);
    this.#become({ state: 'stopped', since: new Date(), error: undefined });
  }

  #isStopped(): boolean {
    return this.#life.signal.aborted;
  }

  #goesOn(error: AmqpError): boolean {
    if (this.#connection.status.state === 'closed') return false;
    if (this.#first !== undefined) return isLoss(error);
    let goesOn = true;
    quietly(() => {
      goesOn = this.#owner.failed?.(error) !== false;
    });
    return goesOn;
  }

  /** Consumes on a new channel, also again and again after pauses, until the channel has to end; says why. */
  async #consume(connection: Connection): Promise<Lost> {
    await this.#prepare(connection);
    const channel = await connection.channel({ signal: this.#life.signal });
    this.#owner.opened?.();
    const closed = ended(channel).then((error) => lost(error?.message ?? 'its channel was closed.', error));
    let why = 'its channel was closed.';
    try {
      if (this.#options.prefetch !== undefined) await channel.basicQos(this.#options.prefetch);
      for (;;) {
        let end = await this.#consumeOn(connection, channel, closed);
        if (end.how === 'paused') {
          await this.#cancelOnce();
          end = await Promise.race([closed, this.#resumed()]);
        }
        if (end.how === 'lost') {
          ({ why } = end);
          return end;
        }
        if (this.#isStopped()) {
          // What runs is answered over this channel; `stop` has the deadline.
          await channel.allSettled();
          return lost('it was stopped.');
        }
        // Without a consumer on it, nobody is told when a queue goes.
        await this.#prepare(connection);
      }
    } finally {
      this.#active = undefined;
      await channel.close();
      this.#position?.lost();
      quietly(() => this.#owner.lost?.(why));
    }
  }

  async #prepare(connection: Connection): Promise<void> {
    if (this.#position !== undefined) await heedDeletion(connection, this.queue, this.#position);
    await this.#owner.prepare?.(connection);
  }

  async #consumeOn(connection: Connection, channel: Channel, closed: Promise<End>): Promise<End> {
    let cancel: () => void = NOTHING;
    const cancelled = new Promise<End>((resolve) => {
      cancel = () => {
        resolve(lost('the broker cancelled it, as it does when the queue is deleted.'));
      };
    });
    const paused = new Promise<End>((resolve) => {
      this.#onPause = () => {
        resolve({ how: 'paused' });
      };
    });
    this.#cancelled = undefined;
    const position = this.#position;
    const consuming = channel.basicConsume(
      this.#connection.topology.current(this.queue),
      {
        onMessage:
          position === undefined ? this.#receive : (message) => position.takes(message) && this.#receive(message),
        onCancel: cancel,
      },
      position === undefined ? this.#options.consume : { ...this.#options.consume, arguments: position.begin() },
    );
    this.#consuming = consuming.then(
      (consumerTag) => {
        this.#active = { channel, consumerTag };
        this.#consuming = undefined;
      },
      () => {
        this.#consuming = undefined;
      },
    );
    await consuming;
    position?.runs();
    if (this.#isPaused || this.#isStopped()) return { how: 'paused' };
    this.#backoff.succeeded();
    this.#attempts = 0;
    this.#become({ state: 'running', since: new Date() });
    this.#hasRun();
    const ended = Promise.race([closed, cancelled, paused]);
    return position === undefined ? await ended : await orAnotherStream(connection, this.queue, position, ended);
  }

  readonly #receive = (message: Message): unknown =>
    // What crosses the cancel, somebody else shall have.
    this.#takesMessages ? this.#owner.receive(message) : message.nack();

  /** Resolves when it is wanted again, or has been stopped. */
  async #resumed(): Promise<End> {
    // Whoever waits for the start has paused it: there is nothing more to wait for.
    this.#hasRun();
    await new Promise<void>((resolve) => {
      this.#onResume = resolve;
      if (!this.#isPaused || this.#isStopped()) resolve();
    });
    return { how: 'paused' };
  }

  async #resumedOrAfter(ms: number): Promise<void> {
    const resumed = new AbortController();
    this.#onResume = () => {
      resumed.abort();
    };
    await pause(ms, AbortSignal.any([resumed.signal, this.#life.signal]));
  }

  #hasRun(): void {
    this.#first?.running();
    this.#first = undefined;
  }

  /** What ran has ended. Returns how long to wait, in milliseconds; a connection that is lost has waits of its own. */
  #lost(connection: Connection, why: string, error: AmqpError | undefined): number | undefined {
    const wait = connection.isOpen ? this.#backoff.next() : undefined;
    this.#become({ state: 'recovering', error, ...this.#setback('recovering', why, wait) });
    return wait;
  }

  /** An attempt has failed. Returns how long to wait; what failed on a connection that stays may fail again. */
  #refused(connection: Connection | undefined, error: AmqpError): number | undefined {
    this.#attempts += 1;
    const state = isHopeless(error) ? 'failed' : 'recovering';
    const wait = connection?.isOpen === true ? this.#backoff.next({ slowly: state === 'failed' }) : undefined;
    this.#become({ state, error, ...this.#setback(state, error.message, wait) });
    return wait;
  }

  #setback(state: ConsumerState, why: string, wait: number | undefined): Setback {
    return {
      since: this.#status.state === state ? this.#status.since : new Date(),
      why,
      attempts: this.#attempts,
      nextAttempt: wait === undefined ? undefined : new Date(Date.now() + wait),
    };
  }

  #giveUp(error: AmqpError): void {
    this.#takesMessages = false;
    this.#become({ state: 'stopped', since: new Date(), error });
    if (this.#first === undefined) quietly(() => this.#owner.ended?.(error));
    else this.#first.refused(error);
  }

  #become(status: ConsumerStatus): void {
    const before = this.#status.state;
    if (status.state !== 'stopped') {
      if (before === 'stopping' || before === 'stopped') return;
      // What goes on beneath a pause is nobody's concern.
      if (this.#isPaused && status.state !== 'paused' && status.state !== 'stopping') return;
    } else if (before === 'stopped') return;
    this.#status = status;
    quietly(() => this.#owner.changed?.(status));
  }
}
