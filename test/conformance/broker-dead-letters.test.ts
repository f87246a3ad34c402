/** What becomes of messages that a queue gives up: where they go, and what their headers tell of their deaths. */
import { expect, test } from '@jest/globals';

import type { ConfirmChannel } from '../../lib/client/channel.js';
import type { Message } from '../../lib/client/message.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import { failure, unique } from '../support/client.js';
import { eventually } from '../support/waits.js';
import { Bench, text } from './bench.js';

/** The arguments of a queue whose dead letters go straight to another queue. */
const deadLettersTo = (queue: string): FieldTable => ({
  'x-dead-letter-exchange': '',
  'x-dead-letter-routing-key': queue,
});

/** The next message of a queue, unacknowledged, waiting until there is one. */
async function get(bench: Bench, queue: string): Promise<Message> {
  return await eventually(`a message in ${queue}`, async () => (await bench.channel.basicGet(queue))?.message);
}

/** The next message of a queue, taken out of it, waiting until there is one. */
async function take(bench: Bench, queue: string): Promise<Message> {
  return await eventually(`a message in ${queue}`, () => bench.take(queue));
}

async function publishAndReject(
  bench: Bench,
  publisher: ConfirmChannel,
  queue: string,
  headers?: FieldTable,
): Promise<void> {
  await publisher.basicPublish('', queue, 'x', { headers });
  (await get(bench, queue)).reject();
}

/** What a message tells of its only death. */
function onlyDeath(bench: Bench, reason: string, queue: string, more: FieldTable = {}): object {
  const death = { count: 1, reason, queue, exchange: '', 'routing-keys': [queue], time: expect.any(Date), ...more };
  const tell = (which: string): object => ({
    [`x-${which}-death-exchange`]: '',
    [`x-${which}-death-queue`]: queue,
    [`x-${which}-death-reason`]: reason,
  });
  // 3.10 tells of the first death only.
  return { 'x-death': [death], ...tell('first'), ...(bench.isRabbitMq3 ? {} : tell('last')) };
}

test('a rejected message keeps its properties, but for its expiration, and tells of its death in every field', async () => {
  await using bench = await Bench.open();
  const dead = await bench.queue();
  const queue = await bench.queue(deadLettersTo(dead));
  const publisher = await bench.confirming();
  const kept = { messageId: 'm', priority: 3, deliveryMode: 2, correlationId: 'c', type: 't' };
  await publisher.basicPublish('', queue, 'x', { ...kept, headers: { a: 1 }, expiration: '60000' });
  const before = Date.now();
  (await get(bench, queue)).reject();
  const letter = await take(bench, dead);
  const headers = { a: 1, ...onlyDeath(bench, 'rejected', queue, { 'original-expiration': '60000' }) };
  expect([letter.exchange, letter.routingKey, text(letter)]).toEqual(['', dead, 'x']);
  // 4.3 counts the delivery before its death.
  expect(letter.redelivered).toBe(bench.isRabbitMq43);
  expect(letter.properties).toEqual({ ...kept, headers });
  const [{ time }] = letter.properties.headers?.['x-death'] as [{ time: Date }];
  // Whole seconds.
  expect(time.getTime() % 1000).toBe(0);
  expect(Math.abs(time.getTime() - before)).toBeLessThan(5000);
});

test('a message dies by nack, by its own and by its queue’s time, by length and by bytes, and tells which', async () => {
  await using bench = await Bench.open();
  const publisher = await bench.confirming();
  const deaths: [reason: string, args: FieldTable, die: (queue: string) => Promise<unknown>, more?: FieldTable][] = [
    [
      'rejected',
      {},
      async (queue) => {
        await publisher.basicPublish('', queue, 'x');
        (await get(bench, queue)).nack({ requeue: false });
      },
    ],
    [
      'expired',
      {},
      (queue) => publisher.basicPublish('', queue, 'x', { expiration: '10' }),
      { 'original-expiration': '10' },
    ],
    // At once, unless a consumer is ready.
    [
      'expired',
      {},
      (queue) => publisher.basicPublish('', queue, 'x', { expiration: '0' }),
      { 'original-expiration': '0' },
    ],
    ['expired', { 'x-message-ttl': 10 }, (queue) => publisher.basicPublish('', queue, 'x')],
    // The shorter time counts.
    [
      'expired',
      { 'x-message-ttl': 10 },
      (queue) => publisher.basicPublish('', queue, 'x', { expiration: '60000' }),
      { 'original-expiration': '60000' },
    ],
    [
      'maxlen',
      { 'x-max-length': 1 },
      async (queue) => {
        for (const body of ['x', 'y']) await publisher.basicPublish('', queue, body);
      },
    ],
    [
      'maxlen',
      { 'x-max-length-bytes': 5 },
      async (queue) => {
        for (const body of ['x', '12345']) await publisher.basicPublish('', queue, body);
      },
    ],
    [
      'maxlen',
      { 'x-max-length': 1, 'x-overflow': 'reject-publish-dlx' },
      async (queue) => {
        await publisher.basicPublish('', queue, 'y');
        expect((await failure(publisher.basicPublish('', queue, 'x'))).code).toBe('PUBLISH_NACKED');
      },
    ],
  ];
  for (const [reason, args, die, more] of deaths) {
    const dead = await bench.queue();
    const queue = await bench.queue({ ...deadLettersTo(dead), ...args });
    await die(queue);
    const letter = await take(bench, dead);
    expect(text(letter)).toBe('x');
    expect(letter.properties).toEqual({ headers: onlyDeath(bench, reason, queue, more) });
  }
});

test('a dead letter keeps the routing keys that it came with, and the exchange it came from is told', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const [source, letters] = [await scratch.exchange('topic'), await scratch.exchange('topic')];
  const [dead, queue] = [await bench.queue(), await bench.queue({ 'x-dead-letter-exchange': letters })];
  await channel.queueBind(dead, letters, '#');
  await channel.queueBind(queue, source, '#');
  const publisher = await bench.confirming();
  await publisher.basicPublish(source, 'a.b', 'x', { headers: { CC: ['c'], BCC: ['d'] } });
  (await get(bench, queue)).reject();
  const letter = await take(bench, dead);
  expect([letter.exchange, letter.routingKey]).toEqual([letters, 'a.b']);
  // Whom a blind copy went to stays untold.
  const more = { exchange: source, 'routing-keys': ['a.b', 'c'] };
  const which = bench.isRabbitMq3 ? ['first'] : ['first', 'last'];
  const exchanges = Object.fromEntries(which.map((death) => [`x-${death}-death-exchange`, source]));
  expect(letter.properties.headers).toEqual({ CC: ['c'], ...onlyDeath(bench, 'rejected', queue, more), ...exchanges });
  expect(await bench.take(dead)).toBeUndefined();
});

test('dead letters are routed to the copies again, unless the queue gives them a key of its own', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const letters = await scratch.exchange('direct');
  const [copies, others] = [await bench.queue(), await bench.queue()];
  await channel.queueBind(copies, letters, 'copy');
  await channel.queueBind(others, letters, 'own');
  const publisher = await bench.confirming();
  const keeping = await bench.queue({ 'x-dead-letter-exchange': letters });
  const naming = await bench.queue({ 'x-dead-letter-exchange': letters, 'x-dead-letter-routing-key': 'own' });
  await publishAndReject(bench, publisher, keeping, { CC: ['copy'] });
  expect((await take(bench, copies)).routingKey).toBe(keeping);
  await publishAndReject(bench, publisher, naming, { CC: ['copy'] });
  const letter = await take(bench, others);
  expect([letter.routingKey, await bench.take(copies)]).toEqual(['own', undefined]);
  // 3.10 drops the header, with what it named.
  expect(letter.properties.headers?.['CC']).toEqual(bench.isRabbitMq3 ? undefined : ['copy']);
});

test('a message that dies of the same again has one entry with a count, the last death first', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const [waiting, working] = [scratch.queueName(), scratch.queueName()];
  await channel.queueDeclare(waiting, { arguments: { ...deadLettersTo(working), 'x-message-ttl': 5 } });
  await channel.queueDeclare(working, { arguments: deadLettersTo(waiting) });
  const publisher = await bench.confirming();
  await publisher.basicPublish('', waiting, 'x');
  for (let round = 1; round <= 3; round += 1) {
    const message = await get(bench, working);
    const deaths = message.properties.headers?.['x-death'] as readonly FieldTable[];
    const told = deaths.map(({ queue, reason, count }) => [queue, reason, count]);
    expect(told).toEqual(
      [
        [waiting, 'expired', round],
        [working, 'rejected', round - 1],
      ].slice(0, round === 1 ? 1 : 2),
    );
    expect(message.properties.headers).toMatchObject({
      'x-first-death-queue': waiting,
      'x-first-death-reason': 'expired',
    });
    message.reject();
  }
});

test('deaths are told the latest first, also after several rounds', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const [first, second, third] = [scratch.queueName(), scratch.queueName(), scratch.queueName()];
  await channel.queueDeclare(first, { arguments: { ...deadLettersTo(second), 'x-message-ttl': 5 } });
  await channel.queueDeclare(second, { arguments: { ...deadLettersTo(third), 'x-message-ttl': 5 } });
  await channel.queueDeclare(third, { arguments: deadLettersTo(first) });
  const publisher = await bench.confirming();
  await publisher.basicPublish('', first, 'x');
  for (let round = 1; round <= 3; round += 1) {
    const message = await get(bench, third);
    const deaths = message.properties.headers?.['x-death'] as readonly FieldTable[];
    const told = [[second, round], [first, round], ...(round > 1 ? [[third, round - 1]] : [])];
    expect(deaths.map(({ queue, count }) => [queue, count])).toEqual(told);
    message.reject();
    // 3.10 mixes up the older deaths, takes the message for one that goes round by itself, and drops it.
    if (bench.isRabbitMq3) return;
  }
});

test('a message that goes round without a rejection is dropped when it comes back to a queue that it died in', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const publisher = await bench.confirming();
  // Round one queue, and round two. A letter behind it shows that the dropped one is gone.
  const self = scratch.queueName();
  await channel.queueDeclare(self, { arguments: { ...deadLettersTo(self), 'x-message-ttl': 5 } });
  await publisher.basicPublish('', self, 'x');
  await bench.ready(self, 0);
  const [one, other, seen] = [scratch.queueName(), scratch.queueName(), await bench.queue()];
  const letters = await scratch.exchange('fanout');
  await channel.queueDeclare(one, { arguments: { ...deadLettersTo(other), 'x-message-ttl': 5 } });
  await channel.queueDeclare(other, { arguments: { 'x-dead-letter-exchange': letters, 'x-message-ttl': 5 } });
  await channel.queueBind(one, letters);
  await channel.queueBind(seen, letters);
  await publisher.basicPublish('', one, 'x');
  const letter = await take(bench, seen);
  const deaths = letter.properties.headers?.['x-death'] as readonly FieldTable[];
  expect(deaths.map(({ queue, count }) => [queue, count])).toEqual([
    [other, 1],
    [one, 1],
  ]);
  // Were it not dropped, it would come round once more before a letter that sets out later.
  await publisher.basicPublish('', one, 'a sign');
  expect(text(await take(bench, seen))).toBe('a sign');
  await bench.ready(one, 0);
  expect([await bench.take(other), await bench.take(seen)]).toEqual([undefined, undefined]);
});

test('a rejected message may come back to the queue that it was rejected from', async () => {
  await using bench = await Bench.open();
  const queue = bench.scratch.queueName();
  await bench.channel.queueDeclare(queue, { arguments: deadLettersTo(queue) });
  const publisher = await bench.confirming();
  await publishAndReject(bench, publisher, queue);
  (await get(bench, queue)).reject();
  const message = await take(bench, queue);
  expect(message.properties.headers).toMatchObject({ 'x-death': [{ count: 2, reason: 'rejected' }] });
});

test('what a publisher says of deaths: 3.10 counts it on, later brokers believe only themselves', async () => {
  await using bench = await Bench.open();
  const dead = await bench.queue();
  const queue = await bench.queue(deadLettersTo(dead));
  const publisher = await bench.confirming();
  await publishAndReject(bench, publisher, queue);
  const { headers } = (await take(bench, dead)).properties;
  await publishAndReject(bench, publisher, queue, headers);
  const count = bench.isRabbitMq3 ? 2 : 1;
  expect((await take(bench, dead)).properties.headers).toMatchObject({ 'x-death': [{ count }] });
  await publishAndReject(bench, publisher, queue, { 'x-death': 'nonsense' });
  expect((await take(bench, dead)).properties.headers).toMatchObject({ 'x-death': [{ count: 1 }] });
});

test('dead letters are dropped without an exchange to go to, or a queue behind it; purged and deleted messages are none', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const publisher = await bench.confirming();
  for (const letters of [unique('exchange'), 'amq.direct']) {
    const queue = await bench.queue({ 'x-dead-letter-exchange': letters });
    await publishAndReject(bench, publisher, queue);
    expect(await bench.take(queue)).toBeUndefined();
  }
  const dead = await bench.queue();
  const queue = await bench.queue(deadLettersTo(dead));
  await publisher.basicPublish('', queue, 'purged');
  expect(await channel.queuePurge(queue)).toBe(1);
  await publisher.basicPublish('', queue, 'deleted');
  expect(await channel.queueDelete(queue)).toBe(1);
  const other = await bench.queue(deadLettersTo(dead));
  await publishAndReject(bench, publisher, other);
  expect(await take(bench, dead)).toMatchObject({ routingKey: dead });
  expect(await bench.take(dead)).toBeUndefined();
});

test('a quorum queue counts deliveries that came back, and gives a message up over its limit', async () => {
  await using bench = await Bench.open();
  const dead = await bench.queue();
  const queue = await bench.scratch.queue({
    arguments: { ...deadLettersTo(dead), 'x-queue-type': 'quorum', 'x-delivery-limit': 2 },
  });
  const publisher = await bench.confirming();
  await publisher.basicPublish('', queue, 'x', { headers: { a: 1 } });
  for (let round = 0; round <= 2; round += 1) {
    const message = await get(bench, queue);
    // 3.10 says of the first delivery, too, how many came before it.
    const isTold = round > 0 || bench.isRabbitMq3;
    // 4.3 counts those, too, that are no failures.
    const acquired = round > 0 && bench.isRabbitMq43 ? { 'x-acquired-count': round } : {};
    expect(message.properties.headers).toEqual({ a: 1, ...(isTold ? { 'x-delivery-count': round } : {}), ...acquired });
    expect(message.redelivered).toBe(round > 0);
    message.reject({ requeue: true });
  }
  const letter = await take(bench, dead);
  expect(letter.properties.headers).toEqual({ a: 1, ...onlyDeath(bench, 'delivery_limit', queue) });
});

test('a channel that ends counts as a delivery that came back to a quorum queue', async () => {
  await using bench = await Bench.open();
  const dead = await bench.queue();
  const queue = await bench.scratch.queue({
    arguments: { ...deadLettersTo(dead), 'x-queue-type': 'quorum', 'x-delivery-limit': 1 },
  });
  const publisher = await bench.confirming();
  await publisher.basicPublish('', queue, 'x');
  for (let round = 0; round < 2; round += 1) {
    const channel = await bench.connection.channel();
    await eventually('the message', async () => (await channel.basicGet(queue))?.message);
    await channel.close();
  }
  const { headers } = (await take(bench, dead)).properties;
  expect(headers).toMatchObject({ 'x-first-death-reason': 'delivery_limit' });
});
