/** A message as a handler sees it: decoded, with its one answer. */
import type { Message } from '../client/message.js';
import type { AmqpError } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { BasicProperties } from '../protocol/properties.js';
import { originOf } from './attempt-headers.js';
import { isRequest, wantsStream } from './reply-format.js';

const NO_HEADERS: FieldTable = Object.freeze(Object.create(null) as FieldTable);

/** Who hands deliveries to a handler, and hears what that does with them. */
export interface DeliveryOwner {
  readonly queue: string;
  /** Which attempt it is, from 1. */
  attemptOf(message: Message): number;
  /** The handler has answered. */
  answered(delivery: Delivery): void;
  /** The handler has refused it for good, without a word to whoever made it. */
  refused(delivery: Delivery): void;
  /** The handler has answered in vain: a second time, or when the channel was gone. */
  answeredInVain(delivery: Delivery, wasAnswered: boolean): void;
}

/** What the deliveries of one channel share: who hands them out, and how long they can be answered. */
export class DeliveryScope {
  readonly owner: DeliveryOwner;
  readonly #open = new Set<Pick<AbortController, 'abort'>>();
  #end: AmqpError | undefined;

  /** Nothing can be answered any more. */
  get hasEnded(): boolean {
    return this.#end !== undefined;
  }

  /** Why, then. */
  get endError(): AmqpError | undefined {
    return this.#end;
  }

  constructor(owner: DeliveryOwner) {
    this.owner = owner;
  }

  /** A signal that fires when nothing of this channel can be answered any more; `release` it. */
  controller(): AbortController {
    const controller = new AbortController();
    if (this.#end === undefined) this.#open.add(controller);
    else controller.abort(this.#end);
    return controller;
  }

  release(controller: AbortController): void {
    this.#open.delete(controller);
  }

  /** The result of a promise; a rejection with what `late` makes after `ms` milliseconds, or with why nothing can be answered any more. */
  within<T>(promise: Promise<T>, ms: number, late: () => AmqpError): Promise<T> {
    return new Promise((resolve, reject) => {
      const over = (): void => {
        clearTimeout(timer);
        this.#open.delete(waiting);
      };
      const failed = (error: unknown): void => {
        over();
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what the promise rejects with, whatever it is
        reject(error);
      };
      const waiting = { abort: failed };
      const timer = setTimeout(() => {
        failed(late());
      }, ms);
      // The connection keeps the process alive, and nobody heeds this without one.
      timer.unref();
      promise.then((value) => {
        over();
        resolve(value);
      }, failed);
      if (this.#end === undefined) this.#open.add(waiting);
      else failed(this.#end);
    });
  }

  /** The channel is gone, or the time of its deliveries is up. */
  end(why: AmqpError): void {
    if (this.#end !== undefined) return;
    this.#end = why;
    for (const controller of this.#open) controller.abort(why);
    this.#open.clear();
  }
}

/** What a handler of `@Consume` gets beside the payload. */
export class Delivery<T = unknown> {
  /** The decoded body. */
  readonly payload: T;
  readonly #message: Message;
  readonly #scope: DeliveryScope;
  #controller: AbortController | undefined;
  #isOver = false;

  /** @internal Made by the consumer. */
  constructor(message: Message, payload: T, scope: DeliveryScope) {
    this.#message = message;
    this.payload = payload;
    this.#scope = scope;
  }

  /** The queue that it came from. */
  get queue(): string {
    return this.#scope.owner.queue;
  }

  /** The bytes of the body. */
  get body(): Buffer {
    return this.#message.body;
  }

  get properties(): BasicProperties {
    return this.#message.properties;
  }

  /** The headers; an empty object when there are none. */
  get headers(): FieldTable {
    return this.#message.properties.headers ?? NO_HEADERS;
  }

  /** The exchange that it was published to, also when it comes again after a failure; empty for the default exchange. */
  get exchange(): string {
    return originOf(this.#message, this.queue).exchange;
  }

  /** The routing key that it was published with, also when it comes again after a failure. */
  get routingKey(): string {
    return originOf(this.#message, this.queue).routingKey;
  }

  /** True when it was delivered before: to this consumer or another one. One that was retried is a new message to the broker. */
  get redelivered(): boolean {
    return this.#message.redelivered;
  }

  /** How often it has been tried, this time included; from 1. What was put back, or was under way when a process ended, is not counted. */
  get attempt(): number {
    return this.#scope.owner.attemptOf(this.#message);
  }

  /** Its number on its channel, from 1. */
  get deliveryTag(): number {
    return this.#message.deliveryTag;
  }

  get consumerTag(): string {
    return this.#message.consumerTag ?? '';
  }

  /**
   * Fires while the handler runs when its work is for nothing: its channel is lost (`CHANNEL_CLOSED`), so that the broker delivers
   * the message again; it took longer than its `timeout` (`HANDLER_TIMEOUT`); or the application shuts down and waits no longer
   * (`ABORTED`).
   */
  get signal(): AbortSignal {
    // Of a handler that has ended nothing is to be stopped, and nobody would release it.
    this.#controller ??= this.#isOver ? new AbortController() : this.#scope.controller();
    return this.#controller.signal;
  }

  /** Answers ahead of the handler's return. Says whether it was sent: a second answer, or one to a lost channel, is not. */
  ack(): boolean {
    const wasAnswered = this.#isOver || this.#message.settled;
    return this.#told(!wasAnswered && this.#message.ack(), wasAnswered);
  }

  /** Puts it back into the queue, or with `requeue: false` has it dead-lettered by the broker, or dropped. */
  nack(options?: { requeue?: boolean }): boolean {
    const wasAnswered = this.#isOver || this.#message.settled;
    return this.#told(!wasAnswered && this.#message.nack(options), wasAnswered, options?.requeue === false);
  }

  /**
   * Has it dead-lettered by the broker where the queue has a dead-letter exchange, else dropped; with `requeue: true` puts it back
   * into the queue. What shall not be dropped is refused by throwing `RejectDelivery`.
   */
  reject(options?: { requeue?: boolean }): boolean {
    const wasAnswered = this.#isOver || this.#message.settled;
    return this.#told(!wasAnswered && this.#message.reject(options), wasAnswered, options?.requeue !== true);
  }

  #told(sent: boolean, wasAnswered: boolean, isRefused = false): boolean {
    const { owner } = this.#scope;
    if (sent && isRefused) owner.refused(this);
    if (sent) owner.answered(this);
    else owner.answeredInVain(this, wasAnswered);
    return sent;
  }

  /** @internal Whether its requester takes every value of a handler that has many. */
  get wantsStream(): boolean {
    return isRequest(this.#message) && wantsStream(this.#message);
  }

  /** @internal What `signal` has fired with, or would have. */
  get firedWith(): AmqpError | undefined {
    return (this.#controller?.signal.reason as AmqpError | undefined) ?? this.#scope.endError;
  }

  /** @internal Whether the handler has answered it, or nobody has to. */
  get isAnswered(): boolean {
    return this.#message.settled;
  }

  /** @internal Whether an answer would be sent. */
  get isOpen(): boolean {
    return !this.#message.settled && !this.#scope.hasEnded;
  }

  /** @internal The handler has ended, or has no time left: what it answers now is not sent. */
  over(why?: AmqpError): void {
    this.#isOver = true;
    if (why !== undefined) (this.#controller ??= new AbortController()).abort(why);
    if (this.#controller !== undefined) this.#scope.release(this.#controller);
  }
}
