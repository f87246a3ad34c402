/**
 * Publishing as many messages as a source has: it is asked for the next one when there is room for it, and no more once one has
 * failed. How a message is published is the publisher's.
 *
 * ```
 *   source ──next()──► under way (at most maxInFlight) ──confirmed──► counted, told to progress
 *                           └──────── the first failure, or the signal ────► no more next(); what is under way ends; PublishAllError
 * ```
 */
import { types } from 'node:util';
import { itIs } from '../client/option-names.js';
import { whenFired } from '../client/signals.js';
import { AmqpError, PublishAllError } from '../errors.js';
import type { PublishMessageOptions } from './publish-options.js';

/** How far a `publishAll` is. */
export interface PublishProgress {
  /** Messages that the broker has confirmed. */
  readonly confirmed: number;
  /** Messages that were taken from the source; those beyond `confirmed` are under way. */
  readonly taken: number;
}

/** Options of `publishAll`: of each of its messages, and of all of them together. */
export interface PublishAllOptions extends Omit<PublishMessageOptions, 'messageId'> {
  /** Most messages that are published and not confirmed; the source waits beyond. @default 1000 */
  readonly maxInFlight?: number | undefined;
  /** Is told how far it is: at most once for each turn of the event loop, and at the end. What it throws, or rejects with, ends the run. */
  readonly progress?: ((progress: PublishProgress) => unknown) | undefined;
  /** Ends the run at once. What was taken from the source by then may arrive. */
  readonly signal?: AbortSignal | undefined;
}

/** What of the options is about all messages. */
export interface RunOptions {
  readonly maxInFlight: number;
  readonly progress: PublishAllOptions['progress'];
  readonly signal: AbortSignal | undefined;
}

const DEFAULT_IN_FLIGHT = 1_000;

/** Parts the options of the run from those of each message. Throws `INVALID_OPTION`. */
export function runOptions(options: PublishAllOptions): { run: RunOptions; each: PublishMessageOptions | undefined } {
  const {
    maxInFlight = DEFAULT_IN_FLIGHT,
    progress,
    signal,
    messageId,
    ...each
  } = options as PublishAllOptions & PublishMessageOptions;
  if (!Number.isInteger(maxInFlight) || maxInFlight < 1)
    throw new AmqpError(
      'INVALID_OPTION',
      `maxInFlight of publishAll has to be a whole number from 1${itIs(maxInFlight)}`,
    );
  if (progress !== undefined && typeof progress !== 'function')
    throw new AmqpError('INVALID_OPTION', `progress of publishAll has to be a function${itIs(progress)}`);
  if (messageId !== undefined)
    throw new AmqpError('INVALID_OPTION', 'publishAll gives each message an id of its own: leave out messageId.');
  // Most say nothing of each, which is the quickest to publish.
  return { run: { maxInFlight, progress, signal }, each: Object.keys(each).length === 0 ? undefined : each };
}

export class PublishRun<T> {
  readonly #publish: (payload: T) => Promise<void>;
  readonly #options: RunOptions;
  #taken = 0;
  #confirmed = 0;
  #underWay = 0;
  /** The first that went wrong; nothing is taken after it. */
  #failure: { readonly why: string; readonly cause: unknown; readonly index: number | undefined } | undefined;
  /** Resolves the one wait that there is at a time. */
  #wake: () => void = () => undefined;
  #willTell = false;
  #isOver = false;

  constructor(publish: (payload: T) => Promise<void>, options: RunOptions) {
    this.#publish = publish;
    this.#options = options;
  }

  /** Publishes all; resolves to their number. Rejects with `PublishAllError`. */
  async of(source: Iterable<T> | AsyncIterable<T>): Promise<number> {
    const { signal } = this.#options;
    const abort = (): void => {
      this.#fail('its signal fired', signal?.reason);
    };
    if (signal?.aborted === true) abort();
    const unlisten = signal && whenFired(signal, abort);
    try {
      await this.#take(source);
      while (this.#underWay > 0 && signal?.aborted !== true) await this.#woken();
      this.#tell();
    } finally {
      unlisten?.();
      // What is still under way after an abort is told to nobody.
      this.#isOver = true;
    }
    if (this.#failure === undefined) return this.#confirmed;
    const isAborted = signal?.aborted === true;
    throw new PublishAllError({ ...this.#failure, isAborted, confirmed: this.#confirmed, taken: this.#taken });
  }

  async #take(source: Iterable<T> | AsyncIterable<T>): Promise<void> {
    const iterator = iteratorOf(source);
    while (this.#failure === undefined) {
      if (this.#underWay >= this.#options.maxInFlight) {
        await this.#woken();
        continue;
      }
      let next: IteratorResult<T> | undefined;
      try {
        next = await this.#nextOf(iterator);
      } catch (error) {
        // A source that throws is at its end.
        this.#fail('its source failed', error);
        return;
      }
      if (next?.done === true) return;
      if (next !== undefined) this.#begin(next.value);
    }
    // Not awaited: one that is asked for its next item may answer that first, or never.
    void closed(iterator);
  }

  /** Undefined when something went wrong meanwhile. Without a race: that would hold on to every wait until the end. */
  #nextOf(iterator: AsyncIterator<T>): Promise<IteratorResult<T> | undefined> {
    return new Promise((resolve, reject) => {
      this.#wake = () => {
        if (this.#failure !== undefined) resolve(undefined);
      };
      iterator.next().then(resolve, reject);
    });
  }

  #begin(payload: T): void {
    const index = this.#taken;
    this.#taken += 1;
    this.#underWay += 1;
    this.#publish(payload).then(
      () => {
        this.#confirmed += 1;
        this.#ended();
        this.#tellSoon();
      },
      (error: unknown) => {
        this.#fail(`message ${index} failed`, error, index);
        this.#ended();
      },
    );
  }

  #ended(): void {
    this.#underWay -= 1;
    this.#wake();
  }

  #fail(why: string, cause: unknown, index?: number): void {
    this.#failure ??= { why, cause, index };
    this.#wake();
  }

  #tellSoon(): void {
    if (this.#isOver || this.#willTell || this.#options.progress === undefined) return;
    this.#willTell = true;
    setImmediate(() => {
      this.#willTell = false;
      if (this.#underWay > 0 && !this.#isOver) this.#tell();
    });
  }

  #tell(): void {
    const failed = (error: unknown): void => {
      this.#fail('its progress callback failed', error);
    };
    try {
      const told = this.#options.progress?.({ confirmed: this.#confirmed, taken: this.#taken });
      // An async function is a callback too.
      if (types.isPromise(told)) told.catch(failed);
    } catch (error) {
      failed(error);
    }
  }

  #woken(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

/** Throws `INVALID_ARGUMENT`. */
function iteratorOf<T>(source: Iterable<T> | AsyncIterable<T>): AsyncIterator<T> {
  // Also from plain JavaScript.
  const given = source as Partial<Iterable<T> & AsyncIterable<T>> | string | null | undefined;
  if (typeof given === 'string' || given instanceof Uint8Array)
    throw noSource('One payload alone is published by publish().');
  if (typeof given?.[Symbol.asyncIterator] === 'function') return (source as AsyncIterable<T>)[Symbol.asyncIterator]();
  if (typeof given?.[Symbol.iterator] === 'function') return asynchronous(source as Iterable<T>);
  throw noSource('');
}

function noSource(advice: string): AmqpError {
  return new AmqpError(
    'INVALID_ARGUMENT',
    `publishAll is given its payloads as something to iterate over: an array, a generator, a stream of objects. ${advice}`.trimEnd(),
  );
}

/** Promises among the items are awaited. */
// eslint-disable-next-line @typescript-eslint/require-await -- yield* awaits
async function* asynchronous<T>(source: Iterable<T>): AsyncGenerator<T> {
  yield* source;
}

async function closed<T>(iterator: AsyncIterator<T>): Promise<void> {
  try {
    await iterator.return?.();
  } catch {
    // What it fails with on its way out changes nothing about why it had to go.
  }
}
