/**
 * The ledger of published and not yet confirmed messages of one channel (https://www.rabbitmq.com/docs/confirms).
 * Plain state: it sends nothing and knows no connection.
 */
import {
  AmqpError,
  PublishNackedError,
  PublishOutcomeUnknownError,
  PublishRefusedError,
  UnroutableError,
  destination,
  factsOf,
} from '../errors.js';
import type { Metrics } from './metrics.js';

/** A publish that awaits its confirm. */
export interface UnconfirmedPublish {
  readonly exchange: string;
  readonly routingKey: string;
  readonly messageId: string | undefined;
  readonly mandatory: boolean;
  readonly body: string | Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: AmqpError) => void;
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

  /** The channel is gone: what became of every outstanding publish is unknown, except where the broker returned it. */
  abandon(reason: AmqpError): void {
    const entries = this.#entries;
    const refused = this.#refusedBy(reason);
    const limit = largestTaken(reason);
    this.#entries = [];
    this.#head = 0;
    this.#metrics.outcomeUnknown += this.#outstanding;
    this.#outstanding = 0;
    for (const publish of entries) {
      if (publish === undefined) continue;
      const Fate = publish === refused ? PublishRefusedError : PublishOutcomeUnknownError;
      const error =
        publish.returned ??
        (limit === undefined ? undefined : tooLarge(publish, limit, reason)) ??
        new Fate(publish.exchange, publish.routingKey, reason);
      this.#fail(publish, this.#lowest, error);
    }
    this.#tellWaiters();
  }

  /**
   * The publish over which the broker closed the channel, where that is certain. The close names the exchange, `no exchange
   * 'x' in vhost '/'` (404) or `access to exchange 'x' in vhost '/' refused` (403), and not the message: of several to one
   * exchange the earlier ones may have been taken before it was deleted.
   */
  #refusedBy({ method, replyText }: AmqpError): UnconfirmedPublish | undefined {
    if (method !== 'basic.publish') return undefined;
    const candidates = this.#entries.filter(
      (entry) => entry !== undefined && replyText?.includes(` exchange '${entry.exchange}' in vhost `) === true,
    );
    return candidates.length === 1 ? candidates[0] : undefined;
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

  #fail(publish: UnconfirmedPublish, tag: number, error: AmqpError): void {
    for (const waiter of this.#waiters) if (tag <= waiter.last) waiter.failure ??= error;
    publish.reject(error);
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

/**
 * The bytes that a body may have, where the broker closed the channel over a larger one: 406, `message size 134217729 is larger
 * than configured max size 134217728`.
 */
export function largestTaken({ method, replyText }: AmqpError): number | undefined {
  if (method !== 'basic.publish') return undefined;
  const [, limit] = /message size \d+ is larger than (?:configured )?max size (\d+)/.exec(replyText ?? '') ?? [];
  return limit === undefined ? undefined : Number(limit);
}

/** The error of a message that the broker never takes, whichever it was that the channel was closed over. */
function tooLarge(
  { exchange, routingKey, body }: UnconfirmedPublish,
  limit: number,
  cause: AmqpError,
): AmqpError | undefined {
  const size = Buffer.byteLength(body);
  if (size <= limit) return undefined;
  return new AmqpError(
    'MESSAGE_TOO_LARGE',
    `The message of ${size} bytes to ${destination(exchange, routingKey)} is larger than the broker takes, ${limit} bytes; it is not ` +
      'stored. Send less in one message, or raise max_message_size of the broker.',
    { ...factsOf(cause), cause },
  );
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
