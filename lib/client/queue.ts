/** A handle on a declared queue: its channel's methods with the queue's name filled in. */
import type { FieldTable } from '../protocol/field-table.js';
import type { Channel } from './channel.js';
import type { ConsumeOptions, ConsumerCallbacks, PublishOptions, StreamOptions } from './channel-options.js';
import type { Message } from './message.js';
import type { MessageStream } from './message-stream.js';

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
  readonly #channel: Channel;

  /** @internal Made by `Channel.queue()`. */
  constructor(
    channel: Channel,
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
      await this.#channel.drained();
  }

  async bind(exchange: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await this.#channel.queueBind(this.name, exchange, routingKey, args);
  }

  async unbind(exchange: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await this.#channel.queueUnbind(this.name, exchange, routingKey, args);
  }

  /** Messages to loop over; see `Channel.consume`. */
  consume(options?: StreamOptions): MessageStream {
    return this.#channel.consume(this.name, options);
  }

  /** See `Channel.basicConsume`. */
  async basicConsume(
    consumer?: ConsumerCallbacks | ((message: Message) => unknown),
    options?: ConsumeOptions,
  ): Promise<string> {
    return await this.#channel.basicConsume(this.name, consumer, options);
  }

  /** See `Channel.basicGet`. */
  async get(options?: { noAck?: boolean }): ReturnType<Channel['basicGet']> {
    return await this.#channel.basicGet(this.name, options);
  }

  /** See `Channel.queuePurge`. */
  async purge(): Promise<number> {
    return await this.#channel.queuePurge(this.name);
  }

  /** See `Channel.queueDelete`. */
  async delete(options?: { ifUnused?: boolean; ifEmpty?: boolean }): Promise<number> {
    return await this.#channel.queueDelete(this.name, options);
  }
}
