/**
 * The deliveries of one handler: each decoded, handed to it when its turn has come, answered by what it does. Where they come from,
 * and how long, is the consumer's; which code the handler is, is decided above.
 */
import { types } from 'node:util';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { DEFAULT_MAX_MESSAGE_SIZE } from '../client/connection-options.js';
import type { Message } from '../client/message.js';
import { AmqpError } from '../errors.js';
import { AnsweredDeliveries } from './answered-deliveries.js';
import { DecodedArrivals } from './decoded-arrivals.js';
import { type Decoder, decoderOf, decodingWithin } from './decoder.js';
import { Delivery, type DeliveryScope } from './delivery.js';
import { type AnswerOptions, DeliveryAnswers } from './delivery-answers.js';
import type { Log } from './log.js';
import { Lanes } from './lanes.js';

/** Says which deliveries are handled one after the other: those with the same key. `T` is their payload. */
export type OrderBy<T = unknown> = (delivery: Delivery<T>) => unknown;

export interface HandlerOptions extends AnswerOptions {
  /** Most deliveries under way at a time; more wait here. */
  readonly concurrency: number;
  /** @default in any order */
  readonly orderBy?: OrderBy | undefined;
  /** How long it may take, in milliseconds, and how long its message may take to be read before. @default for ever */
  readonly timeout?: number | undefined;
  /** @default by the content type and the content encoding */
  readonly decode?: Decoder | undefined;
}

/** Runs the user's code, which may return a promise. Returning acknowledges; throwing has it retried, or dead-lettered. */
export type DeliveryHandler = (delivery: Delivery) => unknown;

/** Decoded, and not begun. */
interface Turn {
  readonly message: Message;
  readonly delivery: Delivery;
  readonly scope: DeliveryScope;
}

/** What is kept of deliveries that have an order. */
interface Order {
  readonly by: OrderBy;
  readonly arrivals: DecodedArrivals;
  readonly lanes: Lanes<Message, Turn>;
}

export class HandledDeliveries extends AnsweredDeliveries {
  readonly #options: HandlerOptions;
  readonly #decode: Decoder;
  readonly #handler: DeliveryHandler;
  protected override readonly answers: DeliveryAnswers;
  readonly #order: Order | undefined;
  /** Delivered while `concurrency` handlers run: those of a lost channel still do when the next one delivers. */
  #waiting: Message[] = [];
  #isHandlingWaiting = false;

  constructor(connection: AmqpConnection, options: HandlerOptions, handler: DeliveryHandler, log: Log) {
    super();
    this.#options = options;
    const { decode = decoderOf({ maxSize: DEFAULT_MAX_MESSAGE_SIZE }) } = options;
    this.#decode = decodingWithin(options.timeout, decode);
    this.#handler = handler;
    this.#order = options.orderBy === undefined ? undefined : this.#newOrder(options.orderBy);
    this.answers = new DeliveryAnswers(connection, options, log, (message) => {
      if (this.#order !== undefined) this.#order.lanes.ended(message);
      else if (this.#waiting.length > 0) this.#handleWaiting();
    });
  }

  override receive(message: Message): void {
    if (this.#order !== undefined) this.#order.arrivals.add(message, this.answers.scope);
    else if (this.answers.underWay >= this.#options.concurrency) this.#waiting.push(message);
    else this.#handle(message);
  }

  protected override takeWaiting(): Message[] {
    if (this.#order === undefined) return this.#waiting.splice(0);
    const { arrivals, lanes } = this.#order;
    return [...lanes.clear().map(({ message }) => message), ...arrivals.clear()];
  }

  /** In a loop: handlers that return at once would begin each other ever deeper in the stack. */
  #handleWaiting(): void {
    if (this.#isHandlingWaiting) return;
    this.#isHandlingWaiting = true;
    while (this.answers.underWay < this.#options.concurrency) {
      const next = this.#waiting.shift();
      if (next === undefined) break;
      this.#handle(next);
    }
    this.#isHandlingWaiting = false;
  }

  /** Never throws. Decoding may take its time (a compressed body, a schema that waits), and counts as under way. */
  #handle(message: Message): void {
    this.answers.begin(message);
    const { scope } = this.answers;
    let payload: unknown;
    try {
      payload = this.#decode(message);
    } catch (error) {
      this.answers.failed(message, error, scope);
      return;
    }
    if (types.isPromise(payload)) {
      this.answers.goesOn(message, scope);
      payload.then(
        (decoded) => {
          if (this.answers.isForNothing(scope)) this.answers.leave(message);
          else this.#run(new Delivery(message, decoded, scope), message, scope);
        },
        (error: unknown) => {
          this.answers.failed(message, error, scope);
        },
      );
    } else {
      this.#run(new Delivery(message, payload, scope), message, scope);
    }
  }

  #newOrder(by: OrderBy): Order {
    const failed = (message: Message, error: unknown, scope: DeliveryScope): void => {
      this.answers.begin(message);
      this.answers.failed(message, error, scope);
    };
    return {
      by,
      arrivals: new DecodedArrivals(
        this.#decode,
        (message, payload, scope) => {
          const delivery = new Delivery(message, payload, scope);
          let key: unknown;
          try {
            key = keyOf(by(delivery));
          } catch (error) {
            delivery.over();
            failed(message, error, scope);
            return;
          }
          this.#order?.lanes.add(key, message, { message, delivery, scope });
        },
        failed,
      ),
      lanes: new Lanes(this.#options.concurrency, ({ message, delivery, scope }) => {
        this.answers.begin(message);
        this.#run(delivery, message, scope);
      }),
    };
  }

  /** Never throws. What a handler returns without a promise is answered at once. */
  #run(delivery: Delivery, message: Message, scope: DeliveryScope): void {
    let result: unknown;
    let promise: Promise<unknown> | undefined;
    try {
      result = this.#handler(delivery);
      promise = promiseOf(result);
    } catch (error) {
      delivery.over();
      this.answers.failed(message, error, scope);
      return;
    }
    if (promise === undefined) this.answers.done(message, delivery, scope, result);
    else this.#await(promise, message, delivery, scope);
  }

  #await(promise: Promise<unknown>, message: Message, delivery: Delivery, scope: DeliveryScope): void {
    const { timeout } = this.#options;
    this.answers.goesOn(message, scope);
    if (timeout !== undefined) {
      this.#awaitUntil(timeout, promise, message, delivery, scope);
      return;
    }
    promise.then(
      (result) => {
        this.answers.done(message, delivery, scope, result);
      },
      (error: unknown) => {
        delivery.over();
        this.answers.failed(message, error, scope);
      },
    );
  }

  /** What comes too late counts no more: the delivery has been answered. */
  #awaitUntil(ms: number, promise: Promise<unknown>, message: Message, delivery: Delivery, scope: DeliveryScope): void {
    let timer: NodeJS.Timeout | undefined = setTimeout(() => {
      timer = undefined;
      const error = handlerTimeout(ms);
      delivery.over(error);
      this.answers.outlasts(promise);
      this.answers.failed(message, error, scope);
    }, ms);
    // The connection keeps the process alive, and nobody heeds this without one.
    timer.unref();
    promise.then(
      (result) => {
        if (timer === undefined) return;
        clearTimeout(timer);
        this.answers.done(message, delivery, scope, result);
      },
      (error: unknown) => {
        if (timer === undefined) return;
        clearTimeout(timer);
        delivery.over();
        this.answers.failed(message, error, scope);
      },
    );
  }
}

/** What a handler has failed with that took too long. */
export function handlerTimeout(ms: number): AmqpError {
  return new AmqpError(
    'HANDLER_TIMEOUT',
    `The handler took longer than its timeout of ${ms} ms. It runs on unless it heeds delivery.signal; what it does now changes nothing.`,
  );
}

/** What a function returned, when it has to be waited for. */
export function promiseOf(returned: unknown): Promise<unknown> | undefined {
  if (types.isPromise(returned)) return returned;
  const isThenable = typeof (returned as PromiseLike<unknown> | null | undefined)?.then === 'function';
  return isThenable ? Promise.resolve(returned) : undefined;
}

/** Objects are as many keys as there are deliveries, and would put nothing into an order. */
function keyOf(key: unknown): unknown {
  if ((typeof key !== 'object' || key === null) && typeof key !== 'function') return key;
  // Of a promise, nobody else hears what it rejects with.
  void promiseOf(key)?.catch(() => undefined);
  throw new AmqpError(
    'INVALID_ARGUMENT',
    'orderBy returned an object, or a promise, as the key of a delivery: no two of them are the same. Return text or a number.',
  );
}
