/**
 * The consumers of one `AmqpChannel` handle, each on a channel of its own: what ends one, such as a queue that is gone, ends
 * neither the others nor the handle. How one consumer starts over is `AmqpConsumer`'s.
 */
import { randomUUID } from 'node:crypto';
import { AmqpError, quoted } from '../errors.js';
import type { AmqpConnection } from './amqp-connection.js';
import { AmqpConsumer } from './amqp-consumer.js';
import type { ConsumerCallbacks, StreamOptions } from './channel-options.js';
import type { AmqpConsumerOptions } from './consumer-owner.js';
import { isLoss, isQueueMissing } from './consumer-status.js';
import { timerMilliseconds } from '../time/duration.js';
import { quietly } from './listeners.js';
import type { Message } from './message.js';
import { MessageStream } from './message-stream.js';
import { notAnswered } from './request-bounds.js';
import { whenFired } from './signals.js';
import { orLate } from './wait.js';

/** Longest wait for the broker to end a consumer, in milliseconds. */
const STOP_TIMEOUT = 2_000;

export class HandleConsumers {
  readonly #connection: AmqpConnection;
  /** Fires when the handle is closed. */
  readonly #closed: AbortSignal;
  readonly #running = new Map<string, AmqpConsumer>();
  /** Cancelled, and some of what they delivered is not answered yet. */
  readonly #cancelled = new Set<AmqpConsumer>();
  /** The loops that are under way. */
  readonly #loops = new Set<MessageStream>();

  constructor(connection: AmqpConnection, closed: AbortSignal) {
    this.#connection = connection;
    this.#closed = closed;
  }

  /** Starts a consumer that starts over until it is cancelled, or its queue is gone for good; resolves to its tag. */
  async start(
    { consume, ...more }: AmqpConsumerOptions,
    callbacks: ConsumerCallbacks,
    loop?: MessageStream,
  ): Promise<string> {
    const { topology } = this.#connection;
    const { queue } = more;
    // Signal and timeout are for the first start; once it runs, it starts again also when the signal has fired since.
    const { signal, timeout, consumerTag = `nest-amqp.${randomUUID()}`, ...lasting } = consume;
    const limit = timeout === undefined ? undefined : timerMilliseconds(timeout, 'timeout');
    this.#closed.throwIfAborted();
    if (typeof (callbacks as Partial<ConsumerCallbacks> | undefined)?.onMessage !== 'function') {
      throw new AmqpError(
        'INVALID_ARGUMENT',
        'A consumer has to be a function, or an object with onMessage. For a loop use consume().',
      );
    }
    if (this.#running.has(consumerTag)) {
      throw new AmqpError('INVALID_ARGUMENT', `The channel already has a consumer tagged ${quoted(consumerTag)}.`);
    }
    /** The name under which the queue was last consumed from, and whether it is gone. */
    let usedName = topology.current(queue);
    let isQueueGone = false;
    const consumer = new AmqpConsumer(
      this.#connection,
      { ...more, consume: { ...lasting, consumerTag }, isStream: topology.isStream(queue) },
      {
        prepare: async (connection) => {
          if (isQueueGone) await topology.declareQueue(connection, usedName, this.#closed);
          isQueueGone = false;
          usedName = topology.current(queue);
        },
        receive: (message) => callbacks.onMessage(message),
        lost: () => loop?.drop(),
        failed: (error) => {
          if (!isQueueMissing(error)) {
            if (!isLoss(error)) this.#connection.tellRecoveryError(error);
            return true;
          }
          isQueueGone = topology.hasQueue(queue);
          return isQueueGone;
        },
        ended: (error) => {
          this.#running.delete(consumerTag);
          if (isQueueMissing(error)) quietly(() => callbacks.onCancel?.(consumerTag));
          if (loop !== undefined) this.#endLoop(loop, isQueueMissing(error) ? undefined : error);
        },
      },
    );
    this.#running.set(consumerTag, consumer);
    const giveUp = (): void => void consumer.stop(0);
    const unlisten = signal && whenFired(signal, giveUp);
    try {
      signal?.throwIfAborted();
      const started = consumer.start();
      if (limit === undefined) await started;
      else await orLate(started, limit, () => notAnswered('basic.consume', limit), undefined);
      signal?.throwIfAborted();
      topology.consumerStarted(queue);
    } catch (error) {
      this.#running.delete(consumerTag);
      void consumer.stop(0);
      if (signal?.aborted === true) throw consumeAborted(queue, signal.reason);
      throw error;
    } finally {
      unlisten?.();
    }
    return consumerTag;
  }

  /** A loop with a consumer of its own, which starts when the loop does. */
  loop(queue: string, { prefetch = 50, signal, ...consume }: StreamOptions = {}): MessageStream {
    let consumerTag: string | undefined;
    const loop: MessageStream = new MessageStream({
      start: async () => {
        const onMessage = (message: Message): void => {
          loop.push(message);
        };
        consumerTag = await this.start({ queue, prefetch, consume: { ...consume, signal } }, { onMessage }, loop);
        this.#loops.add(loop);
      },
      stop: async () => {
        this.#loops.delete(loop);
        if (consumerTag !== undefined) await this.cancel(consumerTag);
      },
    });
    loop.endOn(signal);
    return loop;
  }

  /** Ends a consumer; of an unknown tag it is no error. */
  async cancel(consumerTag: string): Promise<void> {
    const consumer = this.#running.get(consumerTag);
    if (consumer === undefined) return;
    this.#forget(consumerTag);
    this.#cancelled.add(consumer);
    void consumer.stopped.then(() => this.#cancelled.delete(consumer));
    await consumer.cancel();
  }

  /** Ends all of them; what they have not answered goes back to the queue. */
  async stop(): Promise<void> {
    const consumers = [...this.#running.values(), ...this.#cancelled];
    for (const consumerTag of this.#running.keys()) this.#forget(consumerTag);
    for (const loop of this.#loops) this.#endLoop(loop, undefined);
    await Promise.all(consumers.map((consumer) => consumer.stop(STOP_TIMEOUT)));
  }

  #endLoop(loop: MessageStream, error: unknown): void {
    this.#loops.delete(loop);
    loop.end(error instanceof AmqpError && error.closedBy !== 'client' ? error : undefined);
  }

  /** A consumer is over because the user said so. */
  #forget(consumerTag: string): void {
    const consumer = this.#running.get(consumerTag);
    if (consumer === undefined) return;
    this.#running.delete(consumerTag);
    this.#connection.topology.consumerEnded(consumer.queue);
  }
}

/** The error of a start that the caller's signal ended. */
function consumeAborted(queue: string, cause: unknown): AmqpError {
  return new AmqpError('ABORTED', `Starting the consumer of queue ${quoted(queue)} was aborted.`, { cause });
}
