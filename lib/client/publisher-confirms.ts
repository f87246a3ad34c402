/**
 * The ledger of published and not yet confirmed messages of one channel (https://www.rabbitmq.com/docs/confirms).
 * Plain state: it sends nothing and knows no connection.
 */
import { type AmqpError, PublishNackedError, PublishOutcomeUnknownError, UnroutableError } from '../errors.js';
import type { Metrics } from './metrics.js';
import { refusalsOf } from './refused-publishes.js';

/** A publish that awaits its confirm. */
export interface UnconfirmedPublish {
  readonly exchange: string;
  readonly routingKey: string;
  readonly messageId: string | undefined;
  readonly mandatory: boolean;
  readonly body: string | Uint8Array;
  readonly resolve: () => void;
  /** `isInnocent`: it is certainly not what the channel was closed over, and sent again it would not close another. */
  readonly reject: (error: AmqpError, isInnocent: boolean) => void;
  /** That the broker sent it back, once it has; the confirm follows. */
  returned: UnroutableError | undefined;
}

/** What `basic.return` says, as far as it tells one publish from another. */
export interface ReturnFacts {
  readonly replyCode: number;
  readonly replyText: string;
  readonly exchange: string;
  readonly routingKey: string;
  readonly messageId: string | undefined;
}

/** Somebody who waits until everything up to a publish is settled. */
interface Waiter {
  /** The tag of that publish. */
  readonly last: number;
  /** The first error among the publishes waited for. */
  failure: AmqpError | undefined;
  readonly resolve: () => void;
  readonly reject: (error: AmqpError) => void;
}

export class PublisherConfirms {
  /** In publishing order; the first has the tag `#lowest`. A settled entry is `undefined` until all before it are settled. */
  #entries: (UnconfirmedPublish | undefined)[] = [];
  /** Entries before this index are settled; they are cut off when they are half of the array. */
  #head = 0;
  #lowest = 1;
  #outstanding = 0;
  #waiters: Waiter[] = [];
  readonly #metrics: Metrics;

  constructor(metrics: Metrics) {
    this.#metrics = metrics;
  }

  /** How many publishes await their confirm. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Notes a publish under the next delivery tag: the broker counts publishes from 1, in the order in which they arrive. */
  add(publish: UnconfirmedPublish): void {
    this.#entries.push(publish);
    this.#outstanding += 1;
  }

  /** Takes back the publish that was added last, because its bytes never left. */
  removeLast(): void {
    this.#entries.pop();
    this.#outstanding -= 1;
  }

  /** Resolves when every publish so far is settled; rejects then with the first of their errors. */
  async settled(): Promise<void> {
    if (this.#outstanding === 0) return;
    await new Promise<void>((resolve, reject) => {
      const last = this.#lowest + this.#entries.length - this.#head - 1;
      this.#waiters.push({ last, failure: undefined, resolve, reject });
    });
  }

  /** `basic.ack`, or with `acked` false `basic.nack`: for one tag, or for all up to it; tag 0 with `multiple` is for all. */
  settle(deliveryTag: number, multiple: boolean, acked: boolean): void {
    const newest = this.#entries.length - 1;
    const named = multiple && deliveryTag === 0 ? newest : this.#head + deliveryTag - this.#lowest;
    const last = Math.min(named, newest);
    for (let index = multiple ? this.#head : named; index <= last; index += 1) this.#settleEntry(index, acked);
    while (this.#head < this.#entries.length && this.#entries[this.#head] === undefined) {
      this.#head += 1;
      this.#lowest += 1;
    }
    this.#cutOff();
    if (this.#waiters.length > 0) this.#tellWaiters();
  }

  /**
   * `basic.return`. It carries no tag; the broker sends it before the confirm and in publishing order, so it belongs to the
   * oldest mandatory publish that looks the same and has not been returned. Says whether there was one.
   */
  returned(facts: ReturnFacts): boolean {
    let entry: UnconfirmedPublish | undefined;
    for (let index = this.#head; index < this.#entries.length && entry === undefined; index += 1) {
      const candidate = this.#entries[index];
      if (candidate !== undefined && looksLike(candidate, facts)) entry = candidate;
    }
    if (entry === undefined) return false;
    entry.returned = new UnroutableError(facts.exchange, facts.routingKey, facts);
    return true;
  }

  /**
   * The channel is gone: what became of every outstanding publish is unknown, except where the broker returned it, or closed the
   * channel over it.
   */
  abandon(reason: AmqpError): void {
    const entries = this.#entries.filter((entry) => entry !== undefined);
    const { errors, areOthersInnocent } = refusalsOf(
      entries.filter(({ returned }) => returned === undefined),
      reason,
    );
    this.#entries = [];
    this.#head = 0;
    this.#metrics.outcomeUnknown += this.#outstanding;
    this.#outstanding = 0;
    for (const publish of entries) {
      const { exchange, routingKey } = publish;
      const error = publish.returned ?? errors.get(publish);
      if (error !== undefined) this.#fail(publish, this.#lowest, error);
      else {
        const unknown = new PublishOutcomeUnknownError(exchange, routingKey, reason);
        this.#fail(publish, this.#lowest, unknown, areOthersInnocent);
      }
    }
    this.#tellWaiters();
  }

  #settleEntry(index: number, acked: boolean): void {
    const publish = this.#entries[index];
    // A confirm for a tag that is not outstanding is the broker repeating itself; there is nothing to settle.
    if (publish === undefined) return;
    this.#entries[index] = undefined;
    this.#outstanding -= 1;
    this.#metrics[acked ? 'confirmed' : 'nacked'] += 1;
    if (publish.returned === undefined && acked) {
      publish.resolve();
    } else {
      const tag = this.#lowest + index - this.#head;
      this.#fail(publish, tag, publish.returned ?? new PublishNackedError(publish.exchange, publish.routingKey));
    }
  }

  #fail(publish: UnconfirmedPublish, tag: number, error: AmqpError, isInnocent = false): void {
    for (const waiter of this.#waiters) if (tag <= waiter.last) waiter.failure ??= error;
    publish.reject(error, isInnocent);
  }

  /** Everything before `#lowest` is settled; when the channel is gone, everything is. */
  #tellWaiters(): void {
    const isDone = ({ last }: Waiter): boolean => last < this.#lowest || this.#outstanding === 0;
    const done = this.#waiters.filter(isDone);
    if (done.length === 0) return;
    this.#waiters = this.#waiters.filter((waiter) => !isDone(waiter));
    for (const { failure, resolve, reject } of done) {
      if (failure === undefined) resolve();
      else reject(failure);
    }
  }

  /** Amortised: half of the array is moved only after as many entries were settled. */
  #cutOff(): void {
    if (this.#head > 512 && this.#head * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#head);
      this.#head = 0;
    }
  }
}

function looksLike(publish: UnconfirmedPublish, facts: ReturnFacts): boolean {
  return (
    publish.returned === undefined &&
    publish.mandatory &&
    publish.messageId === facts.messageId &&
    publish.routingKey === facts.routingKey &&
    publish.exchange === facts.exchange
  );
}
