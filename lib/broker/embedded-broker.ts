/**
 * The embedded broker from outside: started, reached, inspected, and hurt on demand. What a message goes through is the virtual
 * host's, what a client says the connection's.
 */
import type { Duplex } from 'node:stream';
import { AmqpError, quoted } from '../errors.js';
import { type Duration, milliseconds, timerMilliseconds } from '../time/duration.js';
import { BrokerConnection, type ConnectionHost } from './broker-connection.js';
import {
  type EmbeddedBrokerListenOptions,
  type EmbeddedBrokerOptions,
  resolveBrokerOptions,
} from './broker-options.js';
import { type ChannelConsumer } from './channel-consumer.js';
import { type Clock, ManualClock } from './clock.js';
import {
  type BindingInfo,
  type ConnectionInfo,
  type ExchangeInfo,
  type QueueInfo,
  bindingsOf,
  connectionInfo,
  exchangesOf,
  infoOf,
  queueInfo,
} from './inspection.js';
import { Listener } from './listener.js';
import { type Transport, memoryLine } from './memory-line.js';
import { Quiet } from './quiet.js';
import { RunningClock } from './running-clock.js';
import { Users } from './users.js';
import { VirtualHost } from './virtual-host.js';

/** How `settled` waits. */
export interface SettledOptions {
  /** @default '5s' */
  readonly timeout?: Duration | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** @internal The first user and virtual host of a broker. */
export interface EmbeddedLogin {
  readonly username: string;
  readonly password: string;
  readonly virtualHost: string;
}

/** How long clients may take to answer the close of a broker that is closed, in milliseconds. */
const FAREWELL = 500;

/** What RabbitMQ calls its two alarms. */
const REASONS: Readonly<Record<string, string>> = { memory: 'low on memory', disk: 'low on disk' };

/**
 * A real AMQP 0-9-1 broker in this process, with RabbitMQ's semantics and nothing on disk.
 *
 * @example
 * ```ts
 * await using broker = await EmbeddedBroker.listen();
 * const connection = await connect(broker.url);
 * …
 * broker.advance('10m');
 * await broker.settled();
 * expect(broker.queue('billing').messages).toBe(0);
 * ```
 */
export class EmbeddedBroker implements AsyncDisposable {
  static readonly #named = new Map<string, EmbeddedBroker>();
  /** Names of brokers that somebody made and closed: a client that still tries to come back must not start another one. */
  static readonly #closedNames = new Set<string>();
  static #count = 0;

  /** The NAME of `embedded:NAME`. */
  readonly name: string;
  readonly #clock: Clock & { advance(ms: number): void };
  readonly #users: Users;
  readonly #virtualHosts = new Map<string, VirtualHost>();
  readonly #firstVirtualHost: VirtualHost;
  readonly #connections = new Set<BrokerConnection>();
  readonly #host: ConnectionHost;
  readonly #quiet: Quiet;
  #listener: Listener | undefined;
  #onEmpty = (): void => undefined;
  #isRefusing = false;
  #closing: Promise<void> | undefined;
  #isStartedByName = false;
  #isPaused = false;
  #blockedFor: string | undefined;
  #nacks = 0;
  #latency = 0;

  private constructor(options: EmbeddedBrokerOptions) {
    const resolved = resolveBrokerOptions(options, EmbeddedBroker.#freeName());
    const { name, users, virtualHosts, clock, maxMessageSize } = resolved;
    if (EmbeddedBroker.#named.has(name)) {
      throw new AmqpError(
        'INVALID_OPTION',
        `There is an embedded broker ${quoted(name)} in this process already. Close it, or choose another name.`,
      );
    }
    this.name = name;
    this.#clock = clock === 'manual' ? new ManualClock() : new RunningClock();
    this.#users = new Users(users);
    this.#quiet = new Quiet({ unsettled: () => this.#unsettled() });
    for (const each of virtualHosts) {
      const virtualHost = new VirtualHost(each, this.#clock);
      virtualHost.onChange = () => this.#quiet.moved();
      this.#virtualHosts.set(each, virtualHost);
    }
    this.#firstVirtualHost = this.#virtualHost(virtualHosts[0]);
    this.#host = this.#newHost(maxMessageSize);
    EmbeddedBroker.#named.set(name, this);
    EmbeddedBroker.#closedNames.delete(name);
  }

  /** A broker with a port. Rejects with `INVALID_OPTION`, or `CONNECT_FAILED` when the port is taken. */
  static async listen(options: EmbeddedBrokerListenOptions = {}): Promise<EmbeddedBroker> {
    const { port, host } = resolveBrokerOptions(options, 'unnamed');
    const broker = new EmbeddedBroker(options);
    try {
      broker.#listener = await Listener.open(port, host, (transport) => broker.#accept(transport));
    } catch (error) {
      await broker.close();
      throw error;
    }
    return broker;
  }

  /** A broker without a port, for this process alone: reached by its `url`, or by `connect()`. Throws `INVALID_OPTION`. */
  static create(options: EmbeddedBrokerOptions = {}): EmbeddedBroker {
    return new EmbeddedBroker(options);
  }

  /**
   * The broker behind `embedded:NAME`, started by whoever asks for it first. It stays until it is closed or the process ends,
   * also while nobody is connected: queues and messages are there when a client comes back, as with any broker.
   *
   * A broker that `create()` or `listen()` made stays closed when it is closed, until one of its name is made again: this then
   * throws an error with the code `ECONNREFUSED`.
   */
  static named(name: string): EmbeddedBroker {
    const known = EmbeddedBroker.#named.get(name);
    if (known !== undefined) return known;
    if (EmbeddedBroker.#closedNames.has(name)) throw refusal(name, 'is closed');
    const broker = new EmbeddedBroker({ name });
    broker.#isStartedByName = true;
    return broker;
  }

  /** @internal Whom `embedded:NAME` logs in, where the client names nobody; undefined while there is no such broker. */
  static firstLogin(name: string): EmbeddedLogin | undefined {
    const broker = EmbeddedBroker.#named.get(name);
    return broker && { ...broker.#users.first, virtualHost: broker.#firstVirtualHost.name };
  }

  static #freeName(): string {
    for (;;) {
      EmbeddedBroker.#count += 1;
      const name = `broker-${EmbeddedBroker.#count}`;
      if (!EmbeddedBroker.#named.has(name)) return name;
    }
  }

  /**
   * Where it is reached: `amqp://…` when it listens, else `embedded:NAME`. Either leads the first user into the first virtual
   * host, unless the options of the client say otherwise.
   */
  get url(): string {
    if (this.#listener === undefined) return `embedded:${encodeURIComponent(this.name)}`;
    const virtualHost = encodeURIComponent(this.#firstVirtualHost.name);
    return `amqp://${this.#users.urlCredentials}@${this.#listener.authority}/${virtualHost}`;
  }

  /**
   * A connection without a port: what `ConnectionOptions.dial` returns. Throws an error with the code `ECONNREFUSED` after
   * `refuseConnections()` and `close()`.
   */
  connect(): Duplex {
    if (this.#closing !== undefined) throw refusal(this.name, 'is closed');
    if (this.#isRefusing) throw refusal(this.name, 'refuses connections');
    const [near, far] = memoryLine();
    this.#accept(near);
    return far;
  }

  #accept(transport: Transport): void {
    if (this.#isRefusing || this.#closing !== undefined) {
      transport.on('error', () => undefined);
      transport.resetAndDestroy();
      return;
    }
    this.#connections.add(new BrokerConnection(transport, this.#host));
  }

  #newHost(maxMessageSize: number): ConnectionHost {
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- the getters below have a `this` of their own
    const broker = this;
    return {
      users: this.#users,
      virtualHosts: this.#virtualHosts,
      maxMessageSize,
      get blockedFor() {
        return broker.#blockedFor;
      },
      get isPaused() {
        return broker.#isPaused;
      },
      get latency() {
        return broker.#latency;
      },
      takesNack: () => {
        if (this.#nacks === 0) return false;
        this.#nacks -= 1;
        return true;
      },
      moved: () => this.#quiet.moved(),
      ended: (connection) => {
        this.#connections.delete(connection);
        if (this.#connections.size === 0) this.#onEmpty();
      },
    };
  }

  // Time.

  /** What time it is for this broker. */
  get now(): Date {
    return new Date(this.#clock.now());
  }

  /**
   * Moves time on: message and queue TTLs, expiries and delays that fall due on the way happen, in order, before this returns.
   * A number is milliseconds. Throws `INVALID_OPTION`.
   */
  advance(duration: Duration): void {
    this.#clock.advance(milliseconds(duration, 'The argument of advance'));
    this.#quiet.moved();
  }

  /**
   * Resolves when nothing moves any more: no delivery is unsettled, nothing is left to be written, and for some turns of the
   * event loop nobody has said anything. Messages that wait for a consumer or for the clock are at rest. Rejects with `ABORTED`,
   * saying what is not, when the time is over or `signal` fires.
   */
  async settled({ timeout = '5s', signal }: SettledOptions = {}): Promise<void> {
    await this.#quiet.settled(timerMilliseconds(timeout, 'timeout'), signal);
  }

  #unsettled(): string | undefined {
    const restless: string[] = [];
    for (const virtualHost of this.#virtualHosts.values()) {
      for (const { name, unackedCount } of virtualHost.queues) {
        if (unackedCount > 0) restless.push(`queue ${quoted(name)} has ${unackedCount} unsettled`);
      }
    }
    let backlog = 0;
    for (const connection of this.#connections) backlog += connection.backlog;
    if (backlog > 0) restless.push(`${backlog} bytes are not written`);
    return restless.length === 0 ? undefined : restless.slice(0, 10).join('; ');
  }

  // Inspection.

  /** A queue as it is now. Throws `INVALID_ARGUMENT` when there is none of that name. */
  queue(name: string, virtualHost?: string): QueueInfo {
    return queueInfo(this.#virtualHost(virtualHost), name);
  }

  /** The queues of all virtual hosts. */
  get queues(): readonly QueueInfo[] {
    return this.#all((virtualHost) => [...virtualHost.queues].map((queue) => infoOf(virtualHost, queue)));
  }

  /** The exchanges of all virtual hosts. */
  get exchanges(): readonly ExchangeInfo[] {
    return this.#all(exchangesOf);
  }

  /** The bindings of all virtual hosts. */
  get bindings(): readonly BindingInfo[] {
    return this.#all(bindingsOf);
  }

  /** The connections that are through the handshake. */
  get connections(): readonly ConnectionInfo[] {
    return [...this.#connections].flatMap((connection) => connectionInfo(connection) ?? []);
  }

  #all<T>(of: (virtualHost: VirtualHost) => T[]): T[] {
    return [...this.#virtualHosts.values()].flatMap(of);
  }

  #virtualHost(name?: string): VirtualHost {
    if (name === undefined) return this.#firstVirtualHost;
    const virtualHost = this.#virtualHosts.get(name);
    if (virtualHost !== undefined) return virtualHost;
    throw new AmqpError('INVALID_ARGUMENT', `The embedded broker has no virtual host ${quoted(name)}.`);
  }

  // Faults.

  /** Ends every connection as a crash does, without a word. Returns how many there were. */
  dropConnections(): number {
    const connections = [...this.#connections];
    for (const connection of connections) connection.drop();
    return connections.length;
  }

  /** From now on new connections are refused: `connect()` throws, and on the port they are reset at once. */
  refuseConnections(): void {
    this.#isRefusing = true;
  }

  /** Ends `refuseConnections()`. */
  acceptConnections(): void {
    this.#isRefusing = false;
  }

  /**
   * A resource alarm: clients are told with connection.blocked, and who publishes all the same is not read from until
   * `unblock()`.
   *
   * @param reason - `'memory'` and `'disk'` become RabbitMQ's texts, others are sent as they are @default 'memory'
   */
  block(reason = 'memory'): void {
    const text = Object.hasOwn(REASONS, reason) ? (REASONS[reason] as string) : reason;
    this.#blockedFor = text;
    for (const connection of this.#connections) connection.block(text);
  }

  /** Ends the alarm of `block()`: clients are told with connection.unblocked, and all are read from again. */
  unblock(): void {
    if (this.#blockedFor === undefined) return;
    this.#blockedFor = undefined;
    for (const connection of this.#connections) connection.unblock();
  }

  /** Reads nothing from any connection, new ones included: what clients send waits on its way. */
  pauseReading(): void {
    this.#isPaused = true;
    for (const connection of this.#connections) connection.pauseReading();
  }

  /** Ends `pauseReading()`: what waited on its way is read now. */
  resumeReading(): void {
    this.#isPaused = false;
    for (const connection of this.#connections) connection.resumeReading();
  }

  /**
   * Answers the next `count` publishes on confirm channels with basic.nack, and drops them. A second call replaces what is left
   * of the first. Throws `INVALID_ARGUMENT`.
   */
  nackNext(count = 1): void {
    if (!Number.isInteger(count) || count < 0) {
      throw new AmqpError('INVALID_ARGUMENT', 'nackNext takes a number of publishes.');
    }
    this.#nacks = count;
  }

  /**
   * Cancels consumers as RabbitMQ does when their queue moves: those with this consumer tag, or all of the queue of this name.
   * Clients that announce `consumer_cancel_notify` are told. Returns how many there were.
   */
  cancelConsumer(tagOrQueue: string): number {
    const cancelled: ChannelConsumer[] = [];
    for (const { channels } of this.#connections) {
      for (const { deliveries } of channels) {
        for (const consumer of deliveries.consumers) {
          if (consumer.tag === tagOrQueue || consumer.queue.name === tagOrQueue) cancelled.push(consumer);
        }
      }
    }
    for (const consumer of cancelled) {
      consumer.cancelled();
      consumer.queue.unsubscribe(consumer);
    }
    return cancelled.length;
  }

  /** From now on everything that the broker says leaves this much later; a number is milliseconds, 0 ends it. Throws `INVALID_OPTION`. */
  latency(duration: Duration): void {
    this.#latency = timerMilliseconds(duration, 'The argument of latency');
  }

  // The end.

  /**
   * Closes connections as a broker does that is shut down (320), gives up the port, and forgets everything. Clients that do not
   * answer within half a second are dropped. The name is free at the end, for `create()` and `listen()`. A second call waits for
   * the first.
   */
  async close(): Promise<void> {
    await (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    const listener = this.#listener?.close();
    this.resumeReading();
    this.#latency = 0;
    for (const connection of [...this.#connections]) {
      connection.close(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'");
    }
    await this.#emptied(FAREWELL);
    this.dropConnections();
    await listener;
    for (const virtualHost of this.#virtualHosts.values()) virtualHost.close();
    EmbeddedBroker.#named.delete(this.name);
    if (!this.#isStartedByName) EmbeddedBroker.#closedNames.add(this.name);
  }

  /** Resolves when there is no connection left, or the time is over. */
  async #emptied(ms: number): Promise<void> {
    if (this.#connections.size === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#onEmpty = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function refusal(name: string, why: string): Error {
  return Object.assign(new Error(`The embedded broker ${quoted(name)} ${why}.`), { code: 'ECONNREFUSED' });
}
