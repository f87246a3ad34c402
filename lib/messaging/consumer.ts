/**
 * What becomes of the deliveries of one queue: decoded, handed to the handler, answered by what the handler does. Starting,
 * recovering and stopping the consumer itself is the client's; which code the handler is, is decided above; what is done with
 * failures is `failed-deliveries`'s.
 */
import { types } from 'node:util';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { AmqpConsumer, type ConsumerState } from '../client/amqp-consumer.js';
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { Connection } from '../client/connection.js';
import { quietly } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { AmqpError, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { Delivery, DeliveryScope } from './delivery.js';
import { type DeadLetterOption, FailedDeliveries, type Log, idOf, messageOf } from './failed-deliveries.js';
import type { RetryPolicy } from './outcome.js';
import { deserialize } from './serializer.js';
import { type Topology, applyTopology, topologyOf } from './topology.js';

/**
 * Who acknowledges. `'auto'`: the handler's return. `'manual'`: the handler, with `delivery.ack()`, when it likes; what it throws
 * counts as with `'auto'`. `'none'`: nobody; a message is done with before its handler runs, and lost with a process that ends.
 */
export type AckMode = 'auto' | 'manual' | 'none';

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
  /** @default 'auto' */
  readonly ack?: AckMode | undefined;
  /** What is tried again. @default nothing */
  readonly retry?: RetryPolicy | undefined;
  readonly deadLetter?: DeadLetterOption | undefined;
  /** How long a handler may take, in milliseconds. @default for ever */
  readonly timeout?: number | undefined;
  /** Where what is tried again, or dead-lettered, is published. */
  readonly channel: AmqpChannel;
}

/** Runs the user's code, which may return a promise. Returning acknowledges; throwing has it retried, or dead-lettered. */
export type DeliveryHandler = (delivery: Delivery) => unknown;

export class Consumer {
  readonly #options: ConsumerOptions;
  readonly #handler: DeliveryHandler;
  readonly #log: Log;
  readonly #consumer: AmqpConsumer;
  readonly #failures: FailedDeliveries;
  /** What the deliveries of the present channel share. */
  #scope: DeliveryScope;
  /** Deliveries that are under way, and who waits until none is. */
  #running = 0;
  #onIdle: (() => void)[] = [];
  /** Delivered while `prefetch` handlers run: those of a lost channel still do when the next one delivers. */
  #waiting: Message[] = [];
  #isHandlingWaiting = false;
  /** Handlers that returned and left the answer for later. */
  readonly #unanswered = new Set<Delivery>();
  #hasToldVain = false;

  constructor(connection: AmqpConnection, options: ConsumerOptions, handler: DeliveryHandler, log: Log) {
    const { queue, prefetch, exclusive, consumerTag, arguments: args } = options;
    this.#options = options;
    this.#handler = handler;
    this.#log = log;
    this.#failures = new FailedDeliveries(
      connection,
      { ...options, areOurs: options.ack === 'none' },
      this.#label,
      log,
    );
    this.#scope = this.#newScope();
    this.#consumer = new AmqpConsumer(
      connection,
      { queue, prefetch, consume: { exclusive, consumerTag, arguments: args } },
      {
        prepare: (opened) => {
          this.#scope = this.#newScope();
          return this.#ensureQueue(opened);
        },
        receive: (message) => {
          this.#receive(message);
        },
        running: () => {
          log.log(`${this.#label} runs (prefetch ${prefetch})`);
        },
        lost: (why) => {
          this.#lost(why);
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

  /** Deliveries whose handler is running, or that have not been answered since. */
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
    this.#failures.stop();
    await this.#consumer.stop(timeout, () => this.#idle());
    this.#failures.abandon();
    this.#scope.end(new AmqpError('ABORTED', `The consumer was stopped, and waits no longer than ${timeout} ms.`));
    if (this.#running > 0) {
      this.#log.warn(
        `${this.#running} handlers of ${this.#label} still ran after ${timeout} ms (shutdownTimeout); ` +
          (this.#options.ack === 'none'
            ? 'their messages are not delivered again.'
            : 'the broker delivers their messages again.'),
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
    if (this.#options.ack === 'none') message.ack();
    const scope = this.#scope;
    let delivery: Delivery | undefined;
    try {
      delivery = new Delivery(message, deserialize(message), scope);
      const promise = promiseOf(this.#handler(delivery));
      if (promise !== undefined) {
        this.#await(promise, message, delivery, scope);
        return;
      }
    } catch (error) {
      delivery?.over();
      this.#failed(message, error, scope);
      return;
    }
    this.#done(message, delivery);
  }

  #await(promise: Promise<unknown>, message: Message, delivery: Delivery, scope: DeliveryScope): void {
    const { timeout } = this.#options;
    if (timeout !== undefined) {
      this.#awaitUntil(timeout, promise, message, delivery, scope);
      return;
    }
    promise.then(
      () => {
        this.#done(message, delivery);
      },
      (error: unknown) => {
        delivery.over();
        this.#failed(message, error, scope);
      },
    );
  }

  /** What comes too late counts no more: the delivery has been answered. */
  #awaitUntil(ms: number, promise: Promise<unknown>, message: Message, delivery: Delivery, scope: DeliveryScope): void {
    let timer: NodeJS.Timeout | undefined = setTimeout(() => {
      timer = undefined;
      const error = new AmqpError(
        'HANDLER_TIMEOUT',
        `The handler took longer than its timeout of ${ms} ms. It runs on unless it heeds delivery.signal; what it does now changes nothing.`,
      );
      delivery.over(error);
      this.#failed(message, error, scope);
    }, ms);
    promise.then(
      () => {
        if (timer === undefined) return;
        clearTimeout(timer);
        this.#done(message, delivery);
      },
      (error: unknown) => {
        if (timer === undefined) return;
        clearTimeout(timer);
        delivery.over();
        this.#failed(message, error, scope);
      },
    );
  }

  #done(message: Message, delivery: Delivery): void {
    if (this.#options.ack === 'manual' && delivery.isOpen) {
      this.#unanswered.add(delivery);
      return;
    }
    delivery.over();
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

  #failed(message: Message, error: unknown, scope: DeliveryScope): void {
    if (message.settled && this.#options.ack !== 'none') {
      // Its handler has answered before it failed.
      quietly(() => {
        this.#log.error(
          `${this.#label} failed on the message with routing key ${quoted(message.routingKey)}${idOf(message)}. ` +
            `It was not answered again. ${messageOf(error)}`,
        );
      });
      this.#ended();
      return;
    }
    const settled = this.#failures.settle(message, error, scope);
    if (settled === undefined) {
      this.#ended();
      return;
    }
    void settled.then(() => {
      this.#ended();
    });
  }

  #newScope(): DeliveryScope {
    return new DeliveryScope({
      queue: this.queue,
      attemptOf: (message) => this.#failures.attemptOf(message),
      answered: (delivery) => {
        this.#answeredLate(delivery);
      },
      answeredInVain: (delivery, wasAnswered) => {
        this.#answeredLate(delivery);
        this.#tellVain(delivery, wasAnswered);
      },
    });
  }

  /** The channel is gone. The broker delivers again what waited here, and what nobody has answered. */
  #lost(why: string): void {
    this.#waiting = [];
    this.#scope.end(
      new AmqpError(
        'CHANNEL_CLOSED',
        `The delivery can be answered no more: the consumer of queue ${quoted(this.queue)} stopped. ${why}`,
      ),
    );
    for (const delivery of this.#unanswered) this.#answeredLate(delivery);
  }

  #answeredLate(delivery: Delivery): void {
    if (!this.#unanswered.delete(delivery)) return;
    delivery.over();
    this.#ended();
  }

  /** Once for all: a handler that does it does it with every delivery. */
  #tellVain(delivery: Delivery, wasAnswered: boolean): void {
    if (this.#hasToldVain) return;
    this.#hasToldVain = true;
    const why =
      this.#options.ack === 'none'
        ? "which its consumer has not to (ack: 'none')"
        : wasAnswered
          ? 'which was answered before'
          : 'whose channel was gone by then; the broker delivers it again';
    quietly(() => {
      this.#log.warn(
        `${this.#label} answered delivery ${delivery.deliveryTag}, ${why}. That changes nothing, and is told this once.`,
      );
    });
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
