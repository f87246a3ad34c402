/**
 * The deliveries of a handler that go on after it was called, oldest first, and the word about those that the broker will not wait
 * for much longer. One timer looks after all of them, while there are any.
 */
import type { Message } from '../client/message.js';
import type { DeliveryScope } from './delivery.js';

/** A delivery that has not been answered. */
export interface RunningDelivery {
  /** When its handler was called. */
  readonly since: Date;
  readonly routingKey: string;
  readonly deliveryTag: number;
}

interface Running {
  readonly since: number;
  /** Of a channel that has ended, the broker has taken everything back. */
  readonly scope: DeliveryScope;
  isTold: boolean;
}

/** Longest time between two looks, in milliseconds. */
const INTERVAL = 60_000;

export class RunningDeliveries {
  readonly #running = new Map<Message, Running>();
  readonly #limit: number;
  readonly #late: ((message: Message, ms: number) => void) | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** `late` is called once for each that has run for `limit` ms, and has a channel still. */
  constructor(limit: number, late: ((message: Message, ms: number) => void) | undefined) {
    this.#limit = limit;
    this.#late = late;
  }

  /** The one that has run for the longest time. */
  get oldest(): RunningDelivery | undefined {
    const [first] = this.#running;
    if (first === undefined) return undefined;
    const [{ routingKey, deliveryTag }, { since }] = first;
    return { since: new Date(since), routingKey, deliveryTag };
  }

  /** It goes on. One that is known keeps its time. */
  add(message: Message, scope: DeliveryScope): void {
    if (this.#running.has(message)) return;
    this.#running.set(message, { since: Date.now(), scope, isTold: false });
    if (this.#late === undefined || this.#timer !== undefined) return;
    const interval = Math.max(10, Math.min(INTERVAL, this.#limit / 4));
    this.#timer = setInterval(() => {
      this.#look();
    }, interval);
    this.#timer.unref();
  }

  /** How long it has gone on, in milliseconds; 0 for one that is not known. */
  msOf(message: Message): number {
    const running = this.#running.get(message);
    return running === undefined ? 0 : Date.now() - running.since;
  }

  delete(message: Message): void {
    // Most have ended when their handler returned, and were never here.
    if (this.#running.size > 0) this.#running.delete(message);
  }

  /** Looks no more. */
  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #look(): void {
    if (this.#running.size === 0) this.end();
    const now = Date.now();
    for (const [message, running] of this.#running) {
      const ms = now - running.since;
      if (ms < this.#limit) return;
      if (running.isTold || running.scope.hasEnded) continue;
      running.isTold = true;
      this.#late?.(message, ms);
    }
  }
}
