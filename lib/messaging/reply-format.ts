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
 */
import type { RemoteFacts } from '../errors.js';
import type { Message } from '../client/message.js';
import type { FieldTable, FieldValue } from '../protocol/field-table.js';
import { cut, described } from './attempt-headers.js';

const ERROR_NAME = 'x-error-name';
const ERROR_CODE = 'x-error-code';
const ERROR_MESSAGE = 'x-error-message';
const ERROR_SERVER = 'x-error-server';

/** Most characters of a code and of a server's name; those of name and message are as in dead letters. */
const LONGEST = 200;

/** What an error reply says of an error. Its stack stays here. */
export function remoteFactsOf(error: unknown, server: string): RemoteFacts {
  const { className, text } = described(error);
  return { name: className, code: codeOf(error), message: text, server: cut(server, LONGEST) };
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

/** The error that a reply tells of; undefined when it is none. Any of the first three headers makes it one. */
export function errorIn({ properties: { headers } }: Message): RemoteFacts | undefined {
  if (headers === undefined) return undefined;
  const name = textOf(headers[ERROR_NAME]);
  const code = textOf(headers[ERROR_CODE]);
  const message = textOf(headers[ERROR_MESSAGE]);
  if (name === undefined && code === undefined && message === undefined) return undefined;
  return { name: name ?? 'Error', code, message: message ?? '', server: textOf(headers[ERROR_SERVER]) };
}

/** Servers by others may write numbers. */
function textOf(value: FieldValue | undefined): string | undefined {
  if (typeof value === 'string') return value;
  return typeof value === 'number' || typeof value === 'bigint' ? String(value) : undefined;
}

/** Users throw anything, getters that throw included. */
function codeOf(error: unknown): string | undefined {
  try {
    const { code, getStatus } = Object(error) as { readonly code?: unknown; readonly getStatus?: unknown };
    const said: unknown =
      code === undefined && typeof getStatus === 'function' ? Reflect.apply(getStatus, error, []) : code;
    if (typeof said === 'number') return String(said);
    return typeof said === 'string' && said !== '' ? cut(said, LONGEST) : undefined;
  } catch {
    return undefined;
  }
}
