/**
 * How long to wait between attempts: full jitter over a doubling range, so that a thousand clients that lost one broker do
 * not come back in step. Waiting itself is the caller's.
 */
import { AmqpError } from '../errors.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';
import { refuseUnknown } from './option-names.js';

/** How long to wait between attempts: a random time from 0 to an upper end that doubles with every failure. */
export interface BackoffOptions {
  /** Upper end of the first wait. @default '100ms' */
  readonly initialDelay?: Duration | undefined;
  /** Upper end of any wait. @default '30s' */
  readonly maxDelay?: Duration | undefined;
  /** A success that lasted this long starts the range anew. @default '10s' */
  readonly stableAfter?: Duration | undefined;
}

export class Backoff {
  readonly #initialDelay: number;
  readonly #maxDelay: number;
  readonly #stableAfter: number;
  #failures = 0;
  #succeededAt: number | undefined;

  /** Throws `INVALID_OPTION`. */
  constructor(options: BackoffOptions = {}) {
    refuseUnknown(options, ['initialDelay', 'maxDelay', 'stableAfter'], 'recovery has no option');
    this.#initialDelay = delay(options.initialDelay ?? '100ms', 'recovery.initialDelay');
    this.#maxDelay = delay(options.maxDelay ?? '30s', 'recovery.maxDelay');
    this.#stableAfter = timerMilliseconds(options.stableAfter ?? '10s', 'recovery.stableAfter');
  }

  /** Notes that an attempt worked. Only when it goes on working is the range reset: a success that breaks at once is none. */
  succeeded(): void {
    this.#succeededAt = performance.now();
  }

  /** Whether the last attempt worked, and has gone on working for `stableAfter`. */
  get isStable(): boolean {
    return this.#succeededAt !== undefined && performance.now() - this.#succeededAt >= this.#stableAfter;
  }

  /**
   * Notes a failure and returns the milliseconds to wait before the next attempt. `slowly`, for a failure that time will hardly
   * mend, goes to the full range at once.
   */
  next({ slowly = false }: { readonly slowly?: boolean } = {}): number {
    if (this.isStable) this.#failures = 0;
    this.#succeededAt = undefined;
    const range = slowly ? this.#maxDelay : Math.min(this.#maxDelay, this.#initialDelay * 2 ** this.#failures);
    this.#failures = Math.min(this.#failures + 1, 30);
    return Math.random() * range;
  }
}

/** A wait of nothing would make the loop around it run hot. */
function delay(duration: Duration, option: string): number {
  const value = timerMilliseconds(duration, option);
  if (value < 1) throw new AmqpError('INVALID_OPTION', `${option} has to be 1 ms or more.`);
  return value;
}
