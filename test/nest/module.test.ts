/** AmqpModule: its forms, what it makes injectable, several connections, and the options that it refuses. */
import { Injectable, Module, type ModuleMetadata } from '@nestjs/common';
import { describe, expect, test } from '@jest/globals';
import {
  AmqpChannel,
  AmqpConnection,
  AmqpError,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  Consume,
  ConsumerRegistry,
  InjectChannel,
  InjectConnection,
  InjectPublisher,
  getChannelToken,
  getConnectionToken,
  getPublisherToken,
} from 'nest-amqp';

import { EmbeddedBroker } from '../../lib/testing.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, thrown } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox } from '../support/waits.js';

/** How the boot of such an application fails. */
async function bootFailure(metadata: ModuleMetadata): Promise<AmqpError> {
  return await failure(
    TestApp.boot(metadata).then(async (app) => {
      await app.close();
    }),
  );
}

@Injectable()
class Shop {
  constructor(
    readonly connection: AmqpConnection,
    readonly channel: AmqpChannel,
    readonly publisher: AmqpPublisher,
  ) {}
}

@Injectable()
class SettingsService {
  readonly url = brokerUrl;

  createAmqpOptions(): AmqpModuleOptions {
    return { url: this.url };
  }
}

@Module({ providers: [SettingsService], exports: [SettingsService] })
class SettingsModule {}

/** An application works when what it injects can publish. */
async function publishes(imports: NonNullable<ModuleMetadata['imports']>): Promise<void> {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  await using app = await TestApp.boot({ imports, providers: [Shop] });
  const shop = app.get(Shop);
  expect(shop.connection.status.state).toBe('open');
  await shop.publisher.sendToQueue(queue, 1);
  await shop.channel.queueDeclare(queue, { passive: true });
  expect(await scratch.state(queue)).toMatchObject({ messageCount: 1 });
}

describe('the module is configured', () => {
  test('with forRoot', async () => {
    await publishes([AmqpModule.forRoot({ url: brokerUrl })]);
  });

  test('with a list of brokers, of which one that is down does no harm', async () => {
    const url = ['amqp://127.0.0.1:1', brokerUrl];
    await publishes([AmqpModule.forRoot({ url, connection: { shuffleHosts: false } })]);
  });

  test('with a function that names the brokers', async () => {
    await publishes([AmqpModule.forRoot({ url: () => Promise.resolve([brokerUrl]) })]);
  });

  test('with a function that names an embedded broker, which is announced as one that is listed is', async () => {
    const url = (): string => 'embedded:test.module';
    await using app = await TestApp.boot({
      imports: [AmqpModule.forRoot({ url }), AmqpModule.forRoot({ name: 'listed', url: [url()] })],
    });
    const announced = app.log.text('log').match(/.*for development and tests: its queues and messages end/g);
    expect(announced).toHaveLength(2);
  });

  test('with a factory that injects', async () => {
    await publishes([
      AmqpModule.forRootAsync({
        imports: [SettingsModule],
        inject: [SettingsService],
        useFactory: ({ url }: SettingsService) => ({ url }),
      }),
    ]);
  });

  test('with a factory that takes its time', async () => {
    await publishes([AmqpModule.forRootAsync({ useFactory: () => Promise.resolve({ url: brokerUrl }) })]);
  });

  test('with a class', async () => {
    await publishes([AmqpModule.forRootAsync({ useClass: SettingsService })]);
  });

  test('with an existing provider', async () => {
    await publishes([AmqpModule.forRootAsync({ imports: [SettingsModule], useExisting: SettingsService })]);
  });

  test('with the name beside the factory, not in it', async () => {
    await using app = await TestApp.boot({
      imports: [AmqpModule.forRootAsync({ name: 'audit', useFactory: () => ({ url: brokerUrl }) })],
    });
    expect(app.get(getConnectionToken('audit') as string)).toBeInstanceOf(AmqpConnection);
    expect(() => app.get(AmqpConnection)).toThrow();
  });
});

describe('injectables', () => {
  test('of a feature module need no import of their own', async () => {
    @Module({ providers: [Shop], exports: [Shop] })
    class FeatureModule {}
    await publishes([AmqpModule.forRoot({ url: brokerUrl }), FeatureModule]);
  });

  test('with isGlobal false are seen only where the module is imported', async () => {
    @Module({ providers: [Shop] })
    class FeatureModule {}
    const amqp = AmqpModule.forRoot({ url: brokerUrl, isGlobal: false });
    await expect(TestApp.compile({ imports: [amqp, FeatureModule] })).rejects.toThrow(/AmqpConnection/);

    @Module({ imports: [amqp], providers: [Shop] })
    class ImportingModule {}
    await using app = await TestApp.boot({ imports: [ImportingModule] });
    expect(app.get(Shop).connection.status.state).toBe('open');
  });

  test('of a second connection are found by its name, in constructors and in the container', async () => {
    @Injectable()
    class Both {
      @InjectConnection() readonly byProperty!: AmqpConnection;

      constructor(
        readonly connection: AmqpConnection,
        @InjectConnection('audit') readonly auditConnection: AmqpConnection,
        @InjectChannel('audit') readonly auditChannel: AmqpChannel,
        @InjectPublisher('audit') readonly auditPublisher: AmqpPublisher,
        @InjectPublisher('default') readonly publisher: AmqpPublisher,
      ) {}
    }
    await using app = await TestApp.boot({
      imports: [AmqpModule.forRoot({ url: brokerUrl }), AmqpModule.forRoot({ name: 'audit', url: brokerUrl })],
      providers: [Both],
    });
    const both = app.get(Both);
    expect(both.auditConnection).not.toBe(both.connection);
    expect(both.byProperty).toBe(both.connection);
    expect(both.auditConnection).toBe(app.get(getConnectionToken('audit') as string));
    expect(both.auditChannel).toBe(app.get(getChannelToken('audit') as string));
    expect(both.auditPublisher).toBe(app.get(getPublisherToken('audit') as string));
    expect(both.publisher).toBe(app.get(AmqpPublisher));
    expect([both.connection.status.state, both.auditConnection.status.state]).toEqual(['open', 'open']);
  });

  test('are one per name however often they are injected', async () => {
    await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Shop] });
    const shop = app.get(Shop);
    expect(shop.connection).toBe(app.get(AmqpConnection));
    expect(shop.channel).toBe(app.get(AmqpChannel));
    expect(shop.publisher).toBe(app.get(AmqpPublisher));
  });
});

describe('two connections', () => {
  test('each have their own handlers, and no handler runs on both', async () => {
    await using scratch = await Scratch.open();
    const [billing, audit] = [await scratch.queue(), await scratch.queue()];
    const [line, auditLine] = [new CuttableLine(), new CuttableLine()];
    const got = new Inbox<string>();

    class Handlers {
      @Consume(billing)
      bill(payload: string): void {
        got.push(`bill ${payload}`);
      }

      @Consume(audit, { connection: 'audit' })
      audit(payload: string): void {
        got.push(`audit ${payload}`);
      }
    }
    await using app = await TestApp.boot({
      imports: [
        AmqpModule.forRoot({ url: brokerUrl, connection: { dial: line.dial } }),
        AmqpModule.forRoot({ name: 'audit', url: brokerUrl, connection: { dial: auditLine.dial } }),
      ],
      providers: [Handlers],
    });
    expect(await scratch.state(billing)).toMatchObject({ consumerCount: 1 });
    expect(await scratch.state(audit)).toMatchObject({ consumerCount: 1 });
    await scratch.sendJson(billing, 1);
    expect(await got.next()).toBe('bill 1');
    await scratch.sendJson(audit, 2);
    expect(await got.next()).toBe('audit 2');

    // Whose line is cut tells on which one a consumer is.
    const changes = new Inbox<string>();
    app.get(ConsumerRegistry).on('status', ({ name }, { state }) => {
      changes.push(`${name} ${state}`);
    });
    auditLine.cut();
    await changes.next('the consumer that comes back', (change) => change.endsWith('running'));
    expect(changes.all.every((change) => change.startsWith('Handlers.audit '))).toBe(true);
  });

  test('may have topologies and defaults of their own', async () => {
    await using broker = await EmbeddedBroker.listen();
    await using scratch = await Scratch.open();
    const [first, second] = [scratch.queueName(), scratch.queueName()];
    class Handlers {
      @Consume(first)
      bill(): void {
        // takes them
      }

      @Consume(second, { connection: 'audit' })
      audit(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({
      imports: [
        AmqpModule.forRoot({
          url: brokerUrl,
          topology: { queues: [{ name: first, maxLength: 5 }] },
          consumers: { prefetch: 3 },
        }),
        AmqpModule.forRoot({
          name: 'audit',
          url: broker.url,
          topology: { queues: [{ name: second, maxLength: 7 }] },
          consumers: { prefetch: 4 },
        }),
      ],
      providers: [Handlers],
    });
    expect(await scratch.state(second)).toBeUndefined();
    // The broker compares.
    await scratch.declared(first, { arguments: { 'x-max-length': 5 } });
    expect(broker.queues).toMatchObject([{ name: second, arguments: { 'x-max-length': 7 } }]);
    const registry = app.get(ConsumerRegistry);
    expect(registry.get('Handlers.bill').prefetch).toBe(3);
    expect(registry.get('Handlers.audit').prefetch).toBe(4);
  });

  test('of the same name fail the boot', async () => {
    for (const name of ['default', 'audit']) {
      const error = await bootFailure({
        imports: [AmqpModule.forRoot({ name, url: brokerUrl }), AmqpModule.forRoot({ name, url: brokerUrl })],
      });
      expect(error.code).toBe('INVALID_DEFINITION');
      expect(error.message).toContain(`'${name}'`);
    }
  });

  test('of which a handler names a third one fail the boot, naming the handler and the connections there are', async () => {
    class Lost {
      @Consume('billing', { connection: 'elsewhere' })
      handle(): void {
        // never runs
      }
    }
    const error = await bootFailure({
      imports: [AmqpModule.forRoot({ url: brokerUrl }), AmqpModule.forRoot({ name: 'audit', url: brokerUrl })],
      providers: [Lost],
    });
    expect(error.code).toBe('INVALID_DEFINITION');
    for (const part of ['Lost.handle', "'elsewhere'", "'default'", "'audit'"]) expect(error.message).toContain(part);
  });
});

describe('two applications in one process', () => {
  test('do not know of each other: each has its handlers, and closing one leaves the other running', async () => {
    await using scratch = await Scratch.open();
    const queues = [await scratch.queue(), await scratch.queue()] as const;
    const got = new Inbox<string>();
    const applicationOf = async (queue: string): Promise<TestApp> => {
      class Handler {
        @Consume(queue)
        handle(payload: string): void {
          got.push(payload);
        }
      }
      return await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Handler] });
    };
    await using first = await applicationOf(queues[0]);
    await using second = await applicationOf(queues[1]);
    expect(first.get(AmqpConnection)).not.toBe(second.get(AmqpConnection));
    expect(await scratch.state(queues[0])).toMatchObject({ consumerCount: 1 });
    expect(await scratch.state(queues[1])).toMatchObject({ consumerCount: 1 });

    await first.close();
    expect(await scratch.state(queues[0])).toMatchObject({ consumerCount: 0 });
    await scratch.sendJson(queues[1], 'still here');
    expect(await got.next()).toBe('still here');
    expect(second.get(AmqpConnection).status.state).toBe('open');
  });
});

describe('options that cannot be are refused', () => {
  const NO_TIMES: readonly (readonly [options: object, name: string])[] = [
    [{ shutdownTimeout: 'soon' }, 'shutdownTimeout'],
    [{ startupTimeout: '' }, 'startupTimeout'],
    [{ publisher: { timeout: 'soon' } }, 'timeout of the option publisher of AmqpModule'],
    [{ publisher: { maxAge: 'soon' } }, 'maxAge'],
    [{ connection: { heartbeat: 'soon' } }, 'heartbeat'],
    [{ consumers: { timeout: 'soon' } }, 'timeout of the option consumers of AmqpModule'],
    [{ consumers: { retry: { delays: ['soon'] } } }, 'retry.delays of the option consumers of AmqpModule'],
  ];

  test.each<[what: string, options: object, code: string, told: string]>([
    ['an unknown option', { prefech: 5 }, 'INVALID_OPTION', 'AmqpModule has no option prefech. Known are url, '],
    ['a name of another library', { uri: 'amqp://a' }, 'INVALID_OPTION', 'AmqpModule has no option uri. Say url.'],
    [
      'topology beside it',
      { exchanges: [] },
      'INVALID_OPTION',
      'exchanges. Say topology: { exchanges, queues, bindings }.',
    ],
    [
      'a login beside it',
      { connection: { username: 'a' } },
      'INVALID_OPTION',
      'Say credentials: { username, password }.',
    ],
    [
      'an unknown field of publisher',
      { publisher: { confirm: true } },
      'INVALID_OPTION',
      'publisher of AmqpModule has no field confirm',
    ],
    [
      'an unknown field of consumers',
      { consumers: { parallelism: 1 } as never },
      'INVALID_OPTION',
      'consumers of AmqpModule has no field parallelism',
    ],
    ['an unknown connection option', { connection: { hartbeat: 1 } }, 'INVALID_OPTION', 'hartbeat'],
    ['a misspelt order of hosts', { connection: { shufleHosts: false } }, 'INVALID_OPTION', 'shufleHosts'],
    ['a prefetch of 0', { consumers: { prefetch: 0 } }, 'INVALID_OPTION', 'prefetch'],
    ['a prefetch of 65536', { consumers: { prefetch: 65_536 } }, 'INVALID_OPTION', 'prefetch'],
    ['a prefetch that is text', { consumers: { prefetch: '5' } }, 'INVALID_OPTION', "from 1 to 65535; it is '5'."],
    [
      'another way to start',
      { startup: 'lazy' },
      'INVALID_OPTION',
      "startup of AmqpModule has to be 'require' or 'background'; it is 'lazy'.",
    ],
    [
      'a URL in the place of a word',
      { startup: 'amqp://user:secret@broker' },
      'INVALID_OPTION',
      "'background'; it is a URL.",
    ],
    [
      'a number where text is',
      { connection: { hostname: 5 } },
      'INVALID_OPTION',
      'hostname has to be a string that is not empty; it is 5.',
    ],
    [
      'a switch in the place of consumers',
      { consumers: true as never },
      'INVALID_OPTION',
      'consumers of AmqpModule has to be an object of options, or false to start none; it is true.',
    ],
    ['a list in the place of rpc', { rpc: [] as never }, 'INVALID_OPTION', 'rpc of AmqpModule has to be an object'],
    [
      'a timeout of requests that is none',
      { rpc: { timeout: 'soon' as never } },
      'INVALID_OPTION',
      'timeout of the option rpc of AmqpModule is soon, which is not a length of time',
    ],
    ...NO_TIMES.map(([options, name]): [string, object, string, string] => [
      `a time of a configuration that is none: ${name}`,
      options,
      'INVALID_OPTION',
      `${name} is `,
    ]),
    [
      'an object in the place of serializers',
      { serializers: {} as never },
      'INVALID_OPTION',
      'serializers has to be a list of serializers; it is an object.',
    ],
    ['a misspelt name of the connection', { nmae: 'audit' }, 'INVALID_OPTION', 'shutdownTimeout, name, isGlobal.'],
    ['a timeout that is none', { shutdownTimeout: 'soon' }, 'INVALID_OPTION', 'shutdownTimeout'],
    ['a URL that is none', { url: 'http://localhost' }, 'INVALID_URL', 'amqp:'],
    ['no URL at all', { url: [] }, 'INVALID_URL', 'empty'],
    [
      'a misspelt topology',
      { topology: { queues: [{ name: 'billing', durble: true }] } },
      'INVALID_DEFINITION',
      'durble',
    ],
  ])('%s', async (_what, options, code, told) => {
    const error = await bootFailure({ imports: [AmqpModule.forRoot({ url: brokerUrl, ...options })] });
    expect(error.code).toBe(code);
    expect(error.message).toContain(told);
  });

  const url = 'amqp://user:secret@broker';
  const audit = "AmqpModule.forRootAsync of the connection 'audit'";

  class Unmade {
    readonly url = url;
  }

  test.each<[what: string, options: object, told: string]>([
    [
      'nothing to make them',
      {},
      `${audit} needs one of useFactory, useClass, useExisting. It says how the options are made: useFactory: () => (`,
    ],
    [
      'inject and no factory',
      { inject: [] },
      'useFactory, useClass, useExisting. inject names the arguments of useFactory, which is missing.',
    ],
    [
      'a class that is undefined',
      { useClass: undefined },
      'useClass is undefined; a class or function that is imported',
    ],
    [
      'a factory and a class',
      { useFactory: () => ({}), useClass: SettingsService },
      `${audit} has useFactory and useClass. Leave all but one of them out.`,
    ],
    ['inject beside a class', { useClass: SettingsService, inject: [SettingsService] }, 'has inject beside useClass.'],
    [
      'options in the place of a factory',
      { useFactory: { url } },
      `useFactory of ${audit} is an object; it has to be a`,
    ],
    ['an option beside the factory', { useFactory: () => ({}), url }, `${audit} has no option url. Known are name, `],
  ])('forRootAsync with %s', (_what, options, told) => {
    const { code, message } = thrown(() => AmqpModule.forRootAsync({ name: 'audit', ...options }));
    expect(code).toBe('INVALID_OPTION');
    expect(message).toContain(told);
    expect(message).not.toContain('secret');
  });

  test.each<[what: string, options: object, told: string]>([
    [
      'a factory that returns nothing',
      { useFactory: () => undefined },
      `useFactory of ${audit} has returned undefined; it has to return an object of options, {} for the defaults.`,
    ],
    ['a factory whose promise is null', { useFactory: () => Promise.resolve(null) }, 'has returned null'],
    ['a factory that returns a URL', { useFactory: () => url }, 'has returned a URL'],
    [
      'a factory that returns the name',
      { useFactory: () => ({ name: 'audit' }) },
      'name of AmqpModule stands beside the factory',
    ],
    ['a factory that returns an array', { useFactory: () => [] }, 'has returned an empty list'],
    [
      'a class that makes none',
      { useClass: Unmade },
      `useClass of ${audit} is Unmade, which has no method createAmqpOptions. Have it implement AmqpOptionsFactory.`,
    ],
  ])('%s', async (_what, options, told) => {
    const { code, message } = await bootFailure({ imports: [AmqpModule.forRootAsync({ name: 'audit', ...options })] });
    expect(code).toBe('INVALID_OPTION');
    expect(message).toContain(told);
    expect(message).not.toContain('secret');
  });

  test.each<[what: string, options: object]>([
    [
      'throws',
      {
        useFactory: () => {
          throw new TypeError(`no vault for ${url}`);
        },
      },
    ],
    ['rejects', { useFactory: () => Promise.reject(new TypeError(`no vault for ${url}`)) }],
  ])('a factory that %s is told with its cause', async (_what, options) => {
    const error = await bootFailure({ imports: [AmqpModule.forRootAsync({ name: 'audit', ...options })] });
    expect(error).toMatchObject({ code: 'INVALID_OPTION', cause: { message: `no vault for ${url}` } });
    expect(error.cause).toBeInstanceOf(TypeError);
    expect(error.message).toBe(
      `useFactory of ${audit} failed, so that there are no options. TypeError: no vault for amqp://***@broker.`,
    );
  });
});
