/** The wait for an exclusive queue that a lost connection holds until the broker notices that it is lost (405). */
import { Backoff } from './backoff.js';
import { pause } from './wait.js';

/** A lock that a lost connection held is gone after three heartbeats at the latest; and a little more. */
const LOCK_SLACK = 5_000;
const LOCK_WITHOUT_HEARTBEAT = 30_000;

/** Waits for a queue that a connection still holds which the broker has not noticed to be lost (405), with an end. */
export class Lock {
  readonly #backoff = new Backoff();
  readonly #giveUpAt: number;

  constructor(heartbeat: number) {
    this.#giveUpAt = performance.now() + (heartbeat === 0 ? LOCK_WITHOUT_HEARTBEAT : heartbeat * 3 + LOCK_SLACK);
  }

  async waitsFor(signal: AbortSignal): Promise<boolean> {
    if (performance.now() > this.#giveUpAt) return false;
    await pause(this.#backoff.next(), signal);
    signal.throwIfAborted();
    return true;
  }
}
