/** The consumers of an application as it sees them: listed, named, paused, resumed, drained, and told of. */
import { Injectable } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  Consume,
  ConsumerRegistry,
  type ConsumerState,
  type Delivery,
} from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure, refusalOf, thrown } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, within } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
let events: Inbox<string>;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  events = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const FAST = { initialDelay: 1, maxDelay: 20 };

function amqp(options: AmqpModuleOptions = {}): ReturnType<typeof AmqpModule.forRoot> {
  return AmqpModule.forRoot({ url: brokerUrl, connection: { dial: line.dial, recovery: FAST }, ...options });
}

/** What becomes of the consumers of an application, from now on. */
function statesOf(app: TestApp): Inbox<[name: string, state: ConsumerState]> {
  const states = new Inbox<[string, ConsumerState]>();
  app.get(ConsumerRegistry).on('status', ({ name }, { state }) => {
    states.push([name, state]);
  });
  return states;
}

describe('the registry', () => {
  test('lists every consumer with its queue, its connection and its state', async () => {
    const [queue, audit] = [await scratch.queue(), await scratch.queue()];
    class Billing {
      @Consume(queue, { prefetch: 7 })
      charge(): void {
        // takes them
      }

      @Consume(audit, { connection: 'audit', autoStart: false })
      audit(): void {
        // takes them
      }
    }
    const second = AmqpModule.forRoot({ name: 'audit', url: brokerUrl });
    await using app = await TestApp.boot({ imports: [amqp(), second], providers: [Billing] });
    const registry = app.get(ConsumerRegistry);
    expect(registry.list()).toHaveLength(2);
    expect(registry.get('Billing.charge')).toMatchObject({
      name: 'Billing.charge',
      queue,
      connection: 'default',
      prefetch: 7,
      state: 'running',
      underWay: 0,
    });
    expect(registry.get('Billing.audit')).toMatchObject({ queue: audit, connection: 'audit', state: 'idle' });
  });

  test('gives consumers of one name names of their own', async () => {
    const [one, two] = [await scratch.queue(), await scratch.queue()];
    class Billing {
      @Consume(one)
      @Consume(two, { competing: true })
      @Consume(two, { competing: true })
      charge(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const registry = app.get(ConsumerRegistry);
    const names = registry.list().map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toContain('Billing.charge');
    expect(registry.get('Billing.charge').queue).toBe(one);
    expect(registry.get(`Billing.charge (${two})`).queue).toBe(two);
  });

  test('finds the one consumer of handlers that share a queue by the name of each', async () => {
    const [queue, other] = [await scratch.queue(), await scratch.queue()];
    class Billing {
      @Consume(queue, { when: 'placed' })
      @Consume(other, { when: 'placed' })
      charge(): void {
        // takes them
      }

      @Consume(queue, { when: 'refunded' })
      refund(): void {
        // takes them
      }

      @Consume(other, { when: 'refunded' })
      note(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const registry = app.get(ConsumerRegistry);
    const [shared, noted] = registry.list();
    expect(registry.list().map(({ name }) => name)).toEqual([
      'Billing.charge, Billing.refund',
      'Billing.charge, Billing.note',
    ]);
    expect(shared?.handlers).toEqual(['Billing.charge', 'Billing.refund']);
    expect(registry.get('Billing.charge, Billing.refund')).toBe(shared);
    expect(registry.get('Billing.refund')).toBe(shared);
    expect(registry.get('Billing.note')).toBe(noted);
    // Behind two consumers: the first has the name, and any has it with its queue.
    expect(registry.get('Billing.charge')).toBe(shared);
    expect(registry.get(`Billing.charge (${queue})`)).toBe(shared);
    expect(registry.get(`Billing.charge (${other})`)).toBe(noted);
    await registry.pause('Billing.refund');
    await scratch.hasConsumers(queue, 0);
    await scratch.hasConsumers(other, 1);
    expect(thrown(() => registry.get('Billing.charge, Billing')).code).toBe('UNKNOWN_CONSUMER');
  });

  test('gives a name that is taken to a consumer of that name before one that shares its handler', async () => {
    const [queue, alone] = [await scratch.queue(), await scratch.queue()];
    class Billing {
      @Consume(queue, { when: 'placed' })
      @Consume(alone)
      charge(): void {
        // takes them
      }

      @Consume(queue, { when: 'refunded' })
      refund(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const registry = app.get(ConsumerRegistry);
    expect(registry.get('Billing.charge').queue).toBe(alone);
    expect(registry.get(`Billing.charge (${queue})`).queue).toBe(queue);
    expect(registry.get(`Billing.charge (${alone})`).queue).toBe(alone);
  });

  test('says of an unknown name which there are', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const registry = app.get(ConsumerRegistry);
    expect(thrown(() => registry.get('Billing.refund'))).toMatchObject({ code: 'UNKNOWN_CONSUMER' });
    const error = await failure(registry.pause('Billing.refund'));
    expect(error.message).toContain("'Billing.charge'");
    expect((await failure(registry.drain('Billing.refund'))).code).toBe('UNKNOWN_CONSUMER');
    expect(thrown(() => registry.resume('x')).code).toBe('UNKNOWN_CONSUMER');
    expect(thrown(() => registry.resume(5 as unknown as string)).message).toContain('has to be a text; it is 5.');
  });

  test('pauses one, which gives back what has not begun, and leaves the others alone', async () => {
    const [queue, other] = [await scratch.queue(), await scratch.queue()];
    const gate = new Gate();
    class Billing {
      @Consume(queue, { prefetch: 1 })
      async charge(payload: string): Promise<void> {
        events.push(payload);
        await gate.opened;
      }

      @Consume(other)
      refund(payload: string): void {
        events.push(payload);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const registry = app.get(ConsumerRegistry);
    await scratch.sendJson(queue, 'first');
    expect(await events.next()).toBe('first');
    await registry.pause('Billing.charge');
    await scratch.sendJson(queue, 'second');
    await scratch.sendJson(other, 'other');
    expect(await events.next()).toBe('other');
    expect(registry.list().map(({ state }) => state)).toEqual(['paused', 'running']);
    expect(registry.get('Billing.charge').underWay).toBe(1);
    gate.open();
    registry.resume('Billing.charge');
    expect(await events.next()).toBe('second');
  });

  test('drains all, which stay paused across a reconnect, and resumes all but those that were never started', async () => {
    const [queue, later, other] = [await scratch.queue(), await scratch.queue(), await scratch.queue()];
    const gate = new Gate();
    class Billing {
      @Consume(queue)
      async charge(payload: string): Promise<void> {
        events.push(payload);
        await gate.opened;
      }

      @Consume(later, { autoStart: false })
      report(payload: string): void {
        events.push(payload);
      }

      @Consume(other)
      refund(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const registry = app.get(ConsumerRegistry);
    await scratch.sendJson(queue, 'first');
    await events.next();
    expect(await failure(registry.drain({ timeout: 1 }))).toMatchObject({ code: 'ABORTED' });
    const mistyped = { timeuot: 1 };
    expect(await failure(registry.drain(mistyped as object))).toMatchObject({ code: 'INVALID_OPTION' });
    gate.open();
    await within('the drain', registry.drain());
    registry.resume('Billing.refund');
    const states = statesOf(app);
    const runs = ([name, state]: [string, ConsumerState]): boolean => name === 'Billing.refund' && state === 'running';
    await states.next('it runs', runs);
    line.cut();
    // The others would start again beside this one.
    await states.next('it runs again', runs);
    await scratch.sendJson(queue, 'second');
    expect(registry.get('Billing.charge').state).toBe('paused');
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 0 });
    registry.resume();
    expect(await events.next()).toBe('second');
    expect(registry.get('Billing.report').state).toBe('idle');
    await scratch.sendJson(later, 'report');
    registry.resume('Billing.report');
    expect(await events.next()).toBe('report');
  });

  test('tells every change, whatever a listener throws', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(): void {
        // takes them
      }
    }
    const app = await TestApp.compile({ imports: [amqp()], providers: [Billing] });
    const states = statesOf(app);
    await app.module.init();
    await states.next('it runs', ([name, state]) => name === 'Billing.charge' && state === 'running');
    await scratch.delete(queue);
    await states.next('it recovers', ([, state]) => state === 'recovering');
    await states.next('it runs again', ([, state]) => state === 'running');
    await app.close();
    expect(states.all.at(-1)).toEqual(['Billing.charge', 'stopped']);
  });

  test('of an application that closes resumes nothing', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue)
      charge(): void {
        // takes them
      }
    }
    const app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const registry = app.get(ConsumerRegistry);
    await app.close();
    registry.resume();
    expect(registry.get('Billing.charge').state).toBe('stopped');
    expect(thrown(() => registry.get('Billing.charge').resume()).code).toBe('ABORTED');
    await registry.pause();
    await registry.drain();
  });

  test('is there for handlers: one may pause its own consumer', async () => {
    const queue = await scratch.queue();
    @Injectable()
    class Billing {
      constructor(readonly consumers: ConsumerRegistry) {}

      @Consume(queue, { prefetch: 1 })
      async charge(payload: string, _delivery: Delivery): Promise<void> {
        events.push(payload);
        await this.consumers.pause('Billing.charge');
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 'first');
    await scratch.sendJson(queue, 'second');
    expect(await events.next()).toBe('first');
    await within('the drain', app.get(ConsumerRegistry).drain());
    await scratch.hasMessages(queue, 1);
    expect(events.all).toEqual(['first']);
  });
});

describe('autoStart', () => {
  test('false leaves a queue that takes what is published until it is started', async () => {
    const queue = scratch.queueName();
    const got = new Inbox<unknown>();
    class Reports {
      @Consume(queue, { autoStart: false })
      make(payload: unknown): void {
        got.push(payload);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Reports] });
    await app.get(AmqpPublisher).sendToQueue(queue, 'early');
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 1, consumerCount: 0 });
    expect(got.all).toEqual([]);
    app.get(ConsumerRegistry).resume('Reports.make');
    expect(await got.next()).toBe('early');
  });

  test('false in the module leaves all of them to be started', async () => {
    const queue = await scratch.queue();
    class Billing {
      @Consume(queue, { competing: true })
      charge(): void {
        // takes them
      }

      @Consume(queue, { autoStart: true, competing: true })
      refund(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({
      imports: [amqp({ consumers: { autoStart: false } })],
      providers: [Billing],
    });
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
    for (const consumer of app.get(ConsumerRegistry).list()) consumer.resume();
    await scratch.hasConsumers(queue, 2);
  });

  test('has to be true or false', () => {
    const error = refusalOf(Consume('billing', { autoStart: 'false' as unknown as boolean }));
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
  });
});
