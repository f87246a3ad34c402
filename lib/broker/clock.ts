/** The time that the embedded broker goes by, and the clock that moves only when a test tells it to (`running-clock` is real time). */
import { type HeapTimer, TimerHeap } from './timer-heap.js';

/** Something that will happen unless it is cancelled. */
export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Somebody moves time on, and waits for what falls due on the way. */
  readonly isAdvancing: boolean;
  /** Runs `run` once, `ms` milliseconds from now. */
  after(ms: number, run: () => void): Timer;
}

/**
 * Time that stands still until it is told to move.
 *
 * @example
 * ```ts
 * const clock = new ManualClock();
 * clock.advance(600_000);
 * ```
 */
export class ManualClock implements Clock {
  #now: number;
  readonly #timers = new TimerHeap();
  /** How many timers were set up. */
  #count = 0;
  #isAdvancing = false;

  /** @param start - milliseconds since 1970 @default 2025-01-01T00:00:00Z */
  constructor(start = Date.UTC(2025, 0, 1)) {
    this.#now = start;
  }

  now(): number {
    return this.#now;
  }

  get isAdvancing(): boolean {
    return this.#isAdvancing;
  }

  after(ms: number, run: () => void): Timer {
    this.#count += 1;
    const timer: HeapTimer = { at: this.#now + Math.max(0, ms), place: this.#count, run, index: -1 };
    this.#timers.add(timer);
    return { cancel: () => this.#timers.remove(timer) };
  }

  /**
   * Moves time on by `ms` milliseconds. What falls due on the way happens in order of time, then of set-up, each at its own
   * time; what that sets up for no later than the end happens as well.
   */
  advance(ms: number): void {
    if (!(ms >= 0)) throw new RangeError(`Time moves forward only: advance(${ms}).`);
    const end = this.#now + ms;
    const wasAdvancing = this.#isAdvancing;
    this.#isAdvancing = true;
    try {
      for (let next = this.#timers.peek(); next !== undefined && next.at <= end; next = this.#timers.peek()) {
        this.#timers.remove(next);
        this.#now = Math.max(this.#now, next.at);
        next.run();
      }
    } finally {
      this.#isAdvancing = wasAdvancing;
    }
    this.#now = Math.max(this.#now, end);
  }
}
