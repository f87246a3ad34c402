/**
 * The consumer of one queue: started, paused, stopped, started over with its queue when it was lost, and what of that is told to
 * the log. Its states are drawn in `client/consumer-status`; what becomes of its messages is its receiver's, see
 * `handled-deliveries`.
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import { AmqpConsumer } from '../client/amqp-consumer.js';
import type { Connection } from '../client/connection.js';
import { type ConsumerState, type ConsumerStatus, isLoss } from '../client/consumer-status.js';
import { quietly } from '../client/listeners.js';
import { refuseUnknown } from '../client/option-names.js';
import type { Message } from '../client/message.js';
import { orAborted, orLate } from '../client/wait.js';
import { AmqpError, counted, factsOf } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';
import { type Topology, isStream } from './definitions.js';
import { type Log, labelOf, messageOf } from './log.js';
import { ensureQueue } from './topology.js';
import type { RunningDelivery } from './running-deliveries.js';

export interface ConsumerOptions {
  /** What it is called in the log: `BillingConsumer.charge`. */
  readonly name: string;
  readonly queue: string;
  /** Says how the queue is declared when it is missing. */
  readonly topology: Topology;
  /** Most unanswered messages at a time. */
  readonly prefetch: number;
  readonly exclusive: boolean;
  readonly consumerTag: string | undefined;
  readonly arguments: FieldTable;
  /** Is told every change of the status. */
  readonly changed?: ((status: ConsumerStatus) => void) | undefined;
  /** Sees to it that the queue is there, before every start. @default used as it is, and declared as the topology says where it is missing */
  readonly ensureQueue?: (opened: Connection) => Promise<void>;
}

/** Who gets the messages of a consumer, and answers them. */
export interface MessageReceiver {
  /** Messages that were begun and not answered yet. */
  readonly underWay: number;
  /** Of those that go on after their handler was called, the one that was begun first. */
  readonly oldest: RunningDelivery | undefined;
  /** What comes from now on comes over another channel. */
  renew(): void;
  /** Begins to handle it, now or later. Never throws. */
  receive(message: Message): void;
  /** The channel is gone: the broker delivers again what is not answered. */
  lost(why: string): void;
  /** What has not begun goes back to the queue. */
  giveBack(): void;
  /** Begins nothing any more: what has not begun goes back to the queue. */
  stop(): void;
  /** Resolves when nothing is under way. */
  idle(): Promise<void>;
  /** After `stop()`: waits no longer, and tells of what is still under way. `until` says how long it has waited. */
  abandon(until: string): void;
}

/** How long to wait for what is under way. */
export interface DrainOptions {
  /** @default for ever */
  readonly timeout?: Duration | undefined;
  readonly signal?: AbortSignal | undefined;
}

export class Consumer {
  readonly #connection: AmqpConnection;
  readonly #options: ConsumerOptions;
  readonly #log: Log;
  readonly #consumer: AmqpConsumer;
  readonly #receiver: MessageReceiver;

  constructor(connection: AmqpConnection, options: ConsumerOptions, receiver: MessageReceiver, log: Log) {
    const { queue, prefetch, exclusive, consumerTag, arguments: args } = options;
    this.#connection = connection;
    this.#options = options;
    this.#log = log;
    this.#receiver = receiver;
    this.#consumer = new AmqpConsumer(
      connection,
      {
        queue,
        prefetch,
        consume: { exclusive, consumerTag, arguments: args },
        isStream: isStream(options.topology, queue, args),
      },
      {
        prepare: (opened) => this.#ensureQueue(opened),
        opened: () => {
          receiver.renew();
        },
        receive: (message) => {
          receiver.receive(message);
        },
        lost: (why) => {
          receiver.lost(why);
        },
        changed: (status) => {
          quietly(() => options.changed?.(status));
          this.#tell(status);
        },
      },
    );
  }

  get status(): ConsumerStatus {
    return this.#consumer.status;
  }

  get state(): ConsumerState {
    return this.#consumer.status.state;
  }

  /** By its name; one that the broker names has another one on every connection. */
  get queue(): string {
    return this.#connection.topology.current(this.#options.queue);
  }

  /** Deliveries whose handler is running, or that have not been answered since. */
  get underWay(): number {
    return this.#receiver.underWay;
  }

  /** The delivery that has been under way for the longest time, of those that go on after their handler was called. */
  get oldest(): RunningDelivery | undefined {
    return this.#receiver.oldest;
  }

  get #label(): string {
    return labelOf(this.#options);
  }

  /** See `AmqpConsumer.start`. What the broker refuses is told with whose consumer it is. */
  async start(): Promise<void> {
    try {
      await this.#consumer.start();
    } catch (error) {
      if (!(error instanceof AmqpError) || error.code !== 'CHANNEL_CLOSED' || error.closedBy !== 'server') throw error;
      throw new AmqpError(error.code, `${this.#label} cannot consume. ${error.message}`, {
        ...factsOf(error),
        cause: error,
      });
    }
  }

  /** See `AmqpConsumer.startInBackground`. */
  startInBackground(): void {
    this.#consumer.startInBackground();
  }

  /** See `AmqpConsumer.pause`. What has not begun goes back to the queue; what runs goes on, and is answered. */
  async pause(): Promise<void> {
    const paused = this.#consumer.pause();
    this.#receiver.giveBack();
    await paused;
  }

  /** See `AmqpConsumer.resume`. */
  resume(): void {
    this.#consumer.resume();
  }

  /** Pauses it, and resolves when nothing is under way and the broker has heard the last answer. Rejects with `ABORTED` when that takes too long; paused it stays. */
  async drain(options: DrainOptions = {}): Promise<void> {
    refuseUnknown(options, ['timeout', 'signal'], 'drain has no option');
    const { timeout, signal } = options;
    const limit = timeout === undefined ? undefined : timerMilliseconds(timeout, 'timeout');
    const still = (when: string, cause?: unknown): AmqpError => {
      const what =
        this.underWay > 0
          ? `${counted(this.underWay, 'delivery', 'deliveries')} of ${this.#label} ${this.underWay === 1 ? 'is' : 'are'} still under way`
          : `Handlers of ${this.#label} that have taken longer than their timeout still run`;
      return new AmqpError('ABORTED', `${what} ${when}.`, { cause });
    };
    const drained = this.#drained();
    try {
      if (limit === undefined) await orAborted(drained, signal);
      else await orLate(drained, limit, () => still(`after ${limit} ms`), signal);
    } catch (error) {
      if (signal?.aborted === true) throw still('at the abort', signal.reason);
      throw error;
    }
  }

  async #drained(): Promise<void> {
    await this.pause();
    await this.#receiver.idle();
    await this.#consumer.heard();
  }

  /**
   * Stops it: cancels, gives back what has not begun, waits up to `timeout` ms for the running handlers and their answers, or until
   * `hurry` fires. What still runs then is delivered again by the broker, to whoever consumes next.
   */
  async stop(timeout: number, hurry?: AbortSignal): Promise<void> {
    const stopped = this.#consumer.stop(timeout, () => this.#receiver.idle(), hurry);
    this.#receiver.stop();
    await stopped;
    this.#receiver.abandon(
      hurry?.aborted === true ? 'a second signal to the process' : `${timeout} ms (shutdownTimeout)`,
    );
  }

  #tell(status: ConsumerStatus): void {
    switch (status.state) {
      case 'idle':
      case 'starting':
      case 'stopping':
      case 'stopped':
        // Whoever stops it says so, and so does a connection that is closed for good.
        return;
      case 'running':
        this.#log.log(`${this.#label} runs (prefetch ${this.#options.prefetch})`);
        return;
      case 'paused':
        this.#log.log(`${this.#label} is paused, and takes nothing until it is resumed.`);
        return;
      case 'recovering':
        if (status.attempts > 1 && isClosedOverSomething(status.error)) {
          this.#log.error(
            `${this.#label} was starting when the broker closed the connection, and has failed to start ${status.attempts} times in a ` +
              `row. It may be why: compare its options, and its queue, with what the broker takes. ${messageOf(status.error)}`,
          );
          return;
        }
        // Lost with its connection, which whoever has that says once for all of its consumers.
        if (status.nextAttempt === undefined && (status.attempts === 0 || isLoss(status.error))) return;
        if (status.attempts === 0) this.#log.warn(`${this.#label} stopped: ${status.why} It starts again.`);
        else this.#log.error(`${this.#label} cannot start, and tries again. ${messageOf(status.error)}`);
        return;
      case 'failed':
        this.#log.error(
          `${this.#label} cannot start, and tries again, which time will hardly mend: change what it says, or resume() it. ` +
            messageOf(status.error),
        );
        return;
      default:
        status satisfies never;
    }
  }

  async #ensureQueue(opened: Connection): Promise<void> {
    if (this.#options.ensureQueue === undefined) await ensureQueue(opened, this.#options.queue, this.#options.topology);
    else await this.#options.ensureQueue(opened);
  }
}

/** Whether the broker ended the whole connection, and nobody told it to (320): one of those who were asking has broken it. */
function isClosedOverSomething(error: AmqpError | undefined): boolean {
  return error?.code === 'CONNECTION_CLOSED' && error.closedBy === 'server' && error.replyCode !== 320;
}
