/** Real time that a test can push forward. */
import { type Clock, ManualClock, type Timer } from './clock.js';

/** `setTimeout` fires at once for more milliseconds than this. */
const LONGEST_TIMEOUT = 0x7fff_ffff;

/** Runs with real time, and as much ahead of it as it was told to. Its timers do not keep the process alive. */
export class RunningClock implements Clock {
  /** Holds the timers, and is moved to the time that it is when one of them is due. */
  readonly #timers = new ManualClock(Date.now());
  /** What `#timers` showed at the moment 0 of `performance.now()`: the system's own clock may jump. */
  #origin: number = this.#timers.now() - performance.now();
  #isMoving = false;
  #isAdvancing = false;
  readonly #alarms = new Set<Alarm>();

  now(): number {
    // While timers fire, each sees its own time.
    return this.#isMoving ? this.#timers.now() : Math.floor(this.#origin + performance.now());
  }

  get isAdvancing(): boolean {
    return this.#isAdvancing;
  }

  after(ms: number, run: () => void): Timer {
    // The timers may be some fraction of a millisecond ahead, and what is due before their time would never ring.
    const due = Math.max(this.now(), this.#timers.now()) + Math.max(0, ms);
    const alarm = new Alarm(due, () => {
      const left = due - this.now();
      if (left > 0) alarm.set(left);
      else this.#moveTo(due);
    });
    this.#alarms.add(alarm);
    const end = (): void => {
      alarm.stop();
      this.#alarms.delete(alarm);
    };
    const timer = this.#timers.after(due - this.#timers.now(), () => {
      end();
      run();
    });
    alarm.set(due - this.now());
    return {
      cancel: () => {
        end();
        timer.cancel();
      },
    };
  }

  /** Everything that falls due within the next `ms` milliseconds happens now, in order. */
  advance(ms: number): void {
    // Whole milliseconds, as everything else here has.
    const whole = Math.ceil(ms);
    const end = this.now() + whole;
    this.#origin += whole;
    const wasAdvancing = this.#isAdvancing;
    this.#isAdvancing = true;
    try {
      this.#moveTo(end);
    } finally {
      this.#isAdvancing = wasAdvancing;
    }
    // What is left is nearer by as much.
    for (const alarm of this.#alarms) alarm.set(alarm.due - this.now());
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

/** A timer of Node's that rings when one of ours may be due, and can be set anew. */
class Alarm {
  readonly due: number;
  readonly #ring: () => void;
  #timeout: NodeJS.Timeout | undefined;

  constructor(due: number, ring: () => void) {
    this.due = due;
    this.#ring = ring;
  }

  set(ms: number): void {
    clearTimeout(this.#timeout);
    this.#timeout = setTimeout(this.#ring, Math.min(ms, LONGEST_TIMEOUT));
    this.#timeout.unref();
  }

  stop(): void {
    clearTimeout(this.#timeout);
  }
}
