/** The Nest module: provides a connection's injectables, opens it when the application starts, closes it when it ends. */
import {
  ConfigurableModuleBuilder,
  Inject,
  Logger,
  Module,
  type OnApplicationShutdown,
  type OnModuleInit,
  type Provider,
} from '@nestjs/common';
import { DiscoveryModule, ModulesContainer } from '@nestjs/core';
import { BROKER_OVERRIDE, type BrokerOverride } from '../broker-override.js';
import { AmqpChannel } from '../client/amqp-channel.js';
import { AmqpConnection } from '../client/amqp-connection.js';
import { isEmbedded } from '../client/embedded.js';
import { AmqpPublisher } from '../messaging/publisher.js';
import { applyTopology } from '../messaging/topology.js';
import { checkConsumerDefaults } from './amqp.decorators.js';
import { AmqpExplorer } from './amqp.explorer.js';
import {
  type AmqpModuleExtras,
  type AmqpModuleOptions,
  type ResolvedModuleOptions,
  resolveModuleOptions,
} from './amqp.options.js';
import { DEFAULT_CONNECTION, getChannelToken, getConnectionToken, getPublisherToken } from './amqp.tokens.js';
import { ConsumerRegistry } from './consumer-registry.js';

/** Tokens inside one `AmqpModule`; what is exported has the public ones. */
const RESOLVED_OPTIONS = Symbol('nest-amqp:options');
const CONNECTION_NAME = Symbol('nest-amqp:connection name');
const CONNECTION = Symbol('nest-amqp:connection');
const PUBLISHER_CHANNEL = Symbol('nest-amqp:publisher channel');

/**
 * Holds the consumers of all connections of an application. Its place among the modules is what matters: hooks run from the
 * farthest module to the nearest on the way up and back on the way down, so that nearer than the root module means started
 * last and stopped first. The connections are the other way round: farther than all global modules, which may publish too.
 */
@Module({ imports: [DiscoveryModule], providers: [AmqpExplorer, ConsumerRegistry], exports: [ConsumerRegistry] })
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
      exports: [getConnectionToken(name), getChannelToken(name), getPublisherToken(name), AmqpConsumersModule],
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
      useFactory: ({ url, connection: options, topology }: ResolvedModuleOptions): AmqpConnection => {
        const connection = new AmqpConnection(url, options);
        connection.onSetup((opened) => applyTopology(opened, topology));
        return connection;
      },
    },
    { provide: getConnectionToken(name), useExisting: CONNECTION },
    {
      provide: getChannelToken(name),
      inject: [CONNECTION],
      useFactory: (connection: AmqpConnection): AmqpChannel => new AmqpChannel(connection),
    },
    // A channel of its own: what a user's channel suffers does not touch publishes under way.
    {
      provide: PUBLISHER_CHANNEL,
      inject: [CONNECTION, RESOLVED_OPTIONS],
      useFactory: (connection: AmqpConnection, { publisher }: ResolvedModuleOptions): AmqpChannel =>
        new AmqpChannel(connection, publisher),
    },
    {
      provide: getPublisherToken(name),
      inject: [PUBLISHER_CHANNEL, RESOLVED_OPTIONS],
      useFactory: (channel: AmqpChannel, { publisher, serializers }: ResolvedModuleOptions): AmqpPublisher =>
        new AmqpPublisher(channel, publisher, serializers),
    },
  ];
}

/**
 * AMQP for a Nest application.
 *
 * `forRoot(options)` and `forRootAsync({ name, imports, inject, useFactory | useClass | useExisting })` make
 * `AmqpConnection`, `AmqpChannel` and `AmqpPublisher` injectable, declare the topology and start every `@Consume`. A second
 * broker is a second `forRoot({ name: 'audit', … })`.
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
  readonly #options: ResolvedModuleOptions;
  readonly #registry: ConsumerRegistry;
  readonly #logger = new Logger('AmqpModule');

  /** @internal */
  constructor(
    @Inject(CONNECTION_NAME) name: string,
    @Inject(CONNECTION) connection: AmqpConnection,
    @Inject(RESOLVED_OPTIONS) options: ResolvedModuleOptions,
    @Inject(PUBLISHER_CHANNEL) channel: AmqpChannel,
    registry: ConsumerRegistry,
  ) {
    super();
    this.#connection = connection;
    this.#options = options;
    this.#registry = registry;
    registry.addConnection(name, { connection, options, channel });
    this.#logEmbedded();
    this.#logStatus(name);
  }

  /** Before every other module's, so that they find the broker set up. */
  async onModuleInit(): Promise<void> {
    if (this.#options.startup === 'background') this.#connection.openInBackground();
    else await this.#registry.orCloseAll(() => this.#connection.open({ timeout: this.#options.startupTimeout }));
  }

  /** After every other module's hooks: they may still publish. */
  async onApplicationShutdown(): Promise<void> {
    await this.#connection.close();
  }

  /** Nobody shall take it for RabbitMQ. */
  #logEmbedded(): void {
    const { url } = this.#options;
    const embedded = (typeof url === 'string' ? [url] : Array.isArray(url) ? (url as string[]) : []).find(isEmbedded);
    if (embedded === undefined) return;
    const text =
      `${embedded} is a broker inside this process, for development and tests: its queues and messages end with it. ` +
      'To use RabbitMQ, name it in the url of the module (often the variable AMQP_URL): amqp://user:password@host';
    if (process.env['NODE_ENV'] === 'production') this.#logger.warn(text);
    else this.#logger.log(text);
  }

  #logStatus(name: string): void {
    // What ends a required start is thrown from onModuleInit.
    let isStarted = this.#options.startup === 'background';
    this.#connection.on('status', (status) => {
      switch (status.state) {
        case 'open':
          isStarted = true;
          this.#logger.log(`Connection '${name}' is open`);
          return;
        case 'connecting':
          if (status.lastError !== undefined)
            this.#logger.warn(`Connection '${name}' is down. ${status.lastError.message}`);
          return;
        case 'closed':
          if (isStarted && status.error.closedBy !== 'client')
            this.#logger.error(
              `Connection '${name}' is closed for good: restart the application. ${status.error.message}`,
            );
          return;
        case 'idle':
          return;
        default:
          status satisfies never;
      }
    });
  }
}
