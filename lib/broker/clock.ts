/** The time that the embedded broker goes by: the real one, or one that moves only when a test tells it to. */

/** Something that will happen unless it is cancelled. */
export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Runs `run` once, `ms` milliseconds from now. */
  after(ms: number, run: () => void): Timer;
}

/** `setTimeout` fires at once for more milliseconds than this. */
const LONGEST_TIMEOUT = 0x7fff_ffff;

/** Real time. Its timers do not keep the process alive. */
export class SystemClock implements Clock {
  now(): number {
    return Date.now();
  }

  after(ms: number, run: () => void): Timer {
    let left = ms;
    const fire = (): void => {
      if (left > 0) next();
      else run();
    };
    let timeout: NodeJS.Timeout;
    const next = (): void => {
      const wait = Math.min(left, LONGEST_TIMEOUT);
      left -= wait;
      timeout = setTimeout(fire, wait);
      timeout.unref();
    };
    next();
    return { cancel: () => clearTimeout(timeout) };
  }
}

interface ManualTimer extends Timer {
  readonly at: number;
  readonly run: () => void;
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
  /** In order of time, and of set-up where the time is the same. */
  #timers: ManualTimer[] = [];

  /** @param start - milliseconds since 1970 @default 2025-01-01T00:00:00Z */
  constructor(start = Date.UTC(2025, 0, 1)) {
    this.#now = start;
  }

  now(): number {
    return this.#now;
  }

  after(ms: number, run: () => void): Timer {
    const timer: ManualTimer = {
      at: this.#now + Math.max(0, ms),
      run,
      cancel: () => {
        const index = this.#timers.indexOf(timer);
        if (index !== -1) this.#timers.splice(index, 1);
      },
    };
    let low = 0;
    for (let high = this.#timers.length; low < high;) {
      const middle = (low + high) >>> 1;
      if ((this.#timers[middle] as ManualTimer).at <= timer.at) low = middle + 1;
      else high = middle;
    }
    this.#timers.splice(low, 0, timer);
    return timer;
  }

  /**
   * Moves time on by `ms` milliseconds. What falls due on the way happens in order of time, then of set-up, each at its own
   * time; what that sets up for no later than the end happens as well.
   */
  advance(ms: number): void {
    if (!(ms >= 0)) throw new RangeError(`Time moves forward only: advance(${ms}).`);
    const end = this.#now + ms;
    for (let next = this.#timers[0]; next !== undefined && next.at <= end; next = this.#timers[0]) {
      this.#timers.shift();
      this.#now = Math.max(this.#now, next.at);
      next.run();
    }
    this.#now = Math.max(this.#now, end);
  }
}
