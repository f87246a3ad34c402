/**
 * A channel that survives reconnects: a handle on a confirm channel of whatever connection is open. What it declared is
 * declared again, its consumers are started again on every new channel; deliveries of an old one settle as harmless no-ops.
 */
import { AmqpError } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { MethodName } from '../protocol/methods.js';
import type { AmqpConnection } from './amqp-connection.js';
import type { ConfirmChannel } from './channel.js';
import type {
  ConsumeOptions,
  ConsumerCallbacks,
  ExchangeDeclareOptions,
  ExchangeDeleteOptions,
  GetOptions,
  NoWaitOptions,
  PublishOptions,
  QueueDeclareOptions,
  QueueDeleteOptions,
  ReplyOptions,
  RequestOptions,
  StreamOptions,
} from './channel-options.js';
import { timerMilliseconds } from '../time/duration.js';
import { HandleConsumers } from './handle-consumers.js';
import type { Message } from './message.js';
import type { MessageStream } from './message-stream.js';
import { PresentChannel } from './present-channel.js';
import { Queue } from './queue.js';
import { notAnswered, requestAborted } from './request-bounds.js';
import type { RepublishOptions } from './republish-options.js';
import { type PublishBounds, Republisher } from './republisher.js';
import { orLate, within } from './wait.js';

/**
 * Everything that a channel can do, on whatever connection is open: while there is none, its methods wait for the next.
 * Publishes are confirmed. After a loss come back, in this order: the exchanges, queues and bindings that were declared
 * through it and not deleted since (see `recordTopology`), its consumers with their tags and prefetch, and what was published
 * and not confirmed. A queue that the broker named has another name then; the name that it had goes on working here.
 *
 * @example
 * ```ts
 * constructor(private readonly channel: AmqpChannel) {}
 * const { messageCount } = await this.channel.queueDeclare('billing', { passive: true });
 * ```
 */
export class AmqpChannel implements AsyncDisposable {
  readonly #connection: AmqpConnection;
  #prefetch: number | undefined;
  #closing: Promise<void> | undefined;
  readonly #consumers: HandleConsumers;
  readonly #life = new AbortController();
  readonly #publishes: Republisher;
  readonly #present: PresentChannel;
  readonly #apart: PresentChannel;
  /** What is published goes over it: the present one, until there has to be another. */
  #publishing: PresentChannel;
  readonly #onUnblocked = (): void => {
    this.#publishes.unblocked();
  };

  /** Throws `INVALID_OPTION`. */
  constructor(connection: AmqpConnection, options?: RepublishOptions) {
    this.#connection = connection;
    this.#publishes = new Republisher(this, options);
    this.#present = this.#newChannel();
    this.#apart = this.#newChannel();
    this.#publishing = this.#present;
    this.#consumers = new HandleConsumers(connection, this.#life.signal);
  }

  /** The connection that it is on. */
  get connection(): AmqpConnection {
    return this.#connection;
  }

  /** The present channel, opened when there is none. It lives once: ask again after a loss. Rejects with the signal's reason. */
  async opened(signal?: AbortSignal): Promise<ConfirmChannel> {
    return await this.#present.opened(signal);
  }

  /** @internal The channel that is published over. */
  async openedToPublish(): Promise<ConfirmChannel> {
    try {
      return await this.#publishing.opened();
    } catch (error) {
      const isOneTooMany = error instanceof AmqpError && error.code === 'CHANNEL_LIMIT';
      if (this.#publishing === this.#present || !isOneTooMany) throw error;
      this.#publishing = this.#present;
      return await this.#present.opened();
    }
  }

  /** @internal What is published from now on goes over another channel. What else is asked of the present one stays there. */
  renew(): void {
    if (this.#publishing !== this.#present) void this.#publishing.close();
    this.#publishing = this.#newChannel();
  }

  /** @internal Another channel, for publishes that the broker may close it over. */
  async openedApart(): Promise<ConfirmChannel> {
    return await this.#apart.opened();
  }

  // ── declaring ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** See `Channel.exchangeDeclare`. */
  async exchangeDeclare(exchange: string, type: string, options?: ExchangeDeclareOptions): Promise<void> {
    await this.#ask('exchange.declare', options, (channel, more) => channel.exchangeDeclare(exchange, type, more));
    this.#connection.topology.exchangeDeclared(exchange, type, options);
  }

  /** See `Channel.exchangeDelete`. */
  async exchangeDelete(exchange: string, options?: ExchangeDeleteOptions): Promise<void> {
    await this.#ask('exchange.delete', options, (channel, more) => channel.exchangeDelete(exchange, more));
    this.#connection.topology.exchangeDeleted(exchange);
  }

  /** See `Channel.exchangeBind`. */
  async exchangeBind(
    destination: string,
    source: string,
    routingKey = '',
    args: FieldTable = {},
    options?: NoWaitOptions,
  ): Promise<void> {
    await this.#ask('exchange.bind', options, (channel, more) =>
      channel.exchangeBind(destination, source, routingKey, args, more),
    );
    this.#connection.topology.bound({ kind: 'exchange', destination, source, routingKey, arguments: args });
  }

  /** See `Channel.exchangeUnbind`. */
  async exchangeUnbind(
    destination: string,
    source: string,
    routingKey = '',
    args: FieldTable = {},
    options?: NoWaitOptions,
  ): Promise<void> {
    await this.#ask('exchange.unbind', options, (channel, more) =>
      channel.exchangeUnbind(destination, source, routingKey, args, more),
    );
    this.#connection.topology.unbound({ kind: 'exchange', destination, source, routingKey, arguments: args });
  }

  /** See `Channel.queueDeclare`. The name of a queue that the broker named goes on working here when it changes. */
  async queueDeclare(queue = '', options?: QueueDeclareOptions): ReturnType<ConfirmChannel['queueDeclare']> {
    const named = this.#named(queue);
    const declared = await this.#ask('queue.declare', options, (channel, more) => channel.queueDeclare(named, more));
    // A queue of ours that is declared again by its name stays the one that the broker named.
    if (named === '' || !this.#connection.topology.hasQueue(named)) {
      this.#connection.topology.queueDeclared(named, declared.queue, options);
    }
    return declared;
  }

  /** Declares a queue like `queueDeclare`, and returns a handle on it that survives reconnects too. */
  async queue(name?: string, options?: QueueDeclareOptions): Promise<Queue> {
    return new Queue(this, await this.queueDeclare(name, options));
  }

  /** See `Channel.queueBind`. */
  async queueBind(
    queue: string,
    exchange: string,
    routingKey = '',
    args: FieldTable = {},
    options?: NoWaitOptions,
  ): Promise<void> {
    await this.#ask('queue.bind', options, (channel, more) =>
      channel.queueBind(this.#named(queue), exchange, routingKey, args, more),
    );
    const binding = { kind: 'queue', destination: queue, source: exchange, routingKey, arguments: args } as const;
    this.#connection.topology.bound(binding);
  }

  /** See `Channel.queueUnbind`. */
  async queueUnbind(
    queue: string,
    exchange: string,
    routingKey = '',
    args: FieldTable = {},
    options?: RequestOptions,
  ): Promise<void> {
    await this.#ask('queue.unbind', options, (channel, more) =>
      channel.queueUnbind(this.#named(queue), exchange, routingKey, args, more),
    );
    const binding = { kind: 'queue', destination: queue, source: exchange, routingKey, arguments: args } as const;
    this.#connection.topology.unbound(binding);
  }

  /** See `Channel.queuePurge`. */
  async queuePurge(queue: string, options?: NoWaitOptions): Promise<number> {
    return await this.#ask('queue.purge', options, (channel, more) => channel.queuePurge(this.#named(queue), more));
  }

  /** See `Channel.queueDelete`. */
  async queueDelete(queue: string, options?: QueueDeleteOptions): Promise<number> {
    const count = await this.#ask('queue.delete', options, (channel, more) =>
      channel.queueDelete(this.#named(queue), more),
    );
    this.#connection.topology.queueDeleted(queue);
    return count;
  }

  // ── consuming ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * See `Channel.basicQos`; it is for the consumers started after it. There is none of all together (`global`): each has a channel
   * of its own.
   */
  async basicQos(prefetchCount: number, options?: RequestOptions): Promise<void> {
    refuseGlobal(options);
    await this.#ask('basic.qos', options, (channel, more) => channel.basicQos(prefetchCount, more));
    this.#prefetch = prefetchCount;
  }

  /**
   * See `Channel.basicConsume`. After a loss the consumer starts again, under the same tag, and so it does when the broker
   * cancels it. When its queue is gone by then it is declared again if it was declared here, else `onCancel` is called and
   * that is its end. Of a stream it goes on behind what was answered, see docs/consuming.md.
   */
  async basicConsume(
    queue: string,
    consumer: ConsumerCallbacks | ((message: Message) => unknown),
    options: ConsumeOptions = {},
  ): Promise<string> {
    const callbacks = typeof consumer === 'function' ? { onMessage: consumer } : consumer;
    return await this.#consumers.start({ queue, prefetch: this.#prefetch, consume: options }, callbacks);
  }

  /**
   * Messages to loop over, see `Channel.consume`. The loop outlives its channels: what an old one delivered and the loop had
   * not reached is dropped, because the broker delivers it again. It ends when the queue is gone for good.
   */
  consume(queue: string, options?: StreamOptions): MessageStream {
    return this.#consumers.loop(queue, options);
  }

  /** See `Channel.basicCancel`. */
  async basicCancel(consumerTag: string): Promise<void> {
    await this.#consumers.cancel(consumerTag);
  }

  /** See `Channel.basicGet`. */
  async basicGet(queue: string, options?: GetOptions): ReturnType<ConfirmChannel['basicGet']> {
    return await this.#ask('basic.get', options, (channel, more) => channel.basicGet(this.#named(queue), more));
  }

  // ── publishing ────────────────────────────────────────────────────────────────────────────────────────────────────

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
    await this.#publishes.publish(exchange, routingKey, body, options, { signal });
  }

  /** @internal `basicPublish` for those who publish most: bounds apart from the message, and a timeout in milliseconds. */
  publish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options: PublishOptions,
    bounds: PublishBounds,
  ): Promise<void> {
    return this.#publishes.publish(exchange, routingKey, body, options, bounds);
  }

  /** @internal Counts a publish that is not ready to be sent among those that wait, until what it gives is called. */
  hold(bytes: number): () => void {
    return this.#publishes.hold(bytes);
  }

  /** @internal The present name of a queue that messages are sent to by name. */
  queueNamed(queue: string): string {
    return this.#named(queue);
  }

  /**
   * See `Channel.reply`. What a loss leaves unconfirmed is not sent again: the request, when it is unacknowledged, comes
   * again and is answered anew.
   */
  async reply(message: Message, body: string | Uint8Array, options?: ReplyOptions): Promise<void> {
    await (await this.opened()).reply(message, body, options);
  }

  /** @internal */
  isConnected(): boolean {
    const { status } = this.#connection;
    return status.state === 'open' && status.connection.isOpen && status.connection.blockedReason === undefined;
  }

  /** @internal */
  isBusy(busy: boolean): void {
    if (busy) this.#connection.busy.add(this.#publishes);
    else this.#connection.busy.delete(this.#publishes);
  }

  // ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Closes for good, consumers and all; what they have not answered goes back to the queue. The connection stays. What was
   * published is awaited first, for up to the connection's `closeTimeout` while there is one that takes it; the rest rejects.
   */
  async close(): Promise<void> {
    await (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    const { status } = this.#connection;
    if (status.state === 'open' && this.isConnected()) {
      await within(status.connection.closeTimeout, this.#publishes.settled());
    }
    this.#life.abort(new AmqpError('CHANNEL_CLOSED', 'The channel was closed with close().', { closedBy: 'client' }));
    const channels = [this.#present, this.#apart, this.#publishing];
    await Promise.all([...channels.map((channel) => channel.close()), this.#consumers.stop()]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Asks the present channel, or the next one when there is none. A `timeout` bounds the wait for the connection and for the
   * answer together.
   */
  async #ask<T, O extends RequestOptions>(
    name: MethodName,
    options: O | undefined,
    ask: (channel: ConfirmChannel, options: O | undefined) => Promise<T>,
  ): Promise<T> {
    const { signal, timeout } = options ?? {};
    const limit = timeout === undefined ? undefined : timerMilliseconds(timeout, 'timeout');
    const since = performance.now();
    const opened = this.opened(signal).catch((error: unknown) => {
      throw error === signal?.reason ? requestAborted(name, 'It was not sent.', error) : error;
    });
    if (options === undefined || limit === undefined) return await ask(await opened, options);
    const channel = await orLate(opened, limit, () => notAnswered(name, limit), undefined);
    return await ask(channel, { ...options, timeout: Math.max(1, limit - (performance.now() - since)) });
  }

  #newChannel(): PresentChannel {
    return new PresentChannel(this.#connection, this.#life.signal, this.#onUnblocked);
  }

  #named(queue: string): string {
    return this.#connection.queueNamed(queue);
  }
}

/** Throws `INVALID_ARGUMENT`: it would bound no consumers here, and RabbitMQ 4.3 says ok to it and bounds nothing at all. */
function refuseGlobal(options: unknown): void {
  const { global = options === true } = (options ?? {}) as { readonly global?: unknown };
  if (global === false) return;
  throw new AmqpError(
    'INVALID_ARGUMENT',
    'basicQos of AmqpChannel has no global: its consumers have a channel each, so that a prefetch of one channel would bound none of ' +
      'them, and RabbitMQ 4.3 has no such thing. Leave it out; the prefetch is that of each consumer started after it.',
  );
}
