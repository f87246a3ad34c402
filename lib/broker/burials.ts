/**
 * Dead letters on their way, one after the other: however long a chain of queues is through which they fall, no queue calls the
 * next. Where they go is the virtual host's.
 */
import type { BrokerMessage } from './broker-message.js';
import type { Clock } from './clock.js';
import type { DeathReason } from './message-notes.js';
import type { MessageQueue } from './message-queue.js';
import { Ring } from './ring.js';

export interface DeadLetter {
  readonly queue: MessageQueue;
  readonly message: BrokerMessage;
  readonly reason: DeathReason;
}

/**
 * So many are buried in one turn of the event loop. Queues that dead-letter to each other can make a million of one message,
 * and everybody else in the process is to have a turn in between.
 */
const BURIALS_PER_TURN = 5000;

export class Burials {
  readonly #clock: Clock;
  readonly #bury: (letter: DeadLetter) => void;
  readonly #moved: () => void;
  readonly #waiting = new Ring<DeadLetter>();
  #isBusy = false;
  #next: NodeJS.Immediate | undefined;

  /** @param moved - called in every turn in which letters are buried that an earlier one has left */
  constructor(clock: Clock, bury: (letter: DeadLetter) => void, moved: () => void) {
    this.#clock = clock;
    this.#bury = bury;
    this.#moved = moved;
  }

  /** It goes its way with the next `after`. */
  add(letter: DeadLetter): void {
    this.#waiting.push(letter);
  }

  /** What dies while `run` does something goes its way after that: first all copies of a message arrive, then dead letters. */
  after(run: () => void): void {
    if (this.#isBusy) {
      run();
      return;
    }
    this.#isBusy = true;
    try {
      run();
      this.#buryWaiting();
    } finally {
      this.#isBusy = false;
    }
  }

  /** Forgets those that wait. */
  clear(): void {
    clearImmediate(this.#next);
    this.#next = undefined;
    this.#waiting.clear();
  }

  #buryWaiting(): void {
    // Who moves time on finds everything done that falls due on the way.
    const most = this.#clock.isAdvancing ? Infinity : BURIALS_PER_TURN;
    for (let count = 0; count < most; count += 1) {
      const letter = this.#waiting.shift();
      if (letter === undefined) return;
      this.#bury(letter);
    }
    if (this.#waiting.count > 0) this.#next ??= setImmediate(() => this.#goOn());
  }

  #goOn(): void {
    this.#next = undefined;
    this.after(() => undefined);
    this.#moved();
  }
}
