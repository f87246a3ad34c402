/**
 * What becomes of the deliveries of one queue: decoded, handed to the handler, answered by what the handler does. Starting,
 * recovering and stopping the consumer itself is the client's; which code the handler is, is decided above.
 */
import { types } from 'node:util';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { AmqpConsumer, type ConsumerState } from '../client/amqp-consumer.js';
import { DEFAULT_MAX_MESSAGE_SIZE } from '../client/connection-options.js';
import type { Connection } from '../client/connection.js';
import { warnOf } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { AmqpError, printable, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { Delivery } from './delivery.js';
import { type Decoder, decoderOf } from './decoder.js';
import { type Topology, applyTopology, topologyOf } from './topology.js';

/** What is told to the log; Nest's `Logger` fits. */
export interface Log {
  log(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

export interface ConsumerOptions {
  /** What it is called in the log: `BillingConsumer.charge`. */
  readonly name: string;
  readonly queue: string;
  /** Says how the queue is declared when it is missing. */
  readonly topology: Topology;
  /** Most deliveries under way at a time. */
  readonly prefetch: number;
  readonly exclusive: boolean;
  readonly consumerTag: string | undefined;
  readonly arguments: FieldTable;
  /** @default by the content type and the content encoding */
  readonly decode?: Decoder;
}

/** Runs the user's code, which may return a promise. Returning acknowledges, throwing rejects. */
export type DeliveryHandler = (delivery: Delivery) => unknown;

export class Consumer {
  readonly #options: ConsumerOptions;
  readonly #decode: Decoder;
  readonly #handler: DeliveryHandler;
  readonly #log: Log;
  readonly #consumer: AmqpConsumer;
  /** Handlers that run, and who waits until none does. */
  #running = 0;
  #onIdle: (() => void)[] = [];
  /** Delivered while `prefetch` handlers run: those of a lost channel still do when the next one delivers. */
  #waiting: Message[] = [];
  #isHandlingWaiting = false;

  constructor(connection: AmqpConnection, options: ConsumerOptions, handler: DeliveryHandler, log: Log) {
    const { queue, prefetch, exclusive, consumerTag, arguments: args } = options;
    this.#options = options;
    this.#decode = options.decode ?? decoderOf({ maxSize: DEFAULT_MAX_MESSAGE_SIZE });
    this.#handler = handler;
    this.#log = log;
    this.#consumer = new AmqpConsumer(
      connection,
      { queue, prefetch, consume: { exclusive, consumerTag, arguments: args } },
      {
        prepare: (opened) => this.#ensureQueue(opened),
        receive: (message) => {
          this.#receive(message);
        },
        running: () => {
          log.log(`${this.#label} runs (prefetch ${prefetch})`);
        },
        lost: (why) => {
          // The broker delivers again what waited here.
          this.#waiting = [];
          log.warn(`${this.#label} stopped: ${why} It starts again.`);
        },
        failed: (error) => {
          log.error(`${this.#label} cannot start, and tries again. ${messageOf(error)}`);
          return true;
        },
      },
    );
  }

  get state(): ConsumerState {
    return this.#consumer.state;
  }

  get queue(): string {
    return this.#options.queue;
  }

  /** Deliveries whose handler is running. */
  get underWay(): number {
    return this.#running;
  }

  get #label(): string {
    return `${this.#options.name} (queue ${quoted(this.queue)})`;
  }

  /** See `AmqpConsumer.start`. */
  async start(): Promise<void> {
    await this.#consumer.start();
  }

  /** See `AmqpConsumer.startInBackground`. */
  startInBackground(): void {
    this.#consumer.startInBackground();
  }

  /**
   * Stops it: cancels, gives back what has not begun, waits up to `timeout` ms for the running handlers and their answers.
   * What still runs then is delivered again by the broker, to whoever consumes next.
   */
  async stop(timeout: number): Promise<void> {
    for (const message of this.#waiting.splice(0)) message.nack();
    await this.#consumer.stop(timeout, () => this.#idle());
    if (this.#running > 0) {
      this.#log.warn(
        `${this.#running} handlers of ${this.#label} still ran after ${timeout} ms (shutdownTimeout); ` +
          'the broker delivers their messages again.',
      );
    }
  }

  /** A queue that exists is used as it is; one that is missing is declared as the topology says, else durable. */
  async #ensureQueue(connection: Connection): Promise<void> {
    const channel = await connection.channel();
    try {
      await channel.queueDeclare(this.queue, { passive: true });
    } catch (error) {
      if (!(error instanceof AmqpError) || error.replyCode !== 404) throw error;
      // It was deleted since the connection was set up, and its bindings with it; or it was never declared.
      await applyTopology(connection, topologyOf(this.queue, this.#options.topology));
    } finally {
      await channel.close();
    }
  }

  #receive(message: Message): void {
    if (this.#running >= this.#options.prefetch) this.#waiting.push(message);
    else this.#handle(message);
  }

  /** Never throws. What a handler returns without a promise is answered at once. */
  #handle(message: Message): void {
    this.#running += 1;
    try {
      const promise = promiseOf(this.#begin(message));
      if (promise !== undefined) {
        promise.then(
          () => {
            this.#done(message);
          },
          (error: unknown) => {
            this.#failed(message, error);
          },
        );
        return;
      }
    } catch (error) {
      this.#failed(message, error);
      return;
    }
    this.#done(message);
  }

  /** What the handler returns; a promise where decoding takes its time. */
  #begin(message: Message): unknown {
    const payload = this.#decode(message);
    if (!types.isPromise(payload)) return this.#handler(new Delivery(message, payload, this.queue));
    return payload.then((decoded) => this.#handler(new Delivery(message, decoded, this.queue)));
  }

  #done(message: Message): void {
    message.ack();
    this.#ended();
  }

  #ended(): void {
    this.#running -= 1;
    if (this.#waiting.length > 0) this.#handleWaiting();
    if (this.#running === 0) for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  /** In a loop: handlers that return at once would begin each other ever deeper in the stack. */
  #handleWaiting(): void {
    if (this.#isHandlingWaiting) return;
    this.#isHandlingWaiting = true;
    while (this.#running < this.#options.prefetch) {
      const next = this.#waiting.shift();
      if (next === undefined) break;
      this.#handle(next);
    }
    this.#isHandlingWaiting = false;
  }

  #failed(message: Message, error: unknown): void {
    const sent = message.reject();
    this.#tellError(
      `${this.#label} failed on the message with routing key ${quoted(message.routingKey)}${idOf(message)}. It was ${
        sent ? 'rejected: dead-lettered where the queue has a dead-letter exchange, else dropped' : 'not answered again'
      }. ${messageOf(error)}`,
    );
    this.#ended();
  }

  /** A log that throws is no reason to end the process, or to lose count of the handlers. */
  #tellError(text: string): void {
    try {
      this.#log.error(text);
    } catch (error) {
      warnOf(error);
    }
  }

  /** Resolves when no handler runs. */
  async #idle(): Promise<void> {
    if (this.#running === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle.push(resolve);
    });
  }
}

/** What a function returned, when it has to be waited for. */
export function promiseOf(returned: unknown): Promise<unknown> | undefined {
  if (types.isPromise(returned)) return returned;
  const isThenable = typeof (returned as PromiseLike<unknown> | null | undefined)?.then === 'function';
  return isThenable ? Promise.resolve(returned) : undefined;
}

function idOf(message: Message): string {
  try {
    const { messageId } = message.properties;
    return messageId === undefined
      ? ` (no message id, delivery tag ${message.deliveryTag})`
      : ` (message id ${quoted(messageId)})`;
  } catch {
    return ` (delivery tag ${message.deliveryTag})`;
  }
}

function messageOf(error: unknown): string {
  try {
    return error instanceof Error ? `${error.name}: ${printable(error.message)}` : printable(String(error));
  } catch {
    return 'What was thrown has no text.';
  }
}
