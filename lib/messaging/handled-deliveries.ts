/**
 * What becomes of the deliveries of one handler: decoded, handed to it, answered by what it does. Where they come from, and how
 * long, is the consumer's; which code the handler is, is decided above; what is done with failures is `failed-deliveries`'s.
 */
import { types } from 'node:util';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { DEFAULT_MAX_MESSAGE_SIZE } from '../client/connection-options.js';
import { quietly } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { AmqpError, quoted } from '../errors.js';
import { type MessageReceiver, labelOf } from './consumer.js';
import { type Decoder, decoderOf } from './decoder.js';
import { Delivery, DeliveryScope } from './delivery.js';
import { FailedDeliveries, type FailedDeliveriesOptions, type Log, idOf, messageOf } from './failed-deliveries.js';
import { HandlerReplies } from './handler-replies.js';
import { type Replier, isRequest } from './replier.js';

/**
 * Who acknowledges. `'auto'`: the handler's return. `'manual'`: the handler, with `delivery.ack()`, when it likes; what it throws
 * counts as with `'auto'`. `'none'`: nobody; a message is done with before its handler runs, and lost with a process that ends.
 */
export type AckMode = 'auto' | 'manual' | 'none';

export interface HandlerOptions extends Omit<FailedDeliveriesOptions, 'areOurs'> {
  /** What it is called in the log: `BillingConsumer.charge`. */
  readonly name: string;
  /** Most deliveries under way at a time; more wait here. */
  readonly concurrency: number;
  /** @default 'auto' */
  readonly ack?: AckMode | undefined;
  /** How long it may take, in milliseconds. @default for ever */
  readonly timeout?: number | undefined;
  /** @default by the content type and the content encoding */
  readonly decode?: Decoder | undefined;
  /** Answers those that carry a `replyTo`. @default nobody */
  readonly replier?: Replier | undefined;
}

/** Runs the user's code, which may return a promise. Returning acknowledges; throwing has it retried, or dead-lettered. */
export type DeliveryHandler = (delivery: Delivery) => unknown;

export class HandledDeliveries implements MessageReceiver {
  readonly #connection: AmqpConnection;
  readonly #options: HandlerOptions;
  readonly #decode: Decoder;
  readonly #handler: DeliveryHandler;
  readonly #label: string;
  readonly #log: Log;
  readonly #failures: FailedDeliveries;
  /** What the deliveries of the present channel share. */
  #scope: DeliveryScope;
  /** Deliveries that are under way, and who waits until none is. */
  #running = 0;
  #onIdle: (() => void)[] = [];
  /** Delivered while `concurrency` handlers run: those of a lost channel still do when the next one delivers. */
  #waiting: Message[] = [];
  #isHandlingWaiting = false;
  /** Handlers that returned and left the answer for later. */
  readonly #unanswered = new Set<Delivery>();
  #hasToldVain = false;
  readonly #replies: HandlerReplies | undefined;
  /** Of what is acknowledged before it is handled, the reply outlives the channel. */
  readonly #ours: DeliveryScope | undefined;

  constructor(connection: AmqpConnection, options: HandlerOptions, handler: DeliveryHandler, log: Log) {
    this.#connection = connection;
    this.#options = options;
    this.#decode = options.decode ?? decoderOf({ maxSize: DEFAULT_MAX_MESSAGE_SIZE });
    this.#handler = handler;
    this.#label = labelOf(options);
    this.#log = log;
    this.#failures = new FailedDeliveries(
      connection,
      { ...options, areOurs: options.ack === 'none' },
      this.#label,
      log,
    );
    this.#scope = this.#newScope();
    this.#replies = options.replier && new HandlerReplies(options.replier, options.name, this.#label, log);
    this.#ours = options.ack === 'none' ? this.#newScope() : undefined;
  }

  /** Deliveries whose handler is running, or that have not been answered since. */
  get underWay(): number {
    return this.#running;
  }

  /** What comes from now on comes over another channel. */
  renew(): void {
    this.#scope = this.#newScope();
  }

  /** Begins to handle it, now or when others have ended. Never throws. */
  receive(message: Message): void {
    if (this.#running >= this.#options.concurrency) this.#waiting.push(message);
    else this.#handle(message);
  }

  /** The channel is gone. The broker delivers again what waited here, and what nobody has answered. */
  lost(why: string): void {
    this.#waiting = [];
    this.#scope.end(
      new AmqpError(
        'CHANNEL_CLOSED',
        `The delivery can be answered no more: the consumer of queue ${quoted(this.#options.queue)} stopped. ${why}`,
      ),
    );
    for (const delivery of this.#unanswered) this.#answeredLate(delivery);
  }

  /** What has not begun goes back to the queue. */
  giveBack(): void {
    for (const message of this.#waiting.splice(0)) message.nack();
  }

  /** Begins nothing any more: what has not begun goes back to the queue. */
  stop(): void {
    this.giveBack();
    this.#failures.stop();
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    if (this.#running === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle.push(resolve);
    });
  }

  /** Nothing is waited for any more, and nothing can be answered. */
  abandon(until: string): void {
    this.#failures.abandon();
    const why = new AmqpError('ABORTED', `The consumer was stopped, and waits no longer than ${until}.`);
    this.#scope.end(why);
    this.#ours?.end(why);
    if (this.#running === 0) return;
    this.#log.warn(
      `${this.#running} handlers of ${this.#label} still ran after ${until}; ` +
        (this.#options.ack === 'none'
          ? 'their messages are not delivered again.'
          : 'the broker delivers their messages again.'),
    );
  }

  /** Never throws. Decoding may take its time (a compressed body, a schema that waits), and counts as under way. */
  #handle(message: Message): void {
    this.#running += 1;
    if (this.#options.ack === 'none') message.ack();
    const scope = this.#scope;
    let payload: unknown;
    try {
      payload = this.#decode(message);
    } catch (error) {
      this.#failed(message, error, scope);
      return;
    }
    if (types.isPromise(payload)) {
      payload.then(
        (decoded) => {
          this.#handleDecoded(decoded, message, scope);
        },
        (error: unknown) => {
          this.#failed(message, error, scope);
        },
      );
    } else {
      this.#handleDecoded(payload, message, scope);
    }
  }

  /** Never throws. What a handler returns without a promise is answered at once. */
  #handleDecoded(payload: unknown, message: Message, scope: DeliveryScope): void {
    const delivery = new Delivery(message, payload, scope);
    let result: unknown;
    let promise: Promise<unknown> | undefined;
    try {
      result = this.#handler(delivery);
      promise = promiseOf(result);
    } catch (error) {
      delivery.over();
      this.#failed(message, error, scope);
      return;
    }
    if (promise === undefined) this.#done(message, delivery, result, scope);
    else this.#await(promise, message, delivery, scope);
  }

  #await(promise: Promise<unknown>, message: Message, delivery: Delivery, scope: DeliveryScope): void {
    const { timeout } = this.#options;
    if (timeout !== undefined) {
      this.#awaitUntil(timeout, promise, message, delivery, scope);
      return;
    }
    promise.then(
      (result) => {
        this.#done(message, delivery, result, scope);
      },
      (error: unknown) => {
        delivery.over();
        this.#failed(message, error, scope);
      },
    );
  }

  /** What comes too late counts no more: the delivery has been answered. */
  #awaitUntil(ms: number, promise: Promise<unknown>, message: Message, delivery: Delivery, scope: DeliveryScope): void {
    let timer: NodeJS.Timeout | undefined = setTimeout(() => {
      timer = undefined;
      const error = new AmqpError(
        'HANDLER_TIMEOUT',
        `The handler took longer than its timeout of ${ms} ms. It runs on unless it heeds delivery.signal; what it does now changes nothing.`,
      );
      delivery.over(error);
      this.#failed(message, error, scope);
    }, ms);
    promise.then(
      (result) => {
        if (timer === undefined) return;
        clearTimeout(timer);
        this.#done(message, delivery, result, scope);
      },
      (error: unknown) => {
        if (timer === undefined) return;
        clearTimeout(timer);
        delivery.over();
        this.#failed(message, error, scope);
      },
    );
  }

  /** The handler has returned. Who awaits a reply is told before the broker is. */
  #done(message: Message, delivery: Delivery, result: unknown, scope: DeliveryScope): void {
    const replies = this.#repliesTo(message);
    if (replies === undefined || message.wasPutBack) this.#acknowledge(message, delivery);
    else void this.#reply(replies, message, delivery, result, scope);
  }

  /** Undefined for what nobody awaits a reply to, as nearly everything: one octet of it is looked at. */
  #repliesTo(message: Message): HandlerReplies | undefined {
    return this.#replies !== undefined && message.hasReplyTo && isRequest(message) ? this.#replies : undefined;
  }

  /** Never rejects. */
  async #reply(
    replies: HandlerReplies,
    message: Message,
    delivery: Delivery,
    result: unknown,
    scope: DeliveryScope,
  ): Promise<void> {
    const end = await replies.result(message, delivery, result, this.#ours ?? scope);
    switch (end.kind) {
      case 'replied':
        this.#acknowledge(message, delivery);
        return;
      case 'told':
        delivery.over();
        this.#failures.settleTold(message, end.error);
        this.#ended();
        return;
      case 'failed':
        delivery.over();
        this.#failed(message, end.error, scope);
        return;
      default:
        end satisfies never;
    }
  }

  #acknowledge(message: Message, delivery: Delivery): void {
    if (this.#options.ack === 'manual' && delivery.isOpen) {
      this.#unanswered.add(delivery);
      return;
    }
    delivery.over();
    message.ack();
    this.#ended();
  }

  #ended(): void {
    this.#running -= 1;
    if (this.#waiting.length > 0) this.#handleWaiting();
    if (this.#running === 0) for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  /** In a loop: handlers that return at once would begin each other ever deeper in the stack. */
  #handleWaiting(): void {
    if (this.#isHandlingWaiting) return;
    this.#isHandlingWaiting = true;
    while (this.#running < this.#options.concurrency) {
      const next = this.#waiting.shift();
      if (next === undefined) break;
      this.#handle(next);
    }
    this.#isHandlingWaiting = false;
  }

  #failed(message: Message, error: unknown, scope: DeliveryScope): void {
    const replies = this.#repliesTo(message);
    if (replies === undefined || !this.#isOver(message, error)) this.#settleFailed(message, error, scope);
    else void this.#replyError(replies, message, error, scope);
  }

  /** Whether this error is the last that is heard of the message. */
  #isOver(message: Message, error: unknown): boolean {
    return this.#isAnswered(message) ? !message.wasPutBack : this.#failures.givesUp(message, error);
  }

  /** Its handler has answered it by hand. */
  #isAnswered(message: Message): boolean {
    return message.settled && this.#options.ack !== 'none';
  }

  /** Never rejects. A requester that was told of the error has it; otherwise it becomes of the message what would without one. */
  async #replyError(replies: HandlerReplies, message: Message, error: unknown, scope: DeliveryScope): Promise<void> {
    const isTold = await replies.error(message, error, this.#ours ?? scope);
    if (!isTold || this.#isAnswered(message)) {
      this.#settleFailed(message, error, scope);
      return;
    }
    this.#failures.settleTold(message, error);
    this.#ended();
  }

  #settleFailed(message: Message, error: unknown, scope: DeliveryScope): void {
    if (this.#isAnswered(message)) {
      // Its handler has answered before it failed.
      quietly(() => {
        this.#log.error(
          `${this.#label} failed on the message with routing key ${quoted(message.routingKey)}${idOf(message)}. ` +
            `It was not answered again. ${messageOf(error)}`,
        );
      });
      this.#ended();
      return;
    }
    const settled = this.#failures.settle(message, error, scope);
    if (settled === undefined) {
      this.#ended();
      return;
    }
    void settled.then(() => {
      this.#ended();
    });
  }

  #newScope(): DeliveryScope {
    return new DeliveryScope({
      queue: this.#connection.topology.current(this.#options.queue),
      attemptOf: (message) => this.#failures.attemptOf(message),
      answered: (delivery) => {
        this.#answeredLate(delivery);
      },
      answeredInVain: (delivery, wasAnswered) => {
        this.#answeredLate(delivery);
        this.#tellVain(delivery, wasAnswered);
      },
    });
  }

  #answeredLate(delivery: Delivery): void {
    if (!this.#unanswered.delete(delivery)) return;
    delivery.over();
    this.#ended();
  }

  /** Once for all: a handler that does it does it with every delivery. */
  #tellVain(delivery: Delivery, wasAnswered: boolean): void {
    if (this.#hasToldVain) return;
    this.#hasToldVain = true;
    const why =
      this.#options.ack === 'none'
        ? "which its consumer has not to (ack: 'none')"
        : wasAnswered
          ? 'which was answered before'
          : 'whose channel was gone by then; the broker delivers it again';
    quietly(() => {
      this.#log.warn(
        `${this.#label} answered delivery ${delivery.deliveryTag}, ${why}. That changes nothing, and is told this once.`,
      );
    });
  }
}

/** What a function returned, when it has to be waited for. */
export function promiseOf(returned: unknown): Promise<unknown> | undefined {
  if (types.isPromise(returned)) return returned;
  const isThenable = typeof (returned as PromiseLike<unknown> | null | undefined)?.then === 'function';
  return isThenable ? Promise.resolve(returned) : undefined;
}
