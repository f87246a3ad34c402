/**
 * The embedded broker from outside: started, reached, inspected, and hurt on demand. What a message goes through is the virtual
 * host's, what a client says the connection's.
 */
import type { Duplex } from 'node:stream';
import { AmqpError, quoted } from '../errors.js';
import { type Duration, milliseconds } from '../time/duration.js';
import { BrokerNames } from './broker-names.js';
import { BrokerConnection, type ConnectionHost } from './broker-connection.js';
import {
  type EmbeddedBrokerListenOptions,
  type EmbeddedBrokerOptions,
  type SettledOptions,
  checkedText,
  resolveBrokerOptions,
  resolveSettledOptions,
} from './broker-options.js';
import { type Clock, ManualClock } from './clock.js';
import { Faults } from './faults.js';
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

/** @internal The first user and virtual host of a broker. */
export interface EmbeddedLogin {
  readonly username: string;
  readonly password: string;
  readonly virtualHost: string;
}

/** How long clients may take to answer the close of a broker that is closed, in milliseconds. */
const FAREWELL = 500;

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
  static readonly #names = new BrokerNames<EmbeddedBroker>();

  /** The NAME of `embedded:NAME`. */
  readonly name: string;
  readonly #clock: Clock & { advance(ms: number): void };
  readonly #users: Users;
  readonly #virtualHosts = new Map<string, VirtualHost>();
  readonly #firstVirtualHost: VirtualHost;
  readonly #connections = new Set<BrokerConnection>();
  readonly #faults = new Faults(this.#connections);
  readonly #host: ConnectionHost;
  readonly #quiet: Quiet;
  #listener: Listener | undefined;
  #onEmpty = (): void => undefined;
  #closing: Promise<void> | undefined;
  #isStartedByName = false;

  private constructor(options: EmbeddedBrokerOptions) {
    const resolved = resolveBrokerOptions(options, EmbeddedBroker.#names.free());
    const { name, users, virtualHosts, clock, maxMessageSize } = resolved;
    EmbeddedBroker.#names.refuseTaken(name);
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
    this.#host = this.#hostWith(maxMessageSize);
    EmbeddedBroker.#names.add(name, this);
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
    const known = EmbeddedBroker.#names.get(name);
    if (known !== undefined) return known;
    if (EmbeddedBroker.#names.isClosed(name)) throw refusal(name, 'is closed');
    const broker = new EmbeddedBroker({ name });
    broker.#isStartedByName = true;
    return broker;
  }

  /** @internal Whom `embedded:NAME` logs in, where the client names nobody; undefined while there is no such broker. */
  static firstLogin(name: string): EmbeddedLogin | undefined {
    const broker = EmbeddedBroker.#names.get(name);
    return broker && { ...broker.#users.first, virtualHost: broker.#firstVirtualHost.name };
  }

  /**
   * Where it is reached: `amqp://…` when it listens, else `embedded:NAME`. Either leads the first user into the first virtual
   * host, unless the options of the client say otherwise. Throws `CONNECTION_CLOSED` when it listened and is closed.
   */
  get url(): string {
    if (this.#listener === undefined) return `embedded:${encodeURIComponent(this.name)}`;
    if (this.#closing !== undefined) {
      throw new AmqpError(
        'CONNECTION_CLOSED',
        `The embedded broker ${quoted(this.name)} is closed and listens no more. Read its url before close(), or start another one.`,
        { closedBy: 'server' },
      );
    }
    const virtualHost = encodeURIComponent(this.#firstVirtualHost.name);
    return `amqp://${this.#users.urlCredentials}@${this.#listener.authority}/${virtualHost}`;
  }

  /**
   * A connection without a port: what `ConnectionOptions.dial` returns. Throws an error with the code `ECONNREFUSED` after
   * `refuseConnections()` and `close()`.
   */
  connect(): Duplex {
    if (this.#closing !== undefined) throw refusal(this.name, 'is closed');
    if (this.#faults.isRefusing) throw refusal(this.name, 'refuses connections');
    const [near, far] = memoryLine();
    this.#accept(near);
    return far;
  }

  #accept(transport: Transport): void {
    if (this.#faults.isRefusing || this.#closing !== undefined) {
      transport.on('error', () => undefined);
      transport.resetAndDestroy();
      return;
    }
    this.#connections.add(new BrokerConnection(transport, this.#host));
  }

  #hostWith(maxMessageSize: number): ConnectionHost {
    return {
      users: this.#users,
      virtualHosts: this.#virtualHosts,
      maxMessageSize,
      faults: this.#faults,
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
   * saying what is not, when the time is over or `signal` fires, and with `INVALID_OPTION`.
   */
  async settled(options: SettledOptions = {}): Promise<void> {
    const { timeout, signal } = resolveSettledOptions(options);
    await this.#quiet.settled(timeout, signal);
  }

  #unsettled(): string | undefined {
    const restless: string[] = [];
    for (const virtualHost of this.#virtualHosts.values()) {
      for (const { name, unackedCount } of virtualHost.queues) {
        if (unackedCount > 0) restless.push(`queue ${quoted(name)} has ${unackedCount} unsettled`);
      }
    }
    let [bytes, confirming] = [0, 0];
    for (const { outbox, confirmingCount } of this.#connections) {
      bytes += outbox.backlog;
      confirming += confirmingCount;
    }
    if (bytes > 0) restless.push(`${bytes} bytes are not written`);
    if (confirming > 0) restless.push(`the confirms of ${confirming} channels are not written`);
    return restless.length === 0 ? undefined : restless.slice(0, 10).join('; ');
  }

  // Inspection.

  /** A queue as it is now. Throws `INVALID_ARGUMENT` when there is none of that name. */
  queue(name: string, virtualHost?: string): QueueInfo {
    return queueInfo(this.#virtualHost(virtualHost), checkedText(name, 'queue takes the name of a queue'));
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
    const known = checkedText(name, 'The second argument of queue has to be the name of a virtual host');
    const virtualHost = this.#virtualHosts.get(known);
    if (virtualHost !== undefined) return virtualHost;
    throw new AmqpError('INVALID_ARGUMENT', `The embedded broker has no virtual host ${quoted(name)}.`);
  }

  // Faults.

  /** Ends every connection as a crash does, without a word. Returns how many there were. */
  dropConnections(): number {
    return this.#faults.drop();
  }

  /** From now on new connections are refused: `connect()` throws, and on the port they are reset at once. */
  refuseConnections(): void {
    this.#faults.isRefusing = true;
  }

  /** Ends `refuseConnections()`. */
  acceptConnections(): void {
    this.#faults.isRefusing = false;
  }

  /**
   * A resource alarm: clients are told with connection.blocked, and who publishes all the same is not read from until
   * `unblock()`. Throws `INVALID_ARGUMENT`.
   *
   * @param reason - `'memory'` and `'disk'` become RabbitMQ's texts, others are sent as they are @default 'memory'
   */
  block(reason = 'memory'): void {
    this.#faults.block(reason);
  }

  /** Ends the alarm of `block()`: clients are told with connection.unblocked, and all are read from again. */
  unblock(): void {
    this.#faults.unblock();
  }

  /** Reads nothing from any connection, new ones included: what clients send waits on its way. */
  pauseReading(): void {
    this.#faults.pauseReading();
  }

  /** Ends `pauseReading()`: what waited on its way is read now. */
  resumeReading(): void {
    this.#faults.resumeReading();
  }

  /**
   * Answers the next `count` publishes on confirm channels with basic.nack, and drops them. A second call replaces what is left
   * of the first. Throws `INVALID_ARGUMENT`.
   *
   * @param count - @default 1
   */
  nackNext(count = 1): void {
    this.#faults.nackNext(count);
  }

  /**
   * Cancels consumers as RabbitMQ does when their queue moves: those with this consumer tag, or all of the queue of this name.
   * Clients that announce `consumer_cancel_notify` are told. Returns how many there were. Throws `INVALID_ARGUMENT`.
   */
  cancelConsumer(tagOrQueue: string): number {
    return this.#faults.cancelConsumer(tagOrQueue);
  }

  /** From now on everything that the broker says leaves this much later; a number is milliseconds, 0 ends it. Throws `INVALID_OPTION`. */
  latency(duration: Duration): void {
    this.#faults.delay(duration);
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
    this.#faults.resumeReading();
    this.#faults.delay(0);
    for (const connection of [...this.#connections]) {
      connection.close(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'");
    }
    await this.#emptied(FAREWELL);
    this.#faults.drop();
    await listener;
    for (const virtualHost of this.#virtualHosts.values()) virtualHost.close();
    EmbeddedBroker.#names.delete(this.name, !this.#isStartedByName);
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
