/** The consumers of a queue, and whose turn it is. */
import type { QueueConsumer } from './queue-consumer.js';
import { Ring } from './ring.js';

interface Entry {
  readonly consumer: QueueConsumer;
  /** It had no room at its turn, and is passed over until it is woken. */
  isParked: boolean;
  /** Messages that it has not settled; counted where it may be superseded. */
  held: number;
}

/** Consumers of one priority, in turn. At least one. */
interface Level {
  readonly priority: number;
  /** The next is at the head. Those that are parked are not in it. */
  turns: Ring<Entry>;
}

export class QueueConsumers {
  readonly #isSingle: boolean;
  readonly #isSuperseded: boolean;
  readonly #entries = new Map<QueueConsumer, Entry>();
  /** The highest priority first. */
  #levels: Level[] = [];
  /** With a single active consumer: the one. */
  #active: Entry | undefined;

  /**
   * @param isSingle - one consumer at a time gets the messages, until it goes
   * @param yieldsToPriority - or until one of a higher priority comes, and it has settled what it holds
   */
  constructor(isSingle: boolean, yieldsToPriority = false) {
    this.#isSingle = isSingle;
    this.#isSuperseded = isSingle && yieldsToPriority;
  }

  get count(): number {
    return this.#entries.size;
  }

  /** In order of their coming. */
  get all(): QueueConsumer[] {
    return [...this.#entries.keys()];
  }

  get hasExclusive(): boolean {
    for (const { exclusive } of this.#entries.keys()) if (exclusive) return true;
    return false;
  }

  add(consumer: QueueConsumer): void {
    const entry: Entry = { consumer, isParked: false, held: 0 };
    this.#entries.set(consumer, entry);
    this.#enqueue(entry);
    this.#active ??= entry;
  }

  /** False when it was not there. */
  remove(consumer: QueueConsumer): boolean {
    const entry = this.#entries.get(consumer);
    if (entry === undefined) return false;
    this.#entries.delete(consumer);
    const level = this.#levels.find(({ priority }) => priority === consumer.priority);
    if (level !== undefined && !entry.isParked) {
      level.turns = without(level.turns, entry);
      if (level.turns.count === 0) this.#levels = this.#levels.filter((other) => other !== level);
    }
    if (this.#active === entry) this.#active = this.#isSingle ? this.#levels[0]?.turns.peek() : undefined;
    return true;
  }

  /** It, or whoever was passed over, has its turns again. */
  wake(consumer?: QueueConsumer): void {
    if (consumer === undefined) {
      for (const entry of this.#entries.values()) this.#unpark(entry);
    } else {
      const entry = this.#entries.get(consumer);
      if (entry !== undefined) this.#unpark(entry);
    }
  }

  /** It has got a message to settle. */
  took(consumer: QueueConsumer): void {
    const entry = this.#isSuperseded ? this.#entries.get(consumer) : undefined;
    if (entry !== undefined) entry.held += 1;
  }

  /** It has settled one; true when another may have its turn for that. */
  settled(consumer: QueueConsumer): boolean {
    const entry = this.#isSuperseded ? this.#entries.get(consumer) : undefined;
    if (entry === undefined) return false;
    entry.held -= 1;
    return entry.held === 0;
  }

  /** Whose turn it is, among those that have room. */
  next(): QueueConsumer | undefined {
    if (this.#isSingle) {
      const consumer = this.#single()?.consumer;
      return consumer?.isReady() === true ? consumer : undefined;
    }
    for (let level = this.#levels[0]; level !== undefined; level = this.#levels[0]) {
      for (let entry = level.turns.shift(); entry !== undefined; entry = level.turns.shift()) {
        if (entry.consumer.isReady()) {
          level.turns.push(entry);
          return entry.consumer;
        }
        entry.isParked = true;
      }
      this.#levels.shift();
    }
    return undefined;
  }

  clear(): void {
    this.#entries.clear();
    this.#levels = [];
    this.#active = undefined;
  }

  /** The single active one; nobody while it has to make way and still holds something. */
  #single(): Entry | undefined {
    const active = this.#active;
    const first = this.#levels[0]?.turns.peek();
    if (!this.#isSuperseded || active === undefined || first === undefined) return active;
    if (first.consumer.priority <= active.consumer.priority) return active;
    if (active.held > 0) return undefined;
    this.#active = first;
    return first;
  }

  #unpark(entry: Entry): void {
    if (!entry.isParked) return;
    entry.isParked = false;
    this.#enqueue(entry);
  }

  #enqueue(entry: Entry): void {
    const { priority } = entry.consumer;
    const at = this.#levels.findIndex((level) => level.priority <= priority);
    const level = this.#levels[at];
    if (level?.priority === priority) {
      level.turns.push(entry);
      return;
    }
    const turns = new Ring<Entry>();
    turns.push(entry);
    this.#levels.splice(at === -1 ? this.#levels.length : at, 0, { priority, turns });
  }
}

function without(turns: Ring<Entry>, entry: Entry): Ring<Entry> {
  const left = new Ring<Entry>();
  for (let next = turns.shift(); next !== undefined; next = turns.shift()) if (next !== entry) left.push(next);
  return left;
}
