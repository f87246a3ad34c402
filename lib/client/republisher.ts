/**
 * Publishes that outlive their channel: each is kept until its outcome is known. What a lost connection leaves unconfirmed
 * is sent again on the next channel, in order and before anything new, so that the broker may get a message twice and never
 * loses one that was confirmed to the caller. Opening channels is the handle's; when there has to be another one is `channel-renewal`'s.
 *
 * ```
 *   oldest ─► sent ─► sent ─► sent ─► waiting ─► waiting ─► newest
 *             └── in flight, bounded ──┘ └── bounded: no connection, blocked, or as much in flight as may
 * ```
 */
import { AmqpError, PublishOutcomeUnknownError, PublishRefusedError, PublisherBufferFullError } from '../errors.js';
import type { ConfirmChannel } from './channel.js';
import { ChannelRenewal } from './channel-renewal.js';
import type { PublishOptions } from './channel-options.js';
import { EarliestDeadline } from './earliest-deadline.js';
import { PendingPublish, givenUp, isAnybodys, isUnsent, whyOf } from './pending-publish.js';
import { blames } from './refused-publishes.js';
import { PublishesInFlight } from './publishes-in-flight.js';
import { type RepublishBounds, type RepublishOptions, boundsOf } from './republish-options.js';
import { whenFired } from './signals.js';
import { SuspectExchanges, isAnswer } from './suspect-exchanges.js';

/** What ends the wait for one confirm. */
export interface PublishBounds {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds. */
  readonly timeout?: number | undefined;
}

/** What republishing needs of a handle. */
interface ChannelSource {
  /** Opens a channel if there is none; rejects when there never will be one. */
  openedToPublish(): Promise<ConfirmChannel>;
  /** The next `openedToPublish()` gives another channel. */
  renew(): void;
  /** The same of another channel, for what the broker may close it over. */
  openedApart(): Promise<ConfirmChannel>;
  /** The present name of a queue. */
  queueNamed(queue: string): string;
  /** There is a connection, and the broker reads from it: a channel is only a moment away. */
  isConnected(): boolean;
  /** Something awaits its confirm, or nothing does any more. */
  isBusy(busy: boolean): void;
}

export class Republisher {
  readonly #source: ChannelSource;
  readonly #bounds: RepublishBounds;
  /** Everything without an outcome, in publishing order. */
  #oldest: PendingPublish | undefined;
  #newest: PendingPublish | undefined;
  /** The first that is to be sent; undefined when none waits. */
  #waiting: PendingPublish | undefined;
  #count = 0;
  #bytes = 0;
  readonly #inFlight: PublishesInFlight;
  #channel: ConfirmChannel | undefined;
  #opening = false;
  readonly #renewal = new ChannelRenewal();
  #isSending = false;
  readonly #suspects: SuspectExchanges;
  /** False when nothing waits for a suspect, so that nobody looks for it. */
  #holdsSome = false;
  readonly #onIdle: (() => void)[] = [];
  /** What waits with nothing in flight hears of the end of its channel from nobody else. */
  readonly #onClosed = (): void => {
    this.#sendWaiting();
  };
  readonly #deadlines = new EarliestDeadline(() => {
    this.#expire();
  });

  /** Throws `INVALID_OPTION`. */
  constructor(source: ChannelSource, options: RepublishOptions = {}) {
    this.#source = source;
    this.#suspects = new SuspectExchanges(() => source.openedApart(), {
      oldestHeld: () => this.#oldestHeld(),
      send: (entry, channel) => {
        this.#send(entry, channel);
      },
      cannotScout: () => {
        this.#beginAnew();
      },
    });
    this.#bounds = boundsOf(options);
    this.#inFlight = new PublishesInFlight(this.#bounds);
  }

  /** Resolves when the broker has confirmed it. When its bounds end the wait before it has left, it is not sent. */
  publish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options: PublishOptions,
    { signal, timeout = Infinity }: PublishBounds,
  ): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      if (signal?.aborted === true)
        throw givenUp({ exchange, routingKey, wasSent: false }, whyOf(signal), signal.reason);
      const canSend = this.#channel?.isOpen === true && !this.#channel.isBlocked;
      this.#makeSure(body.length, canSend || this.#source.isConnected());
      const entry = new PendingPublish(this, exchange, routingKey, body, options, timeout, resolve, reject);
      this.#append(entry);
      this.#deadlines.add(entry.deadline);
      if (signal !== undefined) this.#endOn(signal, entry);
      if (canSend) this.#sendWaiting();
      else this.#open();
    });
  }

  /**
   * Keeps room for a publish that is not ready to be sent, and counts it among those that wait; gives what ends that. Throws
   * `PublisherBufferFullError` as `publish` does.
   */
  hold(bytes: number): () => void {
    this.#makeSure(bytes, this.#source.isConnected());
    this.#grow(bytes);
    return () => {
      this.#shrink(bytes);
    };
  }

  /** Resolves when nothing awaits its outcome. */
  async settled(): Promise<void> {
    if (this.#count === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle.push(resolve);
    });
  }

  #idle(): void {
    this.#source.isBusy(false);
    for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  /** The broker takes publishes again. */
  unblocked(): void {
    this.#sendWaiting();
  }

  /** @internal Of an entry: the broker has confirmed it. False when it was over before. */
  confirmed(entry: PendingPublish): boolean {
    this.#inFlight.remove(entry);
    if (!this.#suspects.areNone) this.#learn(entry);
    return this.ended(entry);
  }

  /** @internal Of an entry: it has its outcome. False when it had one before. What is in flight stays so until its confirm. */
  ended(entry: PendingPublish): boolean {
    const isFirst = this.#remove(entry);
    if (isFirst && entry.isInFlight) {
      this.#inFlight.giveUp(entry);
      this.#suspects.back(entry);
    }
    if (this.#waiting !== undefined || !this.#suspects.areNone) this.#sendWaiting();
    return isFirst;
  }

  /** @internal Of an entry: an attempt failed. */
  failed(entry: PendingPublish, error: AmqpError, isInnocent: boolean): void {
    if (!entry.isInFlight) return;
    this.#inFlight.remove(entry);
    this.#learn(entry, error);
    if (error.code === 'PUBLISH_NACKED' && this.#renewal.isDue()) this.#renewSoon();
    if (this.#isOver(entry)) {
      this.#sendWaiting();
    } else if (this.#isWorthAnotherTry(entry, error, isInnocent)) {
      if (!isInnocent) entry.isSuspect ||= isAnybodys(error);
      if (error instanceof PublishOutcomeUnknownError) entry.lost = error;
      entry.returned = undefined;
      this.#beginAnew();
    } else {
      // An attempt that did not leave says nothing about those before it.
      entry.end(isUnsent(error) ? (entry.lost ?? error) : error);
    }
  }

  /** Throws when there is no room for it. What waits for a confirm may do so beside all that may be in flight, however large it is. */
  #makeSure(bytes: number, isConnected: boolean): void {
    const hasRoom = isConnected
      ? this.#count < this.#bounds.maxBuffered + this.#bounds.maxInFlight &&
        this.#bytes < this.#bounds.maxBufferedBytes + this.#bounds.maxInFlightBytes
      : this.#count < this.#bounds.maxBuffered && this.#bytes + bytes <= this.#bounds.maxBufferedBytes;
    if (!hasRoom) throw new PublisherBufferFullError(this.#count, this.#bytes, isConnected);
  }

  #open(): void {
    if (this.#opening) return;
    this.#opening = true;
    this.#source.openedToPublish().then(
      (channel) => {
        this.#opening = false;
        if (channel !== this.#channel) {
          this.#channel = channel;
          this.#renewal.opened();
          channel.once('close', this.#onClosed);
        }
        this.#sendWaiting();
      },
      (error: unknown) => {
        this.#opening = false;
        this.#channel = undefined;
        // There never will be a channel. What was sent before has an unknown outcome, what was not is not sent.
        for (let entry = this.#oldest; entry !== undefined; entry = entry.after) entry.end(entry.lost ?? error);
      },
    );
  }

  /** Sends what waits, in order, as far as the bounds go. */
  #sendWaiting(): void {
    const channel = this.#channel;
    // What is settled while it sends is no reason to begin again: it goes on by itself.
    if (channel === undefined || this.#isSending) return;
    this.#isSending = true;
    try {
      this.#sendOver(channel);
    } finally {
      this.#isSending = false;
    }
    this.#suspects.scout();
  }

  #sendOver(channel: ConfirmChannel): void {
    while (this.#waiting !== undefined && this.#inFlight.hasRoomFor(this.#waiting)) {
      // An ended channel first: of a blocked connection it would not hear when that is over.
      if (!channel.isOpen) {
        this.#open();
        return;
      }
      if (channel.isBlocked) return;
      if (this.#renewal.isUnderWay) {
        if (this.#inFlight.areNobodys) this.#renew();
        return;
      }
      const entry = this.#waiting;
      this.#waiting = entry.after;
      if (entry.isInFlight) continue;
      if (this.#isHeld(entry)) this.#holdsSome = true;
      else this.#send(entry, channel);
    }
    if (this.#waiting !== undefined && this.#inFlight.isClogged) this.#renewSoon();
  }

  #send(entry: PendingPublish, channel: ConfirmChannel): void {
    if (entry.lost !== undefined && performance.now() - entry.publishedAt > this.#bounds.maxAge) {
      entry.end(entry.lost);
      return;
    }
    this.#inFlight.add(entry);
    // The default exchange routes by the queue's name, and that may have changed.
    if (entry.exchange === '') entry.routingKey = this.#source.queueNamed(entry.routingKey);
    try {
      channel.publishFor(entry, entry.body, entry.options);
      entry.wasSent = true;
    } catch (error) {
      if (error instanceof AmqpError) {
        entry.reject(error, false);
      } else {
        this.#inFlight.remove(entry);
        entry.end(error);
      }
    }
  }

  /**
   * A message that is to blame for the end of its channel is not sent again: it would end channel after channel. One of several that
   * might be is, alone, which tells.
   */
  #isWorthAnotherTry(entry: PendingPublish, error: AmqpError, isInnocent: boolean): boolean {
    if (isUnsent(error)) return error.closedBy !== 'client';
    return this.#bounds.republish && (isInnocent || (isAnybodys(error) && !entry.isSuspect));
  }

  // ── another channel ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Takes another channel as soon as what is in flight has landed, so that nothing overtakes it; not when that takes too long. */
  #renewSoon(): void {
    this.#renewal.begin(() => {
      if (this.#inFlight.areNobodys) this.#renew();
      else this.#sendWaiting();
    });
  }

  #renew(): void {
    this.#renewal.end();
    this.#inFlight.removeGivenUp();
    this.#channel?.off('close', this.#onClosed);
    this.#channel = undefined;
    this.#source.renew();
    if (this.#waiting !== undefined) this.#open();
  }

  // ── exchanges that the broker refuses ─────────────────────────────────────────────────────────────────────────────

  #isHeld(entry: PendingPublish): boolean {
    return !this.#suspects.areNone && this.#suspects.has(entry);
  }

  #oldestHeld(): PendingPublish | undefined {
    let entry = this.#holdsSome ? this.#oldest : undefined;
    while (entry !== undefined && (entry.isInFlight || !this.#isHeld(entry))) entry = entry.after;
    this.#holdsSome = entry !== undefined;
    return entry;
  }

  /** What the outcome of an attempt says of its exchange. */
  #learn(entry: PendingPublish, error?: AmqpError): void {
    const leftAt = this.#suspects.back(entry);
    if (error instanceof PublishRefusedError && blames(error.cause, entry)) {
      this.#suspects.add(entry, error);
      if (leftAt !== undefined) this.#refuseHeld(error.cause, leftAt);
    } else if (leftAt !== undefined && isAnswer(error)) {
      this.#suspects.clear(entry);
      this.#waiting = this.#oldest;
    }
  }

  /** What was published when the scout left would have been refused with it. */
  #refuseHeld(cause: AmqpError, leftAt: number): void {
    for (let entry = this.#oldest; entry !== undefined; entry = entry.after) {
      const { exchange, routingKey, isInFlight, publishedAt } = entry;
      if (isInFlight || publishedAt > leftAt || !blames(cause, entry)) continue;
      entry.end(new PublishRefusedError(exchange, routingKey, cause));
    }
  }

  /** Looks anew for what waits: what failed comes before what was published after it. */
  #beginAnew(): void {
    this.#waiting = this.#oldest;
    this.#open();
  }

  #endOn(signal: AbortSignal, entry: PendingPublish): void {
    entry.unlisten = whenFired(signal, () => {
      entry.end(givenUp(entry, whyOf(signal), signal.reason));
    });
  }

  // ── deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #expire(): void {
    const now = performance.now();
    let next = Infinity;
    for (let entry = this.#oldest; entry !== undefined; entry = entry.after) {
      if (entry.deadline <= now) {
        const timeout = Math.round(entry.deadline - entry.publishedAt);
        entry.end(givenUp(entry, `it took longer than its timeout of ${timeout} ms`));
      } else {
        next = Math.min(next, entry.deadline);
      }
    }
    this.#deadlines.add(next);
  }

  // ── the list ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #append(entry: PendingPublish): void {
    entry.before = this.#newest;
    if (this.#newest === undefined) this.#oldest = entry;
    else this.#newest.after = entry;
    this.#newest = entry;
    this.#waiting ??= entry;
    this.#grow(entry.bytes);
  }

  /** Takes it off the list; its own link forward stays, for whoever walks the list. False when it is off already. */
  #remove(entry: PendingPublish): boolean {
    if (this.#isOver(entry)) return false;
    const { before, after } = entry;
    if (before === undefined) this.#oldest = after;
    else before.after = after;
    if (after === undefined) this.#newest = before;
    else after.before = before;
    if (this.#waiting === entry) this.#waiting = after;
    entry.unlisten?.();
    this.#shrink(entry.bytes);
    return true;
  }

  #grow(bytes: number): void {
    if (this.#count === 0) this.#source.isBusy(true);
    this.#count += 1;
    this.#bytes += bytes;
  }

  #shrink(bytes: number): void {
    this.#count -= 1;
    this.#bytes -= bytes;
    if (this.#count === 0) this.#idle();
  }

  #isOver(entry: PendingPublish): boolean {
    return entry.before === undefined ? this.#oldest !== entry : entry.before.after !== entry;
  }
}
