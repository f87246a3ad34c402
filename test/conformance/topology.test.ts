/** Conformance, exchanges, queues and bindings: the numbers 55 to 66. */
import { expect, test } from '@jest/globals';
import { once } from 'node:events';

import type { Channel } from '../../lib/client/channel.js';
import { connect } from '../../lib/client/connection.js';
import { field } from '../../lib/protocol/field-table.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, unique } from '../support/client.js';
import { Bench } from './bench.js';

test('55. exchanges of every type are declared and found; other properties, and a missing one, are refused', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  for (const type of ['direct', 'fanout', 'topic', 'headers']) {
    const exchange = scratch.exchangeName();
    await channel.exchangeDeclare(exchange, type);
    await channel.exchangeDeclare(exchange, type);
    await channel.exchangeDeclare(exchange, type, { passive: true });
    const otherType = type === 'direct' ? 'fanout' : 'direct';
    for (const again of [
      await bench.refusal((other) => other.exchangeDeclare(exchange, otherType)),
      await bench.refusal((other) => other.exchangeDeclare(exchange, type, { durable: false })),
      await bench.refusal((other) => other.exchangeDeclare(exchange, type, { autoDelete: true })),
    ]) {
      expect(again).toMatchObject({ replyCode: 406, method: 'exchange.declare' });
    }
  }
  const missing = bench.refusal((other) => other.exchangeDeclare(scratch.exchangeName(), 'direct', { passive: true }));
  expect(await missing).toMatchObject({ replyCode: 404 });
  // What a broker ends over it, the channel or the connection, is its own choice.
  const unknown = bench.refusal((other) => other.exchangeDeclare(scratch.exchangeName(), 'no-such-type'));
  expect(await unknown).toMatchObject({ closedBy: 'server', method: 'exchange.declare' });
});

test('56. an internal exchange refuses a publish and takes from exchanges', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const internal = await scratch.exchange('fanout', { internal: true });
  const source = await scratch.exchange('fanout');
  const queue = await bench.queueWith();
  await channel.queueBind(queue, internal);
  await channel.exchangeBind(internal, source);
  const confirming = await bench.confirming();
  await confirming.basicPublish(source, '', 'through');
  expect(await bench.text(queue)).toBe('through');
  expect(await failure(confirming.basicPublish(internal, '', 'refused'))).toMatchObject({
    code: 'PUBLISH_REFUSED',
    replyCode: 403,
  });
});

test('57. exchanges are deleted, twice too; one in use with ifUnused and a predeclared one are not', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('fanout');
  await channel.queueBind(await bench.queueWith(), exchange);
  const used = bench.refusal((other) => other.exchangeDelete(exchange, { ifUnused: true }));
  expect(await used).toMatchObject({ replyCode: 406, method: 'exchange.delete' });
  await channel.exchangeDelete(exchange);
  await channel.exchangeDelete(exchange);
  expect(await bench.refusal((other) => other.exchangeDelete('amq.direct'))).toMatchObject({ replyCode: 403 });
});

test('58. exchanges feed each other, in chains and loops, until they are unbound or delete themselves', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const [first, second] = [await scratch.exchange('topic'), await scratch.exchange('topic')];
  const third = await scratch.exchange('fanout', { autoDelete: true });
  const queue = await bench.queueWith();
  await channel.exchangeBind(second, first, 'a.#');
  await channel.exchangeBind(third, second, '#.z');
  await channel.exchangeBind(first, third);
  await channel.queueBind(queue, third);
  const confirming = await bench.confirming();
  await confirming.basicPublish(first, 'a.z', 'both');
  await confirming.basicPublish(first, 'a.b', 'the first alone');
  await confirming.basicPublish(first, 'b.z', 'neither');
  expect([await bench.text(queue), await bench.text(queue)]).toEqual(['both', undefined]);
  await channel.exchangeUnbind(second, first, 'a.#');
  await confirming.basicPublish(first, 'a.z', 'unbound');
  expect(await bench.text(queue)).toBeUndefined();
  await channel.queueUnbind(queue, third);
  await channel.exchangeUnbind(first, third);
  const gone = bench.refusal((other) => other.exchangeDeclare(third, 'fanout', { passive: true }));
  expect(await gone).toMatchObject({ replyCode: 404 });
});

test('59. queues of every durability are declared again as they are and refused as they are not', async () => {
  await using bench = await Bench.open();
  for (let bits = 0; bits < 8; bits += 1) {
    const options = { durable: (bits & 1) !== 0, autoDelete: (bits & 2) !== 0, exclusive: (bits & 4) !== 0 };
    // Brokers come to refuse queues that are neither durable nor exclusive.
    if (!options.durable && !options.exclusive) continue;
    const queue = bench.scratch.queueName();
    for (let count = 0; count < 2; count += 1) {
      expect(await bench.channel.queueDeclare(queue, options)).toEqual({ queue, messageCount: 0, consumerCount: 0 });
    }
    const other = bench.refusal((channel) =>
      channel.queueDeclare(queue, { ...options, autoDelete: !options.autoDelete }),
    );
    expect(await other).toMatchObject({ replyCode: 406, method: 'queue.declare' });
    await bench.channel.queueDelete(queue);
  }
});

test('60. an exclusive queue is locked (405) to every other connection, whatever it asks', async () => {
  await using bench = await Bench.open();
  const queue = unique('queue');
  await bench.channel.queueDeclare(queue, { durable: false, exclusive: true, autoDelete: true });
  await bench.channel.queueBind(queue, 'amq.direct', 'k');
  await using stranger = await connect(brokerUrl);
  const asks: [name: string, ask: (channel: Channel) => Promise<unknown>][] = [
    ['queue.declare', (channel) => channel.queueDeclare(queue, { passive: true })],
    ['queue.declare', (channel) => channel.queueDeclare(queue, { durable: false, exclusive: true, autoDelete: true })],
    ['basic.consume', (channel) => channel.basicConsume(queue, () => undefined)],
    ['queue.purge', (channel) => channel.queuePurge(queue)],
    ['queue.delete', (channel) => channel.queueDelete(queue)],
    ['queue.bind', (channel) => channel.queueBind(queue, 'amq.direct', 'k')],
    ['queue.unbind', (channel) => channel.queueUnbind(queue, 'amq.direct', 'k')],
    ['basic.get', (channel) => channel.basicGet(queue)],
  ];
  for (const [method, ask] of asks) {
    expect(await failure(ask(await stranger.channel()))).toMatchObject({ replyCode: 405, method });
  }
});

test('61. a queue without a name gets one, and an empty name means the last one declared', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const { queue } = await channel.queueDeclare();
  expect(queue).not.toBe('');
  await channel.queueBind('', 'amq.fanout');
  const confirming = await bench.confirming();
  await confirming.basicPublish('', queue, 'x');
  expect((await channel.basicGet('', { noAck: true }))?.message.body.toString()).toBe('x');
  await channel.basicConsume('', () => undefined);
  expect((await channel.queueDeclare(queue, { passive: true })).consumerCount).toBe(1);
});

test('62. queues are bound, unbound, purged and deleted; what is missing is told', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const [queue, exchange] = [await scratch.queue(), await scratch.exchange('direct')];
  const confirming = await bench.confirming();
  await channel.queueBind(queue, exchange, 'k');
  await confirming.basicPublish(exchange, 'k', 'bound');
  await channel.queueUnbind(queue, exchange, 'k');
  await channel.queueUnbind(queue, exchange, 'k');
  await confirming.basicPublish(exchange, 'k', 'unbound');
  const occupied = bench.refusal((other) => other.queueDelete(queue, { ifEmpty: true }));
  expect(await occupied).toMatchObject({ replyCode: 406, method: 'queue.delete' });
  expect(await channel.queuePurge(queue)).toBe(1);
  expect(await channel.queueDelete(queue, { ifEmpty: true, ifUnused: true })).toBe(0);
  expect(await channel.queueDelete(queue)).toBe(0);
  const present = await bench.queueWith();
  for (const missing of [
    await bench.refusal((other) => other.queueBind(queue, 'amq.direct', 'k')),
    await bench.refusal((other) => other.queueBind(present, scratch.exchangeName(), 'k')),
    await bench.refusal((other) => other.queuePurge(queue)),
  ]) {
    expect(missing).toMatchObject({ code: 'CHANNEL_CLOSED', replyCode: 404 });
  }
});

test('63. the default exchange can be neither bound, declared nor deleted', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith();
  for (const refused of [
    await bench.refusal((channel) => channel.queueBind(queue, '', 'k')),
    await bench.refusal((channel) => channel.queueUnbind(queue, '', queue)),
    await bench.refusal((channel) => channel.exchangeDeclare('', 'direct')),
    await bench.refusal((channel) => channel.exchangeDelete('')),
    await bench.refusal((channel) => channel.exchangeBind('amq.fanout', '', 'k')),
  ]) {
    expect(refused).toMatchObject({ code: 'CHANNEL_CLOSED', replyCode: 403 });
  }
});

test('65. queue arguments take effect, in every width of integer', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const confirming = await bench.confirming();
  for (const ttl of [field.int8(1), field.int16(1), field.int32(1), field.int64(1), field.uint8(1), 1, 1n]) {
    const { queue } = await channel.queueDeclare('', { arguments: { 'x-message-ttl': ttl } });
    await confirming.basicPublish('', queue, 'short-lived');
    await bench.ready(queue, 0);
  }
  const dead = await bench.queueWith();
  const limits = {
    'x-max-length': 1,
    'x-dead-letter-exchange': '',
    'x-dead-letter-routing-key': dead,
    'x-expires': 60_000,
  };
  const limited = (await channel.queueDeclare('', { arguments: limits })).queue;
  await confirming.basicPublish('', limited, 'first');
  await confirming.basicPublish('', limited, 'second');
  await bench.ready(dead, 1);
  expect([await bench.text(limited), await bench.text(dead)]).toEqual(['second', 'first']);

  const { queue } = await channel.queueDeclare('', { arguments: { 'x-max-priority': 5 } });
  await confirming.basicPublish('', queue, 'low', { priority: 1 });
  await confirming.basicPublish('', queue, 'high', { priority: 4 });
  expect([await bench.text(queue), await bench.text(queue)]).toEqual(['high', 'low']);

  const quorum = await scratch.queue({ arguments: { 'x-queue-type': 'quorum' } });
  await confirming.basicPublish('', quorum, 'x');
  expect((await scratch.take(quorum)).body.toString()).toBe('x');
});

test('66. declaring a queue tells how many messages and consumers it has', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queue = await bench.queueWith('a', 'b');
  expect(await channel.queueDeclare(queue, { passive: true })).toEqual({ queue, messageCount: 2, consumerCount: 0 });
  // It holds one of them: only what is ready counts.
  await channel.basicQos(1);
  const delivered = once(bench.connection, 'callbackError');
  await channel.basicConsume(queue, () => {
    throw new Error('delivered');
  });
  await delivered;
  expect(await channel.queueDeclare(queue, { passive: true })).toEqual({ queue, messageCount: 1, consumerCount: 1 });
});

test('64. methods sent with no-wait take effect in their order, unanswered', async () => {
  await using bench = await Bench.open();
  const [queue, exchange, noWait] = [unique('queue'), unique('exchange'), { noWait: true }];
  await bench.channel.exchangeDeclare(exchange, 'direct', noWait);
  await bench.channel.queueDeclare(queue, { ...noWait, exclusive: true, durable: false });
  await bench.channel.queueBind(queue, exchange, 'k', {}, noWait);
  void bench.channel.basicPublish(exchange, 'k', 'through');
  await bench.ready(queue, 1);
  await bench.channel.queueUnbind(queue, exchange, 'k');
  await bench.channel.queueDelete(queue, noWait);
  await bench.channel.exchangeDelete(exchange, noWait);
  // Answered when what was said before on this channel is done; another channel may be ahead of it.
  await bench.channel.basicQos(0);
  expect(await bench.refusal((channel) => channel.queueDeclare(queue, { passive: true }))).toMatchObject({
    replyCode: 404,
  });
});
