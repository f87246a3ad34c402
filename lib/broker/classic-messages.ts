/**
 * The order of a classic queue: by priority, then by place, and what comes back goes to the place that it had. Every priority
 * has a head of its own, at which messages expire.
 */
import type { ReadyMessages, StoredMessage } from './ready-messages.js';
import { Ring } from './ring.js';

export class ClassicMessages implements ReadyMessages {
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

  get bytes(): number {
    return this.#bytes;
  }

  get nextExpiry(): number {
    let next = Infinity;
    for (let priority = this.#top; priority >= 0; priority -= 1) {
      next = Math.min(next, this.#lanes[priority]?.peek()?.expiresAt ?? Infinity);
    }
    return next;
  }

  push(stored: StoredMessage): void {
    this.#lane(stored).ring.push(stored);
  }

  putBack(stored: StoredMessage): void {
    this.#lane(stored).returned.push(stored);
  }

  take(): StoredMessage | undefined {
    for (; this.#top > 0 && this.#lanes[this.#top]?.peek() === undefined;) this.#top -= 1;
    return this.#taken(this.#lanes[this.#top]?.take());
  }

  takeExpired(now: number): StoredMessage | undefined {
    for (let priority = this.#top; priority >= 0; priority -= 1) {
      const lane = this.#lanes[priority];
      const head = lane?.peek();
      if (head !== undefined && head.expiresAt <= now) return this.#taken(lane?.take());
    }
    return undefined;
  }

  *[Symbol.iterator](): Iterator<StoredMessage> {
    for (let priority = this.#top; priority >= 0; priority -= 1) {
      const lane = this.#lanes[priority];
      if (lane !== undefined) yield* lane.inOrder();
    }
  }

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
