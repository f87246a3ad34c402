/** The log, and what consumers, messages and errors are called in it. What is told, and when, is said by those who tell it. */
import type { Message } from '../client/message.js';
import { kindOf } from '../client/option-names.js';
import { AmqpError, printable, quoted } from '../errors.js';
import { NO_TEXT, causesOf, isError, textOf } from './error-text.js';
import { isDeliberate } from './outcome.js';

/** What is told to the log; Nest's `Logger` fits. */
export interface Log {
  log(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

/** Most of what was thrown that is logged in a line, in characters. */
const LONGEST_TEXT = 500;
/** Most of a stack that is logged, in characters. */
const LONGEST_STACK = 4_000;

/** What a consumer, or a handler, is called in the log. */
export function labelOf({ name, queue }: { readonly name: string; readonly queue: string }): string {
  return `${name} (queue ${quoted(queue)})`;
}

/** How a message is called in the log, to stand in a sentence. */
export function idOf(message: Message): string {
  try {
    const { messageId } = message.properties;
    return messageId === undefined
      ? ` (no message id, delivery tag ${message.deliveryTag})`
      : ` (message id ${quoted(messageId)})`;
  } catch {
    return ` (delivery tag ${message.deliveryTag})`;
  }
}

/** What was thrown, as one line of a log. */
export function messageOf(error: unknown): string {
  try {
    const text = printable(textOf(error), LONGEST_TEXT);
    return isError(error) ? `${error.name}: ${text}` : text;
  } catch {
    return NO_TEXT;
  }
}

/** The same, to stand inside a sentence. */
export function clauseOf(error: unknown): string {
  return messageOf(error).replace(/\.$/, '');
}

/** What a handler, or who is named, has thrown, with where that was and what caused it. What is no error is said to be none. */
export function thrownOf(thrown: unknown, who = 'The handler'): string {
  try {
    if (isError(thrown)) return `${messageOf(thrown)}${framesOf(thrown)}`;
    const hasText = typeof thrown === 'string' || (typeof thrown === 'object' && thrown !== null);
    const kind = typeof thrown === 'string' ? 'text' : printable(kindOf(thrown), LONGEST_TEXT);
    return `${who} threw ${kind}, which is no error${hasText ? `: ${messageOf(thrown)}` : '.'}`;
  } catch {
    return NO_TEXT;
  }
}

/** Where an error was thrown that nobody meant to, and what caused it, in lines of their own. */
function framesOf(error: Error): string {
  try {
    // One of this package says in its message what there is to say of its cause.
    if (error instanceof AmqpError) return '';
    const causes = toldCauses(error).map((cause) => `\n  caused by: ${messageOf(cause)}${stackOf(cause)}`);
    return [isDeliberate(error) ? '' : stackOf(error), ...causes].join('').slice(0, LONGEST_STACK);
  } catch {
    // Node.js asks for the message when it writes the stack, and a getter may throw.
    return '';
  }
}

/** Up to a body that cannot be read: what caused that may quote it. */
function toldCauses(error: Error): unknown[] {
  const causes = causesOf(error);
  const unreadable = causes.findIndex((cause) => cause instanceof AmqpError && cause.code === 'UNDECODABLE');
  return unreadable < 0 ? causes : causes.slice(0, unreadable + 1);
}

function stackOf(error: unknown): string {
  const { stack = '' } = isError(error) ? error : {};
  const begin = stack.indexOf('\n    at ');
  return begin < 0 ? '' : stack.slice(begin);
}
