/**
 * A consumer that survives its channel: on a channel of its own it prepares, consumes, and when channel, connection or
 * consumer end, starts over. What is done with the messages is its owner's.
 *
 * ```
 *   idle ──start()──► starting ──consume-ok──► running ──stop()──► stopping ──settled, closed──► stopped
 *                        ▲                        │
 *                        └──── recovering ◄───────┘  channel or connection lost, cancelled by the broker
 * ```
 */
import { AmqpError, quoted } from '../errors.js';
import type { AmqpConnection } from './amqp-connection.js';
import { Backoff } from './backoff.js';
import type { Channel } from './channel.js';
import type { ConsumeOptions } from './channel-options.js';
import type { Connection } from './connection.js';
import { quietly } from './listeners.js';
import type { Message } from './message.js';
import { ended, orAborted, pause, within } from './wait.js';

export interface AmqpConsumerOptions {
  readonly queue: string;
  /** Most unanswered messages; undefined for no bound. */
  readonly prefetch: number | undefined;
  readonly consume: ConsumeOptions;
}

/** What an owner is told, and asked. */
export interface AmqpConsumerOwner {
  /** Runs before every attempt; what it throws is a failed attempt. */
  prepare?(connection: Connection): Promise<void>;
  receive(message: Message): unknown;
  /** It runs. */
  running?(): void;
  /** It ran, and stopped; it starts over. */
  lost?(why: string): void;
  /** An attempt after the first success failed. True to try again. */
  failed?(error: unknown): boolean;
  /** It ran, and does not start over: `failed` said so, or the connection was closed for good. Not told after `stop` or `cancel`. */
  ended?(error: unknown): void;
}

export type ConsumerState = 'idle' | 'starting' | 'running' | 'recovering' | 'stopping' | 'stopped';

/** Who waits for the first attempt. */
interface FirstAttempt {
  readonly running: () => void;
  readonly refused: (error: unknown) => void;
}

export class AmqpConsumer {
  readonly #connection: AmqpConnection;
  readonly #options: AmqpConsumerOptions;
  readonly #owner: AmqpConsumerOwner;
  /** Aborted by `stop()`: no new attempt after that. */
  readonly #life = new AbortController();
  readonly #backoff = new Backoff();
  #state: ConsumerState = 'idle';
  #active: { readonly channel: Channel; readonly consumerTag: string } | undefined;
  #loop: Promise<void> = Promise.resolve();
  /** The one `basic.cancel` of its last channel. */
  #cancelled: Promise<void> | undefined;

  constructor(connection: AmqpConnection, options: AmqpConsumerOptions, owner: AmqpConsumerOwner) {
    this.#connection = connection;
    this.#options = options;
    this.#owner = owner;
  }

  /** The queue, by the name that it was given by. */
  get queue(): string {
    return this.#options.queue;
  }

  /** Resolves when it has stopped, with its last channel closed. */
  get stopped(): Promise<void> {
    return this.#loop;
  }

  get state(): ConsumerState {
    return this.#state;
  }

  /**
   * Starts it and resolves when it first runs; rejects when the broker refuses the first attempt, or with `ABORTED` when it
   * is stopped before. After that it recovers by itself.
   */
  async start(): Promise<void> {
    this.#state = 'starting';
    const first = new Promise<void>((running, refused) => {
      this.#loop = this.#run({ running, refused });
    });
    // The attempt that is under way may still wait for a broker that is slow, or blocks.
    await orAborted(first, this.#life.signal);
  }

  /** Starts it and returns at once; a refusal is not the end. */
  startInBackground(): void {
    this.#state = 'starting';
    this.#loop = this.#run(undefined);
  }

  /**
   * Stops it: cancels, waits for `settled`, closes the channel. After `timeout` ms it resolves whatever the broker does; what
   * is unanswered then goes back to the queue.
   */
  async stop(timeout: number, settled: () => Promise<unknown> = () => Promise.resolve()): Promise<void> {
    if (this.#state === 'stopped') return;
    this.#state = this.#state === 'idle' ? 'stopped' : 'stopping';
    this.#life.abort(
      new AmqpError('ABORTED', `The consumer of queue ${quoted(this.#options.queue)} was stopped before it ran.`),
    );
    await within(timeout, this.#windDown(settled));
    // Out of time: what is unanswered goes back to the queue.
    void this.#active?.channel.close();
    this.#state = 'stopped';
  }

  /** Ends the consumer and keeps its channel until what it delivered is answered, or `stop()` is called. */
  async cancel(): Promise<void> {
    const active = this.#active;
    this.#life.abort(new AmqpError('ABORTED', 'The consumer was cancelled.'));
    this.#state = 'stopping';
    await this.#cancelOnce();
    void active?.channel.allSettled().then(() => active.channel.close());
  }

  async #windDown(settled: () => Promise<unknown>): Promise<void> {
    const active = this.#active;
    await this.#cancelOnce();
    await settled();
    await active?.channel.close();
    await this.#loop;
  }

  async #cancelOnce(): Promise<void> {
    const active = this.#active;
    try {
      await (this.#cancelled ??= active?.channel.basicCancel(active.consumerTag));
    } catch {
      // The channel is gone, and with it the consumer.
    }
  }

  /** The loop: connect, consume, wait for the end, again. With `first`, a refused first attempt is the last one. */
  async #run(first: FirstAttempt | undefined): Promise<void> {
    const { signal } = this.#life;
    let waiting = first;
    while (!this.#isStopped()) {
      let connection: Connection | undefined;
      try {
        connection = await this.#connection.opened(signal);
        const why = await this.#consume(connection, () => {
          waiting?.running();
          waiting = undefined;
        });
        if (!this.#isStopped()) quietly(() => this.#owner.lost?.(why));
      } catch (error) {
        if (!this.#isStopped() && !this.#goesOn(error, waiting !== undefined)) {
          this.#state = 'stopped';
          if (waiting === undefined) quietly(() => this.#owner.ended?.(error));
          else waiting.refused(error);
          return;
        }
      }
      if (this.#isStopped()) break;
      this.#state = 'recovering';
      // A connection that is lost has waits of its own; on one that stays, what failed may fail again.
      if (connection?.isOpen === true) await pause(this.#backoff.next(), signal);
    }
    waiting?.refused(signal.reason);
  }

  #isStopped(): boolean {
    return this.#life.signal.aborted;
  }

  #goesOn(error: unknown, isFirst: boolean): boolean {
    if (this.#connection.status.state === 'closed') return false;
    if (isFirst) return isLoss(error);
    let goesOn = true;
    quietly(() => {
      goesOn = this.#owner.failed?.(error) !== false;
    });
    return goesOn;
  }

  /** Consumes on a new channel until that ends; says why it ended. */
  async #consume(connection: Connection, running: () => void): Promise<string> {
    await this.#owner.prepare?.(connection);
    const channel = await connection.channel({ signal: this.#life.signal });
    const { prefetch, consume } = this.#options;
    const queue = this.#connection.topology.current(this.queue);
    try {
      if (prefetch !== undefined) await channel.basicQos(prefetch);
      let cancel: () => void = () => undefined;
      const cancelled = new Promise<string>((resolve) => {
        cancel = () => {
          resolve('the broker cancelled it, as it does when the queue is deleted.');
        };
      });
      const consumerTag = await channel.basicConsume(
        queue,
        {
          onMessage: (message) => {
            // What crosses the cancel, somebody else shall have.
            return this.#isStopped() ? message.nack() : this.#owner.receive(message);
          },
          onCancel: () => {
            cancel();
          },
        },
        consume,
      );
      if (this.#isStopped()) {
        // What came with the answer is handled to its end; `stop` has the deadline.
        await channel.basicCancel(consumerTag);
        await channel.allSettled();
        return 'it was stopped while it started.';
      }
      this.#active = { channel, consumerTag };
      this.#state = 'running';
      this.#backoff.succeeded();
      quietly(() => this.#owner.running?.());
      running();
      const closed = ended(channel).then((error) => error?.message ?? 'its channel was closed.');
      return await Promise.race([closed, cancelled]);
    } finally {
      this.#active = undefined;
      await channel.close();
    }
  }
}

/** True for the end of a connection, as against an answer that the next attempt would get again. */
export function isLoss(error: unknown): boolean {
  return (
    error instanceof AmqpError &&
    (error.code === 'CONNECTION_LOST' || (error.code === 'CONNECTION_CLOSED' && error.method === undefined))
  );
}

/** True when the broker has no such queue (404). */
export function isQueueMissing(error: unknown): boolean {
  return error instanceof AmqpError && error.replyCode === 404;
}

/** The error of a start that the caller's signal ended. */
export function consumeAborted(queue: string, cause: unknown): AmqpError {
  return new AmqpError('ABORTED', `Starting the consumer of queue ${quoted(queue)} was aborted.`, { cause });
}
