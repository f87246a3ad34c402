/** One timer for many deadlines, set to the earliest of them: those of one publisher mostly come in publishing order. */
export class EarliestDeadline {
  readonly #passed: () => void;
  #timer: NodeJS.Timeout | undefined;
  #at = Infinity;

  /** `passed` is called when it has, and sets the next one. */
  constructor(passed: () => void) {
    this.#passed = passed;
  }

  /** A deadline, by `performance.now()`. */
  add(deadline: number): void {
    if (deadline >= this.#at) return;
    clearTimeout(this.#timer);
    this.#at = deadline;
    this.#timer = setTimeout(
      () => {
        this.#at = Infinity;
        this.#passed();
      },
      Math.max(1, Math.ceil(deadline - performance.now())),
    );
    // Never cleared when all is quiet, which would cost each publish a timer. A connection keeps the process alive by itself.
    this.#timer.unref();
  }
}
