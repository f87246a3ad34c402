/** A message as a handler sees it: decoded, with its one answer. */
import type { Message } from '../client/message.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { BasicProperties } from '../protocol/properties.js';

const NO_HEADERS: FieldTable = Object.freeze(Object.create(null) as FieldTable);

/** What a handler of `@Consume` gets beside the payload. */
export class Delivery<T = unknown> {
  /** The decoded body. */
  readonly payload: T;
  /** The queue that it came from. */
  readonly queue: string;
  readonly #message: Message;

  /** @internal Made by the consumer. */
  constructor(message: Message, payload: T, queue: string) {
    this.#message = message;
    this.payload = payload;
    this.queue = queue;
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

  /** The exchange that it was published to; empty for the default exchange. */
  get exchange(): string {
    return this.#message.exchange;
  }

  get routingKey(): string {
    return this.#message.routingKey;
  }

  /** True when it was delivered before: to this consumer or another one. */
  get redelivered(): boolean {
    return this.#message.redelivered;
  }

  /** Its number on its channel, from 1. */
  get deliveryTag(): number {
    return this.#message.deliveryTag;
  }

  get consumerTag(): string {
    return this.#message.consumerTag ?? '';
  }

  /** Answers ahead of the handler's return. Says whether it was sent: a second answer, or one to a lost channel, is not. */
  ack(): boolean {
    return this.#message.ack();
  }

  /** Puts it back into the queue, or with `requeue: false` has it dead-lettered or dropped. */
  nack(options?: { requeue?: boolean }): boolean {
    return this.#message.nack(options);
  }

  /** Has it dead-lettered or dropped, or with `requeue: true` puts it back into the queue. */
  reject(options?: { requeue?: boolean }): boolean {
    return this.#message.reject(options);
  }
}
