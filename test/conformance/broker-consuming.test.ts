/** How a broker hands out messages: how many, to which consumer, in what order, and where they go when they come back. */
import { expect, test } from '@jest/globals';

import type { Channel } from '../../lib/client/channel.js';
import type { ConsumeOptions } from '../../lib/client/channel-options.js';
import { connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { Inbox, eventually } from '../support/waits.js';
import { Bench, text } from './bench.js';

/** A consumer whose messages a test takes one by one, unacknowledged. */
async function consume(channel: Channel, queue: string, options: ConsumeOptions = {}): Promise<Inbox<Message>> {
  const messages = new Inbox<Message>();
  await channel.basicConsume(queue, messages.push, options);
  return messages;
}

/** Has the broker answer on that channel: what it had to send there before has come. */
async function settled(channel: Channel): Promise<void> {
  await channel.basicQos(0, { global: true });
}

async function publish(bench: Bench, queue: string, ...bodies: string[]): Promise<void> {
  const publisher = await bench.confirming();
  for (const body of bodies) await publisher.basicPublish('', queue, body);
  await publisher.close();
}

/** All that is ready in a queue, and whether it was delivered before. */
async function drain(bench: Bench, queue: string): Promise<[body: string, redelivered: boolean][]> {
  const order: [string, boolean][] = [];
  for (let message = await bench.take(queue); message !== undefined; message = await bench.take(queue)) {
    order.push([text(message), message.redelivered]);
  }
  return order;
}

const texts = (messages: readonly Message[]): string[] => messages.map(text);

/** Resolves when so many messages came in all. */
async function came(count: number, ...inboxes: readonly Inbox<Message>[]): Promise<void> {
  await eventually(`${count} messages`, () =>
    Promise.resolve(inboxes.reduce((sum, { all }) => sum + all.length, 0) === count ? true : undefined),
  );
}

test('consumers of equal rank take turns, and one that is full is passed over', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue();
  const [first, second] = [await bench.connection.channel(), await bench.connection.channel()];
  await first.basicQos(2);
  const [few, many] = [await consume(first, queue), await consume(second, queue)];
  await publish(bench, queue, 'a', 'b', 'c', 'd', 'e', 'f');
  await came(6, few, many);
  expect([few.all.length, many.all.length]).toEqual([2, 4]);
  expect(texts([...few.all, ...many.all]).sort()).toEqual(['a', 'b', 'c', 'd', 'e', 'f']);
});

test('a global prefetch bounds all consumers of a channel together, beside what bounds each', async () => {
  await using bench = await Bench.open();
  // 4.3 logs that it is not permitted, says ok, and bounds nothing.
  if (bench.isRabbitMq43) return;
  const { channel } = bench;
  const [one, other] = [await bench.queueWith('a', 'b', 'c'), await bench.queueWith('d', 'e', 'f')];
  await channel.basicQos(2);
  await channel.basicQos(3, { global: true });
  const first = await consume(channel, one);
  await came(2, first);
  const second = await consume(channel, other);
  await came(3, first, second);
  await bench.ready(one, 1);
  await bench.ready(other, 2);
  expect([first.all.length, second.all.length]).toEqual([2, 1]);
  // Room for one, and each may hold one more: which of them has it is the broker's to say.
  (await first.next()).ack();
  await came(4, first, second);
  await channel.basicQos(0, { global: true });
  await came(5, first, second);
  expect([first.all.length, second.all.length]).toEqual([3, 2]);
});

test('a prefetch for each consumer that is set later lifts the global one', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const [one, other] = [await bench.queueWith('a', 'b', 'c'), await bench.queueWith('d', 'e', 'f')];
  await channel.basicQos(1, { global: true });
  await channel.basicQos(2);
  await came(4, await consume(channel, one), await consume(channel, other));
  await bench.ready(one, 1);
  await bench.ready(other, 1);
});

test('what is fetched by basic.get fills no prefetch of a consumer, and a consumer without acknowledgement none either', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queue = await bench.queueWith('a', 'b', 'c', 'd');
  await channel.basicQos(1);
  await channel.basicGet(queue);
  await channel.basicGet(queue);
  const bounded = await consume(channel, queue);
  await came(1, bounded);
  const free = await consume(channel, queue, { noAck: true });
  await publish(bench, queue, 'e', 'f', 'g');
  await came(4, free);
  expect([texts(bounded.all), texts(free.all)]).toEqual([['c'], ['d', 'e', 'f', 'g']]);
});

test('a consumer of higher priority is served before the others until it is full, whoever came first', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue();
  const [low, high] = [await bench.connection.channel(), await bench.connection.channel()];
  await high.basicQos(2);
  const usual = await consume(low, queue);
  const preferred = await consume(high, queue, { arguments: { 'x-priority': 1 } });
  await publish(bench, queue, 'a', 'b', 'c');
  await came(3, usual, preferred);
  expect([texts(preferred.all), texts(usual.all)]).toEqual([['a', 'b'], ['c']]);
  (await preferred.next()).ack();
  await settled(high);
  await publish(bench, queue, 'd', 'e');
  await came(5, usual, preferred);
  expect([texts(preferred.all), texts(usual.all)]).toEqual([
    ['a', 'b', 'd'],
    ['c', 'e'],
  ]);
});

test('an exclusive consumer is alone: neither joins another, nor is joined (403)', async () => {
  await using bench = await Bench.open();
  const [held, shared] = [await bench.queue(), await bench.queue()];
  const tag = await bench.channel.basicConsume(held, () => undefined, { exclusive: true });
  await bench.channel.basicConsume(shared, () => undefined);
  const refused = (queue: string, exclusive: boolean) =>
    bench.refusal((channel) => channel.basicConsume(queue, () => undefined, { exclusive }));
  for (const [queue, exclusive] of [
    [held, false],
    [held, true],
    [shared, true],
  ] as const) {
    expect(await refused(queue, exclusive)).toMatchObject({
      replyCode: 403,
      replyText: `ACCESS_REFUSED - queue '${queue}' in vhost '/' in exclusive use`,
      method: 'basic.consume',
    });
  }
  await bench.channel.basicCancel(tag);
  await bench.channel.basicConsume(held, () => undefined);
});

test('of a queue with a single active consumer the first is served alone, and when it goes the next', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue({ 'x-single-active-consumer': true });
  const [one, two, three] = [
    await bench.connection.channel(),
    await bench.connection.channel(),
    await bench.connection.channel(),
  ];
  await one.basicQos(1);
  const first = await consume(one, queue);
  const second = await consume(two, queue);
  const third = await consume(three, queue);
  await publish(bench, queue, 'a', 'b', 'c');
  await came(1, first);
  // It is full, and nobody takes its turn.
  await bench.ready(queue, 2);
  expect([second.all, third.all]).toEqual([[], []]);
  await one.close();
  await came(3, second);
  expect([texts(second.all), third.all]).toEqual([['a', 'b', 'c'], []]);
  const exclusive = bench.refusal((channel) => channel.basicConsume(queue, () => undefined, { exclusive: true }));
  expect(await exclusive).toMatchObject({ replyCode: 403 });
});

test('a consumer is told when its queue is deleted, and not when it cancels itself', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const cancelled = new Inbox<string>();
  const consumer = (queue: string, consumerTag: string): Promise<string> =>
    channel.basicConsume(queue, { onMessage: () => undefined, onCancel: cancelled.push }, { consumerTag });
  const deleted = await bench.queue();
  for (const tag of ['a', 'b', 'own']) await consumer(deleted, tag);
  await channel.basicCancel('own');
  await channel.queueDelete(deleted);
  expect([await cancelled.next(), await cancelled.next()].sort()).toEqual(['a', 'b']);
  const again = await bench.queue();
  await consumer(again, 'c');
  await channel.queueDelete(again);
  expect(await cancelled.next()).toBe('c');
  expect(cancelled.all.includes('own')).toBe(false);
});

test('a message that is given back goes to its place, before what came after it, and says that it was delivered', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queue = await bench.queueWith('a', 'b', 'c', 'd');
  const got = new Map<string, Message>();
  for (let count = 0; count < 3; count += 1) {
    const { message } = (await channel.basicGet(queue)) ?? {};
    if (message !== undefined) got.set(text(message), message);
  }
  // The other way round.
  got.get('c')?.nack();
  got.get('a')?.reject({ requeue: true });
  await bench.ready(queue, 3);
  expect(await drain(bench, queue)).toEqual([
    ['a', true],
    ['c', true],
    ['d', false],
  ]);
});

test('what a channel held when it closed comes back in its order, all of it redelivered', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue();
  await publish(bench, queue, 'a', 'b', 'c', 'd');
  const holder = await bench.connection.channel();
  const held = await consume(holder, queue);
  await came(4, held);
  held.all[1]?.ack();
  await holder.close();
  await bench.ready(queue, 3);
  expect(await drain(bench, queue)).toEqual([
    ['a', true],
    ['c', true],
    ['d', true],
  ]);
});

test('basic.recover gives back everything that the channel holds, in order, redelivered', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queue = await bench.queueWith('a', 'b', 'c');
  await channel.basicGet(queue);
  const held = await consume(channel, queue);
  await came(2, held);
  await channel.basicRecover();
  await came(5, held);
  expect(held.all.slice(2).map((message) => [text(message), message.redelivered])).toEqual([
    ['a', true],
    ['b', true],
    ['c', true],
  ]);
});

test('basic.get tells how many messages stay, and a consumer gets what the getter did not', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queue = await bench.queueWith('a', 'b', 'c');
  const counts: (number | undefined)[] = [];
  for (const noAck of [true, false]) counts.push((await channel.basicGet(queue, { noAck }))?.messageCount);
  expect(counts).toEqual([2, 1]);
  const rest = await consume(channel, queue);
  await came(1, rest);
  expect(texts(rest.all)).toEqual(['c']);
  expect(await channel.basicGet(queue)).toBeUndefined();
  // What is out is not ready, and not lost with a purge.
  expect(await channel.queuePurge(queue)).toBe(0);
  expect(await channel.queueDelete(queue)).toBe(0);
});

test('a queue that deletes itself goes with its last consumer, cancelled or closed, and not before its first', async () => {
  await using bench = await Bench.open();
  const { connection, scratch } = bench;
  const queue = await scratch.queue({ autoDelete: true });
  const [one, other] = [await connection.channel(), await connection.channel()];
  const tag = await one.basicConsume(queue, () => undefined);
  await other.basicConsume(queue, () => undefined);
  await one.basicCancel(tag);
  expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
  await other.close();
  await scratch.isGone(queue);
});

test('an acknowledgement from another channel, or a second one, is an unknown delivery tag', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith('a', 'b');
  const channel = await bench.connection.channel();
  const first = (await channel.basicGet(queue))?.message;
  await channel.basicGet(queue);
  expect(first?.ack()).toBe(true);
  for (const [tag, multiple] of [
    [1, false],
    [3, true],
    [0, false],
  ] as const) {
    const other = tag === 1 ? channel : await bench.connection.channel();
    const ended = failure(new Promise((_, reject) => other.once('close', reject)));
    other.basicAck(tag, { multiple });
    expect(await ended).toMatchObject({
      replyCode: 406,
      replyText: `PRECONDITION_FAILED - unknown delivery tag ${tag}`,
      method: 'basic.ack',
    });
  }
  // Zero with multiple is all there are, and there may be none.
  bench.channel.basicAck(0, { multiple: true });
  bench.channel.basicNack(0, { multiple: true });
  await settled(bench.channel);
});

test('an exclusive queue, and what it holds, goes with its connection', async () => {
  await using bench = await Bench.open();
  const other = await connect(brokerUrl);
  const { queue } = await (await other.channel()).queueDeclare('', { autoDelete: false });
  await other.close();
  await bench.scratch.isGone(queue);
});
