/** A queue: its messages in order, those who wait for one, and what was handed out and not yet settled. */
import type { FieldTable } from '../protocol/field-table.js';
import type { QueueConsumer, QueueDelivery } from './queue-consumer.js';

export type { QueueConsumer, QueueDelivery } from './queue-consumer.js';

export class MessageQueue {
  readonly name: string;
  readonly durable: boolean = false;
  readonly exclusive: boolean = false;
  readonly autoDelete: boolean = false;
  readonly type: 'classic' | 'quorum' = 'classic';
  readonly arguments: FieldTable = {};

  constructor(name: string) {
    this.name = name;
  }

  /** Messages that are ready to be taken. */
  get messageCount(): number {
    return 0;
  }

  /** Messages that were handed out and are not settled. */
  get unackedCount(): number {
    return 0;
  }

  get consumerCount(): number {
    return 0;
  }

  /** Throws `BrokerError` (403) for the sake of an exclusive consumer. May deliver before it returns. */
  subscribe(consumer: QueueConsumer): void {
    throw new Error(`${consumer.tag}: not yet.`);
  }

  /** What it holds stays unsettled. An auto-delete queue goes with its last consumer. */
  unsubscribe(consumer: QueueConsumer): void {
    throw new Error(`${consumer.tag}: not yet.`);
  }

  /** A consumer has room again: this one, or, when it is not said which, any. */
  wake(consumer?: QueueConsumer): void {
    throw new Error(`${consumer?.tag}: not yet.`);
  }

  /** The next message; undefined when none is ready. */
  get(options: { readonly noAck: boolean }): QueueDelivery | undefined {
    throw new Error(`${options.noAck}: not yet.`);
  }

  /** Drops the messages that are ready; returns how many they were. */
  purge(): number {
    return 0;
  }
}
