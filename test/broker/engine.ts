/** What tests of the broker's engine share: a virtual host on a clock that stands still, messages, and somebody who takes them. */
import { BrokerError } from '../../lib/broker/broker-error.js';
import { type BrokerMessage, publishedMessage } from '../../lib/broker/broker-message.js';
import { ManualClock } from '../../lib/broker/clock.js';
import type { MessageQueue, QueueConsumer, QueueDelivery } from '../../lib/broker/message-queue.js';
import { type PublishOutcome, VirtualHost } from '../../lib/broker/virtual-host.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import { type BasicProperties, writeProperties } from '../../lib/protocol/properties.js';
import { WireWriter } from '../../lib/protocol/wire.js';

/** The connection that asks, where it does not matter which. */
export const OWNER = { connection: 1 };

interface QueueOptions {
  readonly passive?: boolean;
  readonly durable?: boolean;
  readonly exclusive?: boolean;
  readonly autoDelete?: boolean;
  readonly owner?: object;
}

interface ExchangeOptions {
  readonly passive?: boolean;
  readonly durable?: boolean;
  readonly autoDelete?: boolean;
  readonly internal?: boolean;
  readonly arguments?: FieldTable;
}

/** A virtual host with the defaults that a test does not want to repeat. */
export class Engine {
  readonly clock = new ManualClock();
  readonly host = new VirtualHost('/', this.clock);

  queue(name: string, args: FieldTable = {}, options: QueueOptions = {}): MessageQueue {
    const { passive = false, durable = false, exclusive = false, autoDelete = false, owner = OWNER } = options;
    return this.host.declareQueue({ name, passive, durable, exclusive, autoDelete, arguments: args }, owner);
  }

  quorum(name: string, args: FieldTable = {}): MessageQueue {
    return this.queue(name, { 'x-queue-type': 'quorum', ...args }, { durable: true });
  }

  exchange(name: string, type = 'direct', options: ExchangeOptions = {}): void {
    const { passive = false, durable = false, autoDelete = false, internal = false, arguments: args = {} } = options;
    this.host.declareExchange({ name, type, passive, durable, autoDelete, internal, arguments: args });
  }

  bind(queue: string, exchange: string, routingKey = '', args: FieldTable = {}): void {
    this.host.bindQueue({ queue, exchange, routingKey, arguments: args }, OWNER);
  }

  publish(exchange: string, routingKey: string, body = '', properties: BasicProperties = {}): PublishOutcome {
    return this.host.publish(message(exchange, routingKey, body, properties));
  }

  /** Takes all that is ready, and settles it. */
  drain(queue: string): BrokerMessage[] {
    const found: BrokerMessage[] = [];
    const from = this.host.queue(queue, OWNER);
    for (let next = from.get({ noAck: true }); next !== undefined; next = from.get({ noAck: true })) {
      found.push(next.message);
    }
    return found;
  }

  bodies(queue: string): string[] {
    return this.drain(queue).map(({ body }) => body.toString());
  }
}

export function propertyBytes(properties: BasicProperties): Buffer {
  const writer = new WireWriter(1024);
  writeProperties(writer, properties);
  return writer.take();
}

export function message(
  exchange: string,
  routingKey: string,
  body = '',
  properties: BasicProperties = {},
): BrokerMessage {
  return publishedMessage(exchange, routingKey, propertyBytes(properties), Buffer.from(body));
}

/** A consumer that notes what it gets, and has room for `prefetch` messages that it has not settled. */
export class Taker implements QueueConsumer {
  readonly tag: string;
  readonly noAck: boolean;
  readonly exclusive: boolean;
  readonly priority: number;
  readonly owner = OWNER;
  readonly deliveries: QueueDelivery[] = [];
  /** What happens at each delivery, if not just that it is noted. */
  onDelivery: (delivery: QueueDelivery) => void = () => undefined;
  isCancelled = false;
  prefetch: number;
  #held = 0;

  constructor({ tag = 'taker', noAck = false, exclusive = false, priority = 0, prefetch = Infinity } = {}) {
    this.tag = tag;
    this.noAck = noAck;
    this.exclusive = exclusive;
    this.priority = priority;
    this.prefetch = prefetch;
  }

  get bodies(): string[] {
    return this.deliveries.map(({ message: { body } }) => body.toString());
  }

  isReady(): boolean {
    return this.noAck || this.#held < this.prefetch;
  }

  deliver(delivery: QueueDelivery): void {
    if (!this.noAck) this.#held += 1;
    this.deliveries.push(delivery);
    this.onDelivery(delivery);
  }

  /** Settles its delivery of that index, and says that it has room. */
  settle(index: number, how: 'ack' | 'reject' | 'requeue'): void {
    this.#held -= 1;
    const delivery = this.deliveries[index] as QueueDelivery;
    delivery[how]();
    delivery.queue.wake(this);
  }

  cancelled(): void {
    this.isCancelled = true;
  }
}

/** What `run` is refused with: `403 channel ACCESS_REFUSED - …`; `'done'` when it is not. */
export function answer(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof BrokerError) return `${error.replyCode} ${error.scope} ${error.replyText}`;
    throw error;
  }
  return 'done';
}
