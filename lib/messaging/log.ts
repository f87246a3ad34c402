/** The log, and what consumers, messages and errors are called in it. What is told, and when, is said by those who tell it. */
import type { Message } from '../client/message.js';
import { printable, quoted } from '../errors.js';
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

/** Where an error was thrown that nobody meant to, and what caused it, in lines of their own. */
export function framesOf(error: unknown): string {
  try {
    if (!(error instanceof Error) || isDeliberate(error)) return '';
    const causes = causesOf(error).map((cause) => `\n  caused by: ${messageOf(cause)}${stackOf(cause)}`);
    return [stackOf(error), ...causes].join('').slice(0, LONGEST_STACK);
  } catch {
    // Node.js asks for the message when it writes the stack, and a getter may throw.
    return '';
  }
}

function stackOf({ stack = '' }: Error): string {
  const begin = stack.indexOf('\n    at ');
  return begin < 0 ? '' : stack.slice(begin);
}
