/**
 * The consumers of the application: made of what the explorer finds, started when everything else is ready, stopped before
 * anything else goes. Each runs by itself, see `messaging/consumer`.
 */
import { Injectable, Logger, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';
import { ExternalContextCreator, ModuleRef } from '@nestjs/core';
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { DEFAULT_MAX_MESSAGE_SIZE } from '../client/connection-options.js';
import { AmqpError, quoted } from '../errors.js';
import type { ConnectionTopology } from '../messaging/connection-topology.js';
import { Consumer } from '../messaging/consumer.js';
import { HandledDeliveries } from '../messaging/handled-deliveries.js';
import { handlingWith } from '../messaging/correlation.js';
import { retryPolicy } from '../messaging/outcome.js';
import { timerMilliseconds } from '../time/duration.js';
import { decoderOf } from '../messaging/decoder.js';
import { argumentsOf, isFactory } from './amqp.decorators.js';
import { AmqpExplorer, type DiscoveredHandler } from './amqp.explorer.js';
import { HandlerFactory } from './amqp.handler.js';
import type { ResolvedModuleOptions } from './amqp.options.js';
import { DEFAULT_CONNECTION } from './amqp.tokens.js';
import { TopologyRegistry } from './topology-registry.js';

const DEFAULT_PREFETCH = 50;

/** A connection that consumers may name. */
interface RegisteredConnection {
  readonly connection: AmqpConnection;
  /** What everything is published over; idle until something is. */
  readonly publishing: AmqpConnection;
  readonly options: ResolvedModuleOptions;
  readonly topology: ConnectionTopology;
  /** Where consumers publish what is tried again, or dead-lettered. */
  readonly channel: AmqpChannel;
}

@Injectable()
export class ConsumerRegistry implements OnApplicationBootstrap, OnModuleDestroy {
  readonly #explorer: AmqpExplorer;
  readonly #topologies: TopologyRegistry;
  readonly #handlers: HandlerFactory;
  readonly #connections = new Map<string, RegisteredConnection>();
  readonly #consumers: { readonly consumer: Consumer; readonly shutdownTimeout: number }[] = [];
  readonly #logger = new Logger('AmqpModule');

  constructor(
    explorer: AmqpExplorer,
    topologies: TopologyRegistry,
    contexts: ExternalContextCreator,
    moduleRef: ModuleRef,
  ) {
    this.#explorer = explorer;
    this.#topologies = topologies;
    this.#handlers = new HandlerFactory(contexts, moduleRef);
  }

  /** @internal Every `AmqpModule` brings its connection here. Throws `INVALID_DEFINITION` for a name that is taken. */
  addConnection(name: string, registered: RegisteredConnection): void {
    if (this.#connections.has(name)) {
      throw new AmqpError(
        'INVALID_DEFINITION',
        `AmqpModule.forRoot is imported twice for the connection ${quoted(name)}. Import it once, or give the second a name of its own.`,
      );
    }
    this.#connections.set(name, registered);
  }

  /** Runs after every other module's `onApplicationBootstrap`. */
  async onApplicationBootstrap(): Promise<void> {
    await this.orCloseAll(async () => {
      const handlers = await this.#explorer.explore();
      // All of them before the first starts: a consumer sees what all declare.
      const queues = handlers.map(({ name, options }) => this.#topologies.addHandler(name, options));
      const started = handlers.map((handler, index) => this.#start(handler, queues[index] ?? ''));
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
      const connections = [...this.#connections.values()].flatMap(({ publishing, connection }) => [
        publishing,
        connection,
      ]);
      await Promise.allSettled(connections.map((connection) => connection.close()));
      throw error;
    }
  }

  /** Runs before every other module's `onModuleDestroy`: handlers still find their database open. */
  async onModuleDestroy(): Promise<void> {
    await this.#stopAll();
  }

  async #stopAll(): Promise<void> {
    await Promise.all(this.#consumers.map(({ consumer, shutdownTimeout }) => consumer.stop(shutdownTimeout)));
  }

  async #start(handler: DiscoveredHandler, queue: string): Promise<void> {
    const { connection, options, channel, ...registered } = this.#connectionFor(handler);
    if (options.consumers === false) return;
    const { prefetch = options.consumers.prefetch ?? DEFAULT_PREFETCH } = handler.options;
    const { retry = options.consumers.retry, timeout = options.consumers.timeout } = handler.options;
    const { topology } = registered.topology;
    const deliveries = new HandledDeliveries(
      connection,
      {
        name: handler.name,
        queue,
        topology,
        channel,
        concurrency: prefetch,
        ack: handler.options.ack ?? options.consumers.ack,
        retry: retry === undefined ? undefined : retryPolicy(retry, handler.name),
        deadLetter: handler.options.deadLetter ?? options.consumers.deadLetter,
        timeout: timeout === undefined ? undefined : timerMilliseconds(timeout, `timeout of ${handler.name}`),
        decode: decoderOf({
          serializers: options.serializers,
          maxSize: options.connection.maxMessageSize ?? DEFAULT_MAX_MESSAGE_SIZE,
          contentType: handler.options.contentType,
          schema: handler.options.schema,
        }),
      },
      handlingWith(options.publisher.carry, this.#handlers.create(handler, options.consumers)),
      this.#logger,
    );
    const consumer = new Consumer(
      connection,
      {
        name: handler.name,
        queue,
        topology,
        ensureQueue: registered.topology.preparation(queue, { late: isFactory(handler.note) }),
        prefetch,
        exclusive: handler.options.exclusive ?? false,
        consumerTag: handler.options.consumerTag,
        arguments: argumentsOf(handler.options),
      },
      deliveries,
      this.#logger,
    );
    this.#consumers.push({ consumer, shutdownTimeout: options.shutdownTimeout });
    if (options.startup === 'background') consumer.startInBackground();
    else await consumer.start();
  }

  #connectionFor({ name, options: { connection = DEFAULT_CONNECTION } }: DiscoveredHandler): RegisteredConnection {
    const registered = this.#connections.get(connection);
    if (registered !== undefined) return registered;
    const known = [...this.#connections.keys()].map(quoted).join(', ');
    throw new AmqpError(
      'INVALID_DEFINITION',
      `${name} consumes on the connection ${quoted(connection)}, which no AmqpModule.forRoot defines. Defined are ${known}.`,
    );
  }
}
