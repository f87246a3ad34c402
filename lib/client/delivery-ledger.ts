/**
 * The deliveries of one channel that await their answer, and which acknowledgements one basic.ack can say together.
 * Plain state: it sends nothing.
 *
 * Acknowledgements that are given in one turn of the event loop are said at its end:
 *
 * ```
 *   tags      5     6     7     8     9
 *   state   acked acked await acked await        basic.ack 6 multiple, basic.ack 8
 *           ^lowest                       ^next
 * ```
 *
 * `multiple` is for every tag up to the one it names, so that it is said only where all of them are answered: a delivery
 * that nobody has answered, of whichever consumer of the channel, ends the run.
 */

/** Answered, and the broker knows or is told at once. */
const SETTLED = 0;
const AWAITING = 1;
/** Acknowledged in this turn, and not said yet. */
const ACKED = 2;

const SMALLEST_RING = 64;
/** So far the tags of unanswered deliveries may lie apart; beyond it each acknowledgement is said alone. One octet a tag. */
const LARGEST_RING = 1 << 20;
/** So many deliveries without acknowledgement may come between two with one. */
const LARGEST_GAP = 1 << 12;

/**
 * How deliveries are known: `together`, by their place in the ring; `alone`, where tags do not follow each other or lie too far
 * apart, until all are answered; `always alone`, where a run of tags proves nothing.
 */
type Mode = 'together' | 'alone' | 'always alone';

export class DeliveryLedger {
  /** State by tag, a ring whose length is a power of two. */
  #states = new Uint8Array(SMALLEST_RING);
  /** The lowest tag that may be unanswered, and the one after the highest that was delivered. */
  #lowest = 1;
  #next = 1;
  #outstanding = 0;
  /** Acknowledged in this turn. */
  #acked: number[] = [];
  #mode: Mode = 'together';
  /** The unanswered tags, unless they are known `together`. */
  readonly #scattered = new Set<number>();

  /** How many deliveries nobody has answered. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Whether acknowledgements wait to be said. */
  get hasAcks(): boolean {
    return this.#acked.length > 0;
  }

  /** Notes a delivery that wants an answer. */
  delivered(deliveryTag: number): void {
    if (this.#outstanding === 0 && this.#acked.length === 0) {
      this.#lowest = this.#next = deliveryTag;
      if (this.#mode === 'alone') this.#mode = 'together';
    }
    this.#outstanding += 1;
    const gap = deliveryTag - this.#next;
    if (this.#mode === 'together' && (gap < 0 || gap > LARGEST_GAP || deliveryTag - this.#lowest >= LARGEST_RING)) {
      this.#scatter('alone');
    }
    if (this.#mode !== 'together') {
      this.#scattered.add(deliveryTag);
      return;
    }
    // A delivery without acknowledgement takes a tag as well.
    while (this.#next < deliveryTag) this.#push(SETTLED);
    this.#push(AWAITING);
  }

  /**
   * From now on each acknowledgement is said alone: there is a delivery that nobody will answer, or what was said may be taken
   * back, as in a transaction.
   */
  sayAlone(): void {
    this.#scatter('always alone');
  }

  /** Whether a delivery is unanswered. */
  isAwaiting(deliveryTag: number): boolean {
    if (this.#mode !== 'together') return this.#scattered.has(deliveryTag);
    return this.#isInRing(deliveryTag) && this.#states[deliveryTag & (this.#states.length - 1)] === AWAITING;
  }

  /** Notes an acknowledgement of what is awaited, to be said late; false when it has to be said at once. */
  ack(deliveryTag: number): boolean {
    this.#outstanding -= 1;
    if (this.#mode !== 'together') {
      this.#scattered.delete(deliveryTag);
      return false;
    }
    this.#states[deliveryTag & (this.#states.length - 1)] = ACKED;
    this.#acked.push(deliveryTag);
    return true;
  }

  /**
   * Notes an answer that is said at once; with `multiple` for everything up to it, and then tag 0 for everything. Returns how
   * many deliveries it answers.
   */
  settle(deliveryTag: number, multiple = false): number {
    if (multiple && deliveryTag === 0) {
      const all = this.#outstanding;
      this.forgetAll();
      return all;
    }
    const count =
      this.#mode === 'together' ? this.#settleRing(deliveryTag, multiple) : this.#settleSet(deliveryTag, multiple);
    this.#outstanding -= count;
    return count;
  }

  /** The broker has everything back: answers to what was delivered up to now are for nobody. */
  forgetAll(): void {
    this.#outstanding = 0;
    this.#acked = [];
    this.#lowest = this.#next;
    this.#scattered.clear();
  }

  /** Says the acknowledgements of this turn with as few methods as are right. */
  sayAcks(say: (deliveryTag: number, multiple: boolean) => void): void {
    const acked = this.#acked;
    this.#acked = [];
    const mask = this.#states.length - 1;
    let last = 0;
    let count = 0;
    for (; this.#lowest < this.#next; this.#lowest += 1) {
      const index = this.#lowest & mask;
      const state = this.#states[index];
      if (state === AWAITING) break;
      if (state === ACKED) {
        last = this.#lowest;
        count += 1;
      }
      this.#states[index] = SETTLED;
    }
    if (count > 0) say(last, count > 1);
    if (count === acked.length) return;
    for (const tag of acked) {
      if (tag < this.#lowest || this.#states[tag & mask] !== ACKED) continue;
      this.#states[tag & mask] = SETTLED;
      say(tag, false);
    }
  }

  #settleRing(deliveryTag: number, multiple: boolean): number {
    let count = 0;
    const last = Math.min(deliveryTag, this.#next - 1);
    for (let tag = multiple ? this.#lowest : Math.max(deliveryTag, this.#lowest); tag <= last; tag += 1) {
      const index = tag & (this.#states.length - 1);
      if (this.#states[index] === AWAITING) count += 1;
      this.#states[index] = SETTLED;
    }
    return count;
  }

  #settleSet(deliveryTag: number, multiple: boolean): number {
    if (!multiple) return this.#scattered.delete(deliveryTag) ? 1 : 0;
    const before = this.#scattered.size;
    for (const tag of this.#scattered) if (tag <= deliveryTag) this.#scattered.delete(tag);
    return before - this.#scattered.size;
  }

  #scatter(mode: 'alone' | 'always alone'): void {
    if (this.#mode === 'together') {
      for (let tag = this.#lowest; tag < this.#next; tag += 1) if (this.isAwaiting(tag)) this.#scattered.add(tag);
    }
    this.#mode = mode;
  }

  #isInRing(deliveryTag: number): boolean {
    return deliveryTag >= this.#lowest && deliveryTag < this.#next;
  }

  #push(state: typeof SETTLED | typeof AWAITING): void {
    if (this.#next - this.#lowest >= this.#states.length) this.#grow();
    this.#states[this.#next & (this.#states.length - 1)] = state;
    this.#next += 1;
  }

  #grow(): void {
    const [old, oldMask] = [this.#states, this.#states.length - 1];
    this.#states = new Uint8Array(old.length * 2);
    const mask = this.#states.length - 1;
    for (let tag = this.#lowest; tag < this.#next; tag += 1) this.#states[tag & mask] = old[tag & oldMask] as number;
  }
}
