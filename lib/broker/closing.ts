/** The connection.close that tells of an error. */
import { ProtocolError } from '../errors.js';
import { type MethodArgs, type MethodName, methodId } from '../protocol/methods.js';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';
import { BrokerError } from './broker-error.js';

/** What RabbitMQ calls the codes, before a text of our own. */
const NAMES: Readonly<Record<number, string>> = {
  501: 'FRAME_ERROR',
  502: 'SYNTAX_ERROR',
  503: 'COMMAND_INVALID',
  504: 'CHANNEL_ERROR',
  505: 'UNEXPECTED_FRAME',
};

/** A reply text in the octets that there are for it; a longer one ends in dots. */
export function shortText(text: string): string {
  if (Buffer.byteLength(text) <= LONGEST_SHORTSTR) return text;
  // A character that is cut in half becomes U+FFFD.
  const start = Buffer.from(text)
    .subarray(0, LONGEST_SHORTSTR - '...'.length)
    .toString();
  return `${start.replace(/\ufffd$/, '')}...`;
}

/** @param id - class and method of the frame in hand in one number; 0 for none */
export function closeFor(error: unknown, id: number): MethodArgs<'connection.close'> {
  if (error instanceof BlamedError) return closeFor(error.cause, error.id);
  if (error instanceof BrokerError) return args(error.replyCode, error.replyText, id);
  if (error instanceof ProtocolError) {
    // The frame in hand may be one that has no method, or comes where another was to come.
    const blamed = error.method === undefined ? id : methodId(error.method as MethodName);
    return args(error.replyCode, `${NAMES[error.replyCode] ?? ''} - ${error.message}`, blamed);
  }
  // RabbitMQ's own faults have no more to say; ours should.
  return args(541, `INTERNAL_ERROR - ${error instanceof Error ? error.message : String(error)}`, 0);
}

function args(replyCode: number, replyText: string, id: number): MethodArgs<'connection.close'> {
  return { replyCode, replyText: shortText(replyText), classId: id >>> 16, methodId: id & 0xffff };
}

/**
 * An error with the method to blame, where that is not the one of the frame in hand: a message is refused when the last frame of
 * its body has come, and over some errors RabbitMQ blames none.
 */
export class BlamedError extends Error {
  override readonly name = 'BlamedError';
  /** Class and method in one number; 0 for none. */
  readonly id: number;

  constructor(method: MethodName | undefined, cause: unknown) {
    super(method, { cause });
    this.id = method === undefined ? 0 : methodId(method);
  }
}
