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

/** Options that the compiler refuses too, and what is said of them; the words behind the value are those of each option. */
const REFUSED: [options: object, told: string][] = [
  [{ prefech: 20 }, '@Consume of Billing.charge has no option prefech. Known are prefetch, '],
  [{ prefetch: -1 }, 'prefetch of Billing.charge is -1; it has to be an integer from 1 to 65535.'],
  [{ prefetch: NaN }, 'prefetch of Billing.charge is NaN; '],
  [{ prefetch: '20' }, "prefetch of Billing.charge is '20'; "],
  [{ prefetch: null }, 'prefetch of Billing.charge is null; '],
  [{ concurrency: 0 }, 'concurrency of Billing.charge is 0; '],
  [{ ack: 'sometimes' }, "ack of Billing.charge is 'sometimes'; it has to be 'auto', 'manual' or 'none'."],
  [{ deadLetter: '' }, "deadLetter of Billing.charge is ''; "],
  [{ autoStart: 'false' }, "autoStart of Billing.charge is 'false'; it has to be true or false."],
  [{ globalEnhancers: 'none' }, "globalEnhancers of Billing.charge is 'none'; "],
  [{ globalEnhancers: { guard: false } }, 'globalEnhancers of Billing.charge has no kind guard'],
  [{ globalEnhancers: { guards: 0 } }, 'globalEnhancers.guards of Billing.charge is 0; it has to be true or false.'],
  [{ retry: 3 }, 'retry of Billing.charge is 3; it has to be an object'],
  [{ retry: { attempts: 1.5 } }, 'retry.attempts of Billing.charge is 1.5; '],
  [{ retry: { delays: '1s' } }, "retry.delays of Billing.charge is '1s'; it has to be a list"],
  [{ retry: { delays: [] } }, 'retry.delays of Billing.charge is empty; '],
  [{ retry: { atempts: 3 } }, 'retry of Billing.charge has no field atempts'],
  [{ timeout: 0 }, 'timeout of Billing.charge is 0; it has to be 1 ms or more.'],
  [{ when: 5 }, 'when of Billing.charge is 5; '],
  [{ orderBy: 'customer' }, "orderBy of Billing.charge is 'customer'; it has to be a function"],
  [{ batch: 100 }, 'batch of Billing.charge is 100; it has to be an object'],
  [{ batch: { size: 0 } }, 'batch.size of Billing.charge is 0; '],
  [{ batch: { size: 5, maxWait: 0 } }, 'batch.maxWait of Billing.charge is 0; '],
  [{ batch: { size: 5, wait: 0 } }, 'batch of Billing.charge has no field wait'],
  [{ batch: { size: 40_000 }, concurrency: 2 }, 'batch.size of Billing.charge is 40000, and its concurrency 2; '],
  [{ competing: 1 }, 'competing of Billing.charge is 1; '],
  [{ exclusive: 'yes' }, "exclusive of Billing.charge is 'yes'; it has to be true or false."],
  [{ connection: '' }, "connection of Billing.charge is ''; it has to be text of 1 to 255 bytes."],
  [{ consumerTag: 7 }, 'consumerTag of Billing.charge is 7; '],
  [{ contentType: false }, 'contentType of Billing.charge is false; '],
  [{ priority: 'high' }, "priority of Billing.charge is 'high'; it has to be an integer."],
  [{ arguments: [] }, 'arguments of Billing.charge is an array; '],
  [{ schema: () => true }, 'schema of Billing.charge is a function; it has to be a Standard Schema'],
  [{ bind: 'orders' }, "bind of Billing.charge is 'orders'; "],
  [{ bind: { exchange: 'orders', key: 'a' } }, 'bind of Billing.charge has no field key'],
  [{ bind: { exchange: '' } }, '@Consume of Billing.charge: '],
];

describe('an error names the handler, the option and its value', () => {
  test.each(REFUSED)('beside the name of a queue: %j', (options, told) => {
    const error = refusalOf(Consume('billing', options as ConsumeHandlerOptions));
    expect(error.message).toContain(told);
  });

  test.each(REFUSED)('in one object: %j', (options, told) => {
    const error = refusalOf(Consume({ queue: 'billing', ...options } as ConsumeOptionsWithQueue));
    expect(error.message).toContain(told);
  });

  test.each(REFUSED.filter(([options]) => !('schema' in options)))('beside a contract: %j', (options, told) => {
    const consume = Consume(Placed, { queue: 'billing', ...options }) as MethodDecorator;
    expect(refusalOf(consume).message).toContain(told);
  });

  test.each<[source: unknown, options: unknown, told: string]>([
    [undefined, undefined, '@Consume of Billing.charge needs the name of a queue, and has undefined.'],
    ['', undefined, "@Consume of Billing.charge needs the name of a queue, and has ''."],
    ['billing', 20, 'The options of @Consume of Billing.charge are a number; '],
    ['billing', null, 'The options of @Consume of Billing.charge are null; '],
    [{ queue: 'billing' }, { prefetch: 5 }, '@Consume of Billing.charge has options twice.'],
    [{ name: '' }, undefined, '@Consume of Billing.charge: A queue has the name ""'],
    [
      Placed,
      undefined,
      "@Consume of Billing.charge needs the name of a queue: the contract says only that it is bound to exchange 'orders'.",
    ],
    [Placed, { queue: undefined }, '@Consume of Billing.charge needs the name of a queue, and has undefined.'],
    [Placed, { queue: 'billing', schema: z.string() }, '@Consume of Billing.charge has a schema beside a contract'],
    [{ useFactory: 'billing' }, undefined, "useFactory of Billing.charge is 'billing'; it has to be a function"],
    [{ useFactory: () => ({}), inject: 'A' }, undefined, "inject of Billing.charge is 'A'; it has to be a list"],
    [
      { useFactory: () => ({}), inject: [undefined] },
      undefined,
      'inject[0] of Billing.charge is undefined; it has to be a class',
    ],
    [{ useFactory: () => ({}), prefetch: 5 }, undefined, 'has useFactory, and beside it no option prefetch'],
  ])('whatever @Consume is given: %j, %j', (source, options, told) => {
    const error = refusalOf(Consume(source as string, options as ConsumeHandlerOptions));
    expect(error.code).toMatch(/^INVALID_/);
    expect(error.message).toContain(told);
  });

  test('of a static method and of one that has a symbol for a name, too', () => {
    const odd = Symbol('odd');
    const consume = Consume('billing', { prefetch: 0 });
    const decorate = (target: object, name: string | symbol) => () => consume(target, name, { value: () => undefined });
    class Billing {
      readonly queue = 'billing';
    }
    expect(decorate(Billing, 'charge')).toThrow('prefetch of Billing.charge is 0');
    expect(decorate(Billing.prototype, odd)).toThrow('prefetch of Billing.Symbol(odd) is 0');
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
    ['gives', () => ({ queue: 'billing', prefetch: -1 }), 'prefetch of Billing.charge (from useFactory) is -1; '],
    [
      'misspells',
      () => Promise.resolve({ queue: 'billing', prefech: 1 }),
      'Billing.charge (from useFactory) has no option prefech',
    ],
    [
      'leaves out',
      () => ({ queue: undefined }),
      'Billing.charge (from useFactory) needs the name of a queue, and has undefined',
    ],
    ['gives in place of options', () => 'billing', 'useFactory of Billing.charge has returned a string; '],
    ['gives in a list', () => [{ queue: 'billing' }], 'useFactory of Billing.charge has returned an array; '],
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
      'useFactory of Billing.charge failed, so that there are no options. TypeError: no key BILLING_QUEUE',
    );
  });

  test('throws that has a URL in it is told without its login', async () => {
    const error = await bootWith(() => {
      throw new Error(`cannot reach ${URL_WITH_LOGIN}`);
    });
    expect(error.message).toContain('cannot reach amqp://***@broker/');
  });
});

test('a URL in the place of a value is shown without its login, and what objects have inside not at all', () => {
  const url = refusalOf(Consume('billing', { prefetch: URL_WITH_LOGIN as never }));
  expect(url.message).toContain("prefetch of Billing.charge is 'amqp://***@broker/'; ");
  const inside = refusalOf(Consume('billing', { prefetch: { password: 'hunter2' } as never }));
  expect(inside.message).toContain('prefetch of Billing.charge is an object; ');
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
  expect((await boot({ prefetch: -1 })).message).toContain('prefetch of the option consumers of AmqpModule is -1; ');
});
