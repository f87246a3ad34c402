/** Messages pulled by a loop: how it starts, ends and is left. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import type { Channel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { eventually, within } from '../support/waits.js';

let scratch: Scratch;
let connection: Connection;
let channel: Channel;

beforeEach(async () => {
  scratch = await Scratch.open();
  connection = await connect(brokerUrl);
  channel = await connection.channel();
});

afterEach(async () => {
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

async function queueWith(...bodies: string[]): Promise<string> {
  const queue = await scratch.queue();
  for (const body of bodies) await scratch.send(queue, body);
  return queue;
}

async function next(stream: AsyncIterator<Message, undefined>): Promise<Message> {
  const { value } = await within('a message', stream.next());
  if (value === undefined) throw new Error('The stream has ended.');
  return value;
}

describe('a loop over a queue', () => {
  test('gets consumer tag, delivery tag and payload, and cancels when it is left', async () => {
    const queue = await queueWith('a', 'b', 'c');
    const seen: unknown[] = [];
    for await (const message of channel.consume(queue, { consumerTag: 'mine' })) {
      seen.push([message.consumerTag, message.deliveryTag, message.payload.toString()]);
      message.ack();
      if (seen.length === 2) break;
    }
    expect(seen).toEqual([
      ['mine', 1, 'a'],
      ['mine', 2, 'b'],
    ]);
    await scratch.hasConsumers(queue, 0);
    // What was delivered and not handed out is back, and the channel goes on.
    expect((await channel.basicGet(queue, { noAck: true }))?.message.body.toString()).toBe('c');
  });

  test('that is slow and has no prefetch stops the connection from reading, and goes on where it stopped', async () => {
    const queue = await scratch.queue();
    const [count, mebibyte] = [64, Buffer.alloc(1024 * 1024)];
    await Promise.all(Array.from({ length: count }, () => scratch.send(queue, mebibyte)));
    const stream = channel.consume(queue, { noAck: true, prefetch: 0 });
    await next(stream);
    const { metrics } = connection;
    await eventually('more than the bound', () =>
      Promise.resolve(metrics.bytesReceived > 16 * mebibyte.length ? true : undefined),
    );
    // RabbitMQ sends everything, the embedded broker what the socket takes.
    let left: number | undefined;
    await eventually('the end of what the broker sends', async () => {
      const before = left;
      left = (await scratch.state(queue))?.messageCount;
      return left === before ? true : undefined;
    });
    // Time enough for it to arrive, were it read.
    for (let look = 0; look < 20; look += 1) await scratch.state(queue);
    expect(metrics.bytesReceived).toBeLessThan(20 * mebibyte.length);
    for (let number = 1; number < count; number += 1) expect((await next(stream)).size).toBe(mebibyte.length);
    expect(metrics.bytesReceived).toBeGreaterThan(count * mebibyte.length);
    await stream.return();
  });

  test('that is slow does not hold up close()', async () => {
    const queue = await scratch.queue();
    await Promise.all(Array.from({ length: 30 }, () => scratch.send(queue, Buffer.alloc(1024 * 1024))));
    await next(channel.consume(queue, { noAck: true, prefetch: 0 }));
    await eventually('more than the bound', () =>
      Promise.resolve(connection.metrics.bytesReceived > 16 * 1024 * 1024 ? true : undefined),
    );
    await connection.close();
    expect(connection.endError).toBeUndefined();
  });

  test('is not given again what it gives back when it is left', async () => {
    const queue = await queueWith('a', 'b', 'c');
    const stream = channel.consume(queue);
    (await next(stream)).ack();
    await eventually('the deliveries', () => Promise.resolve(connection.metrics.delivered === 3 ? true : undefined));
    await stream.return();
    await scratch.hasMessages(queue, 2);
    expect(connection.metrics.delivered).toBe(3);
  });

  test('holds no more than its prefetch', async () => {
    const queue = await queueWith('a', 'b', 'c');
    const stream = channel.consume(queue, { prefetch: 2 });
    await next(stream);
    await next(stream);
    const third = stream.next();
    // One message is left for others; the loop has the other two.
    const other = await connection.channel();
    expect((await other.basicGet(queue, { noAck: true }))?.message.body.toString()).toBe('c');
    await stream.return();
    expect((await within('the end', third)).done).toBe(true);
  });

  test('ends when the broker cancels its consumer', async () => {
    const queue = await queueWith('a');
    const stream = channel.consume(queue);
    (await next(stream)).ack();
    const ending = stream.next();
    await scratch.delete(queue);
    expect((await within('the end', ending)).done).toBe(true);
  });

  test('rejects when its channel dies', async () => {
    const queue = await queueWith('a');
    const stream = channel.consume(queue);
    await next(stream);
    const ending = failure(stream.next());
    channel.basicAck(99);
    expect(await within('the end', ending)).toMatchObject({ code: 'CHANNEL_CLOSED', replyCode: 406 });
  });

  test('rejects at once for a queue that is not there', async () => {
    const error = await failure(channel.consume(scratch.queueName()).next());
    expect(error).toMatchObject({ replyCode: 404, method: 'basic.consume' });
  });

  test('ends when the channel is closed', async () => {
    const stream = channel.consume(await queueWith('a'));
    await next(stream);
    const ending = stream.next();
    await channel.close();
    expect((await within('the end', ending)).done).toBe(true);
  });

  test('rejects when its signal fires, and cancels', async () => {
    const queue = await queueWith();
    const leaving = new AbortController();
    const stream = channel.consume(queue, { signal: leaving.signal });
    const ending = failure(stream.next());
    await scratch.hasConsumers(queue, 1);
    leaving.abort();
    expect(await within('the end', ending)).toMatchObject({ code: 'ABORTED' });
    await scratch.hasConsumers(queue, 0);
  });
});

describe('a loop over consume() without a queue', () => {
  test('gets the messages of every consumer that was started without a callback', async () => {
    const [first, second] = [await queueWith('a'), await queueWith('b')];
    const tags = [await channel.basicConsume(first), await channel.basicConsume(second)];
    const stream = channel.consume();
    const messages = [await next(stream), await next(stream)];
    expect(messages.map(({ consumerTag }) => consumerTag).sort()).toEqual([...tags].sort());
    expect(messages.map(({ payload }) => payload.toString()).sort()).toEqual(['a', 'b']);
    await stream.return();
    await scratch.hasConsumers(first, 0);
    await scratch.hasConsumers(second, 0);
  });

  test('ends with the last of them, after what was delivered', async () => {
    const queue = await queueWith('a');
    const tag = await channel.basicConsume(queue);
    await scratch.hasConsumers(queue, 1);
    await channel.basicCancel(tag);
    const seen: string[] = [];
    for await (const message of channel.consume()) {
      seen.push(message.payload.toString());
      message.ack();
    }
    expect(seen).toEqual(['a']);
  });
});

test('a queue handle publishes, binds, gets, purges and deletes', async () => {
  const exchange = await scratch.exchange('fanout');
  const queue = await channel.queue();
  expect(queue).toMatchObject({ messageCount: 0, consumerCount: 0, name: expect.stringMatching(/^amq\.gen-/) });
  await queue.bind(exchange);
  await queue.publish('one');
  await queue.publish('two', exchange, 'any');
  expect((await queue.get({ noAck: true }))?.message.body.toString()).toBe('one');
  expect((await next(queue.consume({ noAck: true }))).routingKey).toBe('any');
  await queue.unbind(exchange);
  expect(await queue.purge()).toBe(0);
  expect(await queue.delete()).toBe(0);
});
