/** What a channel can do, against the real broker; only what that broker cannot be made to do is scripted. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';

import type { Channel } from '../../lib/client/channel.js';
import type { ReturnedMessage } from '../../lib/client/channel-options.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import type { AmqpError } from '../../lib/errors.js';
import { Decimal } from '../../lib/protocol/field-table.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, frameOf, isRabbitMq3, scriptedChannel, thrown } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { Inbox, eventually, within } from '../support/waits.js';

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

/** A server-named queue of this connection, with these messages. */
async function queueWith(...bodies: string[]): Promise<string> {
  const { queue } = await channel.queueDeclare();
  for (const body of bodies) void channel.basicPublish('', queue, body);
  return queue;
}

/** Resolves when so many messages are ready; the broker may count before it has taken in what was sent before. */
async function ready(queue: string, count: number): Promise<void> {
  await eventually(`${count} messages in ${queue}`, async () =>
    (await channel.queueDeclare(queue, { passive: true })).messageCount === count ? true : undefined,
  );
}

const text = (message: Message | undefined): string | undefined => message?.body.toString();

async function get(queue: string, noAck = true): Promise<Message | undefined> {
  return (await channel.basicGet(queue, { noAck }))?.message;
}

describe('exchanges', () => {
  test.each(['direct', 'fanout', 'topic', 'headers'])('a %s exchange is declared, found and deleted', async (type) => {
    const exchange = scratch.exchangeName();
    await channel.exchangeDeclare(exchange, type, {
      durable: false,
      autoDelete: true,
      arguments: { 'x-note': 'test' },
    });
    await channel.exchangeDeclare(exchange, type, { passive: true });
    await channel.exchangeDelete(exchange);
    expect(await failure(channel.exchangeDeclare(exchange, type, { passive: true }))).toMatchObject({ replyCode: 404 });
  });

  test('deleting one that does not exist is no error; deleting a used one is, with ifUnused', async () => {
    await channel.exchangeDelete(scratch.exchangeName());
    const exchange = scratch.exchangeName();
    await channel.exchangeDeclare(exchange, 'fanout');
    await channel.queueBind(await queueWith(), exchange);
    expect(await failure(channel.exchangeDelete(exchange, { ifUnused: true }))).toMatchObject({
      replyCode: 406,
      method: 'exchange.delete',
    });
  });

  test('hand messages on to each other as long as they are bound', async () => {
    const [source, destination] = [scratch.exchangeName(), scratch.exchangeName()];
    await channel.exchangeDeclare(source, 'topic');
    await channel.exchangeDeclare(destination, 'fanout', { internal: true });
    const queue = await queueWith();
    await channel.queueBind(queue, destination);
    await channel.exchangeBind(destination, source, 'order.#');
    void channel.basicPublish(source, 'order.new', 'one');
    void channel.basicPublish(source, 'other', 'two');
    expect(text(await get(queue))).toBe('one');
    await channel.exchangeUnbind(destination, source, 'order.#');
    void channel.basicPublish(source, 'order.new', 'three');
    expect(await get(queue)).toBeUndefined();
  });

  test('match headers by the arguments of a binding', async () => {
    const exchange = scratch.exchangeName();
    await channel.exchangeDeclare(exchange, 'headers');
    const queue = await queueWith();
    const args = { 'x-match': 'all', kind: 'report', size: 3 };
    await channel.queueBind(queue, exchange, '', args);
    void channel.basicPublish(exchange, '', 'no', { headers: { kind: 'report', size: 4 } });
    void channel.basicPublish(exchange, '', 'yes', { headers: { kind: 'report', size: 3 } });
    expect(text(await get(queue))).toBe('yes');
    await channel.queueUnbind(queue, exchange, '', args);
    void channel.basicPublish(exchange, '', 'late', { headers: { kind: 'report', size: 3 } });
    expect(await get(queue)).toBeUndefined();
  });

  test('an unknown type ends what the broker has it end: the connection, from RabbitMQ 4 on the channel alone', async () => {
    const error = await failure(channel.exchangeDeclare(scratch.exchangeName(), 'no-such-type'));
    expect(error).toMatchObject({ closedBy: 'server', method: 'exchange.declare' });
    // Up to RabbitMQ 3 it is COMMAND_INVALID, a hard error (AMQP 0-9-1, 1.2); RabbitMQ 4 says PRECONDITION_FAILED, a soft one.
    expect([error.code, error.replyCode, channel.isOpen, connection.isOpen]).toEqual(
      isRabbitMq3(connection) ? ['CONNECTION_CLOSED', 503, false, false] : ['CHANNEL_CLOSED', 406, false, true],
    );
  });
});

describe('queues', () => {
  test('are declared, found, purged and deleted, and each says how many messages there were', async () => {
    const queue = scratch.queueName();
    expect(await channel.queueDeclare(queue)).toEqual({ queue, messageCount: 0, consumerCount: 0 });
    void channel.basicPublish('', queue, 'a');
    void channel.basicPublish('', queue, 'b');
    await ready(queue, 2);
    expect(await channel.queueDeclare(queue, { passive: true })).toEqual({ queue, messageCount: 2, consumerCount: 0 });
    expect(await channel.queuePurge(queue)).toBe(2);
    void channel.basicPublish('', queue, 'c');
    await ready(queue, 1);
    expect(await channel.queueDelete(queue)).toBe(1);
    expect(await channel.queueDelete(queue)).toBe(0);
  });

  test('without a name get one from the broker, are exclusive, and go with the connection', async () => {
    const { queue } = await channel.queueDeclare();
    expect(queue).toMatch(/^amq\.gen-/);
    expect(await failure(onAnother((other) => other.queueDeclare(queue, { passive: true })))).toMatchObject({
      replyCode: 405,
    });
    await connection.close();
    await scratch.isGone(queue);
  });

  test('without a name are deleted with their last consumer', async () => {
    const queue = await queueWith();
    const consumerTag = await channel.basicConsume(queue, () => undefined);
    await channel.basicCancel(consumerTag);
    expect(await failure(channel.queueDeclare(queue, { passive: true }))).toMatchObject({ replyCode: 404 });
  });

  test('are kept by ifEmpty and ifUnused', async () => {
    const queue = await scratch.queue();
    void channel.basicPublish('', queue, 'x');
    await scratch.hasMessages(queue, 1);
    expect(await failure(channel.queueDelete(queue, { ifEmpty: true }))).toMatchObject({ replyCode: 406 });
    const next = await connection.channel();
    await next.basicConsume(queue, () => undefined);
    expect(await failure(next.queueDelete(queue, { ifUnused: true }))).toMatchObject({ replyCode: 406 });
    await scratch.hasConsumers(queue, 0);
  });

  test('bound to a topic get what matches, until they are unbound', async () => {
    const exchange = await scratch.exchange('topic');
    const queue = await queueWith();
    await channel.queueBind(queue, exchange, 'a.*');
    await channel.queueBind(queue, exchange, 'b.#');
    for (const key of ['a.x', 'a.x.y', 'b', 'b.x.y']) void channel.basicPublish(exchange, key, key);
    expect([text(await get(queue)), text(await get(queue)), text(await get(queue)), text(await get(queue))]).toEqual([
      'a.x',
      'b',
      'b.x.y',
      undefined,
    ]);
    await channel.queueUnbind(queue, exchange, 'b.#');
    void channel.basicPublish(exchange, 'b', 'b');
    expect(await get(queue)).toBeUndefined();
    await channel.queueUnbind(queue, exchange, 'never bound');
  });

  test('take arguments of every type that the broker reads', async () => {
    const queue = scratch.queueName();
    const args = { 'x-max-length': 10, 'x-message-ttl': 60_000, 'x-overflow': 'reject-publish', 'x-max-priority': 5 };
    await channel.queueDeclare(queue, { arguments: args });
    await channel.queueDeclare(queue, { arguments: args });
    expect(await failure(channel.queueDeclare(queue, { arguments: { ...args, 'x-max-length': 11 } }))).toMatchObject({
      replyCode: 406,
    });
  });
});

describe('a queue name that is left out is not the queue declared last, as it is for the broker:', () => {
  /** JavaScript's callers have no compiler. */
  const missing = undefined as unknown as string;

  test.each<[string, (channel: Channel) => Promise<unknown>]>([
    ['queueDelete', (c) => c.queueDelete(missing)],
    ['queuePurge', (c) => c.queuePurge(missing)],
    ['queueBind', (c) => c.queueBind(missing, 'amq.fanout')],
    ['basicGet', (c) => c.basicGet(missing)],
    ['basicConsume', (c) => c.basicConsume(missing, () => undefined)],
  ])('%s refuses it', async (_, call) => {
    const queue = scratch.queueName();
    await channel.queueDeclare(queue);
    await scratch.send(queue, 'kept');
    expect((await failure(call(channel))).code).toBe('INVALID_ARGUMENT');
    expect(await channel.queueDeclare(queue, { passive: true })).toEqual({ queue, messageCount: 1, consumerCount: 0 });
  });
});

describe('an option that does not exist is refused, and the channel is not hurt:', () => {
  /** Misspelt, in a way that a variable carries past the compiler. */
  const misspelt = { arguments: {}, autodelete: true };

  test.each<[string, (channel: Channel) => Promise<unknown>]>([
    ['queueDeclare', (c) => c.queueDeclare(scratch.queueName(), misspelt)],
    ['exchangeDeclare', (c) => c.exchangeDeclare(scratch.exchangeName(), 'topic', misspelt)],
    ['basicConsume', (c) => c.basicConsume('q', () => undefined, misspelt)],
  ])('%s', async (_, call) => {
    const error = await failure(call(channel));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain('autodelete');
    expect((await channel.queueDeclare()).queue).toMatch(/^amq\.gen-/);
  });

  test('basicPublish with persistent, which is deliveryMode: 2', async () => {
    const queue = await queueWith();
    const options = { mandatory: true, persistent: true };
    const error = thrown(() => channel.basicPublish('', queue, 'x', options));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain('deliveryMode: 2');
    expect(await get(queue)).toBeUndefined();
  });
});

/** On a connection of its own. */
async function onAnother<T>(work: (other: Channel) => Promise<T>): Promise<T> {
  await using another = await connect(brokerUrl);
  return await work(await another.channel());
}

describe('what the broker refuses ends the channel with its reason:', () => {
  test('404, a missing queue', async () => {
    const queue = scratch.queueName();
    const ended = once(channel, 'close') as Promise<[AmqpError]>;
    const error = await failure(channel.queueDeclare(queue, { passive: true }));
    expect(error).toMatchObject({
      code: 'CHANNEL_CLOSED',
      replyCode: 404,
      method: 'queue.declare',
      closedBy: 'server',
    });
    expect(error.replyText).toContain('NOT_FOUND');
    expect(error.message).toContain(`no queue '${queue}'`);
    expect(error.message).toContain('Declare it first, or correct the name');
    expect((await ended)[0]).toMatchObject({ replyCode: 404 });
    expect(channel.isOpen).toBe(false);
    // The connection is not hurt, and the dead channel says why it is dead.
    expect((await connection.channel()).isOpen).toBe(true);
    expect(thrown(() => channel.basicPublish('', 'q', '')).message).toContain(queue);
    await channel.close();
  });

  test('405, a queue that another connection has for itself', async () => {
    const queue = await queueWith();
    const error = await failure(onAnother((other) => other.basicGet(queue)));
    expect(error).toMatchObject({ replyCode: 405, method: 'basic.get', closedBy: 'server' });
    expect(error.message).toContain('exclusively');
  });

  test('406, a queue with other properties', async () => {
    const queue = await scratch.queue();
    const error = await failure(channel.queueDeclare(queue, { durable: false }));
    expect(error).toMatchObject({ replyCode: 406, method: 'queue.declare' });
    expect(error.message).toContain("inequivalent arg 'durable'");
  });

  test('403, a name that belongs to the broker', async () => {
    const error = await failure(channel.exchangeDeclare('amq.mine', 'direct'));
    expect(error).toMatchObject({ replyCode: 403, method: 'exchange.declare' });
    expect(error.message).toMatch(/use another name/);
  });

  test('406, a delivery tag that does not exist', async () => {
    const ended = once(channel, 'close') as Promise<[AmqpError]>;
    channel.basicAck(99);
    expect((await within('the end', ended))[0]).toMatchObject({ replyCode: 406, method: 'basic.ack' });
  });
});

describe('requests that are sent without waiting', () => {
  test('are answered in order', async () => {
    const exchange = scratch.exchangeName();
    const names = Array.from({ length: 20 }, () => scratch.queueName());
    const [, ...declared] = await Promise.all([
      channel.exchangeDeclare(exchange, 'direct'),
      ...names.map((name) => channel.queueDeclare(name, { exclusive: true })),
    ]);
    expect(declared.map(({ queue }) => queue)).toEqual(names);
    await Promise.all(names.map((name) => channel.queueBind(name, exchange, name)));
    for (const name of names) void channel.basicPublish(exchange, name, name);
    const [got, consumerTag, purged] = await Promise.all([
      channel.basicGet(names[0] as string, { noAck: true }),
      channel.basicConsume(names[1] as string, () => undefined),
      channel.queuePurge(names[2] as string),
      channel.basicQos(3),
    ]);
    expect([text(got?.message), purged]).toEqual([names[0], 1]);
    expect(consumerTag).toMatch(/^nest-amqp\./);
  });

  test('fail together when one is refused: the culprit with the reason, the rest as unanswered', async () => {
    const [good, missing, other] = [await queueWith(), scratch.queueName(), await queueWith()];
    const [first, culprit, second, third] = await Promise.allSettled([
      channel.queueDeclare(good, { passive: true }),
      channel.queueDeclare(missing, { passive: true }),
      channel.queueDeclare(other, { passive: true }),
      channel.queuePurge(other),
    ]);
    expect(first.status).toBe('fulfilled');
    expect(culprit).toMatchObject({ reason: { code: 'CHANNEL_CLOSED', replyCode: 404 } });
    const messages = [culprit, second, third].map((result) => (result as { reason: Error }).reason.message);
    expect(messages[0]).toMatch(/^The broker closed the channel: 404/);
    expect(messages[1]).toMatch(/^queue\.declare was not answered\. .*404/);
    expect(messages[2]).toMatch(/^queue\.purge was not answered\. .*404/);
    expect(third).toMatchObject({ reason: { replyCode: 404, cause: (culprit as { reason: unknown }).reason } });
  });
});

describe('basicGet', () => {
  test('gives undefined for an empty queue', async () => {
    expect(await channel.basicGet(await queueWith())).toBeUndefined();
  });

  test('gives the message, and how many are left behind it', async () => {
    const queue = await queueWith('a', 'b', 'c');
    const got = await channel.basicGet(queue);
    expect(got?.messageCount).toBe(2);
    expect(got?.message).toMatchObject({
      deliveryTag: 1,
      redelivered: false,
      exchange: '',
      routingKey: queue,
      consumerTag: undefined,
      settled: false,
    });
    expect(got?.message.ack()).toBe(true);
    expect(await channel.queuePurge(queue)).toBe(2);
  });

  test('with noAck gives a message that needs no answer', async () => {
    const message = await get(await queueWith('a'), true);
    expect(message?.settled).toBe(true);
    expect(message?.ack()).toBe(false);
  });

  test('from a missing queue is a 404', async () => {
    expect(await failure(channel.basicGet(scratch.queueName()))).toMatchObject({ replyCode: 404, method: 'basic.get' });
  });
});

describe('a consumer', () => {
  test('gets what is in the queue and what comes, in order, until it is cancelled', async () => {
    const queue = await scratch.queue();
    await scratch.send(queue, 'before');
    const messages = new Inbox<Message>();
    const consumerTag = await channel.basicConsume(queue, messages.push, { consumerTag: 'mine' });
    expect(consumerTag).toBe('mine');
    await scratch.send(queue, 'after');
    const [first, second] = [await messages.next(), await messages.next()];
    expect([text(first), text(second)]).toEqual(['before', 'after']);
    expect([first.deliveryTag, second.deliveryTag, first.consumerTag]).toEqual([1, 2, 'mine']);
    expect([first.ack(), second.ack()]).toEqual([true, true]);
    await channel.basicCancel(consumerTag);
    await scratch.send(queue, 'late');
    await scratch.hasMessages(queue, 1);
    expect(messages.all).toHaveLength(2);
    // Its tag is free again.
    await channel.basicConsume(queue, messages.push, { consumerTag });
    expect(text(await messages.next())).toBe('late');
    await channel.basicCancel('unknown tags are no error');
  });

  test('holds no more than its prefetch', async () => {
    await channel.basicQos(2);
    const queue = await queueWith('a', 'b', 'c');
    const messages = new Inbox<Message>();
    await channel.basicConsume(queue, messages.push);
    const first = await messages.next();
    await messages.next();
    await ready(queue, 1);
    expect(messages.all).toHaveLength(2);
    first.ack();
    expect(text(await messages.next())).toBe('c');
  });

  test('with noAck is never behind', async () => {
    await channel.basicQos(1);
    const queue = await queueWith('a', 'b', 'c');
    const messages = new Inbox<Message>();
    await channel.basicConsume(queue, messages.push, { noAck: true });
    const all = [await messages.next(), await messages.next(), await messages.next()];
    expect(all.map(text)).toEqual(['a', 'b', 'c']);
    expect(all.map((message) => [message.settled, message.ack()])).toEqual(all.map(() => [true, false]));
    expect(channel.isOpen).toBe(true);
  });

  test('that wants its queue alone keeps others off', async () => {
    const queue = await scratch.queue();
    await channel.basicConsume(queue, () => undefined, { exclusive: true });
    const error = await failure(onAnother((other) => other.basicConsume(queue, () => undefined)));
    expect(error).toMatchObject({ replyCode: 403, method: 'basic.consume' });
  });

  test('hears when its queue is deleted, and may come back under its tag', async () => {
    const queue = await scratch.queue();
    const cancelled = new Inbox<string>();
    const callbacks = { onMessage: () => undefined, onCancel: cancelled.push };
    await channel.basicConsume(queue, callbacks, { consumerTag: 'c' });
    await scratch.delete(queue);
    expect(await cancelled.next('onCancel')).toBe('c');
    await channel.queueDeclare(queue);
    await channel.basicConsume(queue, callbacks, { consumerTag: 'c' });
  });

  test('of a missing queue is a 404, and its tag is not taken', async () => {
    const error = await failure(channel.basicConsume(scratch.queueName(), () => undefined, { consumerTag: 'c' }));
    expect(error).toMatchObject({ replyCode: 404, method: 'basic.consume' });
  });

  test('loses nothing when it is cancelled with deliveries on their way', async () => {
    const bodies = Array.from({ length: 200 }, (_, index) => `${index}`);
    const queue = await scratch.queue();
    for (const body of bodies) void channel.basicPublish('', queue, body);
    await scratch.hasMessages(queue, 200);
    const seen: string[] = [];
    const consumerTag = await channel.basicConsume(queue, (message) => {
      seen.push(message.body.toString());
      message.ack();
    });
    await channel.basicCancel(consumerTag);
    await channel.close();
    expect(seen).toEqual(bodies.slice(0, seen.length));
    await scratch.hasMessages(queue, 200 - seen.length);
  });

  test('may be cancelled together with another request, which RabbitMQ answers first', async () => {
    // One without a name would go with its last consumer, before or after the other request.
    const queue = await scratch.queue();
    const consumerTag = await channel.basicConsume(queue, () => undefined);
    const cancelling = channel.basicCancel(consumerTag);
    expect((await channel.queueDeclare(queue, { passive: true })).queue).toBe(queue);
    await cancelling;
    expect([channel.isOpen, connection.isOpen]).toEqual([true, true]);
  });

  test('may get messages before the answer to its request', async () => {
    const { peer, connection: own, channel: scripted } = await scriptedChannel({ closeTimeout: 0 });
    const messages = new Inbox<Message>();
    const consuming = scripted.basicConsume('q', messages.push, { consumerTag: 'c' });
    await peer.receive('basic.consume');
    const args = { consumerTag: 'c', deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'q' };
    peer.sendContent(1, 'basic.deliver', args, {}, 'early');
    expect(text(await messages.next())).toBe('early');
    peer.send(1, 'basic.consume-ok', { consumerTag: 'c' });
    expect(await consuming).toBe('c');
    await own.close();
  });

  test('may be answered after a later request, as RabbitMQ does', async () => {
    const { peer, connection: own, channel: scripted } = await scriptedChannel({ closeTimeout: 0 });
    const consuming = [1, 2].map((n) => scripted.basicConsume('q', () => undefined, { consumerTag: `c${n}` }));
    const purging = scripted.queuePurge('q');
    await peer.receive('basic.consume');
    await peer.receive('basic.consume');
    await peer.answer('queue.purge-ok', { messageCount: 3 });
    expect(await purging).toBe(3);
    peer.send(1, 'basic.consume-ok', { consumerTag: 'c2' });
    peer.send(1, 'basic.consume-ok', { consumerTag: 'c1' });
    expect(await Promise.all(consuming)).toEqual(['c1', 'c2']);
    await own.close();
  });

  test('whose cancel the broker wants answered is answered', async () => {
    const { peer, connection: own } = await scriptedChannel({ closeTimeout: 0 });
    peer.send(1, 'basic.cancel', { consumerTag: 'unknown', noWait: false });
    expect((await peer.receive('basic.cancel-ok')).args.consumerTag).toBe('unknown');
    await own.close();
  });
});

describe('an answer', () => {
  test.each<[string, (message: Message) => boolean, string | undefined]>([
    ['ack forgets the message', (message) => message.ack(), undefined],
    ['nack puts it back', (message) => message.nack(), 'a'],
    ['nack without requeue drops it', (message) => message.nack({ requeue: false }), undefined],
    ['reject drops it', (message) => message.reject(), undefined],
    ['reject with requeue puts it back', (message) => message.reject({ requeue: true }), 'a'],
  ])('%s', async (_, answer, left) => {
    const queue = await queueWith('a');
    const message = (await get(queue, false)) as Message;
    expect(message.settled).toBe(false);
    expect(answer(message)).toBe(true);
    expect(message.settled).toBe(true);
    const again = await get(queue);
    expect(text(again)).toBe(left);
    if (left !== undefined) expect(again?.redelivered).toBe(true);
  });

  test('counts once: a second one is not sent, and harms nothing', async () => {
    const message = (await get(await queueWith('a'), false)) as Message;
    expect([message.ack(), message.ack(), message.nack(), message.reject()]).toEqual([true, false, false, false]);
    await channel.basicQos(1);
    expect(channel.isOpen).toBe(true);
  });

  test('after the end of its channel is not sent, and harms nothing; the broker has taken the message back', async () => {
    const queue = await queueWith('a', 'b');
    await ready(queue, 2);
    const other = await connection.channel();
    const kept = [await other.basicGet(queue), await other.basicGet(queue)];
    await other.close();
    expect(kept.map((got) => got?.message.ack())).toEqual([false, false]);
    // close-ok comes before the queue has them back.
    await ready(queue, 2);
    const again = [await get(queue), await get(queue)];
    expect(again.map((message) => message?.redelivered)).toEqual([true, true]);
    // Which of the two comes first is the broker's affair.
    expect(again.map(text).sort()).toEqual(['a', 'b']);
  });

  test('for many at once is by tag: basicAck and basicNack with multiple', async () => {
    const queue = await queueWith('a', 'b', 'c', 'd');
    for (let count = 0; count < 4; count += 1) await get(queue, false);
    channel.basicAck(2, { multiple: true });
    channel.basicNack(4, { multiple: true });
    await ready(queue, 2);
    expect(text(await get(queue, false))).toBe('c');
    channel.basicReject(5, { requeue: true });
    await ready(queue, 2);
    channel.basicNack(0, { multiple: true, requeue: false });
    expect(await channel.queuePurge(queue)).toBe(2);
  });

  test('that refuses for good sends the message to the dead letters', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    await scratch.send(queue, 'a');
    (await get(queue, false))?.reject();
    const buried = await scratch.take(dead);
    expect(buried.body.toString()).toBe('a');
    expect(buried.properties.headers?.['x-death']).toMatchObject([{ queue, reason: 'rejected', count: 1 }]);
  });

  test('is not needed for what basicRecover puts back', async () => {
    const queue = await queueWith('a');
    await get(queue, false);
    await channel.basicRecover();
    const again = await get(queue);
    expect([text(again), again?.redelivered]).toEqual(['a', true]);
  });
});

describe('transactions', () => {
  test('publish and acknowledge at the commit, and forget both at the rollback', async () => {
    const queue = await queueWith();
    await channel.txSelect();
    const count = async (): Promise<number> => (await channel.queueDeclare(queue, { passive: true })).messageCount;
    void channel.basicPublish('', queue, 'a');
    expect(await count()).toBe(0);
    await channel.txCommit();
    await ready(queue, 1);
    void channel.basicPublish('', queue, 'b');
    await channel.txRollback();
    await channel.txCommit();
    await ready(queue, 1);
    (await get(queue, false))?.ack();
    await channel.txRollback();
    await channel.basicRecover();
    await ready(queue, 1);
  });

  test('cannot be committed where there is none', async () => {
    expect(await failure(channel.txCommit())).toMatchObject({ replyCode: 406, method: 'tx.commit' });
  });
});

describe('a message', () => {
  test('keeps every property on its way through the broker', async () => {
    const properties: Required<BasicProperties> = {
      contentType: 'application/json',
      contentEncoding: 'gzip',
      headers: {
        text: 'é€😀',
        int: 7,
        negative: -(2 ** 31),
        long: 2 ** 40,
        huge: 2n ** 62n,
        double: 1.5,
        yes: true,
        none: null,
        when: new Date(1_700_000_000_000),
        bytes: Buffer.from([0, 255]),
        price: new Decimal(2, 1999),
        list: [1, 'two', [false]],
        table: { deep: { er: 1 } },
      },
      deliveryMode: 2,
      priority: 5,
      correlationId: 'c-1',
      replyTo: 'replies',
      expiration: '60000',
      messageId: 'm-1',
      timestamp: 1_700_000_000,
      type: 'order.placed',
      userId: 'guest',
      appId: 'test',
      clusterId: 'none',
    };
    const queue = await queueWith();
    void channel.basicPublish('', queue, '{}', properties);
    expect((await get(queue))?.properties).toEqual(properties);
  });

  test('without any property has none', async () => {
    expect((await get(await queueWith('x')))?.properties).toEqual({});
  });

  test.each([0, 1, 131_064, 131_065, 1024 * 1024])('of %i bytes comes back whole', async (size) => {
    const body = Buffer.alloc(size);
    for (let at = 0; at < size; at += 1) body[at] = at % 251;
    const queue = await queueWith();
    void channel.basicPublish('', queue, body);
    expect((await get(queue))?.body.equals(body)).toBe(true);
    const messages = new Inbox<Message>();
    await channel.basicConsume(queue, messages.push, { noAck: true });
    void channel.basicPublish('', queue, body);
    expect((await messages.next()).body.equals(body)).toBe(true);
  });

  test('may be text of any script', async () => {
    const body = 'Grüße, 世界 😀'.repeat(20_000);
    const queue = await queueWith(body);
    expect(text(await get(queue))).toBe(body);
  });

  test("that is mandatory and goes nowhere comes back as 'return'", async () => {
    const returned = once(channel, 'return') as Promise<[ReturnedMessage]>;
    void channel.basicPublish('', scratch.queueName(), '', { mandatory: true, messageId: 'm', headers: { a: 1 } });
    const [message] = await within('the return', returned);
    expect(message).toMatchObject({ replyCode: 312, replyText: 'NO_ROUTE', exchange: '' });
    expect(message.properties).toEqual({ messageId: 'm', headers: { a: 1 } });
    expect(message.body).toHaveLength(0);
  });

  test('with a header larger than the frame of its consumer arrives', async () => {
    const queue = await scratch.queue();
    const header = 'x'.repeat(100_000);
    await scratch.send(queue, 'body', { headers: { header } });
    await using small = await connect(brokerUrl, { frameMax: 8192 });
    const got = await (await small.channel()).basicGet(queue, { noAck: true });
    expect(got?.message.properties.headers).toEqual({ header });
    expect(text(got?.message)).toBe('body');
  });

  test('whose properties make no sense is one message of that kind, not the end of the channel', async () => {
    const { peer, connection: own, channel: scripted } = await scriptedChannel({ closeTimeout: 0 });
    const messages = new Inbox<Message>();
    const consuming = scripted.basicConsume('q', messages.push, { consumerTag: 'c' });
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    const args = { consumerTag: 'c', deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'q' };
    // A header frame whose flags announce a content type of 200 bytes; two come. No body.
    const header = Buffer.from([0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 200, 0x61, 0x62]);
    peer.sendRaw(
      Buffer.concat([
        frameOf(1, 'basic.deliver', args),
        Buffer.from([2, 0, 1, 0, 0, 0, header.length]),
        header,
        Buffer.from([0xce]),
      ]),
    );
    const message = await messages.next();
    expect(thrown(() => message.properties).code).toBe('UNDECODABLE');
    expect(message.reject()).toBe(true);
    expect((await peer.receive('basic.reject')).args).toEqual({ deliveryTag: 1, requeue: false });
    await own.close();
  });
});

test('a channel that is closed gives back what it held', async () => {
  const queue = await scratch.queue();
  await scratch.send(queue, 'a');
  const messages = new Inbox<Message>();
  await channel.basicConsume(queue, messages.push);
  await messages.next();
  await channel.close();
  await scratch.hasMessages(queue, 1);
  expect(channel.isOpen).toBe(false);
});

describe('methods sent with noWait', () => {
  test('take effect without an answer, in their order', async () => {
    const [queue, exchange, fan] = [scratch.queueName(), `${scratch.queueName()}.x`, `${scratch.queueName()}.y`];
    const noWait = { noWait: true };
    await channel.exchangeDeclare(exchange, 'direct', noWait);
    await channel.exchangeDeclare(fan, 'fanout', noWait);
    expect(await channel.queueDeclare(queue, noWait)).toEqual({ queue, messageCount: 0, consumerCount: 0 });
    await channel.exchangeBind(fan, exchange, 'k', {}, noWait);
    await channel.queueBind(queue, fan, '', {}, noWait);
    void channel.basicPublish(exchange, 'k', 'one');
    const messages = new Inbox<Message>();
    const tag = await channel.basicConsume(queue, messages.push, noWait);
    (await messages.next()).ack();
    await channel.basicCancel(tag, noWait);
    expect(await channel.queuePurge(queue, noWait)).toBe(0);
    expect(await channel.queueDeclare(queue, { passive: true })).toMatchObject({ messageCount: 0, consumerCount: 0 });
    await channel.exchangeUnbind(fan, exchange, 'k', {}, noWait);
    expect(await channel.queueDelete(queue, noWait)).toBe(0);
    await channel.exchangeDelete(fan, noWait);
    await channel.exchangeDelete(exchange, noWait);
    await expect(channel.queueDeclare(queue, { passive: true })).rejects.toMatchObject({ replyCode: 404 });
  });

  test('end the channel when the broker refuses them', async () => {
    const ended = once(channel, 'close') as Promise<[AmqpError]>;
    await channel.queueBind(scratch.queueName(), 'amq.fanout', '', {}, { noWait: true });
    expect((await within('the end', ended))[0]).toMatchObject({ replyCode: 404, method: 'queue.bind' });
  });

  test('need a name for a queue', async () => {
    await expect(channel.queueDeclare('', { noWait: true })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(channel.isOpen).toBe(true);
  });
});
