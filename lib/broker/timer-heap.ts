/** The timers of a clock, the next one first. Setting one up and cancelling one cost the logarithm of how many there are. */

/** A timer that is in a heap, or was. */
export interface HeapTimer {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** In order of set-up. */
  readonly place: number;
  readonly run: () => void;
  /** Where it is in the heap; -1 when it is in none. */
  index: number;
}

/** A binary heap: the earliest is at the top, of those of one time the one that was set up first. */
export class TimerHeap {
  readonly #timers: HeapTimer[] = [];

  peek(): HeapTimer | undefined {
    return this.#timers[0];
  }

  add(timer: HeapTimer): void {
    this.#rise(timer, this.#timers.length);
  }

  /** Harmless for a timer that is not there. */
  remove(timer: HeapTimer): void {
    const { index } = timer;
    const last = index === -1 ? undefined : this.#timers.pop();
    if (last === undefined) return;
    timer.index = -1;
    // The last one fills the gap, and goes up or down from there.
    if (last !== timer) this.#rise(last, this.#sink(last, index));
  }

  #rise(timer: HeapTimer, from: number): void {
    let at = from;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      const above = this.#timers[parent];
      if (above === undefined || isBefore(above, timer)) break;
      this.#put(above, at);
      at = parent;
    }
    this.#put(timer, at);
  }

  /** Moves up what is before the timer on its way down; returns where it may stand. */
  #sink(timer: HeapTimer, from: number): number {
    for (let at = from; ;) {
      const left = this.#timers[2 * at + 1];
      const right = this.#timers[2 * at + 2];
      const child = right !== undefined && left !== undefined && isBefore(right, left) ? right : left;
      if (child === undefined || isBefore(timer, child)) return at;
      const next = child.index;
      this.#put(child, at);
      at = next;
    }
  }

  #put(timer: HeapTimer, at: number): void {
    this.#timers[at] = timer;
    timer.index = at;
  }
}

function isBefore(one: HeapTimer, other: HeapTimer): boolean {
  return one.at < other.at || (one.at === other.at && one.place < other.place);
}
