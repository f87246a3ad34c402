/**
 * A channel that survives reconnects: a handle on a confirm channel of whatever connection is open. Its consumers are
 * started again on every new channel; deliveries of an old one settle as harmless no-ops.
 */
import { randomUUID } from 'node:crypto';
import { AmqpError, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { AmqpConnection } from './amqp-connection.js';
import { AmqpConsumer } from './amqp-consumer.js';
import type { ConfirmChannel } from './channel.js';
import type {
  ConsumeOptions,
  ConsumerCallbacks,
  ExchangeDeclareOptions,
  PublishOptions,
  QueueDeclareOptions,
  ReplyOptions,
} from './channel-options.js';
import type { Message } from './message.js';
import { type RepublishOptions, Republisher } from './republisher.js';
import { ended } from './wait.js';

/** Longest wait for the broker to end a consumer, in milliseconds. */
const CLOSE_TIMEOUT = 2_000;

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
  /** Each on a channel of its own: what ends one, such as a queue that is gone, ends neither the others nor this handle. */
  readonly #consumers = new Map<string, AmqpConsumer>();
  readonly #life = new AbortController();
  readonly #publishes: Republisher;

  /** Throws `INVALID_OPTION`. */
  constructor(connection: AmqpConnection, options?: RepublishOptions) {
    this.#connection = connection;
    this.#publishes = new Republisher(this, options);
  }

  /** The present channel, opened when there is none. It lives once: ask again after a loss. */
  async opened(): Promise<ConfirmChannel> {
    this.#life.signal.throwIfAborted();
    this.#current ??= this.#open().catch((error: unknown) => {
      this.#current = undefined;
      throw error;
    });
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

  /** See `Channel.basicQos`; it is for the consumers started after it. */
  async basicQos(prefetchCount: number): Promise<void> {
    await (await this.opened()).basicQos(prefetchCount);
    this.#prefetch = prefetchCount;
  }

  /**
   * See `Channel.basicConsume`. After a loss the consumer starts again, under the same tag; when its queue is gone by then,
   * `onCancel` is called and that is its end.
   */
  async basicConsume(
    queue: string,
    consumer: ConsumerCallbacks | ((message: Message) => unknown),
    options: ConsumeOptions = {},
  ): Promise<string> {
    const callbacks = typeof consumer === 'function' ? { onMessage: consumer } : consumer;
    const consumerTag = options.consumerTag ?? `nest-amqp.${randomUUID()}`;
    if (this.#consumers.has(consumerTag)) {
      throw new AmqpError('INVALID_ARGUMENT', `The channel already has a consumer tagged ${quoted(consumerTag)}.`);
    }
    const started = new AmqpConsumer(
      this.#connection,
      { queue, prefetch: this.#prefetch, consume: { ...options, consumerTag } },
      {
        receive: (message) => callbacks.onMessage(message),
        failed: (error) => {
          if (!(error instanceof AmqpError) || error.replyCode !== 404) return true;
          this.#consumers.delete(consumerTag);
          callbacks.onCancel?.(consumerTag);
          return false;
        },
      },
    );
    this.#consumers.set(consumerTag, started);
    try {
      await started.start();
    } catch (error) {
      this.#consumers.delete(consumerTag);
      throw error;
    }
    return consumerTag;
  }

  /** See `Channel.basicCancel`. */
  async basicCancel(consumerTag: string): Promise<void> {
    const consumer = this.#consumers.get(consumerTag);
    this.#consumers.delete(consumerTag);
    await consumer?.cancel();
  }

  /** See `Channel.basicGet`. */
  async basicGet(queue: string, options?: { noAck?: boolean }): ReturnType<ConfirmChannel['basicGet']> {
    return await (await this.opened()).basicGet(queue, options);
  }

  /**
   * Publishes with a confirm; see `ConfirmChannel.basicPublish`. While there is no connection it waits, within the bounds of
   * `RepublishOptions`; what a loss leaves unconfirmed is sent again, in order. The body must not change before it is
   * confirmed. When the signal fires before the message has left, it is not sent.
   */
  async basicPublish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    { signal, ...options }: PublishOptions & { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    await this.#publishes.publish(exchange, routingKey, body, options, signal);
  }

  /**
   * See `Channel.reply`. What a loss leaves unconfirmed is not sent again: the request, when it is unacknowledged, comes
   * again and is answered anew.
   */
  async reply(message: Message, body: string | Uint8Array, options?: ReplyOptions): Promise<void> {
    await (await this.opened()).reply(message, body, options);
  }

  /** Closes for good, consumers and all; what they have not answered goes back to the queue. The connection stays. */
  async close(): Promise<void> {
    if (this.#life.signal.aborted) return;
    this.#life.abort(new AmqpError('CHANNEL_CLOSED', 'The channel was closed with close().', { closedBy: 'client' }));
    const consumers = [...this.#consumers.values()];
    this.#consumers.clear();
    await Promise.all([
      this.#current?.then((channel) => channel.close()).catch(() => undefined),
      ...consumers.map((consumer) => consumer.stop(CLOSE_TIMEOUT)),
    ]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** A channel on the present connection, or on the next: a connection that is lost meanwhile is no reason to give up. */
  async #open(): Promise<ConfirmChannel> {
    for (;;) {
      this.#life.signal.throwIfAborted();
      const connection = await this.#connection.opened(this.#life.signal);
      try {
        const channel = await connection.channel({ confirm: true });
        channel.once('close', () => {
          this.#current = undefined;
        });
        if (channel.isOpen) return channel;
      } catch (error) {
        // A refusal, such as too many channels, would come again.
        if (connection.isOpen) throw error;
        await ended(connection);
      }
    }
  }
}
