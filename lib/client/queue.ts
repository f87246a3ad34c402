/** A handle on a declared queue: its channel's methods with the queue's name filled in. */
import type { FieldTable } from '../protocol/field-table.js';
import type {
  ConsumeOptions,
  ConsumerCallbacks,
  GetOptions,
  NoWaitOptions,
  PublishOptions,
  QueueDeleteOptions,
  RequestOptions,
  StreamOptions,
} from './channel-options.js';
import type { Message } from './message.js';
import type { MessageStream } from './message-stream.js';

/** What a handle needs of a channel, of one that lives once or of one that survives. */
interface QueueChannel {
  queueBind(queue: string, exchange: string, key?: string, args?: FieldTable, options?: NoWaitOptions): Promise<void>;
  queueUnbind(
    queue: string,
    exchange: string,
    key?: string,
    args?: FieldTable,
    options?: RequestOptions,
  ): Promise<void>;
  queuePurge(queue: string, options?: NoWaitOptions): Promise<number>;
  queueDelete(queue: string, options?: QueueDeleteOptions): Promise<number>;
  consume(queue: string, options?: StreamOptions): MessageStream;
  basicConsume(queue: string, consumer: Consumer | undefined, options?: ConsumeOptions): Promise<string>;
  basicGet(queue: string, options?: GetOptions): Promise<{ message: Message; messageCount: number } | undefined>;
  basicPublish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options?: PublishOptions,
  ): boolean | Promise<void>;
  /** Only a channel without confirms has somebody to wait for. */
  drained?(): Promise<void>;
}

type Consumer = ConsumerCallbacks | ((message: Message) => unknown);

/**
 * Made by `channel.queue('my_queue')`.
 *
 * @example
 * ```ts
 * const queue = await channel.queue('my_queue');
 * await queue.publish('hello');
 * for await (const message of queue.consume()) message.ack();
 * ```
 */
export class Queue {
  /** The name; of a queue declared without one the name that the broker made up. */
  readonly name: string;
  /** Messages that waited in it when it was declared. */
  readonly messageCount: number;
  /** Consumers that it had when it was declared. */
  readonly consumerCount: number;
  readonly #channel: QueueChannel;

  /** @internal Made by `Channel.queue()` and `AmqpChannel.queue()`. */
  constructor(
    channel: QueueChannel,
    declared: { readonly queue: string; readonly messageCount: number; readonly consumerCount: number },
  ) {
    this.#channel = channel;
    this.name = declared.queue;
    this.messageCount = declared.messageCount;
    this.consumerCount = declared.consumerCount;
  }

  /**
   * Publishes to an exchange, without one to this queue through the default exchange. Resolves when the broker has
   * confirmed, on a channel without confirms when it is time to go on.
   */
  async publish(
    body: string | Uint8Array,
    exchange = '',
    routingKey = this.name,
    options?: PublishOptions,
  ): Promise<void> {
    if ((await this.#channel.basicPublish(exchange, routingKey, body, options)) === false)
      await this.#channel.drained?.();
  }

  /** See `Channel.queueBind`. */
  async bind(exchange: string, routingKey?: string, args?: FieldTable, options?: NoWaitOptions): Promise<void> {
    await this.#channel.queueBind(this.name, exchange, routingKey, args, options);
  }

  /** See `Channel.queueUnbind`. */
  async unbind(exchange: string, routingKey?: string, args?: FieldTable, options?: RequestOptions): Promise<void> {
    await this.#channel.queueUnbind(this.name, exchange, routingKey, args, options);
  }

  /** Messages to loop over; see `Channel.consume`. */
  consume(options?: StreamOptions): MessageStream {
    return this.#channel.consume(this.name, options);
  }

  /** See `Channel.basicConsume`. */
  async basicConsume(consumer?: Consumer, options?: ConsumeOptions): Promise<string> {
    return await this.#channel.basicConsume(this.name, consumer, options);
  }

  /** See `Channel.basicGet`. */
  async get(options?: GetOptions): ReturnType<QueueChannel['basicGet']> {
    return await this.#channel.basicGet(this.name, options);
  }

  /** See `Channel.queuePurge`. */
  async purge(options?: NoWaitOptions): Promise<number> {
    return await this.#channel.queuePurge(this.name, options);
  }

  /** See `Channel.queueDelete`. */
  async delete(options?: QueueDeleteOptions): Promise<number> {
    return await this.#channel.queueDelete(this.name, options);
  }
}
