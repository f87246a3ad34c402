/**
 * The replies to one request for all values, as they come: put in order, checked for gaps, and handed on one by one. Sending the
 * request and waiting for replies is `rpc-client`'s.
 */
import { types } from 'node:util';
import { quietly } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { AmqpError, destination } from '../errors.js';
import { errorIn, placeOf } from './reply-format.js';

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
  /** Asks the server of that stream, at that address, to stop. */
  readonly stop: (address: string, stream: string) => void;
  readonly observer: ReplyObserver;
}

export class IncomingReplies {
  readonly #options: IncomingRepliesOptions;
  /** The stream that replies belong to, and the number of its next. */
  #stream: string | undefined;
  #next = 1;
  #address: string | undefined;
  /** What comes before has to be handed on first: it takes its time to be read. */
  #line: Promise<void> | undefined;
  #isOver = false;
  #isStopping = false;
  #hasToldStop = false;

  constructor(options: IncomingRepliesOptions) {
    this.#options = options;
  }

  /** True when nobody listens any more. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Takes a reply, and says whether no more is awaited after it. Never throws. */
  receive(reply: Message): boolean {
    try {
      return this.#take(reply);
    } catch (error) {
      this.#then(() => {
        this.fail(error);
      });
      this.#tellStop();
      return true;
    }
  }

  /** Nobody listens any more: the server is asked to stop as soon as it is known. */
  stop(): void {
    this.#isOver = true;
    this.#isStopping = true;
    this.#tellStop();
  }

  /** Ends it with an error, unless it has ended. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    quietly(() => {
      this.#options.observer.error(error);
    });
  }

  #take(reply: Message): boolean {
    const place = placeOf(reply);
    if (errorIn(reply) !== undefined || place === undefined) {
      this.#handOn(reply, true);
      return true;
    }
    this.#stream ??= place.stream;
    this.#address = reply.properties.replyTo;
    if (this.#isStopping) {
      this.#tellStop();
      return place.isEnd;
    }
    if (place.stream !== this.#stream) throw this.#lost('another server began to answer it anew');
    if (place.number > this.#next) throw this.#lost(`reply ${this.#next} is missing`);
    // Published twice, because the server did not learn that the first arrived.
    if (place.number < this.#next) return false;
    this.#next += 1;
    if (place.isEnd) {
      this.#then(() => {
        this.#complete();
      });
    } else {
      this.#handOn(reply, false);
    }
    return place.isEnd;
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

  #tellStop(): void {
    if (this.#hasToldStop || this.#stream === undefined || this.#address === undefined) return;
    this.#hasToldStop = true;
    this.#options.stop(this.#address, this.#stream);
  }

  #lost(why: string): AmqpError {
    const { exchange, routingKey } = this.#options;
    return new AmqpError(
      'REPLY_LOST',
      `The request to ${destination(exchange, routingKey)} ended before its last reply: ${why}. Ask again.`,
    );
  }
}
