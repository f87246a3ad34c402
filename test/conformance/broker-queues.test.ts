/** What a queue keeps and for how long: times to live, limits, priorities, expiry. */
import { expect, test } from '@jest/globals';

import type { ConfirmChannel } from '../../lib/client/channel.js';
import type { Message } from '../../lib/client/message.js';
import type { AmqpError } from '../../lib/errors.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import { BareClient } from '../support/bare-client.js';
import { failure } from '../support/client.js';
import { Inbox, eventually } from '../support/waits.js';
import { Bench, text } from './bench.js';

async function publishAll(publisher: ConfirmChannel, queue: string, ...bodies: string[]): Promise<void> {
  for (const body of bodies) await publisher.basicPublish('', queue, body);
}

/** Publishes; says whether the queue took it. */
async function isTaken(publisher: ConfirmChannel, queue: string, body: string): Promise<boolean> {
  try {
    await publisher.basicPublish('', queue, body);
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: 'PUBLISH_NACKED' });
    return false;
  }
}

/** Two queues: what is thrown out of the first by a limit or by its time goes to the second. */
async function queueWithOutlet(bench: Bench, args: FieldTable): Promise<{ queue: string; outlet: string }> {
  const outlet = await bench.queue();
  const letters = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': outlet };
  return { queue: await bench.queue({ ...letters, ...args }), outlet };
}

test('messages of a queue with a time to live go in their order, each when its time is over', async () => {
  await using bench = await Bench.open();
  const { queue, outlet } = await queueWithOutlet(bench, { 'x-message-ttl': 30 });
  const publisher = await bench.confirming();
  const arrivals = await bench.arrivals(outlet);
  const published = performance.now();
  await publishAll(publisher, queue, 'a', 'b');
  expect([text(await arrivals.next()), text(await arrivals.next())]).toEqual(['a', 'b']);
  // Clocks count whole milliseconds.
  expect(performance.now() - published).toBeGreaterThan(28);
  expect(await bench.take(queue)).toBeUndefined();
});

test('a message whose own time is over waits for those before it, which live longer, to go first', async () => {
  await using bench = await Bench.open();
  const { queue, outlet } = await queueWithOutlet(bench, {});
  const publisher = await bench.confirming();
  const arrivals = await bench.arrivals(outlet);
  await publisher.basicPublish('', queue, 'lasting');
  await publisher.basicPublish('', queue, 'brief', { expiration: '1' });
  await publisher.basicPublish('', outlet, 'a sign', { expiration: '60000' });
  expect(text(await arrivals.next())).toBe('a sign');
  expect(await bench.channel.queueDeclare(queue, { passive: true })).toMatchObject({ messageCount: 2 });
  // At the head, it goes.
  expect(await bench.text(queue)).toBe('lasting');
  expect(text(await arrivals.next())).toBe('brief');
});

test('a time to live of 0 lets a message through to a consumer that is ready, and to nobody else', async () => {
  await using bench = await Bench.open();
  const publisher = await bench.confirming();
  for (const args of [{ 'x-message-ttl': 0 }, {}]) {
    const options = 'x-message-ttl' in args ? {} : { expiration: '0' };
    const { queue, outlet } = await queueWithOutlet(bench, args);
    await publisher.basicPublish('', queue, 'to nobody', options);
    expect(text(await (await bench.arrivals(outlet)).next())).toBe('to nobody');
    const received = await bench.arrivals(queue);
    await publisher.basicPublish('', queue, 'to somebody', options);
    expect(text(await received.next())).toBe('to somebody');
  }
});

test('a message that is out when its time ends is not lost: given back, it goes', async () => {
  await using bench = await Bench.open();
  const { queue, outlet } = await queueWithOutlet(bench, { 'x-message-ttl': 20 });
  const publisher = await bench.confirming();
  const arrivals = await bench.arrivals(outlet);
  await bench.channel.basicQos(1);
  const taken = new Inbox<Message>();
  const tag = await bench.channel.basicConsume(queue, taken.push);
  await publishAll(publisher, queue, 'held');
  const held = await taken.next();
  await publishAll(publisher, queue, 'behind it');
  expect(text(await arrivals.next())).toBe('behind it');
  await bench.channel.basicCancel(tag);
  held.nack();
  expect(text(await arrivals.next())).toBe('held');
});

test('an expiration stays with a message that is delivered', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue({ 'x-message-ttl': 60_000 });
  const publisher = await bench.confirming();
  await publisher.basicPublish('', queue, 'x', { expiration: '50000' });
  expect((await bench.take(queue))?.properties).toEqual({ expiration: '50000' });
});

test('a queue expires when nobody has used it for so long, full or not, without dead letters, and consumers keep it', async () => {
  await using bench = await Bench.open();
  const { scratch } = bench;
  const outlet = await bench.queue();
  const queue = scratch.queueName();
  const other = await bench.connection.channel();
  // Said in one breath: the time runs from the declaration on.
  await Promise.all([
    other.queueDeclare(queue, {
      arguments: { 'x-expires': 800, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': outlet },
    }),
    other.basicConsume(queue, () => undefined),
  ]);
  // As long again as it would have lived.
  const { queue: clock } = await bench.channel.queueDeclare('', { arguments: { 'x-expires': 900 } });
  await gone(bench, clock);
  expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
  await scratch.send(queue, 'x');
  // The consumer goes, and the message that it has not answered is back.
  await other.close();
  await gone(bench, queue);
  expect(await bench.take(outlet)).toBeUndefined();
});

/** Resolves when the queue is gone. Publishing to it is no use of it, declaring it would be. */
async function gone(bench: Bench, queue: string): Promise<void> {
  const publisher = await bench.confirming();
  await eventually(`the end of ${queue}`, async () => {
    try {
      await publisher.basicPublish('', queue, 'y', { mandatory: true });
      return undefined;
    } catch (error) {
      // 4.3 may still route to it as it goes.
      const { code } = error as AmqpError;
      if (bench.isRabbitMq43 && code === 'PUBLISH_NACKED') return undefined;
      expect(code).toBe('UNROUTABLE');
      return true;
    }
  });
  await publisher.close();
}

test('a limit of length throws out the oldest ready message; those that are out do not count', async () => {
  await using bench = await Bench.open();
  const { queue, outlet } = await queueWithOutlet(bench, { 'x-max-length': 2 });
  const publisher = await bench.confirming();
  await publishAll(publisher, queue, 'a', 'b');
  const held = (await bench.channel.basicGet(queue))?.message;
  await publishAll(publisher, queue, 'c');
  expect(await bench.channel.queueDeclare(outlet, { passive: true })).toMatchObject({ messageCount: 0 });
  await publishAll(publisher, queue, 'd', 'e');
  const arrivals = await bench.arrivals(outlet);
  expect([text(await arrivals.next()), text(await arrivals.next())]).toEqual(['b', 'c']);
  expect(held && text(held)).toBe('a');
  expect(await bench.drain(queue)).toEqual(['d', 'e']);
});

test('a limit in bytes counts bodies alone, and throws out as many as it takes, the new one too', async () => {
  await using bench = await Bench.open();
  const { queue, outlet } = await queueWithOutlet(bench, { 'x-max-length-bytes': 10 });
  const publisher = await bench.confirming();
  await publisher.basicPublish('', queue, '1234', { headers: { more: 'than ten bytes' } });
  await publishAll(publisher, queue, '5678', '90');
  expect(await bench.channel.queueDeclare(queue, { passive: true })).toMatchObject({ messageCount: 3 });
  await publishAll(publisher, queue, 'abcde');
  await bench.ready(outlet, 2);
  expect([await bench.drain(outlet), await bench.drain(queue)]).toEqual([
    ['1234', '5678'],
    ['90', 'abcde'],
  ]);
  await publishAll(publisher, queue, 'a', 'more than ten bytes');
  await bench.ready(outlet, 2);
  expect([await bench.drain(outlet), await bench.drain(queue)]).toEqual([['a', 'more than ten bytes'], []]);
});

test('a queue of length 0 lets a message through to a consumer that is ready, and keeps none', async () => {
  await using bench = await Bench.open();
  const { queue, outlet } = await queueWithOutlet(bench, { 'x-max-length': 0 });
  const publisher = await bench.confirming();
  await publishAll(publisher, queue, 'x');
  expect(text(await (await bench.arrivals(outlet)).next())).toBe('x');
  const received = await bench.arrivals(queue);
  await publishAll(publisher, queue, 'y');
  expect(text(await received.next())).toBe('y');
});

test('a full queue with reject-publish nacks what comes, keeps what it has, and takes again when there is room', async () => {
  await using bench = await Bench.open();
  for (const limit of [{ 'x-max-length': 2 }, { 'x-max-length-bytes': 2 }]) {
    const queue = await bench.queue({ 'x-overflow': 'reject-publish', ...limit });
    const publisher = await bench.confirming();
    const taken: boolean[] = [];
    for (const body of 'abc') taken.push(await isTaken(publisher, queue, body));
    expect([limit, taken]).toEqual([limit, [true, true, false]]);
    expect(await bench.text(queue)).toBe('a');
    expect(await isTaken(publisher, queue, 'd')).toBe(true);
    expect(await bench.drain(queue)).toEqual(['b', 'd']);
  }
});

test('a publish to several queues is nacked when one of them refuses it, and the others have it', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('fanout');
  const [full, roomy] = [await bench.queue({ 'x-overflow': 'reject-publish', 'x-max-length': 1 }), await bench.queue()];
  for (const queue of [full, roomy]) await channel.queueBind(queue, exchange);
  const publisher = await bench.confirming();
  await publisher.basicPublish(exchange, '', 'a');
  expect((await failure(publisher.basicPublish(exchange, '', 'b'))).code).toBe('PUBLISH_NACKED');
  expect([await bench.drain(full), await bench.drain(roomy)]).toEqual([['a'], ['a', 'b']]);
});

test('a queue with priorities hands out the highest first, in order within one; what is over the highest counts as that', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue({ 'x-max-priority': 3 });
  const publisher = await bench.confirming();
  const published: readonly [string, number | undefined][] = [
    ['none', undefined],
    ['1', 1],
    ['9', 9],
    ['3', 3],
    ['0', 0],
    ['1 too', 1],
    ['2', 2],
  ];
  for (const [body, priority] of published) {
    await publisher.basicPublish('', queue, body, priority === undefined ? {} : { priority });
  }
  const first = (await bench.channel.basicGet(queue))?.message;
  expect(first && text(first)).toBe('9');
  first?.nack();
  await bench.ready(queue, published.length);
  const taken = await bench.take(queue);
  // It is told what was published.
  expect([taken && text(taken), taken?.redelivered, taken?.properties.priority]).toEqual(['9', true, 9]);
  expect(await bench.drain(queue)).toEqual(['3', '2', '1', '1 too', 'none', '0']);
});

test('without x-max-priority priorities change nothing', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue();
  const publisher = await bench.confirming();
  for (const priority of [1, 9, 5]) await publisher.basicPublish('', queue, `${priority}`, { priority });
  expect(await bench.drain(queue)).toEqual(['1', '9', '5']);
});

test('a queue with priorities throws out its head when it is full: the highest', async () => {
  await using bench = await Bench.open();
  const { queue, outlet } = await queueWithOutlet(bench, { 'x-max-priority': 3, 'x-max-length': 2 });
  const publisher = await bench.confirming();
  for (const priority of [1, 3, 2]) await publisher.basicPublish('', queue, `${priority}`, { priority });
  expect(text(await (await bench.arrivals(outlet)).next())).toBe('3');
  expect(await bench.drain(queue)).toEqual(['2', '1']);
});

test('the counts of a declaration are what is ready and who consumes', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queue = await bench.scratch.queue();
  const publisher = await bench.confirming();
  await publishAll(publisher, queue, 'a', 'b', 'c');
  await channel.basicGet(queue);
  const consuming = await bench.connection.channel();
  await consuming.basicQos(1);
  const received = new Inbox();
  await consuming.basicConsume(queue, received.push);
  await received.next();
  for (const passive of [true, false]) {
    expect(await channel.queueDeclare(queue, { passive })).toEqual({ queue, messageCount: 1, consumerCount: 1 });
  }
  expect(await channel.queueDelete(queue)).toBe(1);
});

test('a name that the broker makes up begins with amq.gen- and is the channel’s last declared, as is any other', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const { queue: first } = await channel.queueDeclare();
  expect(first).toMatch(/^amq\.gen-[\w-]{22}$/);
  const publisher = await bench.confirming();
  await publishAll(publisher, first, 'x');
  const second = await bench.queue();
  expect(await channel.queuePurge('')).toBe(0);
  // Looking at a queue makes it the last declared, too.
  await channel.queueDeclare(first, { passive: true });
  expect(await channel.queuePurge('')).toBe(1);
  // Declaring it again is refused: the name is one of the broker's.
  const again = bench.refusal((other) =>
    other.queueDeclare(first, { durable: false, exclusive: true, autoDelete: true }),
  );
  expect(await again).toMatchObject({ replyCode: 403, method: 'queue.declare' });
  await channel.queueBind('', 'amq.direct', second);
  await publisher.basicPublish('amq.direct', second, 'bound', { mandatory: true });
  expect(await bench.drain(first)).toEqual(['bound']);
  // Without queue and key, the key is the queue's name.
  await using client = await BareClient.open();
  const shape = { passive: false, durable: false, exclusive: true, autoDelete: false, noWait: false, arguments: {} };
  client.send(1, 'queue.declare', { queue: '', ...shape });
  const { queue } = (await client.receive('queue.declare-ok')).args;
  client.send(1, 'queue.bind', { queue: '', exchange: 'amq.direct', routingKey: '', noWait: false, arguments: {} });
  await client.receive('queue.bind-ok');
  await publisher.basicPublish('amq.direct', queue, 'x', { mandatory: true });
});
