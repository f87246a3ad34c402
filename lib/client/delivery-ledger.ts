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

export class DeliveryLedger {
  /** State by tag, a ring whose length is a power of two. */
  #states = new Uint8Array(SMALLEST_RING);
  /** The lowest tag that may be unanswered, and the one after the highest that was delivered. */
  #lowest = 1;
  #next = 1;
  #outstanding = 0;
  /** Acknowledged in this turn. */
  #acked: number[] = [];
  /** False when tags do not follow each other, or lie too far apart: until all are answered nothing is said together. */
  #isTracked = true;
  /** There is a delivery that nobody will answer. */
  #isHeldBack = false;

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
      this.#isTracked = !this.#isHeldBack;
    }
    this.#outstanding += 1;
    if (!this.#isTracked) return;
    const gap = deliveryTag - this.#next;
    if (gap < 0 || gap > LARGEST_GAP || deliveryTag - this.#lowest >= LARGEST_RING) {
      this.#isTracked = false;
      return;
    }
    // A delivery without acknowledgement takes a tag as well.
    while (this.#next < deliveryTag) this.#push(SETTLED);
    this.#push(AWAITING);
  }

  /** There is a delivery that nobody will answer: from now on no acknowledgement may be said for more than one. */
  holdBack(): void {
    this.#isHeldBack = true;
    this.#isTracked = false;
  }

  /** False when it is known to be answered. */
  isAwaiting(deliveryTag: number): boolean {
    return this.#isKnown(deliveryTag)
      ? this.#states[deliveryTag & (this.#states.length - 1)] === AWAITING
      : this.#outstanding > 0;
  }

  /** Notes an acknowledgement to be said late; false when it has to be said at once. */
  ack(deliveryTag: number): boolean {
    this.#outstanding -= 1;
    if (!this.#isKnown(deliveryTag)) return false;
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
    if (!this.#isKnown(deliveryTag)) {
      // Where tags are not tracked nobody knows how many there are up to this one.
      const count = multiple ? 0 : Math.min(1, this.#outstanding);
      this.#outstanding -= count;
      return count;
    }
    let count = 0;
    for (let tag = multiple ? this.#lowest : deliveryTag; tag <= deliveryTag; tag += 1) {
      const index = tag & (this.#states.length - 1);
      if (this.#states[index] === AWAITING) count += 1;
      this.#states[index] = SETTLED;
    }
    this.#outstanding -= count;
    return count;
  }

  /** The broker has everything back: answers to what was delivered up to now are for nobody. */
  forgetAll(): void {
    this.#outstanding = 0;
    this.#acked = [];
    this.#lowest = this.#next;
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

  #isKnown(deliveryTag: number): boolean {
    return this.#isTracked && deliveryTag >= this.#lowest && deliveryTag < this.#next;
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
