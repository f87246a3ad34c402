/** A channel's methods, in the specification's names. What they say and how it is answered is `channel-core`'s. */
import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { AmqpError, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { ChannelCore } from './channel-core.js';
import type {
  ChannelEvents,
  ConsumeOptions,
  ConsumerCallbacks,
  ExchangeDeclareOptions,
  PublishOptions,
  QueueDeclareOptions,
} from './channel-options.js';
import { tell } from './listeners.js';
import type { Message } from './message.js';

/** A channel on which `confirmSelect` was called: every publish is a promise of its confirm. */
export interface ConfirmChannel extends Channel {
  /**
   * Publishes; resolves when the broker has taken charge of the message. Rejects with `UnroutableError` (mandatory, and no
   * queue took it), `PublishNackedError`, `PublishOutcomeUnknownError`, or `INVALID_ARGUMENT` before anything is sent.
   */
  basicPublish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options?: PublishOptions,
  ): Promise<void>;
}

/**
 * One channel of a connection, made by `connection.channel()`. Its methods have the specification's names. What the broker
 * refuses (403, 404, 405, 406) ends the channel, not the connection; the rejected promise says why.
 */
export class Channel extends EventEmitter<ChannelEvents> implements AsyncDisposable {
  readonly #core: ChannelCore;

  /** @internal Made by `Connection.channel()`. */
  constructor(core: ChannelCore) {
    super();
    this.#core = core;
    core.listener = {
      closed: (error) => {
        tell(this, 'close', [error], core.callbackFailed);
      },
      returned: (message) => {
        tell(this, 'return', [message], core.callbackFailed);
      },
    };
  }

  /** Its number on the connection. */
  get number(): number {
    return this.#core.number;
  }

  /** False as soon as either side closes it. */
  get isOpen(): boolean {
    return this.#core.isOpen;
  }

  /** Why it ended; undefined while it is open, and when it was closed on purpose. */
  get endError(): AmqpError | undefined {
    return this.#core.endError;
  }

  /** How many publishes await their confirm. */
  get unconfirmedCount(): number {
    return this.#core.unconfirmedCount;
  }

  /** Resolves when every message delivered on this channel is answered, or the channel has ended. */
  async allSettled(): Promise<void> {
    await this.#core.allSettled();
  }

  // ── exchanges ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Declares an exchange, or with `passive` checks it. Rejects with 406 when it exists with other properties. */
  async exchangeDeclare(exchange: string, type: string, options: ExchangeDeclareOptions = {}): Promise<void> {
    await this.#core.request('exchange.declare', {
      exchange,
      type,
      passive: options.passive ?? false,
      durable: options.durable ?? true,
      autoDelete: options.autoDelete ?? false,
      internal: options.internal ?? false,
      noWait: false,
      arguments: options.arguments ?? {},
    });
  }

  /** Deletes an exchange; deleting one that does not exist is no error. With `ifUnused` only one without bindings. */
  async exchangeDelete(exchange: string, { ifUnused = false }: { ifUnused?: boolean } = {}): Promise<void> {
    await this.#core.request('exchange.delete', { exchange, ifUnused, noWait: false });
  }

  /** Has `destination` receive what `source` routes under the key (https://www.rabbitmq.com/docs/e2e). */
  async exchangeBind(destination: string, source: string, routingKey = '', args: FieldTable = {}): Promise<void> {
    await this.#core.request('exchange.bind', { destination, source, routingKey, noWait: false, arguments: args });
  }

  /** Undoes `exchangeBind`, with the same key and arguments. */
  async exchangeUnbind(destination: string, source: string, routingKey = '', args: FieldTable = {}): Promise<void> {
    await this.#core.request('exchange.unbind', { destination, source, routingKey, noWait: false, arguments: args });
  }

  // ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Declares a queue, or with `passive` checks it. Without a name the broker makes one up: it is in the result. */
  async queueDeclare(
    queue = '',
    options: QueueDeclareOptions = {},
  ): Promise<{ readonly queue: string; readonly messageCount: number; readonly consumerCount: number }> {
    const unnamed = queue === '';
    return await this.#core.request('queue.declare', {
      queue,
      passive: options.passive ?? false,
      durable: options.durable ?? !unnamed,
      exclusive: options.exclusive ?? unnamed,
      autoDelete: options.autoDelete ?? unnamed,
      noWait: false,
      arguments: options.arguments ?? {},
    });
  }

  /** Has the queue receive what the exchange routes under the key. */
  async queueBind(queue: string, exchange: string, routingKey = '', args: FieldTable = {}): Promise<void> {
    await this.#core.request('queue.bind', { queue, exchange, routingKey, noWait: false, arguments: args });
  }

  /** Undoes `queueBind`, with the same key and arguments. */
  async queueUnbind(queue: string, exchange: string, routingKey = '', args: FieldTable = {}): Promise<void> {
    await this.#core.request('queue.unbind', { queue, exchange, routingKey, arguments: args });
  }

  /** Drops the messages that wait in a queue; resolves to how many there were. */
  async queuePurge(queue: string): Promise<number> {
    return (await this.#core.request('queue.purge', { queue, noWait: false })).messageCount;
  }

  /** Deletes a queue; resolves to how many messages went with it. Deleting one that does not exist is no error. */
  async queueDelete(
    queue: string,
    { ifUnused = false, ifEmpty = false }: { ifUnused?: boolean; ifEmpty?: boolean } = {},
  ): Promise<number> {
    return (await this.#core.request('queue.delete', { queue, ifUnused, ifEmpty, noWait: false })).messageCount;
  }

  // ── consuming ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * How many unacknowledged messages each consumer started after this may hold, 0 for any number; with `global` all
   * consumers of the channel together, which RabbitMQ 4.3 no longer offers.
   */
  async basicQos(prefetchCount: number, { global = false }: { global?: boolean } = {}): Promise<void> {
    await this.#core.request('basic.qos', { prefetchSize: 0, prefetchCount, global });
  }

  /** Starts a consumer; resolves to its tag. Messages may arrive before that. */
  async basicConsume(
    queue: string,
    consumer: ConsumerCallbacks | ((message: Message) => unknown),
    options: ConsumeOptions = {},
  ): Promise<string> {
    const consumerTag = options.consumerTag ?? `nest-amqp.${randomUUID()}`;
    if (consumerTag === '' || this.#core.hasConsumer(consumerTag)) {
      // The broker would close the whole connection over a tag used twice (530).
      throw new AmqpError(
        'INVALID_ARGUMENT',
        consumerTag === ''
          ? 'A consumer tag cannot be empty. Leave it out to have one made up.'
          : `The channel already has a consumer tagged ${quoted(consumerTag)}. Choose another tag.`,
      );
    }
    const callbacks = typeof consumer === 'function' ? { onMessage: consumer } : consumer;
    // Found out at the first delivery, it would be too late.
    if (typeof (callbacks as Partial<ConsumerCallbacks> | undefined)?.onMessage !== 'function') {
      throw new AmqpError('INVALID_ARGUMENT', 'A consumer has to be a function, or an object with onMessage.');
    }
    await this.#core.consume(callbacks, {
      queue,
      consumerTag,
      noLocal: options.noLocal ?? false,
      noAck: options.noAck ?? false,
      exclusive: options.exclusive ?? false,
      noWait: false,
      arguments: options.arguments ?? {},
    });
    return consumerTag;
  }

  /** Ends a consumer. Messages that are on their way still arrive until this resolves. */
  async basicCancel(consumerTag: string): Promise<void> {
    await this.#core.cancel(consumerTag);
  }

  /** Fetches one message; undefined when the queue is empty. `messageCount` is how many are left behind it. */
  async basicGet(
    queue: string,
    { noAck = false }: { noAck?: boolean } = {},
  ): Promise<{ readonly message: Message; readonly messageCount: number } | undefined> {
    return await this.#core.get(queue, noAck);
  }

  /** Acknowledges a delivery, or with `multiple` all up to it. A tag that is not outstanding closes the channel (406). */
  basicAck(deliveryTag: number, { multiple = false }: { multiple?: boolean } = {}): void {
    this.#core.send('basic.ack', { deliveryTag, multiple });
  }

  /** Gives a delivery (with `multiple` all up to it) back, or with `requeue: false` has it dead-lettered or dropped. */
  basicNack(
    deliveryTag: number,
    { multiple = false, requeue = true }: { multiple?: boolean; requeue?: boolean } = {},
  ): void {
    this.#core.send('basic.nack', { deliveryTag, multiple, requeue });
  }

  /**
   * Has a delivery dead-lettered or dropped, or with `requeue: true` gives it back; that counts towards the delivery limit of
   * quorum queues on every RabbitMQ.
   */
  basicReject(deliveryTag: number, { requeue = false }: { requeue?: boolean } = {}): void {
    this.#core.send('basic.reject', { deliveryTag, requeue });
  }

  /** Has the broker deliver again everything that is unacknowledged on this channel. */
  async basicRecover(): Promise<void> {
    // Without requeue RabbitMQ closes the connection (540).
    await this.#core.request('basic.recover', { requeue: true });
  }

  // ── publishing ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Turns publisher confirms on, for good. The same channel comes back, typed so that publishing is a promise. */
  async confirmSelect(): Promise<ConfirmChannel> {
    await this.#core.startConfirms();
    return this as ConfirmChannel;
  }

  /**
   * Publishes. With confirms it returns a promise, see `ConfirmChannel`; without it returns whether to keep writing: after
   * `false` wait for `drained()`. The body must not change before it has left.
   */
  basicPublish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options: PublishOptions = {},
  ): boolean | Promise<void> {
    return this.#core.publish(exchange, routingKey, body, options);
  }

  /** Resolves when the connection has taken what was written and it is time to go on. */
  async drained(): Promise<void> {
    await this.#core.drained();
  }

  // ── transactions ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Starts transactions on this channel; it cannot have confirms as well. */
  async txSelect(): Promise<void> {
    await this.#core.request('tx.select', {});
  }

  /** Makes what was published and acknowledged since the last commit count. */
  async txCommit(): Promise<void> {
    await this.#core.request('tx.commit', {});
  }

  /** Forgets what was published and acknowledged since the last commit. */
  async txRollback(): Promise<void> {
    await this.#core.request('tx.rollback', {});
  }

  // ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Closes the channel; what is unacknowledged goes back to its queue. Resolves at the latest after the connection's
   * `closeTimeout`. Closing twice, or after an error, is no error.
   */
  async close(): Promise<void> {
    await this.#core.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
