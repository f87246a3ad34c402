/**
 * What RabbitMQ's queues do, as plainly as it can be said: arrays that are sorted and walked through. The embedded broker is
 * held against it; it shares nothing with it. Which of several consumers gets a message is left open, what each gets is not.
 */

export type Verdict = 'ack' | 'reject' | 'requeue';
type Reason = 'rejected' | 'expired' | 'maxlen' | 'delivery_limit';

interface Death {
  readonly queue: string;
  readonly reason: Reason;
  readonly count: number;
}

/** One copy of a message, in one queue. */
export interface Letter {
  readonly body: string;
  readonly priority: number;
  /** What its priority counts for here. */
  readonly rank: number;
  /** The latest first. */
  readonly deaths: readonly Death[];
  readonly queue: ReferenceQueue;
  expiresAt: number;
  returns: number;
  /** How often a quorum queue, this one or one before it, had it rejected or its taker gone. */
  failures: number;
  /** Among those of its rank, the lower goes first. */
  place: number;
}

export interface QueueShape {
  readonly name: string;
  readonly type: 'classic' | 'quorum';
  readonly ttl?: number | undefined;
  readonly maxLength?: number | undefined;
  readonly overflow?: 'drop-head' | 'reject-publish' | 'reject-publish-dlx' | undefined;
  readonly maxPriority?: number | undefined;
  /** Negative for none. */
  readonly deliveryLimit?: number | undefined;
  /** The queue that its dead letters go to, over the default exchange. */
  readonly deadLetterTo?: string | undefined;
}

export interface ReferenceConsumer {
  readonly tag: string;
  readonly channel: number;
  readonly queue: string;
  readonly noAck: boolean;
  /** 0 for any number. */
  readonly prefetch: number;
  readonly priority: number;
  held: number;
}

/** A delivery as a client sees it. */
export interface Seen {
  readonly body: string;
  readonly redelivered: boolean;
  readonly deaths: readonly Death[];
}

export interface ReferenceQueue {
  readonly shape: QueueShape;
  /** In the order in which they will be taken. */
  readonly ready: Letter[];
  readonly consumers: ReferenceConsumer[];
  /** Handed out, to a consumer that is still to be told. */
  readonly leaving: Letter[];
  held: number;
  last: number;
  first: number;
}

/** Two things happen in the same millisecond, and nobody says which comes first. */
export class Tie extends Error {}

export class ReferenceQueues {
  /** Before RabbitMQ 3.13 each death turns the order of those before it around. */
  turnsDeathsAround = false;
  now = 0;
  readonly queues = new Map<string, ReferenceQueue>();
  /** How copies of a message ended, and how many there were. */
  readonly fates = new Map<string, number>();
  born = 0;
  #dying: { readonly letter: Letter; readonly reason: Reason }[] = [];

  declare(shape: QueueShape): void {
    this.queues.set(shape.name, { shape, ready: [], consumers: [], leaving: [], held: 0, last: 0, first: -1e9 });
  }

  queue(name: string): ReferenceQueue {
    const queue = this.queues.get(name);
    if (queue === undefined) throw new Error(`The reference has no queue ${name}.`);
    return queue;
  }

  // ── what clients do ───────────────────────────────────────────────────────────────────────────────────────────────

  /** False when a queue refuses it. */
  publish(targets: readonly string[], body: string, priority: number, ttl: number | undefined): boolean {
    let isTaken = true;
    for (const target of targets) {
      if (!this.#arrive(this.queue(target), { body, priority, deaths: [], failures: 0 }, ttl)) isTaken = false;
    }
    this.#buryAll();
    return isTaken;
  }

  consume(consumer: ReferenceConsumer): void {
    this.queue(consumer.queue).consumers.push(consumer);
    this.#handOut(this.queue(consumer.queue));
    this.#buryAll();
  }

  cancel(tag: string): void {
    for (const { consumers } of this.queues.values()) {
      const index = consumers.findIndex((consumer) => consumer.tag === tag);
      if (index !== -1) consumers.splice(index, 1);
    }
  }

  get(name: string, noAck: boolean): Letter | undefined {
    const queue = this.queue(name);
    const letter = queue.ready.shift();
    if (letter === undefined) return undefined;
    if (noAck) this.#ended('acked');
    else queue.held += 1;
    this.#expire(queue);
    this.#buryAll();
    return letter;
  }

  /** What one answer says of one or many, in the order of their tags. `isGone`: nobody has answered, their channel has ended. */
  settle(held: readonly (readonly [Letter, ReferenceConsumer | undefined])[], verdict: Verdict, isGone = false): void {
    for (const [letter, consumer] of held) {
      letter.queue.held -= 1;
      if (consumer !== undefined) consumer.held -= 1;
    }
    for (const [letter] of held) {
      if (verdict === 'ack') this.#ended('acked');
      else if (verdict === 'reject') this.#reject(letter);
      else this.#comeBack(letter, isGone);
    }
    for (const queue of this.queues.values()) {
      this.#expire(queue);
      this.#handOut(queue);
    }
    this.#buryAll();
  }

  purge(name: string): number {
    const letters = this.queue(name).ready.splice(0);
    for (let count = letters.length; count > 0; count -= 1) this.#ended('purged');
    return letters.length;
  }

  /** Throws `Tie` where the outcome would depend on who is first. */
  advance(ms: number): void {
    const end = this.now + ms;
    for (;;) {
      let next: ReferenceQueue | undefined;
      let at = Infinity;
      for (const queue of this.queues.values()) {
        const soonest = Math.min(...heads(queue).map(({ expiresAt }) => expiresAt));
        if (soonest > end || soonest > at) continue;
        if (soonest === at && areJoined(queue, next)) throw new Tie();
        at = soonest;
        next = queue;
      }
      if (next === undefined) break;
      this.now = Math.max(this.now, at);
      this.#expire(next);
      this.#buryAll();
    }
    this.now = end;
  }

  // ── what clients see ──────────────────────────────────────────────────────────────────────────────────────────────

  /** A consumer was sent a message: which one it has to be, and whether it may be this consumer. Returns the letter. */
  told(name: string, tag: string, seen: Seen): { readonly letter: Letter; readonly consumer: ReferenceConsumer } {
    const queue = this.queue(name);
    const letter = queue.leaving.shift();
    if (letter === undefined) throw new Error(`${name} delivered ${seen.body}, and nothing was to be delivered`);
    same(`what ${name} delivered`, seen, seenOf(letter));
    const consumer = queue.consumers.find((candidate) => candidate.tag === tag);
    if (consumer === undefined) throw new Error(`${name} delivered to ${tag}, which is none of its consumers`);
    if (roomOf(consumer) <= 0) throw new Error(`${name} delivered to ${tag}, which had no room`);
    const better = queue.consumers.find((other) => other.priority > consumer.priority && roomOf(other) > 0);
    if (better !== undefined) throw new Error(`${name} delivered to ${tag}, and ${better.tag} goes before it`);
    if (consumer.noAck) {
      this.#ended('acked');
    } else {
      consumer.held += 1;
      queue.held += 1;
    }
    return { letter, consumer };
  }

  /** Each copy is in one place. */
  audit(): void {
    let present = 0;
    for (const { ready, held, leaving } of this.queues.values()) present += ready.length + held + leaving.length;
    const ended = [...this.fates.values()].reduce((sum, count) => sum + count, 0);
    same('the number of copies', present + ended, this.born);
  }

  // ── arriving and leaving ──────────────────────────────────────────────────────────────────────────────────────────

  #arrive(
    queue: ReferenceQueue,
    about: Pick<Letter, 'body' | 'priority' | 'deaths' | 'failures'>,
    ttl: number | undefined,
  ): boolean {
    const { shape } = queue;
    const { overflow = 'drop-head', maxLength = Infinity, maxPriority = 0 } = shape;
    this.born += 1;
    const lifetime = Math.min(ttl ?? Infinity, shape.ttl ?? Infinity);
    const letter: Letter = {
      ...about,
      queue,
      rank: Math.min(about.priority, maxPriority),
      expiresAt: this.now + lifetime,
      returns: 0,
      place: (queue.last += 1),
    };
    if (overflow !== 'drop-head' && queue.ready.length + 1 > maxLength) {
      if (overflow === 'reject-publish-dlx') this.#dying.push({ letter, reason: 'maxlen' });
      else this.#ended('refused');
      return false;
    }
    if (queue.ready.length === 0 && roomIn(queue) > 0) {
      queue.leaving.push(letter);
      return true;
    }
    insert(queue, letter);
    this.#trim(queue);
    this.#expire(queue);
    return true;
  }

  #reject(letter: Letter): void {
    if (letter.queue.shape.type === 'quorum') letter.failures += 1;
    this.#dying.push({ letter, reason: 'rejected' });
  }

  #comeBack(letter: Letter, isGone: boolean): void {
    const { queue } = letter;
    const { type, deliveryLimit = 20 } = queue.shape;
    letter.returns += 1;
    if (isGone && type === 'quorum') letter.failures += 1;
    if (type === 'quorum' && deliveryLimit >= 0 && letter.returns > deliveryLimit) {
      this.#dying.push({ letter, reason: 'delivery_limit' });
      return;
    }
    if (type === 'quorum') {
      if (deliveryLimit < 0 && !isGone) letter.place = queue.last += 1;
      else letter.place = queue.first += 1;
    }
    insert(queue, letter);
    if (type === 'classic') this.#trim(queue);
  }

  #handOut(queue: ReferenceQueue): void {
    this.#expire(queue);
    while (queue.ready.length > 0 && roomIn(queue) > 0) {
      queue.leaving.push(queue.ready.shift() as Letter);
      this.#expire(queue);
    }
    this.#trim(queue);
    this.#expire(queue);
  }

  #trim(queue: ReferenceQueue): void {
    const { overflow = 'drop-head', maxLength = Infinity } = queue.shape;
    if (overflow !== 'drop-head') return;
    while (queue.ready.length > maxLength) {
      this.#dying.push({ letter: queue.ready.shift() as Letter, reason: 'maxlen' });
    }
  }

  /** Only who is first of its priority can expire. */
  #expire(queue: ReferenceQueue): void {
    for (;;) {
      const letter = heads(queue).find(({ expiresAt }) => expiresAt <= this.now);
      if (letter === undefined) return;
      queue.ready.splice(queue.ready.indexOf(letter), 1);
      this.#dying.push({ letter, reason: 'expired' });
    }
  }

  // ── dying ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #buryAll(): void {
    for (let next = this.#dying.shift(); next !== undefined; next = this.#dying.shift()) {
      const { letter, reason } = next;
      const { name, deadLetterTo } = letter.queue.shape;
      this.#ended(reason);
      if (deadLetterTo === undefined) continue;
      const before = letter.deaths.find((death) => death.queue === name && death.reason === reason);
      const others = letter.deaths.filter((death) => death !== before);
      if (this.turnsDeathsAround) others.reverse();
      const deaths = [{ queue: name, reason, count: (before?.count ?? 0) + 1 }, ...others];
      if (reason !== 'rejected' && goesRound(deaths, deadLetterTo)) continue;
      this.#arrive(this.queue(deadLetterTo), { ...letter, deaths }, undefined);
    }
  }

  #ended(how: string): void {
    this.fates.set(how, (this.fates.get(how) ?? 0) + 1);
  }
}

/** Back to where it has died, without anybody having rejected it on the way. */
function goesRound(deaths: readonly Death[], queue: string): boolean {
  const before = deaths.findIndex((death) => death.queue === queue);
  return before !== -1 && deaths.slice(0, before + 1).every(({ reason }) => reason !== 'rejected');
}

/** Whether what one of them loses may come to the other. */
function areJoined(one: ReferenceQueue, other: ReferenceQueue | undefined): boolean {
  return one.shape.deadLetterTo === other?.shape.name || other?.shape.deadLetterTo === one.shape.name;
}

/** The first of each rank, the highest first. */
function heads({ ready }: ReferenceQueue): Letter[] {
  return ready.filter((letter, index) => index === 0 || ready[index - 1]?.rank !== letter.rank);
}

function insert({ ready }: ReferenceQueue, letter: Letter): void {
  ready.push(letter);
  ready.sort((one, other) => other.rank - one.rank || one.place - other.place);
}

function roomOf({ noAck, prefetch, held }: ReferenceConsumer): number {
  return noAck || prefetch === 0 ? Infinity : prefetch - held;
}

function roomIn({ consumers, leaving }: ReferenceQueue): number {
  return consumers.reduce((sum, consumer) => sum + roomOf(consumer), 0) - leaving.length;
}

export function seenOf({ body, returns, failures, deaths, queue }: Letter): Seen {
  return { body, redelivered: returns > 0 || (queue.shape.type === 'quorum' && failures > 0), deaths };
}

/** Throws when the two are not the same plain values. */
export function same(what: string, is: unknown, shouldBe: unknown): void {
  const [left, right] = [JSON.stringify(is), JSON.stringify(shouldBe)];
  if (left !== right) throw new Error(`${what} is ${left}, and should be ${right}`);
}
