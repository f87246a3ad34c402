/**
 * Whether one connection of the application does what it is for: what it is connected to, what it consumes, since when not. It
 * only looks at what is known here, and asks the broker nothing.
 */
import { namesOf, refuseUnknown } from '../client/option-names.js';
import type { AmqpConnection } from '../client/amqp-connection.js';
import type { Connection } from '../client/connection.js';
import type { ConsumerState } from '../client/consumer-status.js';
import { printable, quoted } from '../errors.js';
import type { RegisteredConsumer } from '../messaging/registered-consumer.js';
import { type Duration, milliseconds } from '../time/duration.js';
import type { ConsumerRegistry } from './consumer-registry.js';

/** What counts as healthy. `false` for what never counts. */
export interface HealthOptions {
  /** How long a connection may be away. @default 0 */
  readonly disconnected?: Duration | false | undefined;
  /** How long a consumer may be `recovering`; one that has `failed` is unhealthy at once. @default '30s' */
  readonly recovering?: Duration | false | undefined;
  /** How long the broker may take no publishes (connection.blocked). @default false */
  readonly blocked?: Duration | false | undefined;
}

/** One of the two connections to the broker. */
export interface ConnectionHealth {
  /** `idle`: it is opened with the first publish. */
  readonly state: 'idle' | 'connecting' | 'open' | 'closed';
  readonly since: Date;
  /** Why it is not open. */
  readonly error?: string;
  /** Why the broker takes no publishes, and since when. */
  readonly blocked?: { readonly reason: string; readonly since: Date };
}

/** One of the consumers of a connection. */
export interface ConsumerHealth {
  /** As the `ConsumerRegistry` has it. */
  readonly name: string;
  /** The queue that it consumes from; one without a name by the name that the broker has given it. */
  readonly queue: string;
  readonly state: ConsumerState;
  /** When it came to that state. */
  readonly since: Date;
  /** Why it does not run. */
  readonly error?: string;
  /** Deliveries that are not answered yet. */
  readonly underWay: number;
  /** How long the oldest of those that run has been under way, in milliseconds. */
  readonly oldestMs?: number;
}

/** What `AmqpHealth.check` tells. */
export interface HealthReport {
  readonly healthy: boolean;
  /** What is wrong, a sentence each; empty when it is healthy. */
  readonly problems: readonly string[];
  readonly connections: { readonly consuming: ConnectionHealth; readonly publishing: ConnectionHealth };
  readonly consumers: readonly ConsumerHealth[];
}

const HEALTH_OPTIONS = namesOf<HealthOptions>({ disconnected: true, recovering: true, blocked: true });

/**
 * Tells how a connection and its consumers are. Healthy is: connected, no consumer failed, none recovering for long. A consumer that
 * is paused, or was never started, is as it was told to be.
 *
 * @example
 * ```ts
 * constructor(private readonly health: AmqpHealth) {}
 * const { healthy, problems } = this.health.check({ recovering: '1m' });
 * ```
 */
export class AmqpHealth {
  readonly #name: string;
  readonly #consuming: WatchedConnection;
  readonly #publishing: WatchedConnection;
  readonly #registry: ConsumerRegistry;

  /** @internal Made by the module. */
  constructor(name: string, consuming: AmqpConnection, publishing: AmqpConnection, registry: ConsumerRegistry) {
    this.#name = name;
    this.#consuming = new WatchedConnection(consuming);
    this.#publishing = new WatchedConnection(publishing);
    this.#registry = registry;
  }

  /** What is known now. Asks the broker nothing. Throws `INVALID_OPTION`. */
  check(options: HealthOptions = {}): HealthReport {
    refuseUnknown(options, HEALTH_OPTIONS, 'AmqpHealth has no option');
    const limits = {
      disconnected: limit(options.disconnected ?? 0, 'disconnected'),
      recovering: limit(options.recovering ?? '30s', 'recovering'),
      blocked: limit(options.blocked ?? false, 'blocked'),
    };
    const connections = { consuming: this.#consuming.health, publishing: this.#publishing.health };
    const consumers = this.#registry.list().filter(({ connection }) => connection === this.#name);
    const problems = [
      ...this.#connectionProblems('', connections.consuming, limits),
      // Mostly both are away together, and one sentence is enough.
      ...(connections.consuming.state === 'open'
        ? this.#connectionProblems('publishing ', connections.publishing, limits)
        : []),
      ...consumers.flatMap((consumer) => problemOf(consumer, limits.recovering)),
    ];
    return { healthy: problems.length === 0, problems, connections, consumers: consumers.map(healthOf) };
  }

  #connectionProblems(
    what: '' | 'publishing ',
    { state, since, error, blocked }: ConnectionHealth,
    limits: { readonly disconnected: number; readonly blocked: number },
  ): string[] {
    const label = `The ${what}connection ${quoted(this.#name)}`;
    const because = error === undefined ? '' : ` ${error}`;
    if (blocked !== undefined && isOver(blocked.since, limits.blocked)) {
      return [`${label} is blocked by the broker: ${blocked.reason}`];
    }
    switch (state) {
      case 'open':
        return [];
      case 'closed':
        return [`${label} is closed.${because}`];
      case 'idle':
        return what === '' ? [`${label} is not opened yet.`] : [];
      case 'connecting':
        // The first publish has it opened, and nothing has gone wrong yet.
        if (what !== '' && error === undefined) return [];
        return isOver(since, limits.disconnected) ? [`${label} is down.${because}`] : [];
      default:
        return state satisfies never;
    }
  }
}

/** A connection with the time of its last change. */
class WatchedConnection {
  readonly #connection: AmqpConnection;
  #since = new Date();
  #blockedSince = new Date();

  constructor(connection: AmqpConnection) {
    this.#connection = connection;
    let before = connection.status.state;
    connection.on('status', (status) => {
      if (status.state !== before) this.#since = new Date();
      before = status.state;
      if (status.state === 'open') this.#watchBlocks(status.connection);
    });
  }

  get health(): ConnectionHealth {
    const { status } = this.#connection;
    const since = this.#since;
    switch (status.state) {
      case 'idle':
        return { state: 'idle', since };
      case 'connecting':
        return { state: 'connecting', since, ...(status.lastError && { error: status.lastError.message }) };
      case 'closed':
        return { state: 'closed', since, error: status.error.message };
      case 'open': {
        const reason = status.connection.blockedReason;
        const blocked =
          reason === undefined ? {} : { blocked: { reason: printable(reason), since: this.#blockedSince } };
        return { state: 'open', since, ...blocked };
      }
      default:
        return status satisfies never;
    }
  }

  #watchBlocks(connection: Connection): void {
    this.#blockedSince = new Date();
    connection.on('blocked', () => {
      this.#blockedSince = new Date();
    });
  }
}

function healthOf(consumer: RegisteredConsumer): ConsumerHealth {
  const { name, queue, status, underWay, oldest } = consumer;
  const why = 'why' in status ? status.why : 'error' in status ? status.error?.message : undefined;
  return {
    name,
    queue,
    state: status.state,
    since: status.since,
    ...(why !== undefined && { error: why }),
    underWay,
    ...(oldest !== undefined && { oldestMs: Date.now() - oldest.since.getTime() }),
  };
}

function problemOf({ name, status }: RegisteredConsumer, recovering: number): string[] {
  const label = `The consumer ${quoted(name)}`;
  switch (status.state) {
    case 'failed':
      return [`${label} has failed. ${status.why}`];
    case 'recovering':
      return isOver(status.since, recovering)
        ? [`${label} does not run since ${status.since.toISOString()}. ${status.why}`]
        : [];
    case 'stopped':
      return status.error === undefined ? [] : [`${label} has stopped for good. ${status.error.message}`];
    case 'idle':
    case 'starting':
    case 'running':
    case 'paused':
    case 'stopping':
      return [];
    default:
      return status satisfies never;
  }
}

/** In milliseconds; never is for ever. */
function limit(duration: Duration | false, option: string): number {
  return duration === false ? Infinity : milliseconds(duration, option);
}

function isOver(since: Date, ms: number): boolean {
  return Date.now() - since.getTime() >= ms;
}
