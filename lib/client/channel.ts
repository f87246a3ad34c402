/**
 * A channel's methods, in the specification's names. What they say and how it is answered is `channel-core`'s, what is
 * delivered `channel-deliveries`'.
 */
import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { AmqpError, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { STREAM_OFFSET, STREAM_OFFSETS, isStreamOffset } from '../protocol/stream-offset.js';
import type { ChannelCore } from './channel-core.js';
import type {
  ChannelEvents,
  CloseOptions,
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
  WaitOptions,
} from './channel-options.js';
import { tell } from './listeners.js';
import { type Message, returnAddress } from './message.js';
import type { MessageStream } from './message-stream.js';
import { MessageStreams } from './message-streams.js';
import type { UnconfirmedPublish } from './publisher-confirms.js';
import { type SaidElsewhere, itIs, refuseUnknown } from './option-names.js';
import { Queue } from './queue.js';

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

const REQUEST_OPTIONS = ['noWait', 'timeout', 'signal'];
const DECLARE_OPTIONS = ['passive', 'durable', 'autoDelete', 'arguments', ...REQUEST_OPTIONS];
const EXCHANGE_OPTIONS = [...DECLARE_OPTIONS, 'internal'];
const QUEUE_OPTIONS = [...DECLARE_OPTIONS, 'exclusive'];

/** What amqplib has options for, and the broker arguments. */
const ARGUMENTS_ELSEWHERE: SaidElsewhere = {
  alternateExchange: "Say arguments: { 'alternate-exchange': … }.",
  deadLetterExchange: "Say arguments: { 'x-dead-letter-exchange': … }.",
  deadLetterRoutingKey: "Say arguments: { 'x-dead-letter-routing-key': … }.",
  expires: "Say arguments: { 'x-expires': … }, in milliseconds.",
  messageTtl: "Say arguments: { 'x-message-ttl': … }, in milliseconds.",
  maxLength: "Say arguments: { 'x-max-length': … }.",
  maxPriority: "Say arguments: { 'x-max-priority': … }.",
  'x-': "Say arguments: { 'x-…': value }.",
};
const CONSUME_OPTIONS = ['consumerTag', 'noAck', 'exclusive', 'noLocal', 'arguments', ...REQUEST_OPTIONS];

/**
 * One channel of a connection, made by `connection.channel()`. Its methods have the specification's names. What the broker
 * refuses (403, 404, 405, 406) ends the channel, not the connection; the rejected promise says why.
 */
export class Channel extends EventEmitter<ChannelEvents> implements AsyncDisposable {
  readonly #core: ChannelCore;
  readonly #streams: MessageStreams;

  /** @internal Made by `Connection.channel()`. */
  constructor(core: ChannelCore) {
    super();
    this.#core = core;
    this.#streams = new MessageStreams(this);
    core.listener = {
      closed: (error) => {
        this.#streams.end(error);
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

  /** True once it is closed, by whomever; not yet while `close()` awaits the broker's answer. */
  get hasEnded(): boolean {
    return this.#core.hasEnded;
  }

  /** Why it ended; undefined while it is open, and when it was closed on purpose. */
  get endError(): AmqpError | undefined {
    return this.#core.endError;
  }

  /** True while the broker takes no publishes from this connection: memory or disk run low. */
  get isBlocked(): boolean {
    return this.#core.isBlocked;
  }

  /** How many publishes await their confirm. */
  get unconfirmedCount(): number {
    return this.#core.unconfirmedCount;
  }

  /** Resolves when every message delivered on this channel is answered, or the channel has ended. */
  async allSettled({ signal }: WaitOptions = {}): Promise<void> {
    await this.#core.deliveries.allSettled(signal);
  }

  // ── exchanges ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Declares an exchange, or with `passive` checks it. Rejects with 406 when it exists with other properties. */
  async exchangeDeclare(exchange: string, type: string, options: ExchangeDeclareOptions = {}): Promise<void> {
    refuseUnknown(options, EXCHANGE_OPTIONS, 'exchangeDeclare has no option', { elsewhere: ARGUMENTS_ELSEWHERE });
    const args = {
      exchange,
      type,
      passive: options.passive ?? false,
      durable: options.durable ?? true,
      autoDelete: options.autoDelete ?? false,
      internal: options.internal ?? false,
      noWait: options.noWait ?? false,
      arguments: options.arguments ?? {},
    };
    await this.#core.ask('exchange.declare', args, options);
  }

  /** Deletes an exchange; deleting one that does not exist is no error. With `ifUnused` only one without bindings. */
  async exchangeDelete(exchange: string, options: ExchangeDeleteOptions = {}): Promise<void> {
    const { ifUnused = false, noWait = false } = options;
    await this.#core.ask('exchange.delete', { exchange, ifUnused, noWait }, options);
  }

  /** Has `destination` receive what `source` routes under the key (https://www.rabbitmq.com/docs/e2e). */
  async exchangeBind(
    destination: string,
    source: string,
    routingKey = '',
    args: FieldTable = {},
    options: NoWaitOptions = {},
  ): Promise<void> {
    const noWait = options.noWait ?? false;
    await this.#core.ask('exchange.bind', { destination, source, routingKey, noWait, arguments: args }, options);
  }

  /** Undoes `exchangeBind`, with the same key and arguments. */
  async exchangeUnbind(
    destination: string,
    source: string,
    routingKey = '',
    args: FieldTable = {},
    options: NoWaitOptions = {},
  ): Promise<void> {
    const noWait = options.noWait ?? false;
    await this.#core.ask('exchange.unbind', { destination, source, routingKey, noWait, arguments: args }, options);
  }

  // ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Declares a queue, or with `passive` checks it. Without a name the broker makes one up: it is in the result. With `noWait`
   * it has to have a name, and the counts are 0.
   */
  async queueDeclare(
    queue = '',
    options: QueueDeclareOptions = {},
  ): Promise<{ readonly queue: string; readonly messageCount: number; readonly consumerCount: number }> {
    refuseUnknown(options, QUEUE_OPTIONS, 'queueDeclare has no option', { elsewhere: ARGUMENTS_ELSEWHERE });
    const unnamed = queue === '';
    const noWait = options.noWait ?? false;
    if (noWait && unnamed) {
      throw new AmqpError(
        'INVALID_ARGUMENT',
        'A queue declared with noWait needs a name: the one that the broker makes up would not be told.',
      );
    }
    const args = {
      queue,
      passive: options.passive ?? false,
      durable: options.durable ?? !unnamed,
      exclusive: options.exclusive ?? unnamed,
      autoDelete: options.autoDelete ?? unnamed,
      noWait,
      arguments: options.arguments ?? {},
    };
    const declared = await this.#core.ask('queue.declare', args, options);
    return declared ?? { queue, messageCount: 0, consumerCount: 0 };
  }

  /** Declares a queue like `queueDeclare`, and returns a handle on it: publish, bind, consume. */
  async queue(name?: string, options?: QueueDeclareOptions): Promise<Queue> {
    return new Queue(this, await this.queueDeclare(name, options));
  }

  /** Has the queue receive what the exchange routes under the key. */
  async queueBind(
    queue: string,
    exchange: string,
    routingKey = '',
    args: FieldTable = {},
    options: NoWaitOptions = {},
  ): Promise<void> {
    const noWait = options.noWait ?? false;
    await this.#core.ask('queue.bind', { queue, exchange, routingKey, noWait, arguments: args }, options);
  }

  /** Undoes `queueBind`, with the same key and arguments. */
  async queueUnbind(
    queue: string,
    exchange: string,
    routingKey = '',
    args: FieldTable = {},
    options?: RequestOptions,
  ): Promise<void> {
    await this.#core.request('queue.unbind', { queue, exchange, routingKey, arguments: args }, options);
  }

  /** Drops the messages that wait in a queue; resolves to how many there were, with `noWait` to 0. */
  async queuePurge(queue: string, options: NoWaitOptions = {}): Promise<number> {
    const noWait = options.noWait ?? false;
    return (await this.#core.ask('queue.purge', { queue, noWait }, options))?.messageCount ?? 0;
  }

  /** Deletes a queue; resolves to how many messages went with it, with `noWait` to 0. Deleting one that does not exist is no error. */
  async queueDelete(queue: string, options: QueueDeleteOptions = {}): Promise<number> {
    const { ifUnused = false, ifEmpty = false, noWait = false } = options;
    return (await this.#core.ask('queue.delete', { queue, ifUnused, ifEmpty, noWait }, options))?.messageCount ?? 0;
  }

  // ── consuming ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * How many unacknowledged messages each consumer started after this may hold, 0 for any number; with `global` all
   * consumers of the channel together, which RabbitMQ 4.3 no longer offers.
   */
  async basicQos(
    prefetchCount: number,
    { global = false, ...options }: RequestOptions & { readonly global?: boolean | undefined } = {},
  ): Promise<void> {
    await this.#core.request('basic.qos', { prefetchSize: 0, prefetchCount, global }, options);
  }

  /**
   * Starts a consumer; resolves to its tag. Messages may arrive before that. Without a callback they wait for the loop over
   * `consume()`. Rejects with `INVALID_ARGUMENT` over an `x-stream-offset` that RabbitMQ does not take.
   */
  async basicConsume(
    queue: string,
    consumer?: ConsumerCallbacks | ((message: Message) => unknown),
    options: ConsumeOptions = {},
  ): Promise<string> {
    refuseUnknown(options, CONSUME_OPTIONS, 'basicConsume has no option');
    const consumerTag = options.consumerTag ?? `nest-amqp.${randomUUID()}`;
    if (consumerTag === '' || this.#core.deliveries.hasConsumer(consumerTag)) {
      // The broker would close the whole connection over a tag used twice (530).
      throw new AmqpError(
        'INVALID_ARGUMENT',
        consumerTag === ''
          ? 'A consumer tag cannot be empty. Leave it out to have one made up.'
          : `The channel already has a consumer tagged ${quoted(consumerTag)}. Choose another tag.`,
      );
    }
    const wanted = consumer === undefined ? this.#streams.forConsumer(consumerTag) : consumer;
    const callbacks = typeof wanted === 'function' ? { onMessage: wanted } : wanted;
    // Found out at the first delivery, it would be too late.
    if (typeof (callbacks as Partial<ConsumerCallbacks> | null)?.onMessage !== 'function') {
      throw new AmqpError('INVALID_ARGUMENT', 'A consumer has to be a function, or an object with onMessage.');
    }
    checkStreamOffset(options.arguments, queue);
    const args = {
      queue,
      consumerTag,
      noLocal: options.noLocal ?? false,
      noAck: options.noAck ?? false,
      exclusive: options.exclusive ?? false,
      noWait: options.noWait ?? false,
      arguments: options.arguments ?? {},
    };
    await this.#core.deliveries.consume(callbacks, args, options);
    return consumerTag;
  }

  /**
   * Messages to loop over. With a queue it starts a consumer of its own when the loop begins; without one it is for the
   * consumers that `basicConsume` started without a callback. The loop ends when its consumer is cancelled, rejects when the
   * channel dies, and cancels when it is left; what was not yet handed out goes back to the queue.
   *
   * @example
   * ```ts
   * for await (const message of channel.consume('my_queue', { prefetch: 10 })) {
   *   console.log(message.consumerTag, message.deliveryTag, message.payload.toString());
   *   message.ack();
   * }
   * ```
   */
  consume(queue?: string, options: StreamOptions = {}): MessageStream {
    return queue === undefined ? this.#streams.ofAll(options.signal) : this.#streams.of(queue, options);
  }

  /** Ends a consumer. Messages that are on their way still arrive until this resolves; with `noWait` they go back when the channel closes. */
  async basicCancel(consumerTag: string, options: NoWaitOptions = {}): Promise<void> {
    await this.#core.deliveries.cancel(consumerTag, options);
    this.#streams.cancelled(consumerTag);
  }

  /** Fetches one message; undefined when the queue is empty. `messageCount` is how many are left behind it. */
  async basicGet(
    queue: string,
    options: GetOptions = {},
  ): Promise<{ readonly message: Message; readonly messageCount: number } | undefined> {
    return await this.#core.deliveries.get(queue, options.noAck ?? false, options);
  }

  /** Acknowledges a delivery, or with `multiple` all up to it. A tag that is not outstanding closes the channel (406). */
  basicAck(deliveryTag: number, { multiple = false }: { multiple?: boolean } = {}): void {
    this.#core.deliveries.answer('ack', deliveryTag, { multiple });
  }

  /** Gives a delivery (with `multiple` all up to it) back, or with `requeue: false` has it dead-lettered or dropped. */
  basicNack(
    deliveryTag: number,
    { multiple = false, requeue = true }: { multiple?: boolean; requeue?: boolean } = {},
  ): void {
    this.#core.deliveries.answer(requeue ? 'requeue' : 'discard', deliveryTag, { multiple });
  }

  /**
   * Has a delivery dead-lettered or dropped, or with `requeue: true` gives it back; that counts towards the delivery limit of
   * quorum queues on every RabbitMQ.
   */
  basicReject(deliveryTag: number, { requeue = false }: { requeue?: boolean } = {}): void {
    this.#core.deliveries.answer(requeue ? 'requeue' : 'discard', deliveryTag, { multiple: false, reject: true });
  }

  /** Has the broker deliver again everything that is unacknowledged on this channel. */
  async basicRecover(options?: RequestOptions): Promise<void> {
    await this.#core.deliveries.recover(options);
  }

  /** The same without an answer. The specification has deprecated it (basic.recover-async). */
  basicRecoverAsync(): void {
    this.#core.deliveries.recoverAsync();
  }

  // ── publishing ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Turns publisher confirms on, for good. The same channel comes back, typed so that publishing is a promise. */
  async confirmSelect(options?: RequestOptions): Promise<ConfirmChannel> {
    await this.#core.startConfirms(options);
    return this as ConfirmChannel;
  }

  /**
   * Resolves when everything that was published on this channel so far is confirmed. Rejects with the first of those
   * publishes' errors once all of them are settled, with `INVALID_ARGUMENT` on a channel without confirms. The promise of each
   * publish rejects all the same: give those that nobody awaits a `catch`.
   */
  async waitForConfirms(options?: RequestOptions): Promise<void> {
    await this.#core.waitForConfirms(options);
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

  /**
   * Replies to a request: publishes to its `replyTo` through the default exchange, with its `correlationId` byte for byte.
   * Resolves when the broker has confirmed, on a channel without confirms when it is time to go on. Rejects with
   * `INVALID_ARGUMENT` when the message has no `replyTo`.
   */
  async reply(message: Message, body: string | Uint8Array, options: ReplyOptions = {}): Promise<void> {
    const { replyTo, correlationId } = returnAddress(message);
    if ((await this.#core.publish('', replyTo, body, { ...options, correlationId })) === false) await this.drained();
  }

  /** @internal Publishes with the confirm told to `publish`. */
  publishFor(publish: UnconfirmedPublish, body: string | Uint8Array, options: PublishOptions): void {
    this.#core.publishFor(publish, body, options);
  }

  /** Resolves when the connection has taken what was written and it is time to go on. */
  async drained({ signal }: WaitOptions = {}): Promise<void> {
    await this.#core.drained(signal);
  }

  // ── transactions ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Starts transactions on this channel; it cannot have confirms as well. */
  async txSelect(options?: RequestOptions): Promise<void> {
    await this.#core.deliveries.startTransactions(options);
  }

  /** Makes what was published and acknowledged since the last commit count. */
  async txCommit(options?: RequestOptions): Promise<void> {
    await this.#core.request('tx.commit', {}, options);
  }

  /** Forgets what was published and acknowledged since the last commit. */
  async txRollback(options?: RequestOptions): Promise<void> {
    await this.#core.request('tx.rollback', {}, options);
  }

  // ── flow ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Asks the broker to send deliveries (specification, channel.flow). It is there for completeness: RabbitMQ takes `true`,
   * which changes nothing, and closes the connection over `false` (540), which is therefore refused here.
   */
  async flow(active: boolean, options?: RequestOptions): Promise<void> {
    if (!active) {
      throw new AmqpError(
        'INVALID_ARGUMENT',
        'RabbitMQ does not stop deliveries with channel.flow. Bound them with basicQos, or cancel the consumer.',
      );
    }
    await this.#core.request('channel.flow', { active }, options);
  }

  // ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Closes the channel; what is unacknowledged goes back to its queue. Resolves at the latest after the connection's
   * `closeTimeout`. Closing twice, or after an error, is no error.
   */
  async close(options?: CloseOptions): Promise<void> {
    await this.#core.close(options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The broker would close the whole connection over most of what it does not take (541). */
function checkStreamOffset(args: FieldTable | undefined, queue: string): void {
  const offset = args?.[STREAM_OFFSET];
  if (offset === undefined || isStreamOffset(offset)) return;
  throw new AmqpError(
    'INVALID_ARGUMENT',
    `arguments['${STREAM_OFFSET}'] of the consumer of queue ${quoted(queue)} has to be ${STREAM_OFFSETS}${itIs(offset)}`,
  );
}
