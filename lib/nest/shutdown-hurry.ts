/** The signal to the process that hurries a shutdown which is under way. Shutting down itself is Nest's, and the registry's. */

/** What a terminal, an orchestrator or a process manager ends processes with. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK', 'SIGQUIT'] as const;

/**
 * One Ctrl-C under `npm start` comes twice within milliseconds: from the terminal, and passed on by npm. What comes so soon, in
 * milliseconds, is no second thought.
 */
const SAME = 500;

/** Fires at a signal to the process that comes while it is listened for. */
export class ShutdownHurry implements Disposable {
  readonly #hurry = new AbortController();
  readonly #since = performance.now();
  readonly #listened: readonly (typeof SIGNALS)[number][];

  constructor() {
    // Nest ignores signals while it shuts down. Where nobody listens a signal ends the process, and a listener would keep it alive.
    this.#listened = SIGNALS.filter((signal) => process.listenerCount(signal) > 0);
    for (const signal of this.#listened) process.on(signal, this.#onSignal);
  }

  get signal(): AbortSignal {
    return this.#hurry.signal;
  }

  readonly #onSignal = (): void => {
    if (performance.now() - this.#since >= SAME) this.#hurry.abort();
  };

  [Symbol.dispose](): void {
    for (const signal of this.#listened) process.off(signal, this.#onSignal);
  }
}
