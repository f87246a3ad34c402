/** What the compiler takes for options that come from a configuration, under `exactOptionalPropertyTypes` as this project has it. */
import { expect, test } from '@jest/globals';
import type {
  AmqpFeatureOptions,
  AmqpModuleOptions,
  BindingDefinition,
  ConsumeOptionsWithQueue,
  Duration,
  ExchangeDefinition,
  QueueDefinition,
} from 'nest-amqp';

/** As `ConfigService` of @nestjs/config is typed. */
interface Config {
  // eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- so it is
  get<T>(key: string): T | undefined;
  get<T>(key: string, otherwise: NoInfer<T>): T;
}

/** Everything of `T` that may be left out may be undefined as well. */
type LackingUndefined<T> = {
  [Name in keyof T]-?: object extends Pick<T, Name> ? (undefined extends Required<T>[Name] ? never : Name) : never;
}[keyof T];

/** `never` alone is never. */
type IsNone<T> = [T] extends [never] ? true : false;

test('a length of time from a configuration is one when it is said to be', () => {
  const options = (config: Config): AmqpModuleOptions => ({
    shutdownTimeout: config.get<Duration>('SHUTDOWN_TIMEOUT', '10s'),
    publisher: { timeout: config.get<Duration>('PUBLISH_TIMEOUT', '30s') },
    // @ts-expect-error -- any text is none
    startupTimeout: config.get<string>('STARTUP_TIMEOUT', '10s'),
  });
  expect(options).toBeDefined();
});

test('what a configuration may lack is an option that is left out', () => {
  const options = (config: Config): AmqpModuleOptions => ({
    url: config.get<string>('AMQP_URL'),
    startup: config.get<'require' | 'background'>('STARTUP'),
    startupTimeout: config.get<Duration>('STARTUP_TIMEOUT'),
    consumers: { prefetch: config.get<number>('PREFETCH'), retry: { attempts: config.get<number>('ATTEMPTS') } },
    rpc: { timeout: config.get<Duration>('RPC_TIMEOUT') },
    topology: { queues: [{ name: 'billing', messageTtl: config.get<Duration>('TTL') }] },
  });
  expect(options).toBeDefined();
});

test('no option that may be left out refuses undefined, but the name of a queue', () => {
  const claims: [
    IsNone<LackingUndefined<AmqpModuleOptions>>,
    IsNone<LackingUndefined<NonNullable<AmqpModuleOptions['connection']>>>,
    IsNone<LackingUndefined<NonNullable<AmqpModuleOptions['publisher']>>>,
    IsNone<LackingUndefined<NonNullable<AmqpModuleOptions['rpc']>>>,
    IsNone<LackingUndefined<AmqpFeatureOptions>>,
    IsNone<LackingUndefined<ExchangeDefinition>>,
    IsNone<LackingUndefined<Omit<QueueDefinition, 'name'>>>,
    IsNone<LackingUndefined<Pick<BindingDefinition, 'routingKey' | 'arguments'>>>,
    IsNone<LackingUndefined<Omit<ConsumeOptionsWithQueue, 'orderBy'>>>,
    IsNone<LackingUndefined<NonNullable<ConsumeOptionsWithQueue['retry']>>>,
    IsNone<LackingUndefined<NonNullable<ConsumeOptionsWithQueue['batch']>>>,
    // Undefined would be a queue without a name, exclusive and deleted with its consumer.
    LackingUndefined<Pick<QueueDefinition, 'name'>>,
  ] = [true, true, true, true, true, true, true, true, true, true, true, 'name'];
  expect(claims).not.toContain(false);
});
