/** Publishes with a delay, on the test broker: where they wait, what arrives, and what is refused. */
import { randomInt } from 'node:crypto';

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { AmqpPublisher } from '../../lib/messaging/publisher.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { CuttableLine, Scratch } from '../support/scratch.js';

const LONG = 600_000;

let connection: AmqpConnection;
let scratch: Scratch;
let publisher: AmqpPublisher;
let line: CuttableLine;

beforeEach(async () => {
  line = new CuttableLine();
  connection = new AmqpConnection(brokerUrl, { dial: line.dial });
  await connection.open();
  scratch = await Scratch.open();
  publisher = new AmqpPublisher(new AmqpChannel(connection));
});

afterEach(async () => {
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

/** The wait queue of the default exchange is everybody's: one that no other run of these tests has, and that is deleted at the end. */
function unsharedDelay(): number {
  const delay = randomInt(10, 250);
  scratch.owns(`nest-amqp.default.delay.${delay}`);
  return delay;
}

/** An exchange with a queue bound to it for `order.*`. */
async function orders(type = 'topic', key = 'order.*'): Promise<{ exchange: string; queue: string }> {
  const exchange = await scratch.exchange(type);
  const queue = await scratch.queue();
  await scratch.bind(queue, exchange, key);
  for (const delay of [1, 20, LONG]) scratch.owns(`${exchange}.delay.${delay}`);
  return { exchange, queue };
}

describe('a publish with a delay', () => {
  test('waits in a queue beside its exchange', async () => {
    const { exchange, queue } = await orders();
    await publisher.publish(exchange, 'order.placed', { id: 7 }, { delay: '10m' });
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    const wait = `${exchange}.delay.${LONG}`;
    await scratch.declared(wait, {
      arguments: {
        'x-queue-type': 'classic',
        'x-message-ttl': LONG,
        'x-expires': LONG + 3_600_000,
        'x-dead-letter-exchange': exchange,
      },
    });
    expect(await scratch.take(wait)).toMatchObject({ routingKey: 'order.placed' });
  });

  test('arrives as if it had been published then, in order', async () => {
    const { exchange, queue } = await orders();
    await Promise.all(
      [1, 2, 3, 4, 5].map((id) =>
        publisher.publish(exchange, `order.n${id}`, id, { delay: 20, headers: { tenant: 'a' }, correlationId: 'c' }),
      ),
    );
    for (const id of [1, 2, 3, 4, 5]) {
      const message = await scratch.take(queue);
      expect(message).toMatchObject({ exchange, routingKey: `order.n${id}`, redelivered: false });
      expect(message.body.toString()).toBe(String(id));
      expect(message.properties).toMatchObject({ deliveryMode: 2, correlationId: 'c', headers: { tenant: 'a' } });
      expect(message.properties.expiration).toBeUndefined();
    }
  });

  test('goes to a queue by its name, and by the headers and copies that it has', async () => {
    const delay = unsharedDelay();
    const [one, other, blind] = [await scratch.queue(), await scratch.queue(), await scratch.queue()];
    await publisher.sendToQueue(one, 'x', { delay, headers: { CC: [other], BCC: [blind] } });
    for (const queue of [one, other, blind]) expect((await scratch.take(queue)).body.toString()).toBe('"x"');
  });

  test('is not dropped for a death that its headers tell of', async () => {
    const delay = unsharedDelay();
    const queue = await scratch.queue();
    await publisher.sendToQueue(queue, 1, { delay });
    const { headers } = (await scratch.take(queue)).properties;
    expect(headers).toHaveProperty('x-death');
    await publisher.sendToQueue(queue, 2, { delay, headers });
    expect((await scratch.take(queue)).body.toString()).toBe('2');
  });

  test('of 0 is sent at once, and of part of a millisecond after one', async () => {
    const { exchange, queue } = await orders();
    await publisher.publish(exchange, 'order.a', 1, { delay: 0 });
    expect(await scratch.state(`${exchange}.delay.0`)).toBeUndefined();
    expect((await scratch.take(queue)).properties.headers).toBeUndefined();
    await publisher.publish(exchange, 'order.a', 1, { delay: 0.5 });
    expect((await scratch.take(queue)).properties.headers).toHaveProperty('x-death');
  });

  test('finds its wait queue declared anew when it is gone', async () => {
    const { exchange } = await orders();
    const wait = `${exchange}.delay.${LONG}`;
    await publisher.publish(exchange, 'order.a', 1, { delay: LONG });
    await scratch.delete(wait);
    await publisher.publish(exchange, 'order.a', 2, { delay: LONG });
    expect(await scratch.drain(wait)).toEqual(['2']);
  });

  test('survives the loss of the connection', async () => {
    const { exchange, queue } = await orders();
    const published = [1, 2, 3].map((id) => publisher.publish(exchange, 'order.a', id, { delay: 20 }));
    line.cut();
    await Promise.all(published);
    await publisher.publish(exchange, 'order.a', 4, { delay: 20 });
    for (;;) if ((await scratch.take(queue)).body.toString() === '4') break;
  });

  test('to an exchange that is not there is refused, and says so for that one alone', async () => {
    const { exchange, queue } = await orders();
    const missing = scratch.exchangeName();
    const [error] = await Promise.all([
      failure(publisher.publish(missing, 'a', 1, { delay: LONG })),
      publisher.publish(exchange, 'order.a', 2, { delay: 20 }),
    ]);
    expect(error).toMatchObject({ code: 'PUBLISH_REFUSED', replyCode: 404 });
    expect(error.message).toContain(missing);
    expect(await scratch.state(`${missing}.delay.${LONG}`)).toBeUndefined();
    expect((await scratch.take(queue)).body.toString()).toBe('2');
    await scratch.exchange('topic', { name: missing });
    scratch.owns(`${missing}.delay.${LONG}`);
    await publisher.publish(missing, 'a', 1, { delay: LONG });
  });

  test('to a queue that is not there is refused, unless nobody needs to hear it', async () => {
    const delay = unsharedDelay();
    const queue = scratch.queueName();
    const error = await failure(publisher.sendToQueue(queue, 1, { delay }));
    expect(error).toMatchObject({ code: 'UNROUTABLE', routingKey: queue });
    await publisher.sendToQueue(queue, 1, { delay, mandatory: false });
  });

  test('says what stands where it would wait', async () => {
    const { exchange } = await orders();
    const wait = await scratch.queue({ name: `${exchange}.delay.${LONG}` });
    const error = await failure(publisher.publish(exchange, 'order.a', 1, { delay: LONG }));
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 406 });
    expect(error.message).toContain(wait);
  });

  test('ends with its signal and its deadline', async () => {
    const { exchange, queue } = await orders();
    line.isDown = true;
    line.cut();
    await scratch.state(queue);
    const gone = new AbortController();
    const published = publisher.publish(exchange, 'order.a', 1, { delay: 20, signal: gone.signal });
    const late = publisher.publish(exchange, 'order.a', 1, { delay: 20, timeout: 30 });
    gone.abort();
    for (const promise of [published, late]) expect(await failure(promise)).toMatchObject({ code: 'ABORTED' });
  });

  test.each([
    ['a delay that is none', { delay: 'soon' as never }],
    ['a negative one', { delay: -1 }],
    ['one of more than 49 days', { delay: '50d' as const }],
    ['an expiration beside it', { delay: '1s' as const, expiration: '1m' as const }],
  ])('is refused for %s', async (_, options) => {
    const { exchange } = await orders();
    expect(await failure(publisher.publish(exchange, 'a', 1, options))).toMatchObject({ code: 'INVALID_OPTION' });
  });

  test('may last 49 days', async () => {
    const { exchange } = await orders();
    const wait = scratch.owns(`${exchange}.delay.${49 * 86_400_000}`);
    await publisher.publish(exchange, 'order.a', 1, { delay: '49d' });
    expect(await scratch.drain(wait)).toEqual(['1']);
  });
});
