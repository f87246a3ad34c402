/** A virtual host: exchanges, queues and bindings by name, and the way of a message from a publish to its queues. */
import type { FieldTable } from '../protocol/field-table.js';
import type { BrokerMessage } from './broker-message.js';
import type { Clock, Timer } from './clock.js';
import type { Exchange } from './exchange.js';
import type { MessageQueue } from './message-queue.js';

/** What became of a publish. `rejected`: a queue that is full refuses it, which the publisher hears as basic.nack. */
export type PublishOutcome = 'routed' | 'unroutable' | 'rejected';

export interface ExchangeDeclaration {
  readonly name: string;
  readonly type: string;
  readonly passive: boolean;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly internal: boolean;
  readonly arguments: FieldTable;
}

export interface QueueDeclaration {
  /** Empty for a name that the broker makes up. */
  readonly name: string;
  readonly passive: boolean;
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly autoDelete: boolean;
  readonly arguments: FieldTable;
}

export interface QueueBinding {
  readonly queue: string;
  readonly exchange: string;
  readonly routingKey: string;
  readonly arguments: FieldTable;
}

export interface ExchangeBinding {
  readonly destination: string;
  readonly source: string;
  readonly routingKey: string;
  readonly arguments: FieldTable;
}

/** A binding as inspection shows it. */
export interface BindingInfo {
  readonly source: string;
  readonly destination: string;
  readonly destinationType: 'queue' | 'exchange';
  readonly routingKey: string;
  readonly arguments: FieldTable;
}

/** `owner` is everywhere the connection that asks. What is refused is thrown as `BrokerError`. */
export class VirtualHost {
  readonly name: string;
  readonly clock: Clock;
  /** Called after messages have moved or been settled, or consumers have changed. */
  onChange: () => void = () => undefined;

  constructor(name: string, clock: Clock) {
    this.name = name;
    this.clock = clock;
  }

  declareExchange(declaration: ExchangeDeclaration): void {
    throw new Error(`${declaration.name}: not yet.`);
  }

  /** Harmless when there is no such exchange. */
  deleteExchange(name: string, options: { readonly ifUnused: boolean }): void {
    throw new Error(`${name} ${options.ifUnused}: not yet.`);
  }

  bindExchange(binding: ExchangeBinding): void {
    throw new Error(`${binding.source}: not yet.`);
  }

  unbindExchange(binding: ExchangeBinding): void {
    throw new Error(`${binding.source}: not yet.`);
  }

  /** The queue as it is after the declaration. */
  declareQueue(declaration: QueueDeclaration, owner: object): MessageQueue {
    throw new Error(`${declaration.name} ${typeof owner}: not yet.`);
  }

  /** Returns how many messages were ready in it; 0 when there is no such queue. */
  deleteQueue(name: string, options: { readonly ifUnused: boolean; readonly ifEmpty: boolean }, owner: object): number {
    throw new Error(`${name} ${options.ifUnused} ${typeof owner}: not yet.`);
  }

  bindQueue(binding: QueueBinding, owner: object): void {
    throw new Error(`${binding.queue} ${typeof owner}: not yet.`);
  }

  unbindQueue(binding: QueueBinding, owner: object): void {
    throw new Error(`${binding.queue} ${typeof owner}: not yet.`);
  }

  /** The queue of that name. Throws 404 when there is none, 405 when it is another connection's own. */
  queue(name: string, owner: object): MessageQueue {
    throw new Error(`${name} ${typeof owner}: not yet.`);
  }

  /** Hands a message to the queues that it is routed to, and those hand it to who is ready. */
  publish(message: BrokerMessage): PublishOutcome {
    throw new Error(`${message.exchange}: not yet.`);
  }

  /**
   * Direct reply-to: from now on the default exchange knows this routing key (`amq.rabbitmq.reply-to.…`). What is sent there
   * counts as unroutable all the same, as it does with RabbitMQ.
   */
  replyTo(name: string, deliver: (message: BrokerMessage) => void): Timer {
    throw new Error(`${name} ${typeof deliver}: not yet.`);
  }

  /**
   * Does several things before any queue delivers again: `nack` of many, `tx.commit`, the end of a channel with its
   * consumers and unsettled messages. So requeued messages are all back before the first of them is handed out.
   */
  together(run: () => void): void {
    run();
  }

  /** The connection is gone: so are its exclusive queues. */
  release(owner: object): void {
    throw new Error(`${typeof owner}: not yet.`);
  }

  /** Ends what waits for the clock. */
  close(): void {
    this.onChange = () => undefined;
  }

  get exchanges(): Iterable<Exchange> {
    return [];
  }

  get queues(): Iterable<MessageQueue> {
    return [];
  }

  /** Those of the default exchange, one for every queue, are not among them. */
  get bindings(): Iterable<BindingInfo> {
    return [];
  }
}
