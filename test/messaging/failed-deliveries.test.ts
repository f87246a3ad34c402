/** What is done with deliveries whose handler failed, seen on a real broker: retries, dead letters, and what they say. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { AmqpError } from '../../lib/errors.js';
import type { Consumer } from '../../lib/messaging/consumer.js';
import type { Delivery } from '../../lib/messaging/delivery.js';
import type { DeliveryHandler } from '../../lib/messaging/handled-deliveries.js';
import { RejectDelivery, RequeueDelivery, RetryDelivery, retryPolicy } from '../../lib/messaging/outcome.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import { brokerUrl } from '../support/broker.mjs';
import { isRabbitMq43 } from '../support/client.js';
import { CollectedLog } from '../support/collected-log.js';
import { type LoneHandlerOptions, loneHandler } from '../support/lone-handler.js';
import { CuttableLine, Scratch, type StoredMessage } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
let connection: AmqpConnection;
let channel: AmqpChannel;
let log: CollectedLog;
let consumers: Consumer[];
/** What handlers were called with. */
let got: Inbox<Delivery>;

const soon = retryPolicy({ attempts: 3, delays: [20, 50] }, 'the test');

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  connection = new AmqpConnection(brokerUrl, { dial: line.dial, recovery: { maxDelay: 50 } });
  await connection.open();
  channel = new AmqpChannel(connection);
  log = new CollectedLog();
  consumers = [];
  got = new Inbox();
});

afterEach(async () => {
  await Promise.all(consumers.map((consumer) => consumer.stop(0)));
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

/** A consumer that runs, and notes what it gets before the handler does. */
async function consume(
  queue: string,
  handler: DeliveryHandler,
  options: Partial<LoneHandlerOptions> = {},
): Promise<Consumer> {
  const consumer = loneHandler(
    connection,
    {
      name: 'BillingConsumer.charge',
      queue,
      topology: {},
      prefetch: 50,
      exclusive: false,
      consumerTag: undefined,
      arguments: {},
      channel,
      ...options,
    },
    (delivery) => {
      got.push(delivery);
      return handler(delivery);
    },
    log,
  );
  consumers.push(consumer);
  await consumer.start();
  return consumer;
}

/** A queue, and the names of the queues beside it, which are deleted at the end. */
async function queueWithSides(
  type: 'classic' | 'quorum' = 'classic',
  args: FieldTable = {},
): Promise<{ queue: string; dead: string; topology: LoneHandlerOptions['topology'] }> {
  const queue = scratch.queueName();
  const dead = scratch.owns(`${queue}.dead`);
  for (const delay of [20, 50, 1_000]) scratch.owns(`${queue}.retry.${delay}${type === 'quorum' ? '.quorum' : ''}`);
  const topology = { queues: [{ name: queue, type, arguments: args }] };
  await channel.queueDeclare(queue, { arguments: { 'x-queue-type': type, ...args } });
  return { queue, dead, topology };
}

const failing: DeliveryHandler = () => Promise.reject(new RangeError('over the limit'));

/** Takes the next message out of a queue that somebody is about to declare. */
async function take(name: string): Promise<StoredMessage> {
  await eventually(`the queue ${name}`, () => scratch.state(name));
  return await scratch.take(name);
}

/** Nothing is left in the queue, nor unacknowledged. */
async function isEmpty(queue: string): Promise<void> {
  await Promise.all(consumers.map((consumer) => consumer.stop(5_000)));
  await scratch.hasMessages(queue, 0);
}

describe.each(['classic', 'quorum'] as const)('on a %s queue, a handler that throws', (type) => {
  test('is called again after each delay, as often as there are attempts; then the message is a dead letter', async () => {
    const { queue, dead, topology } = await queueWithSides(type);
    const exchange = await scratch.exchange('topic');
    await scratch.bind(queue, exchange, 'order.*');
    await consume(queue, failing, { retry: soon, topology });
    const own = { tenant: 'a', depth: { count: 3 }, list: ['x', 1] };
    await channel.basicPublish(exchange, 'order.placed', '{"id":7}', {
      contentType: 'application/json',
      messageId: 'm-7',
      priority: 3,
      correlationId: 'c-7',
      headers: own,
    });
    const seen: unknown[] = [];
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      const delivery = await got.next(`attempt ${attempt}`);
      seen.push([delivery.attempt, delivery.exchange, delivery.routingKey, delivery.payload, delivery.redelivered]);
    }
    expect(seen).toEqual([1, 2, 3].map((attempt) => [attempt, exchange, 'order.placed', { id: 7 }, false]));

    const letter = await take(dead);
    expect(letter.body.toString()).toBe('{"id":7}');
    expect(letter.properties).toMatchObject({
      contentType: 'application/json',
      messageId: 'm-7',
      priority: 3,
      correlationId: 'c-7',
      deliveryMode: 2,
    });
    const { headers } = letter.properties;
    expect(headers).toMatchObject({
      ...own,
      'x-nest-amqp-attempts': 3,
      'x-nest-amqp-exchange': exchange,
      'x-nest-amqp-routing-key': 'order.placed',
      'x-nest-amqp-queue': queue,
      'x-nest-amqp-error-class': 'RangeError',
      'x-nest-amqp-error-message': 'over the limit',
      'x-nest-amqp-error-stack': expect.stringContaining('RangeError: over the limit\n    at '),
      'x-nest-amqp-failed-at': expect.any(Date),
    });
    expect(headers).not.toHaveProperty('x-nest-amqp-attempt');
    expect(await log.next('warn')).toMatch(/attempt 2\. RangeError: over the limit\n/);
    const told = await log.next('error');
    expect(told).toContain("routing key 'order.placed' (message id 'm-7')");
    expect(told).toContain(`'${dead}'`);
    await isEmpty(queue);
  });
});

function throwUntouchable(): never {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  // eslint-disable-next-line @typescript-eslint/only-throw-error -- users throw anything
  throw proxy;
}

describe('a dead letter', () => {
  test('of a handler without retry is one at once', async () => {
    const { queue, dead } = await queueWithSides();
    await consume(queue, failing);
    await scratch.sendJson(queue, 1);
    const { headers } = (await take(dead)).properties;
    expect(headers).toMatchObject({ 'x-nest-amqp-attempts': 1, 'x-nest-amqp-exchange': '' });
    await isEmpty(queue);
    expect(got.all).toHaveLength(1);
  });

  test.each<[how: string, handler: DeliveryHandler]>([
    ['at once', throwUntouchable],
    ['later', () => Promise.resolve().then(throwUntouchable)],
  ])('is what a handler makes that throws, %s, what cannot even be asked what it is', async (_how, handler) => {
    const { queue, dead } = await queueWithSides();
    await consume(queue, handler, { retry: soon });
    await scratch.sendJson(queue, 1);
    expect((await take(dead)).properties.headers).toMatchObject({
      'x-nest-amqp-attempts': 3,
      'x-nest-amqp-error-message': expect.stringContaining('revoked Proxy'),
    });
  });

  test.each<[what: string, error: Error]>([
    ['RejectDelivery', new RejectDelivery('no such item')],
    ['an HTTP status of 400 to 499', Object.assign(new Error('no such item'), { getStatus: () => 404 })],
  ])('is what %s makes, whatever the attempts', async (_what, error) => {
    const { queue, dead } = await queueWithSides();
    await consume(queue, () => Promise.reject(error), { retry: soon });
    await scratch.sendJson(queue, 1);
    expect((await take(dead)).properties.headers).toMatchObject({
      'x-nest-amqp-error-message': 'no such item',
    });
    expect(got.all).toHaveLength(1);
  });

  test('is what nobody can decode, with its body as it came, and the handler does not run', async () => {
    const { queue, dead } = await queueWithSides();
    await consume(queue, failing, { retry: soon });
    await scratch.send(queue, '{"id":', { contentType: 'application/json', headers: { tenant: 'a' } });
    const letter = await take(dead);
    expect(letter.body.toString()).toBe('{"id":');
    expect(letter.properties.headers).toMatchObject({ tenant: 'a', 'x-nest-amqp-error-class': 'AmqpError' });
    expect(got.all).toEqual([]);
  });

  test.each<[what: string, error: unknown, code: string | undefined]>([
    ['of an error', Object.assign(new Error('no'), { code: 'CARD_DECLINED' }), 'CARD_DECLINED'],
    ['of this package', new AmqpError('HANDLER_TIMEOUT', 'It took too long.'), 'HANDLER_TIMEOUT'],
    ['that is a number', Object.assign(new Error('no'), { code: 42 }), '42'],
    ['that is the status of an HttpException', Object.assign(new Error('no'), { getStatus: () => 404 }), '404'],
    ['that is long', Object.assign(new Error('no'), { code: 'c'.repeat(300) }), `${'c'.repeat(199)}…`],
    ['that is no text', Object.assign(new Error('no'), { code: { a: 1 } }), undefined],
    ['that is missing', new Error('no'), undefined],
  ])('has the code %s', async (_what, error, code) => {
    const { queue, dead } = await queueWithSides();
    await consume(queue, () => {
      throw error;
    });
    // Of an earlier life, which is over.
    await scratch.sendJson(queue, 1, { headers: { 'x-nest-amqp-error-code': 'OLD' } });
    const { headers = {} } = (await take(dead)).properties;
    expect(headers['x-nest-amqp-error-code']).toBe(code);
    expect(headers).toHaveProperty('x-nest-amqp-error-class');
  });

  test('that its own handler fails on still says what it says, on every attempt and after the last', async () => {
    const { queue, dead } = await queueWithSides();
    const exchange = await scratch.exchange('fanout');
    await scratch.bind(queue, exchange);
    const [buried, again] = [scratch.owns(`${dead}.dead`), scratch.owns(`${dead}.retry.20`)];
    await consume(queue, () => Promise.reject(Object.assign(new RangeError('over the limit'), { code: 'LIMIT' })));
    const letters = new Inbox<Delivery>();
    const burying = loneHandler(
      connection,
      {
        name: 'Graveyard.bury',
        queue: dead,
        topology: {},
        prefetch: 1,
        exclusive: false,
        consumerTag: undefined,
        arguments: {},
        channel,
        retry: retryPolicy({ attempts: 2, delays: [20] }, 'the test'),
      },
      (delivery) => {
        letters.push(delivery);
        throw new TypeError('no grave is free');
      },
      log,
    );
    consumers.push(burying);
    await burying.start();
    await channel.basicPublish(exchange, 'order.placed', '1');
    const original = {
      'x-nest-amqp-queue': queue,
      'x-nest-amqp-exchange': exchange,
      'x-nest-amqp-routing-key': 'order.placed',
      'x-nest-amqp-attempts': 1,
      'x-nest-amqp-error-class': 'RangeError',
      'x-nest-amqp-error-code': 'LIMIT',
      'x-nest-amqp-error-message': 'over the limit',
      'x-nest-amqp-error-stack': expect.stringContaining('RangeError'),
    };
    for (const attempt of [1, 2]) {
      const letter = await letters.next(`attempt ${attempt}`);
      expect(letter.attempt).toBe(attempt);
      expect(letter.headers).toMatchObject(original);
      expect(letter.headers['x-nest-amqp-dead-error-class']).toBe(attempt === 1 ? undefined : 'TypeError');
    }
    const { headers } = (await take(buried)).properties;
    expect(headers).toMatchObject({
      ...original,
      'x-nest-amqp-dead-queue': dead,
      'x-nest-amqp-dead-attempts': 2,
      'x-nest-amqp-dead-error-class': 'TypeError',
      'x-nest-amqp-dead-error-message': 'no grave is free',
      'x-nest-amqp-dead-error-stack': expect.stringContaining('TypeError'),
      'x-nest-amqp-dead-failed-at': expect.any(Date),
    });
    expect(headers).not.toHaveProperty('x-nest-amqp-attempt');
    expect(await scratch.state(again)).toMatchObject({ messageCount: 0 });
  });

  test('goes to the queue that deadLetter names, also where the queue has a dead-letter exchange', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    const own = scratch.queueName();
    const topology = { queues: [{ name: queue, deadLetter: { exchange: '', routingKey: dead } }] };
    await consume(queue, failing, { deadLetter: own, topology });
    await scratch.sendJson(queue, 1);
    await take(own);
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
  });

  test('that the broker makes after retries begins anew, for its own handler and in its queue again', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    for (const delay of [20, 50]) scratch.owns(`${queue}.retry.${delay}`);
    const topology = { queues: [{ name: queue, deadLetter: { exchange: '', routingKey: dead } }] };
    await consume(queue, failing, { topology, retry: soon });
    await scratch.sendJson(queue, 1);
    const attempts = async (count: number): Promise<number[]> => {
      const seen: number[] = [];
      while (seen.length < count) seen.push((await got.next()).attempt);
      return seen;
    };
    expect(await attempts(3)).toEqual([1, 2, 3]);
    const { body, properties } = await take(dead);
    expect(properties.headers).toHaveProperty('x-nest-amqp-attempt', 3);
    expect(properties.headers?.['x-death']).toContainEqual(expect.objectContaining({ queue, reason: 'rejected' }));
    await scratch.send(queue, body, properties);
    expect(await attempts(3)).toEqual([1, 2, 3]);
    await consume(dead, () => undefined);
    expect(await attempts(1)).toEqual([1]);
  });

  test('is made by the broker where the definition of the queue has a dead-letter exchange', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    const topology = { queues: [{ name: queue, deadLetter: { exchange: '', routingKey: dead } }] };
    await consume(queue, failing, { topology });
    await scratch.sendJson(queue, 1);
    const { headers } = (await take(dead)).properties;
    expect(headers).toHaveProperty('x-first-death-reason', 'rejected');
    expect(await scratch.state(`${queue}.dead`)).toBeUndefined();
  });

  test('of a queue that no topology declares goes to <queue>.dead: what its dead-letter exchange is, nobody has said', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    const own = scratch.owns(`${queue}.dead`);
    await consume(queue, failing);
    await scratch.sendJson(queue, 1);
    await take(own);
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
  });

  test('with a stack, a message and headers that do not fit a frame keeps its headers and loses its stack', async () => {
    const { queue, dead } = await queueWithSides();
    const { frameMax } = await connection.opened();
    const error = new Error('m'.repeat(100_000));
    error.stack = 's'.repeat(500_000);
    const big = 'h'.repeat(frameMax - 1_500);
    await consume(queue, () => Promise.reject(error));
    await scratch.sendJson(queue, 1, { headers: { big: 'no' } });
    const first = (await take(dead)).properties.headers ?? {};
    expect(first['x-nest-amqp-error-message']).toHaveLength(2_000);
    expect(first['x-nest-amqp-error-stack']).toHaveLength(8_000);
    await scratch.sendJson(queue, 2, { headers: { big } });
    const second = (await take(dead)).properties.headers ?? {};
    expect(second['big']).toBe(big);
    expect(second['x-nest-amqp-error-message']).toHaveLength(200);
    expect(second).not.toHaveProperty('x-nest-amqp-error-stack');
    await scratch.sendJson(queue, 3, { headers: { big: 'h'.repeat(frameMax - 200) } });
    expect(Object.keys((await take(dead)).properties.headers ?? {})).toEqual(['big']);
    await isEmpty(queue);
  });

  test('does not expire, sends no copies, and is not refused for its user id', async () => {
    const { queue, dead } = await queueWithSides();
    const copies = await scratch.queue();
    await consume(queue, failing, { retry: retryPolicy({ attempts: 2, delays: [20] }, 'the test') });
    const { username } = new URL(brokerUrl);
    await scratch.sendJson(queue, 1, { expiration: '30000', userId: username, headers: { CC: [copies] } });
    const { properties } = await take(dead);
    expect(properties.expiration).toBeUndefined();
    expect(properties.userId).toBeUndefined();
    expect(properties.headers).toMatchObject({
      'x-nest-amqp-expiration': '30000',
      'x-nest-amqp-user-id': username,
      'x-nest-amqp-cc': [copies],
    });
    expect(await scratch.drain(copies)).toEqual(['1']);
  });

  test('that is put into its queue again begins anew, and still says where it came from first', async () => {
    const { queue, dead } = await queueWithSides();
    const exchange = await scratch.exchange('fanout');
    await scratch.bind(queue, exchange);
    let fails = true;
    await consume(queue, () => (fails ? failing(got.all[0] as Delivery) : Promise.resolve()), { retry: soon });
    await channel.basicPublish(exchange, 'order.placed', '1');
    const { body, properties } = await take(dead);
    fails = false;
    await scratch.send(queue, body, properties);
    const replayed = await got.next('the replay', ({ headers }) => headers['x-nest-amqp-attempts'] === 3);
    expect([replayed.attempt, replayed.exchange, replayed.routingKey]).toEqual([1, exchange, 'order.placed']);
  });
});

test.each([
  ['with a shortest delay are held back by RabbitMQ 4.3 itself', { 'x-delayed-retry-min': 300 }],
  ['without one wait beside the queue: the broker would give it back at once', {}],
])('failures of a quorum queue declared with x-delayed-retry-type %s', async (_what, more: FieldTable) => {
  const { queue, dead, topology } = await queueWithSides('quorum', { 'x-delayed-retry-type': 'failed', ...more });
  // When the handler is called: a test may hear of it later.
  const times: number[] = [];
  const timed: DeliveryHandler = (delivery) => {
    times.push(performance.now());
    return failing(delivery);
  };
  await consume(queue, timed, { retry: soon, topology });
  await scratch.send(queue, '1', { contentType: 'application/json' });
  for (let attempt = 1; attempt <= 3; attempt += 1) {
    expect((await got.next(`attempt ${attempt}`)).attempt).toBe(attempt);
  }
  expect((await take(dead)).properties.headers).toMatchObject({ 'x-nest-amqp-attempts': 3 });
  const isBrokers = 'x-delayed-retry-min' in more && isRabbitMq43(await connection.opened());
  expect(await scratch.state(`${queue}.retry.20.quorum`)).toEqual(isBrokers ? undefined : expect.anything());
  const [first = 0, second = 0] = times;
  expect(second - first).toBeGreaterThanOrEqual(isBrokers ? 290 : 19);
  await isEmpty(queue);
});

describe('a retry', () => {
  test('comes back also when the message had died in this queue before, which would look like a cycle', async () => {
    const { queue, dead } = await queueWithSides();
    await consume(queue, failing, { retry: soon });
    const death = { queue, reason: 'expired', count: 1, exchange: '', 'routing-keys': [queue], time: new Date() };
    await scratch.sendJson(queue, 1, { headers: { 'x-death': [death] } });
    const { headers } = (await take(dead)).properties;
    expect(headers).toMatchObject({ 'x-nest-amqp-attempts': 3, 'x-nest-amqp-death': [{ queue, reason: 'expired' }] });
  });

  test('of many at a time loses none', async () => {
    const { queue, topology } = await queueWithSides();
    const done = new Set<unknown>();
    const all = new Gate();
    await consume(
      queue,
      async (delivery) => {
        await Promise.resolve();
        if (delivery.attempt < 3) throw new Error('not yet');
        done.add(delivery.payload);
        if (done.size === 300) all.open();
      },
      { retry: soon, topology },
    );
    await Promise.all(
      Array.from({ length: 300 }, (_, id) =>
        channel.basicPublish('', queue, String(id), { contentType: 'application/json' }),
      ),
    );
    await within('all of them', all.opened, 30_000);
    await isEmpty(queue);
    expect(got.all).toHaveLength(900);
  });

  test('survives that its wait queue is deleted while nothing waits in it', async () => {
    const { queue, dead } = await queueWithSides();
    await consume(queue, failing, { retry: soon });
    await scratch.sendJson(queue, 1);
    await take(dead);
    await scratch.delete(`${queue}.retry.20`);
    await scratch.delete(dead);
    await scratch.sendJson(queue, 2);
    expect((await take(dead)).body.toString()).toBe('2');
    await isEmpty(queue);
  });
});

describe('what cannot be published elsewhere', () => {
  test('stays unacknowledged while that is tried again, goes back when the consumer stops, and is told', async () => {
    const { queue } = await queueWithSides();
    // Somebody else has the name, for something else.
    const conflict = `${queue}.retry.20`;
    await channel.queueDeclare(conflict, { arguments: { 'x-max-length': 1 } });
    const consumer = await consume(queue, failing, { retry: soon });
    await scratch.sendJson(queue, 1);
    const told = await log.next('error');
    expect(told).toContain('It cannot be published elsewhere yet');
    expect(told).toContain('inequivalent arg');
    await log.next('error');
    expect(consumer.underWay).toBe(1);
    await within('the stop', consumer.stop(5_000));
    await scratch.hasMessages(queue, 1);
    expect(got.all).toHaveLength(1);
  });

  test('is published as soon as it can be', async () => {
    const { queue, dead } = await queueWithSides();
    await channel.queueDeclare(`${queue}.retry.20`, { arguments: { 'x-max-length': 1 } });
    await consume(queue, failing, { retry: soon });
    await scratch.sendJson(queue, 1);
    await log.next('error', 'cannot be published');
    await scratch.delete(`${queue}.retry.20`);
    await take(dead);
    await isEmpty(queue);
  });

  test('because the connection is lost is delivered again, and is not lost', async () => {
    const { queue, dead } = await queueWithSides();
    // Before anything of it is published: what is published, and not yet acknowledged, would be there twice.
    const cutting: DeliveryHandler = (delivery) => {
      if (got.all.length === 1) line.cut();
      return failing(delivery);
    };
    await consume(queue, cutting, { retry: soon });
    await scratch.sendJson(queue, 1);
    await take(dead);
    expect(got.all.map(({ attempt }) => attempt)).toEqual([1, 1, 2, 3]);
    await isEmpty(queue);
  });
});

describe('RequeueDelivery', () => {
  test('puts it back at once, and the second time a second later', async () => {
    const queue = await scratch.queue();
    const times = new Map<unknown, number[]>();
    const done = new Inbox<unknown>();
    await consume(queue, ({ payload }) => {
      const of = times.get(payload) ?? [];
      times.set(payload, [...of, performance.now()]);
      if (of.length < 2) throw new RequeueDelivery();
      done.push(payload);
    });
    await scratch.sendAllJson(queue, [1, 2, 3]);
    for (let ended = 0; ended < 3; ended += 1) await done.next('the third delivery');
    const waits = [...times.values()].map(([first = 0, second = 0, third = 0]) => [second - first, third - second]);
    // A busy machine may hold up one of them.
    expect(Math.min(...waits.map(([once = Infinity]) => once))).toBeLessThan(950);
    expect(Math.min(...waits.map(([, twice = 0]) => twice))).toBeGreaterThanOrEqual(950);
    await isEmpty(queue);
  });
});

describe('RetryDelivery', () => {
  test('has it again after a while, without any retry of the handler', async () => {
    const { queue } = await queueWithSides();
    await consume(queue, (delivery) => {
      if (delivery.attempt < 3) throw new RetryDelivery({ after: 50 });
    });
    await scratch.sendJson(queue, 1);
    for (const attempt of [1, 2, 3]) expect((await got.next()).attempt).toBe(attempt);
    await isEmpty(queue);
  });
});
