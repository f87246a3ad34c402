/** Channels of the embedded broker in raw frames: what each method answers, and which errors end what, in RabbitMQ's words. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import type { MethodArgs, MethodName } from '../../lib/protocol/methods.js';
import { RawClient } from '../support/raw-client.js';

let broker: EmbeddedBroker;
let client: RawClient;

beforeEach(async () => {
  broker = EmbeddedBroker.create();
  client = await RawClient.open(broker.connect());
  await client.openChannel(1);
});

afterEach(async () => {
  await broker.close();
});

async function declare(args: Partial<MethodArgs<'queue.declare'>> = {}): Promise<string> {
  const all = {
    queue: 'q',
    passive: false,
    durable: true,
    exclusive: false,
    autoDelete: false,
    noWait: false,
    arguments: {},
  };
  const { args: ok } = await client.call(1, 'queue.declare', { ...all, ...args }, 'queue.declare-ok');
  return ok.queue;
}

function consume(args: Partial<MethodArgs<'basic.consume'>> = {}): void {
  const all = {
    queue: 'q',
    consumerTag: 'c',
    noLocal: false,
    noAck: false,
    exclusive: false,
    noWait: false,
    arguments: {},
  };
  client.send(1, 'basic.consume', { ...all, ...args });
}

/** A method as a table of cases has it. */
function say(name: MethodName, args: unknown): void {
  client.send(1, name, args as never);
}

async function consuming(args: Partial<MethodArgs<'basic.consume'>> = {}): Promise<string> {
  consume(args);
  return (await client.receive('basic.consume-ok')).args.consumerTag;
}

async function published(...bodies: readonly string[]): Promise<void> {
  for (const body of bodies) client.publish(1, { routingKey: 'q' }, {}, body);
  await round();
}

/** Everything that was sent before has been done, and everything that came before was received. */
async function round(): Promise<void> {
  await client.call(1, 'channel.flow', { active: true }, 'channel.flow-ok');
}

async function delivered(): Promise<readonly [tag: number, body: string, redelivered: boolean]> {
  const { args, body } = await client.receive('basic.deliver');
  return [args.deliveryTag, body.toString(), args.redelivered];
}

describe('a channel is closed', () => {
  test.each<[text: string, name: MethodName, args: unknown, code: number, ids: readonly [number, number]]>([
    ['unknown delivery tag 5', 'basic.ack', { deliveryTag: 5, multiple: false }, 406, [60, 80]],
    ['unknown delivery tag 5', 'basic.ack', { deliveryTag: 5, multiple: true }, 406, [60, 80]],
    ['unknown delivery tag 0', 'basic.ack', { deliveryTag: 0, multiple: false }, 406, [60, 80]],
    ['unknown delivery tag 5', 'basic.nack', { deliveryTag: 5, multiple: false, requeue: true }, 406, [60, 120]],
    ['unknown delivery tag 5', 'basic.reject', { deliveryTag: 5, requeue: true }, 406, [60, 90]],
    ['channel is not transactional', 'tx.commit', {}, 406, [90, 20]],
    ['channel is not transactional', 'tx.rollback', {}, 406, [90, 30]],
  ])('for %s (%s)', async (text, name, args, replyCode, [classId, methodId]) => {
    say(name, args);
    const { args: close } = await client.receive('channel.close');
    expect(close).toEqual({ replyCode, replyText: `PRECONDITION_FAILED - ${text}`, classId, methodId });
  });

  test.each([
    ['queue.bind', { queue: '', exchange: 'amq.direct', routingKey: '', noWait: false, arguments: {} }],
    ['queue.purge', { queue: '', noWait: false }],
    ['basic.get', { queue: '', noAck: true }],
  ] as const)('for the empty name of a queue where none was declared (%s)', async (name, args) => {
    say(name, args);
    expect((await client.receive('channel.close')).args).toMatchObject({
      replyCode: 404,
      replyText: 'NOT_FOUND - no previously declared queue',
    });
  });

  test('and what comes on it is not looked at until the client has answered', async () => {
    client.send(1, 'basic.ack', { deliveryTag: 5, multiple: false });
    client.send(1, 'basic.ack', { deliveryTag: 6, multiple: false });
    client.publish(1, { exchange: 'nope' }, {}, 'body');
    client.send(1, 'channel.close-ok', {});
    client.send(1, 'channel.open', {});
    expect((await client.receive('channel.close')).args.replyText).toContain('unknown delivery tag 5');
    await client.receive('channel.open-ok');
  });

  test('by both sides at once', async () => {
    client.send(1, 'basic.ack', { deliveryTag: 5, multiple: false });
    client.send(1, 'channel.close', { replyCode: 200, replyText: '', classId: 0, methodId: 0 });
    await client.receive('channel.close');
    await client.receive('channel.close-ok');
    client.send(1, 'channel.close-ok', {});
    await client.openChannel(1);
  });

  test('with its consumers, and what it has not settled goes back where it was', async () => {
    await declare();
    await published('a', 'b', 'c');
    client.send(1, 'basic.qos', { prefetchSize: 0, prefetchCount: 2, global: false });
    await client.receive('basic.qos-ok');
    await consuming();
    await delivered();
    await delivered();
    expect(broker.queue('q')).toMatchObject({ ready: 1, unacked: 2, consumers: 1 });
    client.send(1, 'channel.close', { replyCode: 200, replyText: '', classId: 0, methodId: 0 });
    await client.receive('channel.close-ok');
    expect(broker.queue('q')).toMatchObject({ ready: 3, unacked: 0, consumers: 0 });
    expect(
      broker
        .queue('q')
        .peek()
        .map(({ text }) => text),
    ).toEqual(['a', 'b', 'c']);
  });
});

describe('the whole connection is closed', () => {
  test.each<[name: MethodName, args: unknown, code: number, text: string]>([
    [
      'basic.qos',
      { prefetchSize: 10, prefetchCount: 1, global: false },
      540,
      'NOT_IMPLEMENTED - prefetch_size!=0 (10)',
    ],
    ['channel.flow', { active: false }, 540, 'NOT_IMPLEMENTED - active=false'],
    ['basic.recover', { requeue: false }, 540, 'NOT_IMPLEMENTED - requeue=false'],
  ])('for %s with %j', async (name, args, replyCode, replyText) => {
    say(name, args);
    expect((await client.receive('connection.close')).args).toMatchObject({ replyCode, replyText });
  });

  test('for a publish with immediate', async () => {
    client.publish(1, { routingKey: 'q', immediate: true }, {}, 'x');
    expect((await client.receive('connection.close')).args).toEqual({
      replyCode: 540,
      replyText: 'NOT_IMPLEMENTED - immediate=true',
      classId: 60,
      methodId: 40,
    });
  });

  test('for a consumer tag that is taken', async () => {
    await declare();
    await consuming();
    consume();
    expect((await client.receive('connection.close')).args).toMatchObject({
      replyCode: 530,
      replyText: "NOT_ALLOWED - attempt to reuse consumer tag 'c'",
    });
  });
});

describe('what is published', () => {
  test.each([
    ["user_id property set to 'bob' but authenticated user was 'guest'", { userId: 'bob' }],
    ["invalid expiration 'abc': no_integer", { expiration: 'abc' }],
    ["invalid expiration '-1': {value_negative,-1}", { expiration: '-1' }],
    ['invalid expiration \'1.5\': {leftover_string,".5"}', { expiration: '1.5' }],
    ["invalid expiration '315360000001': {value_too_large,315360000001}", { expiration: '315360000001' }],
    ['fast reply consumer does not exist', { replyTo: 'amq.rabbitmq.reply-to' }],
  ])('is refused: %s', async (text, properties) => {
    client.publish(1, { routingKey: 'q' }, { headers: { a: 1 }, contentType: 't', ...properties });
    expect((await client.receive('channel.close')).args).toEqual({
      replyCode: 406,
      replyText: `PRECONDITION_FAILED - ${text}`,
      classId: 60,
      methodId: 40,
    });
  });

  test('may carry the id of its own user', async () => {
    await declare();
    client.publish(1, { routingKey: 'q' }, { userId: 'guest', deliveryMode: 2, expiration: '60000' }, 'x');
    await round();
    expect(broker.queue('q').messages).toBe(1);
  });

  test('is refused when it is too large, with the connection left alone', async () => {
    await using small = EmbeddedBroker.create({ maxMessageSize: 1000 });
    const raw = await RawClient.open(small.connect());
    await raw.openChannel(1);
    raw.publish(1, { routingKey: 'q' }, {}, Buffer.alloc(1001));
    expect((await raw.receive('channel.close')).args).toMatchObject({
      replyCode: 406,
      replyText: 'PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000',
    });
  });

  test('comes back before it is confirmed when it is mandatory and goes nowhere', async () => {
    await client.call(1, 'confirm.select', { noWait: false }, 'confirm.select-ok');
    client.publish(1, { routingKey: 'nowhere', mandatory: true }, { messageId: 'm' }, 'x');
    const { args, properties } = await client.receive('basic.return');
    expect(args).toEqual({ replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: 'nowhere' });
    expect(properties).toEqual({ messageId: 'm' });
    expect((await client.receive('basic.ack')).args).toEqual({ deliveryTag: 1, multiple: false });
  });

  test('is confirmed together, up to the one that is refused', async () => {
    await declare({ arguments: { 'x-max-length': 2, 'x-overflow': 'reject-publish' } });
    await client.call(1, 'confirm.select', { noWait: false }, 'confirm.select-ok');
    client.transport.cork();
    for (const body of ['a', 'b', 'c']) client.publish(1, { routingKey: 'q' }, {}, body);
    client.transport.uncork();
    expect((await client.receive('basic.ack')).args).toEqual({ deliveryTag: 2, multiple: true });
    expect((await client.receive('basic.nack')).args).toEqual({ deliveryTag: 3, multiple: false, requeue: false });
  });

  test('is confirmed before its channel is closed', async () => {
    await client.call(1, 'confirm.select', { noWait: false }, 'confirm.select-ok');
    client.publish(1, { routingKey: 'nowhere' });
    client.publish(1, { exchange: 'nope' });
    expect((await client.receive('basic.ack')).args.deliveryTag).toBe(1);
    expect((await client.receive('channel.close')).args.replyCode).toBe(404);
  });
});

describe('confirms and transactions', () => {
  test('exclude each other', async () => {
    await client.call(1, 'confirm.select', { noWait: false }, 'confirm.select-ok');
    client.send(1, 'tx.select', {});
    expect((await client.receive('channel.close')).args.replyText).toBe(
      'PRECONDITION_FAILED - cannot switch from confirm to tx mode',
    );
    await client.openChannel(2);
    await client.call(2, 'tx.select', {}, 'tx.select-ok');
    client.send(2, 'confirm.select', { noWait: false });
    expect((await client.receive('channel.close')).args.replyText).toBe(
      'PRECONDITION_FAILED - cannot switch from tx to confirm mode',
    );
  });

  test('a commit publishes and acknowledges, a rollback does neither', async () => {
    await declare();
    await published('a', 'b');
    await client.call(1, 'tx.select', {}, 'tx.select-ok');
    const { args } = await client.call(1, 'basic.get', { queue: 'q', noAck: false }, 'basic.get-ok');
    for (const end of ['rollback', 'commit'] as const) {
      client.publish(1, { routingKey: 'q' }, {}, 'c');
      client.send(1, 'basic.ack', { deliveryTag: args.deliveryTag, multiple: false });
      await round();
      expect(broker.queue('q')).toMatchObject({ ready: 1, unacked: 1 });
      await client.call(1, `tx.${end}`, {}, `tx.${end}-ok`);
      expect(broker.queue('q')).toMatchObject(end === 'commit' ? { ready: 2, unacked: 0 } : { ready: 1, unacked: 1 });
    }
  });

  test('a transaction refuses a missing exchange at once, and says at its end what a queue has refused', async () => {
    await declare({ arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
    await client.call(1, 'tx.select', {}, 'tx.select-ok');
    for (const body of ['a', 'b']) client.publish(1, { routingKey: 'q' }, {}, body);
    client.send(1, 'tx.commit', {});
    expect((await client.receive('channel.close')).args).toMatchObject({
      replyCode: 406,
      replyText: 'PRECONDITION_FAILED - partial tx completion',
    });
    await client.openChannel(2);
    await client.call(2, 'tx.select', {}, 'tx.select-ok');
    client.publish(2, { exchange: 'nope' });
    expect((await client.receive('channel.close')).args.replyCode).toBe(404);
  });
});

describe('a consumer', () => {
  test('gets no more than its prefetch, and the next when it has settled one', async () => {
    await declare();
    await published('a', 'b', 'c');
    await client.call(1, 'basic.qos', { prefetchSize: 0, prefetchCount: 1, global: false }, 'basic.qos-ok');
    await consuming();
    expect(await delivered()).toEqual([1, 'a', false]);
    await round();
    client.send(1, 'basic.ack', { deliveryTag: 1, multiple: false });
    expect(await delivered()).toEqual([2, 'b', false]);
    client.send(1, 'basic.reject', { deliveryTag: 2, requeue: true });
    expect(await delivered()).toEqual([3, 'b', true]);
  });

  test('shares the prefetch of its channel with the others', async () => {
    for (const queue of ['q', 'r']) await declare({ queue });
    await client.call(1, 'basic.qos', { prefetchSize: 0, prefetchCount: 2, global: true }, 'basic.qos-ok');
    await consuming();
    await consuming({ queue: 'r', consumerTag: 'd' });
    for (const routingKey of ['q', 'r', 'q', 'r']) client.publish(1, { routingKey }, {}, routingKey);
    expect([await delivered(), await delivered()].map(([, body]) => body)).toEqual(['q', 'r']);
    await round();
    client.send(1, 'basic.ack', { deliveryTag: 1, multiple: false });
    await delivered();
    await round();
    client.send(1, 'basic.qos', { prefetchSize: 0, prefetchCount: 0, global: true });
    await client.receive('basic.qos-ok');
    await delivered();
  });

  test('without acknowledgement is not held up by prefetch', async () => {
    await declare();
    await client.call(1, 'basic.qos', { prefetchSize: 0, prefetchCount: 1, global: false }, 'basic.qos-ok');
    await consuming({ noAck: true });
    for (const body of ['a', 'b']) client.publish(1, { routingKey: 'q' }, {}, body);
    expect([await delivered(), await delivered()].map(([tag]) => tag)).toEqual([1, 2]);
    client.send(1, 'basic.ack', { deliveryTag: 1, multiple: false });
    expect((await client.receive('channel.close')).args.replyText).toContain('unknown delivery tag 1');
  });

  test('is told consume-ok before its first delivery, and nothing where it wants no answer', async () => {
    await declare();
    await published('a', 'b');
    expect(await consuming({ consumerTag: '', noAck: true })).toMatch(/^amq\.ctag-/);
    await delivered();
    await delivered();
    client.send(1, 'basic.cancel', { consumerTag: 'unknown', noWait: false });
    await client.receive('basic.cancel-ok');
    consume({ consumerTag: 'quiet', noWait: true, noAck: true });
    client.publish(1, { routingKey: 'q' }, {}, 'c');
    expect((await delivered())[1]).toBe('c');
  });

  test('that is cancelled keeps what it has, to be settled', async () => {
    await declare();
    await consuming();
    client.publish(1, { routingKey: 'q' }, {}, 'a');
    const [tag] = await delivered();
    await client.call(1, 'basic.cancel', { consumerTag: 'c', noWait: false }, 'basic.cancel-ok');
    await published('b');
    expect(broker.queue('q')).toMatchObject({ ready: 1, unacked: 1, consumers: 0 });
    client.send(1, 'basic.ack', { deliveryTag: tag, multiple: false });
    await round();
    expect(broker.queue('q').messages).toBe(1);
  });

  test('settles many at once, in either way, and they come back in their order', async () => {
    await declare();
    await consuming();
    for (const body of ['a', 'b', 'c', 'd']) client.publish(1, { routingKey: 'q' }, {}, body);
    for (let count = 0; count < 4; count += 1) await delivered();
    client.send(1, 'basic.nack', { deliveryTag: 3, multiple: true, requeue: true });
    expect([await delivered(), await delivered(), await delivered()]).toEqual([
      [5, 'a', true],
      [6, 'b', true],
      [7, 'c', true],
    ]);
    client.send(1, 'basic.ack', { deliveryTag: 0, multiple: true });
    await round();
    expect(broker.queue('q').messages).toBe(0);
    client.send(1, 'basic.ack', { deliveryTag: 0, multiple: true });
    await round();
  });

  test('gets everything again after recover, which is answered before', async () => {
    await declare();
    await consuming();
    for (const body of ['a', 'b']) client.publish(1, { routingKey: 'q' }, {}, body);
    await delivered();
    await delivered();
    client.send(1, 'basic.recover', { requeue: true });
    await client.receive('basic.recover-ok');
    expect([await delivered(), await delivered()]).toEqual([
      [3, 'a', true],
      [4, 'b', true],
    ]);
    client.send(1, 'basic.recover-async', { requeue: true });
    expect(await delivered()).toEqual([5, 'a', true]);
  });

  test('is told when its queue is deleted, after delete-ok, if it understands that', async () => {
    await declare();
    await consuming();
    client.send(1, 'queue.delete', { queue: 'q', ifUnused: false, ifEmpty: false, noWait: false });
    await client.receive('queue.delete-ok');
    expect((await client.receive('basic.cancel')).args).toEqual({ consumerTag: 'c', noWait: true });
    const deaf = await RawClient.open(broker.connect(), { capabilities: {} });
    await deaf.openChannel(1);
    await declare();
    const args = { queue: 'q', consumerTag: 'c', noLocal: false, noAck: false, exclusive: false, noWait: false };
    await deaf.call(1, 'basic.consume', { ...args, arguments: {} }, 'basic.consume-ok');
    client.send(1, 'queue.delete', { queue: 'q', ifUnused: false, ifEmpty: false, noWait: false });
    await client.receive('queue.delete-ok');
    await deaf.call(1, 'channel.flow', { active: true }, 'channel.flow-ok');
  });

  test('has a priority that is an integer, and no global prefetch on a quorum queue', async () => {
    await declare({ arguments: { 'x-queue-type': 'quorum' } });
    consume({ arguments: { 'x-priority': 'high' } });
    expect((await client.receive('channel.close')).args.replyText).toBe(
      "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got longstr\"",
    );
    client.send(1, 'channel.close-ok', {});
    await client.openChannel(1);
    await client.call(1, 'basic.qos', { prefetchSize: 0, prefetchCount: 1, global: true }, 'basic.qos-ok');
    consume();
    expect((await client.receive('connection.close')).args).toMatchObject({
      replyCode: 540,
      replyText: "NOT_IMPLEMENTED - queue 'q' in vhost '/' does not support global qos",
    });
  });
});

test('basic.get tells how many are left, or that there is none', async () => {
  await declare();
  await published('a', 'b');
  const { args, body } = await client.call(1, 'basic.get', { queue: 'q', noAck: true }, 'basic.get-ok');
  expect([args, body.toString()]).toEqual([
    { deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'q', messageCount: 1 },
    'a',
  ]);
  await client.call(1, 'basic.get', { queue: 'q', noAck: true }, 'basic.get-ok');
  await client.call(1, 'basic.get', { queue: 'q', noAck: true }, 'basic.get-empty');
});

test('the empty name is the queue that was declared last, and a binding without a key is by that name', async () => {
  const queue = await declare({ queue: '' });
  expect(queue).toMatch(/^amq\.gen-/);
  const bind = { queue: '', exchange: 'amq.direct', routingKey: '', noWait: false, arguments: {} };
  await client.call(1, 'queue.bind', bind, 'queue.bind-ok');
  client.publish(1, { exchange: 'amq.direct', routingKey: queue }, {}, 'x');
  expect((await client.call(1, 'queue.purge', { queue: '', noWait: false }, 'queue.purge-ok')).args.messageCount).toBe(
    1,
  );
  const remove = { queue: '', ifUnused: false, ifEmpty: false, noWait: false };
  await client.call(1, 'queue.delete', remove, 'queue.delete-ok');
});

describe('direct reply-to', () => {
  const reply = { queue: 'amq.rabbitmq.reply-to', consumerTag: 'r', noAck: true };

  test('carries the reply to the channel that asked, and ends with its consumer', async () => {
    await declare();
    await consuming(reply);
    client.publish(
      1,
      { routingKey: 'q' },
      { replyTo: 'amq.rabbitmq.reply-to', correlationId: '7', headers: { a: 1 } },
      '?',
    );
    const { properties } = await client.call(1, 'basic.get', { queue: 'q', noAck: true }, 'basic.get-ok');
    const { replyTo = '' } = properties;
    expect(replyTo).toMatch(/^amq\.rabbitmq\.reply-to\../);
    expect(properties).toMatchObject({ correlationId: '7', headers: { a: 1 } });
    const passive = { queue: replyTo, passive: true };
    await declare(passive);
    client.publish(1, { routingKey: replyTo }, { correlationId: '7' }, '!');
    const { args, body } = await client.receive('basic.deliver');
    expect([args, body.toString()]).toEqual([
      { consumerTag: 'r', deliveryTag: 2, redelivered: false, exchange: '', routingKey: replyTo },
      '!',
    ]);
    await client.call(1, 'basic.cancel', { consumerTag: 'r', noWait: false }, 'basic.cancel-ok');
    await consuming(reply);
    await expect(declare(passive)).rejects.toThrow('NOT_FOUND');
  });

  test.each([
    ['reply consumer cannot acknowledge', { ...reply, noAck: false }],
    ['reply consumer already set', reply],
  ])('is refused: %s', async (text, again) => {
    if (again.noAck) await consuming(reply);
    consume({ ...again, consumerTag: 's' });
    expect((await client.receive('channel.close')).args.replyText).toBe(`PRECONDITION_FAILED - ${text}`);
  });
});
