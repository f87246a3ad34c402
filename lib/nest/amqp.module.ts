/** The Nest module: provides a connection's injectables, opens it when the application starts, closes it when it ends. */
import {
  ConfigurableModuleBuilder,
  type DynamicModule,
  Inject,
  Logger,
  Module,
  type OnApplicationShutdown,
  type OnModuleInit,
  type Provider,
} from '@nestjs/common';
import { DiscoveryModule, ModuleRef, ModulesContainer } from '@nestjs/core';
import { BROKER_OVERRIDE, type BrokerOverride } from '../broker-override.js';
import type { AmqpConnection as ClientConnection, AmqpConnectionOptions } from '../client/amqp-connection.js';
import { itIs } from '../client/option-names.js';
import { AmqpError } from '../errors.js';
import { ConnectionTopology } from '../messaging/connection-topology.js';
import type { PublishInterceptors } from '../messaging/intercepted-publish.js';
import { AmqpPublisher } from '../messaging/publisher.js';
import { PublishingConnection } from '../messaging/publishing-connection.js';
import { Replier } from '../messaging/replier.js';
import { AmqpChannel } from './amqp.channel.js';
import { AmqpConnection } from './amqp.connection.js';
import { AmqpExplorer } from './amqp.explorer.js';
import { type AmqpModuleAsyncOptions, checkAsyncOptions, watched } from './async-options.js';
import { AmqpFeatureModule, type AmqpFeatureOptions, FEATURE, checkFeature } from './amqp.feature.js';
import { AmqpHealth } from './amqp.health.js';
import {
  type AmqpModuleExtras,
  type AmqpModuleOptions,
  type ResolvedModuleOptions,
  checkName,
  resolveModuleOptions,
} from './amqp.options.js';
import { AmqpRpcClient } from './amqp.rpc-client.js';
import {
  DEFAULT_CONNECTION,
  PUBLISHING_CONNECTION,
  getChannelToken,
  getConnectionToken,
  getHealthToken,
  getPublisherToken,
  getRpcClientToken,
} from './amqp.tokens.js';
import { logConnections } from './connection-log.js';
import { ConnectionRegistry } from './connection-registry.js';
import { ConsumerRegistry } from './consumer-registry.js';
import { checkConsumerDefaults } from './handler-checks.js';
import { interceptorsOf } from './publish-interceptors.js';
import { TopologyRegistry } from './topology-registry.js';

/** Tokens inside one `AmqpModule`; what is exported has the public ones. */
const RESOLVED_OPTIONS = Symbol('nest-amqp:options');
const CONNECTION_NAME = Symbol('nest-amqp:connection name');
const CONNECTION = Symbol('nest-amqp:connection');
const TOPOLOGY = Symbol('nest-amqp:topology');
const PUBLISHER_CHANNEL = Symbol('nest-amqp:publisher channel');
const INTERCEPTORS = Symbol('nest-amqp:publish interceptors');
const RPC_CLIENT = Symbol('nest-amqp:rpc client');
const REPLIER = Symbol('nest-amqp:replier');

/**
 * Holds the consumers of all connections of an application. Its place among the modules is what matters: hooks run from the
 * farthest module to the nearest on the way up and back on the way down, so that nearer than the root module means started
 * last and stopped first. The connections are the other way round: farther than all global modules, which may publish too.
 */
@Module({
  imports: [DiscoveryModule],
  providers: [AmqpExplorer, ConnectionRegistry, TopologyRegistry, ConsumerRegistry],
  exports: [ConnectionRegistry, TopologyRegistry, ConsumerRegistry],
})
class AmqpConsumersModule {
  constructor(modules: ModulesContainer) {
    for (const module of modules.values()) {
      if (module.metatype === AmqpConsumersModule) module.distance = -1;
      if (module.metatype === AmqpModule) module.distance = Infinity;
    }
  }
}

const { ConfigurableModuleClass, MODULE_OPTIONS_TOKEN } = new ConfigurableModuleBuilder<AmqpModuleOptions>({
  moduleName: 'Amqp',
})
  .setClassMethodName('forRoot')
  .setFactoryMethodName('createAmqpOptions')
  // The builder keeps out of the options what is named here.
  .setExtras<AmqpModuleExtras>(
    { name: DEFAULT_CONNECTION, isGlobal: true },
    (definition, { name = DEFAULT_CONNECTION, isGlobal = true }) => ({
      ...definition,
      global: isGlobal,
      imports: [...(definition.imports ?? []), AmqpConsumersModule],
      providers: [...(definition.providers ?? []), ...providersFor(name)],
      exports: [
        getConnectionToken(name),
        getChannelToken(name),
        getPublisherToken(name),
        getRpcClientToken(name),
        getHealthToken(name),
        AmqpConsumersModule,
      ],
    }),
  )
  .build();

/** Another broker: what leads to the application's own one leads nowhere there. */
function overridden(options: ResolvedModuleOptions, { url }: BrokerOverride): ResolvedModuleOptions {
  const connection = {
    ...options.connection,
    vhost: undefined,
    credentials: undefined,
    mechanism: undefined,
    tls: undefined,
    dial: undefined,
    lookup: undefined,
  };
  return { ...options, url, connection };
}

/** The name that the broker shows of a connection: the application's, else the package's and the module's. */
function named(options: AmqpConnectionOptions, name: string, what?: 'publishing'): AmqpConnectionOptions {
  const { connectionName, clientProperties } = options;
  const given = connectionName ?? clientProperties?.['connection_name'];
  const own = name === DEFAULT_CONNECTION ? 'nest-amqp' : `nest-amqp ${name}`;
  const base = typeof given === 'string' ? given : own;
  return { ...options, connectionName: what === undefined ? base : `${base} (${what})` };
}

function providersFor(name: string): Provider[] {
  return [
    { provide: CONNECTION_NAME, useValue: name },
    { provide: BROKER_OVERRIDE, useValue: null },
    {
      provide: RESOLVED_OPTIONS,
      inject: [MODULE_OPTIONS_TOKEN, BROKER_OVERRIDE],
      useFactory: (options: AmqpModuleOptions, override: BrokerOverride | null): ResolvedModuleOptions => {
        const resolved = resolveModuleOptions(options);
        if (resolved.consumers !== false) checkConsumerDefaults(resolved.consumers);
        if (override === null || override.connections?.includes(name) === false) return resolved;
        override.taken.add(name);
        return overridden(resolved, override);
      },
    },
    {
      provide: CONNECTION,
      inject: [RESOLVED_OPTIONS],
      useFactory: ({ url, connection: options }: ResolvedModuleOptions): AmqpConnection =>
        new AmqpConnection(url, named(options, name)),
    },
    {
      provide: TOPOLOGY,
      inject: [CONNECTION, RESOLVED_OPTIONS],
      useFactory: (connection: AmqpConnection, options: ResolvedModuleOptions): ConnectionTopology => {
        const topology = new ConnectionTopology(connection, {
          mode: options.topologyMode,
          onConflict: options.onTopologyConflict,
          checks: options.topologyChecks,
          log: new Logger('AmqpModule'),
        });
        connection.onSetup((opened) => topology.apply(opened));
        return topology;
      },
    },
    { provide: getConnectionToken(name), useExisting: CONNECTION },
    {
      provide: PUBLISHING_CONNECTION,
      inject: [CONNECTION, RESOLVED_OPTIONS],
      useFactory: (main: ClientConnection, { url, connection: options }: ResolvedModuleOptions): ClientConnection =>
        new PublishingConnection(main, url, named(options, name, 'publishing')),
    },
    {
      provide: getChannelToken(name),
      inject: [CONNECTION],
      useFactory: (connection: AmqpConnection): AmqpChannel => new AmqpChannel(connection),
    },
    // A channel of its own: what a user's channel suffers does not touch publishes under way.
    {
      provide: PUBLISHER_CHANNEL,
      inject: [PUBLISHING_CONNECTION, RESOLVED_OPTIONS],
      useFactory: (connection: ClientConnection, { publisher }: ResolvedModuleOptions): AmqpChannel =>
        new AmqpChannel(connection, publisher),
    },
    {
      provide: INTERCEPTORS,
      inject: [RESOLVED_OPTIONS, ModuleRef],
      // Nest asks for something: null where there are none.
      useFactory: ({ publisher }: ResolvedModuleOptions, moduleRef: ModuleRef): PublishInterceptors | null =>
        interceptorsOf(publisher.interceptors, moduleRef) ?? null,
    },
    {
      provide: getPublisherToken(name),
      inject: [PUBLISHER_CHANNEL, RESOLVED_OPTIONS, INTERCEPTORS],
      useFactory: (
        channel: AmqpChannel,
        { publisher, serializers }: ResolvedModuleOptions,
        interceptors: PublishInterceptors | null,
      ): AmqpPublisher => new AmqpPublisher(channel, publisher, serializers, interceptors ?? undefined),
    },
    {
      provide: RPC_CLIENT,
      inject: [PUBLISHING_CONNECTION, RESOLVED_OPTIONS],
      useFactory: (
        connection: ClientConnection,
        {
          rpc,
          publisher: { appId, contentType, carry },
          serializers,
          connection: { maxMessageSize },
        }: ResolvedModuleOptions,
      ): AmqpRpcClient =>
        new AmqpRpcClient(connection, {
          ...rpc,
          appId,
          contentType,
          carry,
          serializers,
          maxSize: maxMessageSize,
          log: new Logger('AmqpModule'),
        }),
    },
    { provide: getRpcClientToken(name), useExisting: RPC_CLIENT },
    {
      provide: getHealthToken(name),
      inject: [CONNECTION, PUBLISHING_CONNECTION, ConsumerRegistry],
      useFactory: (connection: AmqpConnection, publishing: ClientConnection, registry: ConsumerRegistry): AmqpHealth =>
        new AmqpHealth(name, connection, publishing, registry),
    },
    {
      provide: REPLIER,
      inject: [PUBLISHING_CONNECTION, RESOLVED_OPTIONS],
      useFactory: (
        connection: ClientConnection,
        { publisher: { appId, contentType }, serializers }: ResolvedModuleOptions,
      ): Replier => new Replier(connection, { appId, contentType, serializers }),
    },
  ];
}

/**
 * AMQP for a Nest application.
 *
 * `forRoot(options)` and `forRootAsync({ name, imports, inject, useFactory | useClass | useExisting })` make
 * `AmqpConnection`, `AmqpChannel`, `AmqpPublisher`, `AmqpRpcClient`, `AmqpHealth` and the `ConsumerRegistry` injectable, declare the
 * topology and start every `@Consume`. A second broker is a second `forRoot({ name: 'audit', … })`.
 *
 * @example
 * ```ts
 * @Module({ imports: [AmqpModule.forRoot({ url: process.env.AMQP_URL })] })
 * class AppModule {}
 * ```
 */
@Module({})
export class AmqpModule extends ConfigurableModuleClass implements OnModuleInit, OnApplicationShutdown {
  readonly #connection: AmqpConnection;
  readonly #publishing: ClientConnection;
  readonly #rpc: AmqpRpcClient;
  readonly #interceptors: PublishInterceptors | null;
  readonly #topologies: TopologyRegistry;
  readonly #options: ResolvedModuleOptions;
  readonly #registry: ConsumerRegistry;

  /** @internal */
  constructor(
    @Inject(CONNECTION_NAME) name: string,
    @Inject(CONNECTION) connection: AmqpConnection,
    @Inject(PUBLISHING_CONNECTION) publishing: ClientConnection,
    @Inject(RESOLVED_OPTIONS) options: ResolvedModuleOptions,
    @Inject(PUBLISHER_CHANNEL) channel: AmqpChannel,
    @Inject(RPC_CLIENT) rpc: AmqpRpcClient,
    @Inject(INTERCEPTORS) interceptors: PublishInterceptors | null,
    @Inject(REPLIER) replier: Replier,
    @Inject(TOPOLOGY) topology: ConnectionTopology,
    connections: ConnectionRegistry,
    topologies: TopologyRegistry,
    registry: ConsumerRegistry,
  ) {
    super();
    this.#connection = connection;
    this.#publishing = publishing;
    this.#rpc = rpc;
    this.#interceptors = interceptors;
    this.#topologies = topologies;
    this.#options = options;
    this.#registry = registry;
    connections.add(name, { connection, publishing, options, channel, replier, topology });
    logConnections(name, connection, publishing, options);
  }

  /**
   * A connection with these options, or with the defaults. Throws `INVALID_OPTION` for a name that is none; what else is wrong with
   * the options fails the boot.
   */
  static override forRoot(options: AmqpModuleOptions & Partial<AmqpModuleExtras> = {}): DynamicModule {
    // Past the compiler, as from a configuration file.
    if (typeof (options as unknown) !== 'object' || (options as unknown) === null) {
      throw new AmqpError('INVALID_OPTION', `AmqpModule.forRoot has to be given an object of options${itIs(options)}`);
    }
    checkName(options.name);
    return super.forRoot(options);
  }

  /**
   * `forRoot` with options that are made when the application starts, by one of `useFactory` (with `inject`), `useClass` and
   * `useExisting`. `name` and `isGlobal` stand beside them. Throws `INVALID_OPTION`.
   *
   * @example
   * ```ts
   * AmqpModule.forRootAsync({ inject: [ConfigService], useFactory: (config: ConfigService) => ({ url: config.get('AMQP_URL') }) })
   * ```
   */
  static override forRootAsync(options: AmqpModuleAsyncOptions): DynamicModule {
    checkAsyncOptions(options);
    return watched(super.forRootAsync(options), MODULE_OPTIONS_TOKEN, options);
  }

  /**
   * A part of the topology of a connection, to be imported by the module that it belongs to; in any order with `forRoot`. What
   * several places declare alike counts once; declared in two ways it fails the boot. Throws `INVALID_OPTION`,
   * `INVALID_DEFINITION`.
   *
   * @example
   * ```ts
   * @Module({ imports: [AmqpModule.forFeature({ queues: [{ name: 'billing', type: 'quorum' }] })] })
   * class BillingModule {}
   * ```
   */
  static forFeature(options: AmqpFeatureOptions): DynamicModule {
    checkFeature(options);
    return {
      module: AmqpFeatureModule,
      imports: [AmqpConsumersModule],
      providers: [{ provide: FEATURE, useValue: options }],
    };
  }

  /** Before every other module's, so that they find the broker set up. */
  async onModuleInit(): Promise<void> {
    await this.#registry.orCloseAll(async () => {
      this.#topologies.gather();
      // Those that cannot be made fail the boot, not the first publish.
      await this.#interceptors?.();
      if (this.#options.startup === 'background') this.#connection.openInBackground();
      else await this.#connection.open({ timeout: this.#options.startupTimeout });
    });
  }

  /** After every other module's hooks: they may still publish. What is published is confirmed before the rest goes. */
  async onApplicationShutdown(): Promise<void> {
    await this.#rpc.close();
    await this.#publishing.close();
    await this.#connection.close();
  }
}
