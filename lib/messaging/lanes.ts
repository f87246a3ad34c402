/**
 * What waits for its turn: items of one key one at a time, in the order in which they came, those of different keys side by side, up
 * to a number. Keys are compared as those of a Map; an item without a key (undefined) waits for no other.
 */

interface Lane<Id, Item> {
  readonly key: unknown;
  /** In order of arrival. */
  waiting: { readonly id: Id; readonly item: Item }[];
  isBusy: boolean;
}

export class Lanes<Id, Item> {
  readonly #concurrency: number;
  readonly #begin: (item: Item) => void;
  /** Of every key that has an item; it goes with the last one. */
  readonly #lanes = new Map<unknown, Lane<Id, Item>>();
  /** Those whose first item may begin, the longest waiting first. */
  #ready: Lane<Id, Item>[] = [];
  readonly #running = new Map<Id, Lane<Id, Item>>();
  #isBeginning = false;

  /** `begin` must not throw. Whoever begins an item says so when it has `ended`, by its id. */
  constructor(concurrency: number, begin: (item: Item) => void) {
    this.#concurrency = concurrency;
    this.#begin = begin;
  }

  /** Keys that are remembered. */
  get size(): number {
    return this.#lanes.size;
  }

  add(key: unknown, id: Id, item: Item): void {
    const lane = this.#lanes.get(key) ?? { key, waiting: [], isBusy: false };
    if (key !== undefined) this.#lanes.set(key, lane);
    lane.waiting.push({ id, item });
    if (!lane.isBusy && lane.waiting.length === 1) this.#ready.push(lane);
    this.#beginReady();
  }

  /** The next of its key may begin. An id that was not begun here is ignored. */
  ended(id: Id): void {
    const lane = this.#running.get(id);
    if (lane === undefined) return;
    this.#running.delete(id);
    lane.isBusy = false;
    if (lane.waiting.length > 0) this.#ready.push(lane);
    else this.#lanes.delete(lane.key);
    this.#beginReady();
  }

  /** Takes out what has not begun. What runs still keeps its key busy. */
  clear(): Item[] {
    const lanes = new Set([...this.#ready.splice(0), ...this.#lanes.values()]);
    const items = [...lanes].flatMap((lane) => lane.waiting.splice(0).map(({ item }) => item));
    for (const { key, isBusy } of lanes) if (!isBusy) this.#lanes.delete(key);
    return items;
  }

  /** In a loop: what ends at once would begin the next ever deeper in the stack. */
  #beginReady(): void {
    if (this.#isBeginning) return;
    this.#isBeginning = true;
    while (this.#running.size < this.#concurrency) {
      const lane = this.#ready.shift();
      const next = lane?.waiting.shift();
      if (lane === undefined || next === undefined) break;
      lane.isBusy = true;
      this.#running.set(next.id, lane);
      this.#begin(next.item);
    }
    this.#isBeginning = false;
  }
}
