/**
 * The consumer of one queue: started, stopped, started over with its queue when it was lost, and what of that is told to the log.
 * What becomes of its messages is its receiver's, see `handled-deliveries`.
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import { AmqpConsumer, type ConsumerState } from '../client/amqp-consumer.js';
import type { Connection } from '../client/connection.js';
import type { Message } from '../client/message.js';
import { quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { Topology } from './definitions.js';
import { type Log, messageOf } from './failed-deliveries.js';
import { ensureQueue } from './topology.js';

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
  /** Sees to it that the queue is there, before every start. @default used as it is, and declared as the topology says where it is missing */
  readonly ensureQueue?: (opened: Connection) => Promise<void>;
}

/** Who gets the messages of a consumer, and answers them. */
export interface MessageReceiver {
  /** Messages that were begun and not answered yet. */
  readonly underWay: number;
  /** What comes from now on comes over another channel. */
  renew(): void;
  /** Begins to handle it, now or later. Never throws. */
  receive(message: Message): void;
  /** The channel is gone: the broker delivers again what is not answered. */
  lost(why: string): void;
  /** Begins nothing any more: what has not begun goes back to the queue. */
  stop(): void;
  /** Resolves when nothing is under way. */
  idle(): Promise<void>;
  /** After `stop()` and `timeout` ms: waits no longer, and tells of what is still under way. */
  abandon(timeout: number): void;
}

export class Consumer {
  readonly #options: ConsumerOptions;
  readonly #consumer: AmqpConsumer;
  readonly #receiver: MessageReceiver;

  constructor(connection: AmqpConnection, options: ConsumerOptions, receiver: MessageReceiver, log: Log) {
    const { queue, prefetch, exclusive, consumerTag, arguments: args } = options;
    this.#options = options;
    this.#receiver = receiver;
    this.#consumer = new AmqpConsumer(
      connection,
      { queue, prefetch, consume: { exclusive, consumerTag, arguments: args } },
      {
        prepare: async (opened) => {
          await this.#ensureQueue(opened);
          receiver.renew();
        },
        receive: (message) => {
          receiver.receive(message);
        },
        running: () => {
          log.log(`${this.#label} runs (prefetch ${prefetch})`);
        },
        lost: (why) => {
          receiver.lost(why);
          log.warn(`${this.#label} stopped: ${why} It starts again.`);
        },
        failed: (error) => {
          log.error(`${this.#label} cannot start, and tries again. ${messageOf(error)}`);
          return true;
        },
      },
    );
  }

  get state(): ConsumerState {
    return this.#consumer.state;
  }

  get queue(): string {
    return this.#options.queue;
  }

  /** Messages whose handler is running, or that have not been answered since. */
  get underWay(): number {
    return this.#receiver.underWay;
  }

  get #label(): string {
    return labelOf(this.#options);
  }

  /** See `AmqpConsumer.start`. */
  async start(): Promise<void> {
    await this.#consumer.start();
  }

  /** See `AmqpConsumer.startInBackground`. */
  startInBackground(): void {
    this.#consumer.startInBackground();
  }

  /**
   * Stops it: cancels, gives back what has not begun, waits up to `timeout` ms for the running handlers and their answers.
   * What still runs then is delivered again by the broker, to whoever consumes next.
   */
  async stop(timeout: number): Promise<void> {
    this.#receiver.stop();
    await this.#consumer.stop(timeout, () => this.#receiver.idle());
    this.#receiver.abandon(timeout);
  }

  async #ensureQueue(opened: Connection): Promise<void> {
    if (this.#options.ensureQueue === undefined) await ensureQueue(opened, this.queue, this.#options.topology);
    else await this.#options.ensureQueue(opened);
  }
}

/** What a consumer, or a handler, is called in the log. */
export function labelOf({ name, queue }: { readonly name: string; readonly queue: string }): string {
  return `${name} (queue ${quoted(queue)})`;
}
