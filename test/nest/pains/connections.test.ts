/** What an error of one channel, a deleted queue or a lost connection must not do to the consumers of an application. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AmqpChannel, AmqpConnection, AmqpModule, AmqpPublisher, Consume, Delivery, type Topology } from 'nest-amqp';

import { brokerUrl } from '../../support/broker.mjs';
import { failure } from '../../support/client.js';
import { TestApp } from '../../support/nest-app.js';
import { CuttableLine, Scratch } from '../../support/scratch.js';
import { Gate, Inbox, within } from '../../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
/** What handlers were called with; each test has its own. */
let got: Inbox<unknown>;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  got = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const amqp = (topology: Topology = {}): ReturnType<typeof AmqpModule.forRoot> =>
  AmqpModule.forRoot({
    url: brokerUrl,
    topology,
    connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } },
  });

/** An application with one consumer, which is there and gets what is sent. */
async function consuming(queue: string, topology?: Topology): Promise<TestApp> {
  class Billing {
    @Consume(queue)
    charge(payload: unknown): void {
      got.push(payload);
    }
  }
  const app = await TestApp.boot({ imports: [amqp(topology)], providers: [Billing] });
  await scratch.sendJson(queue, 'before');
  expect(await got.next()).toBe('before');
  return app;
}

test('e1: a publish to an exchange that is not there fails alone and names it; consumers go on (golevelup: the connection dies)', async () => {
  const queue = await scratch.queue();
  await using app = await consuming(queue);
  const missing = scratch.exchangeName();
  // What is published has a connection of its own, from the first time on.
  await app.get(AmqpPublisher).sendToQueue(queue, 'first');
  expect(await got.next()).toBe('first');
  const dialled = line.dialled;
  const error = await failure(app.get(AmqpPublisher).publish(missing, 'key', 1));
  expect(error).toMatchObject({ replyCode: 404 });
  expect(error.message).toContain(missing);
  await app.get(AmqpPublisher).sendToQueue(queue, 'after');
  expect(await got.next()).toBe('after');
  expect(line.dialled).toBe(dialled);
  expect(app.log.text('warn')).toBe('');
});

test('e23: what the broker refuses on one channel, and a second acknowledgement, leave every consumer running (golevelup: the connection dies)', async () => {
  const queue = await scratch.queue();
  const twice = await scratch.queue();
  class Eager {
    @Consume(twice)
    charge(payload: unknown, delivery: Delivery): void {
      delivery.ack();
      delivery.ack();
      got.push(payload);
    }
  }
  class Billing {
    @Consume(queue)
    charge(payload: unknown): void {
      got.push(payload);
    }
  }
  await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing, Eager] });
  const { dialled } = line;
  const channel = app.get(AmqpChannel);
  expect(await failure(channel.queueDeclare(queue, { durable: false }))).toMatchObject({ replyCode: 406 });
  expect(await failure(channel.queueDeclare(scratch.queueName(), { passive: true }))).toMatchObject({ replyCode: 404 });
  for (const name of [queue, twice, twice, queue]) {
    await scratch.sendJson(name, name);
    expect(await got.next()).toBe(name);
  }
  expect(line.dialled).toBe(dialled);
  expect(await channel.queueDeclare(queue, { passive: true })).toMatchObject({ consumerCount: 1 });
});

test('e3: a consumer whose queue is deleted says so, declares it again and goes on (golevelup: a dead consumer without a word)', async () => {
  const queue = scratch.queueName();
  const exchange = scratch.exchangeName();
  await using app = await consuming(queue, {
    exchanges: [{ name: exchange, type: 'topic' }],
    queues: [{ name: queue, maxLength: 9 }],
    bindings: [{ source: exchange, queue, routingKey: '#' }],
  });
  await scratch.delete(queue);
  await app.log.next('warn', queue);
  await scratch.hasConsumers(queue, 1);
  // Bound again too.
  await app.get(AmqpPublisher).publish(exchange, 'order.placed', 'after');
  expect(await got.next()).toBe('after');
});

test('e5: a connection lost while handlers run ends nothing: each message is handled again (golevelup: the process exits)', async () => {
  const queue = await scratch.queue();
  const gate = new Gate();
  class Billing {
    @Consume(queue, { prefetch: 10 })
    async charge(payload: unknown, { redelivered }: Delivery): Promise<void> {
      got.push({ payload, redelivered });
      if (!redelivered) await gate.opened;
    }
  }
  await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
  for (let id = 0; id < 5; id += 1) await scratch.sendJson(queue, id);
  for (let id = 0; id < 5; id += 1) expect(await got.next()).toEqual({ payload: id, redelivered: false });
  for (let round = 0; round < 3; round += 1) {
    const connection = await app.get(AmqpConnection).opened();
    const lost = new Promise((resolve) => connection.once('close', resolve));
    line.cut();
    await within('the loss', lost);
    await within('the next connection', app.get(AmqpConnection).opened());
  }
  const again = new Set<unknown>();
  while (again.size < 5) {
    const { payload } = (await got.next('a message again', (item) => (item as Delivery).redelivered)) as Delivery;
    again.add(payload);
  }
  // What these first ones answer now goes nowhere, and hurts nobody: a promise that nobody handles would fail the test.
  gate.open();
  await scratch.hasConsumers(queue, 1);
  await app.get(AmqpPublisher).sendToQueue(queue, 'after');
  await got.next('the next message', (item) => (item as Delivery).payload === 'after');
  await app.close();
  expect(await scratch.state(queue)).toEqual(expect.objectContaining({ messageCount: 0, consumerCount: 0 }));
});

test('e6: unnamed queues are exclusive and go with their connection, reconnect after reconnect (golevelup: each leaves a durable one)', async () => {
  await using app = await TestApp.boot({ imports: [amqp()] });
  const channel = app.get(AmqpChannel);
  const { queue: first } = await channel.queueDeclare();
  const names = new Set([first]);
  for (let round = 0; round < 3; round += 1) {
    const connection = await app.get(AmqpConnection).opened();
    const lost = new Promise((resolve) => connection.once('close', resolve));
    line.cut();
    await within('the loss', lost);
    // Under its first name here, under a new one there.
    await within('the queue again', channel.basicPublish('', first, 'x', { mandatory: true }));
    names.add(app.get(AmqpConnection).topology.current(first));
  }
  expect(names.size).toBe(4);
  await app.close();
  for (const name of names) await scratch.isGone(name);
});
