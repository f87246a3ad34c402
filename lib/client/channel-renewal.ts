/**
 * When a publisher takes another channel although its own is open, because the broker goes on refusing what comes over it. Taking it
 * is the publisher's.
 *
 * The first publish of a channel to a quorum queue asks the node on which its leader was last, and RabbitMQ 3.10 asks no other: when
 * that node is down, it refuses this publish and all that follow it, until the node is back. Another channel asks anew, and finds the
 * leader of now. A queue that is full refuses over every channel, so that it is looked for ever more seldom.
 */

/** Milliseconds from one channel to the next; doubled each time. An election takes less than a second. */
const FIRST_WAIT = 1_000;
/** And when nothing was refused for so long, it begins with the first again. */
const LONGEST_WAIT = 60_000;
/** How long nothing is sent so that what is under way has its outcome before there is another channel, in milliseconds. */
const LANDING_TIME = 1_000;

export class ChannelRenewal {
  #wait = FIRST_WAIT;
  #since = performance.now();
  #refusedAt = -Infinity;
  #landing: NodeJS.Timeout | undefined;

  /** Nothing is to be sent until what is in flight has landed: then there is another channel. */
  get isUnderWay(): boolean {
    return this.#landing !== undefined;
  }

  /** It is under way, for a second at most; then `late` is called. */
  begin(late: () => void): void {
    this.#landing ??= setTimeout(() => {
      this.#landing = undefined;
      late();
    }, LANDING_TIME).unref();
  }

  end(): void {
    clearTimeout(this.#landing);
    this.#landing = undefined;
  }

  /** There is another channel, however that came. */
  opened(): void {
    this.end();
    this.#since = performance.now();
  }

  /** The broker has refused a publish. Says whether it is time for another channel. */
  isDue(): boolean {
    const now = performance.now();
    if (now - this.#refusedAt > LONGEST_WAIT) this.#wait = FIRST_WAIT;
    this.#refusedAt = now;
    if (now - this.#since < this.#wait) return false;
    this.#since = now;
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    return true;
  }
}
