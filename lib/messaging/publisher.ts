/** Publishing with a known outcome: serialised, persistent, mandatory and confirmed. */
import { randomUUID } from 'node:crypto';
import { types } from 'node:util';
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { AmqpConnection } from '../client/amqp-connection.js';
import type { PublishOptions } from '../client/channel-options.js';
import { AmqpError } from '../errors.js';
import type { BasicProperties } from '../protocol/properties.js';
import { type Duration, milliseconds, timerMilliseconds } from '../time/duration.js';
import { compress, isUncompressed } from './content-encoding.js';
import { type InferInput, MessageContract, holdTo } from './message.js';
import { Serializers } from './serializer.js';

/** Defaults of a publisher. */
export interface PublisherOptions {
  /** Written to disk by the broker. @default true */
  readonly persistent?: boolean | undefined;
  /** A message that reaches no queue is an error. @default true */
  readonly mandatory?: boolean | undefined;
  /** Longest wait for the confirm, reconnecting included. @default '30s' */
  readonly timeout?: Duration | undefined;
  /** Set on every message as `appId`. */
  readonly appId?: string | undefined;
  /** How payloads are written, unless they are bytes: JSON, or what one of the `serializers` is for. @default 'application/json' */
  readonly contentType?: string | undefined;
}

/** Options of one message: its properties, and how it is published. */
export interface PublishMessageOptions extends Omit<BasicProperties, 'deliveryMode' | 'expiration'>, PublisherOptions {
  /** What it is compressed with, unless it is bytes, which may be already: `'gzip'`, `'deflate'` or `'br'`. @default none */
  readonly contentEncoding?: string | undefined;
  /** How long it may wait in a queue. */
  readonly expiration?: Duration | undefined;
  /** Ends the wait for the confirm. A message that has left may arrive all the same. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Publishes; every promise resolves when the broker has taken charge of the message. They reject with
 * - `UnroutableError`: no queue took it (and `mandatory` is on),
 * - `PublishNackedError`: the broker refused it, for a full queue for one,
 * - `PublishRefusedError`: the exchange does not exist, or is not open to this user,
 * - `PublishOutcomeUnknownError`: the channel was lost before the confirm, and the message may not be sent again,
 * - `PublisherBufferFullError`: there is no connection, and too many publishes wait for one,
 * - `InvalidPayloadError`: it is not what its contract says; nothing was sent,
 * - `UNSERIALIZABLE`, `INVALID_ARGUMENT`: nothing was sent,
 * - `ABORTED`: the deadline passed or the signal fired.
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

  constructor(channel: AmqpChannel, defaults: PublisherOptions = {}, serializers = new Serializers()) {
    this.#channel = channel;
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
    // The overloads have checked the types.
    if (target instanceof MessageContract)
      return this.#publishBy(target, key, payload as PublishMessageOptions | undefined);
    return this.#publish(target, key as string, payload, options as PublishMessageOptions | undefined);
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

  async #publish(
    exchange: string,
    routingKey: string,
    payload: unknown,
    options: PublishMessageOptions | undefined,
  ): Promise<void> {
    const isBytes = payload instanceof Uint8Array;
    const said = options?.contentType ?? (isBytes ? undefined : this.#defaults.contentType);
    const serialized = this.#serializers.serialize(payload, said);
    const { body: written, contentType } = types.isPromise(serialized) ? await serialized : serialized;
    const encoding = isBytes ? undefined : options?.contentEncoding;
    const body = encoding === undefined || isUncompressed(encoding) ? written : await compress(written, encoding);
    const message = options === undefined ? this.#plain(contentType) : this.#with(options, contentType);
    const timeout = options?.timeout === undefined ? this.#timeout : timerMilliseconds(options.timeout, 'timeout');
    try {
      await this.#channel.publish(exchange, routingKey, body, message, { signal: options?.signal, timeout });
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
    { expiration, persistent, timeout: _, signal: __, ...said }: PublishMessageOptions,
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

  /** Sends to a queue by its name, through the default exchange. */
  async sendToQueue(queue: string, payload: unknown, options?: PublishMessageOptions): Promise<void> {
    await this.publish('', queue, payload, options);
  }
}
