/**
 * Hands a message over to a queue beside the one that it came from, and is done when the broker has confirmed that it has it
 * there: whoever acknowledges it then has lost nothing, whenever the process ends. What fails is tried again, ever more slowly.
 */
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { PublishOptions } from '../client/channel-options.js';
import { Backoff } from '../client/backoff.js';
import type { Message } from '../client/message.js';
import { pause } from '../client/wait.js';
import { AmqpError } from '../errors.js';
import { type RetryFacts, forDeadLetter, forRetry } from './attempt-headers.js';
import type { SideQueues } from './side-queues.js';

/** Longest wait for the confirm of one try, in milliseconds. */
const PATIENCE = 30_000;

/** What ends it before it is done: then the message is still where it came from. */
export interface HandoverBounds {
  /** Nothing is sent any more: the delivery is lost, and comes again. */
  readonly lost: AbortSignal;
  /** What has failed is not tried again. */
  readonly stopping: AbortSignal;
  /** A try has failed, and there will be another. */
  failed(error: unknown): void;
}

/** Which attempt of a message failed, and with what. */
export interface Failure {
  readonly message: Message;
  readonly queue: string;
  readonly attempt: number;
  readonly error: unknown;
}

export class Handover {
  readonly #channel: AmqpChannel;
  readonly #queues: SideQueues;

  constructor(channel: AmqpChannel, queues: SideQueues) {
    this.#channel = channel;
    this.#queues = queues;
  }

  /** Resolves to the queue that has it now. Rejects with `INVALID_ARGUMENT` when there is no room for what has to be said of it. */
  async toWaitQueue(
    { message, queue, attempt, error }: Failure,
    delay: number,
    retry: RetryFacts,
    bounds: HandoverBounds,
  ): Promise<string> {
    const options = forRetry(message, queue, attempt, error, retry);
    return await this.#untilTaken(message, [options], () => this.#queues.waitQueue(delay, bounds.lost), bounds);
  }

  /** Resolves to the queue that has it now. */
  async toDeadQueue({ message, queue, attempt, error }: Failure, bounds: HandoverBounds): Promise<string> {
    const options = forDeadLetter(message, queue, attempt, error);
    return await this.#untilTaken(message, options, () => this.#queues.deadQueue(bounds.lost), bounds);
  }

  /** With the first of the options that can be sent. */
  async #untilTaken(
    { body }: Message,
    options: Iterable<PublishOptions>,
    queueNow: () => Promise<string>,
    bounds: HandoverBounds,
  ): Promise<string> {
    const backoff = new Backoff();
    let refusal: unknown;
    for (const properties of options) {
      try {
        for (;;) {
          try {
            const queue = await queueNow();
            await this.#channel.publish('', queue, body, properties, { signal: bounds.lost, timeout: PATIENCE });
            return queue;
          } catch (error) {
            if (isOver(bounds) || isUnsendable(error)) throw error;
            bounds.failed(error);
            this.#queues.forget();
            await pause(backoff.next(), AbortSignal.any([bounds.lost, bounds.stopping]));
            if (isOver(bounds)) throw error;
          }
        }
      } catch (error) {
        if (!isUnsendable(error)) throw error;
        refusal = error;
      }
    }
    throw refusal;
  }
}

function isOver({ lost, stopping }: HandoverBounds): boolean {
  return lost.aborted || stopping.aborted;
}

/** The message cannot be written with these properties, or is larger than the broker takes: it is stored nowhere. */
export function isUnsendable(error: unknown): boolean {
  return error instanceof AmqpError && (error.code === 'INVALID_ARGUMENT' || error.code === 'MESSAGE_TOO_LARGE');
}
