/**
 * The consumers of the application: made of what the explorer finds, started when everything else is ready, stopped before
 * anything else goes; listed, paused, resumed and drained meanwhile. Each runs by itself, see `messaging/consumer`.
 */
import { EventEmitter } from 'node:events';
import { Injectable, Logger, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';
import { ExternalContextCreator, ModuleRef } from '@nestjs/core';
import type { ConsumerStatus } from '../client/consumer-status.js';
import { tell, warnOf } from '../client/listeners.js';
import { itIs } from '../client/option-names.js';
import { orLate } from '../client/wait.js';
import { AmqpError, quoted } from '../errors.js';
import { Consumer, type DrainOptions } from '../messaging/consumer.js';
import { labelOf } from '../messaging/log.js';
import { RegisteredConsumer } from '../messaging/registered-consumer.js';
import { timerMilliseconds } from '../time/duration.js';
import { isFactory } from './amqp.decorators.js';
import { AmqpExplorer, type DiscoveredHandler } from './amqp.explorer.js';
import { DEFAULT_CONNECTION } from './amqp.tokens.js';
import { ConnectionRegistry, type RegisteredConnection } from './connection-registry.js';
import { queueConsumers } from './queue-consumers.js';
import { type PlannedConsumer, ReceiverFactory } from './message-receivers.js';
import { ShutdownHurry } from './shutdown-hurry.js';
import { TopologyRegistry } from './topology-registry.js';

/** A consumer, and what the registry knows of it beside. */
interface Entry {
  readonly consumer: Consumer;
  readonly registered: RegisteredConsumer;
  /** Its queue, by name or key. */
  readonly queue: string;
  readonly shutdownTimeout: number;
}

/** Events of the `ConsumerRegistry`. */
export interface ConsumerRegistryEvents {
  /** A consumer has come to another state, or has failed once more in the same. */
  status: [consumer: RegisteredConsumer, status: ConsumerStatus];
}

/**
 * The consumers of all connections of the application, to look at, pause, resume and drain. It has them from the end of the boot
 * on (they start after every `onApplicationBootstrap`), and emits `status` when one of them comes to another state.
 *
 * @example
 * ```ts
 * constructor(private readonly consumers: ConsumerRegistry) {}
 * await this.consumers.drain('BillingConsumer.charge', { timeout: '30s' });
 * this.consumers.resume('BillingConsumer.charge');
 * ```
 */
@Injectable()
export class ConsumerRegistry
  extends EventEmitter<ConsumerRegistryEvents>
  implements OnApplicationBootstrap, OnModuleDestroy
{
  readonly #explorer: AmqpExplorer;
  readonly #connections: ConnectionRegistry;
  readonly #topologies: TopologyRegistry;
  readonly #contexts: ExternalContextCreator;
  readonly #moduleRef: ModuleRef;
  readonly #consumers = new Map<string, Entry>();
  readonly #logger = new Logger('AmqpModule');

  constructor(
    explorer: AmqpExplorer,
    connections: ConnectionRegistry,
    topologies: TopologyRegistry,
    contexts: ExternalContextCreator,
    moduleRef: ModuleRef,
  ) {
    super();
    this.#explorer = explorer;
    this.#connections = connections;
    this.#topologies = topologies;
    this.#contexts = contexts;
    this.#moduleRef = moduleRef;
  }

  /** All of them, those that do not run among them. */
  list(): RegisteredConsumer[] {
    return Array.from(this.#consumers.values(), ({ registered }) => registered);
  }

  /**
   * The consumer of that name, see `RegisteredConsumer.name`, or the one that runs the handler of that name: handlers that share a
   * queue share their consumer. Throws `UNKNOWN_CONSUMER`, and names those that there are; `INVALID_ARGUMENT` for what is no text.
   */
  get(name: string): RegisteredConsumer {
    if (typeof (name as unknown) !== 'string') {
      throw new AmqpError('INVALID_ARGUMENT', `The name of a consumer has to be a text${itIs(name)}`);
    }
    const entry = this.#consumers.get(name) ?? this.#runningHandler(name);
    if (entry !== undefined) return entry.registered;
    const known = [...this.#consumers.keys()].map(quoted).join(', ');
    throw new AmqpError(
      'UNKNOWN_CONSUMER',
      `There is no consumer ${quoted(name)}. ` +
        (known === ''
          ? 'There are none at all; they are made when the application has booted.'
          : `There are ${known}.`),
    );
  }

  /** One method may be behind several consumers: the first has its name, and each has it with its queue. */
  #runningHandler(name: string): Entry | undefined {
    return [...this.#consumers.values()].find(({ registered, queue }) =>
      registered.handlers.some((handler) => handler === name || ofQueue(handler, queue) === name),
    );
  }

  /** Pauses one or all, see `RegisteredConsumer.pause`. Rejects with `UNKNOWN_CONSUMER`. */
  async pause(name?: string): Promise<void> {
    await Promise.all(this.#named(name).map((consumer) => consumer.pause()));
  }

  /**
   * Resumes one, see `RegisteredConsumer.resume`, or all that are paused, recovering or failed: what was never started because of
   * `autoStart: false` is started by its name. Throws `UNKNOWN_CONSUMER` and, for one that has stopped for good, `ABORTED`.
   */
  resume(name?: string): void {
    const isAsleep = ({ state }: RegisteredConsumer): boolean =>
      state === 'idle' || state === 'stopping' || state === 'stopped';
    for (const consumer of this.#named(name)) if (name !== undefined || !isAsleep(consumer)) consumer.resume();
  }

  /** Drains one or all, see `RegisteredConsumer.drain`. Rejects with `UNKNOWN_CONSUMER`, or `ABORTED` when that takes too long. */
  async drain(options?: DrainOptions): Promise<void>;
  async drain(name: string, options?: DrainOptions): Promise<void>;
  async drain(nameOrOptions?: string | DrainOptions, more?: DrainOptions): Promise<void> {
    const [name, options] = typeof nameOrOptions === 'string' ? [nameOrOptions, more] : [undefined, nameOrOptions];
    await Promise.all(this.#named(name).map((consumer) => consumer.drain(options)));
  }

  #named(name: string | undefined): RegisteredConsumer[] {
    return name === undefined ? this.list() : [this.get(name)];
  }

  /** Runs after every other module's `onApplicationBootstrap`. */
  async onApplicationBootstrap(): Promise<void> {
    await this.orCloseAll(async () => {
      // What a factory says may be there only where something consumes.
      const factories = [...this.#connections].some(([, { options }]) => options.consumers !== false);
      const handlers = await this.#explorer.explore({ factories });
      // All of them before the first starts: a consumer sees what all declare.
      const queues = handlers.map(({ name, options }) => this.#topologies.addHandler(name, options));
      const plan = this.#plan(handlers, queues);
      if (plan.length === 0) return;
      const receivers = new ReceiverFactory(this.#contexts, this.#moduleRef, this.#logger);
      const started = plan.map((planned) => this.#start(planned, receivers));
      // All are awaited before any failure is told, so that none goes on starting behind a failed boot.
      const failure = (await Promise.allSettled(started)).find((result) => result.status === 'rejected');
      if (failure !== undefined) throw failure.reason;
    });
  }

  /**
   * @internal A part of the boot. When it fails, nothing of ours is left running behind it: Nest 11 calls no hook of an
   * application whose boot has failed, not even when it is closed.
   */
  async orCloseAll(boot: () => Promise<void>): Promise<void> {
    try {
      await boot();
    } catch (error) {
      await this.#stopAll();
      await this.#connections.close();
      throw error;
    }
  }

  /** Runs before every other module's `onModuleDestroy`: handlers still find their database open. */
  async onModuleDestroy(): Promise<void> {
    using hurry = new ShutdownHurry();
    await this.#stopAll(hurry.signal);
  }

  async #stopAll(hurry?: AbortSignal): Promise<void> {
    await Promise.all(
      Array.from(this.#consumers.values(), ({ consumer, shutdownTimeout }) => consumer.stop(shutdownTimeout, hurry)),
    );
  }

  /** Everything that is to start, checked as a whole before the first does. */
  #plan(handlers: readonly DiscoveredHandler[], queues: readonly string[]): PlannedConsumer[] {
    const byConnection = new Map<RegisteredConnection, Map<string, DiscoveredHandler[]>>();
    for (const [index, handler] of handlers.entries()) {
      const { connection = DEFAULT_CONNECTION } = handler.options;
      const registered = this.#connections.get(connection, `${handler.name} consumes on`);
      const queue = queues[index] ?? '';
      const byQueue = byConnection.get(registered) ?? new Map<string, DiscoveredHandler[]>();
      byConnection.set(registered, byQueue.set(queue, [...(byQueue.get(queue) ?? []), handler]));
    }
    return [...byConnection].flatMap(([registered, byQueue]) => {
      const { consumers: defaults } = registered.options;
      if (defaults === false) return [];
      return [...byQueue]
        .flatMap(([queue, sharing]) => queueConsumers(queue, sharing, defaults, this.#logger))
        .map((consumer) => ({ ...consumer, registered, defaults }));
    });
  }

  async #start(planned: PlannedConsumer, receivers: ReceiverFactory): Promise<void> {
    const { queue, handlers, prefetch, autoStart, registered } = planned;
    const { connection, options, topology } = registered;
    const late = handlers.some(({ handler }) => isFactory(handler.note));
    const consumer = new Consumer(
      connection,
      {
        ...planned,
        topology: topology.topology,
        ensureQueue: topology.preparation(queue, { late }),
        changed: (status) => {
          tell(this, 'status', [registeredConsumer, status], warnOf);
        },
      },
      receivers.receiverOf(planned),
      this.#logger,
    );
    const name = this.#freeName(planned.name, queue);
    const registeredConsumer = new RegisteredConsumer(
      {
        name,
        handlers: handlers.map(({ handler }) => handler.name),
        connection: handlers[0]?.handler.options.connection ?? DEFAULT_CONNECTION,
        prefetch,
      },
      consumer,
    );
    this.#consumers.set(name, {
      consumer,
      registered: registeredConsumer,
      queue,
      shutdownTimeout: options.shutdownTimeout,
    });
    if (!autoStart) return;
    if (options.startup === 'background') consumer.startInBackground();
    else {
      const limit = timerMilliseconds(options.startupTimeout, 'startupTimeout');
      await orLate(consumer.start(), limit, () => notStarted(planned, limit), undefined);
    }
  }

  /** One method may consume from several queues, and classes of different modules may have one name. */
  #freeName(name: string, queue: string): string {
    if (!this.#consumers.has(name)) return name;
    const long = ofQueue(name, queue);
    for (let count = 1; ; count += 1) {
      const numbered = count === 1 ? long : `${long} ${count}`;
      if (!this.#consumers.has(numbered)) return numbered;
    }
  }
}

/** A name that is taken by another consumer. */
function ofQueue(name: string, queue: string): string {
  return `${name} (${queue})`;
}

/** A consumer waits for a connection as long as there is none, and a boot does not. */
function notStarted({ name, queue, registered: { connection } }: PlannedConsumer, limit: number): AmqpError {
  const { status } = connection;
  if (status.state === 'connecting' && status.lastError !== undefined) return status.lastError;
  const told = `${labelOf({ name, queue })} has not started within ${limit} ms (startupTimeout)`;
  return new AmqpError('REQUEST_TIMEOUT', `${told}. See why the broker does not answer, or wait longer.`);
}
