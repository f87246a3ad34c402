/**
 * Replies to requests: results and errors written and published, confirmed, to where each request says. Which of them a request
 * gets, and what becomes of the delivery, is decided by `handled-deliveries`; what the headers mean is told in `reply-format`.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { types } from 'node:util';
import { AmqpChannel } from '../client/amqp-channel.js';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { Backoff } from '../client/backoff.js';
import type { ReplyOptions } from '../client/channel-options.js';
import type { Message } from '../client/message.js';
import { pause, unblocked } from '../client/wait.js';
import { AmqpError, type RemoteFacts } from '../errors.js';
import { cut } from './attempt-headers.js';
import type { DeliveryScope } from './delivery.js';
import { isUnsendable } from './handover.js';
import { validated } from './message.js';
import { errorHeaders, remoteFactsOf, requesterWaits } from './reply-format.js';
import { type StreamEnd, ReplyStreams, type WrittenReply } from './reply-streams.js';
import { type Serialized, Serializers } from './serializer.js';

/** How long a reply is tried to be written and published, in milliseconds: requesters wait no longer by default. */
const PATIENCE = 30_000;
/** What it is given where its requester waits for less: confirms take their time. */
const LEAST_PATIENCE = 1_000;
/** Of an error's message, where the whole does not fit a frame. */
const SHORT_MESSAGE = 200;
/** Where requesters have their replies that have no queue for them. */
const DIRECT_REPLY_TO = Buffer.from('amq.rabbitmq.reply-to.');
const JSON_TYPE = 'application/json';

export interface ReplierOptions {
  readonly serializers?: Serializers | undefined;
  /** How results are written, unless they are bytes. @default 'application/json' */
  readonly contentType?: string | undefined;
  /** Set on every reply as `appId`; errors name the host where it is left out. */
  readonly appId?: string | undefined;
}

/** The replies of one connection's handlers. They have a channel of their own. */
export class Replier {
  readonly #channel: AmqpChannel;
  readonly #streams: ReplyStreams;
  readonly #serializers: Serializers;
  readonly #contentType: string | undefined;
  readonly #appId: string | undefined;

  constructor(
    connection: AmqpConnection,
    { serializers = new Serializers(), contentType, appId }: ReplierOptions = {},
  ) {
    this.#channel = new AmqpChannel(connection);
    this.#streams = new ReplyStreams(this.#channel);
    this.#serializers = serializers;
    this.#contentType = contentType;
    this.#appId = appId;
  }

  /**
   * Publishes what a handler returned. Resolves when the broker has confirmed it, or to why it cannot be delivered. Rejects when it
   * cannot be written, or does not fit the schema: that is the handler's fault.
   */
  async reply(
    request: Message,
    result: unknown,
    life: DeliveryScope,
    schema?: StandardSchemaV1,
  ): Promise<AmqpError | undefined> {
    const writing = this.#write(result, isDirect(request), schema);
    const { body, properties } = types.isPromise(writing) ? await inTime(writing, request, life) : writing;
    return await this.#deliver(request, body, properties, life);
  }

  /**
   * Publishes every value of a handler that has many. Resolves when the broker has confirmed them, or nobody wants more. Rejects with
   * what the handler failed with when nothing was sent yet.
   */
  async stream(
    request: Message,
    values: AsyncIterable<unknown>,
    handler: string,
    life: DeliveryScope,
    schema?: StandardSchemaV1,
  ): Promise<StreamEnd> {
    const direct = isDirect(request);
    const end = await this.#streams.send({
      request,
      values,
      write: (value) => this.#write(value, direct, schema),
      writeError: (error) => this.#writeError(this.#factsOf(error, handler), direct),
      isDirect: direct,
      life,
    });
    // Nobody else tells a requester that still waits.
    if (end.kind !== 'stopped' || !['REPLY_LOST', 'MESSAGE_TOO_LARGE'].includes(end.why.code)) return end;
    await this.replyError(request, end.why, handler, life);
    return end.why.code === 'REPLY_LOST' ? end : { kind: 'failed', error: end.why };
  }

  /** Publishes an error that the handler of that name had. Resolves as `reply` does, and never rejects. */
  async replyError(
    request: Message,
    error: unknown,
    handler: string,
    life: DeliveryScope,
  ): Promise<AmqpError | undefined> {
    const facts = this.#factsOf(error, handler);
    try {
      return await this.#deliverError(request, facts, life);
    } catch {
      try {
        return await this.#deliverError(request, { ...facts, message: cut(facts.message, SHORT_MESSAGE) }, life);
      } catch (unsendable) {
        return unsendable instanceof AmqpError ? unsendable : unpublished(PATIENCE, unsendable);
      }
    }
  }

  async #deliverError(request: Message, facts: RemoteFacts, life: DeliveryScope): Promise<AmqpError | undefined> {
    const { body, properties } = this.#writeError(facts, isDirect(request));
    return await this.#deliver(request, body, properties, life);
  }

  #factsOf(error: unknown, handler: string): RemoteFacts {
    return remoteFactsOf(error, `${this.#appId ?? hostname()}/${handler}`);
  }

  #writeError(facts: RemoteFacts, direct: boolean): WrittenReply {
    const { name, code, message } = facts;
    const said = { contentType: JSON_TYPE, headers: errorHeaders(facts) };
    return { body: JSON.stringify({ name, code, message }), properties: this.#properties(said, direct) };
  }

  /** What is sent is the result as it was returned: the schema's output is for the requester, where the same schema reads it. */
  #write(result: unknown, direct: boolean, schema: StandardSchemaV1 | undefined): WrittenReply | Promise<WrittenReply> {
    const held = schema && validated(schema, result, 'What the handler replies');
    if (types.isPromise(held)) return held.then(() => this.#write(result, direct, undefined));
    const written = this.#written(result);
    const finished = ({ body, contentType }: Written): WrittenReply => ({
      body,
      properties: this.#properties({ contentType }, direct),
    });
    return types.isPromise(written) ? written.then(finished) : finished(written);
  }

  #properties(said: ReplyOptions, direct: boolean): ReplyOptions {
    return {
      ...said,
      // A reply is worth nothing after a restart of the broker: neither its requester nor its queue is there.
      deliveryMode: 1,
      timestamp: Math.floor(Date.now() / 1000),
      appId: this.#appId,
      ...(direct ? {} : { mandatory: true, messageId: randomUUID() }),
    };
  }

  #written(result: unknown): Written | Promise<Written> {
    if (result === undefined) return { body: '' };
    return this.#serializers.serialize(result, result instanceof Uint8Array ? undefined : this.#contentType);
  }

  /** Tries until it is confirmed, the requester is known to be gone, its delivery is lost, or nobody waits any more. */
  async #deliver(
    request: Message,
    body: string | Uint8Array,
    properties: ReplyOptions,
    life: DeliveryScope,
  ): Promise<AmqpError | undefined> {
    const patience = patienceWith(request);
    const since = performance.now();
    if (this.#channel.isConnected()) {
      const sent = this.#send(request, body, properties);
      // The broker delivers the request again, and whoever gets it replies as well.
      if (life.hasEnded) return void sent.catch(() => undefined);
      try {
        await life.within(sent, patience, () => unpublished(patience));
        return undefined;
      } catch (error) {
        if (isUnsendable(error)) throw error;
        if (isFinal(error)) return error;
      }
    }
    const left = Math.max(0, Math.ceil(patience - (performance.now() - since)));
    return await this.#deliverLater(request, body, properties, life, left);
  }

  async #send(request: Message, body: string | Uint8Array, properties: ReplyOptions): Promise<void> {
    await (await this.#channel.opened()).reply(request, body, properties);
  }

  async #deliverLater(
    request: Message,
    body: string | Uint8Array,
    properties: ReplyOptions,
    life: DeliveryScope,
    patience: number,
  ): Promise<AmqpError | undefined> {
    const lost = life.controller();
    const signal = AbortSignal.any([lost.signal, AbortSignal.timeout(patience)]);
    const backoff = new Backoff();
    try {
      for (;;) {
        try {
          // What the broker does not read would be sent although nobody waits for it any more.
          await unblocked(await this.#channel.connection.opened(signal), signal);
          await (await this.#channel.opened(signal)).reply(request, body, { ...properties, signal });
          return undefined;
        } catch (error) {
          if (isUnsendable(error)) throw error;
          if (lost.signal.aborted) return lost.signal.reason as AmqpError;
          if (signal.aborted) return unpublished(patience, error);
          if (isFinal(error)) return error;
          await pause(backoff.next(), signal);
        }
      }
    } finally {
      life.release(lost);
    }
  }
}

/** A result, written: what is no value has no content type. */
type Written = Partial<Serialized> & Pick<Serialized, 'body'>;

/** True for what has values over time. */
export function isStream(result: unknown): result is AsyncIterable<unknown> {
  return typeof result === 'object' && result !== null && Symbol.asyncIterator in result;
}

/**
 * Whether the reply goes to a consumer of direct reply-to. The broker takes such an address for no queue: a mandatory reply comes
 * back although it has arrived, and one whose requester is gone is confirmed all the same.
 */
function isDirect(request: Message): boolean {
  return request.bytesOf('replyTo')?.subarray(0, DIRECT_REPLY_TO.length).equals(DIRECT_REPLY_TO) === true;
}

/** How long its requester waits still, in milliseconds, as far as the request says. */
function patienceWith(request: Message): number {
  return Math.min(PATIENCE, Math.max(LEAST_PATIENCE, requesterWaits(request) ?? PATIENCE));
}

/** A reply that takes its time to be written. */
async function inTime(writing: Promise<WrittenReply>, request: Message, life: DeliveryScope): Promise<WrittenReply> {
  const patience = patienceWith(request);
  const why = `The reply could not be written within ${patience} ms: its schema, or a serializer, took longer.`;
  return await life.within(writing, patience, () => new AmqpError('HANDLER_TIMEOUT', why));
}

/** True for what comes again however often it is tried: nobody is there, nobody may reply, or there will be no connection or no time. */
function isFinal(error: unknown): error is AmqpError {
  return (
    error instanceof AmqpError && ['UNROUTABLE', 'PUBLISH_REFUSED', 'CONNECTION_CLOSED', 'ABORTED'].includes(error.code)
  );
}

function unpublished(patience: number, cause?: unknown): AmqpError {
  return new AmqpError('ABORTED', `The reply could not be published within ${patience} ms.`, { cause });
}
