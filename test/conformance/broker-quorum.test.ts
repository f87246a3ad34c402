/**
 * What quorum queues do that classic queues do not. RabbitMQ 3.10 has neither a delivery limit that nobody asked for, nor
 * priorities, nor the rest that a test leaves to 4.0; dead letters are in `broker-dead-letters.test.ts`.
 */
import { expect, test } from '@jest/globals';

import type { Channel, ConfirmChannel } from '../../lib/client/channel.js';
import type { Message } from '../../lib/client/message.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import { Inbox, eventually } from '../support/waits.js';
import { Bench, text } from './bench.js';

async function quorum(bench: Bench, args: FieldTable = {}): Promise<string> {
  return await bench.scratch.queue({ arguments: { 'x-queue-type': 'quorum', ...args } });
}

const deadLettersTo = (queue: string): FieldTable => ({
  'x-dead-letter-exchange': '',
  'x-dead-letter-routing-key': queue,
});

/** The next message of a queue, unacknowledged, waiting until there is one. */
async function get(channel: Channel, queue: string): Promise<Message> {
  return await eventually(`a message in ${queue}`, async () => (await channel.basicGet(queue))?.message);
}

/** Publishes each, the priority after a colon. */
async function publish(publisher: ConfirmChannel, queue: string, ...bodies: string[]): Promise<void> {
  for (const body of bodies) {
    const [, priority] = body.split(':');
    await publisher.basicPublish('', queue, body, priority === undefined ? {} : { priority: Number(priority) });
  }
}

async function isTaken(publisher: ConfirmChannel, queue: string): Promise<boolean> {
  return await publisher.basicPublish('', queue, 'x').then(
    () => true,
    () => false,
  );
}

/** What a delivery tells of those before it. */
const told = ({ redelivered, properties: { headers } }: Message): unknown[] => [
  redelivered,
  headers?.['x-delivery-count'],
];

test('a message comes back to a quorum queue twenty times, unless the queue says otherwise', async () => {
  await using bench = await Bench.open();
  if (bench.isRabbitMq3) return;
  const dead = await bench.queue();
  const publisher = await bench.confirming();
  const usual = await quorum(bench, deadLettersTo(dead));
  const endless = await quorum(bench, { ...deadLettersTo(dead), 'x-delivery-limit': -1 });
  await publish(publisher, usual, 'usual');
  await publish(publisher, endless, 'endless');
  for (let count = 0; count <= 20; count += 1) {
    for (const queue of [usual, endless]) {
      const message = await get(bench.channel, queue);
      expect(told(message)).toEqual(count === 0 ? [false, undefined] : [true, count]);
      // 4.3 counts a nack as no failure.
      message.reject({ requeue: true });
    }
  }
  expect(text(await get(bench.channel, dead))).toBe('usual');
  expect(text(await get(bench.channel, endless))).toBe('endless');
});

test('what comes back goes before all others, in the order in which it comes; without a limit, it goes behind them', async () => {
  await using bench = await Bench.open();
  const publisher = await bench.confirming();
  const none: FieldTable = bench.isRabbitMq3 ? {} : { 'x-delivery-limit': -1 };
  for (const [args, end, expected] of [
    [{ 'x-delivery-limit': 5 }, 'nack', 'cabd'],
    [{ 'x-delivery-limit': 5 }, 'close', 'abcd'],
    // In 4.3, before them all the same.
    [none, 'nack', bench.isRabbitMq43 ? 'cabd' : 'dcab'],
    [none, 'close', 'abcd'],
  ] as const) {
    const queue = await quorum(bench, args);
    await publish(publisher, queue, 'a', 'b', 'c', 'd');
    const channel = await bench.connection.channel();
    const [a, b, c] = [await get(channel, queue), await get(channel, queue), await get(channel, queue)];
    if (end === 'nack') for (const message of [c, a, b]) message.nack();
    else await channel.close();
    await bench.ready(queue, 4);
    expect((await bench.drain(queue)).join('')).toBe(expected);
  }
});

test('there are two priorities, from 5 up and below, and the low one has every third turn', async () => {
  await using bench = await Bench.open();
  // 3.10 has one, 4.3 has 32.
  if (bench.isRabbitMq3 || bench.isRabbitMq43) return;
  const publisher = await bench.confirming();
  const queue = await quorum(bench);
  await publish(publisher, queue, 'a', 'b:0', 'c:4', 'd:5', 'e:9', 'f:255', 'g:1', 'h:6', 'i:7', 'j:8');
  const order = (bodies: readonly string[]): string => bodies.map((body) => body.charAt(0)).join('');
  expect(order(await bench.drain(queue))).toBe('deafhbijcg');
  // Older ones of the high priority are not overtaken, and the count goes on.
  const other = await quorum(bench);
  await publish(publisher, other, 'a:5', 'b:9', 'c:5', 'd:6', 'e', 'f:0');
  expect(order(await bench.drain(other))).toBe('abcdef');
  // What comes back goes before both.
  await publish(publisher, other, 'low');
  const low = await get(bench.channel, other);
  await publish(publisher, other, 'high:9');
  low.nack();
  await bench.ready(other, 2);
  expect(await bench.drain(other)).toEqual(['low', 'high:9']);
});

test('a message expires when it is the next, also where its priority has no other', async () => {
  await using bench = await Bench.open();
  // In 4.3 the next is the next of all priorities.
  if (bench.isRabbitMq3 || bench.isRabbitMq43) return;
  const publisher = await bench.confirming();
  const dead = await bench.queue();
  const queue = await quorum(bench, deadLettersTo(dead));
  await publish(publisher, queue, 'high:9');
  await publisher.basicPublish('', queue, 'low', { expiration: '1' });
  await publisher.basicPublish('', await bench.queue({ ...deadLettersTo(dead) }), 'a sign', { expiration: '100' });
  expect(text(await get(bench.channel, dead))).toBe('a sign');
  expect(await bench.text(queue)).toBe('high:9');
  expect(text(await get(bench.channel, dead))).toBe('low');
});

test('exclusive consumers are not', async () => {
  await using bench = await Bench.open();
  const queue = await quorum(bench);
  for (const exclusive of [true, true, false]) {
    await (await bench.connection.channel()).basicConsume(queue, () => undefined, { exclusive });
  }
  expect(await bench.scratch.state(queue)).toMatchObject({ consumerCount: 3 });
});

test('a single active consumer makes way for one of a higher priority, when it has settled what it holds', async () => {
  await using bench = await Bench.open();
  if (bench.isRabbitMq3) return;
  const publisher = await bench.confirming();
  const queue = await quorum(bench, { 'x-single-active-consumer': true });
  const consume = async (priority: number): Promise<Inbox<Message>> => {
    const messages = new Inbox<Message>();
    const channel = await bench.connection.channel();
    await channel.basicConsume(queue, messages.push, { arguments: { 'x-priority': priority } });
    return messages;
  };
  const low = await consume(0);
  await publish(publisher, queue, 'a');
  const held = await low.next();
  const high = await consume(5);
  await publish(publisher, queue, 'b');
  await bench.ready(queue, 1);
  held.ack();
  expect(text(await high.next())).toBe('b');
  await publish(publisher, queue, 'c');
  expect(text(await high.next())).toBe('c');
  expect(low.all.map(text)).toEqual(['a']);
});

test('with reject-publish it refuses once it is over its limit, until it is down to four fifths; dead letters it takes', async () => {
  await using bench = await Bench.open();
  if (bench.isRabbitMq3) return;
  const publisher = await bench.confirming();
  const queue = await quorum(bench, { 'x-max-length': 5, 'x-overflow': 'reject-publish' });
  let count = 0;
  for (; await isTaken(publisher, queue);) count += 1;
  // It may have told its publisher late.
  expect(count).toBeGreaterThan(5);
  for (; count > 5; count -= 1) await bench.take(queue);
  expect(await isTaken(publisher, queue)).toBe(false);
  await bench.take(queue);
  await eventually('a message that is taken', async () => ((await isTaken(publisher, queue)) ? true : undefined));
  for (; await isTaken(publisher, queue););
  const source = await bench.queue(deadLettersTo(queue));
  await publish(publisher, source, 'letter');
  (await get(bench.channel, source)).reject();
  await eventually('the letter', async () => ((await bench.text(queue)) === 'letter' ? true : undefined));
});

test('deliveries that failed are told by the next quorum queue, until the message has come back to that one', async () => {
  await using bench = await Bench.open();
  if (bench.isRabbitMq3) return;
  const publisher = await bench.confirming();
  const last = await quorum(bench);
  const between = await bench.queue(deadLettersTo(last));
  const first = await quorum(bench, deadLettersTo(between));
  await publish(publisher, first, 'x');
  const taker = await bench.connection.channel();
  await get(taker, first);
  await taker.close();
  // This one is no failure.
  (await get(bench.channel, first)).nack();
  (await get(bench.channel, first)).reject();
  const onTheWay = await get(bench.channel, between);
  // 4.3 says of a dead letter that it was delivered before.
  expect(told(onTheWay)).toEqual([bench.isRabbitMq43, undefined]);
  onTheWay.reject();
  const arrived = await get(bench.channel, last);
  // 4.3 counts the queue between, too, and goes on from there.
  expect(told(arrived)).toEqual([true, bench.isRabbitMq43 ? 3 : 2]);
  arrived.reject({ requeue: true });
  expect(told(await get(bench.channel, last))).toEqual([true, bench.isRabbitMq43 ? 4 : 1]);
});
