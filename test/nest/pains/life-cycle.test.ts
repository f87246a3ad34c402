/** Boots that end, one way or the other, and shutdowns that begin nothing. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AmqpModule, AmqpPublisher, Consume, ConsumerRegistry, type Delivery } from 'nest-amqp';

import { brokerUrl } from '../../support/broker.mjs';
import { failure } from '../../support/client.js';
import { TestApp, isNest11 } from '../../support/nest-app.js';
import { CuttableLine, Scratch } from '../../support/scratch.js';
import { Gate, Inbox, within } from '../../support/waits.js';

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

test('e2b: a shutdown begins no handler, and what those that run answer arrives (golevelup: 3 more began, acknowledgements failed)', async () => {
  const queue = await scratch.queue();
  const gate = new Gate();
  const finished: unknown[] = [];
  class Billing {
    @Consume(queue, { prefetch: 3 })
    async charge(payload: unknown): Promise<void> {
      got.push(payload);
      await gate.opened;
      finished.push(payload);
    }
  }
  const app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Billing] });
  for (let id = 0; id < 9; id += 1) await scratch.sendJson(queue, id);
  for (let id = 0; id < 3; id += 1) expect(await got.next()).toBe(id);
  const closed = app.close();
  await scratch.hasConsumers(queue, 0);
  gate.open();
  await closed;
  expect(finished).toEqual([0, 1, 2]);
  expect(got.all).toEqual([0, 1, 2]);
  expect(await scratch.drain(queue)).toEqual(['3', '4', '5', '6', '7', '8']);
});

test('e8: an application with handlers boots while the broker is away, and consumes when it comes (golevelup: init() hangs)', async () => {
  const queue = scratch.queueName();
  const line = new CuttableLine();
  line.isDown = true;
  class Billing {
    @Consume(queue)
    charge(payload: unknown): void {
      got.push(payload);
    }
  }
  const module = AmqpModule.forRoot({
    url: brokerUrl,
    startup: 'background',
    connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } },
  });
  await using app = await TestApp.boot({ imports: [module], providers: [Billing] });
  await app.log.next('warn', 'is down');
  line.isDown = false;
  await scratch.hasConsumers(queue, 1);
  await app.get(AmqpPublisher).sendToQueue(queue, 7);
  expect(await got.next()).toBe(7);
});

test('e9: queues that differ from the broker’s fail the boot with one error that lists them all (golevelup: a hang and an unhandled rejection)', async () => {
  const [flag, argument, alike] = [await scratch.queue(), await scratch.queue(), await scratch.queue()];
  class Billing {
    @Consume(flag)
    charge(): void {
      got.push('called');
    }
  }
  const topology = {
    queues: [{ name: flag, durable: false }, { name: argument, messageTtl: 1_000 }, { name: alike }],
  };
  const imports = [AmqpModule.forRoot({ url: brokerUrl, topology })];
  const error = await failure(TestApp.boot({ imports, providers: [Billing] }));
  for (const name of [flag, argument]) expect(error.message).toContain(name);
  expect(error.message).not.toContain(alike);
  expect(error.message).toContain('durable');
  expect(error.message).toContain('x-message-ttl');
  for (const name of [flag, argument]) expect(await scratch.state(name)).toMatchObject({ consumerCount: 0 });
});

test('e20: a handler that binds to an exchange which nobody declares fails the boot and names both (golevelup: a hang)', async () => {
  const [queue, exchange] = [scratch.queueName(), scratch.exchangeName()];
  class Billing {
    @Consume(queue, { bind: { exchange, routingKey: 'order.*' } })
    charge(payload: unknown, { routingKey }: Delivery): void {
      got.push([routingKey, payload]);
    }
  }
  const boot = (exchanges: { name: string; type: 'topic' }[]): Promise<TestApp> =>
    TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl, topology: { exchanges } })], providers: [Billing] });
  const error = await failure(boot([]));
  for (const name of [queue, exchange]) expect(error.message).toContain(name);
  await using app = await boot([{ name: exchange, type: 'topic' }]);
  await app.get(AmqpPublisher).publish(exchange, 'order.placed', 7);
  expect(await got.next()).toEqual(['order.placed', 7]);
});

test('nest12: the package is for the Nest that runs, 11 and 12, and consumes there what it publishes (golevelup: npm refuses Nest 12)', async () => {
  const resolve = createRequire(
    new URL(isNest11 ? '../../nest-11/package.json' : '../../../package.json', import.meta.url),
  );
  const { version } = resolve('@nestjs/core/package.json') as { version: string };
  const manifest = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
    peerDependencies: Record<string, string>;
  };
  const major = version.split('.')[0] ?? '';
  expect(major).toBe(isNest11 ? '11' : '12');
  for (const name of ['@nestjs/common', '@nestjs/core']) {
    expect(manifest.peerDependencies[name]?.split(' || ')).toContain(`^${major}.0.0`);
  }
  const queue = await scratch.queue();
  class Billing {
    @Consume(queue)
    charge(payload: unknown): void {
      got.push(payload);
    }
  }
  await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Billing] });
  await within('the publish', app.get(AmqpPublisher).sendToQueue(queue, { id: 7 }));
  expect(await got.next()).toEqual({ id: 7 });
});

test('e18: a consumer that was paused stays paused across a reconnect (golevelup: it comes back alone)', async () => {
  const [queue, other] = [await scratch.queue(), await scratch.queue()];
  const line = new CuttableLine();
  class Billing {
    @Consume(queue)
    charge(payload: unknown): void {
      got.push(payload);
    }

    @Consume(other)
    refund(): void {
      // takes them
    }
  }
  const module = AmqpModule.forRoot({
    url: brokerUrl,
    connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } },
  });
  await using app = await TestApp.boot({ imports: [module], providers: [Billing] });
  await app.log.next('log', 'Billing.refund');
  const registry = app.get(ConsumerRegistry);
  await registry.pause('Billing.charge');
  line.cut();
  // It starts again behind the other one, as far as that does.
  await app.log.next('log', 'Billing.refund');
  await scratch.sendJson(queue, 'paused');
  await scratch.hasMessages(queue, 1);
  expect(await scratch.state(queue)).toMatchObject({ consumerCount: 0 });
  registry.resume('Billing.charge');
  expect(await got.next()).toBe('paused');
});
