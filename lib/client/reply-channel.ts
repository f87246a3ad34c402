/**
 * The requests to one exchange: the channel on which they are sent and to which their replies come, and which of them await
 * one. It opens when there is a request and no channel, and sends while the broker takes what is published. Deadlines,
 * signals and limits are the requester's.
 *
 * The broker knows where a direct reply goes by the channel that published the request
 * (https://www.rabbitmq.com/docs/direct-reply-to): the reply to a request whose channel has ended has nowhere to come.
 */
import { AmqpError, PublishNackedError, PublishOutcomeUnknownError, destination, factsOf } from '../errors.js';
import type { AmqpConnection } from './amqp-connection.js';
import type { ConfirmChannel } from './channel.js';
import type { PublishOptions } from './channel-options.js';
import { ChannelRenewal } from './channel-renewal.js';
import type { Connection } from './connection.js';
import type { Message } from './message.js';
import { ended, unblocked } from './wait.js';

const DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to';

/** A request that awaits its reply. */
export interface PendingRequest {
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: string | Uint8Array;
  readonly properties: PublishOptions;
  readonly correlationId: string;
  /** When its requester stops waiting, by `performance.now()`. */
  readonly deadline: number;
  /** Undefined while it waits to be sent. */
  sentOn: ConfirmChannel | undefined;
  /** The broker has confirmed it. */
  isConfirmed: boolean;
  /** Whether no more replies are awaited after this one. Undefined: the first is the last. */
  readonly isLast: ((reply: Message) => boolean) | undefined;
  readonly resolve: (reply: Message) => void;
  readonly reject: (error: unknown) => void;
}

export class ReplyChannel {
  readonly #connection: AmqpConnection;
  readonly #life: AbortSignal;
  readonly #onUnexpectedReply: (reply: Message) => void;
  /** By the bytes of the correlation id. */
  readonly #pending = new Map<string, PendingRequest>();
  #opened: { readonly connection: Connection; readonly channel: ConfirmChannel } | undefined;
  readonly #renewal = new ChannelRenewal();
  /** Those before it, for as long as replies are to come over them. */
  readonly #former = new Set<ConfirmChannel>();
  #isOpening = false;
  #isClosed = false;

  /** `life` ends the wait for a connection. */
  constructor(connection: AmqpConnection, life: AbortSignal, onUnexpectedReply: (reply: Message) => void) {
    this.#connection = connection;
    this.#life = life;
    this.#onUnexpectedReply = onUnexpectedReply;
  }

  get isIdle(): boolean {
    return this.#pending.size === 0;
  }

  /** Sends it now, or as soon as it can be. Throws `INVALID_ARGUMENT` when its correlation id is in use. */
  request(request: PendingRequest): void {
    const key = keyOf(request);
    if (this.#pending.has(key)) {
      throw new AmqpError(
        'INVALID_ARGUMENT',
        'A request with the same correlationId awaits its reply. Leave the id out to have one made up.',
      );
    }
    this.#pending.set(key, request);
    const channel = this.#ready();
    if (channel === undefined) void this.#open();
    else this.#send(request, channel);
  }

  /** It is no longer awaited: a reply that comes still is unexpected. Says whether it was awaited. */
  forget(request: PendingRequest): boolean {
    const key = keyOf(request);
    if (this.#pending.get(key) !== request) return false;
    this.#end(key);
    return true;
  }

  /** Says something to whoever replied, if that can be now. Nothing comes back, and nobody hears whether it arrived. */
  tell(address: string, properties: PublishOptions): boolean {
    const channel = this.#ready();
    channel?.basicPublish('', address, '', properties).catch(() => undefined);
    return channel !== undefined;
  }

  /** Rejects what is pending with what `reason` makes of it, and closes the channel for good. */
  async close(reason: (request: PendingRequest) => unknown = () => undefined): Promise<void> {
    this.#isClosed = true;
    for (const request of this.#pending.values()) this.#fail(request, reason(request));
    this.#renew();
    await Promise.all([...this.#former].map((channel) => channel.close()));
  }

  #send(request: PendingRequest, channel: ConfirmChannel): void {
    const { exchange, routingKey, body, properties, correlationId, deadline } = request;
    request.sentOn = channel;
    // The time left, so that nobody answers what nobody awaits; 0 would mean: only if a consumer is free right now.
    const expiration = String(Math.max(1, Math.ceil(deadline - performance.now())));
    channel
      .basicPublish(exchange, routingKey, body, {
        ...properties,
        correlationId,
        // By this a message that comes back is told from others to the same queue.
        messageId: properties.messageId ?? correlationId,
        replyTo: DIRECT_REPLY_TO,
        expiration,
        mandatory: true,
      })
      .then(
        () => {
          // Channel and confirm may have ended in one chunk; then `#lost` has passed this one over.
          if (channel.isOpen) request.isConfirmed = true;
          else this.#fail(request, replyLost(request, channel.endError));
        },
        (error: unknown) => {
          if (error instanceof PublishNackedError && this.#renewal.isDue()) this.#renew();
          this.#fail(request, error instanceof PublishOutcomeUnknownError ? replyLost(request, error) : error);
        },
      );
  }

  /** The next request opens another channel. The present one stays for the replies that come over it. */
  #renew(): void {
    const { channel } = this.#opened ?? {};
    this.#opened = undefined;
    if (channel?.isOpen === true) this.#former.add(channel);
  }

  #receive(reply: Message): void {
    const key = keyOfReply(reply);
    const request = key === undefined ? undefined : this.#pending.get(key);
    if (key === undefined || request?.sentOn === undefined) {
      this.#onUnexpectedReply(reply);
      return;
    }
    if (request.isLast?.(reply) === false) return;
    this.#end(key);
    request.resolve(reply);
  }

  /** No reply is awaited any more. */
  #end(key: string): void {
    this.#pending.delete(key);
    for (const channel of this.#former) {
      if ([...this.#pending.values()].some(({ sentOn }) => sentOn === channel)) continue;
      this.#former.delete(channel);
      void channel.close();
    }
  }

  #receiveTooLarge(reply: Message, cause: AmqpError): void {
    const key = keyOfReply(reply);
    const request = key === undefined ? undefined : this.#pending.get(key);
    if (request === undefined) {
      this.#onUnexpectedReply(reply);
      return;
    }
    const { exchange, routingKey } = request;
    const why = `The reply to the request to ${destination(exchange, routingKey)} was dropped. ${cause.message}`;
    this.#fail(request, new AmqpError('MESSAGE_TOO_LARGE', why, { cause }));
  }

  #fail(request: PendingRequest, error: unknown): void {
    if (this.forget(request)) request.reject(error);
  }

  async #open(): Promise<void> {
    if (this.#isOpening) return;
    this.#isOpening = true;
    try {
      const channel = await this.#nextReady();
      if (channel !== undefined) for (const request of this.#waiting()) this.#send(request, channel);
    } catch (error) {
      for (const request of this.#waiting()) this.#fail(request, error);
    } finally {
      this.#isOpening = false;
    }
    // One came when nobody waited any more, and before that was heard here.
    if (this.#waiting().length > 0) void this.#open();
  }

  /** The channel, when requests may be sent on it. A broker that blocks would leave them to pile up here unread. */
  #ready(): ConfirmChannel | undefined {
    const { connection, channel } = this.#opened ?? {};
    return channel?.isOpen === true && connection?.blockedReason === undefined ? channel : undefined;
  }

  /** The channel as soon as it is ready, on the present connection or the next; undefined when nobody waits any more. */
  async #nextReady(): Promise<ConfirmChannel | undefined> {
    for (;;) {
      const connection = await this.#connection.opened(this.#life);
      if (this.isIdle) return undefined;
      if (connection.blockedReason !== undefined) {
        await unblocked(connection, this.#life);
        continue;
      }
      const ready = this.#ready();
      if (ready !== undefined) return ready;
      try {
        const channel = await connection.channel({ confirm: true });
        channel.once('close', (error) => {
          this.#lost(channel, error);
        });
        const onMessage = (reply: Message): void => {
          this.#receive(reply);
        };
        const onTooLarge = (reply: Message, error: AmqpError): void => {
          this.#receiveTooLarge(reply, error);
        };
        const onCancel = (): void => {
          void channel.close();
        };
        try {
          await channel.basicConsume(DIRECT_REPLY_TO, { onMessage, onCancel, onTooLarge }, { noAck: true });
        } catch (error) {
          void channel.close();
          throw error;
        }
        this.#opened = { connection, channel };
        this.#renewal.opened();
        if (this.#isClosed) void channel.close();
      } catch (error) {
        // A refusal, such as too many channels, would come again.
        if (connection.isOpen) throw error;
        await ended(connection);
      }
    }
  }

  #waiting(): PendingRequest[] {
    return [...this.#pending.values()].filter(({ sentOn }) => sentOn === undefined);
  }

  /** The channel has ended. What the broker has not confirmed learns of it, and more, from its publish. */
  #lost(channel: ConfirmChannel, error: AmqpError | undefined): void {
    for (const request of this.#pending.values()) {
      if (request.isConfirmed && request.sentOn === channel) this.#fail(request, replyLost(request, error));
    }
  }
}

/** Bytes as a string of one character each: what is not UTF-8 stays apart. */
function keyOf({ correlationId }: { readonly correlationId: unknown }): string {
  // What is no string, the encoder refuses.
  return Buffer.from(String(correlationId)).toString('latin1');
}

/** Undefined when the reply has no correlation id, or nobody can tell. */
function keyOfReply(reply: Message): string | undefined {
  try {
    return reply.bytesOf('correlationId')?.toString('latin1');
  } catch {
    return undefined;
  }
}

function replyLost({ exchange, routingKey }: PendingRequest, cause: AmqpError | undefined): AmqpError {
  return new AmqpError(
    'REPLY_LOST',
    `The reply to the request to ${destination(exchange, routingKey)} is lost: the channel that it would have come to has ` +
      `ended. ${cause === undefined ? '' : `${cause.message} `}Whether the request was carried out is unknown.`,
    cause === undefined ? {} : { ...factsOf(cause), cause },
  );
}
