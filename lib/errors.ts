/**
 * The one family of errors that this package throws, their codes, and the rules for text that came from a peer.
 * What an error means to a caller (retry, give up, reconnect) is decided where it is caught, not here.
 */
import { types } from 'node:util';

/**
 * What went wrong, as a string that stays the same between releases.
 *
 * | code | meaning |
 * | --- | --- |
 * | `INVALID_URL` | The broker URL cannot be read. |
 * | `INVALID_OPTION` | An option is unknown, of the wrong type or out of range. |
 * | `INVALID_ARGUMENT` | A value cannot be sent: too long, of a type AMQP has no letter for, out of range. Nothing was written. |
 * | `CONNECT_FAILED` | The TCP or TLS connection could not be opened (refused, unknown host, certificate rejected). |
 * | `CONNECT_TIMEOUT` | The TCP or TLS connection was not open in time. |
 * | `HANDSHAKE_TIMEOUT` | The peer accepted the connection and then did not finish the AMQP handshake in time. |
 * | `NOT_AMQP` | The peer answered with something that is not AMQP, or hung up before saying anything. |
 * | `VERSION_MISMATCH` | The peer speaks another version of AMQP. |
 * | `AUTHENTICATION_FAILED` | The broker refused the user name, password or mechanism. |
 * | `CREDENTIALS_FAILED` | The provider of credentials threw, or returned none. |
 * | `HOSTS_FAILED` | The function that names the brokers threw, named none, or gave no answer in time. |
 * | `VHOST_REFUSED` | The virtual host does not exist or is not open to this user. |
 * | `CONNECTION_CLOSED` | The connection was closed in an orderly way, by either side. |
 * | `CONNECTION_LOST` | The connection ended without a closing handshake: network, crash, missed heartbeats. |
 * | `CHANNEL_CLOSED` | The channel was closed, by either side. |
 * | `REQUEST_TIMEOUT` | The broker did not answer a request in time. It may have carried it out. |
 * | `CHANNEL_LIMIT` | Every channel number that was negotiated is in use. |
 * | `PROTOCOL_ERROR` | The peer sent bytes that break AMQP 0-9-1. |
 * | `MESSAGE_TOO_LARGE` | A message is larger than the limit in force. |
 * | `UNROUTABLE` | A mandatory message reached no queue. |
 * | `PUBLISH_NACKED` | The broker refused to take charge of a message. |
 * | `PUBLISH_REFUSED` | The broker refused the exchange that a message was published to: it does not exist, or is not open to this user. |
 * | `PUBLISHER_BUFFER_FULL` | As many publishes wait as may: for a connection, for a broker that blocks it, or for confirms. |
 * | `PUBLISH_OUTCOME_UNKNOWN` | The channel ended before the broker said what became of a message. |
 * | `PUBLISH_ALL_FAILED` | `publishAll` ended before its source did; `PublishAllError` says how far it came. |
 * | `NOT_PUBLISHED` | An interceptor of publishes neither handed the message on nor threw. |
 * | `REPLY_TIMEOUT` | A request was not replied to in time. |
 * | `REPLY_LOST` | The channel to which the reply to a request would have come has ended. |
 * | `REQUEST_LIMIT` | As many requests await their reply as may. |
 * | `REMOTE_ERROR` | The server of a request answered it with an error. |
 * | `INVALID_DEFINITION` | An exchange, queue, binding or consumer is declared in a way that cannot work. |
 * | `UNKNOWN_CONSUMER` | The application has no consumer of that name. |
 * | `TOPOLOGY_CONFLICT` | The broker has an exchange or queue of that name with other properties. |
 * | `TOPOLOGY_FAILED` | The broker refused a declaration for another reason. |
 * | `SETUP_FAILED` | A set-up function of an `AmqpConnection` threw, or did not settle in its time. |
 * | `UNDECODABLE` | A received body or its properties cannot be decoded. |
 * | `HANDLER_TIMEOUT` | A handler, or the reading of its message, took longer than its `timeout`. |
 * | `NO_HANDLER` | No handler of its queue takes the routing key of a message. |
 * | `INVALID_PAYLOAD` | The payload of a message is not what the schema says. |
 * | `UNSERIALIZABLE` | A payload cannot be turned into bytes. |
 * | `NEST_UNSUPPORTED` | This version of Nest lacks what handlers are made with. |
 * | `ABORTED` | The caller's `AbortSignal` fired, or its deadline passed. |
 */
export type AmqpErrorCode =
  | 'INVALID_URL'
  | 'INVALID_OPTION'
  | 'INVALID_ARGUMENT'
  | 'CONNECT_FAILED'
  | 'CONNECT_TIMEOUT'
  | 'HANDSHAKE_TIMEOUT'
  | 'NOT_AMQP'
  | 'VERSION_MISMATCH'
  | 'AUTHENTICATION_FAILED'
  | 'CREDENTIALS_FAILED'
  | 'HOSTS_FAILED'
  | 'VHOST_REFUSED'
  | 'CONNECTION_CLOSED'
  | 'CONNECTION_LOST'
  | 'CHANNEL_CLOSED'
  | 'REQUEST_TIMEOUT'
  | 'CHANNEL_LIMIT'
  | 'PROTOCOL_ERROR'
  | 'MESSAGE_TOO_LARGE'
  | 'UNROUTABLE'
  | 'PUBLISH_NACKED'
  | 'PUBLISH_REFUSED'
  | 'PUBLISHER_BUFFER_FULL'
  | 'PUBLISH_OUTCOME_UNKNOWN'
  | 'PUBLISH_ALL_FAILED'
  | 'NOT_PUBLISHED'
  | 'REPLY_TIMEOUT'
  | 'REPLY_LOST'
  | 'REQUEST_LIMIT'
  | 'REMOTE_ERROR'
  | 'INVALID_DEFINITION'
  | 'UNKNOWN_CONSUMER'
  | 'TOPOLOGY_CONFLICT'
  | 'TOPOLOGY_FAILED'
  | 'SETUP_FAILED'
  | 'UNDECODABLE'
  | 'HANDLER_TIMEOUT'
  | 'NO_HANDLER'
  | 'INVALID_PAYLOAD'
  | 'UNSERIALIZABLE'
  | 'NEST_UNSUPPORTED'
  | 'ABORTED';

/** What the wire said, where it said something. */
export interface AmqpErrorFacts {
  /** The reply code of `connection.close`, `channel.close` or `basic.return`, for example 404 (specification, section 1.2). */
  readonly replyCode?: number | undefined;
  /** The reply text beside it, as the peer sent it. Attacker's text: the message holds it escaped and shortened. */
  readonly replyText?: string | undefined;
  /** The method that the peer blames, or that failed: `'queue.declare'`. */
  readonly method?: string | undefined;
  /** Who ended the connection or channel. */
  readonly closedBy?: 'server' | 'client' | 'network' | undefined;
  /** The error beneath this one. */
  readonly cause?: unknown;
}

/**
 * Every error that this package throws. `code` is stable; the message says what happened, to what, and what to do.
 * No credential is ever part of one.
 *
 * @example
 * ```ts
 * try { await channel.queueDeclare('billing', { passive: true }); }
 * catch (error) { if (error instanceof AmqpError && error.replyCode === 404) … }
 * ```
 */
export class AmqpError extends Error {
  override readonly name: string = 'AmqpError';
  readonly code: AmqpErrorCode;
  // Declared, and set where there is something: what most errors do not have is not shown when they are printed.
  declare readonly replyCode: number | undefined;
  declare readonly replyText: string | undefined;
  declare readonly method: string | undefined;
  declare readonly closedBy: 'server' | 'client' | 'network' | undefined;

  constructor(code: AmqpErrorCode, message: string, facts: AmqpErrorFacts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.code = code;
    if (facts.replyCode !== undefined) this.replyCode = facts.replyCode;
    if (facts.replyText !== undefined) this.replyText = facts.replyText;
    if (facts.method !== undefined) this.method = facts.method;
    if (facts.closedBy !== undefined) this.closedBy = facts.closedBy;
  }
}

/**
 * The peer broke the protocol. `replyCode` is the code to close the connection with, 501 (frame error), 502 (syntax
 * error), 503 (command invalid), 504 (channel error) or 505 (unexpected frame).
 */
export class ProtocolError extends AmqpError {
  override readonly name = 'ProtocolError';
  declare readonly replyCode: number;

  constructor(replyCode: 501 | 502 | 503 | 504 | 505, message: string, facts: AmqpErrorFacts = {}) {
    super('PROTOCOL_ERROR', message, { ...facts, replyCode });
  }
}

/** A mandatory message that no queue took: the broker sent it back with `basic.return`. */
export class UnroutableError extends AmqpError {
  override readonly name = 'UnroutableError';
  readonly exchange: string;
  readonly routingKey: string;

  constructor(exchange: string, routingKey: string, facts: AmqpErrorFacts = {}) {
    const target =
      exchange === ''
        ? `no queue is named ${quoted(routingKey)}`
        : `no queue is bound to exchange ${quoted(exchange)} for it`;
    super(
      'UNROUTABLE',
      `The message with routing key ${quoted(routingKey)} went nowhere: ${target}. ` +
        'Declare the queue or the binding, or publish with mandatory: false if nobody needs to hear it.',
      { ...facts, method: 'basic.return' },
    );
    this.exchange = exchange;
    this.routingKey = routingKey;
  }
}

/** The broker answered a publish with `basic.nack`: it has not taken charge of the message. */
export class PublishNackedError extends AmqpError {
  override readonly name = 'PublishNackedError';

  constructor(exchange: string, routingKey: string) {
    super(
      'PUBLISH_NACKED',
      `The broker refused the message to ${destination(exchange, routingKey)} (basic.nack), as it does for a full queue ` +
        "with overflow 'reject-publish' or after an internal error. It is not stored; publish it again later.",
      { method: 'basic.nack' },
    );
  }
}

/**
 * The broker closed the channel over the message: over the exchange that it was published to, or one of its properties. It is not stored; where several to that exchange
 * were under way, an earlier one may be that the broker took before the exchange was deleted, and the message says so.
 */
export class PublishRefusedError extends AmqpError {
  override readonly name = 'PublishRefusedError';
  /** Why the channel was closed. */
  declare readonly cause: AmqpError;

  constructor(exchange: string, routingKey: string, cause: AmqpError, isCertain = true) {
    const unless = isCertain ? '' : ', unless the broker took it a moment before it began to refuse';
    super(
      'PUBLISH_REFUSED',
      `The broker refused the message to ${destination(exchange, routingKey)}; it is not stored${unless}. ${cause.message}`,
      { ...factsOf(cause), cause },
    );
  }
}

/** As many publishes wait as may: for a connection, for a broker that blocks it, or for confirms. The message was not sent. */
export class PublisherBufferFullError extends AmqpError {
  override readonly name = 'PublisherBufferFullError';

  constructor(count: number, bytes: number, isConnected = false) {
    const told = isConnected
      ? `${count} messages of ${bytes} bytes await their confirm already`
      : `there is no open connection, or the broker blocks it, and ${count} messages of ${bytes} bytes wait already`;
    super(
      'PUBLISHER_BUFFER_FULL',
      `The message was not sent: ${told}. Await some of them before you publish more, as publishAll does; have more wait for their ` +
        "turn (onOverflow: 'wait'); or raise the bounds (maxBuffered, maxBufferedBytes).",
    );
  }
}

/** What a `PublishAllError` tells. */
export interface PublishAllFacts {
  /** What ended it, after 'because': `its source failed`. */
  readonly why: string;
  readonly confirmed: number;
  readonly taken: number;
  readonly index: number | undefined;
  readonly isAborted: boolean;
  readonly cause: unknown;
}

/** A `publishAll` that ended before its source did, or with one that failed; `cause` says why. */
export class PublishAllError extends AmqpError {
  override readonly name = 'PublishAllError';
  /** Messages that the broker has confirmed. */
  readonly confirmed: number;
  /** Messages that were taken from the source. */
  readonly taken: number;
  /** Which message failed first, from 0; undefined when it was the source, the progress callback or the signal. */
  readonly index: number | undefined;

  constructor({ why, confirmed, taken, index, isAborted, cause }: PublishAllFacts) {
    const rest = isAborted ? 'Of the others some may arrive.' : 'The others that were taken have failed.';
    super(
      isAborted ? 'ABORTED' : 'PUBLISH_ALL_FAILED',
      `publishAll stopped because ${why}; of ${taken} messages that it took, the broker has confirmed ${confirmed}. ` +
        `${confirmed < taken ? `${rest} ` : ''}${types.isNativeError(cause) ? cause.message : printable(String(cause))}`,
      { cause },
    );
    this.confirmed = confirmed;
    this.taken = taken;
    this.index = index;
  }
}

/** The channel ended while a publish was unconfirmed: the broker may or may not have the message. */
export class PublishOutcomeUnknownError extends AmqpError {
  override readonly name = 'PublishOutcomeUnknownError';

  constructor(exchange: string, routingKey: string, cause: AmqpError) {
    super(
      'PUBLISH_OUTCOME_UNKNOWN',
      `Whether the broker has the message to ${destination(exchange, routingKey)} is unknown: the channel ended before it was ` +
        `confirmed. ${cause.message} Publish it again if the consumer tolerates duplicates.`,
      { ...factsOf(cause), cause },
    );
  }
}

/** One thing that a schema has against a payload, as Standard Schema tells it. */
export interface PayloadIssue {
  readonly message: string;
  /** Where in the payload. */
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** The payload of a message is not what the schema says. No retry helps. */
export class InvalidPayloadError extends AmqpError {
  override readonly name = 'InvalidPayloadError';
  readonly issues: readonly PayloadIssue[];

  /** `what` begins the message: whose payload it is. */
  constructor(issues: readonly PayloadIssue[], what = 'The payload') {
    const told = issues.slice(0, 3).map(({ message, path = [] }) => {
      const place = path.map((step) => String(typeof step === 'object' ? step.key : step)).join('.');
      return printable(place === '' ? message : `${place}: ${message}`);
    });
    const more = issues.length > told.length ? ` (and ${issues.length - told.length} more)` : '';
    super('INVALID_PAYLOAD', `${what} is not what the schema says. ${told.join('; ')}${more}`);
    this.issues = issues;
  }
}

/** What the reply to a request says of the error that its server had. */
export interface RemoteFacts {
  /** The class of the error, for example `'NotFoundException'`. */
  readonly name: string;
  /** Its `code`, or the status of an `HttpException`; undefined when it had neither. */
  readonly code: string | undefined;
  /** Its message, as the server sent it. */
  readonly message: string;
  /** Who answered: application and handler, as far as they are told. */
  readonly server: string | undefined;
}

/**
 * The server of a request answered it with an error, which is told in `remote`. The `code` of this one is `'REMOTE_ERROR'`, so that
 * an error of the server is never taken for one of the requester with the same code.
 *
 * @example
 * ```ts
 * catch (error) { if (error instanceof RemoteError && error.remote.code === 'OUT_OF_STOCK') … }
 * ```
 */
export class RemoteError extends AmqpError {
  override readonly name = 'RemoteError';
  readonly remote: RemoteFacts;

  constructor(exchange: string, routingKey: string, remote: RemoteFacts) {
    const { name, code, message, server } = remote;
    const who = server === undefined ? 'Its server' : printable(server);
    super(
      'REMOTE_ERROR',
      `The request to ${destination(exchange, routingKey)} failed. ${who} answered: ` +
        `${printable(name)}${code === undefined ? '' : ` (${printable(code)})`}: ${printable(message)}`,
    );
    this.remote = remote;
  }
}

/** What the wire said, to be carried by an error that explains this one. */
export function factsOf({ replyCode, replyText, method, closedBy }: AmqpError): AmqpErrorFacts {
  return { replyCode, replyText, method, closedBy };
}

/** Where a message was sent, in words. */
export function destination(exchange: string, routingKey: string): string {
  return exchange === ''
    ? `queue ${quoted(routingKey)}`
    : `exchange ${quoted(exchange)} with routing key ${quoted(routingKey)}`;
}

/** Text from a peer, made safe for a log line: control characters escaped, at most `limit` characters. */
export function printable(text: string, limit = 300): string {
  const cut = text.length > limit ? `${text.slice(0, limit)}…` : text;
  // C0 and C1 controls, line and paragraph separators, and the characters that turn the direction of text around.
  return cut.replace(
    // eslint-disable-next-line no-control-regex -- finding control characters is what this expression is for
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** So many of them, in a sentence: `1 handler`, `2 handlers`. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** A name inside single quotes, made safe for a log line. */
export function quoted(name: string): string {
  return `'${printable(name, 255)}'`;
}
