/** Topology of a Nest application: of the module, of feature modules and of decorators, as one, and what the broker says to it. */
import { Module, type ModuleMetadata, type Type } from '@nestjs/common';
import { LazyModuleLoader } from '@nestjs/core';
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpChannel,
  type AmqpError,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  Consume,
  type ConsumeHandlerOptions,
  type ConsumeOptionsWithQueue,
  ConsumerRegistry,
  type Delivery,
  type QueueDefinition,
  type TopologyConflict,
  TopologyError,
  getChannelToken,
  queue,
} from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure, refusalOf, thrown } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

let scratch: Scratch;
/** What handlers were called with; each test has its own. */
let got: Inbox<unknown>;

beforeEach(async () => {
  scratch = await Scratch.open();
  got = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const amqp = (options: AmqpModuleOptions = {}): ReturnType<typeof AmqpModule.forRoot> =>
  AmqpModule.forRoot({ url: brokerUrl, ...options });

async function bootFailure(metadata: ModuleMetadata): Promise<AmqpError> {
  return await failure(
    TestApp.boot(metadata).then(async (app) => {
      await app.close();
    }),
  );
}

function conflictsOf(error: AmqpError): readonly TopologyConflict[] {
  if (error instanceof TopologyError) return error.conflicts;
  throw error;
}

/** A module of that name. */
function moduleOf(name: string, metadata: ModuleMetadata): Type {
  const named = {
    [name]: class {
      readonly name = name;
    },
  };
  const module = named[name] as Type;
  Module(metadata)(module);
  return module;
}

/** A class with a handler that consumes so. */
function consumerOf(options: ConsumeOptionsWithQueue): Type {
  class Billing {
    @Consume(options)
    charge(payload: unknown): void {
      got.push(payload);
    }
  }
  return Billing;
}

describe('bind of @Consume', () => {
  test('binds the queue once or several times, to exchanges that any part of the topology declares', async () => {
    const [orders, refunds, queue] = [scratch.exchangeName(), scratch.exchangeName(), scratch.queueName()];
    class Billing {
      @Consume(queue, {
        bind: [
          { exchange: orders, routingKey: 'order.*' },
          { exchange: refunds, arguments: { 'x-match': 'all', kind: 'full' } },
        ],
      })
      charge(payload: unknown, delivery: Delivery): void {
        got.push([payload, delivery.exchange, delivery.routingKey]);
      }
    }
    await using app = await TestApp.boot({
      imports: [
        amqp({
          topology: {
            exchanges: [
              { name: orders, type: 'topic' },
              { name: refunds, type: 'headers' },
            ],
          },
        }),
      ],
      providers: [Billing],
    });
    const publisher = app.get(AmqpPublisher);
    await publisher.publish(orders, 'order.placed', 1);
    expect(await got.next()).toEqual([1, orders, 'order.placed']);
    await publisher.publish(refunds, '', 2, { headers: { kind: 'full' } });
    expect(await got.next()).toEqual([2, refunds, '']);
    await expect(publisher.publish(orders, 'other', 3)).rejects.toMatchObject({ code: 'UNROUTABLE' });
  });

  test('takes one binding, to an exchange that is there and nobody declares', async () => {
    const exchange = await scratch.exchange('direct');
    const queue = scratch.queueName();
    await using app = await TestApp.boot({
      imports: [amqp()],
      providers: [consumerOf({ queue, bind: { exchange, routingKey: 'a' } })],
    });
    await app.get(AmqpPublisher).publish(exchange, 'a', 1);
    expect(await got.next()).toBe(1);
  });

  test('of options from a factory is declared as well, on every connection', async () => {
    const [exchange, queue] = [scratch.exchangeName(), await scratch.queue()];
    class Billing {
      @Consume({ useFactory: () => ({ queue, bind: { exchange, routingKey: 'a' } }) })
      charge(payload: unknown): void {
        got.push(payload);
      }
    }
    const line = new CuttableLine();
    await using app = await TestApp.boot({
      imports: [
        amqp({ connection: { dial: line.dial }, topology: { exchanges: [{ name: exchange, type: 'direct' }] } }),
      ],
      providers: [Billing],
    });
    await app.get(AmqpPublisher).publish(exchange, 'a', 1);
    expect(await got.next()).toBe(1);

    await app.log.next('log', 'runs');
    await scratch.unbind(queue, exchange, 'a');
    line.cut();
    await app.log.next('log', 'runs');
    await app.get(AmqpPublisher).publish(exchange, 'a', 2);
    expect(await got.next()).toBe(2);
  });

  test('or the lack of it, of options from a factory, uses a queue that is there as it is', async () => {
    const queue = await scratch.queue({ arguments: { 'x-max-length': 5 } });
    class Billing {
      @Consume({ useFactory: () => ({ queue }) })
      charge(payload: unknown): void {
        got.push(payload);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toBe(1);
  });

  test('comes back with a queue that was deleted', async () => {
    const [exchange, queue] = [scratch.exchangeName(), scratch.queueName()];
    await using app = await TestApp.boot({
      imports: [amqp({ topology: { exchanges: [{ name: exchange, type: 'direct' }] } })],
      providers: [consumerOf({ queue, bind: { exchange, routingKey: 'a' } })],
    });
    await app.log.next('log', 'runs');
    await scratch.delete(queue);
    await app.log.next('log', 'runs');
    await app.get(AmqpPublisher).publish(exchange, 'a', 1);
    expect(await got.next()).toBe(1);
  });

  test('to an exchange that is not there fails the boot, naming handler, exchange and what to do', async () => {
    const queue = scratch.queueName();
    const error = await bootFailure({
      imports: [amqp()],
      providers: [consumerOf({ queue, bind: { exchange: 'test.no-such-exchange', routingKey: 'a' } })],
    });
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 404 });
    expect(error.message).toContain('@Consume of Billing.charge');
    expect(error.message).toContain(`binding from exchange 'test.no-such-exchange' to queue '${queue}' with key 'a'`);
    expect(error.message).toContain("Declare both: exchange 'test.no-such-exchange' in exchanges of the topology");
  });

  test.each<[what: string, bind: unknown, code: string, told: string]>([
    ['is no text', 'orders', 'INVALID_OPTION', 'bind of Billing.charge has to be'],
    ['has no other fields', { exchange: 'orders', key: 'a' }, 'INVALID_OPTION', 'no field key'],
    ['needs an exchange', { routingKey: 'a' }, 'INVALID_DEFINITION', 'no source exchange'],
    [
      'has a key of at most 255 bytes',
      { exchange: 'orders', routingKey: 'a'.repeat(256) },
      'INVALID_DEFINITION',
      '255 bytes',
    ],
  ])('%s', (_what, bind, code, told) => {
    const error = refusalOf(Consume('billing', { bind } as ConsumeHandlerOptions));
    expect(error.code).toBe(code);
    expect(error.message).toContain(told);
  });

  test('declares nothing where consumers are not started', async () => {
    const queue = scratch.queueName();
    await using _app = await TestApp.boot({
      imports: [amqp({ consumers: false })],
      providers: [consumerOf({ queue: { name: queue }, bind: { exchange: 'test.no-such-exchange' } })],
    });
    expect(await scratch.state(queue)).toBeUndefined();
  });
});

test('a queue that @Consume defines is declared as it says', async () => {
  const queue = scratch.queueName();
  await using _app = await TestApp.boot({
    imports: [amqp()],
    providers: [consumerOf({ queue: { name: queue, messageTtl: '1m', maxLength: 5 } })],
  });
  // The broker compares: with other arguments this is refused.
  await scratch.declared(queue, { arguments: { 'x-message-ttl': 60_000, 'x-max-length': 5 } });
});

describe('AmqpModule.forFeature', () => {
  test('adds to the topology, whatever the order of the imports', async () => {
    const exchange = scratch.exchangeName();
    const queues = [scratch.queueName(), scratch.queueName()] as const;
    const before = moduleOf('BeforeModule', {
      imports: [
        AmqpModule.forFeature({ queues: [{ name: queues[0] }], bindings: [{ source: exchange, queue: queues[0] }] }),
      ],
    });
    const after = moduleOf('AfterModule', {
      imports: [
        AmqpModule.forFeature({
          exchanges: [{ name: exchange, type: 'fanout' }],
          queues: [{ name: queues[1] }],
          bindings: [{ source: exchange, queue: queues[1] }],
        }),
      ],
    });
    const root = AmqpModule.forRootAsync({ useFactory: () => Promise.resolve({ url: brokerUrl }) });
    await using app = await TestApp.boot({ imports: [before, root, moduleOf('MiddleModule', { imports: [after] })] });
    await app.get(AmqpPublisher).publish(exchange, 'any', 1);
    for (const queue of queues) expect((await scratch.take(queue)).body.toString()).toBe('1');
  });

  test('is for the connection that it names', async () => {
    const [first, second] = [scratch.queueName(), scratch.queueName()];
    const own = { exclusive: true, durable: false };
    await using app = await TestApp.boot({
      imports: [
        amqp(),
        AmqpModule.forRoot({ name: 'audit', url: brokerUrl }),
        AmqpModule.forFeature({ connection: 'audit', queues: [{ name: first, ...own }] }),
        AmqpModule.forFeature({ queues: [{ name: second, ...own }] }),
      ],
    });
    // The connection that declared an exclusive queue alone may use it.
    const audit = app.get(getChannelToken('audit') as string) as AmqpChannel;
    await audit.queueDeclare(first, { passive: true });
    await app.get(AmqpChannel).queueDeclare(second, { passive: true });
    await expect(audit.queueDeclare(second, { passive: true })).rejects.toMatchObject({ replyCode: 405 });
  });

  test('in a module that is loaded lazily is refused, because everything is declared by then', async () => {
    const queue = scratch.queueName();
    @Module({ imports: [AmqpModule.forFeature({ queues: [{ name: queue }] })] })
    class LazyModule {}
    await using app = await TestApp.boot({ imports: [amqp()] });
    const error = await failure(app.get(LazyModuleLoader).load(() => LazyModule));
    expect(error).toMatchObject({ code: 'INVALID_DEFINITION' });
    expect(error.message).toContain('Import its module in one that is there from the start.');
  });

  test('for a connection that nobody defines fails the boot before anything is opened', async () => {
    const line = new CuttableLine();
    const billing = moduleOf('BillingModule', {
      imports: [AmqpModule.forFeature({ connection: 'audti', queues: [] })],
    });
    const error = await bootFailure({ imports: [billing, amqp({ connection: { dial: line.dial } })] });
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toContain('AmqpModule.forFeature in BillingModule');
    expect(error.message).toContain("'audti', which no AmqpModule.forRoot defines. Defined are 'default'.");
    expect(line.dialled).toBe(0);
  });

  test.each([
    ['an unknown option', { queue: [] }, 'INVALID_OPTION', 'no option queue'],
    ['a definition that cannot be', { queues: [{ name: 'a', durble: true }] }, 'INVALID_DEFINITION', 'durble'],
  ])('%s is refused where it is written', (_what, options, code, told) => {
    const error = thrown(() => AmqpModule.forFeature(options as never));
    expect(error.code).toBe(code);
    expect(error.message).toContain(told);
  });
});

describe('what is declared in several places', () => {
  test('alike counts once', async () => {
    const [exchange, queue] = [scratch.exchangeName(), scratch.queueName()];
    const feature = AmqpModule.forFeature({
      exchanges: [{ name: exchange, type: 'topic', durable: true }],
      queues: [{ name: queue, messageTtl: '1m' }],
      bindings: [{ source: exchange, queue, routingKey: '#' }],
    });
    await using app = await TestApp.boot({
      imports: [
        amqp({
          topology: {
            exchanges: [{ name: exchange, type: 'topic' }],
            queues: [{ name: queue, arguments: { 'x-message-ttl': 60_000 } }],
          },
        }),
        moduleOf('OneModule', { imports: [feature] }),
        moduleOf('OtherModule', { imports: [feature] }),
      ],
      providers: [consumerOf({ queue: { name: queue, messageTtl: 60_000 }, bind: { exchange, routingKey: '#' } })],
    });
    await app.get(AmqpPublisher).publish(exchange, 'a', 1);
    expect(await got.next()).toBe(1);
  });

  test('differently fails the boot before anything is opened, naming both places and what differs', async () => {
    const line = new CuttableLine();
    const queue = 'billing';
    const billing = moduleOf('BillingModule', {
      imports: [AmqpModule.forFeature({ queues: [{ name: queue, type: 'quorum', messageTtl: '1m' }] })],
    });
    const error = await bootFailure({
      imports: [
        billing,
        amqp({ connection: { dial: line.dial }, topology: { queues: [{ name: queue, messageTtl: '10s' }] } }),
      ],
    });
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toBe(
      "Queue 'billing' is declared in two ways: " +
        'messageTtl is 10000 in AmqpModule.forRoot and 60000 in AmqpModule.forFeature in BillingModule; ' +
        "type is not set in AmqpModule.forRoot and 'quorum' in AmqpModule.forFeature in BillingModule. " +
        'Declare it in one place, or alike in both.',
    );
    expect(line.dialled).toBe(0);
  });

  test('differently by a decorator names the handler', async () => {
    const error = await bootFailure({
      imports: [amqp({ topology: { exchanges: [{ name: 'orders', type: 'topic' }], queues: [{ name: 'billing' }] } })],
      providers: [consumerOf({ queue: { name: 'billing', durable: false } })],
    });
    expect(error.message).toContain('durable is true in AmqpModule.forRoot and false in @Consume of Billing.charge');
  });

  test('differently by options of a factory fails the boot too', async () => {
    const queue = scratch.queueName();
    class Billing {
      @Consume({ useFactory: () => ({ queue: { name: queue, maxLength: 5 } }) })
      charge(): void {
        // takes them
      }
    }
    const error = await bootFailure({
      imports: [amqp({ topology: { queues: [{ name: queue }] } })],
      providers: [Billing],
    });
    expect(error.message).toContain('maxLength is not set in AmqpModule.forRoot and 5 in @Consume of Billing.charge');
  });
});

describe('what the broker has otherwise', () => {
  test('fails the boot with one error that lists all of it, and where it is declared', async () => {
    const queues = [await scratch.queue(), await scratch.queue()].sort();
    const billing = moduleOf('BillingModule', {
      imports: [AmqpModule.forFeature({ queues: [{ name: queues[0] ?? '', maxLength: 5 }] })],
    });
    const error = await bootFailure({
      imports: [billing, amqp()],
      providers: [consumerOf({ queue: { name: queues[1] ?? '', maxLength: 5 } })],
    });
    expect(conflictsOf(error)).toMatchObject([
      { entity: { name: queues[0] }, declaredIn: 'AmqpModule.forFeature in BillingModule' },
      { entity: { name: queues[1] }, declaredIn: '@Consume of Billing.charge' },
    ]);
  });

  test("is used as it is with onTopologyConflict: 'warn', which tells it once", async () => {
    const [exchange, queue] = [scratch.exchangeName(), await scratch.queue()];
    const line = new CuttableLine();
    await using app = await TestApp.boot({
      imports: [
        amqp({
          connection: { dial: line.dial },
          onTopologyConflict: 'warn',
          topology: {
            exchanges: [{ name: exchange, type: 'direct' }],
            queues: [{ name: queue, maxLength: 5 }],
          },
        }),
      ],
      providers: [consumerOf({ queue, bind: { exchange, routingKey: 'a' } })],
    });
    expect(await app.log.next('warn', queue)).toContain("AmqpModule.forRoot declares '5'");
    await app.get(AmqpPublisher).publish(exchange, 'a', 1);
    expect(await got.next()).toBe(1);

    await app.log.next('log', 'runs');
    line.cut();
    await app.log.next('log', 'runs');
    expect(app.log.text('warn').match(/It is used as it is/g)).toHaveLength(1);
  });

  test('since the boot is logged, and used: the connection comes back', async () => {
    const queue = scratch.queueName();
    const line = new CuttableLine();
    await using app = await TestApp.boot({
      imports: [amqp({ connection: { dial: line.dial }, topology: { queues: [{ name: queue, maxLength: 5 }] } })],
    });
    await scratch.delete(queue);
    await scratch.queue({ name: queue });
    line.cut();
    expect(await app.log.next('error', queue)).toContain(
      'It was declared before, and the connection is used as it is.',
    );
    await app.get(AmqpPublisher).sendToQueue(queue, 1);
    expect((await scratch.take(queue)).body.toString()).toBe('1');
  });

  test('what is missing after a reconnect is declared as soon as it can be', async () => {
    const [exchange, queue] = [await scratch.exchange('direct'), scratch.queueName()];
    const line = new CuttableLine();
    await using app = await TestApp.boot({
      imports: [amqp({ connection: { dial: line.dial } })],
      providers: [consumerOf({ queue, bind: { exchange, routingKey: 'a' } })],
    });
    await scratch.deleteExchange(exchange);
    line.cut();
    await app.log.next('error', `no exchange '${exchange}'`);
    await scratch.exchange('direct', { name: exchange });
    await app.log.next('log', 'What was missing for the topology is there');
    await app.get(AmqpPublisher).publish(exchange, 'a', 1);
    expect(await got.next()).toBe(1);
  });
});

describe("topologyMode: 'check'", () => {
  test('declares nothing: the boot fails over all that is missing', async () => {
    const [queue, consumed] = [scratch.queueName(), scratch.queueName()];
    const error = await bootFailure({
      imports: [
        amqp({
          topologyMode: 'check',
          topology: { exchanges: [{ name: 'test.no-such-exchange', type: 'topic' }], queues: [{ name: queue }] },
        }),
      ],
      providers: [consumerOf({ queue: consumed, bind: { exchange: 'test.no-such-exchange' } })],
    });
    const missing = conflictsOf(error).map(({ entity }) => 'name' in entity && entity.name);
    expect(missing).toEqual(['test.no-such-exchange', ...[queue, consumed].sort()]);
    expect(await scratch.state(queue)).toBeUndefined();
  });

  test('names all that handlers need, exchanges that nobody defines among them, with the handler', async () => {
    const [one, other] = [scratch.queueName(), scratch.queueName()].sort() as [string, string];
    class Billing {
      @Consume(one)
      charge(): void {
        // never called
      }

      @Consume(other, { bind: { exchange: 'test.no-such-exchange' } })
      refund(): void {
        // never called
      }
    }
    const error = await bootFailure({ imports: [amqp({ topologyMode: 'check' })], providers: [Billing] });
    expect(conflictsOf(error)).toMatchObject([
      { entity: { kind: 'exchange', name: 'test.no-such-exchange' }, declaredIn: '@Consume of Billing.refund' },
      { entity: { kind: 'queue', name: one }, declaredIn: '@Consume of Billing.charge' },
      { entity: { kind: 'queue', name: other }, declaredIn: '@Consume of Billing.refund' },
    ]);
  });

  test('says what it could not check', async () => {
    const [exchange, queue] = [await scratch.exchange('direct'), await scratch.queue()];
    await using app = await TestApp.boot({
      imports: [
        amqp({
          topologyMode: 'check',
          topology: { exchanges: [{ name: exchange, type: 'topic' }], queues: [{ name: queue, maxLength: 5 }] },
        }),
      ],
      providers: [consumerOf({ queue, bind: { exchange, routingKey: 'a' } })],
    });
    expect(app.log.text('log')).toContain('1 exchanges and 1 queues are there. Their properties, and 1 bindings');
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toBe(1);
    await expect(app.get(AmqpPublisher).publish(exchange, 'a', 1)).rejects.toMatchObject({ code: 'UNROUTABLE' });
  });

  test('does not declare the queue of a handler either, at the boot or when it is deleted', async () => {
    const queue = scratch.queueName();
    const connection = { recovery: { maxDelay: '200ms' } } as const;
    const metadata = { imports: [amqp({ connection, topologyMode: 'check' })], providers: [consumerOf({ queue })] };
    const error = await bootFailure(metadata);
    expect(error.message).toContain(
      `The broker has no queue '${queue}' (@Consume of Billing.charge), and topologyMode`,
    );
    await scratch.queue({ name: queue });
    await using app = await TestApp.boot(metadata);
    await scratch.delete(queue);
    await app.log.next('error', "topologyMode is 'check'");
    expect(await scratch.state(queue)).toBeUndefined();
    await scratch.queue({ name: queue });
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toBe(1);
  });

  test('declares and binds a queue without a name, which nobody else could, also one that is not exclusive', async () => {
    const exchange = await scratch.exchange('fanout');
    await using app = await TestApp.boot({
      imports: [amqp({ topologyMode: 'check' })],
      providers: [consumerOf({ queue: queue({ exclusive: false, durable: true }), bind: { exchange } })],
    });
    // It was not looked for, and its binding was made.
    expect(app.log.text('log')).toContain('0 exchanges and 0 queues are there. Their properties, and 0 bindings');
    await app.get(AmqpPublisher).publish(exchange, '', 1);
    expect(await got.next()).toBe(1);
  });
});

describe('a queue without a name', () => {
  const events = queue({});

  test('is consumed from by its definition: exclusive, bound, and declared again under another name', async () => {
    const exchange = await scratch.exchange('fanout');
    const line = new CuttableLine();
    class Cache {
      @Consume(queue(), { bind: { exchange } })
      clear(payload: unknown, delivery: Delivery): void {
        got.push([payload, delivery.queue]);
      }
    }
    await using app = await TestApp.boot({
      imports: [amqp({ connection: { dial: line.dial } })],
      providers: [Cache],
    });
    await app.log.next('log', 'Cache.clear');
    await scratch.publish(exchange, '', '1');
    const [, first] = (await got.next()) as [unknown, string];
    expect(first).toMatch(/^amq\./);
    expect(app.get(ConsumerRegistry).list()).toMatchObject([{ queue: first }]);
    // Nobody else's: the broker says so.
    await expect(scratch.state(first)).rejects.toMatchObject({ replyCode: 405 });

    line.cut();
    await app.log.next('log', 'Cache.clear');
    await scratch.publish(exchange, '', '2');
    const [, second] = (await got.next()) as [unknown, string];
    expect(second).toMatch(/^amq\./);
    expect(second).not.toBe(first);

    await app.get(AmqpChannel).queueDelete(second);
    await app.log.next('log', 'Cache.clear');
    await scratch.publish(exchange, '', '3');
    const [payload, third] = (await got.next()) as [unknown, string];
    expect(payload).toBe(3);
    expect(third).not.toBe(second);
    expect(got.all).toHaveLength(3);
  });

  test('is one queue wherever the same object stands: in a topology, in bindings, on several handlers', async () => {
    const exchange = await scratch.exchange('direct');
    class Cache {
      @Consume(events, { bind: { exchange, routingKey: 'a' }, competing: true })
      one(payload: unknown, delivery: Delivery): void {
        got.push([payload, delivery.queue]);
      }

      @Consume(events, { competing: true })
      other(payload: unknown, delivery: Delivery): void {
        got.push([payload, delivery.queue]);
      }
    }
    await using app = await TestApp.boot({
      imports: [
        amqp({ topology: { queues: [events] } }),
        AmqpModule.forFeature({ bindings: [{ source: exchange, queue: events, routingKey: 'b' }] }),
      ],
      providers: [Cache],
    });
    for (const key of ['a', 'b', 'a', 'b']) await scratch.publish(exchange, key, `"${key}"`);
    const queues = new Set<unknown>();
    for (let count = 0; count < 4; count += 1) queues.add(((await got.next()) as unknown[])[1]);
    expect(queues.size).toBe(1);

    for (let count = 0; count < 2; count += 1) await app.log.next('log', 'runs');
    await app.get(AmqpChannel).queueDelete([...queues][0] as string);
    for (let count = 0; count < 2; count += 1) await app.log.next('log', 'runs');
    await scratch.publish(exchange, 'b', '5');
    await got.next();
    expect(got.all).toHaveLength(5);
  });

  describe('is there once, so that nothing lies in a second one that nobody consumes from', () => {
    const recovery = { initialDelay: 1, maxDelay: 20 };
    /** Refuses a second message as long as nobody takes the first. */
    const small = (): QueueDefinition => queue({ maxLength: 1, overflow: 'reject-publish' });

    /** The publishes would be refused. */
    async function expectOneQueue(app: TestApp, exchange: string): Promise<void> {
      for (const payload of [1, 2, 3]) {
        await app.get(AmqpPublisher).publish(exchange, '', payload);
        expect(await got.next()).toBe(payload);
      }
    }

    test('when the options of a factory are there before the connection is', async () => {
      const [exchange, unnamed] = [await scratch.exchange('fanout'), small()];
      class Cache {
        @Consume({ useFactory: () => ({ queue: unnamed, bind: { exchange } }) })
        clear(payload: unknown): void {
          got.push(payload);
        }
      }
      await using app = await TestApp.boot({ imports: [amqp({ startup: 'background' })], providers: [Cache] });
      await app.log.next('log', 'Cache.clear');
      await expectOneQueue(app, exchange);
    });

    test('when its consumer is first started after a reconnect', async () => {
      const [exchange, unnamed] = [await scratch.exchange('fanout'), small()];
      class Cache {
        @Consume({ useFactory: () => ({ queue: unnamed, bind: { exchange }, autoStart: false }) })
        clear(payload: unknown): void {
          got.push(payload);
        }
      }
      const line = new CuttableLine();
      await using app = await TestApp.boot({
        imports: [amqp({ connection: { dial: line.dial, recovery } })],
        providers: [Cache],
      });
      await app.log.next('log', "Connection 'default' is open");
      line.cut();
      await app.log.next('log', "Connection 'default' is open");
      app.get(ConsumerRegistry).resume('Cache.clear');
      await app.log.next('log', 'Cache.clear');
      await expectOneQueue(app, exchange);
    });

    test('when two that compete for it have their options from factories', async () => {
      const [exchange, unnamed] = [await scratch.exchange('fanout'), small()];
      const useFactory = (): ConsumeOptionsWithQueue => ({ queue: unnamed, bind: { exchange }, competing: true });
      class Cache {
        @Consume({ useFactory })
        one(payload: unknown): void {
          got.push(payload);
        }

        @Consume({ useFactory })
        other(payload: unknown): void {
          got.push(payload);
        }
      }
      await using app = await TestApp.boot({ imports: [amqp()], providers: [Cache] });
      await expectOneQueue(app, exchange);
      expect(
        new Set(
          app
            .get(ConsumerRegistry)
            .list()
            .map(({ queue: name }) => name),
        ).size,
      ).toBe(1);
    });

    test.each(['declare', 'check'] as const)('when it went, and an exchange with it (%s)', async (topologyMode) => {
      const [kept, gone, unnamed] = [await scratch.exchange('fanout'), await scratch.exchange('fanout'), small()];
      class Cache {
        @Consume(unnamed, { bind: [{ exchange: kept }, { exchange: gone }] })
        clear(payload: unknown): void {
          got.push(payload);
        }
      }
      await using app = await TestApp.boot({
        imports: [amqp({ topologyMode, connection: { recovery } })],
        providers: [Cache],
      });
      await app.log.next('log', 'Cache.clear');
      const registry = app.get(ConsumerRegistry);
      await scratch.deleteExchange(gone);
      const failed = new Gate();
      registry.on('status', (_consumer, status) => {
        if ('attempts' in status && status.attempts > 4) failed.open();
      });
      await app.get(AmqpChannel).queueDelete(registry.get('Cache.clear').queue);
      await within('five attempts', failed.opened);
      await scratch.exchange('fanout', { name: gone });
      await app.log.next('log', 'Cache.clear');
      await expectOneQueue(app, kept);
      await expectOneQueue(app, gone);
    });
  });

  test('that nobody declares cannot be bound', async () => {
    const error = await bootFailure({
      imports: [amqp({ topology: { bindings: [{ source: 'amq.fanout', queue: {} }] } })],
    });
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toContain(
      "In AmqpModule.forRoot exchange 'amq.fanout' is bound to a queue without a name that nobody declares",
    );
  });

  test('leaves dead letters in a queue that is named after the handler', async () => {
    const exchange = await scratch.exchange('fanout');
    const name = `Cache${randomUUID().replaceAll('-', '')}`;
    const dead = scratch.owns(`${name}.clear.dead`);
    const cache = {
      [name]: class {
        clear(): void {
          throw new Error('never');
        }
      },
    }[name] as Type;
    const clear = Object.getOwnPropertyDescriptor(cache.prototype, 'clear') as PropertyDescriptor;
    Consume(queue(), { bind: { exchange } })(cache.prototype as object, 'clear', clear);
    await using app = await TestApp.boot({ imports: [amqp()], providers: [cache] });
    await scratch.publish(exchange, '', '1');
    await app.log.next('error', 'It is in queue');
    const { properties } = await scratch.take(dead);
    expect(properties.headers?.['x-nest-amqp-queue']).toMatch(/^amq\./);
  });
});

test('an exclusive queue with a name comes back with its bindings as soon as nobody else holds it', async () => {
  const [exchange, name] = [await scratch.exchange('fanout'), scratch.queueName()];
  const own = { exclusive: true, durable: false };
  const line = new CuttableLine();
  await using app = await TestApp.boot({
    imports: [amqp({ connection: { dial: line.dial } })],
    providers: [consumerOf({ queue: { name, ...own }, bind: { exchange } })],
  });
  await app.log.next('log', 'runs');
  line.isDown = true;
  line.cut();
  // As a connection does that the broker has not noticed to be lost.
  await eventually('that the broker has let go of it', () =>
    scratch.queue({ name, ...own }).catch((error: unknown) => {
      if ((error as AmqpError).replyCode === 405) return undefined;
      throw error;
    }),
  );
  line.isDown = false;
  await app.log.next('error', 'Another connection holds it');
  await scratch.delete(name);
  await app.log.next('log', 'runs');
  await scratch.publish(exchange, '', '1');
  expect(await got.next()).toBe(1);
});

describe('declarations that are known to go wrong', () => {
  test('tell of a prefetch that its handler gives, and that is below its batches', async () => {
    const [one, other] = [await scratch.queue(), await scratch.queue()];
    class Billing {
      @Consume(one, { prefetch: 5, batch: { size: 10 } })
      small(): void {
        // takes them
      }

      @Consume(other, { batch: { size: 100 } })
      large(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({ imports: [amqp({ consumers: { prefetch: 5 } })], providers: [Billing] });
    const warned = app.log.text('warn');
    expect(warned).toContain('@Consume of Billing.small has prefetch 5 and batches of 10');
    expect(warned).not.toContain('Billing.large');
  });

  test('are logged once, however often they are declared', async () => {
    const [exchange, name] = [scratch.exchangeName(), scratch.queueName()];
    const line = new CuttableLine();
    await using app = await TestApp.boot({
      imports: [
        amqp({
          connection: { dial: line.dial },
          topology: {
            exchanges: [{ name: exchange, type: 'topic', alternateExchange: 'test.no-such-exchange' }],
            queues: [{ name, deadLetter: { exchange } }],
          },
        }),
      ],
      providers: [consumerOf({ queue: name })],
    });
    await app.log.next('log', 'runs');
    line.cut();
    await app.log.next('log', 'runs');
    const warned = app.log.text('warn');
    expect(warned.match(/alternate-exchange-missing/g)).toHaveLength(1);
    expect(warned).toContain(
      `Exchange '${exchange}' has the alternate exchange 'test.no-such-exchange', which nobody declares`,
    );
  });

  test('fail the boot before anything is declared where the broker would refuse them', async () => {
    const [first, second] = [scratch.queueName(), scratch.queueName()];
    const error = await bootFailure({
      imports: [amqp({ topology: { queues: [{ name: first }, { name: second, type: 'quorum', maxPriority: 5 }] } })],
      providers: [consumerOf({ queue: first })],
    });
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toContain(`Queue '${second}' (AmqpModule.forRoot) is a quorum queue with maxPriority`);
    expect(await scratch.state(first)).toBeUndefined();
  });

  test('are no reason to do without a later connection: they are logged, and it is used as it is', async () => {
    const [dead, name] = [await scratch.exchange('fanout'), scratch.queueName()];
    const line = new CuttableLine();
    class Billing {
      @Consume({ useFactory: () => ({ queue: scratch.owns(`${name}.late`), autoStart: false }) })
      defer(payload: unknown): void {
        got.push(payload);
      }
    }
    await using app = await TestApp.boot({
      imports: [
        amqp({
          connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } },
          topology: { queues: [{ name, deadLetter: { exchange: dead } }] },
          topologyChecks: { 'dead-letter-missing': 'error' },
        }),
      ],
      providers: [Billing],
    });
    await app.log.next('log', "Connection 'default' is open");
    await scratch.deleteExchange(dead);
    line.cut();
    expect(await app.log.next('error', 'dead-letter-missing')).toContain('the connection is used as it is');
    await app.log.next('log', "Connection 'default' is open");
    app.get(ConsumerRegistry).resume('Billing.defer');
    await app.log.next('log', 'Billing.defer');
    await scratch.sendJson(`${name}.late`, 1);
    expect(await got.next()).toBe(1);
  });

  test('of consumers are found in each of several classes of one name', async () => {
    const name = scratch.queueName();
    const small = consumerOf({ queue: name, competing: true, prefetch: 5, batch: { size: 10 } });
    const large = consumerOf({ queue: name, competing: true });
    await using app = await TestApp.boot({
      imports: [amqp(), moduleOf('One', { providers: [small] }), moduleOf('Other', { providers: [large] })],
    });
    expect(app.log.text('warn')).toContain('@Consume of Billing.charge has prefetch 5 and batches of 10');
  });

  test('have levels by their codes', async () => {
    const name = scratch.queueName();
    const topology = { queues: [{ name, durable: false }] };
    const error = await bootFailure({
      imports: [amqp({ topology, topologyChecks: { 'transient-shared-queue': 'error' } })],
    });
    expect(error.message).toContain('(transient-shared-queue: ');
    await using app = await TestApp.boot({
      imports: [amqp({ topology, topologyChecks: { 'transient-shared-queue': 'off' } })],
    });
    expect(app.log.text()).not.toContain('transient-shared-queue');
  });

  test('of consumers are found, also of those whose options come from a factory', async () => {
    const name = scratch.queueName();
    class Billing {
      @Consume({ useFactory: () => ({ queue: { name, singleActiveConsumer: true }, exclusive: true }) })
      charge(): void {
        // never runs
      }
    }
    const error = await bootFailure({ imports: [amqp()], providers: [Billing] });
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toContain('@Consume of Billing.charge is exclusive on queue');
  });

  test("are logged and no more where somebody else declares: topologyMode: 'check'", async () => {
    const name = await scratch.queue();
    await using app = await TestApp.boot({
      imports: [amqp({ topologyMode: 'check', topology: { queues: [{ name, type: 'quorum', maxPriority: 5 }] } })],
    });
    expect(app.log.text('warn')).toContain('quorum-priority');
  });

  test('have codes that are known: another one is refused', async () => {
    const error = await bootFailure({ imports: [amqp({ topologyChecks: { 'queue-moed': 'off' } as never })] });
    expect(error.message).toContain('no check queue-moed');
  });
});
