/** A consumer as the application sees it: where it stands, and to pause, resume and drain. Its life is `consumer`'s. */
import type { ConsumerState, ConsumerStatus } from '../client/consumer-status.js';
import type { Consumer, DrainOptions } from './consumer.js';
import type { RunningDelivery } from './running-deliveries.js';

/** What names a consumer. */
export interface ConsumerIdentity {
  readonly name: string;
  readonly handlers: readonly string[];
  readonly connection: string;
  readonly prefetch: number;
}

/** A consumer of the application, got from the `ConsumerRegistry`. */
export class RegisteredConsumer {
  /**
   * The class and the method, `BillingConsumer.charge`, of several handlers with a comma between them; with the queue in brackets
   * where that is taken by another.
   */
  readonly name: string;
  /** The class and the method of each handler behind it: more than one where they share a queue (`when`). */
  readonly handlers: readonly string[];
  /** The name of its connection. */
  readonly connection: string;
  /** Most deliveries under way at a time. */
  readonly prefetch: number;
  readonly #consumer: Consumer;

  /** @internal Made by the registry. */
  constructor({ name, handlers, connection, prefetch }: ConsumerIdentity, consumer: Consumer) {
    this.name = name;
    this.handlers = handlers;
    this.connection = connection;
    this.prefetch = prefetch;
    this.#consumer = consumer;
  }

  /** The queue that it consumes from; one without a name by the name that the broker has given it. */
  get queue(): string {
    return this.#consumer.queue;
  }

  /** Where it stands, since when, and why. */
  get status(): ConsumerStatus {
    return this.#consumer.status;
  }

  /** `status.state`: `'running'`, `'paused'` and so on. */
  get state(): ConsumerState {
    return this.#consumer.status.state;
  }

  /** Deliveries whose handler is running, or that have not been answered since. */
  get underWay(): number {
    return this.#consumer.underWay;
  }

  /**
   * The delivery that has been under way for the longest time, of those whose handler has returned a promise, or has left the
   * answer for later.
   */
  get oldest(): RunningDelivery | undefined {
    return this.#consumer.oldest;
  }

  /**
   * Has the broker deliver nothing more (basic.cancel), and gives back what has not begun; resolves when the broker has said so.
   * What runs goes on, and is answered. It stays paused across reconnects, until `resume()`.
   */
  async pause(): Promise<void> {
    await this.#consumer.pause();
  }

  /**
   * Consumes again after `pause()` or `drain()`, starts what `autoStart: false` left alone, and tries at once what is recovering or
   * has failed. Returns before it runs; `status` says when it does. Throws `ABORTED` when the application stops.
   */
  resume(): void {
    this.#consumer.resume();
  }

  /**
   * Pauses it, and resolves when nothing is under way and the broker has heard the last answer. Rejects with `ABORTED` when that
   * takes too long; paused it stays.
   */
  async drain(options?: DrainOptions): Promise<void> {
    await this.#consumer.drain(options);
  }
}
