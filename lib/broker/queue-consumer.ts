/** What a queue and those who take from it say to each other. */
import type { BrokerMessage } from './broker-message.js';
import type { MessageQueue } from './message-queue.js';

/** Somebody whom a queue hands its messages to. */
export interface QueueConsumer {
  readonly tag: string;
  /** Messages are settled as they are handed over. */
  readonly noAck: boolean;
  /** Nobody else may consume. */
  readonly exclusive: boolean;
  /** Consumers of a lower priority get what those of a higher one have no room for. */
  readonly priority: number;
  /** The connection. */
  readonly owner: object;
  /** There is room for one more: prefetch allows it, and the client reads. Whoever says no tells the queue `wake` later. */
  isReady(): boolean;
  /** Called from within what made the message ready; never again for the same queue before it has returned. */
  deliver(delivery: QueueDelivery): void;
  /** The broker ends it, because the queue is deleted or has expired. Nothing is delivered any more. */
  cancelled(): void;
}

/** A message on its way to somebody. Of `ack`, `reject` and `requeue` the first counts; they are harmless when the queue is gone. */
export interface QueueDelivery {
  /** With `x-delivery-count` where the queue adds it. */
  readonly message: BrokerMessage;
  readonly redelivered: boolean;
  readonly queue: MessageQueue;
  /** Messages that were still ready when this one was taken, as basic.get-ok tells it. */
  readonly remaining: number;
  ack(): void;
  /** Dead-letters it with the reason `rejected`, or drops it. */
  reject(): void;
  /**
   * Puts it back where it was.
   *
   * @param isTakerGone - nobody asked for it: the channel or connection has ended. It counts for quorum queues @default false
   */
  requeue(isTakerGone?: boolean): void;
}
