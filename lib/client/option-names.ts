/** Options have names that are known, so that a misspelt one is an error and not ignored. */
import { AmqpError, printable } from '../errors.js';

/** Throws `INVALID_OPTION` for a field that is not known: a misspelt option is not silently ignored. */
export function refuseUnknown(options: object, known: readonly string[], what: string): void {
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new AmqpError('INVALID_OPTION', `${what} ${printable(unknown, 60)}. Known are ${known.join(', ')}.`);
  }
}
