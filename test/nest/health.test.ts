/** What health tells: of connections, of consumers, and through terminus; and that it leaves nothing on the broker. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { TerminusModule } from '@nestjs/terminus';
import {
  AmqpConnection,
  AmqpHealth,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  Consume,
  ConsumerRegistry,
  type HealthReport,
  getHealthToken,
} from 'nest-amqp';
import { AmqpHealthIndicator } from 'nest-amqp/terminus';

import { EmbeddedBroker } from '../../lib/testing.js';
import { brokerUrl } from '../support/broker.mjs';
import { thrown } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox, eventually, within } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const FAST = { initialDelay: 1, maxDelay: 20 };

function amqp(options: AmqpModuleOptions = {}): ReturnType<typeof AmqpModule.forRoot> {
  return AmqpModule.forRoot({ url: brokerUrl, connection: { dial: line.dial, recovery: FAST }, ...options });
}

function billing(queue: string): new () => object {
  class Billing {
    @Consume(queue)
    charge(): void {
      // takes them
    }
  }
  return Billing;
}

async function becomes(app: TestApp, state: string): Promise<void> {
  const states = new Inbox<string>();
  app.get(ConsumerRegistry).on('status', (_consumer, status) => {
    states.push(status.state);
  });
  await states.next(`the state ${state}`, (seen) => seen === state);
}

describe('health', () => {
  test('is fine without a consumer, and before anything is published', async () => {
    await using app = await TestApp.boot({ imports: [amqp()] });
    expect(app.get(AmqpHealth).check()).toMatchObject({
      healthy: true,
      problems: [],
      connections: { consuming: { state: 'open' }, publishing: { state: 'idle' } },
      consumers: [],
    });
  });

  test('tells of each consumer, and of those of its own connection only', async () => {
    const queue = await scratch.queue();
    const audit = AmqpModule.forRoot({ name: 'audit', url: brokerUrl });
    await using app = await TestApp.boot({ imports: [amqp(), audit], providers: [billing(queue)] });
    const { consumers } = app.get(AmqpHealth).check();
    expect(consumers).toEqual([
      { name: 'Billing.charge', queue, state: 'running', since: expect.any(Date) as unknown, underWay: 0 },
    ]);
    const other = app.get(getHealthToken('audit') as string) as AmqpHealth;
    expect(other.check()).toMatchObject({ healthy: true, consumers: [] });
  });

  test('is bad from when a queue is deleted, if no recovering is allowed for, until the consumer runs again', async () => {
    const queue = await scratch.queue();
    await using app = await TestApp.boot({ imports: [amqp()], providers: [billing(queue)] });
    const health = app.get(AmqpHealth);
    const reports: HealthReport[] = [];
    const lenient: HealthReport[] = [];
    app.get(ConsumerRegistry).on('status', () => {
      reports.push(health.check({ recovering: 0 }));
      lenient.push(health.check());
    });
    const runs = becomes(app, 'running');
    await scratch.delete(queue);
    await runs;
    expect(reports.map(({ healthy }) => healthy)).toEqual([false, true]);
    expect(reports[0]?.problems.join()).toContain("'Billing.charge'");
    expect(reports[0]?.consumers[0]).toMatchObject({ state: 'recovering' });
    expect(lenient.map(({ healthy }) => healthy)).toEqual([true, true]);
  });

  test('is bad while a consumer has failed, however long it may recover', async () => {
    const [queue, exchange] = [scratch.queueName(), await scratch.exchange('fanout')];
    const topology = { queues: [{ name: queue }], bindings: [{ source: exchange, queue }] };
    await using app = await TestApp.boot({ imports: [amqp({ topology })], providers: [billing(queue)] });
    const failed = becomes(app, 'failed');
    await scratch.deleteExchange(exchange);
    await scratch.delete(queue);
    await failed;
    const { healthy, problems } = app.get(AmqpHealth).check({ recovering: false });
    expect(healthy).toBe(false);
    expect(problems.join()).toContain(exchange);
  });

  test('is fine while a consumer is paused, or was never started', async () => {
    const [queue, later] = [await scratch.queue(), await scratch.queue()];
    class Later {
      @Consume(later, { autoStart: false })
      charge(): void {
        // takes them
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [billing(queue), Later] });
    await app.get(ConsumerRegistry).pause('Billing.charge');
    const { healthy, consumers } = app.get(AmqpHealth).check();
    expect(healthy).toBe(true);
    expect(consumers.map(({ state }) => state).sort()).toEqual(['idle', 'paused']);
  });

  test('is bad while there is no connection, for longer than it may be', async () => {
    await using app = await TestApp.boot({ imports: [amqp()] });
    const health = app.get(AmqpHealth);
    const lost = new Promise<HealthReport[]>((resolve) => {
      app.get(AmqpConnection).once('status', () => {
        resolve([health.check(), health.check({ disconnected: '1h' })]);
      });
    });
    line.cut();
    const [strict, lenient] = await within('the loss', lost);
    expect(strict).toMatchObject({ healthy: false, connections: { consuming: { state: 'connecting' } } });
    expect(strict?.problems[0]).toContain('is down');
    expect(lenient?.healthy).toBe(true);
    await eventually('health again', () => Promise.resolve(health.check().healthy ? true : undefined));
    await app.close();
    expect(health.check()).toMatchObject({ healthy: false, connections: { consuming: { state: 'closed' } } });
  });

  test('tells that the broker blocks publishing, and is bad then if that is asked for', async () => {
    await using broker = await EmbeddedBroker.listen();
    await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: broker.url })] });
    const health = app.get(AmqpHealth);
    const publisher = app.get(AmqpPublisher);
    await publisher.publish('', 'nowhere', 1, { mandatory: false });
    broker.block('low on memory');
    const blocked = await eventually('the block', () =>
      Promise.resolve(health.check().connections.publishing.blocked ?? undefined),
    );
    expect(blocked).toMatchObject({ reason: 'low on memory', since: expect.any(Date) as unknown });
    expect(health.check().healthy).toBe(true);
    expect(health.check({ blocked: '1h' }).healthy).toBe(true);
    const strict = health.check({ blocked: 0 });
    expect(strict.healthy).toBe(false);
    expect(strict.problems.join()).toContain('low on memory');
    broker.unblock();
    await eventually('no block', () => Promise.resolve(health.check({ blocked: 0 }).healthy ? true : undefined));
  });

  test('refuses options that there are not', async () => {
    await using app = await TestApp.boot({ imports: [amqp()] });
    const health = app.get(AmqpHealth);
    expect(thrown(() => health.check({ recover: '1m' } as object)).code).toBe('INVALID_OPTION');
    expect(thrown(() => health.check({ recovering: 'soon' as '1s' })).code).toBe('INVALID_OPTION');
  });

  test('declares and leaves nothing on the broker', async () => {
    await using broker = await EmbeddedBroker.listen();
    await using app = await TestApp.boot({
      imports: [AmqpModule.forRoot({ url: broker.url }), TerminusModule],
      providers: [AmqpHealthIndicator],
    });
    const before = JSON.stringify([broker.queues, broker.exchanges, broker.connections]);
    for (let round = 0; round < 3; round += 1) app.get(AmqpHealthIndicator).isHealthy('amqp');
    await broker.settled();
    expect(JSON.stringify([broker.queues, broker.exchanges, broker.connections])).toBe(before);
  });
});

describe('the indicator of terminus', () => {
  test('is up with what is known, and down with the problems', async () => {
    const queue = await scratch.queue();
    await using app = await TestApp.boot({
      imports: [amqp(), AmqpModule.forRoot({ name: 'audit', url: brokerUrl }), TerminusModule],
      providers: [billing(queue), AmqpHealthIndicator],
    });
    const indicator = app.get(AmqpHealthIndicator);
    expect(indicator.isHealthy('amqp')).toMatchObject({
      amqp: { status: 'up', problems: [], consumers: [{ name: 'Billing.charge' }] },
    });
    expect(indicator.isHealthy('audit', { connection: 'audit' })).toMatchObject({ audit: { status: 'up' } });
    expect(thrown(() => indicator.isHealthy('amqp', { connection: 'nobody' }))).toMatchObject({
      code: 'INVALID_OPTION',
      message: expect.stringContaining("connection 'nobody', which no AmqpModule.forRoot defines") as unknown,
    });
    const down = new Promise((resolve) => {
      app.get(AmqpConnection).once('status', () => {
        resolve(indicator.isHealthy('amqp'));
      });
    });
    line.cut();
    expect(await within('the loss', down)).toMatchObject({ amqp: { status: 'down', problems: [expect.any(String)] } });
  });
});
