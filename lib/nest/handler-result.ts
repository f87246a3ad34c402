/** What a handler returned, as the consumer takes it: Observables and async iterables run to their end, for their last value. */
import { isObservable, lastValueFrom } from 'rxjs';

/** True for what has values over time. */
export function isManyValued(result: unknown): boolean {
  return typeof result === 'object' && result !== null && (isObservable(result) || isAsyncIterable(result));
}

/** The last value; undefined where there is none. Values that have values over time themselves count by their last one. */
export async function lastValueOf(result: unknown): Promise<unknown> {
  if (isObservable(result)) return await lastValueOf(await lastValueFrom(result, { defaultValue: undefined }));
  if (!isAsyncIterable(result)) return result;
  let last: unknown;
  for await (const value of result) last = value;
  return last;
}

export function isAsyncIterable(result: unknown): result is AsyncIterable<unknown> {
  return typeof result === 'object' && result !== null && Symbol.asyncIterator in result;
}
