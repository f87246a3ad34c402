/** Conformance, consuming: the numbers 78 to 92. */
import { expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { AmqpRequester } from '../../lib/client/amqp-requester.js';
import type { Channel } from '../../lib/client/channel.js';
import { connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, frameOf, scriptedChannel } from '../support/client.js';
import { CollectedLog } from '../support/collected-log.js';
import { loneHandler } from '../support/lone-handler.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';
import { Bench, text } from './bench.js';

test('78. a consumer holds no more than its prefetch, which later consumers may change, and 0 is no bound', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const [bounded, free, noAck] = [
    await bench.queueWith('a', 'b', 'c'),
    await bench.queueWith('d', 'e', 'f'),
    await bench.queueWith('g', 'h'),
  ];
  const messages = new Inbox<Message>();
  await channel.basicQos(2);
  await channel.basicConsume(bounded, messages.push);
  const first = await messages.next();
  await messages.next();
  await bench.ready(bounded, 1);
  await channel.basicQos(0);
  await channel.basicConsume(free, messages.push);
  await bench.ready(free, 0);
  // The consumer that was there keeps its bound.
  await bench.ready(bounded, 1);
  expect(first.ack()).toBe(true);
  await bench.ready(bounded, 0);
  await channel.basicQos(1);
  await channel.basicConsume(noAck, messages.push, { noAck: true });
  await bench.ready(noAck, 0);
  await messages.next('the last', (message) => text(message) === 'h');
});

test('79. a prefetch that is no unsigned 16-bit integer is refused before it is sent', async () => {
  await using bench = await Bench.open();
  for (const prefetch of [-1, 65_536, 1.5, Number.NaN]) {
    expect((await failure(bench.channel.basicQos(prefetch))).code).toBe('INVALID_ARGUMENT');
  }
  await bench.channel.basicQos(65_535);
});

test('80. a consumer tag that is in use is a local error', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith();
  await bench.channel.basicConsume(queue, () => undefined, { consumerTag: 'c' });
  const again = failure(bench.channel.basicConsume(queue, () => undefined, { consumerTag: 'c' }));
  expect((await again).code).toBe('INVALID_ARGUMENT');
  expect([bench.channel.isOpen, bench.connection.isOpen]).toEqual([true, true]);
});

test('81. a delivery in the same chunk as consume-ok, or before it, reaches its consumer', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const messages = new Inbox<Message>();
  const consuming = channel.basicConsume('q', messages.push, { consumerTag: 'c' });
  await peer.receive('basic.consume');
  const args = { consumerTag: 'c', redelivered: false, exchange: '', routingKey: 'q' };
  peer.sendContent(1, 'basic.deliver', { ...args, deliveryTag: 1 }, {}, 'early');
  const chunks: Buffer[] = [frameOf(1, 'basic.consume-ok', { consumerTag: 'c' })];
  chunks.push(frameOf(1, 'basic.deliver', { ...args, deliveryTag: 2 }));
  chunks.push(Buffer.from([2, 0, 1, 0, 0, 0, 14, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xce]));
  peer.sendRaw(Buffer.concat(chunks));
  expect([text(await messages.next()), text(await messages.next())]).toEqual(['early', '']);
  expect(await consuming).toBe('c');
  await connection.close();
});

test('82. a cancel loses nothing that is on its way, and an unknown tag is no error', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const queue = await scratch.queue();
  const bodies = Array.from({ length: 200 }, (_, index) => `${index}`);
  const confirming = await bench.confirming();
  await Promise.all(bodies.map((body) => confirming.basicPublish('', queue, body)));
  const seen: string[] = [];
  const consumerTag = await channel.basicConsume(queue, (message) => {
    seen.push(text(message));
    message.ack();
  });
  await channel.basicCancel(consumerTag);
  await channel.basicCancel('unknown');
  await channel.close();
  expect(seen).toEqual(bodies.slice(0, seen.length));
  await scratch.hasMessages(queue, bodies.length - seen.length);
});

test('83. a consumer hears of its cancel by the server, of an unknown one nobody does, and what it throws is isolated', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const errors = new Inbox<unknown>();
  bench.connection.on('callbackError', errors.push);
  const queue = await scratch.queue();
  const boom = new Error('boom');
  const onCancel = (): never => {
    throw boom;
  };
  await channel.basicConsume(queue, { onMessage: () => undefined, onCancel });
  await scratch.delete(queue);
  expect(await errors.next('the cancel')).toBe(boom);
  expect((await channel.queueDeclare()).messageCount).toBe(0);

  const { peer, connection, channel: other } = await scriptedChannel({ closeTimeout: 0 });
  peer.send(1, 'basic.cancel', { consumerTag: 'unknown', noWait: false });
  await peer.receive('basic.cancel-ok');
  expect(other.isOpen).toBe(true);
  await connection.close();
});

test('84. acks, nacks and rejects settle one, several or all, and requeue or not', async () => {
  await using bench = await Bench.open();
  const { scratch, connection } = bench;
  const { queue, dead } = await scratch.queueWithDeadLetters();
  const settled = async (answer: (channel: Channel) => void, ready: number, discarded: number): Promise<void> => {
    const channel = await connection.channel();
    await channel.queuePurge(queue);
    await channel.queuePurge(dead);
    for (const body of ['1', '2', '3', '4']) void channel.basicPublish('', queue, body);
    await bench.ready(queue, 4);
    for (let count = 0; count < 4; count += 1) await channel.basicGet(queue);
    answer(channel);
    await channel.close();
    await bench.ready(queue, ready);
    await bench.ready(dead, discarded);
  };
  // What is not answered comes back when the channel closes.
  await settled((channel) => channel.basicAck(2), 3, 0);
  await settled((channel) => channel.basicAck(3, { multiple: true }), 1, 0);
  await settled((channel) => channel.basicAck(0, { multiple: true }), 0, 0);
  await settled((channel) => channel.basicNack(2, { requeue: false }), 3, 1);
  await settled((channel) => channel.basicNack(3, { multiple: true, requeue: false }), 1, 3);
  await settled((channel) => channel.basicNack(0, { multiple: true, requeue: false }), 0, 4);
  await settled((channel) => channel.basicNack(0, { multiple: true }), 4, 0);
  await settled((channel) => channel.basicReject(1), 3, 1);
  await settled((channel) => channel.basicReject(1, { requeue: true }), 4, 0);
});

test('85. a second ack, and an ack of nothing, end the channel with 406', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith('a');
  for (const tags of [[1, 1], [9]]) {
    const channel = await bench.connection.channel();
    const ended = new Promise((resolve) => channel.once('close', resolve));
    if (tags.length === 2) await channel.basicGet(queue);
    for (const tag of tags) channel.basicAck(tag);
    expect(await within('the end', ended)).toMatchObject({ replyCode: 406 });
  }
  expect(bench.connection.isOpen).toBe(true);
});

test('86. basic.get gives a message, or nothing, or fails for a missing queue and a closed channel', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith('a', 'b');
  const got = await bench.channel.basicGet(queue);
  expect([got?.messageCount, got?.message.consumerTag, got?.message.routingKey]).toEqual([1, undefined, queue]);
  expect(got?.message.ack()).toBe(true);
  await bench.take(queue);
  expect(await bench.channel.basicGet(queue)).toBeUndefined();
  const missing = bench.refusal((channel) => channel.basicGet(bench.scratch.queueName()));
  expect(await missing).toMatchObject({ replyCode: 404, method: 'basic.get' });
  await bench.channel.close();
  expect((await failure(bench.channel.basicGet(queue))).code).toBe('CHANNEL_CLOSED');
});

test('87. basic.recover delivers again what is unacknowledged; it always asks for a requeue', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith('a');
  const messages = new Inbox<Message>();
  await bench.channel.basicConsume(queue, messages.push);
  expect((await messages.next()).redelivered).toBe(false);
  await bench.channel.basicRecover();
  const again = await messages.next();
  expect([text(again), again.redelivered, again.ack()]).toEqual(['a', true, true]);

  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const recovering = channel.basicRecover();
  expect((await peer.answer('basic.recover-ok', {})).args).toEqual({ requeue: true });
  await recovering;
  await connection.close();
});

test('88. what is unanswered comes back, however its channel or connection ends', async () => {
  await using bench = await Bench.open();
  const { scratch } = bench;
  const queue = await scratch.queue();
  const endings: ((line: CuttableLine, channel: Channel, close: () => Promise<void>) => Promise<unknown>)[] = [
    (_, channel) => channel.close(),
    (_, __, close) => close(),
    (line) => {
      line.cut();
      return Promise.resolve();
    },
    (_, channel) => failure(channel.queueDeclare(scratch.queueName(), { passive: true })),
  ];
  for (const end of endings) {
    for (const way of ['get', 'consume']) {
      await scratch.send(queue, 'back');
      const line = new CuttableLine();
      const connection = await connect(brokerUrl, { dial: line.dial });
      const channel = await connection.channel();
      const messages = new Inbox<Message>();
      if (way === 'get') await channel.basicGet(queue);
      else {
        await channel.basicConsume(queue, messages.push);
        await messages.next();
      }
      await end(line, channel, () => connection.close());
      expect(await scratch.take(queue)).toMatchObject({ redelivered: true });
      await connection.close();
    }
  }
});

test('89. of two consumers the one of higher priority is served first', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queue = await bench.queueWith();
  await channel.basicQos(2);
  const served: string[] = [];
  const note = (name: string) => () => served.push(name);
  await channel.basicConsume(queue, note('low'), { arguments: { 'x-priority': -1 } });
  await channel.basicConsume(queue, note('high'), { arguments: { 'x-priority': 5 } });
  const confirming = await bench.confirming();
  for (let count = 0; count < 3; count += 1) await confirming.basicPublish('', queue, '');
  await eventually('three deliveries', () => Promise.resolve(served.length === 3 ? true : undefined));
  expect(served).toEqual(['high', 'high', 'low']);
});

test('90. direct reply-to makes the round trip, with a deadline; misused it is refused', async () => {
  await using bench = await Bench.open();
  const { connection, channel } = bench;
  await using amqp = new AmqpConnection(brokerUrl);
  await amqp.open();
  await using requester = new AmqpRequester(amqp);
  const requests = await bench.queueWith();
  const received = new Inbox<Message>();
  const server = await connection.channel();
  await server.basicConsume(requests, received.push, { noAck: true });
  const answer = async (): Promise<void> => {
    const request = await received.next('the request');
    await server.reply(request, `re: ${text(request)}`);
  };

  const answered = requester.request('', requests, 'hello');
  await answer();
  expect(text(await answered)).toBe('re: hello');
  expect(await failure(requester.request('', requests, 'slow', { timeout: 1_000 }))).toMatchObject({
    code: 'REPLY_TIMEOUT',
  });
  const next = requester.request('', requests, 'next');
  await answer();
  await answer();
  expect(text(await next)).toBe('re: next');
  expect(requester.unexpectedReplies).toBe(1);
  const nowhere = bench.scratch.queueName();
  expect(await failure(requester.request('', nowhere, 'x'))).toMatchObject({ code: 'UNROUTABLE' });

  // By hand: cancel and consume again, then what the broker refuses.
  const replyTo = 'amq.rabbitmq.reply-to';
  const replies = new Inbox<Message>();
  await channel.basicCancel(await channel.basicConsume(replyTo, replies.push, { noAck: true }));
  await channel.basicConsume(replyTo, replies.push, { noAck: true });
  void channel.basicPublish('', requests, 'by hand', { replyTo });
  await answer();
  expect(text(await replies.next('the reply'))).toBe('re: by hand');
  const refusals = [
    bench.refusal((other) => other.basicConsume(replyTo, () => undefined)),
    failure(channel.basicConsume(replyTo, () => undefined, { noAck: true })),
    failure((await bench.confirming()).basicPublish('', requests, 'x', { replyTo })),
  ];
  for (const refused of refusals) expect(await refused).toMatchObject({ replyCode: 406 });
});

test('91. a loop over messages cancels when it is left, ends on cancel and rejects when its channel dies', async () => {
  await using bench = await Bench.open();
  // Not auto-deleted: it outlives the first loop's consumer.
  const { queue } = await bench.channel.queueDeclare('', { autoDelete: false });
  const confirming = await bench.confirming();
  for (const body of ['a', 'b', 'c']) await confirming.basicPublish('', queue, body);
  for await (const message of bench.channel.consume(queue, { prefetch: 1 })) {
    expect(text(message)).toBe('a');
    message.ack();
    break;
  }
  await bench.ready(queue, 2);
  const ended = bench.channel.consume(queue);
  await ended.next();
  await bench.channel.queueDelete(queue);
  let rest = await within('the end', ended.next());
  while (rest.done !== true) rest = await within('the end', ended.next());
  const other = await bench.queueWith('d');
  const dying = bench.channel.consume(other);
  await dying.next();
  const death = failure(dying.next());
  bench.channel.basicAck(99);
  expect(await within('the end', death)).toMatchObject({ replyCode: 406 });
});

test('92. handlers run up to a limit at a time, closing waits for them, and a failed start delivers nothing twice', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  await using amqp = new AmqpConnection(brokerUrl);
  await amqp.open();
  const [started, gate, seen] = [new Inbox<string>(), new Gate(), [] as string[]];
  const log = new CollectedLog();
  const consumer = loneHandler(
    amqp,
    {
      name: 'c',
      queue,
      topology: {},
      prefetch: 2,
      exclusive: false,
      consumerTag: undefined,
      arguments: {},
      channel: new AmqpChannel(amqp),
    },
    async (delivery) => {
      const body = delivery.body.toString();
      seen.push(body);
      started.push(body);
      await gate.opened;
    },
    log,
  );
  // Another consumer holds the queue: the first starts fail.
  const holder = new AmqpChannel(amqp);
  const tag = await holder.basicConsume(queue, (message) => message.nack(), { exclusive: true });
  consumer.startInBackground();
  await log.next('error', 'cannot start');
  await holder.basicCancel(tag);
  for (const body of ['1', '2', '3']) await scratch.send(queue, body);
  await Promise.all([started.next('the first'), started.next('the second')]);
  expect([consumer.underWay, seen]).toEqual([2, ['1', '2']]);
  let isStopped = false;
  const stopping = consumer.stop(10_000).then(() => (isStopped = true));
  await scratch.hasConsumers(queue, 0);
  expect(isStopped).toBe(false);
  gate.open();
  await within('the stop', stopping);
  await scratch.hasMessages(queue, 1);
  expect(seen).toEqual(['1', '2']);
  await holder.close();
});
