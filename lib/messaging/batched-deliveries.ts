/**
 * The deliveries of a handler that takes them in batches: each decoded by itself, gathered until there are enough or the first has
 * waited long enough, handed over together, answered one by one.
 *
 * ```
 *   message ──decoded──► filling ──full, or maxWait after the first──► due ──fewer than concurrency run──► running ──► answered
 * ```
 *
 * A batch that is due and has to wait takes more until it is full.
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import { DEFAULT_MAX_MESSAGE_SIZE } from '../client/connection-options.js';
import type { Message } from '../client/message.js';
import { AmqpError } from '../errors.js';
import { AnsweredDeliveries } from './answered-deliveries.js';
import { DecodedArrivals } from './decoded-arrivals.js';
import { type Decoder, decoderOf, decodingWithin } from './decoder.js';
import { Delivery, type DeliveryScope } from './delivery.js';
import { type AnswerOptions, DeliveryAnswers } from './delivery-answers.js';
import { askable } from './error-text.js';
import type { Log } from './log.js';
import { handlerTimeout, promiseOf } from './handled-deliveries.js';
import { PartialBatchError } from './partial-batch-error.js';

/** Nobody replies to requests that come in a batch. */
export interface BatchHandlerOptions extends Omit<AnswerOptions, 'replier'> {
  /** Most deliveries in a batch. */
  readonly size: number;
  /** How long the first of a batch waits for more, in milliseconds. */
  readonly maxWait: number;
  /** Most batches under way at a time. */
  readonly concurrency: number;
  /** How long the handler may take for a batch, in milliseconds, and each of its messages to be read before. @default for ever */
  readonly timeout?: number | undefined;
  /** @default by the content type and the content encoding */
  readonly decode?: Decoder | undefined;
}

/** Runs the user's code for one delivery or more, of one channel. Returning acknowledges all; throwing fails all, see `PartialBatchError`. */
export type BatchHandler = (deliveries: readonly Delivery[]) => unknown;

interface Item {
  readonly message: Message;
  readonly delivery: Delivery;
  readonly scope: DeliveryScope;
}

interface Batch {
  readonly items: Item[];
  /** Runs from the first item; undefined when the batch is due. */
  timer: NodeJS.Timeout | undefined;
  /** Items that are not answered, of a batch that was begun. */
  open: number;
}

export class BatchedDeliveries extends AnsweredDeliveries {
  readonly #options: BatchHandlerOptions;
  readonly #handler: BatchHandler;
  protected override readonly answers: DeliveryAnswers;
  readonly #arrivals: DecodedArrivals;
  /** Not begun, in order of arrival. Only the last one may lack items. */
  #waiting: Batch[] = [];
  #running = 0;
  readonly #batchOf = new Map<Message, Batch>();
  #isBeginning = false;

  constructor(connection: AmqpConnection, options: BatchHandlerOptions, handler: BatchHandler, log: Log) {
    super();
    this.#options = options;
    this.#handler = handler;
    this.answers = new DeliveryAnswers(connection, options, log, (message) => {
      this.#ended(message);
    });
    const { decode = decoderOf({ maxSize: DEFAULT_MAX_MESSAGE_SIZE }) } = options;
    this.#arrivals = new DecodedArrivals(
      decodingWithin(options.timeout, decode),
      (message, payload, scope) => {
        this.#gather({ message, delivery: new Delivery(message, payload, scope), scope });
      },
      (message, error, scope) => {
        this.answers.begin(message);
        this.answers.failed(message, error, scope);
      },
    );
  }

  override receive(message: Message): void {
    this.#arrivals.add(message, this.answers.scope);
  }

  protected override takeWaiting(): Message[] {
    const batches = this.#waiting.splice(0);
    for (const { timer } of batches) clearTimeout(timer);
    return [...batches.flatMap(({ items }) => items.map(({ message }) => message)), ...this.#arrivals.clear()];
  }

  #gather(item: Item): void {
    const { size } = this.#options;
    const last = this.#waiting.at(-1);
    const batch = last !== undefined && last.items.length < size ? last : this.#newBatch();
    batch.items.push(item);
    if (batch.items.length < size) return;
    this.#due(batch);
  }

  #newBatch(): Batch {
    const batch: Batch = { items: [], timer: undefined, open: 0 };
    batch.timer = setTimeout(() => {
      this.#due(batch);
    }, this.#options.maxWait);
    this.#waiting.push(batch);
    return batch;
  }

  #due(batch: Batch): void {
    clearTimeout(batch.timer);
    batch.timer = undefined;
    this.#beginDue();
  }

  /** In a loop: batches that are done at once would begin each other ever deeper in the stack. */
  #beginDue(): void {
    if (this.#isBeginning) return;
    this.#isBeginning = true;
    while (this.#running < this.#options.concurrency) {
      const next = this.#waiting[0];
      if (next === undefined || next.timer !== undefined) break;
      this.#waiting.shift();
      this.#run(next);
    }
    this.#isBeginning = false;
  }

  /** Never throws. */
  #run(batch: Batch): void {
    this.#running += 1;
    batch.open = batch.items.length;
    for (const { message } of batch.items) {
      this.#batchOf.set(message, batch);
      this.answers.begin(message);
    }
    let promise: Promise<unknown> | undefined;
    try {
      promise = promiseOf(this.#handler(batch.items.map(({ delivery }) => delivery)));
    } catch (error) {
      this.#failed(batch, error);
      return;
    }
    if (promise === undefined) this.#done(batch);
    else this.#await(promise, batch);
  }

  /** What comes too late counts no more: the deliveries have been answered. */
  #await(promise: Promise<unknown>, batch: Batch): void {
    const { timeout } = this.#options;
    for (const { message, scope } of batch.items) this.answers.goesOn(message, scope);
    let isOver = false;
    const timer =
      timeout === undefined
        ? undefined
        : setTimeout(() => {
            isOver = true;
            const error = handlerTimeout(timeout);
            for (const { delivery } of batch.items) delivery.over(error);
            this.answers.outlasts(promise);
            this.#failed(batch, error);
          }, timeout);
    // The connection keeps the process alive, and nobody heeds this without one.
    timer?.unref();
    promise.then(
      () => {
        clearTimeout(timer);
        if (!isOver) this.#done(batch);
      },
      (error: unknown) => {
        clearTimeout(timer);
        if (!isOver) this.#failed(batch, error);
      },
    );
  }

  #done({ items }: Batch): void {
    for (const { message, delivery, scope } of items) this.answers.done(message, delivery, scope, undefined);
  }

  /** What the handler has answered by itself stays answered. */
  #failed({ items }: Batch, thrown: unknown): void {
    const errors = errorsOf(items, askable(thrown));
    for (const [index, { message, delivery, scope }] of items.entries()) {
      const failure = errors[index];
      if (failure === undefined || this.answers.isAnswered(message)) {
        this.answers.done(message, delivery, scope, undefined);
      } else {
        delivery.over();
        this.answers.failed(message, failure.why, scope);
      }
    }
  }

  #ended(message: Message): void {
    const batch = this.#batchOf.get(message);
    if (batch === undefined) return;
    this.#batchOf.delete(message);
    batch.open -= 1;
    if (batch.open > 0) return;
    this.#running -= 1;
    this.#beginDue();
  }
}

/** What each item has failed with; undefined where it has not. */
function errorsOf(items: readonly Item[], error: unknown): readonly ({ readonly why: unknown } | undefined)[] {
  if (!(error instanceof PartialBatchError)) return items.map(() => ({ why: error }));
  const { failures } = error;
  const known = items.filter(({ delivery }) => failures.has(delivery)).length;
  if (known < failures.size) {
    const why = new AmqpError(
      'INVALID_ARGUMENT',
      `A PartialBatchError names ${failures.size - known} deliveries that are not of the batch, so that all of it counts as failed.`,
      { cause: error },
    );
    return items.map(() => ({ why }));
  }
  return items.map(({ delivery }) => (failures.has(delivery) ? { why: failures.get(delivery) } : undefined));
}
