/** Faults of the embedded broker on demand, as a client of ours meets them. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import { failure, thrown } from '../support/client.js';
import { RawClient } from '../support/raw-client.js';
import { Inbox, within } from '../support/waits.js';

let broker: EmbeddedBroker;
let connection: Connection;
let channel: ConfirmChannel;

beforeEach(async () => {
  broker = EmbeddedBroker.create();
  connection = await connect({ dial: () => broker.connect() });
  channel = await (await connection.channel()).confirmSelect();
  await channel.queueDeclare('q');
});

afterEach(async () => {
  broker.resumeReading();
  await connection.close();
  await broker.close();
});

describe('connections', () => {
  test('are dropped without a word, and a client that recovers comes back to what there was', async () => {
    await using listening = await EmbeddedBroker.listen();
    await using recovering = new AmqpConnection(listening.url, { recovery: { initialDelay: 1 } });
    await recovering.open();
    const states = new Inbox<string>();
    recovering.on('status', ({ state }) => states.push(state));
    await (await (await recovering.opened()).channel()).queueDeclare('kept');
    expect(listening.dropConnections()).toBe(1);
    await states.next('open', (state) => state === 'open');
    expect(listening.queue('kept').durable).toBe(true);
    expect(listening.connections).toHaveLength(1);
  });

  test('in memory end as lost, too', async () => {
    const ended = new Inbox<unknown>();
    connection.on('close', (error) => ended.push(error));
    broker.dropConnections();
    expect(await ended.next()).toMatchObject({ code: 'CONNECTION_LOST' });
    expect(broker.connections).toEqual([]);
  });

  test('are refused, and accepted again', async () => {
    await using listening = await EmbeddedBroker.listen();
    for (const each of [broker, listening]) each.refuseConnections();
    expect(await failure(connect({ dial: () => broker.connect() }))).toMatchObject({ code: 'CONNECT_FAILED' });
    expect(['CONNECT_FAILED', 'NOT_AMQP']).toContain((await failure(connect(listening.url))).code);
    for (const each of [broker, listening]) each.acceptConnections();
    await (await connect({ dial: () => broker.connect() })).close();
    await (await connect(listening.url)).close();
  });
});

describe('block()', () => {
  test('tells clients, and those that come later, until unblock()', async () => {
    const told = new Inbox<string | undefined>();
    connection.on('blocked', (reason) => told.push(reason));
    connection.on('unblocked', () => told.push(undefined));
    broker.block('memory');
    expect(await told.next()).toBe('low on memory');
    const later = await RawClient.open(broker.connect());
    expect((await later.receive('connection.blocked')).args.reason).toBe('low on memory');
    broker.unblock();
    expect(await told.next()).toBeUndefined();
    await later.receive('connection.unblocked');
  });

  test('stops reading from who publishes all the same, and takes it up afterwards', async () => {
    const raw = await RawClient.open(broker.connect());
    await raw.openChannel(1);
    await raw.call(1, 'confirm.select', { noWait: false }, 'confirm.select-ok');
    broker.block();
    await raw.receive('connection.blocked');
    raw.publish(1, { routingKey: 'q' }, {}, 'first');
    await raw.receive('basic.ack');
    raw.publish(1, { routingKey: 'q' }, {}, 'second');
    await channel.queueDeclare('q', { passive: true });
    expect(broker.queue('q').ready).toBe(1);
    expect(broker.connections.map(({ blocked }) => blocked)).toEqual([false, true]);
    broker.unblock();
    await raw.receive('connection.unblocked');
    await raw.receive('basic.ack');
    expect(broker.queue('q').ready).toBe(2);
  });
});

test('a connection that is on its way out is told nothing more, and not listed', async () => {
  const raw = await RawClient.open(broker.connect());
  raw.send(1, 'channel.open', {});
  raw.send(1, 'channel.open', {});
  await raw.receive('channel.open-ok');
  await raw.receive('connection.close');
  expect(broker.connections).toHaveLength(1);
  broker.block();
  broker.unblock();
  raw.send(0, 'connection.close-ok', {});
  await raw.end();
  expect(raw.received.all.at(-1)?.name).toBe('connection.close');
});

test('pauseReading() leaves what clients send on its way until resumeReading()', async () => {
  broker.pauseReading();
  const publishing = channel.basicPublish('', 'q', 'x');
  // Of another broker's client all is read and answered meanwhile.
  await using other = EmbeddedBroker.create();
  await using witness = await connect(other.url);
  await witness.channel();
  expect(broker.queue('q').messages).toBe(0);
  broker.resumeReading();
  await publishing;
  expect(broker.queue('q').messages).toBe(1);
});

test('nackNext() refuses so many publishes, and no more', async () => {
  broker.nackNext(2);
  const outcomes = await Promise.allSettled(['a', 'b', 'c'].map((body) => channel.basicPublish('', 'q', body)));
  expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled']);
  expect(broker.queue('q').peek()).toMatchObject([{ text: 'c' }]);
  expect(thrown(() => broker.nackNext(-1)).code).toBe('INVALID_ARGUMENT');
});

test.each(['mine', 'q'])('cancelConsumer() ends a consumer by its tag or by its queue (%s)', async (which) => {
  const cancelled = new Inbox<string>();
  const consumer = { onMessage: () => undefined, onCancel: (tag: string) => cancelled.push(tag) };
  await channel.basicConsume('q', consumer, { consumerTag: 'mine' });
  expect(broker.cancelConsumer('unknown')).toBe(0);
  expect(broker.cancelConsumer(which)).toBe(1);
  expect(await cancelled.next()).toBe('mine');
  expect(broker.queue('q').consumers).toBe(0);
});

test('latency() has everything leave later, in its order, and is taken back', async () => {
  broker.latency('40ms');
  const before = performance.now();
  await channel.basicPublish('', 'q', 'x');
  expect(performance.now() - before).toBeGreaterThanOrEqual(39);
  const slow = channel.basicPublish('', 'q', 'y');
  await channel.queueDeclare('q', { passive: true });
  broker.latency(0);
  await within('the confirm', slow);
  // In one turn or two of the event loop, which no timer of 40 ms waits for.
  await channel.basicPublish('', 'q', 'z');
  expect(broker.queue('q').ready).toBe(3);
});
