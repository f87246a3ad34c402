/** One handing-over of a message: it is answered once, and the queue hears of that once. */
import type { BrokerMessage } from './broker-message.js';
import type { MessageQueue } from './message-queue.js';
import type { QueueDelivery } from './queue-consumer.js';
import type { StoredMessage } from './ready-messages.js';

export type Answer = 'ack' | 'reject' | 'requeue';

export class Delivery implements QueueDelivery {
  readonly queue: MessageQueue;
  readonly message: BrokerMessage;
  readonly remaining: number;
  readonly redelivered: boolean;
  readonly #stored: StoredMessage;
  #isSettled: boolean;

  constructor(
    queue: MessageQueue,
    stored: StoredMessage,
    message: BrokerMessage,
    redelivered: boolean,
    remaining: number,
    isSettled: boolean,
  ) {
    this.queue = queue;
    this.#stored = stored;
    this.message = message;
    this.redelivered = redelivered;
    this.remaining = remaining;
    this.#isSettled = isSettled;
  }

  ack(): void {
    this.#settle('ack');
  }

  reject(): void {
    this.#settle('reject');
  }

  requeue(isTakerGone = false): void {
    this.#settle('requeue', isTakerGone);
  }

  #settle(how: Answer, isTakerGone = false): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.queue.settled(this.#stored, how, isTakerGone);
  }
}
