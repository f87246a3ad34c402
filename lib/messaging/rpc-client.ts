/**
 * Requests and what their replies come to: payloads out, values or the server's errors back. Channels, correlation and deadlines
 * are the client's `AmqpRequester`; what the headers of a reply mean is `reply-format`'s.
 */
import { inspect, types } from 'node:util';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { AmqpRequester, type RequestMessageOptions, type RequesterOptions } from '../client/amqp-requester.js';
import { DEFAULT_MAX_MESSAGE_SIZE } from '../client/connection-options.js';
import type { Message } from '../client/message.js';
import { type SaidElsewhere, namesOf, refuseUnknown } from '../client/option-names.js';
import { checkSignal, whenFired } from '../client/signals.js';
import { AmqpError, RemoteError, counted, destination, printable } from '../errors.js';
import type { BasicProperties } from '../protocol/properties.js';
import type { Duration } from '../time/duration.js';
import { Correlation } from './correlation.js';
import { type Decoder, decoderOf } from './decoder.js';
import { type InferInput, type InferReply, MessageContract, holdTo, validated } from './message.js';
import { bodyOf } from './message-body.js';
import { IncomingReplies, type ReplyObserver } from './incoming-replies.js';
import type { PublisherOptions } from './publish-options.js';
import { RefusedStreams } from './refused-streams.js';
import { WANTS_STREAM, errorIn } from './reply-format.js';
import { Serializers } from './serializer.js';
import { notText } from './target-checks.js';

/** Defaults of an `RpcClient`. */
export interface RpcOptions {
  /** How long a request waits for its reply that does not say. @default '30s' */
  readonly timeout?: Duration | undefined;
  /** Most requests that may await their reply. @default 10000 */
  readonly maxPending?: number | undefined;
}

/** What an `RpcClient` needs to know beside its defaults. */
export interface RpcClientOptions extends RpcOptions {
  /** Set on every request as `appId`. */
  readonly appId?: string | undefined;
  /** How payloads are written, unless they are bytes. @default 'application/json' */
  readonly contentType?: string | undefined;
  /** As of a publisher, headers only: see `PublisherOptions`. @default false */
  readonly carry?: PublisherOptions['carry'];
  readonly serializers?: Serializers | undefined;
  /** Largest body, in bytes, that a compressed reply may become. @default that of connections */
  readonly maxSize?: number | undefined;
  /** Is told of replies that nobody awaits, at most every ten seconds. */
  readonly log?: { warn(message: string): void } | undefined;
}

/** Options of one request: the message's properties, and how long to wait. */
export interface RpcRequestOptions extends Omit<BasicProperties, 'deliveryMode' | 'expiration' | 'replyTo'> {
  /**
   * From the call to the reply, the wait for a connection included; the request expires with it. 0 is over at once: there is no wait
   * without an end. @default that of the client
   */
  readonly timeout?: Duration | undefined;
  /** Ends the wait. A request that was sent may be carried out all the same. */
  readonly signal?: AbortSignal | undefined;
  /** Written to disk by the broker; the reply would have nowhere to come after its restart. @default false */
  readonly persistent?: boolean | undefined;
}

const REQUEST_OPTIONS = namesOf<RpcRequestOptions>({
  timeout: true,
  signal: true,
  persistent: true,
  appId: true,
  contentEncoding: true,
  contentType: true,
  correlationId: true,
  headers: true,
  messageId: true,
  priority: true,
  timestamp: true,
  type: true,
  userId: true,
  clusterId: true,
});

/** What a request is told by those who come from other libraries. */
const REQUEST_ELSEWHERE: SaidElsewhere = {
  expiration: 'Say timeout: the request expires with it.',
  deliveryMode: 'Say persistent: true or false.',
  replyTo: 'The client has a place for replies: leave it out.',
  mandatory: 'Every request is: leave it out.',
  publishOptions: 'Its fields stand beside timeout.',
  'x-': 'Say headers: { … }.',
};

/** Where a request for all values goes, and the contract that it is made by. */
export interface StreamTarget {
  readonly exchange: string;
  readonly routingKey: string;
  readonly contract?: MessageContract | undefined;
}

/** Between two lines of the log about replies that nobody awaits, in milliseconds. */
const TELL_INTERVAL = 10_000;

/**
 * Sends requests and resolves to the values of their replies. Promises reject with
 * - `RemoteError`: the server answered with an error,
 * - `UnroutableError`: no queue took the request; `PublishNackedError`: one refused it, as when it is full,
 * - `PublishRefusedError`: the exchange does not exist, or is not open to this user,
 * - `REPLY_TIMEOUT`: no reply came in time; `ABORTED`: the signal fired,
 * - `REPLY_LOST`: connection or channel ended before the reply came; the request may have been carried out, and is not sent again,
 * - `UNDECODABLE`: the reply cannot be read; `MESSAGE_TOO_LARGE`: it, or the request, is larger than what is taken,
 * - `REQUEST_LIMIT`: too many requests await their reply; `CHANNEL_CLOSED`: the client was closed,
 * - `UNSERIALIZABLE`, `INVALID_ARGUMENT`, `INVALID_OPTION`: nothing was sent.
 */
export class RpcClient implements AsyncDisposable {
  readonly #requester: AmqpRequester;
  readonly #options: RpcClientOptions;
  readonly #serializers: Serializers;
  readonly #decode: Decoder;
  readonly #correlation: Correlation | undefined;
  readonly #refused: RefusedStreams;
  #toldAt = -Infinity;
  #untold = 0;

  /** Throws `INVALID_OPTION`. */
  constructor(connection: AmqpConnection, options: RpcClientOptions = {}) {
    const { timeout, maxPending, serializers = new Serializers(), maxSize = DEFAULT_MAX_MESSAGE_SIZE } = options;
    this.#options = options;
    this.#serializers = serializers;
    this.#correlation = Correlation.of(options.carry);
    this.#decode = decoderOf({ serializers, maxSize });
    this.#requester = new AmqpRequester(connection, {
      timeout,
      maxPending,
      onUnexpectedReply: (reply) => {
        // More of a stream come always: until its server has heard that it is to stop.
        if (!this.#refused.refuseUnexpected(reply)) this.#tellUnexpected();
      },
    } satisfies RequesterOptions);
    this.#refused = new RefusedStreams((address, properties) => this.#requester.tell(address, properties));
  }

  /** How many requests await their reply. */
  get pendingCount(): number {
    return this.#requester.pendingCount;
  }

  /** Sends a request to an exchange, and resolves to what its server returned. `T` is the caller's word for what that is. */
  async request<T = unknown>(
    exchange: string,
    routingKey: string,
    payload: unknown,
    options?: RpcRequestOptions,
  ): Promise<T>;
  /**
   * Sends a request by its contract, and resolves to what the contract's `reply` makes of the answer. A payload that does not fit is
   * not sent: `INVALID_PAYLOAD`, as for an answer that does not.
   */
  async request<Contract extends MessageContract>(
    contract: Contract,
    payload: InferInput<Contract>,
    options?: RpcRequestOptions,
  ): Promise<InferReply<Contract>>;
  async request(
    target: string | MessageContract,
    key: unknown,
    payload?: unknown,
    options?: unknown,
  ): Promise<unknown> {
    // The overloads have checked the types, of those who have a compiler.
    if (target instanceof MessageContract)
      return await this.#requestBy(target, key, payload as RpcRequestOptions | undefined);
    if (typeof target !== 'string' || typeof key !== 'string')
      throw notText({ exchange: target, routingKey: key }, 'request(exchange, routingKey, payload, options)');
    return await this.#request(target, key, payload, options as RpcRequestOptions | undefined);
  }

  async #requestBy(
    contract: MessageContract,
    payload: unknown,
    options: RpcRequestOptions | undefined,
  ): Promise<unknown> {
    const { exchange, routingKey } = contract;
    await holdTo(contract, payload);
    return await heldReply(contract, await this.#request(exchange, routingKey, payload, options));
  }

  async #request(
    exchange: string,
    routingKey: string,
    payload: unknown,
    options: RpcRequestOptions = {},
  ): Promise<unknown> {
    const { body, message } = await this.#written(payload, options);
    const reply = await this.#requester.request(exchange, routingKey, body, message);
    return await this.#valueOf(reply, exchange, routingKey);
  }

  /** Sends a request to a queue by its name, through the default exchange. */
  async requestToQueue<T = unknown>(queue: string, payload: unknown, options?: RpcRequestOptions): Promise<T> {
    if (typeof (queue as unknown) !== 'string') throw notText({ queue }, 'requestToQueue(queue, payload, options)');
    return await this.request<T>('', queue, payload, options);
  }

  /**
   * Sends a request for all values of a handler that has many; the function returned stops it, and asks the server to stop. The
   * timeout is how long each reply may be waited for. The payload and every value are held to the contract, where there is one.
   */
  protected stream<T>(
    { exchange, routingKey, contract }: StreamTarget,
    payload: unknown,
    given: RpcRequestOptions,
    observer: ReplyObserver<T>,
  ): () => void {
    if (typeof (exchange as unknown) !== 'string' || typeof (routingKey as unknown) !== 'string')
      throw notText({ exchange, routingKey }, 'request$(exchange, routingKey, payload, options)');
    checkRequestOptions(given);
    const { signal, ...options } = given;
    const replies = new IncomingReplies({
      exchange,
      routingKey,
      valueOf: (reply) => {
        const value = this.#valueOf(reply, exchange, routingKey);
        if (contract === undefined) return value;
        return types.isPromise(value) ? value.then((read) => heldReply(contract, read)) : heldReply(contract, value);
      },
      refused: this.#refused,
      // The caller's word for what comes.
      observer: observer,
    });
    const onAbort = (): void => {
      replies.fail(new AmqpError('ABORTED', 'The wait for replies was aborted.', { cause: signal?.reason }));
      replies.stop();
    };
    if (signal?.aborted === true) onAbort();
    const unlisten = signal && whenFired(signal, onAbort);
    const stop = (): void => {
      unlisten?.();
      replies.stop();
    };
    const headers = { ...options.headers, ...WANTS_STREAM };
    const target = { exchange, routingKey, contract };
    void this.#stream(target, payload, { ...options, headers }, replies).finally(() => unlisten?.());
    return stop;
  }

  async #stream(
    { exchange, routingKey, contract }: StreamTarget,
    payload: unknown,
    options: RpcRequestOptions,
    replies: IncomingReplies,
  ): Promise<void> {
    try {
      if (contract !== undefined) await holdTo(contract, payload);
      const { body, message } = await this.#written(payload, options);
      const { signal } = replies;
      await this.#requester.requestMany(exchange, routingKey, body, { ...message, signal }, (reply) =>
        replies.receive(reply),
      );
    } catch (error) {
      replies.fail(error);
      replies.stop();
    }
  }

  /** Rejects what is pending with `CHANNEL_CLOSED`, and closes its channels. Closing twice is no error. */
  async close(): Promise<void> {
    await this.#requester.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #written(
    payload: unknown,
    options: RpcRequestOptions,
  ): Promise<{ readonly body: string | Uint8Array; readonly message: RequestMessageOptions }> {
    checkRequestOptions(options);
    const { persistent = false, ...said } = this.#correlation?.carriedToRequest(options) ?? options;
    const written = bodyOf(this.#serializers, payload, said, this.#options.contentType);
    const { body, contentType } = types.isPromise(written) ? await written : written;
    const message: RequestMessageOptions = {
      ...said,
      contentType,
      deliveryMode: persistent ? 2 : 1,
      timestamp: said.timestamp ?? Math.floor(Date.now() / 1000),
      appId: said.appId ?? this.#options.appId,
    };
    return { body, message };
  }

  /** Throws, or rejects with, the server's error, and `UNDECODABLE`. */
  #valueOf(reply: Message, exchange: string, routingKey: string): unknown {
    const remote = errorIn(reply);
    if (remote !== undefined) throw new RemoteError(exchange, routingKey, remote);
    // What a handler that returns nothing is answered with.
    if (reply.size === 0 && reply.properties.contentType === undefined) return undefined;
    let value: unknown;
    try {
      value = this.#decode(reply);
    } catch (error) {
      throw unreadable(error, exchange, routingKey);
    }
    if (!types.isPromise(value)) return value;
    return value.catch((error: unknown) => {
      throw unreadable(error, exchange, routingKey);
    });
  }

  /** Requesters that come and go leave many of them: late ones, those of requests that were aborted. */
  #tellUnexpected(): void {
    this.#untold += 1;
    const now = performance.now();
    if (this.#options.log === undefined || now - this.#toldAt < TELL_INTERVAL) return;
    const count = this.#untold;
    this.#toldAt = now;
    this.#untold = 0;
    this.#options.log.warn(
      `${counted(count, 'reply was', 'replies were')} dropped that nobody awaits: late, or with an unknown correlation id.`,
    );
  }
}

/** Throws `INVALID_OPTION`, past the compiler too. The properties are the wire's to check. */
function checkRequestOptions(options: RpcRequestOptions): void {
  if (typeof options !== 'object' || (options as unknown) === null) {
    const said = printable(inspect(options), 60);
    throw new AmqpError('INVALID_OPTION', `The options of a request have to be an object, not ${said}.`);
  }
  refuseUnknown(options, REQUEST_OPTIONS, 'A request has no option', { elsewhere: REQUEST_ELSEWHERE });
  checkSignal(options.signal, 'a request');
}

/** What is said of a body alone, with the request that it is the reply to. */
function unreadable(error: unknown, exchange: string, routingKey: string): unknown {
  if (!(error instanceof AmqpError) || error.code !== 'UNDECODABLE') return error;
  const text = `The reply of ${destination(exchange, routingKey)} cannot be read. ${error.message}`;
  return new AmqpError('UNDECODABLE', text, { cause: error.cause });
}

/** What the contract's `reply` makes of a value. Throws, or rejects with, `INVALID_PAYLOAD`. */
function heldReply({ reply, exchange, routingKey }: MessageContract, value: unknown): unknown {
  return reply === undefined ? value : validated(reply, value, `The reply of ${destination(exchange, routingKey)}`);
}
