/** What a user says to `AmqpModule`, checked and completed once. */
import type { Type } from '@nestjs/common';
import { type AmqpConnectionOptions, DEFAULT_URL } from '../client/amqp-connection.js';
import type { BrokerUrls } from '../client/hosts.js';
import { type SaidElsewhere, itIs, kindOf, namesOf, refuseUnknown } from '../client/option-names.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';
import { AmqpError, quoted } from '../errors.js';
import type { RepublishOptions } from '../client/republish-options.js';
import type { PublishInterceptor } from '../messaging/publish-interceptor.js';
import type { PublisherOptions } from '../messaging/publish-options.js';
import type { RpcOptions } from '../messaging/rpc-client.js';
import { type Serializer, Serializers } from '../messaging/serializer.js';
import { type CheckLevels, checkLevels } from '../messaging/topology-checks.js';
import { checkTopology } from '../messaging/definition-checks.js';
import type { Topology } from '../messaging/definitions.js';
import type { ConsumerDefaults } from './consume-options.js';

/** Options of everything that a module publishes. */
export interface AmqpModulePublisherOptions extends PublisherOptions, RepublishOptions {
  /**
   * What is asked before each publish, in this order: classes, of which the application's own instance is taken where a module
   * provides one, or instances.
   */
  readonly interceptors?: readonly (Type<PublishInterceptor> | PublishInterceptor)[] | undefined;
}

/** Options of `AmqpModule.forRoot`. */
export interface AmqpModuleOptions {
  /**
   * The broker, several to try in turn, or a function that names them: amqp, amqps, or `embedded:NAME` for a broker inside
   * this process, for development and tests. @default 'amqp://guest:guest@localhost:5672'
   */
  readonly url?: BrokerUrls | undefined;
  /** Heartbeat, TLS, credentials, timeouts, waits between reconnects, the order of several brokers. */
  readonly connection?: AmqpConnectionOptions | undefined;
  /**
   * `'require'`: the boot fails when there is no broker. `'background'`: the application boots without one, and connects,
   * declares and consumes when it comes. @default 'require'
   */
  readonly startup?: 'require' | 'background' | undefined;
  /** With `'require'`: how long to try to connect, and then to start the consumers. @default '10s' */
  readonly startupTimeout?: Duration | undefined;
  /** Exchanges, queues and bindings to declare, in this order, on every connection. */
  readonly topology?: Topology | undefined;
  /**
   * `'check'`: nothing is declared that others could use; the boot fails over exchanges and queues that are not there, and bindings
   * cannot be checked. For applications whose topology somebody else declares. @default 'declare'
   */
  readonly topologyMode?: 'declare' | 'check' | undefined;
  /**
   * What becomes of an exchange or queue that the broker has with other properties: `'fail'` fails the boot, `'warn'` logs it and
   * uses what is there. @default 'fail'
   */
  readonly onTopologyConflict?: 'fail' | 'warn' | undefined;
  /**
   * What becomes of declarations that are known to go wrong, by the codes of the checks: `'error'` fails the boot before anything is
   * declared, `'warn'` logs it, `'off'` does not look. @default by check and version of the broker, see docs/topology.md
   */
  readonly topologyChecks?: CheckLevels | undefined;
  /** Defaults for every `@Consume`; `false` starts none, for a process that only publishes. */
  readonly consumers?: ConsumerDefaults | false | undefined;
  /** Defaults for every publish, and what may wait while there is no connection. */
  readonly publisher?: AmqpModulePublisherOptions | undefined;
  /** Defaults for every request of `AmqpRpcClient`. */
  readonly rpc?: RpcOptions | undefined;
  /** How payloads of content types other than JSON, text and bytes are written and read; or JSON in another way. */
  readonly serializers?: readonly Serializer[] | undefined;
  /** How long running handlers may take to finish when the application shuts down. @default '10s' */
  readonly shutdownTimeout?: Duration | undefined;
}

/** What the class of `forRootAsync({ useClass })` or `({ useExisting })` implements. */
export interface AmqpOptionsFactory {
  /** Is called once, when the application starts. */
  createAmqpOptions(): AmqpModuleOptions | Promise<AmqpModuleOptions>;
}

/** Names a connection beside the default one, and says where its injectables are seen. Static, because the tokens need them. */
export interface AmqpModuleExtras {
  /** Of the connection, for `connection` of `@Consume` and for `@InjectConnection(name)` and its like. @default 'default' */
  readonly name?: string | undefined;
  /** Injectable everywhere, without importing the module again. @default true */
  readonly isGlobal?: boolean | undefined;
}

/** `AmqpModuleOptions` with nothing missing; durations in milliseconds. */
export interface ResolvedModuleOptions {
  readonly url: BrokerUrls;
  readonly connection: AmqpConnectionOptions;
  readonly startup: 'require' | 'background';
  readonly startupTimeout: number;
  readonly topology: Topology;
  readonly topologyMode: 'declare' | 'check';
  readonly onTopologyConflict: 'fail' | 'warn';
  readonly topologyChecks: CheckLevels;
  readonly consumers: ConsumerDefaults | false;
  readonly publisher: AmqpModulePublisherOptions;
  readonly rpc: RpcOptions;
  readonly serializers: Serializers;
  readonly shutdownTimeout: number;
}

const KNOWN = namesOf<AmqpModuleOptions>({
  url: true,
  connection: true,
  startup: true,
  startupTimeout: true,
  topology: true,
  topologyMode: true,
  onTopologyConflict: true,
  topologyChecks: true,
  consumers: true,
  publisher: true,
  rpc: true,
  serializers: true,
  shutdownTimeout: true,
});

const TOPOLOGY = 'Say topology: { exchanges, queues, bindings }.';
const CONSUMERS = 'Say consumers: { prefetch, concurrency, retry, deadLetter, … }.';
const CONNECTION = 'Say connection: { heartbeat, tls, connectionName, recovery, … }.';
const FAILURES = 'What becomes of deliveries whose handlers throw say consumers: { retry, deadLetter }.';
const FACTORY = 'Options of a handler that come from configuration are made by @Consume({ inject, useFactory }).';

/** What the module is told by those who come from other libraries. */
const ELSEWHERE: SaidElsewhere = {
  uri: 'Say url.',
  urls: 'Say url, which may be a list.',
  exchanges: TOPOLOGY,
  queues: TOPOLOGY,
  bindings: TOPOLOGY,
  exchangeBindings: 'Say topology: { bindings: [{ source, exchange, routingKey }] }.',
  prefetch: CONSUMERS,
  prefetchCount: CONSUMERS,
  concurrency: CONSUMERS,
  retry: CONSUMERS,
  deadLetter: CONSUMERS,
  channels: 'Every consumer has a channel of its own: say prefetch of @Consume, or consumers: { prefetch }.',
  connectionInitOptions: "Say startup, 'require' or 'background', and startupTimeout.",
  connectionManagerOptions: CONNECTION,
  heartbeat: CONNECTION,
  tls: CONNECTION,
  connectionName: CONNECTION,
  defaultRpcTimeout: 'Say rpc: { timeout }.',
  defaultPublishOptions: 'Say publisher: { persistent, mandatory, … }.',
  defaultSubscribeErrorBehavior: FAILURES,
  defaultRpcErrorBehavior: FAILURES,
  defaultRpcErrorHandler: FAILURES,
  enableControllerDiscovery: 'Methods of controllers are consumers too: leave it out.',
  registerHandlers: 'Say consumers: false to start none.',
  handlers: FACTORY,
  defaultHandler: FACTORY,
  enableDirectReplyTo: 'The first request asks for it: leave it out.',
  serializer: 'Say serializers: [ … ].',
  deserializer: 'Say serializers: [ … ].',
  logger: "It is told to Nest's Logger: say app.useLogger(logger).",
};

/** Known to `forRoot` and `forRootAsync`, which keep them out of the options. */
const EXTRAS = namesOf<AmqpModuleExtras>({ name: true, isGlobal: true });

const PUBLISHER_OPTIONS = namesOf<AmqpModulePublisherOptions>({
  persistent: true,
  mandatory: true,
  timeout: true,
  appId: true,
  contentType: true,
  carry: true,
  interceptors: true,
  republish: true,
  maxBuffered: true,
  maxBufferedBytes: true,
  onOverflow: true,
  maxInFlight: true,
  maxInFlightBytes: true,
  maxAge: true,
});

/** Throws `INVALID_OPTION` or `INVALID_DEFINITION`. */
export function resolveModuleOptions(options: AmqpModuleOptions): ResolvedModuleOptions {
  // What a factory returns, or an options class, is past the compiler.
  if (typeof (options as unknown) !== 'object' || (options as unknown) === null) {
    throw new AmqpError(
      'INVALID_OPTION',
      `The options of AmqpModule have to be an object, {} for the defaults; they are ${kindOf(options)}.`,
    );
  }
  const beside = EXTRAS.find((name) => name in options);
  if (beside !== undefined) {
    throw new AmqpError(
      'INVALID_OPTION',
      `${beside} of AmqpModule stands beside the factory of its options, not in them: forRootAsync({ ${beside}: …, useFactory: … }).`,
    );
  }
  refuseUnknown(options, KNOWN, 'AmqpModule has no option', { beside: EXTRAS, elsewhere: ELSEWHERE });
  const { connection = {}, consumers = {}, publisher = {}, rpc = {} } = options;
  requireObject('connection', connection);
  if (consumers !== false) requireObject('consumers', consumers, ', or false to start none');
  requireObject('publisher', publisher);
  requireObject('rpc', rpc);
  refuseUnknown(publisher, PUBLISHER_OPTIONS, 'The option publisher of AmqpModule has no field');
  refuseUnknown(rpc, ['timeout', 'maxPending'], 'The option rpc of AmqpModule has no field');
  for (const [option, { timeout }] of Object.entries({ publisher, rpc })) {
    if (timeout !== undefined) timerMilliseconds(timeout, `timeout of the option ${option} of AmqpModule`);
  }
  const { startup = 'require', topology = {}, topologyMode = 'declare', onTopologyConflict = 'fail' } = options;
  requireOneOf('startup', startup, ['require', 'background']);
  requireOneOf('topologyMode', topologyMode, ['declare', 'check']);
  requireOneOf('onTopologyConflict', onTopologyConflict, ['fail', 'warn']);
  checkTopology(topology);
  const { topologyChecks = {} } = options;
  checkLevels(topologyChecks);
  return {
    url: options.url ?? DEFAULT_URL,
    connection,
    startup,
    startupTimeout: timerMilliseconds(options.startupTimeout ?? '10s', 'startupTimeout'),
    topology,
    topologyMode,
    onTopologyConflict,
    topologyChecks,
    consumers,
    publisher,
    rpc,
    serializers: new Serializers(options.serializers),
    shutdownTimeout: timerMilliseconds(options.shutdownTimeout ?? '10s', 'shutdownTimeout'),
  };
}

/** Checks the name of a connection, which may come from a configuration file too. Throws `INVALID_OPTION`. */
export function checkName(name: unknown): void {
  if (name === undefined || (typeof name === 'string' && name !== '')) return;
  throw new AmqpError('INVALID_OPTION', `name of AmqpModule has to be a text, such as 'audit'${itIs(name)}`);
}

function requireObject(option: string, value: unknown, more = ''): void {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return;
  throw new AmqpError('INVALID_OPTION', `${option} of AmqpModule has to be an object of options${more}${itIs(value)}`);
}

/** Options often come from configuration files, past the compiler. */
function requireOneOf(option: string, value: string, values: readonly string[]): void {
  if (values.includes(value)) return;
  throw new AmqpError(
    'INVALID_OPTION',
    `${option} of AmqpModule has to be ${values.map(quoted).join(' or ')}${itIs(value)}`,
  );
}
