/** What is said of options that cannot be: a name that is not known is an error and not ignored, and no error tells a login. */
import { types } from 'node:util';
import { AmqpError, printable, quoted } from '../errors.js';

/**
 * The names of the options `T`, in the order given. What `T` has and is not named, and would be refused, does not compile; neither does
 * what `T` has not.
 */
export function namesOf<T extends object>(names: Readonly<Record<keyof T, true>>): readonly (keyof T & string)[] {
  return Object.keys(names) as (keyof T & string)[];
}

/**
 * What to say here for what other libraries, and the broker, have another name for: sentences by those names. `x-` stands for all
 * that begin so.
 */
export type SaidElsewhere = Readonly<Record<string, string>>;

/**
 * Throws `INVALID_OPTION` for a field that is not known: a misspelt option is not silently ignored. `beside` are names that are known
 * to whoever reads the error, and not taken here.
 */
export function refuseUnknown(
  options: object,
  known: readonly string[],
  what: string,
  { beside = [], elsewhere }: { readonly beside?: readonly string[]; readonly elsewhere?: SaidElsewhere } = {},
): void {
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    const advice = adviceOn(unknown, [...known, ...beside], elsewhere);
    throw new AmqpError('INVALID_OPTION', `${what} ${printable(unknown, 60)}. ${advice}`);
  }
}

/** After a sentence that says what is not known: what it is called here, where that is known, else the names that are. */
export function adviceOn(unknown: string, known: readonly string[], elsewhere: SaidElsewhere = {}): string {
  const name = unknown.startsWith('x-') ? 'x-' : unknown;
  const said = Object.hasOwn(elsewhere, name) ? elsewhere[name] : undefined;
  return said ?? `Known are ${known.join(', ')}.`;
}

/** What was given for an option, to be added to what it has to be. What may be a password, inside a URL or an object, is not shown. */
export function itIs(value: unknown): string {
  if (typeof value === 'string' && !value.includes('://')) return `; it is ${quoted(value.slice(0, 60))}.`;
  return `; it is ${kindOf(value)}.`;
}

/** The same where any text may be a password. */
export function kindOf(value: unknown): string {
  if (typeof value === 'string') return value.includes('://') ? 'a URL' : 'a string';
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'a list';
  if (typeof value === 'function') return 'a function';
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

/** An error of the application's as a sentence. A URL in it is not shown with its password. */
export function toldOf(error: unknown): string {
  if (!types.isNativeError(error)) return `What it threw is no error but ${kindOf(error)}.`;
  const { name, message } = error;
  const told = printable(`${name}: ${message}`.replace(/:\/\/\S*@/g, '://***@'));
  return /[.!?…]$/.test(told) ? told : `${told}.`;
}
