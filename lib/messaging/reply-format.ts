/**
 * What replies to requests say in their headers, written by the side that answers and read by the side that asked. To whom a
 * reply goes and which request it answers is in `replyTo` and `correlationId`, as with every AMQP client; what is in the body is
 * the serializer's.
 *
 * | header | on | meaning |
 * | --- | --- | --- |
 * | `x-error-name` | error replies | class of the error: `'NotFoundException'` |
 * | `x-error-code` | error replies | its `code`, or the status of an HttpException, where it has one |
 * | `x-error-message` | error replies | its message |
 * | `x-error-server` | error replies | who answered: application and handler |
 * | `x-reply-stream` | requests | `true`: every value of a handler that has many is wanted |
 * | `x-reply-stream` | replies to those, and what stops them | the same random text on all replies of one run of the handler |
 * | `x-reply-number` | replies to those | counts from 1; 0 on one without a value, that says no more than where to stop the stream |
 * | `x-reply-end` | the last of them | `true`; it has no value, and an error reply may be it |
 * | `x-reply-stop` | what their requester sends to their `replyTo` | `true`: no more, please |
 */
import type { RemoteFacts } from '../errors.js';
import type { Message } from '../client/message.js';
import type { FieldTable, FieldValue } from '../protocol/field-table.js';
import { cut, described, lifetimeOf } from './attempt-headers.js';

const ERROR_NAME = 'x-error-name';
const ERROR_CODE = 'x-error-code';
const ERROR_MESSAGE = 'x-error-message';
const ERROR_SERVER = 'x-error-server';

const STREAM = 'x-reply-stream';
const NUMBER = 'x-reply-number';
const END = 'x-reply-end';
const STOP = 'x-reply-stop';

/** Most characters of a server's name; those of name, code and message are as in dead letters. */
const LONGEST = 200;

/** True for a message that somebody awaits a reply to. */
export function isRequest(message: Message): boolean {
  if (!message.hasReplyTo) return false;
  try {
    return (message.bytesOf('replyTo')?.length ?? 0) > 0;
  } catch {
    return false;
  }
}

/** How long the requester of a message waits from now on, in milliseconds, as far as it says; undefined where it does not. */
export function requesterWaits(message: Message): number | undefined {
  try {
    return lifetimeOf(message.properties);
  } catch {
    return undefined;
  }
}

/** What an error reply says of an error. Its stack stays here. */
export function remoteFactsOf(error: unknown, server: string): RemoteFacts {
  const { className, code, text } = described(error);
  return { name: className, code, message: text, server: cut(server, LONGEST) };
}

/** The headers that make a reply an error reply. */
export function errorHeaders({ name, code, message, server }: RemoteFacts): FieldTable {
  return {
    [ERROR_NAME]: name,
    ...(code === undefined ? {} : { [ERROR_CODE]: code }),
    [ERROR_MESSAGE]: message,
    ...(server === undefined ? {} : { [ERROR_SERVER]: server }),
  };
}

/**
 * The error that a reply tells of; undefined when it is none. Any of the first three headers makes it one, whatever is in it: servers by
 * others may write tables and lists. One without a value says nothing.
 */
export function errorIn({ properties: { headers } }: Message): RemoteFacts | undefined {
  if (headers === undefined) return undefined;
  const { [ERROR_NAME]: name, [ERROR_CODE]: code, [ERROR_MESSAGE]: message, [ERROR_SERVER]: server } = headers;
  if ((name ?? code ?? message ?? undefined) === undefined) return undefined;
  return { name: textOf(name) ?? 'Error', code: textOf(code), message: textOf(message) ?? '', server: textOf(server) };
}

/** The header of a request for all values. */
export const WANTS_STREAM: FieldTable = { [STREAM]: true };

/** Whether a request asks for all values. Not when nobody can tell. */
export function wantsStream(request: Message): boolean {
  try {
    return request.properties.headers?.[STREAM] === true;
  } catch {
    return false;
  }
}

/** The number of a reply that has no value. */
export const ANNOUNCEMENT = 0;

/** Which reply of which stream it is. */
export interface StreamPlace {
  readonly stream: string;
  readonly number: number;
  readonly isEnd: boolean;
}

/** The headers of one reply of a stream. */
export function placeHeaders({ stream, number, isEnd }: StreamPlace): FieldTable {
  return { [STREAM]: stream, [NUMBER]: number, ...(isEnd ? { [END]: true } : {}) };
}

/** A reply of a stream that has come, and where its server listens. */
export interface PlacedReply extends StreamPlace {
  readonly replyTo: string | undefined;
  readonly correlationId: string | undefined;
}

/** Undefined for a reply that is the only one. */
export function placeOf({ properties: { headers, replyTo, correlationId } }: Message): PlacedReply | undefined {
  const { [STREAM]: stream, [NUMBER]: number, [END]: end } = headers ?? {};
  if (typeof stream !== 'string' || typeof number !== 'number') return undefined;
  return { stream, number, isEnd: end === true, replyTo, correlationId };
}

/** The headers that ask the server of a stream to stop. */
export function stopHeaders(stream: string): FieldTable {
  return { [STREAM]: stream, [STOP]: true };
}

/** The stream that a message asks to stop; undefined when it asks nothing of the kind. */
export function stoppedStream(message: Message): string | undefined {
  try {
    const { [STREAM]: stream, [STOP]: stop } = message.properties.headers ?? {};
    return stop === true && typeof stream === 'string' ? stream : undefined;
  } catch {
    return undefined;
  }
}

/** Servers by others may write numbers. */
function textOf(value: FieldValue | undefined): string | undefined {
  if (typeof value === 'string') return value;
  return typeof value === 'number' || typeof value === 'bigint' ? String(value) : undefined;
}
