/** What is said of options that cannot be: a name that is not known is an error and not ignored, and no error tells a login. */
import { types } from 'node:util';
import { AmqpError, printable } from '../errors.js';

/** Throws `INVALID_OPTION` for a field that is not known: a misspelt option is not silently ignored. */
export function refuseUnknown(options: object, known: readonly string[], what: string): void {
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new AmqpError('INVALID_OPTION', `${what} ${printable(unknown, 60)}. Known are ${known.join(', ')}.`);
  }
}

/** A value of an option as it was written. Of what has others inside only what it is: nobody knows what is in there. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return `'${printable(withoutLogin(value), 60)}'`;
  if (['number', 'boolean', 'bigint'].includes(typeof value)) return String(value);
  return kindOf(value);
}

/** What something is, never what it says: a URL in the place of options has a password. */
export function kindOf(value: unknown): string {
  if (value === undefined || value === null) return String(value);
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

/** An error of the application's in one line. A URL in it is not shown with its password. */
export function toldOf(error: unknown): string {
  if (!types.isNativeError(error)) return 'See the cause.';
  const { name, message } = error;
  return printable(withoutLogin(`${name}: ${message}`));
}

function withoutLogin(text: string): string {
  return text.replace(/:\/\/\S*@/g, '://***@');
}
