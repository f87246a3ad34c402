/**
 * The replies to one request for all values, as they come: put in order, checked for gaps, and handed on one by one. Sending the
 * request and waiting for replies is `rpc-client`'s.
 */
import { types } from 'node:util';
import type { ReplyCounts } from '../client/amqp-requester.js';
import { quietly } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { AmqpError, destination } from '../errors.js';
import type { RefusedStreams } from './refused-streams.js';
import { ANNOUNCEMENT, type PlacedReply, errorIn, placeOf } from './reply-format.js';

/**
 * Who gets the values; an Observable's subscriber fits. After `error` or `complete` nothing more comes. What `next` throws, `error`
 * is told; what the others throw becomes a process warning. (Subscribers of rxjs throw nothing: it reports what theirs throw by itself.)
 */
export interface ReplyObserver<T = unknown> {
  next(value: T): void;
  error(error: unknown): void;
  complete(): void;
}

export interface IncomingRepliesOptions {
  readonly exchange: string;
  readonly routingKey: string;
  /** What a reply says: may be a promise. Throws, or rejects with, what is wrong with it, the server's error included. */
  readonly valueOf: (reply: Message) => unknown;
  /** Where servers are asked to stop that nobody listens to. */
  readonly refused: RefusedStreams;
  readonly observer: ReplyObserver;
}

export class IncomingReplies {
  readonly #options: IncomingRepliesOptions;
  readonly #life = new AbortController();
  /** The latest reply of the stream that replies belong to, and the number of its next. */
  #latest: PlacedReply | undefined;
  #next = 1;
  /** What comes before has to be handed on first: it takes its time to be read. */
  #line: Promise<void> | undefined;
  #isOver = false;

  constructor(options: IncomingRepliesOptions) {
    this.#options = options;
  }

  /** Fires when nobody listens any more, and the server is to stop. */
  get signal(): AbortSignal {
    return this.#life.signal;
  }

  /** Takes a reply. Never throws. */
  receive(reply: Message): ReplyCounts {
    try {
      return this.#take(reply);
    } catch (error) {
      this.#then(() => {
        this.fail(error);
      });
      this.#refuseLatest();
      return 'last';
    }
  }

  /** Nobody listens any more: the server is asked to stop, now if it is known, else when it is heard of. */
  stop(): void {
    if (this.signal.aborted) return;
    this.#isOver = true;
    this.#life.abort();
    this.#refuseLatest();
  }

  /** Ends it with an error, unless it has ended. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    quietly(() => {
      this.#options.observer.error(error);
    });
  }

  #take(reply: Message): ReplyCounts {
    const place = placeOf(reply);
    if (errorIn(reply) !== undefined || place === undefined) {
      this.#latest = undefined;
      this.#handOn(reply, true);
      return 'last';
    }
    if (!this.#isOurs(place)) return 'not';
    if (place.number === ANNOUNCEMENT) return 'not';
    if (place.number > this.#next) throw this.#lost(`reply ${this.#next} is missing`);
    // Published twice, because the server did not learn that the first arrived.
    if (place.number < this.#next) return 'more';
    this.#next += 1;
    if (!place.isEnd) {
      this.#handOn(reply, false);
      return 'more';
    }
    this.#latest = undefined;
    this.#then(() => {
      this.#complete();
    });
    return 'last';
  }

  /** Whether it belongs to the stream that is heard. Throws when that has begun and was given up for another. */
  #isOurs(place: PlacedReply): boolean {
    const { refused } = this.#options;
    const before = this.#latest;
    const isKnown = before?.stream === place.stream;
    if (!isKnown && refused.has(place)) {
      refused.refuse(place);
      return false;
    }
    this.#latest = place;
    if (isKnown || before === undefined) return true;
    refused.refuse(before);
    // Before its first value a handler that failed is tried again, and one that was lost begins anew.
    if (this.#next > 1) throw this.#lost('another server began to answer it anew');
    return true;
  }

  #handOn(reply: Message, isOnly: boolean): void {
    const value = this.#options.valueOf(reply);
    const handOn = (read: unknown): void => {
      if (!this.#isOver) this.#options.observer.next(read);
      if (isOnly) this.#complete();
    };
    if (types.isPromise(value)) {
      // Read while those before it are; what it rejects with is told in its turn.
      value.catch(() => undefined);
      this.#then(() => value.then(handOn), true);
    } else {
      this.#then(() => {
        handOn(value);
      });
    }
  }

  #complete(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    quietly(() => {
      this.#options.observer.complete();
    });
  }

  /** Does it after everything that came before: at once, unless something takes its time. */
  #then(step: () => void | Promise<void>, takesTime = false): void {
    if (this.#line === undefined && !takesTime) {
      void step();
      return;
    }
    const line = (this.#line ?? Promise.resolve()).then(step).catch((error: unknown) => {
      this.fail(error);
      this.stop();
    });
    this.#line = line;
    void line.then(() => {
      if (this.#line === line) this.#line = undefined;
    });
  }

  #refuseLatest(): void {
    if (this.#latest !== undefined) this.#options.refused.refuse(this.#latest);
  }

  #lost(why: string): AmqpError {
    const { exchange, routingKey } = this.#options;
    return new AmqpError(
      'REPLY_LOST',
      `The request to ${destination(exchange, routingKey)} ended before its last reply: ${why}. Ask again.`,
    );
  }
}
