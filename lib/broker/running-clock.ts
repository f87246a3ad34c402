/** Real time that a test can push forward. */
import { type Clock, ManualClock, type Timer } from './clock.js';

/** `setTimeout` fires at once for more milliseconds than this. */
const LONGEST_TIMEOUT = 0x7fff_ffff;

/** Runs with real time, and as much ahead of it as it was told to. Its timers do not keep the process alive. */
export class RunningClock implements Clock {
  /** Holds the timers, and is moved to the time that it is when one of them is due. */
  readonly #timers = new ManualClock(Date.now());
  /** What `#timers` showed at the moment 0 of `performance.now()`: the system's own clock may jump. */
  #origin = this.#timers.now() - performance.now();
  #isMoving = false;

  now(): number {
    // While timers fire, each sees its own time.
    return this.#isMoving ? this.#timers.now() : Math.floor(this.#origin + performance.now());
  }

  after(ms: number, run: () => void): Timer {
    const lag = this.now() - this.#timers.now();
    const due = this.now() + ms;
    let timeout: NodeJS.Timeout | undefined;
    const timer = this.#timers.after(lag + ms, () => {
      clearTimeout(timeout);
      run();
    });
    const wait = (): void => {
      const left = due - this.now();
      if (left <= 0) {
        this.#moveTo(due);
        return;
      }
      timeout = setTimeout(wait, Math.min(left, LONGEST_TIMEOUT));
      timeout.unref();
    };
    timeout = setTimeout(wait, Math.min(Math.max(0, ms), LONGEST_TIMEOUT));
    timeout.unref();
    return {
      cancel: () => {
        clearTimeout(timeout);
        timer.cancel();
      },
    };
  }

  /** Everything that falls due within the next `ms` milliseconds happens now, in order. */
  advance(ms: number): void {
    const end = this.now() + ms;
    this.#origin += ms;
    this.#moveTo(end);
  }

  #moveTo(end: number): void {
    const wasMoving = this.#isMoving;
    this.#isMoving = true;
    try {
      const left = end - this.#timers.now();
      if (left >= 0) this.#timers.advance(left);
    } finally {
      this.#isMoving = wasMoving;
    }
  }
}
