/** Waiting until nothing moves in a broker any more. */
import { AmqpError } from '../errors.js';

/** What says whether there is something to wait for. */
interface Restless {
  /** What is not settled, in words; undefined when all is. */
  unsettled(): string | undefined;
}

/**
 * So many turns of the event loop nothing may have happened in: what a client in this process was sent it reads in the next
 * turn or the one after, and it answers in another.
 */
const QUIET_TURNS = 5;

export class Quiet {
  readonly #restless: Restless;
  #moves = 0;
  readonly #waiting = new Set<() => void>();

  constructor(restless: Restless) {
    this.#restless = restless;
  }

  /** Something has happened. */
  moved(): void {
    this.#moves += 1;
    if (this.#waiting.size === 0) return;
    for (const wake of this.#waiting) wake();
  }

  /** Resolves when nothing is left to happen. Rejects with `ABORTED`, naming what is, after `timeout` ms or by `signal`. */
  async settled(timeout: number, signal: AbortSignal | undefined): Promise<void> {
    const end = new AbortController();
    const timer = setTimeout(() => end.abort(), timeout);
    const abort = (): void => end.abort();
    signal?.addEventListener('abort', abort);
    if (signal?.aborted === true) end.abort();
    try {
      while (!(await this.#isQuiet())) {
        if (end.signal.aborted) throw this.#aborted(timeout, signal);
        if (this.#restless.unsettled() !== undefined) await this.#nextMove(end.signal);
      }
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }

  async #isQuiet(): Promise<boolean> {
    for (let turns = 0, moves = this.#moves; turns < QUIET_TURNS; turns += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      if (moves !== this.#moves) return false;
    }
    return this.#restless.unsettled() === undefined;
  }

  async #nextMove(end: AbortSignal): Promise<void> {
    let wake = (): void => undefined;
    const moved = new Promise<void>((resolve) => {
      wake = resolve;
    });
    this.#waiting.add(wake);
    end.addEventListener('abort', wake);
    if (!end.aborted) await moved;
    this.#waiting.delete(wake);
    end.removeEventListener('abort', wake);
  }

  #aborted(timeout: number, signal: AbortSignal | undefined): AmqpError {
    const left = this.#restless.unsettled() ?? 'messages still move';
    if (signal?.aborted === true) {
      return new AmqpError('ABORTED', `Waiting for the embedded broker to settle was aborted: ${left}.`, {
        cause: signal.reason,
      });
    }
    return new AmqpError(
      'ABORTED',
      `The embedded broker has not settled within ${timeout} ms: ${left}. Settle what was delivered, or give settled() more time.`,
    );
  }
}
