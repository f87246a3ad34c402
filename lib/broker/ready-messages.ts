/** The messages of a queue that are ready to be taken, in order. Which message goes where is the queue's. */
import type { BrokerMessage } from './broker-message.js';

/** A message in a queue. */
export interface StoredMessage {
  readonly message: BrokerMessage;
  /** Its place: the lower goes first. It stays the message's own while it is handed out. */
  place: number;
  /** 0 on a queue without priorities. */
  readonly priority: number;
  /** Milliseconds since 1970; `Infinity` when it waits for ever. */
  readonly expiresAt: number;
  /** How often it came back unsettled. */
  returns: number;
}

export class ReadyMessages {
  /** By priority. */
  readonly #lanes: Lane[];
  /** Nothing is ready above it. */
  #top = 0;
  #count = 0;
  #bytes = 0;

  /** @param maxPriority - the highest priority there is; 0 for a queue without them */
  constructor(maxPriority: number) {
    this.#lanes = Array.from({ length: maxPriority + 1 }, () => new Lane());
  }

  get count(): number {
    return this.#count;
  }

  /** Bytes of their bodies. */
  get bytes(): number {
    return this.#bytes;
  }

  /** When the first of those that are at a head expires; `Infinity` when none does. */
  get nextExpiry(): number {
    let next = Infinity;
    for (let priority = this.#top; priority >= 0; priority -= 1) {
      next = Math.min(next, this.#lanes[priority]?.peek()?.expiresAt ?? Infinity);
    }
    return next;
  }

  /** A message behind all others of its priority. */
  push(stored: StoredMessage): void {
    this.#lane(stored).ring.push(stored);
  }

  /** A message that goes to its place, before or among the others. */
  insert(stored: StoredMessage): void {
    this.#lane(stored).returned.push(stored);
  }

  take(): StoredMessage | undefined {
    for (; this.#top > 0 && this.#lanes[this.#top]?.peek() === undefined;) this.#top -= 1;
    return this.#taken(this.#lanes[this.#top]?.take());
  }

  /** The next message that has expired at its head: one that has, behind one that has not, waits its turn. */
  takeExpired(now: number): StoredMessage | undefined {
    for (let priority = this.#top; priority >= 0; priority -= 1) {
      const lane = this.#lanes[priority];
      const head = lane?.peek();
      if (head !== undefined && head.expiresAt <= now) return this.#taken(lane?.take());
    }
    return undefined;
  }

  /** In the order in which they would be taken. */
  *[Symbol.iterator](): Iterator<StoredMessage> {
    for (let priority = this.#top; priority >= 0; priority -= 1) {
      const lane = this.#lanes[priority];
      if (lane !== undefined) yield* lane.inOrder();
    }
  }

  /** Drops all; returns how many they were. */
  clear(): number {
    const count = this.#count;
    for (const lane of this.#lanes) lane.clear();
    this.#top = this.#count = this.#bytes = 0;
    return count;
  }

  #lane({ priority, message }: StoredMessage): Lane {
    this.#count += 1;
    this.#bytes += message.body.length;
    if (priority > this.#top) this.#top = priority;
    return this.#lanes[priority] as Lane;
  }

  #taken(stored: StoredMessage | undefined): StoredMessage | undefined {
    if (stored !== undefined) {
      this.#count -= 1;
      this.#bytes -= stored.message.body.length;
    }
    return stored;
  }
}

/** The messages of one priority: those that came, in a ring, and the few that came back, in a heap by their place. */
class Lane {
  readonly ring = new Ring<StoredMessage>();
  readonly returned = new Heap();

  peek(): StoredMessage | undefined {
    const first = this.ring.peek();
    const returned = this.returned.peek();
    if (first === undefined || returned === undefined) return first ?? returned;
    return returned.place < first.place ? returned : first;
  }

  take(): StoredMessage | undefined {
    const first = this.ring.peek();
    const returned = this.returned.peek();
    if (returned === undefined) return this.ring.shift();
    return first === undefined || returned.place < first.place ? this.returned.pop() : this.ring.shift();
  }

  *inOrder(): Iterable<StoredMessage> {
    const returned = this.returned.inOrder();
    let next = 0;
    for (const stored of this.ring) {
      for (let back = returned[next]; back !== undefined && back.place < stored.place; back = returned[next]) {
        yield back;
        next += 1;
      }
      yield stored;
    }
    yield* returned.slice(next);
  }

  clear(): void {
    this.ring.clear();
    this.returned.clear();
  }
}

const SMALLEST_RING = 16;

/** First in, first out, at constant cost; its memory follows what is in it, down as well as up. */
export class Ring<T> {
  /** Its length is a power of two. */
  #items: (T | undefined)[] = [];
  #head = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  peek(): T | undefined {
    return this.#count === 0 ? undefined : this.#items[this.#head];
  }

  push(item: T): void {
    if (this.#count === this.#items.length) this.#resize(Math.max(SMALLEST_RING, this.#count * 2));
    this.#items[(this.#head + this.#count) & (this.#items.length - 1)] = item;
    this.#count += 1;
  }

  shift(): T | undefined {
    if (this.#count === 0) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#items.length - 1);
    this.#count -= 1;
    // A quarter, not half: a queue that goes up and down around a power of two is not to be moved each time.
    if (this.#items.length > SMALLEST_RING && this.#count <= this.#items.length / 4)
      this.#resize(this.#items.length / 2);
    return item;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (let index = 0; index < this.#count; index += 1) {
      yield this.#items[(this.#head + index) & (this.#items.length - 1)] as T;
    }
  }

  clear(): void {
    this.#items = [];
    this.#head = this.#count = 0;
  }

  #resize(length: number): void {
    const items = new Array<T | undefined>(length);
    for (let index = 0; index < this.#count; index += 1) {
      items[index] = this.#items[(this.#head + index) & (this.#items.length - 1)];
    }
    this.#items = items;
    this.#head = 0;
  }
}

/** A binary heap: the lowest place is at the top. */
class Heap {
  #items: StoredMessage[] = [];

  peek(): StoredMessage | undefined {
    return this.#items[0];
  }

  push(stored: StoredMessage): void {
    const items = this.#items;
    let at = items.length;
    for (; at > 0;) {
      const parent = items[(at - 1) >>> 1] as StoredMessage;
      if (parent.place <= stored.place) break;
      items[at] = parent;
      at = (at - 1) >>> 1;
    }
    items[at] = stored;
  }

  pop(): StoredMessage | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if ((items[child + 1]?.place ?? Infinity) < (items[child] as StoredMessage).place) child += 1;
      if ((items[child] as StoredMessage).place >= last.place) break;
      items[at] = items[child] as StoredMessage;
      at = child;
    }
    items[at] = last;
    return top;
  }

  inOrder(): StoredMessage[] {
    return this.#items.toSorted((one, other) => one.place - other.place);
  }

  clear(): void {
    this.#items = [];
  }
}
