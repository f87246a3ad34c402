/** Publishes with a delay: where they wait, what they are when they arrive, and how they fail. */
import { randomInt } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { PublishInterceptor } from '../../lib/messaging/publish-interceptor.js';
import type { PublishMessageOptions } from '../../lib/messaging/publish-options.js';
import { AmqpPublisher } from '../../lib/messaging/publisher.js';
import { EmbeddedBroker, ScriptedPeer } from '../../lib/testing.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { eventually } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
let connection: AmqpConnection;
let publisher: AmqpPublisher;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  connection = new AmqpConnection(brokerUrl, { dial: line.dial, recovery: { initialDelay: 1 } });
  await connection.open();
  publisher = new AmqpPublisher(new AmqpChannel(connection));
});

afterEach(async () => {
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

/** Where messages for an exchange wait; deleted with the test, and its exchange with it. */
const waitQueue = (exchange: string, ms: number): string => scratch.owns(`nest-amqp.delay.${ms}.${exchange}`);

/** The wait queue of the default exchange is everybody's: one that hardly any other run of these tests has. */
function unsharedDelay(): number {
  const delay = randomInt(40, 300);
  scratch.owns(`nest-amqp.delay.${delay}`);
  return delay;
}

describe('a delayed publish', () => {
  test('arrives with its routing key and properties, in order, and not at once', async () => {
    const exchange = await scratch.exchange('topic');
    const queue = await scratch.queue();
    await scratch.bind(queue, exchange, 'order.*');
    const waiting = waitQueue(exchange, 1_000);
    for (const [index, key] of ['order.placed', 'order.billed', 'order.sent'].entries()) {
      await publisher.publish(exchange, key, index, { delay: '1s', headers: { mine: 1 }, priority: 3 });
    }
    expect(await scratch.state(waiting)).toBeDefined();
    for (const [index, routingKey] of ['order.placed', 'order.billed', 'order.sent'].entries()) {
      const message = await scratch.take(queue);
      expect(message).toMatchObject({ exchange, routingKey });
      expect(message.body.toString()).toBe(String(index));
      expect(message.properties).toMatchObject({ priority: 3, headers: { mine: 1 }, deliveryMode: 2 });
    }
  });

  test('reaches a queue by its name, and all of CC', async () => {
    const [queue, copy] = [await scratch.queue(), await scratch.queue()];
    scratch.owns('nest-amqp.delay.37');
    await publisher.sendToQueue(queue, 'x', { delay: 37, headers: { CC: [copy] } });
    expect((await scratch.take(queue)).body.toString()).toBe('"x"');
    expect((await scratch.take(copy)).body.toString()).toBe('"x"');
  });

  test('survives lost connections, and wait queues that somebody deletes', async () => {
    const exchange = await scratch.exchange('fanout');
    const queue = await scratch.queue();
    await scratch.bind(queue, exchange);
    const waiting = waitQueue(exchange, 20);
    await publisher.publish(exchange, '', 1, { delay: 20 });
    line.cut();
    await publisher.publish(exchange, '', 2, { delay: 20 });
    await scratch.hasMessages(queue, 2);
    await scratch.delete(waiting);
    await publisher.publish(exchange, '', 3, { delay: 20 });
    await scratch.hasMessages(queue, 3);
    expect(await scratch.drain(queue)).toEqual(['1', '2', '3']);
  });

  test('to an exchange that is not there is refused at once', async () => {
    const error = await failure(publisher.publish('test.no-such-exchange', 'key', 1, { delay: 50 }));
    expect(error).toMatchObject({ code: 'PUBLISH_REFUSED', replyCode: 404 });
    expect(error.message).toContain("'test.no-such-exchange'");
  });

  test('to a queue that is not there is refused, unless nobody needs to hear it', async () => {
    const delay = unsharedDelay();
    const queue = scratch.queueName();
    const error = await failure(publisher.sendToQueue(queue, 1, { delay }));
    expect(error).toMatchObject({ code: 'UNROUTABLE', routingKey: queue });
    await publisher.sendToQueue(queue, 1, { delay, mandatory: false });
    await scratch.queue({ name: queue });
    await publisher.sendToQueue(queue, 2, { delay });
    // One that has gone since is looked for again.
    await scratch.delete(queue);
    expect(await failure(publisher.sendToQueue(queue, 3, { delay }))).toMatchObject({ code: 'UNROUTABLE' });
  });

  test('reaches all of BCC', async () => {
    const delay = unsharedDelay();
    const [queue, blind] = [await scratch.queue(), await scratch.queue()];
    await publisher.sendToQueue(queue, 'x', { delay, headers: { BCC: [blind] } });
    for (const name of [queue, blind]) expect((await scratch.take(name)).body.toString()).toBe('"x"');
  });

  test('is not dropped for a death that its headers tell of', async () => {
    const delay = unsharedDelay();
    const dead = await scratch.queue();
    // It has died in the queue that it is sent to again: to RabbitMQ 3 that looks like a cycle.
    const dying = await scratch.queue({
      arguments: { 'x-message-ttl': 1, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': dead },
    });
    await publisher.sendToQueue(dying, 1);
    const { headers } = (await scratch.take(dead)).properties;
    expect(headers).toHaveProperty('x-death');
    await publisher.sendToQueue(dying, 2, { delay, headers });
    expect((await scratch.take(dead)).body.toString()).toBe('2');
  });

  test('of 0 is sent at once, and of part of a millisecond after one', async () => {
    const queue = await scratch.queue();
    await publisher.sendToQueue(queue, 1, { delay: 0 });
    expect((await scratch.take(queue)).properties.headers).toBeUndefined();
    scratch.owns('nest-amqp.delay.1');
    await publisher.sendToQueue(queue, 1, { delay: 0.5 });
    expect((await scratch.take(queue)).properties.headers).toHaveProperty('x-death');
  });

  test('may have a timeout of part of a millisecond, as what interceptors leave of one is', async () => {
    const delay = unsharedDelay();
    const queue = await scratch.queue();
    await publisher.sendToQueue(queue, 1, { delay, timeout: 5_000.5 });
    const asked: string[] = [];
    const interceptor: PublishInterceptor = {
      intercept: async (message, next) => {
        asked.push(message.routingKey);
        await next(message);
      },
    };
    const intercepted = new AmqpPublisher(new AmqpChannel(connection), {}, undefined, () =>
      Promise.resolve([interceptor]),
    );
    await intercepted.sendToQueue(queue, 2, { delay });
    for (const body of ['1', '2']) expect((await scratch.take(queue)).body.toString()).toBe(body);
    expect(asked).toEqual([queue]);
  });

  test('published at the same time keep their order', async () => {
    const delay = unsharedDelay();
    const queue = await scratch.queue();
    const ids = Array.from({ length: 20 }, (_, index) => index);
    await Promise.all(ids.map((id) => publisher.sendToQueue(queue, id, { delay })));
    for (const id of ids) expect((await scratch.take(queue)).body.toString()).toBe(String(id));
  });

  test('keep their order across lost connections', async () => {
    const exchange = await scratch.exchange('fanout');
    const queue = await scratch.queue();
    await scratch.bind(queue, exchange);
    waitQueue(exchange, 200);
    const sent: Promise<void>[] = [];
    for (let number = 0; number < 300; number += 1) {
      sent.push(publisher.publish(exchange, '', number, { delay: 200 }));
      // Some of them while what is before them is being declared, or sent again.
      if (number % 5 === 0) await setImmediate();
      if (number % 60 === 30) line.cut();
    }
    await Promise.all(sent);
    const firsts = new Set<number>();
    // Some come twice: so many messages are not yet all of them.
    await eventually('all of them', async () => {
      for (const body of await scratch.drain(queue)) firsts.add(Number(body));
      return firsts.size === 300 || undefined;
    });
    expect([...firsts]).toEqual(Array.from({ length: 300 }, (_, number) => number));
  });

  test('are bounded as others are while there is no connection', async () => {
    const bounded = new AmqpPublisher(new AmqpChannel(connection, { maxBuffered: 3, maxBufferedBytes: 1_000 }));
    line.isDown = true;
    line.cut();
    const queue = await scratch.queue();
    scratch.owns('nest-amqp.delay.41');
    const waiting = [1, 2].map((number) => bounded.sendToQueue(queue, number, { delay: 41 }));
    expect(await failure(bounded.sendToQueue(queue, Buffer.alloc(1_000), { delay: 41 }))).toMatchObject({
      code: 'PUBLISHER_BUFFER_FULL',
    });
    const third = bounded.sendToQueue(queue, 3);
    expect(await failure(bounded.sendToQueue(queue, 4, { delay: 41 }))).toMatchObject({
      code: 'PUBLISHER_BUFFER_FULL',
    });
    line.isDown = false;
    await Promise.all([...waiting, third]);
    await scratch.hasMessages(queue, 3);
  });

  test('says what stands where it would wait', async () => {
    const exchange = await scratch.exchange('fanout');
    const waiting = await scratch.queue({ name: waitQueue(exchange, 60_000) });
    const error = await failure(publisher.publish(exchange, '', 1, { delay: '1m' }));
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 406 });
    expect(error.message).toContain(waiting);
  });

  test.each<[PublishMessageOptions, string]>([
    [{ delay: '25d' }, '24 days'],
    [{ delay: -5 }, 'delay'],
    [{ delay: 'soon' as never }, 'delay'],
    [{ delay: 5, expiration: 5 }, 'either delay or expiration'],
  ])('with %p is refused', async (options, said) => {
    const error = await failure(publisher.sendToQueue('billing', 1, options));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(said);
  });

  test('is given up at its deadline while there is no broker', async () => {
    line.isDown = true;
    line.cut();
    const error = await failure(publisher.sendToQueue('billing', 1, { delay: 5, timeout: 50 }));
    expect(error).toMatchObject({ code: 'ABORTED' });
    expect(error.message).toContain('was not sent');
    const aborted = await failure(
      publisher.sendToQueue('billing', 1, { delay: 5, signal: AbortSignal.abort(new Error('enough')) }),
    );
    expect(aborted).toMatchObject({ code: 'ABORTED' });
  });
});

test('a delayed publish ends with its signal while one before it still looks for its queue', async () => {
  const peer = new ScriptedPeer();
  await using scripted = new AmqpConnection('amqp://127.0.0.1', { dial: () => peer.transport, closeTimeout: 1 });
  const opened = scripted.open();
  await peer.handshake();
  await opened;
  const delayed = new AmqpPublisher(new AmqpChannel(scripted));
  const first = failure(delayed.sendToQueue('slow', 1, { delay: 5 }));
  await peer.openChannel();
  await peer.receive('queue.declare');
  const leaving = new AbortController();
  const second = failure(delayed.sendToQueue('quick', 2, { delay: 5, signal: leaving.signal }));
  await peer.openChannel();
  await peer.answer('queue.declare-ok', { queue: 'quick', messageCount: 0, consumerCount: 0 });
  await peer.answer('channel.close-ok', {});
  await peer.openChannel();
  await peer.answer('queue.declare-ok', { queue: 'nest-amqp.delay.5', messageCount: 0, consumerCount: 0 });
  await peer.answer('exchange.declare-ok', {});
  await peer.answer('queue.bind-ok', {});
  await peer.answer('channel.close-ok', {});
  leaving.abort();
  const { code, message } = await second;
  expect(code).toBe('ABORTED');
  expect(message).toContain("publish to queue 'quick' ended before its turn came. The message was not sent.");
  await scripted.close();
  await first;
});

test('what waits has its time by the clock, and nothing is left of it an hour after', async () => {
  await using broker = EmbeddedBroker.create({ clock: 'manual' });
  await using ours = new AmqpConnection(broker.url);
  await ours.open();
  const channel = new AmqpChannel(ours);
  await channel.queueDeclare('billing');
  await new AmqpPublisher(channel).sendToQueue('billing', 1, { delay: '10m' });
  expect(broker.queue('nest-amqp.delay.600000').messages).toBe(1);
  broker.advance('9m');
  expect(broker.queue('billing').messages).toBe(0);
  broker.advance('1m');
  await broker.settled();
  expect(broker.queue('billing').messages).toBe(1);
  broker.advance('1h');
  expect(broker.queues.map(({ name }) => name)).toEqual(['billing']);
  expect(broker.exchanges.filter(({ name }) => name.startsWith('nest-amqp'))).toEqual([]);
});
