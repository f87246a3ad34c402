/**
 * The order of a quorum queue of RabbitMQ 4.0. What came back goes before all others, in the order in which it came back. The
 * others have two priorities, from 5 up and below. Of three that are taken, two are of the high one: the third is of the low
 * one, unless the next high one is older. Only the next message can expire.
 */
import type { ReadyMessages, StoredMessage } from './ready-messages.js';
import { Ring } from './ring.js';

/** The lowest priority that is a high one. */
const HIGH = 5;

/** How many are taken before it is the turn of a low one. */
const WEIGHT = 2;

export class QuorumMessages implements ReadyMessages {
  readonly #returned = new Ring<StoredMessage>();
  readonly #high = new Ring<StoredMessage>();
  readonly #low = new Ring<StoredMessage>();
  #bytes = 0;
  /** Counts to `WEIGHT` and starts again, whatever is taken; those that came back do not count. */
  #turn = 0;

  get count(): number {
    return this.#returned.count + this.#high.count + this.#low.count;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get nextExpiry(): number {
    return this.#lane().peek()?.expiresAt ?? Infinity;
  }

  push(stored: StoredMessage): void {
    this.#add(stored.priority >= HIGH ? this.#high : this.#low, stored);
  }

  putBack(stored: StoredMessage): void {
    this.#add(this.#returned, stored);
  }

  take(): StoredMessage | undefined {
    const lane = this.#lane();
    const stored = lane.shift();
    if (stored === undefined) return undefined;
    if (lane !== this.#returned) this.#turn = following(this.#turn);
    this.#bytes -= stored.message.body.length;
    return stored;
  }

  takeExpired(now: number): StoredMessage | undefined {
    return this.nextExpiry <= now ? this.take() : undefined;
  }

  clear(): number {
    const { count } = this;
    for (const lane of [this.#returned, this.#high, this.#low]) lane.clear();
    this.#bytes = this.#turn = 0;
    return count;
  }

  *[Symbol.iterator](): Iterator<StoredMessage> {
    yield* this.#returned;
    const high = [...this.#high].reverse();
    const low = [...this.#low].reverse();
    for (let turn = this.#turn; high.length > 0 || low.length > 0; turn = following(turn)) {
      const next = isHighNext(high.at(-1), low.at(-1), turn) ? high.pop() : low.pop();
      if (next !== undefined) yield next;
    }
  }

  #add(lane: Ring<StoredMessage>, stored: StoredMessage): void {
    lane.push(stored);
    this.#bytes += stored.message.body.length;
  }

  /** The one with the next message. */
  #lane(): Ring<StoredMessage> {
    if (this.#returned.count > 0) return this.#returned;
    return isHighNext(this.#high.peek(), this.#low.peek(), this.#turn) ? this.#high : this.#low;
  }
}

function isHighNext(high: StoredMessage | undefined, low: StoredMessage | undefined, turn: number): boolean {
  if (high === undefined || low === undefined) return high !== undefined;
  return turn !== WEIGHT || high.place < low.place;
}

function following(turn: number): number {
  return turn === WEIGHT ? 0 : turn + 1;
}
