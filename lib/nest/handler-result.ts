/** What a handler returned, as the consumer takes it: Observables and async iterables run to their end, for their last value. */
import { type Observable, type Subscription, isObservable, lastValueFrom } from 'rxjs';
import { isStream } from '../messaging/replier.js';

/** True for what has values over time. */
export function isManyValued(result: unknown): boolean {
  return typeof result === 'object' && result !== null && (isObservable(result) || isStream(result));
}

/** The last value; undefined where there is none. Values that have values over time themselves count by their last one. */
export async function lastValueOf(result: unknown): Promise<unknown> {
  if (isObservable(result)) return await lastValueOf(await lastValueFrom(result, { defaultValue: undefined }));
  if (!isStream(result)) return result;
  let last: unknown;
  for await (const value of result) last = value;
  return last;
}

/** All values of a handler's result; those that have values over time themselves are replaced by these. `fail` is the filters. */
export class HandlerValues implements AsyncIterableIterator<unknown> {
  readonly #outer: AsyncIterator<unknown>;
  readonly #fail: (error: unknown) => unknown;
  #inner: AsyncIterator<unknown> | undefined;
  #isOver = false;

  constructor(result: unknown, fail: (error: unknown) => unknown) {
    this.#outer = iteratorOf(result);
    this.#fail = fail;
  }

  async next(): Promise<IteratorResult<unknown>> {
    if (this.#isOver) return { done: true, value: undefined };
    try {
      return await this.#next();
    } catch (error) {
      // What a filter returns is the last value; what it throws is the end.
      this.#isOver = true;
      return { done: false, value: await this.#fail(error) };
    }
  }

  async return(): Promise<IteratorResult<unknown>> {
    this.#isOver = true;
    await Promise.all([this.#inner?.return?.(), this.#outer.return?.()]);
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async #next(): Promise<IteratorResult<unknown>> {
    for (;;) {
      const next = await (this.#inner ?? this.#outer).next();
      if (next.done !== true) {
        if (!isManyValued(next.value)) return next;
        this.#inner = iteratorOf(next.value);
      } else if (this.#inner === undefined) {
        return next;
      } else {
        this.#inner = undefined;
      }
    }
  }
}

function iteratorOf(result: unknown): AsyncIterator<unknown> {
  if (isObservable(result)) return new ObservedValues(result);
  return (result as AsyncIterable<unknown>)[Symbol.asyncIterator]();
}

/** An Observable's values, kept until they are asked for: an Observable knows no back-pressure. */
class ObservedValues implements AsyncIterator<unknown> {
  readonly #subscription: Subscription;
  readonly #values: unknown[] = [];
  #end: { readonly error?: unknown } | undefined;
  #wake: (() => void) | undefined;

  constructor(source: Observable<unknown>) {
    this.#subscription = source.subscribe({
      next: (value) => {
        this.#values.push(value);
        this.#wake?.();
      },
      error: (error: unknown) => {
        this.#ended({ error });
      },
      complete: () => {
        this.#ended({});
      },
    });
  }

  async next(): Promise<IteratorResult<unknown>> {
    while (this.#values.length === 0) {
      if (this.#end !== undefined) {
        if ('error' in this.#end) throw this.#end.error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return { done: false, value: this.#values.shift() };
  }

  return(): Promise<IteratorResult<unknown>> {
    this.#subscription.unsubscribe();
    this.#values.length = 0;
    this.#ended({});
    return Promise.resolve({ done: true, value: undefined });
  }

  #ended(end: { readonly error?: unknown }): void {
    this.#end ??= end;
    this.#wake?.();
  }
}
