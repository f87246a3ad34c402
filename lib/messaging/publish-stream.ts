/** A stream of messages, published with back-pressure: how many are under way, when it stops, and what is known at the end. */
import { AmqpError, PublishAllError } from '../errors.js';
import { refuseUnknown } from '../client/option-names.js';
import { orAborted } from '../client/wait.js';

/** Options of `AmqpPublisher.publishAll`. */
export interface PublishAllOptions {
  /** Most messages that are pulled from the stream and not yet confirmed. @default 256 */
  readonly maxInFlight?: number | undefined;
  /** Stops pulling; what is under way is waited for. */
  readonly signal?: AbortSignal | undefined;
  /** Is told of every confirm how many there are so far. What it throws ends the stream. */
  readonly progress?: ((confirmed: number) => void) | undefined;
}

const OPTIONS = ['maxInFlight', 'signal', 'progress'] as const satisfies readonly (keyof PublishAllOptions)[];

/** Throws `INVALID_OPTION`. */
function checkOptions(options: PublishAllOptions): void {
  refuseUnknown(options, OPTIONS, 'publishAll has no option');
  const { maxInFlight = 256 } = options;
  if (!Number.isInteger(maxInFlight) || maxInFlight < 1)
    throw new AmqpError('INVALID_OPTION', 'maxInFlight of publishAll has to be an integer of 1 or more.');
}

/**
 * Publishes what a stream gives, in its order. It is asked for more while fewer than `maxInFlight` are unconfirmed, and not after the
 * first failure; it is closed then, as `for await` does with `break`. Resolves to the number of messages, all confirmed. Rejects, when
 * nothing is under way any more, with `PublishAllError`: how many were confirmed, and the first failure as its `cause`.
 */
export async function publishStream<Item>(
  items: AsyncIterable<Item> | Iterable<Item>,
  publish: (item: Item) => Promise<void>,
  options: PublishAllOptions = {},
): Promise<number> {
  checkOptions(options);
  const run = new Run(publish, options);
  const { signal } = options;
  const onAbort = (): void => {
    run.fail(signal?.reason);
  };
  if (signal?.aborted === true) onAbort();
  else signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await pull(items, run);
  } catch (cause) {
    run.fail(cause);
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
  return await run.outcome();
}

/** Until the end of the stream, or of the run: then also while the stream takes its time. */
async function pull<Item>(items: AsyncIterable<Item> | Iterable<Item>, run: Run<Item>): Promise<void> {
  const iterator = Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : items[Symbol.iterator]();
  let isDone = false;
  try {
    while (await run.hasRoom()) {
      const step = await orAborted(Promise.resolve(iterator.next()), run.ended);
      if (step.done === true) {
        isDone = true;
        return;
      }
      run.start(step.value);
    }
  } finally {
    // Not awaited: a generator that waits for something closes only when it has it.
    if (!isDone) Promise.resolve(iterator.return?.()).catch(() => undefined);
  }
}

/** What is under way, and what has become of the rest. */
class Run<Item> {
  readonly #publish: (item: Item) => Promise<void>;
  readonly #maxInFlight: number;
  readonly #progress: PublishAllOptions['progress'];
  readonly #end = new AbortController();
  #failure: { readonly cause: unknown } | undefined;
  #confirmed = 0;
  #inFlight = 0;
  #settled: () => void = () => undefined;

  constructor(publish: (item: Item) => Promise<void>, { maxInFlight = 256, progress }: PublishAllOptions) {
    this.#publish = publish;
    this.#maxInFlight = maxInFlight;
    this.#progress = progress;
  }

  /** Fires with the first failure. */
  get ended(): AbortSignal {
    return this.#end.signal;
  }

  /** Resolves when one more may be under way, or with false when none is to be any more. */
  async hasRoom(): Promise<boolean> {
    while (this.#failure === undefined && this.#inFlight >= this.#maxInFlight) await this.#nextSettled();
    return this.#failure === undefined;
  }

  start(item: Item): void {
    this.#inFlight += 1;
    void this.#started(item);
  }

  /** Only the first counts. */
  fail(cause: unknown): void {
    this.#failure ??= { cause };
    this.#end.abort(cause);
    this.#settled();
  }

  async outcome(): Promise<number> {
    while (this.#inFlight > 0) await this.#nextSettled();
    if (this.#failure !== undefined) throw new PublishAllError(this.#confirmed, this.#failure.cause);
    return this.#confirmed;
  }

  async #started(item: Item): Promise<void> {
    try {
      await this.#publish(item);
      this.#confirmed += 1;
      this.#progress?.(this.#confirmed);
    } catch (cause) {
      this.fail(cause);
    } finally {
      this.#inFlight -= 1;
      this.#settled();
    }
  }

  /** For one at a time: who pulls, then who waits for the end. */
  #nextSettled(): Promise<void> {
    return new Promise((resolve) => {
      this.#settled = resolve;
    });
  }
}
