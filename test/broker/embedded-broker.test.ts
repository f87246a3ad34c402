/** The embedded broker from outside: how it is started and reached, its time, what it shows, and when it is settled. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import { connectEmbedded } from '../../lib/broker/shared.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import { failure, thrown } from '../support/client.js';
import { RawClient } from '../support/raw-client.js';
import { Inbox, eventually, within } from '../support/waits.js';

let broker: EmbeddedBroker;

beforeEach(() => {
  broker = EmbeddedBroker.create();
});

afterEach(async () => {
  await broker.close();
});

async function dialled(to = broker, url = 'amqp://guest:guest@embedded'): Promise<Connection> {
  return await connect(url, { dial: () => to.connect() });
}

describe('a broker', () => {
  test('with a port is reached by its url, on loopback', async () => {
    await using listening = await EmbeddedBroker.listen();
    expect(listening.url).toMatch(/^amqp:\/\/guest:guest@127\.0\.0\.1:\d+\/%2F$/);
    await using connection = await connect(listening.url);
    const channel = await (await connection.channel()).confirmSelect();
    await channel.queueDeclare('billing');
    await channel.basicPublish('', 'billing', 'hello');
    expect(listening.queue('billing').messages).toBe(1);
    expect(connection.serverProperties['product']).toBe('nest-amqp embedded broker');
  });

  test('without a port is reached by connect(), with the same bytes', async () => {
    await using connection = await dialled();
    const channel = await (await connection.channel()).confirmSelect();
    await channel.queueDeclare('billing');
    await channel.basicPublish('', 'billing', 'hello');
    const got = await channel.basicGet('billing', { noAck: true });
    expect(got?.message.body.toString()).toBe('hello');
  });

  test('is shared by everybody who names it, and keeps its queues while nobody is connected', async () => {
    const first = await connect({ dial: () => connectEmbedded('shop') });
    await (await first.channel()).queueDeclare('orders');
    await first.close();
    await using second = await connect({ dial: () => connectEmbedded('shop') });
    expect((await (await second.channel()).queueDeclare('orders', { passive: true })).queue).toBe('orders');
    const shop = EmbeddedBroker.named('shop');
    expect(shop.url).toBe('embedded:shop');
    expect(shop.queue('orders').durable).toBe(true);
    await shop.close();
    await using fresh = EmbeddedBroker.named('shop');
    expect(fresh.queues).toEqual([]);
  });

  test('has a name that no other has', () => {
    expect(thrown(() => EmbeddedBroker.create({ name: broker.name })).message).toContain(broker.name);
  });

  test('says what is wrong with an option', async () => {
    expect(thrown(() => EmbeddedBroker.create({ users: {} })).message).toContain('users');
    expect(thrown(() => EmbeddedBroker.create({ clock: 'stopped' as 'real' })).message).toContain('clock');
    expect(thrown(() => EmbeddedBroker.create({ vhosts: [] } as object)).message).toContain('vhosts');
    await using listening = await EmbeddedBroker.listen();
    const port = Number(new URL(listening.url).port);
    expect(await failure(EmbeddedBroker.listen({ port }))).toMatchObject({ code: 'CONNECT_FAILED' });
  });

  test.each<[wrong: unknown, named: string]>([
    [null, 'options'],
    ['shop', 'options'],
    [{ users: null }, 'users'],
    [{ users: ['guest'] }, 'users'],
    [{ users: { guest: 1 } }, 'users'],
    [{ virtualHosts: 'shop' }, 'virtualHosts'],
    [{ virtualHosts: null }, 'virtualHosts'],
    [{ virtualHosts: ['/', 1] }, 'virtualHosts'],
    [{ name: null }, 'name'],
    [{ clock: null }, 'clock'],
    [{ maxMessageSize: '1' }, 'maxMessageSize'],
  ])('takes nothing of a wrong type from JavaScript: %j', (wrong, named) => {
    const error = thrown(() => EmbeddedBroker.create(wrong as object));
    expect(error).toMatchObject({ code: 'INVALID_OPTION', message: expect.stringContaining(named) });
  });

  test('that is closed says so to publishers that it blocks, and past its latency, and is closed once', async () => {
    const own = EmbeddedBroker.create();
    const raw = await RawClient.open(own.connect());
    await raw.openChannel(1);
    own.block();
    await raw.receive('connection.blocked');
    raw.publish(1, {});
    await eventually('the block', () => Promise.resolve(own.connections[0]?.blocked === true || undefined));
    own.latency('1h');
    const closed = Promise.all([own.close(), own.close()]);
    expect((await raw.receive('connection.close')).args).toMatchObject({ replyCode: 320 });
    raw.send(0, 'connection.close-ok', {});
    await within('the end', Promise.race([closed, raw.hungUp]));
    await within('the close', closed);
  });

  test('closes its connections as a broker does that is shut down, and lets nobody in afterwards', async () => {
    const connection = await dialled();
    const ended = new Inbox<unknown>();
    connection.on('close', (error) => ended.push(error));
    await broker.close();
    expect(await ended.next()).toMatchObject({ replyCode: 320, closedBy: 'server' });
    expect(await failure(dialled())).toMatchObject({ code: 'CONNECT_FAILED' });
  });

  test('shows no password, however it is printed', async () => {
    const { inspect } = await import('node:util');
    await using secretive = EmbeddedBroker.create({ users: { bob: 'open sesame' } });
    expect(inspect(secretive, { depth: 10, showHidden: true })).not.toContain('sesame');
  });
});

describe('users and virtual hosts', () => {
  test('are those that the options name', async () => {
    await using own = EmbeddedBroker.create({ users: { bob: 'b:@/' }, virtualHosts: ['shop', 'audit'] });
    await using connection = await dialled(own, `amqp://bob:${encodeURIComponent('b:@/')}@embedded/audit`);
    await (await connection.channel()).queueDeclare('log');
    expect(own.queue('log', 'audit').virtualHost).toBe('audit');
    expect(thrown(() => own.queue('log')).message).toContain("no queue 'log' in virtual host 'shop'");
    expect(own.connections).toMatchObject([{ user: 'bob', virtualHost: 'audit' }]);
  });

  test.each(['PLAIN', 'AMQPLAIN'] as const)('let nobody in with a wrong password (%s)', async (mechanism) => {
    const options = { dial: () => broker.connect(), mechanism };
    await using _right = await connect('amqp://guest:guest@embedded', options);
    expect(await failure(connect('amqp://guest:wrong@embedded', options))).toMatchObject({
      code: 'AUTHENTICATION_FAILED',
      replyCode: 403,
    });
    expect(await failure(connect('amqp://nobody:guest@embedded', options))).toMatchObject({ replyCode: 403 });
  });

  test('that are unknown are refused', async () => {
    expect(await failure(dialled(broker, 'amqp://guest:guest@embedded/nope'))).toMatchObject({
      code: 'VHOST_REFUSED',
      replyCode: 530,
      replyText: 'NOT_ALLOWED - vhost nope not found',
    });
  });
});

describe('time', () => {
  test.each(['real', 'manual'] as const)('is moved by advance(), also where it is %s', async (clock) => {
    await using own = EmbeddedBroker.create({ clock });
    await using connection = await dialled(own);
    const channel = await (await connection.channel()).confirmSelect();
    await channel.queueDeclare('dead');
    const deadLetters = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' };
    await channel.queueDeclare('wait', { arguments: { ...deadLetters, 'x-message-ttl': 600_000 } });
    await channel.basicPublish('', 'wait', 'later');
    const before = own.now.getTime();
    own.advance('9m');
    expect(own.queue('wait').ready).toBe(1);
    own.advance('1m');
    expect(own.queue('wait').ready).toBe(0);
    expect(own.queue('dead').peek()).toMatchObject([{ text: 'later', properties: { headers: { 'x-death': [{}] } } }]);
    expect(own.now.getTime() - before).toBeGreaterThanOrEqual(600_000);
  });

  test('that is manual stands still by itself', async () => {
    await using own = EmbeddedBroker.create({ clock: 'manual' });
    const { now } = own;
    const start = Date.now();
    await eventually('the next millisecond', () => Promise.resolve(Date.now() > start || undefined));
    expect(own.now).toEqual(now);
  });

  test('passes by itself where it is real', async () => {
    await using connection = await dialled();
    const channel = await connection.channel();
    await channel.queueDeclare('dead');
    const deadLetters = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' };
    await channel.queueDeclare('wait', { arguments: { ...deadLetters, 'x-message-ttl': 20 } });
    const inbox = new Inbox<string>();
    await channel.basicConsume('dead', ({ body }) => inbox.push(body.toString()));
    void channel.basicPublish('', 'wait', 'soon');
    expect(await inbox.next()).toBe('soon');
  });

  test('is told in any unit, and does not go back', () => {
    expect(thrown(() => broker.advance(-1)).code).toBe('INVALID_OPTION');
    expect(thrown(() => broker.advance('soon' as '1s')).message).toContain('advance');
  });
});

describe('inspection', () => {
  test('shows queues with their messages, exchanges, bindings and connections', async () => {
    await using connection = await connect({ dial: () => broker.connect(), connectionName: 'shop' });
    const channel = await (await connection.channel()).confirmSelect();
    await channel.exchangeDeclare('orders', 'topic');
    await channel.queueDeclare('billing', { arguments: { 'x-max-priority': 5 } });
    await channel.queueBind('billing', 'orders', 'order.*');
    for (const text of ['a', 'b', 'c']) {
      await channel.basicPublish('orders', 'order.placed', text, { contentType: 'text/plain' });
    }
    await channel.basicGet('billing');
    expect(broker.queue('billing')).toMatchObject({
      name: 'billing',
      virtualHost: '/',
      type: 'classic',
      durable: true,
      arguments: { 'x-max-priority': 5 },
      messages: 3,
      ready: 2,
      unacked: 1,
      consumers: 0,
    });
    expect(broker.queue('billing').peek(1)).toMatchObject([
      { exchange: 'orders', routingKey: 'order.placed', text: 'b', properties: { contentType: 'text/plain' } },
    ]);
    expect(broker.exchanges).toContainEqual(expect.objectContaining({ name: 'orders', type: 'topic', durable: true }));
    expect(broker.bindings).toEqual([
      {
        virtualHost: '/',
        source: 'orders',
        destination: 'billing',
        destinationType: 'queue',
        routingKey: 'order.*',
        arguments: {},
      },
    ]);
    expect(broker.connections).toMatchObject([
      { name: 'shop', user: 'guest', channels: [{ number: 1, consumers: [], unacked: 1 }], blocked: false },
    ]);
  });

  test('says which queues there are when there is none of that name', async () => {
    expect(thrown(() => broker.queue('billing')).message).toContain('there is none at all');
    await using connection = await dialled();
    await (await connection.channel()).queueDeclare('orders');
    expect(thrown(() => broker.queue('billing')).message).toContain("'orders'");
  });
});

describe('settled()', () => {
  test('waits for deliveries to be settled, and for what their handlers publish', async () => {
    await using connection = await dialled();
    const channel = await connection.channel();
    for (const queue of ['first', 'second', 'third']) await channel.queueDeclare(queue);
    const steps: readonly [from: string, to: string][] = [
      ['first', 'second'],
      ['second', 'third'],
    ];
    for (const [from, to] of steps) {
      await channel.basicConsume(from, (message) => {
        setTimeout(() => {
          void channel.basicPublish('', to, message.body);
          message.ack();
        }, 10);
      });
    }
    void channel.basicPublish('', 'first', 'on its way');
    await broker.settled();
    expect(broker.queue('third').ready).toBe(1);
    expect(broker.queue('first').messages + broker.queue('second').messages).toBe(0);
  });

  test('takes messages that wait for a consumer or for the clock to be at rest', async () => {
    await using connection = await dialled();
    const channel = await (await connection.channel()).confirmSelect();
    await channel.queueDeclare('wait', { arguments: { 'x-message-ttl': 60_000 } });
    await channel.basicPublish('', 'wait', 'x');
    await broker.settled();
    expect(broker.queue('wait').ready).toBe(1);
  });

  test('ends by itself, and says what is not settled', async () => {
    await using connection = await dialled();
    const channel = await (await connection.channel()).confirmSelect();
    await channel.queueDeclare('billing');
    await channel.basicPublish('', 'billing', 'x');
    await channel.basicGet('billing');
    const late = await failure(broker.settled({ timeout: 20 }));
    expect([late.code, late.message]).toEqual(['ABORTED', expect.stringContaining("'billing' has 1 unsettled")]);
    const controller = new AbortController();
    const waiting = failure(broker.settled({ signal: controller.signal }));
    controller.abort(new Error('enough'));
    expect(await waiting).toMatchObject({ code: 'ABORTED', cause: new Error('enough') });
  });
});

test('one process has any number of brokers, which know nothing of each other', async () => {
  await using other = EmbeddedBroker.create();
  await using connection = await dialled();
  await (await connection.channel()).queueDeclare('mine');
  expect(other.queues).toEqual([]);
});

test('who comes without a client library is served all the same', async () => {
  const raw = await RawClient.open(broker.connect());
  await raw.openChannel(1);
  raw.send(0, 'connection.close', { replyCode: 200, replyText: 'bye', classId: 0, methodId: 0 });
  await raw.receive('connection.close-ok');
  await within('the end', raw.hungUp);
});
