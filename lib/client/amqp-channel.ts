/**
 * A channel that survives reconnects: a handle on a confirm channel of whatever connection is open. Its consumers are
 * started again on every new channel; deliveries of an old one settle as harmless no-ops.
 */
import { randomUUID } from 'node:crypto';
import { AmqpError } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { AmqpConnection } from './amqp-connection.js';
import { Backoff } from './backoff.js';
import type {
  ConfirmChannel,
  ConsumeOptions,
  ConsumerCallbacks,
  ExchangeDeclareOptions,
  PublishOptions,
  QueueDeclareOptions,
} from './channel.js';
import type { Message } from './message.js';
import { pause } from './wait.js';

/**
 * Everything that a channel can do, on whatever connection is open: while there is none, its methods wait for the next.
 * Publishes are confirmed. Declarations are not repeated after a reconnect; consumers and the prefetch are.
 *
 * @example
 * ```ts
 * constructor(private readonly channel: AmqpChannel) {}
 * const { messageCount } = await this.channel.queueDeclare('billing', { passive: true });
 * ```
 */
export class AmqpChannel implements AsyncDisposable {
  readonly #connection: AmqpConnection;
  #current: Promise<ConfirmChannel> | undefined;
  #prefetch: number | undefined;
  readonly #consumers = new Map<
    string,
    readonly [queue: string, callbacks: ConsumerCallbacks, options: ConsumeOptions]
  >();
  readonly #life = new AbortController();
  readonly #backoff = new Backoff();
  #resuming = false;

  constructor(connection: AmqpConnection) {
    this.#connection = connection;
  }

  /** The present channel, opened when there is none. It lives once: ask again after a loss. */
  async opened(): Promise<ConfirmChannel> {
    if (this.#current === undefined) {
      const current = this.#open(() => {
        this.#lost(current);
      });
      this.#current = current;
    }
    return await this.#current;
  }

  /** See `Channel.exchangeDeclare`. */
  async exchangeDeclare(exchange: string, type: string, options?: ExchangeDeclareOptions): Promise<void> {
    await (await this.opened()).exchangeDeclare(exchange, type, options);
  }

  /** See `Channel.exchangeDelete`. */
  async exchangeDelete(exchange: string, options?: { ifUnused?: boolean }): Promise<void> {
    await (await this.opened()).exchangeDelete(exchange, options);
  }

  /** See `Channel.exchangeBind`. */
  async exchangeBind(destination: string, source: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await (await this.opened()).exchangeBind(destination, source, routingKey, args);
  }

  /** See `Channel.exchangeUnbind`. */
  async exchangeUnbind(destination: string, source: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await (await this.opened()).exchangeUnbind(destination, source, routingKey, args);
  }

  /** See `Channel.queueDeclare`. */
  async queueDeclare(queue?: string, options?: QueueDeclareOptions): ReturnType<ConfirmChannel['queueDeclare']> {
    return await (await this.opened()).queueDeclare(queue, options);
  }

  /** See `Channel.queueBind`. */
  async queueBind(queue: string, exchange: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await (await this.opened()).queueBind(queue, exchange, routingKey, args);
  }

  /** See `Channel.queueUnbind`. */
  async queueUnbind(queue: string, exchange: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await (await this.opened()).queueUnbind(queue, exchange, routingKey, args);
  }

  /** See `Channel.queuePurge`. */
  async queuePurge(queue: string): Promise<number> {
    return await (await this.opened()).queuePurge(queue);
  }

  /** See `Channel.queueDelete`. */
  async queueDelete(queue: string, options?: { ifUnused?: boolean; ifEmpty?: boolean }): Promise<number> {
    return await (await this.opened()).queueDelete(queue, options);
  }

  /** See `Channel.basicQos`; set again on every new channel. */
  async basicQos(prefetchCount: number): Promise<void> {
    await (await this.opened()).basicQos(prefetchCount);
    this.#prefetch = prefetchCount;
  }

  /** See `Channel.basicConsume`; started again on every new channel, under the same tag. */
  async basicConsume(
    queue: string,
    consumer: ConsumerCallbacks | ((message: Message) => void),
    options: ConsumeOptions = {},
  ): Promise<string> {
    const callbacks = typeof consumer === 'function' ? { onMessage: consumer } : consumer;
    const named = { ...options, consumerTag: options.consumerTag ?? `nest-amqp.${randomUUID()}` };
    const channel = await this.opened();
    await channel.basicConsume(queue, callbacks, named);
    this.#consumers.set(named.consumerTag, [queue, callbacks, named]);
    // The channel may have ended in the turn that started the consumer, and did not know of it.
    if (!channel.isOpen) void this.#resume();
    return named.consumerTag;
  }

  /** See `Channel.basicCancel`. */
  async basicCancel(consumerTag: string): Promise<void> {
    this.#consumers.delete(consumerTag);
    await (await this.opened()).basicCancel(consumerTag);
  }

  /** See `Channel.basicGet`. */
  async basicGet(queue: string, options?: { noAck?: boolean }): ReturnType<ConfirmChannel['basicGet']> {
    return await (await this.opened()).basicGet(queue, options);
  }

  /** Publishes with a confirm; see `ConfirmChannel.basicPublish`. */
  async basicPublish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options?: PublishOptions,
  ): Promise<void> {
    await (await this.opened()).basicPublish(exchange, routingKey, body, options);
  }

  /** Closes for good. The connection stays. */
  async close(): Promise<void> {
    if (this.#life.signal.aborted) return;
    this.#life.abort(new AmqpError('CHANNEL_CLOSED', 'The channel was closed with close().', { closedBy: 'client' }));
    const current = this.#current;
    this.#current = Promise.reject(this.#life.signal.reason as AmqpError);
    this.#current.catch(() => undefined);
    try {
      await (await current)?.close();
    } catch {
      // It never opened.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #open(lost: () => void): Promise<ConfirmChannel> {
    let channel: ConfirmChannel | undefined;
    try {
      const connection = await this.#connection.opened(this.#life.signal);
      channel = await connection.channel({ confirm: true });
      channel.once('close', lost);
      if (this.#prefetch !== undefined) await channel.basicQos(this.#prefetch);
      for (const [queue, callbacks, options] of this.#consumers.values()) {
        await channel.basicConsume(queue, callbacks, options);
      }
      this.#backoff.succeeded();
      return channel;
    } catch (error) {
      lost();
      await channel?.close();
      throw error;
    }
  }

  /**
   * A channel ended, or did not open: the next use opens another one; consumers do not wait for a next use. It is told twice
   * of a channel that ends while it opens, when the next one may already be on its way.
   */
  #lost(channel: Promise<ConfirmChannel>): void {
    if (this.#life.signal.aborted || this.#current !== channel) return;
    this.#current = undefined;
    void this.#resume();
  }

  /** Opens channels until the consumers run again. Backing off, because what ended the last one may end the next. */
  async #resume(): Promise<void> {
    if (this.#consumers.size === 0 || this.#resuming) return;
    this.#resuming = true;
    // A connection that is closed has no next channel.
    while (this.#current === undefined && !this.#life.signal.aborted && this.#connection.status.state !== 'closed') {
      await pause(this.#backoff.next(), this.#life.signal);
      try {
        await this.opened();
      } catch {
        // Lost again, or closed: the condition of the loop tells which.
      }
    }
    this.#resuming = false;
  }
}
