/** What was thrown, as text: whatever it is, with an end, and without ever throwing. Where it is told is decided by others. */
import { types, inspect } from 'node:util';

/** What is told of what cannot be asked. */
export const NO_TEXT = 'What was thrown has no text.';
/** Most characters of what is no error, or of the list that an HttpException has beside its message. */
const LONGEST = 2_000;
/** Most fields of an object that is written as JSON. */
const MOST_FIELDS = 200;
/** Errors of an AggregateError that are told, and most characters of each. */
const MOST_INNER = 5;
const LONGEST_INNER = 200;
/** An error, the one that caused it, and so on: so many of these. */
const MOST_CAUSES = 4;

/** True for errors of this realm and of others. */
export function isError(thrown: unknown): thrown is Error {
  return thrown instanceof Error || types.isNativeError(thrown);
}

/** What was thrown; in the place of what cannot be asked what it is, as a revoked Proxy cannot, an error that says so. */
export function askable(thrown: unknown): unknown {
  try {
    isError(thrown);
    return thrown;
  } catch {
    return new TypeError('What was thrown cannot be asked what it is: a revoked Proxy, for one.');
  }
}

/**
 * The message of an error, and with it what only the response of an HttpException says: of what a ValidationPipe refuses, what was
 * wrong. Of an object that is no error its JSON.
 */
export function textOf(thrown: unknown): string {
  try {
    if (!isError(thrown)) return typeof thrown === 'object' && thrown !== null ? jsonOf(thrown) : String(thrown);
    const details = detailsOf(thrown) || innerOf(thrown);
    if (details === '') return thrown.message;
    return thrown.message === '' ? details : `${thrown.message}: ${details}`;
  } catch {
    return NO_TEXT;
  }
}

/** What caused an error, the nearest first: errors, of which the last may have been caused by something else. */
export function causesOf(thrown: unknown): unknown[] {
  const causes: unknown[] = [];
  try {
    let next: unknown = isError(thrown) ? thrown.cause : undefined;
    while (next !== undefined && causes.length < MOST_CAUSES && next !== thrown && !causes.includes(next)) {
      causes.push(next);
      next = isError(next) ? next.cause : undefined;
    }
  } catch {
    // A getter that throws: those that were found are told.
  }
  return causes;
}

/** Nest's HttpException by its face, as everywhere on this floor. */
function detailsOf(error: Error): string {
  const { getResponse } = error as { getResponse?: unknown };
  const response: unknown = typeof getResponse === 'function' ? Reflect.apply(getResponse, error, []) : undefined;
  if (typeof response !== 'object' || response === null) return '';
  const { message = response }: { message?: unknown } = response;
  if (typeof message !== 'object' || message === null) return '';
  if (!Array.isArray(message)) return jsonOf(message);
  return shortened(message.map((one) => (typeof one === 'string' ? one : jsonOf(one))).join('; '));
}

/** The errors that an AggregateError stands for, as that of a host with several addresses none of which answers. */
function innerOf(error: Error): string {
  const { errors } = error as { errors?: unknown };
  if (!Array.isArray(errors) || error.name !== 'AggregateError') return '';
  const told = errors
    .slice(0, MOST_INNER)
    .map((inner: unknown) =>
      isError(inner) ? `${inner.name}: ${shortened(inner.message, LONGEST_INNER)}` : jsonOf(inner),
    );
  const more = errors.length > told.length ? ` (and ${errors.length - told.length} more)` : '';
  return shortened(`${told.join('; ')}${more}`);
}

/** What JSON cannot say, or takes too many words for, as Node.js shows it. */
function jsonOf(thrown: unknown): string {
  let fields = 0;
  try {
    const json: unknown = JSON.stringify(thrown, (_name, value: unknown) => {
      fields += 1;
      if (fields > MOST_FIELDS) throw new RangeError('too many fields');
      return typeof value === 'string' ? shortened(value) : value;
    });
    if (typeof json === 'string') return shortened(json);
  } catch {
    // It goes round in a circle, or is too large.
  }
  return shortened(inspect(thrown, { depth: 2, maxArrayLength: 20, maxStringLength: 200, breakLength: Infinity }));
}

function shortened(text: string, longest = LONGEST): string {
  return text.length > longest ? `${text.slice(0, longest - 1)}…` : text;
}
