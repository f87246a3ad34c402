/** `embedded:NAME` in a URL: a broker in this process. What that broker does is told in test/broker. */
import { expect, test } from '@jest/globals';
import { once } from 'node:events';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import { EmbeddedBroker } from '../../lib/testing.js';
import { failure, unique } from '../support/client.js';

test('connects to a broker that the first to name it starts, and that everybody who names it shares', async () => {
  const url = `embedded:${unique('shop')}`;
  await using one = await connect(url);
  await using other = await connect(url);
  const publishing = await one.channel({ confirm: true });
  await publishing.queueDeclare('orders', { durable: true });
  await publishing.basicPublish('', 'orders', 'hello', { mandatory: true });
  const got = await (await other.channel()).basicGet('orders');
  expect(got?.message.body.toString()).toBe('hello');
  await using stranger = await connect(`embedded:${unique('shop')}`);
  await expect((await stranger.channel()).queueDeclare('orders', { passive: true })).rejects.toMatchObject({
    replyCode: 404,
  });
});

test('an AmqpConnection finds its queues and messages again after a loss', async () => {
  await using broker = EmbeddedBroker.create();
  await using connection = new AmqpConnection(broker.url, { recovery: { initialDelay: 1 } });
  await connection.open();
  const channel = new AmqpChannel(connection);
  await channel.queueDeclare('orders', { durable: true });
  await channel.basicPublish('', 'orders', 'kept', { mandatory: true });
  const lost = once(connection, 'status');
  expect(broker.dropConnections()).toBe(1);
  await lost;
  const got = await channel.basicGet('orders');
  expect(got?.message.body.toString()).toBe('kept');
});

test('a broker that is closed is not started again by a client that comes back', async () => {
  const name = unique('closed');
  const broker = EmbeddedBroker.create({ name });
  await using connection = new AmqpConnection(broker.url, { recovery: { initialDelay: 1 } });
  await connection.open();
  await broker.close();
  expect(await failure(connect(broker.url))).toMatchObject({ code: 'CONNECT_FAILED' });
  expect(connection.status.state).not.toBe('open');
  await using again = EmbeddedBroker.create({ name });
  await connection.opened();
  expect(again.connections).toHaveLength(1);
});

test('a broker that refuses connections is told by its name', async () => {
  await using broker = EmbeddedBroker.create({ name: unique('refusing') });
  broker.refuseConnections();
  const error = await failure(connect(broker.url));
  expect(error).toMatchObject({ code: 'CONNECT_FAILED' });
  expect(error.message).toContain(`the embedded broker '${broker.name}'`);
  expect(error.message).not.toContain('host');
});

test('options beside the URL count: user, virtual host, heartbeat', async () => {
  await using broker = EmbeddedBroker.create({
    users: { amy: 's3cret' },
    virtualHosts: ['shop'],
  });
  const right = { credentials: { username: 'amy', password: 's3cret' }, vhost: 'shop' };
  await using connection = await connect(broker.url, { ...right, heartbeat: '20s' });
  expect(connection.heartbeat).toBe(20_000);
  const error = await failure(connect(broker.url, { ...right, credentials: { username: 'amy', password: 'wrong' } }));
  expect(error.code).toBe('AUTHENTICATION_FAILED');
  expect(error.message).toContain('option users');
  const refused = await failure(connect(broker.url, { ...right, vhost: 'other' }));
  expect(refused).toMatchObject({ code: 'VHOST_REFUSED', replyCode: 530 });
  expect(refused.message).toContain('option virtualHosts');
  expect(`${error.message}${refused.message}`).not.toMatch(/RabbitMQ|rabbitmqctl/);
});

test('what options do not say is the first user and the first virtual host of the broker', async () => {
  const users = { amy: 's3cret', bob: 'other' };
  await using broker = EmbeddedBroker.create({ users, virtualHosts: ['shop', 'audit'] });
  await using _first = await connect(broker.url);
  await using _elsewhere = await connect(broker.url, { vhost: 'audit' });
  await using _bob = await connect(broker.url, { credentials: { username: 'bob', password: 'other' } });
  expect(broker.connections.map(({ user, virtualHost }) => `${user} in ${virtualHost}`)).toEqual([
    'amy in shop',
    'amy in audit',
    'bob in shop',
  ]);
});

test.each([
  'embedded:',
  'embedded://shop',
  'embedded:guest:guest@shop',
  'embedded:shop/vhost',
  'embedded:shop?heartbeat=5',
])('%s is refused, saying where the rest goes', async (url) => {
  const error = await failure(connect(url));
  expect(error.code).toBe('INVALID_URL');
  expect(error.message).toContain('embedded:shop');
  expect(error.message).toContain('options');
});

test('a name is unescaped', async () => {
  await using broker = EmbeddedBroker.create({ name: unique('a/b c') });
  await using connection = await connect(broker.url);
  expect(connection.isOpen).toBe(true);
});
