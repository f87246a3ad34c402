/**
 * The consumer of one queue: started, stopped, started over with its queue when it was lost, and what of that is told to the log.
 * What becomes of its deliveries is `handled-deliveries`'s.
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import { AmqpConsumer, type ConsumerState } from '../client/amqp-consumer.js';
import type { Connection } from '../client/connection.js';
import { AmqpError, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { type Log, messageOf } from './failed-deliveries.js';
import { type DeliveryHandler, HandledDeliveries, type HandlerOptions } from './handled-deliveries.js';
import { applyTopology, topologyOf } from './topology.js';

export interface ConsumerOptions extends Omit<HandlerOptions, 'concurrency'> {
  /** What it is called in the log: `BillingConsumer.charge`. */
  readonly name: string;
  /** Most deliveries under way at a time. */
  readonly prefetch: number;
  readonly exclusive: boolean;
  readonly consumerTag: string | undefined;
  readonly arguments: FieldTable;
}

export class Consumer {
  readonly #options: ConsumerOptions;
  readonly #log: Log;
  readonly #consumer: AmqpConsumer;
  readonly #deliveries: HandledDeliveries;

  constructor(connection: AmqpConnection, options: ConsumerOptions, handler: DeliveryHandler, log: Log) {
    const { queue, prefetch, exclusive, consumerTag, arguments: args } = options;
    this.#options = options;
    this.#log = log;
    const deliveries = new HandledDeliveries(
      connection,
      { ...options, concurrency: prefetch },
      handler,
      this.#label,
      log,
    );
    this.#deliveries = deliveries;
    this.#consumer = new AmqpConsumer(
      connection,
      { queue, prefetch, consume: { exclusive, consumerTag, arguments: args } },
      {
        prepare: (opened) => {
          deliveries.renew();
          return this.#ensureQueue(opened);
        },
        receive: (message) => {
          deliveries.receive(message);
        },
        running: () => {
          log.log(`${this.#label} runs (prefetch ${prefetch})`);
        },
        lost: (why) => {
          deliveries.lost(why);
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
    return this.#deliveries.underWay;
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
    this.#deliveries.stop();
    await this.#consumer.stop(timeout, () => this.#deliveries.idle());
    this.#deliveries.abandon(
      new AmqpError('ABORTED', `The consumer was stopped, and waits no longer than ${timeout} ms.`),
    );
    if (this.underWay > 0) {
      this.#log.warn(
        `${this.underWay} handlers of ${this.#label} still ran after ${timeout} ms (shutdownTimeout); ` +
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
}
