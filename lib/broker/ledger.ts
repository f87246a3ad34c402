/**
 * The deliveries of one channel that await their answer, by delivery tag. Plain state: what an answer means to the queue is
 * the channel's.
 */
import type { QueueDelivery } from './message-queue.js';

/** Who holds a delivery: a consumer, whose prefetch it counts for, or nobody, after basic.get. */
export interface Unsettled<Holder> {
  readonly tag: number;
  readonly delivery: QueueDelivery;
  readonly holder: Holder | undefined;
}

export class Ledger<Holder> {
  /** In the order of tags, which is the order of insertion except after a rollback. */
  #entries = new Map<number, Unsettled<Holder>>();
  #lastTag = 0;

  get size(): number {
    return this.#entries.size;
  }

  /** The tag of the next delivery, which awaits no answer unless it is `add`ed. */
  nextTag(): number {
    this.#lastTag += 1;
    return this.#lastTag;
  }

  add(entry: Unsettled<Holder>): void {
    this.#entries.set(entry.tag, entry);
  }

  /**
   * Takes out what an acknowledgement names, in the order of tags; undefined when the channel knows no such tag. With `multiple`
   * that is everything up to the tag, and everything there is for tag 0, be it nothing.
   */
  take(tag: number, multiple: boolean): Unsettled<Holder>[] | undefined {
    if (!multiple) {
      const entry = this.#entries.get(tag);
      if (entry === undefined) return undefined;
      this.#entries.delete(tag);
      return [entry];
    }
    if (tag === 0) return this.takeAll();
    if (!this.#entries.has(tag)) return undefined;
    const taken: Unsettled<Holder>[] = [];
    for (const [known, entry] of this.#entries) {
      if (known > tag) break;
      taken.push(entry);
      this.#entries.delete(known);
    }
    return taken;
  }

  takeAll(): Unsettled<Holder>[] {
    const taken = [...this.#entries.values()];
    this.#entries.clear();
    return taken;
  }

  /** Takes entries back that a transaction had taken out. */
  putBack(entries: readonly Unsettled<Holder>[]): void {
    const all = [...this.#entries.values(), ...entries].sort((a, b) => a.tag - b.tag);
    this.#entries = new Map(all.map((entry) => [entry.tag, entry]));
  }
}
