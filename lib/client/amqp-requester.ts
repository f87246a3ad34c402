/**
 * Requests and their replies by direct reply-to, without a queue for the replies
 * (https://www.rabbitmq.com/docs/direct-reply-to): who awaits a reply, until when, and how many may. What is in the bodies
 * is the caller's.
 */
import { randomBytes } from 'node:crypto';
import { AmqpError, destination } from '../errors.js';
import { itIs } from './option-names.js';
import type { AmqpConnection } from './amqp-connection.js';
import type { PublishOptions } from './channel-options.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';
import type { Message } from './message.js';
import { type PendingRequest, ReplyChannel } from './reply-channel.js';
import { checkSignal, whenFired } from './signals.js';

/** Options of `AmqpRequester`. */
export interface RequesterOptions {
  /** How long a request waits that does not say. @default '30s' */
  readonly timeout?: Duration | undefined;
  /** Most requests that may await their reply. @default 10000 */
  readonly maxPending?: number | undefined;
  /** Called with each reply that nobody awaits, which is then dropped. It must not throw. */
  readonly onUnexpectedReply?: ((reply: Message) => void) | undefined;
}

/** Options of `request`: the message's properties, and how long to wait. */
export interface RequestMessageOptions extends Omit<PublishOptions, 'expiration' | 'mandatory' | 'replyTo'> {
  /**
   * From the call to the reply, the wait for a connection included; the message expires with it. 0 is over at once: there is no wait
   * without an end. @default that of the requester
   */
  readonly timeout?: Duration | undefined;
  /** Ends the wait. A request that was sent may be carried out all the same. */
  readonly signal?: AbortSignal | undefined;
  /** Unique among the requests that await a reply. @default made up */
  readonly correlationId?: string | undefined;
}

/** How a reply counts for a request that has many: as its last, as one of them, or not, so that they are awaited as before. */
export type ReplyCounts = 'last' | 'more' | 'not';

/** From so many exchanges on, the channel of one that awaits nothing is closed for the next. */
const ENOUGH_CHANNELS = 16;

/**
 * Sends requests and resolves to their replies, on whatever connection is open.
 *
 * Requests to one exchange share a channel, those to another have their own: over an exchange that is not there the broker
 * closes the channel, and every reply that would have come to it is lost.
 *
 * @example
 * ```ts
 * const requester = new AmqpRequester(connection);
 * const reply = await requester.request('', 'prices', 'apples', { timeout: '2s' });
 * console.log(reply.body.toString());
 * ```
 */
export class AmqpRequester implements AsyncDisposable {
  readonly #connection: AmqpConnection;
  readonly #timeout: number;
  readonly #maxPending: number;
  readonly #onUnexpectedReply: ((reply: Message) => void) | undefined;
  readonly #channels = new Map<string, ReplyChannel>();
  readonly #life = new AbortController();
  /** Before the count in every id: random once, so that a request costs no random number of its own. */
  readonly #prefix = randomBytes(9).toString('base64url');
  #requests = 0;
  #pending = 0;
  #unexpectedReplies = 0;

  /** Throws `INVALID_OPTION`. */
  constructor(connection: AmqpConnection, options: RequesterOptions = {}) {
    const { timeout = '30s', maxPending = 10_000, onUnexpectedReply } = options;
    this.#connection = connection;
    this.#timeout = timerMilliseconds(timeout, 'timeout');
    if (!Number.isInteger(maxPending) || maxPending < 1) {
      throw new AmqpError('INVALID_OPTION', `maxPending has to be an integer of 1 or more${itIs(maxPending)}`);
    }
    this.#maxPending = maxPending;
    this.#onUnexpectedReply = onUnexpectedReply;
  }

  /** How many requests await their reply. */
  get pendingCount(): number {
    return this.#pending;
  }

  /** How many replies came that nobody awaited: late, twice, with an unknown correlation id or without one. They are dropped. */
  get unexpectedReplies(): number {
    return this.#unexpectedReplies;
  }

  /**
   * Sends a request and resolves to its reply. While there is no connection, or the broker blocks it, it waits. Rejects with
   * - `UnroutableError`: no queue took it,
   * - `PublishRefusedError`: the exchange does not exist, or is not open to this user; or a property is refused,
   * - `PublishNackedError`: the broker did not take charge of it, as for a queue that is full,
   * - `REPLY_TIMEOUT`: no reply came in time; `ABORTED`: the signal fired,
   * - `REPLY_LOST`: connection or channel ended before the reply came; the request may have been carried out,
   * - `REQUEST_LIMIT`: `maxPending` requests await their reply; `CHANNEL_CLOSED`: the requester was closed,
   * - `INVALID_ARGUMENT`, `INVALID_OPTION`: it cannot be sent as it is.
   *
   * The body must not change before the reply has come.
   */
  async request(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options?: RequestMessageOptions,
  ): Promise<Message> {
    return await this.requestMany(exchange, routingKey, body, options);
  }

  /**
   * @internal A request that is replied to until `take` says so, which must not throw; resolves to that reply. The timeout is that
   * of each that is counted.
   */
  async requestMany(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    { timeout, signal, ...properties }: RequestMessageOptions = {},
    take?: (reply: Message) => ReplyCounts,
  ): Promise<Message> {
    this.#life.signal.throwIfAborted();
    checkSignal(signal, 'a request');
    const limit = timeout === undefined ? this.#timeout : timerMilliseconds(timeout, 'timeout');
    if (this.#pending >= this.#maxPending) throw tooMany(this.#maxPending);
    const correlationId = properties.correlationId ?? this.#nextId();
    const deadline = performance.now() + limit;
    let stopWaiting: () => void = () => undefined;
    this.#pending += 1;
    try {
      return await new Promise<Message>((resolve, reject) => {
        const message = { exchange, routingKey, body, properties, correlationId };
        const progress = { sentOn: undefined, isConfirmed: false };
        const isLast =
          take &&
          ((reply: Message): boolean => {
            const counts = take(reply);
            if (counts !== 'not') timer.refresh();
            return counts === 'last';
          });
        const request: PendingRequest = { ...message, deadline, ...progress, isLast, resolve, reject };
        if (signal?.aborted === true) throw aborted(request, signal.reason);
        const channel = this.#channelFor(exchange);
        channel.request(request);
        const giveUp = (error: AmqpError): void => {
          channel.forget(request);
          reject(error);
        };
        // One timer for each: Node.js keeps those of one length in one list, so that most cost a link and no more.
        const timer = setTimeout(() => {
          giveUp(timedOut(request, limit));
        }, limit);
        const unlisten =
          signal &&
          whenFired(signal, () => {
            giveUp(aborted(request, signal.reason));
          });
        stopWaiting = () => {
          clearTimeout(timer);
          unlisten?.();
        };
      });
    } catch (error) {
      // The error was made where the bytes came in; the stack that helps is the caller's.
      if (error instanceof AmqpError) Error.captureStackTrace(error);
      throw error;
    } finally {
      this.#pending -= 1;
      stopWaiting();
    }
  }

  /** @internal Says something to whoever replied, over whatever channel is open. Says whether one was. */
  tell(address: string, properties: PublishOptions): boolean {
    for (const channel of this.#channels.values()) if (channel.tell(address, properties)) return true;
    return false;
  }

  /** Rejects what is pending with `CHANNEL_CLOSED` and closes the channels. The connection stays. Closing twice is no error. */
  async close(): Promise<void> {
    if (this.#life.signal.aborted) return;
    this.#life.abort(closed('The requester was closed with close().'));
    const channels = [...this.#channels.values()];
    this.#channels.clear();
    const why = (request: PendingRequest): AmqpError =>
      closed(ending(request, 'the requester was closed with close()'));
    await Promise.all(channels.map((channel) => channel.close(why)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #nextId(): string {
    this.#requests += 1;
    return `${this.#prefix}.${this.#requests.toString(36)}`;
  }

  #channelFor(exchange: string): ReplyChannel {
    const known = this.#channels.get(exchange);
    if (known !== undefined) return known;
    if (this.#channels.size >= ENOUGH_CHANNELS) this.#closeIdle();
    const channel = new ReplyChannel(this.#connection, this.#life.signal, (reply) => {
      this.#unexpectedReplies += 1;
      this.#onUnexpectedReply?.(reply);
    });
    this.#channels.set(exchange, channel);
    return channel;
  }

  #closeIdle(): void {
    for (const [exchange, channel] of this.#channels) {
      if (!channel.isIdle) continue;
      this.#channels.delete(exchange);
      void channel.close();
      return;
    }
  }
}

function timedOut(request: PendingRequest, limit: number): AmqpError {
  const why = request.sentOn === undefined ? 'no connection took it' : 'none came';
  return new AmqpError('REPLY_TIMEOUT', ending(request, `${why} within ${limit} ms`));
}

function aborted(request: PendingRequest, cause: unknown): AmqpError {
  return new AmqpError('ABORTED', ending(request, 'it was aborted'), { cause });
}

function closed(message: string): AmqpError {
  return new AmqpError('CHANNEL_CLOSED', message, { closedBy: 'client' });
}

function tooMany(maxPending: number): AmqpError {
  return new AmqpError(
    'REQUEST_LIMIT',
    `The request was not sent: ${maxPending} requests await their reply already (maxPending). Wait for some of them, or let ` +
      'more of them wait.',
  );
}

/** How a request ended that was no longer awaited. */
function ending({ exchange, routingKey, sentOn }: PendingRequest, why: string): string {
  return (
    `The request to ${destination(exchange, routingKey)} ended without a reply: ${why}. ` +
    (sentOn === undefined ? 'It was not sent.' : 'Whether it was carried out is unknown.')
  );
}
