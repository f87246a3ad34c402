/**
 * One consumer of one queue, on a channel of its own: it starts, recovers, and turns what the handler does into the answer
 * that the broker gets. Which code the handler is, is decided above.
 *
 * ```
 *   idle ──start()──► starting ──consume-ok──► running ──stop()──► stopping ──handlers done──► stopped
 *                        ▲                        │
 *                        └── recovering ◄─────────┘  channel or connection lost, cancelled by the broker
 * ```
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import { Backoff } from '../client/backoff.js';
import type { Channel } from '../client/channel.js';
import type { Connection } from '../client/connection.js';
import type { Message } from '../client/message.js';
import { ended, pause } from '../client/wait.js';
import { AmqpError, printable, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { Delivery } from './delivery.js';
import { deserialize } from './serializer.js';
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
}

/** Runs the user's code. Returning acknowledges, throwing rejects. */
export type DeliveryHandler = (delivery: Delivery) => Promise<unknown>;

/** Who waits for the first attempt. */
interface FirstAttempt {
  readonly running: () => void;
  readonly refused: (error: unknown) => void;
}

export type ConsumerState = 'idle' | 'starting' | 'running' | 'recovering' | 'stopping' | 'stopped';

export class Consumer {
  readonly #connection: AmqpConnection;
  readonly #options: ConsumerOptions;
  readonly #handler: DeliveryHandler;
  readonly #log: Log;
  readonly #life = new AbortController();
  readonly #backoff = new Backoff();
  readonly #underWay = new Set<Promise<void>>();
  #state: ConsumerState = 'idle';
  #active: { readonly channel: Channel; readonly consumerTag: string } | undefined;
  #loop: Promise<void> | undefined;

  constructor(connection: AmqpConnection, options: ConsumerOptions, handler: DeliveryHandler, log: Log) {
    this.#connection = connection;
    this.#options = options;
    this.#handler = handler;
    this.#log = log;
  }

  get state(): ConsumerState {
    return this.#state;
  }

  get queue(): string {
    return this.#options.queue;
  }

  get #label(): string {
    return `${this.#options.name} (queue ${quoted(this.queue)})`;
  }

  /** Deliveries whose handler is running. */
  get underWay(): number {
    return this.#underWay.size;
  }

  /**
   * Starts it and resolves when it first runs; rejects when the broker refuses the first attempt, or with `ABORTED` when it
   * is stopped before. After that it recovers by itself.
   */
  async start(): Promise<void> {
    this.#state = 'starting';
    await new Promise<void>((running, refused) => {
      this.#loop = this.#run({ running, refused });
    });
  }

  /** Starts it and returns at once; refusals are logged and tried again. */
  startInBackground(): void {
    this.#state = 'starting';
    this.#loop = this.#run(undefined);
  }

  /**
   * Stops it: cancels, gives back what comes after that, waits up to `timeout` ms for the running handlers and their
   * answers, closes the channel. What still runs then is delivered again by the broker, to whoever consumes next.
   */
  async stop(timeout: number): Promise<void> {
    if (this.#state === 'idle' || this.#state === 'stopped') {
      this.#state = 'stopped';
      return;
    }
    this.#state = 'stopping';
    const active = this.#active;
    try {
      await active?.channel.basicCancel(active.consumerTag);
    } catch {
      // The channel is gone, and with it the consumer.
    }
    await this.#drain(timeout);
    await active?.channel.close();
    this.#life.abort(
      new AmqpError('ABORTED', `The consumer of queue ${quoted(this.queue)} was stopped before it ran.`),
    );
    await this.#loop;
    this.#state = 'stopped';
  }

  /** The loop: connect, consume, wait for the end, again. With `first`, a refused first attempt is the last one. */
  async #run(first: FirstAttempt | undefined): Promise<void> {
    let waiting = first;
    while (!this.#isStopping()) {
      try {
        const connection = await this.#connection.opened(this.#life.signal);
        const why = await this.#consume(connection, () => {
          waiting?.running();
          waiting = undefined;
        });
        if (!this.#isStopping()) this.#log.warn(`${this.#label} stopped: ${why} It starts again.`);
      } catch (error) {
        if (
          this.#isStopping() ||
          this.#connection.status.state === 'closed' ||
          (waiting !== undefined && isRefusal(error))
        ) {
          waiting?.refused(error);
          this.#state = 'stopped';
          return;
        }
        this.#log.error(`${this.#label} cannot start, and tries again. ${messageOf(error)}`);
      }
      if (this.#isStopping()) break;
      this.#state = 'recovering';
      await pause(this.#backoff.next(), this.#life.signal);
    }
    waiting?.refused(this.#life.signal.reason);
  }

  #isStopping(): boolean {
    return this.#state === 'stopping' || this.#life.signal.aborted;
  }

  /** Consumes on a new channel until that ends; says why it ended. */
  async #consume(connection: Connection, running: () => void): Promise<string> {
    await this.#ensureQueue(connection);
    const channel = await connection.channel();
    const { queue, prefetch, exclusive, consumerTag, arguments: args } = this.#options;
    try {
      await channel.basicQos(prefetch);
      let cancel = (): void => undefined;
      const cancelled = new Promise<string>((resolve) => {
        cancel = () => {
          resolve('the broker cancelled it, as it does when the queue is deleted.');
        };
      });
      const tag = await channel.basicConsume(
        queue,
        {
          onMessage: (message) => {
            this.#receive(message);
          },
          onCancel: () => {
            cancel();
          },
        },
        { exclusive, consumerTag, arguments: args },
      );
      if (this.#isStopping()) return 'it was stopped while it started.';
      this.#active = { channel, consumerTag: tag };
      this.#state = 'running';
      this.#backoff.succeeded();
      this.#log.log(`${this.#label} runs (prefetch ${prefetch})`);
      running();
      const closed = ended(channel).then((error) => error?.message ?? 'its channel was closed.');
      return await Promise.race([closed, cancelled]);
    } finally {
      this.#active = undefined;
      await channel.close();
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
    if (this.#state === 'stopping') {
      // It crossed our cancel: somebody else shall have it.
      message.nack();
      return;
    }
    const done = this.#handle(message).finally(() => this.#underWay.delete(done));
    this.#underWay.add(done);
  }

  async #handle(message: Message): Promise<void> {
    try {
      await this.#handler(new Delivery(message, deserialize(message.body, message.properties), this.queue));
      message.ack();
    } catch (error) {
      const sent = message.reject();
      this.#log.error(
        `A message from queue ${quoted(this.queue)}${idOf(message)} failed and was ${
          sent
            ? 'rejected (dead-lettered where the queue has a dead-letter exchange, else dropped)'
            : 'not answered again'
        }. ${messageOf(error)}`,
      );
    }
  }

  async #drain(timeout: number): Promise<void> {
    const drained = new AbortController();
    const waited = pause(timeout, drained.signal);
    await Promise.race([Promise.all(this.#underWay), waited]);
    drained.abort();
    if (this.#underWay.size > 0) {
      this.#log.warn(
        `${this.#underWay.size} handlers of ${this.#label} still ran after ${timeout} ms (shutdownTimeout); ` +
          'the broker delivers their messages again.',
      );
    }
  }
}

/** True for an answer of the broker that the next attempt would get again, as against a connection that was lost. */
function isRefusal(error: unknown): boolean {
  return !(error instanceof AmqpError) || error.code !== 'CONNECTION_LOST';
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
