/** @Consume and the parameter decorators: which methods become consumers, with which options, and what they are called with. */
import { once } from 'node:events';
import {
  type CanActivate,
  Controller,
  type ExecutionContext,
  Injectable,
  type InjectionToken,
  Module,
  ParseIntPipe,
  type PipeTransform,
  Scope,
  type Type,
  UseGuards,
  createParamDecorator,
} from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpConnection,
  AmqpDelivery,
  AmqpHeader,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpProperties,
  AmqpSignal,
  type BasicProperties,
  Consume,
  type ConsumeOptionsWithQueue,
  Delivery,
  Payload,
} from 'nest-amqp';

import { brokerUrl, ctl, ctlAvailable } from '../support/broker.mjs';
import { failure, refusalOf, thrown } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Gate, Inbox } from '../support/waits.js';

let scratch: Scratch;
/** What handlers were called with; each test has its own. */
let got: Inbox<unknown[]>;

beforeEach(async () => {
  scratch = await Scratch.open();
  got = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const amqp = (options: AmqpModuleOptions = {}): ReturnType<typeof AmqpModule.forRoot> =>
  AmqpModule.forRoot({ url: brokerUrl, ...options });

async function boot(...providers: Type[]): Promise<TestApp> {
  return await TestApp.boot({ imports: [amqp()], providers });
}

async function bootFailure(provider: Type, ...others: Type[]): ReturnType<typeof failure> {
  return await failure(boot(provider, ...others).then((app) => app.close()));
}

const testWithCtl = ctlAvailable ? test : test.skip;

describe('@Consume makes a consumer', () => {
  test('of a queue by its name', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(...args: unknown[]): void {
        got.push(args);
      }
    }
    await using app = await boot(Billing);
    await scratch.sendJson(queue, { id: 7 }, { messageId: 'm-7' });
    const [payload, delivery, ...more] = await got.next();
    expect(payload).toEqual({ id: 7 });
    expect(delivery).toBeInstanceOf(Delivery);
    expect(delivery).toMatchObject({ queue, properties: { messageId: 'm-7' } });
    expect(more).toEqual([]);
    expect(app.log.text('log')).toContain(`Billing.charge (queue '${queue}') runs (prefetch 50)`);
  });

  test('in the form of one object', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume({ queue, prefetch: 3 })
      charge(payload: unknown): void {
        got.push([payload]);
      }
    }
    await using app = await boot(Billing);
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toEqual([1]);
    expect(app.log.text('log')).toContain('(prefetch 3)');
  });

  test('of a queue that no topology declares and that is not there, which is then durable', async () => {
    const queue = scratch.queueName();
    class Billing {
      @Consume(queue)
      charge(): void {
        // takes them
      }
    }
    await using _app = await boot(Billing);
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
    // The broker compares: with other flags this is refused.
    await using connection = new AmqpConnection(brokerUrl);
    await connection.open();
    await (await (await connection.opened()).channel()).queueDeclare(queue, { durable: true });
  });

  test('for each decorator that a method carries', async () => {
    const queues = [await scratch.queue(), await scratch.queue()] as const;
    class Billing {
      @Consume(queues[0])
      @Consume(queues[1], { prefetch: 2 })
      charge(payload: unknown, delivery: Delivery): void {
        got.push([payload, delivery.queue]);
      }
    }
    await using _app = await boot(Billing);
    for (const queue of queues) {
      await scratch.sendJson(queue, queue);
      expect(await got.next()).toEqual([queue, queue]);
    }
  });

  test('of an inherited method, once for each class that is provided, on that class’s own instance', async () => {
    const queue = await scratch.queue();
    abstract class Base {
      abstract readonly label: string;

      @Consume(queue)
      handle(@Payload() payload: unknown): void {
        got.push([this.label, payload]);
      }
    }
    @Injectable()
    class Derived extends Base {
      readonly label = 'derived';
    }
    await using _app = await boot(Derived);
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toEqual(['derived', 1]);
  });

  test('not of a method that overrides a decorated one without a decorator of its own', async () => {
    const queue = await scratch.queue();
    class Base {
      @Consume(queue)
      handle(): void {
        got.push(['base']);
      }
    }
    class Derived extends Base {
      override handle(): void {
        got.push(['derived']);
      }
    }
    await using _app = await boot(Derived);
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 0 });
  });

  test('in a controller', async () => {
    const queue = await scratch.queue();
    @Controller('orders')
    class Orders {
      @Consume(queue)
      handle(@Payload() payload: unknown): void {
        got.push([payload]);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], controllers: [Orders] });
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toEqual([1]);
  });

  test('in a module class, and in modules beneath the root', async () => {
    const queue = await scratch.queue();
    @Module({})
    class FeatureModule {
      @Consume(queue)
      handle(payload: unknown): void {
        got.push([payload]);
      }
    }
    @Module({ imports: [FeatureModule] })
    class MiddleModule {}
    await using _app = await TestApp.boot({ imports: [MiddleModule, amqp()] });
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toEqual([1]);
  });

  test('on what a factory or a value provides', async () => {
    const queues = [await scratch.queue(), await scratch.queue()] as const;
    class Made {
      readonly #label: string;

      constructor(label: string) {
        this.#label = label;
      }

      @Consume(queues[0])
      handle(payload: unknown): void {
        got.push([this.#label, payload]);
      }
    }
    class Given {
      @Consume(queues[1])
      handle(payload: unknown): void {
        got.push(['value', payload]);
      }
    }
    await using _app = await TestApp.boot({
      imports: [amqp()],
      providers: [
        { provide: 'MADE', useFactory: () => new Made('factory') },
        { provide: 'GIVEN', useValue: new Given() },
        { provide: 'PLAIN', useValue: Object.assign(Object.create(null) as object, { a: 1 }) },
        { provide: 'NOTHING', useValue: null },
        { provide: 'TEXT', useValue: 'text' },
      ],
    });
    await scratch.sendJson(queues[0], 1);
    expect(await got.next()).toEqual(['factory', 1]);
    await scratch.sendJson(queues[1], 2);
    expect(await got.next()).toEqual(['value', 2]);
  });

  test('once, however many tokens lead to the instance', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(payload: unknown): void {
        got.push([payload]);
      }
    }
    await using _app = await TestApp.boot({
      imports: [amqp()],
      providers: [
        Billing,
        { provide: 'ALIAS', useExisting: Billing },
        { provide: 'SAME', inject: [Billing], useFactory: (billing: Billing) => billing },
      ],
    });
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
  });

  test('none for a process that only publishes: consumers: false', async () => {
    const queue = scratch.queueName();
    class Billing {
      @Consume(queue)
      charge(): void {
        got.push([]);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp({ consumers: false })], providers: [Billing] });
    expect(await scratch.state(queue)).toBeUndefined();
    expect(app.get(AmqpConnection).status.state).toBe('open');
  });

  test('none, and calls no factory of options, where every connection has consumers: false', async () => {
    const useFactory = (): never => {
      throw new Error('no REFUNDS_QUEUE');
    };
    class Billing {
      @Consume({ useFactory })
      refund(): void {
        got.push([]);
      }
    }
    const imports = [
      amqp({ consumers: false }),
      AmqpModule.forRoot({ name: 'audit', url: brokerUrl, consumers: false }),
    ];
    await using _app = await TestApp.boot({ imports, providers: [Billing] });
    await expect(boot(Billing)).rejects.toThrow('no REFUNDS_QUEUE');
  });
});

describe('the options of a consumer reach the broker', () => {
  testWithCtl('prefetch, tag, exclusiveness and arguments are what the broker shows', async () => {
    const queues = [await scratch.queue(), await scratch.queue(), await scratch.queue()] as const;
    const tag = `${queues[0]}.consumer`;
    class Billing {
      @Consume(queues[0], { prefetch: 7, consumerTag: tag, exclusive: true, priority: 3, arguments: { 'x-note': 'a' } })
      one(): void {
        // takes them
      }

      @Consume(queues[1])
      two(): void {
        // takes them
      }

      @Consume(queues[2], { prefetch: 65_535 })
      three(): void {
        // takes them
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp({ consumers: { prefetch: 9 } })], providers: [Billing] });
    const listed = JSON.parse(
      await ctl(
        'list_consumers',
        '--formatter',
        'json',
        'queue_name',
        'consumer_tag',
        'ack_required',
        'prefetch_count',
        'arguments',
      ),
    ) as {
      queue_name: string;
      consumer_tag: string;
      prefetch_count: number;
      ack_required: boolean;
      arguments: unknown;
    }[];
    const consumerOf = (queue: string): unknown => listed.find(({ queue_name }) => queue_name === queue);
    expect(consumerOf(queues[0])).toMatchObject({ consumer_tag: tag, ack_required: true, prefetch_count: 7 });
    expect(JSON.stringify(consumerOf(queues[0]))).toMatch(/x-priority.*x-note|x-note.*x-priority/);
    expect(consumerOf(queues[1])).toMatchObject({ prefetch_count: 9 });
    expect(consumerOf(queues[2])).toMatchObject({ prefetch_count: 65_535 });
  });

  test('no more handlers run at a time than the prefetch says', async () => {
    const queue = await scratch.queue();
    const gate = new Gate();
    class Billing {
      @Consume(queue, { prefetch: 3 })
      async charge(payload: unknown): Promise<void> {
        got.push([payload]);
        await gate.opened;
      }
    }
    for (let id = 1; id <= 5; id += 1) await scratch.sendJson(queue, id);
    await using _app = await boot(Billing);
    for (let count = 1; count <= 3; count += 1) await got.next();
    await scratch.hasMessages(queue, 2);
    expect(got.all).toHaveLength(3);
    gate.open();
    await got.next();
    await got.next();
  });

  test('an exclusive consumer is alone on its queue; a second one fails the boot of its application', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue, { exclusive: true })
      charge(): void {
        // takes them
      }
    }
    await using _app = await boot(Billing);
    expect(await bootFailure(Billing)).toMatchObject({ replyCode: 403 });
  });
});

describe('@Consume is refused where it cannot work', () => {
  test.each<[what: string, options: unknown, told: string]>([
    ['no queue', '', 'needs the name of a queue'],
    ['a queue name from an environment that lacks it', undefined, 'needs the name of a queue'],
    ['an object without a queue', { prefetch: 5 }, 'needs the name of a queue'],
    ['an unknown option', { queue: 'billing', concurency: 5 }, 'concurency'],
    ['a prefetch of 0, which the broker takes for no limit', { queue: 'billing', prefetch: 0 }, 'prefetch'],
    ['a fractional prefetch', { queue: 'billing', prefetch: 1.5 }, 'prefetch'],
    ['a prefetch of 65536', { queue: 'billing', prefetch: 65_536 }, 'prefetch'],
    ['a misspelt kind of enhancer', { queue: 'billing', globalEnhancers: { guard: false } }, 'no kind guard'],
    ['options beside a factory of them', { queue: 'billing', useFactory: () => ({}) }, 'beside it no option queue'],
  ])('%s', (_what, options, told) => {
    const error = refusalOf(Consume(options as ConsumeOptionsWithQueue));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(told);
  });

  test('what stands where no message comes: on a static method, on a constructor', () => {
    const error = thrown(() => {
      // eslint-disable-next-line @typescript-eslint/no-extraneous-class -- that is what is refused
      class Billing {
        @Consume('billing')
        static charge(): void {
          got.push([]);
        }
      }
      return Billing;
    });
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toContain('Billing.charge is a static method');
    const misplaced = thrown(() => {
      class Billing {
        constructor(@Payload() readonly payload: unknown) {}
      }
      return Billing;
    });
    expect(misplaced.code).toBe('INVALID_DEFINITION');
    expect(misplaced.message).toContain('constructor of Billing');
  });

  test('with an error of one line, whatever the name of the queue', () => {
    const { message } = refusalOf(Consume('bil\nling', { prefetch: 0 }));
    expect(message).not.toContain('\n');
  });

  test('a guard given as a class on what a factory provides fails the boot: Nest would leave it out', async () => {
    class Never implements CanActivate {
      canActivate(): boolean {
        return false;
      }
    }
    class Made {
      @UseGuards(Never)
      @Consume('billing')
      charge(): void {
        // never runs
      }
    }
    const booting = TestApp.boot({ imports: [amqp()], providers: [{ provide: 'MADE', useFactory: () => new Made() }] });
    const error = await failure(booting.then((app) => app.close()));
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toContain('Made.charge');
  });

  test('a guard or a pipe given as a class on a module fails the boot: Nest would leave it out', async () => {
    class Never implements CanActivate, PipeTransform {
      canActivate(): boolean {
        return false;
      }

      transform(): never {
        throw new Error('never');
      }
    }
    @Module({})
    class Guarded {
      @UseGuards(Never)
      @Consume('billing')
      charge(): void {
        // never runs
      }
    }
    @Module({})
    class Piped {
      @Consume('billing')
      charge(@Payload(Never) _payload: unknown): void {
        // never runs
      }
    }
    for (const module of [Guarded, Piped]) {
      const error = await failure(TestApp.boot({ imports: [amqp(), module] }).then((app) => app.close()));
      expect(error.code).toBe('INVALID_DEFINITION');
      expect(error.message).toContain(`${module.name}.charge`);
    }
  });

  test('a class that depends on a transient one works: it has its own', async () => {
    const queue = await scratch.queue();
    @Injectable({ scope: Scope.TRANSIENT })
    class Own {}
    @Injectable()
    class Dependent {
      constructor(readonly own: Own) {}

      @Consume(queue)
      charge(): void {
        got.push([this.own]);
      }
    }
    await using _app = await boot(Dependent, Own);
    await scratch.sendJson(queue, 1);
    const [own] = await got.next();
    expect(own).toBeInstanceOf(Own);
  });

  test('a boot that fails over one handler leaves no other consuming', async () => {
    const [taken, free] = [await scratch.queue(), await scratch.queue()];
    class Holder {
      @Consume(taken, { exclusive: true })
      hold(): void {
        // takes them
      }
    }
    await using _app = await boot(Holder);
    class Second {
      @Consume(free)
      fine(): void {
        // takes them
      }

      @Consume(taken)
      refused(): void {
        // never runs
      }
    }
    const app = await TestApp.compile({ imports: [amqp()], providers: [Second] });
    expect(await failure(app.module.init())).toMatchObject({ replyCode: 403 });
    await scratch.hasConsumers(free, 0);
    await app.close();
  });
});

describe('options from a factory', () => {
  @Injectable()
  class Settings {
    queue = '';
  }
  @Module({ providers: [Settings], exports: [Settings] })
  class SettingsModule {}

  test('have what they inject from the module of the handler, and count beside other decorators', async () => {
    const [first, second] = [await scratch.queue(), await scratch.queue()];
    class Billing {
      @Consume({
        inject: [Settings, 'SUFFIX', { token: 'MISSING', optional: true }],
        useFactory: async (settings, suffix: string, missing: unknown) => {
          await Promise.resolve();
          return { queue: `${settings.queue}${suffix}`, prefetch: missing === undefined ? 3 : 4 };
        },
      })
      @Consume(second)
      charge(payload: unknown, delivery: Delivery): void {
        got.push([payload, delivery.queue]);
      }
    }
    @Module({ imports: [SettingsModule], providers: [Billing, { provide: 'SUFFIX', useValue: first.slice(-4) }] })
    class BillingModule {}
    const app = await TestApp.compile({ imports: [amqp(), BillingModule] });
    await using _app = app;
    app.get(Settings).queue = first.slice(0, -4);
    await app.module.init();
    for (const queue of [first, second]) {
      await scratch.sendJson(queue, 1);
      expect(await got.next()).toEqual([1, queue]);
    }
    expect(app.log.text('log')).toContain(`(queue '${first}') runs (prefetch 3)`);
  });

  test.each<[what: string, inject: InjectionToken[], options: unknown, told: RegExp]>([
    ['that lack a queue', [], {}, /needs the name of a queue/],
    [
      'that are misspelt',
      [],
      { queue: 'billing', prefech: 1 },
      /Billing\.charge \(from useFactory\) has no option prefech/,
    ],
    ['that are none', [], undefined, /Billing\.charge has returned undefined; it has to return options/],
    ['of which a dependency is missing', ['NOWHERE'], { queue: 'billing' }, /useFactory of Billing\.charge.*NOWHERE/s],
    ['of which a dependency is request-scoped', ['SCOPED'], { queue: 'billing' }, /Billing\.charge injects SCOPED/],
  ])('%s fail the boot', async (_what, inject, options, told) => {
    class Billing {
      @Consume({ inject, useFactory: () => options as ConsumeOptionsWithQueue })
      charge(): void {
        // never runs
      }
    }
    const booting = TestApp.boot({
      imports: [amqp()],
      providers: [Billing, { provide: 'SCOPED', scope: Scope.REQUEST, useFactory: () => 1 }],
    });
    await expect(booting).rejects.toThrow(told);
  });
});

describe('parameters', () => {
  const Tenant = createParamDecorator((fallback: string, context: ExecutionContext) => {
    const [, delivery] = context.getArgs<[unknown, Delivery]>();
    return delivery.headers['x-tenant'] ?? fallback;
  });
  const Later = createParamDecorator((_data: unknown, context: ExecutionContext) =>
    Promise.resolve(`${context.getType<string>()} ${context.getHandler().name} ${context.getClass().name}`),
  );

  test('of headers and properties, whole or by name, with pipes', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(
        @AmqpHeader('x-count', ParseIntPipe) count: number,
        @AmqpHeader('x-missing') missing: unknown,
        @AmqpProperties('messageId') messageId: string,
        @AmqpProperties() properties: BasicProperties,
      ): void {
        got.push([count, missing, messageId, properties.messageId, properties.contentType]);
      }
    }
    await using _app = await boot(Billing);
    const message = { contentType: 'text/plain', messageId: 'm-1', headers: { 'x-count': '12' } };
    await scratch.send(queue, 'text', message);
    expect(await got.next()).toEqual([12, undefined, 'm-1', 'm-1', 'text/plain']);
  });

  test('without pipes, of a message without headers', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(@AmqpHeader('x-count') count: unknown, @AmqpProperties('type') type: unknown): void {
        got.push([count, type]);
      }
    }
    await using _app = await boot(Billing);
    await scratch.send(queue, 'text', { type: 'greeting' });
    expect(await got.next()).toEqual([undefined, 'greeting']);
  });

  test('of decorators of your own see the context of the delivery, may take their time, and take pipes', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(
        @Tenant('nobody') tenant: string,
        @Tenant('5', ParseIntPipe) number: number,
        @Later() later: string,
        @Payload() payload: unknown,
      ): void {
        got.push([tenant, number, later, payload]);
      }
    }
    await using _app = await boot(Billing);
    await scratch.sendJson(queue, 1);
    const [tenant, number, later, payload] = await got.next();
    // What is not there yet is awaited where pipes apply, as everywhere in Nest.
    expect([tenant, number, await later, payload]).toEqual(['nobody', 5, 'amqp charge Billing', 1]);
  });

  @Injectable()
  class Doubled implements PipeTransform<number, number> {
    transform(value: number): number {
      return value * 2;
    }
  }

  test('are filled as they are decorated, in any order', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(
        @AmqpDelivery() delivery: Delivery<{ id: number }>,
        undecorated: unknown,
        @Payload('id') id: number,
        @Payload() payload: unknown,
        @Payload('missing') missing: unknown,
      ): void {
        got.push([delivery.payload.id, undecorated, id, payload, missing]);
      }
    }
    await using _app = await boot(Billing);
    await scratch.sendJson(queue, { id: 7 });
    const [fromDelivery, undecorated, id, payload, missing] = await got.next();
    expect([fromDelivery, id, payload]).toEqual([7, 7, { id: 7 }]);
    // Nest fills what nobody decorated with null or undefined, between its versions.
    expect(undecorated ?? undefined).toBeUndefined();
    expect(missing).toBeUndefined();
  });

  test('are filled with the signal of the delivery, which fires when its time is up', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue, { timeout: 50 })
      async charge(@AmqpSignal() signal: AbortSignal, @AmqpDelivery() delivery: Delivery): Promise<void> {
        got.push([signal === delivery.signal, signal.aborted]);
        await once(signal, 'abort');
        got.push([signal.reason]);
      }
    }
    await using _app = await boot(Billing);
    await scratch.sendJson(queue, 1);
    scratch.owns(`${queue}.dead`);
    expect(await got.next()).toEqual([true, false]);
    expect(await got.next()).toEqual([expect.objectContaining({ code: 'HANDLER_TIMEOUT' })]);
    await scratch.hasMessages(`${queue}.dead`, 1);
  });

  test('take pipes, as instances and as classes that are injected', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(
        @Payload('id', Doubled) id: number,
        @Payload('id', Doubled, new Doubled()) twice: number,
        @Payload({ transform: (value: object) => Object.keys(value) }) keys: unknown,
      ): void {
        got.push([id, twice, keys]);
      }
    }
    await using _app = await boot(Billing);
    await scratch.sendJson(queue, { id: 7 });
    expect(await got.next()).toEqual([14, 28, ['id']]);
  });

  test('a key of a payload that has no keys is undefined', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(@Payload('id') id: unknown): void {
        got.push([id]);
      }
    }
    await using _app = await boot(Billing);
    for (const payload of [null, 5, 'text']) await scratch.sendJson(queue, payload);
    await scratch.send(queue, '', { contentType: 'application/json' });
    for (let count = 1; count <= 4; count += 1) expect(await got.next()).toEqual([undefined]);
  });

  test('of an overriding method do not mix with those of the method that it overrides', async () => {
    const queue = await scratch.queue();
    class Base {
      handle(@AmqpDelivery() _delivery: Delivery, @Payload() _payload: unknown): void {
        got.push(['base']);
      }
    }
    class Derived extends Base {
      @Consume(queue)
      override handle(@AmqpDelivery() delivery: Delivery, @Payload('id') id: unknown): void {
        got.push([delivery instanceof Delivery, id]);
      }
    }
    await using _app = await boot(Derived);
    await scratch.sendJson(queue, { id: 7 });
    expect(await got.next()).toEqual([true, 7]);
  });

  test('of a method do not mix with those of the same method of another class that has the same name', async () => {
    const [one, two] = [await scratch.queue(), await scratch.queue()];
    const First = ((): Type => {
      class Billing {
        @Consume(one)
        charge(@Payload('id') id: unknown): void {
          got.push([one, id]);
        }
      }
      return Billing;
    })();
    const Second = ((): Type => {
      class Billing {
        @Consume(two)
        charge(@AmqpDelivery() delivery: unknown, @Payload() payload: unknown): void {
          got.push([two, delivery instanceof Delivery, payload]);
        }
      }
      return Billing;
    })();
    @Module({ providers: [First] })
    class FirstModule {}
    @Module({ providers: [Second] })
    class SecondModule {}
    await using _app = await TestApp.boot({ imports: [amqp(), FirstModule, SecondModule] });
    await scratch.sendJson(one, { id: 1 });
    expect(await got.next()).toEqual([one, 1]);
    await scratch.sendJson(two, { id: 2 });
    expect(await got.next()).toEqual([two, true, { id: 2 }]);
  });
});
