/** Publishing with a known outcome: serialised, persistent, mandatory and confirmed. */
import { randomUUID } from 'node:crypto';
import { types } from 'node:util';
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { AmqpConnection } from '../client/amqp-connection.js';
import type { PublishOptions } from '../client/channel-options.js';
import { AmqpError } from '../errors.js';
import { milliseconds, timerMilliseconds } from '../time/duration.js';
import { DelayedPublishes } from './delayed-publishes.js';
import { Correlation } from './correlation.js';
import { type InferInput, MessageContract, holdTo } from './message.js';
import { bodyOf } from './message-body.js';
import { InterceptedPublish, type PublishInterceptors } from './intercepted-publish.js';
import { type PublishMessageOptions, type PublisherOptions, checkMessageOptions } from './publish-options.js';
import { type PublishAllOptions, PublishRun, runOptions } from './publish-run.js';
import { Serializers } from './serializer.js';
import { notText } from './target-checks.js';

const PUBLISH = 'publish(exchange, routingKey, payload, options)';
const PUBLISH_ALL = 'publishAll(exchange, routingKey, payloads, options)';

/** The routing key of all payloads of a `publishAll`, or of each. */
type RoutingKeyOf = string | ((payload: unknown) => string);

/** Publishes to one exchange, see `AmqpPublisher.to`. */
export interface ExchangePublisher {
  readonly exchange: string;
  /** See `AmqpPublisher.publish`. */
  publish(routingKey: string, payload: unknown, options?: PublishMessageOptions): Promise<void>;
}

/**
 * Publishes; every promise resolves when the broker has taken charge of the message. They reject with
 * - `UnroutableError`: no queue took it (and `mandatory` is on); `MESSAGE_TOO_LARGE`: the broker takes none so large,
 * - `PublishNackedError`: the broker refused it, for a full queue for one,
 * - `PublishRefusedError`: the exchange does not exist, or is not open to this user; or a property is refused,
 * - `PublishOutcomeUnknownError`: the channel was lost before the confirm, and the message may not be sent again,
 * - `PublisherBufferFullError`: too many publishes wait already, for a connection or for confirms,
 * - `InvalidPayloadError`: it is not what its contract says; nothing was sent,
 * - `UNSERIALIZABLE`, `INVALID_ARGUMENT`: nothing was sent,
 * - `ABORTED`: the deadline passed or the signal fired; `NOT_PUBLISHED`: an interceptor neither handed it on nor threw.
 *
 * `contentType`, `messageId` (a UUID) and `timestamp` are set unless given.
 *
 * @example
 * ```ts
 * await publisher.publish('orders', 'order.placed', { id: 7 });
 * await publisher.publish(OrderPlaced, { id: 7 }); // by contract, see `message()`
 * await publisher.sendToQueue('billing', { id: 7 }, { priority: 5 });
 * ```
 */
export class AmqpPublisher {
  readonly #channel: AmqpChannel;
  readonly #defaults: PublisherOptions;
  readonly #serializers: Serializers;
  readonly #timeout: number;
  readonly #delayed: DelayedPublishes;
  readonly #correlation: Correlation | undefined;
  readonly #interceptors: PublishInterceptors | undefined;

  /** Throws `INVALID_OPTION`. */
  constructor(
    channel: AmqpChannel,
    defaults: PublisherOptions = {},
    serializers = new Serializers(),
    interceptors?: PublishInterceptors,
  ) {
    this.#channel = channel;
    this.#delayed = new DelayedPublishes(channel);
    this.#correlation = Correlation.of(defaults.carry);
    this.#interceptors = interceptors;
    this.#defaults = defaults;
    this.#serializers = serializers;
    this.#timeout = timerMilliseconds(defaults.timeout ?? '30s', 'publisher.timeout');
  }

  /** The connection that it publishes over: its `status`, its `metrics`. */
  get connection(): AmqpConnection {
    return this.#channel.connection;
  }

  /** Publishes to an exchange. */
  publish(exchange: string, routingKey: string, payload: unknown, options?: PublishMessageOptions): Promise<void>;
  /** Publishes by a contract. A payload that does not fit is not sent: `InvalidPayloadError`. */
  publish<Contract extends MessageContract>(
    contract: Contract,
    payload: InferInput<Contract>,
    options?: PublishMessageOptions,
  ): Promise<void>;
  publish(target: string | MessageContract, key: unknown, payload?: unknown, options?: unknown): Promise<void> {
    // The overloads have checked the types, of those who have a compiler.
    if (target instanceof MessageContract)
      return this.#publishBy(target, key, payload as PublishMessageOptions | undefined);
    if (typeof target !== 'string' || typeof key !== 'string')
      return Promise.reject(notText({ exchange: target, routingKey: key }, PUBLISH));
    return this.#publish(target, key, payload, options as PublishMessageOptions | undefined);
  }

  async #publishBy(
    contract: MessageContract,
    payload: unknown,
    options: PublishMessageOptions | undefined,
  ): Promise<void> {
    const checked = holdTo(contract, payload);
    if (types.isPromise(checked)) await checked;
    await this.#publish(contract.exchange, contract.routingKey, payload, options);
  }

  #publish(
    exchange: string,
    routingKey: string,
    payload: unknown,
    given: PublishMessageOptions | undefined,
  ): Promise<void> {
    const options = this.#correlation === undefined ? given : this.#correlation.carriedTo(given);
    if (this.#interceptors === undefined) return this.#send(exchange, routingKey, payload, options);
    return this.#intercepted(this.#interceptors, exchange, routingKey, payload, options);
  }

  async #intercepted(
    interceptors: PublishInterceptors,
    exchange: string,
    routingKey: string,
    payload: unknown,
    options: PublishMessageOptions = {},
  ): Promise<void> {
    checkMessageOptions(options);
    const publish = new InterceptedPublish(this.#boundsOf(options), (last) =>
      this.#send(last.exchange, last.routingKey, last.payload, last.options),
    );
    await publish.past(interceptors, { exchange, routingKey, payload, options });
  }

  #boundsOf(options: PublishMessageOptions | undefined): { signal: AbortSignal | undefined; timeout: number } {
    const timeout = options?.timeout === undefined ? this.#timeout : timerMilliseconds(options.timeout, 'timeout');
    return { signal: options?.signal, timeout };
  }

  async #send(
    exchange: string,
    routingKey: string,
    payload: unknown,
    options: PublishMessageOptions | undefined,
  ): Promise<void> {
    if (options !== undefined) checkMessageOptions(options);
    const written = bodyOf(this.#serializers, payload, options, this.#defaults.contentType);
    const { body, contentType } = types.isPromise(written) ? await written : written;
    const message = options === undefined ? this.#plain(contentType) : this.#with(options, contentType);
    const bounds = this.#boundsOf(options);
    try {
      if (options?.delay === undefined) await this.#channel.publish(exchange, routingKey, body, message, bounds);
      else await this.#delayed.publish(options.delay, { exchange, routingKey }, body, message, bounds);
    } catch (error) {
      // The error was made where the bytes came in; the stack that helps is the caller's.
      if (error instanceof AmqpError) Error.captureStackTrace(error);
      throw error;
    }
  }

  /** The options of a message about which nothing was said, as most are: in one piece, where `#with` puts them together. */
  #plain(contentType: string): PublishOptions {
    const { mandatory = true, persistent = true, appId } = this.#defaults;
    return {
      contentType,
      deliveryMode: persistent ? 2 : 1,
      messageId: randomUUID(),
      timestamp: Math.floor(Date.now() / 1000),
      appId,
      mandatory,
    };
  }

  #with(
    { expiration, persistent, timeout: _, signal: __, delay: ___, ...said }: PublishMessageOptions,
    contentType: string,
  ): PublishOptions {
    const plain = this.#plain(contentType);
    return {
      ...plain,
      ...said,
      // Given as undefined is not given.
      contentType: plain.contentType,
      messageId: said.messageId ?? plain.messageId,
      timestamp: said.timestamp ?? plain.timestamp,
      appId: said.appId ?? plain.appId,
      mandatory: said.mandatory ?? plain.mandatory,
      // The broker reads whole milliseconds only.
      expiration: expiration === undefined ? undefined : String(Math.round(milliseconds(expiration, 'expiration'))),
      deliveryMode: persistent === undefined ? plain.deliveryMode : persistent ? 2 : 1,
    };
  }

  /**
   * Publishes all payloads of a source, which may be endless: it is asked for more as the broker confirms. Resolves to their number
   * when all are confirmed. Ends at the first that fails, or when the signal fires, with `PublishAllError`, which says how many are
   * confirmed; throws `INVALID_OPTION` and `INVALID_ARGUMENT`. The routing key may depend on the payload.
   *
   * @example
   * ```ts
   * await publisher.publishAll('orders', ({ kind }) => `order.${kind}`, readOrders(), { progress: ({ confirmed }) => bar.set(confirmed) });
   * ```
   */
  publishAll<T>(
    exchange: string,
    routingKey: string | ((payload: T) => string),
    payloads: Iterable<T> | AsyncIterable<T>,
    options?: PublishAllOptions,
  ): Promise<number>;
  /** Publishes all payloads of a source by a contract. */
  publishAll<Contract extends MessageContract>(
    contract: Contract,
    payloads: Iterable<InferInput<Contract>> | AsyncIterable<InferInput<Contract>>,
    options?: PublishAllOptions,
  ): Promise<number>;
  async publishAll(target: string | MessageContract, ...given: unknown[]): Promise<number> {
    // The overloads have checked the types.
    if (target instanceof MessageContract) {
      const [payloads, options = {}] = given as [Iterable<unknown>, PublishAllOptions?];
      const { run, each } = runOptions(options);
      return await new PublishRun((payload) => this.publish(target, payload, each), run).of(payloads);
    }
    const [routingKey, payloads, options = {}] = given as [RoutingKeyOf, Iterable<unknown>, PublishAllOptions?];
    const keyOf = typeof routingKey === 'function' ? routingKey : () => routingKey;
    if (typeof target !== 'string' || (keyOf !== routingKey && typeof routingKey !== 'string'))
      throw notText({ exchange: target, routingKey }, PUBLISH_ALL);
    const { run, each } = runOptions(options);
    // A key that cannot be made fails its message.
    const publish = async (payload: unknown): Promise<void> => {
      const key: unknown = keyOf(payload);
      if (typeof key !== 'string') throw notText({ routingKey: key }, PUBLISH_ALL);
      await this.publish(target, key, payload, each);
    };
    return await new PublishRun(publish, run).of(payloads);
  }

  /** A handle that publishes to one exchange. Throws `INVALID_ARGUMENT`. */
  to(exchange: string): ExchangePublisher {
    if (typeof (exchange as unknown) !== 'string') throw notText({ exchange }, 'to(exchange)');
    return {
      exchange,
      publish: (routingKey, payload, options) =>
        typeof (routingKey as unknown) === 'string'
          ? this.publish(exchange, routingKey, payload, options)
          : Promise.reject(notText({ routingKey }, 'publish(routingKey, payload, options)')),
    };
  }

  /** Sends to a queue by its name, through the default exchange. */
  async sendToQueue(queue: string, payload: unknown, options?: PublishMessageOptions): Promise<void> {
    if (typeof (queue as unknown) !== 'string') throw notText({ queue }, 'sendToQueue(queue, payload, options)');
    await this.publish('', queue, payload, options);
  }
}
