/** What is said of options of `@Consume` that cannot be: by whom, which, and what they were; and nothing that may be a secret. */
import { describe, expect, test } from '@jest/globals';
import {
  AmqpModule,
  Consume,
  type ConsumeHandlerOptions,
  type ConsumeOptionsFactory,
  type ConsumeOptionsWithQueue,
  message,
} from 'nest-amqp';
import { z } from 'zod';

import { brokerUrl } from '../support/broker.mjs';
import { everythingOf, failure, refusalOf } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';

const Placed = message({ exchange: 'orders', routingKey: 'order.placed', schema: z.object({ id: z.number() }) });
const URL_WITH_LOGIN = 'amqp://user:hunter2@broker/';

/** Options that the compiler refuses too, how the error begins, and how it tells what they are. */
const REFUSED: [options: object, begins: string, tells: string][] = [
  [{ prefech: 20 }, '@Consume of Billing.charge has no option', 'prefech. Known are prefetch, '],
  [{ exchange: 'orders', routingKey: '#' }, '@Consume of Billing.charge has no option exchange', 'bind: { exchange, '],
  [{ noAck: true }, '@Consume of Billing.charge has no option noAck', "noAck. Say ack: 'none'."],
  [{ queueOptions: {} }, '@Consume of Billing.charge has no option queueOptions', "of the queue: { queue: { name: '"],
  [{ 'x-priority': 5 }, '@Consume of Billing.charge has no option x-priority', 'Say arguments: { … } for the consumer'],
  [{ toString: 1 }, '@Consume of Billing.charge has no option toString', 'toString. Known are prefetch, '],
  [{ prefetch: -1 }, 'prefetch of Billing.charge has to be an integer from 1 to 65535', 'it is -1.'],
  [{ prefetch: NaN }, 'prefetch of Billing.charge has to be', 'it is NaN.'],
  [{ prefetch: '20' }, 'prefetch of Billing.charge has to be', "it is '20'."],
  [{ prefetch: null }, 'prefetch of Billing.charge has to be', 'it is null.'],
  [{ concurrency: 0 }, 'concurrency of Billing.charge has to be an integer', 'it is 0.'],
  [{ ack: 'sometimes' }, "ack of Billing.charge has to be 'auto', 'manual' or 'none'", "it is 'sometimes'."],
  [{ deadLetter: '' }, 'deadLetter of Billing.charge has to be the name of a queue', "it is ''."],
  [{ autoStart: 'false' }, 'autoStart of Billing.charge has to be true or false', "it is 'false'."],
  [{ globalEnhancers: 'none' }, 'globalEnhancers of Billing.charge has to be true, false', "it is 'none'."],
  [{ globalEnhancers: { guard: false } }, 'globalEnhancers of Billing.charge has no kind', 'guard. Known are guards, '],
  [{ globalEnhancers: { guards: 0 } }, 'globalEnhancers.guards of Billing.charge has to be true or false', 'it is 0.'],
  [{ retry: 3 }, 'retry of Billing.charge has to be an object', 'it is 3.'],
  [{ retry: { attempts: 1.5 } }, 'retry.attempts of Billing.charge has to be an integer', 'it is 1.5.'],
  [{ retry: { delays: '1s' } }, 'retry.delays of Billing.charge has to be a list', "it is '1s'."],
  [{ retry: { delays: [] } }, 'retry.delays of Billing.charge has to be a list of one', 'it is an empty list.'],
  [{ retry: { atempts: 3 } }, 'retry of Billing.charge has no field', 'atempts. Known are attempts, '],
  [{ timeout: 0 }, 'timeout of Billing.charge has to be 1 ms or more', 'it is 0.'],
  [{ when: 5 }, 'when of Billing.charge has to be a routing-key pattern', 'it is 5.'],
  [{ orderBy: 'customer' }, 'orderBy of Billing.charge has to be a function', "it is 'customer'."],
  [{ batch: 100 }, 'batch of Billing.charge has to be an object', 'it is 100.'],
  [{ batch: { size: 0 } }, 'batch.size of Billing.charge has to be an integer', 'it is 0.'],
  [{ batch: { size: 5, maxWait: 0 } }, 'batch.maxWait of Billing.charge has to be 1 ms or more', 'it is 0.'],
  [{ batch: { size: 5, wait: 0 } }, 'batch of Billing.charge has no field', 'wait. Known are size, '],
  [{ batch: { size: 40_000 }, concurrency: 2 }, 'batch.size of Billing.charge is 40000', 'its concurrency 2;'],
  [{ competing: 1 }, 'competing of Billing.charge has to be true or false', 'it is 1.'],
  [{ exclusive: 'yes' }, 'exclusive of Billing.charge has to be true or false', "it is 'yes'."],
  [{ connection: '' }, 'connection of Billing.charge has to be text of 1 to 255 bytes', "it is ''."],
  [{ consumerTag: 7 }, 'consumerTag of Billing.charge has to be text', 'it is 7.'],
  [{ contentType: false }, 'contentType of Billing.charge has to be text', 'it is false.'],
  [{ priority: 'high' }, 'priority of Billing.charge has to be an integer', "it is 'high'."],
  [{ arguments: [] }, 'arguments of Billing.charge has to be an object', 'it is an empty list.'],
  [
    { arguments: { 'x-stream-offset': 'frist' } },
    "arguments['x-stream-offset'] of Billing.charge has to be 'first', 'last', 'next', a whole number of 0 or more, a Date",
    "it is 'frist'.",
  ],
  [{ arguments: { 'x-stream-offset': -1 } }, "arguments['x-stream-offset'] of Billing.charge has to be", 'it is -1.'],
  [{ arguments: { 'x-stream-offset': null } }, "arguments['x-stream-offset'] of Billing.charge has to", 'it is null.'],
  [{ schema: () => true }, 'schema of Billing.charge has to be a Standard Schema', 'it is a function.'],
  [{ bind: 'orders' }, 'bind of Billing.charge has to be { exchange, routingKey? }', "it is 'orders'."],
  [{ bind: { exchange: 'orders', key: 'a' } }, 'bind of Billing.charge has no field', 'key. Known are exchange, '],
  [{ bind: { exchange: '' } }, '@Consume of Billing.charge: ', 'exchange'],
];

/** That an error begins, and tells, as it should. */
function expectTold({ message }: Error, begins: string, tells: string): void {
  expect(message.slice(0, begins.length)).toBe(begins);
  expect(message).toContain(tells);
}

describe('an error names the handler, the option and its value', () => {
  test.each(REFUSED)('beside the name of a queue: %j', (options, begins, tells) => {
    expectTold(refusalOf(Consume('billing', options as ConsumeHandlerOptions)), begins, tells);
  });

  test.each(REFUSED)('in one object: %j', (options, begins, tells) => {
    expectTold(refusalOf(Consume({ queue: 'billing', ...options } as ConsumeOptionsWithQueue)), begins, tells);
  });

  test.each(REFUSED.filter(([options]) => !('schema' in options)))(
    'beside a contract: %j',
    (options, begins, tells) => {
      const consume = Consume(Placed, { queue: 'billing', ...options }) as MethodDecorator;
      expectTold(refusalOf(consume), begins, tells);
    },
  );

  test.each<[source: unknown, options: unknown, told: string]>([
    [undefined, undefined, '@Consume of Billing.charge needs the name of a queue; it is undefined.'],
    ['', undefined, "@Consume of Billing.charge needs the name of a queue; it is ''."],
    ['billing', 20, 'The options of @Consume of Billing.charge have to be an object: { prefetch: 20 }; it is 20.'],
    ['billing', null, 'The options of @Consume of Billing.charge have to be an object: { prefetch: 20 }; it is null.'],
    [{ queue: 'billing' }, { prefetch: 5 }, '@Consume of Billing.charge has options twice.'],
    [{ name: '' }, undefined, '@Consume of Billing.charge: A queue has the name ""'],
    [
      Placed,
      undefined,
      "@Consume of Billing.charge needs the name of a queue: the contract says only that it is bound to exchange 'orders'.",
    ],
    [Placed, { queue: undefined }, '@Consume of Billing.charge needs the name of a queue; it is undefined.'],
    [Placed, { queue: 'billing', schema: z.string() }, '@Consume of Billing.charge has a schema beside a contract'],
    [
      { useFactory: 'billing' },
      undefined,
      "useFactory of Billing.charge has to be a function that returns options; it is 'billing'.",
    ],
    [
      { useFactory: () => ({}), inject: 'A' },
      undefined,
      "inject of Billing.charge has to be a list of what useFactory is called with; it is 'A'.",
    ],
    [
      { useFactory: () => ({}), inject: [undefined] },
      undefined,
      'inject[0] of Billing.charge has to be a class, another token, or { token, optional }; it is undefined. A class that',
    ],
    [{ useFactory: () => ({}), prefetch: 5 }, undefined, 'has useFactory, and beside it no option prefetch'],
  ])('whatever @Consume is given: %j, %j', (source, options, told) => {
    const error = refusalOf(Consume(source as string, options as ConsumeHandlerOptions));
    expect(error.code).toMatch(/^INVALID_/);
    expect(error.message).toContain(told);
  });

  test('of a method that has a symbol for a name, too', () => {
    const consume = Consume('billing', { prefetch: 0 });
    class Billing {
      readonly queue = 'billing';
    }
    const decorate = (): void => {
      consume(Billing.prototype, Symbol('odd'), { value: () => undefined });
    };
    expect(decorate).toThrow('prefetch of Billing.Symbol(odd) has to be');
  });
});

describe('what a factory of options', () => {
  async function bootWith(useFactory: () => unknown): Promise<Error> {
    const factory = { useFactory } as ConsumeOptionsFactory;
    class Billing {
      @Consume(factory)
      charge(): void {
        // never runs
      }
    }
    const boot = TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Billing] });
    return await failure(boot.then((app) => app.close()));
  }

  test.each<[what: string, useFactory: () => unknown, told: string]>([
    [
      'gives',
      () => ({ queue: 'billing', prefetch: -1 }),
      'prefetch of Billing.charge (from useFactory) has to be an integer from 1 to 65535',
    ],
    [
      'misspells',
      () => Promise.resolve({ queue: 'billing', prefech: 1 }),
      'Billing.charge (from useFactory) has no option prefech',
    ],
    [
      'leaves out',
      () => ({ queue: undefined }),
      'Billing.charge (from useFactory) needs the name of a queue; it is undefined',
    ],
    ['gives in place of options', () => 'billing', 'useFactory of Billing.charge has returned a string; '],
    ['gives in a list', () => [{ queue: 'billing' }], 'useFactory of Billing.charge has returned a list; '],
  ])('%s is told with the handler and the value', async (_what, useFactory, told) => {
    const error = await bootWith(useFactory);
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
    expect(error.message).toContain(told);
  });

  test.each<[what: string, fail: (cause: Error) => unknown]>([
    [
      'throws',
      (cause) => {
        throw cause;
      },
    ],
    ['rejects with', (cause) => Promise.reject(cause)],
  ])('%s is told with the handler, and is the cause', async (_what, fail) => {
    const cause = new TypeError('no key BILLING_QUEUE');
    const error = await bootWith(() => fail(cause));
    expect(error).toMatchObject({ code: 'INVALID_OPTION', cause });
    expect(error.message).toBe(
      'useFactory of Billing.charge failed, so that there are no options. TypeError: no key BILLING_QUEUE.',
    );
  });

  test('throws that has a URL in it is told without its login', async () => {
    const error = await bootWith(() => {
      throw new Error(`cannot reach ${URL_WITH_LOGIN}`);
    });
    expect(error.message).toContain('cannot reach amqp://***@broker/');
  });
});

test('neither a URL in the place of a value is shown, nor what objects have inside', () => {
  const url = refusalOf(Consume('billing', { prefetch: URL_WITH_LOGIN as never }));
  expectTold(url, 'prefetch of Billing.charge has to be', 'it is a URL.');
  const inside = refusalOf(Consume('billing', { prefetch: { password: 'hunter2' } as never }));
  expectTold(inside, 'prefetch of Billing.charge has to be', 'it is an object.');
  for (const error of [url, inside]) expect(everythingOf(error)).not.toContain('hunter2');
});

test('the defaults of the module are told as the module’s', async () => {
  const consumers = { priority: 5, prefetch: -1 } as { prefetch: number };
  const boot = (options: { prefetch: number }): Promise<Error> =>
    failure(
      TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl, consumers: options })] }).then((app) =>
        app.close(),
      ),
    );
  expect((await boot(consumers)).message).toContain('The option consumers of AmqpModule has no field priority');
  expect((await boot({ prefetch: -1 })).message).toMatch(
    /^prefetch of the option consumers of AmqpModule has to be .*; it is -1\./,
  );
});
