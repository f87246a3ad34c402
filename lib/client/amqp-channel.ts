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
    this.#current ??= this.#open();
    return await this.#current;
  }

  async exchangeDeclare(exchange: string, type: string, options?: ExchangeDeclareOptions): Promise<void> {
    await (await this.opened()).exchangeDeclare(exchange, type, options);
  }

  async exchangeDelete(exchange: string, options?: { ifUnused?: boolean }): Promise<void> {
    await (await this.opened()).exchangeDelete(exchange, options);
  }

  async exchangeBind(destination: string, source: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await (await this.opened()).exchangeBind(destination, source, routingKey, args);
  }

  async exchangeUnbind(destination: string, source: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await (await this.opened()).exchangeUnbind(destination, source, routingKey, args);
  }

  async queueDeclare(queue?: string, options?: QueueDeclareOptions): ReturnType<ConfirmChannel['queueDeclare']> {
    return await (await this.opened()).queueDeclare(queue, options);
  }

  async queueBind(queue: string, exchange: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await (await this.opened()).queueBind(queue, exchange, routingKey, args);
  }

  async queueUnbind(queue: string, exchange: string, routingKey?: string, args?: FieldTable): Promise<void> {
    await (await this.opened()).queueUnbind(queue, exchange, routingKey, args);
  }

  async queuePurge(queue: string): Promise<number> {
    return await (await this.opened()).queuePurge(queue);
  }

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
    return named.consumerTag;
  }

  async basicCancel(consumerTag: string): Promise<void> {
    this.#consumers.delete(consumerTag);
    await (await this.opened()).basicCancel(consumerTag);
  }

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

  async #open(): Promise<ConfirmChannel> {
    let channel: ConfirmChannel | undefined;
    try {
      const connection = await this.#connection.opened(this.#life.signal);
      channel = await connection.channel({ confirm: true });
      channel.once('close', () => {
        this.#lost();
      });
      if (this.#prefetch !== undefined) await channel.basicQos(this.#prefetch);
      for (const [queue, callbacks, options] of this.#consumers.values()) {
        await channel.basicConsume(queue, callbacks, options);
      }
      this.#backoff.succeeded();
      return channel;
    } catch (error) {
      this.#lost();
      await channel?.close();
      throw error;
    }
  }

  /** The channel ended: the next use opens another one; consumers do not wait for a next use. */
  #lost(): void {
    if (this.#life.signal.aborted) return;
    this.#current = undefined;
    if (this.#consumers.size > 0 && !this.#resuming) void this.#resume();
  }

  /** Opens channels until the consumers run again. Backing off, because what ended the last one may end the next. */
  async #resume(): Promise<void> {
    this.#resuming = true;
    while (this.#current === undefined && !this.#life.signal.aborted) {
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
