/**
 * What a test does to the connections of a broker: refuse, drop, block, pause, nack, cancel, delay. Those that are there are told
 * at once; those that come ask when they do.
 */
import { AmqpError } from '../errors.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';
import type { BrokerConnection } from './broker-connection.js';
import { checkedText } from './broker-options.js';
import type { ChannelConsumer } from './channel-consumer.js';

/** What RabbitMQ calls its two alarms. */
const REASONS: ReadonlyMap<string, string> = new Map([
  ['memory', 'low on memory'],
  ['disk', 'low on disk'],
]);

export class Faults {
  /** New connections are refused. */
  isRefusing = false;
  readonly #connections: ReadonlySet<BrokerConnection>;
  #isPaused = false;
  #blockedFor: string | undefined;
  #nacks = 0;
  #latency = 0;

  constructor(connections: ReadonlySet<BrokerConnection>) {
    this.#connections = connections;
  }

  /** Why publishers are blocked; undefined while they are not. */
  get blockedFor(): string | undefined {
    return this.#blockedFor;
  }

  /** Nothing is read from any connection. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Milliseconds by which everything leaves late. */
  get latency(): number {
    return this.#latency;
  }

  /** Whether a publish that is to be confirmed is to be refused; counts it. */
  takesNack(): boolean {
    if (this.#nacks === 0) return false;
    this.#nacks -= 1;
    return true;
  }

  /** Returns how many connections there were. */
  drop(): number {
    const connections = [...this.#connections];
    for (const connection of connections) connection.drop();
    return connections.length;
  }

  /** Throws `INVALID_ARGUMENT`. */
  block(reason: string): void {
    const text = checkedText(reason, "block takes a reason: 'memory', 'disk', or a text of your own");
    this.#blockedFor = REASONS.get(text) ?? text;
    for (const connection of this.#connections) connection.block(this.#blockedFor);
  }

  unblock(): void {
    if (this.#blockedFor === undefined) return;
    this.#blockedFor = undefined;
    for (const connection of this.#connections) connection.unblock();
  }

  pauseReading(): void {
    this.#isPaused = true;
    for (const connection of this.#connections) connection.pauseReading();
  }

  resumeReading(): void {
    this.#isPaused = false;
    for (const connection of this.#connections) connection.resumeReading();
  }

  /** Throws `INVALID_ARGUMENT`. */
  nackNext(count: number): void {
    if (!Number.isInteger(count) || count < 0) {
      throw new AmqpError('INVALID_ARGUMENT', 'nackNext takes a number of publishes: a whole number of 0 or more.');
    }
    this.#nacks = count;
  }

  /** Returns how many consumers there were. Throws `INVALID_ARGUMENT`. */
  cancelConsumer(tagOrQueue: string): number {
    const wanted = checkedText(tagOrQueue, 'cancelConsumer takes a consumer tag, or the name of a queue');
    const cancelled: ChannelConsumer[] = [];
    for (const { channels } of this.#connections) {
      for (const { deliveries } of channels) {
        for (const consumer of deliveries.consumers) {
          if (consumer.tag === wanted || consumer.queue.name === wanted) cancelled.push(consumer);
        }
      }
    }
    for (const consumer of cancelled) {
      consumer.cancelled();
      consumer.queue.unsubscribe(consumer);
    }
    return cancelled.length;
  }

  /** Throws `INVALID_OPTION`. */
  delay(duration: Duration): void {
    this.#latency = timerMilliseconds(duration, 'The argument of latency');
  }
}
