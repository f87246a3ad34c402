/** A consumer as a channel has it: whether there is room for one more delivery, and the way of a delivery to the client. */
import type { MessageQueue, QueueConsumer, QueueDelivery } from './message-queue.js';

/** How many unsettled deliveries there may be; 0 for any number. Of one consumer, or of all consumers of a channel. */
export class Prefetch {
  limit: number;
  used = 0;

  constructor(limit: number) {
    this.limit = limit;
  }

  get isFull(): boolean {
    return this.limit > 0 && this.used >= this.limit;
  }

  /** One delivery less; says whether that made room where there was none. */
  release(): boolean {
    const wasFull = this.isFull;
    this.used -= 1;
    return wasFull !== this.isFull;
  }
}

/** What a consumer needs of its channel. */
export interface ConsumerChannel {
  /** basic.qos with global: all consumers of the channel together. */
  readonly prefetch: Prefetch;
  /** The client reads what it is sent. */
  readonly hasRoom: boolean;
  delivered(consumer: ChannelConsumer, delivery: QueueDelivery): void;
  cancelledByBroker(consumer: ChannelConsumer): void;
}

interface ConsumerSettings {
  readonly tag: string;
  readonly noAck: boolean;
  readonly exclusive: boolean;
  readonly priority: number;
  readonly owner: object;
  /** As basic.qos had it when the consumer began. */
  readonly prefetch: number;
}

export class ChannelConsumer implements QueueConsumer {
  readonly tag: string;
  readonly noAck: boolean;
  readonly exclusive: boolean;
  readonly priority: number;
  readonly owner: object;
  readonly queue: MessageQueue;
  readonly #channel: ConsumerChannel;
  readonly #prefetch: Prefetch;
  #isStarted = false;

  constructor(channel: ConsumerChannel, queue: MessageQueue, settings: ConsumerSettings) {
    this.#channel = channel;
    this.queue = queue;
    this.tag = settings.tag;
    this.noAck = settings.noAck;
    this.exclusive = settings.exclusive;
    this.priority = settings.priority;
    this.owner = settings.owner;
    this.#prefetch = new Prefetch(settings.prefetch);
  }

  /** From now on there may be deliveries: the client has been told consume-ok. */
  start(): void {
    this.#isStarted = true;
    this.queue.wake(this);
  }

  isReady(): boolean {
    if (!this.#isStarted || !this.#channel.hasRoom) return false;
    // Prefetch counts what awaits an acknowledgement.
    return this.noAck || !(this.#prefetch.isFull || this.#channel.prefetch.isFull);
  }

  deliver(delivery: QueueDelivery): void {
    if (!this.noAck) {
      this.#prefetch.used += 1;
      this.#channel.prefetch.used += 1;
    }
    this.#channel.delivered(this, delivery);
  }

  /** One of its deliveries is settled; says whether that made room where there was none. */
  settled(): boolean {
    return this.#prefetch.release();
  }

  cancelled(): void {
    this.#channel.cancelledByBroker(this);
  }
}
