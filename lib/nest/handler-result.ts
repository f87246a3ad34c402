/** What a handler returned, as the consumer takes it: Observables and async iterables run to their end, for their last value. */
import { Observable, type Subscription, isObservable, lastValueFrom, takeUntil } from 'rxjs';
import { quietly } from '../client/listeners.js';
import { orAborted } from '../client/wait.js';
import type { AmqpError } from '../errors.js';
import type { Delivery } from '../messaging/delivery.js';
import { isStream } from '../messaging/replier.js';

/** True for what has values over time. */
export function isManyValued(result: unknown): boolean {
  return typeof result === 'object' && result !== null && (isObservable(result) || isStream(result));
}

/** What a handler gets beside the payload, or the payloads. */
export type Delivered = Delivery | readonly Delivery[];

/**
 * Fires when the values of a handler are for nothing: with `delivery.signal`, but not over a lost channel where the handler has
 * answered before, because then the broker does not deliver the message again, and nobody else does its work.
 */
export function stopSignal(delivered: Delivered): AbortSignal {
  const deliveries = isBatch(delivered) ? delivered : [delivered];
  const stop = new AbortController();
  for (const { signal } of deliveries) {
    const fired = (): void => {
      if (isForNothing(signal.reason as Partial<AmqpError>, deliveries)) stop.abort(signal.reason);
    };
    if (signal.aborted) fired();
    else signal.addEventListener('abort', fired, { once: true });
  }
  return stop.signal;
}

/** Fires when the first of a batch's signals has, and all that fire at the same time: then a listener finds them all fired. */
export function signalOf(deliveries: readonly Delivery[]): AbortSignal {
  const fired = new AbortController();
  for (const { signal } of deliveries) {
    if (signal.aborted) fired.abort(signal.reason);
    else {
      const fire = (): void => {
        queueMicrotask(() => {
          fired.abort(signal.reason);
        });
      };
      signal.addEventListener('abort', fire, { once: true });
    }
  }
  return fired.signal;
}

/** What the signal of `stopSignal` has fired with; undefined while the work of a handler is of use. */
export function stoppedBy(delivered: Delivered): AmqpError | undefined {
  const deliveries = isBatch(delivered) ? delivered : [delivered];
  return deliveries.map(({ firedWith }) => firedWith).find((why) => why !== undefined && isForNothing(why, deliveries));
}

function isForNothing({ code }: Partial<AmqpError>, deliveries: readonly Delivery[]): boolean {
  return code !== 'CHANNEL_CLOSED' || !deliveries.some(({ isAnswered }) => isAnswered);
}

/**
 * The last value; undefined where there is none. Values that have values over time themselves count by their last one. Rejects with
 * the reason of `stop` when that fires; what runs then is unsubscribed from, or returned, and what has not begun does not begin.
 */
export async function lastValueOf(result: unknown, stop: AbortSignal): Promise<unknown> {
  if (isObservable(result)) {
    const last = await lastValueFrom(result.pipe(takeUntil(failingWith(stop))), { defaultValue: undefined });
    return await lastValueOf(last, stop);
  }
  return isStream(result) ? await lastValueOf(await lastIn(result, stop), stop) : result;
}

async function lastIn(values: AsyncIterable<unknown>, stop: AbortSignal): Promise<unknown> {
  stop.throwIfAborted();
  const iterator = values[Symbol.asyncIterator]();
  try {
    let last: unknown;
    for (;;) {
      const next = await orAborted(iterator.next(), stop);
      if (next.done === true) return last;
      last = next.value;
    }
  } catch (error) {
    if (stop.aborted) quietly(() => iterator.return?.());
    throw error;
  }
}

/** Has no value, and fails when the signal fires. */
function failingWith(signal: AbortSignal): Observable<never> {
  return new Observable((subscriber) => {
    const fail = (): void => {
      subscriber.error(signal.reason);
    };
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
    return () => {
      signal.removeEventListener('abort', fail);
    };
  });
}

/** Whether whoever gets the result wants all of its values. Nobody replies to a batch. */
export function wantsValues(delivered: Delivered): boolean {
  return !isBatch(delivered) && delivered.wantsStream;
}

function isBatch(delivered: Delivered): delivered is readonly Delivery[] {
  return Array.isArray(delivered);
}

/**
 * All values of a handler's result; those that have values over time themselves are replaced by these. `fail` is the filters. It begins
 * when somebody begins to iterate, not when the first value is asked for: an Observable may have values only once. With `empty`
 * they fail with that error when there are none.
 */
export class HandlerValues implements AsyncIterableIterator<unknown> {
  readonly #result: unknown;
  readonly #fail: (error: unknown) => unknown;
  #empty: { readonly error: unknown } | undefined;
  #outer: AsyncIterator<unknown> | undefined;
  #inner: AsyncIterator<unknown> | undefined;
  #isOver = false;

  constructor(result: unknown, fail: (error: unknown) => unknown, empty?: { readonly error: unknown }) {
    this.#result = result;
    this.#fail = fail;
    this.#empty = empty;
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
    await Promise.all([this.#inner?.return?.(), this.#outer?.return?.()]);
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    this.#outer ??= iteratorOf(this.#result);
    return this;
  }

  async #next(): Promise<IteratorResult<unknown>> {
    const outer = (this.#outer ??= iteratorOf(this.#result));
    for (;;) {
      const next = await (this.#inner ?? outer).next();
      if (next.done !== true) {
        if (isManyValued(next.value)) {
          this.#inner = iteratorOf(next.value);
          continue;
        }
        this.#empty = undefined;
        return next;
      } else if (this.#inner === undefined) {
        if (this.#empty !== undefined) throw this.#empty.error;
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
