/** Where a consumer of a stream goes on when it starts over, in the words of the protocol; on a broker it is in test/nest/streams. */
import { expect, test } from '@jest/globals';

import { AmqpConsumer } from '../../lib/client/amqp-consumer.js';
import type { Message } from '../../lib/client/message.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import type { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { Peers, consuming, deliver } from '../conformance/bench.js';
import { scriptedChannel } from '../support/client.js';
import { Inbox } from '../support/waits.js';

interface Reader extends AsyncDisposable {
  readonly peers: Peers;
  readonly got: Inbox<Message>;
  readonly consumer: AmqpConsumer;
}

function reading(args: FieldTable, isStream?: boolean): Reader {
  const peers = new Peers();
  const got = new Inbox<Message>();
  const options = { queue: 'q', prefetch: 5, consume: { consumerTag: 'c', arguments: args }, isStream };
  const consumer = new AmqpConsumer(peers.amqp, options, { receive: got.push });
  consumer.startInBackground();
  return {
    ...{ peers, got, consumer },
    async [Symbol.asyncDispose]() {
      await consumer.stop(0);
      await peers.amqp.close();
    },
  };
}

/** Answers the next start; resolves to the offset that it asks for. */
async function start(peer: ScriptedPeer, isFirst = false): Promise<unknown> {
  if (!isFirst) await exists(peer);
  await peer.openChannel();
  await peer.answer('basic.qos-ok', {});
  return await offset(peer);
}

/** It looks whether the queue is there. */
async function exists(peer: ScriptedPeer): Promise<void> {
  const channel = await peer.openChannel();
  const { args } = await peer.receive('queue.declare');
  expect(args).toMatchObject({ queue: 'q', passive: true });
  peer.send(channel, 'queue.declare-ok', { queue: 'q', messageCount: 0, consumerCount: 0 });
  await peer.answer('channel.close-ok', {});
}

async function offset(peer: ScriptedPeer): Promise<unknown> {
  const { args, channel } = await peer.receive('basic.consume');
  peer.send(channel, 'basic.consume-ok', { consumerTag: 'c' });
  return args.arguments['x-stream-offset'];
}

function send(peer: ScriptedPeer, tag: number, streamOffset: number | bigint): void {
  peer.sendContent(1, 'basic.deliver', deliver(tag), { headers: { 'x-stream-offset': streamOffset } }, '');
}

test('it asks for the lowest that was not answered, and for the last that it had where all were', async () => {
  await using reader = reading({ 'x-stream-offset': 'first' });
  const { peers, got } = reader;
  const one = await peers.opened();
  expect(await start(one, true)).toBe('first');
  for (let n = 0; n < 5; n += 1) send(one, n + 1, 40 + n);
  const messages = [await got.next(), await got.next(), await got.next(), await got.next(), await got.next()];
  for (const n of [0, 2, 4]) messages[n]?.ack();
  await one.receive('basic.ack');
  one.hangUp();

  const two = await peers.opened();
  expect(await start(two)).toBe(41);
  // Answered too late for the broker, though not for its consumer: it was handled.
  messages[3]?.ack();
  for (let n = 1; n < 6; n += 1) send(two, n, 40 + n);
  const again = [await got.next(), await got.next()];
  expect(again.map(({ properties }) => properties.headers?.['x-stream-offset'])).toEqual([41, 45]);
  for (const message of again) message.ack();
  expect((await two.receive('basic.ack')).args).toEqual({ deliveryTag: 5, multiple: true });
  two.hangUp();

  const three = await peers.opened();
  expect(await start(three)).toBe(45);
  send(three, 1, 45);
  send(three, 2, 46);
  expect((await got.next()).properties.headers?.['x-stream-offset']).toBe(46);
});

test('offsets beyond 2^53 are kept as they are', async () => {
  await using reader = reading({ 'x-stream-offset': 'first' });
  const { peers, got } = reader;
  const one = await peers.opened();
  await start(one, true);
  send(one, 1, 2n ** 60n + 1n);
  await got.next();
  one.hangUp();
  expect(await start(await peers.opened())).toBe(2n ** 60n + 1n);
});

test('where nothing came it says again from where, and of what is live how long ago it began', async () => {
  for (const [said, again] of [
    ['first', 'first'],
    [7, 7],
    ['2h', '2h'],
    ['next', expect.stringMatching(/^[1-9]s$/)],
    ['last', expect.stringMatching(/^[1-9]s$/)],
  ] as const) {
    await using reader = reading({ 'x-stream-offset': said });
    const one = await reader.peers.opened();
    expect(await start(one, true)).toBe(said);
    one.hangUp();
    expect(await start(await reader.peers.opened())).toEqual(again);
  }
});

test('a queue that is known to be a stream needs no argument, and one that is not has nothing of it', async () => {
  await using reader = reading({}, true);
  expect(await start(await reader.peers.opened(), true)).toBe('next');
  await using other = reading({});
  const one = await other.peers.opened();
  expect(await start(one, true)).toBeUndefined();
  send(one, 1, 40);
  await other.got.next();
  one.hangUp();
  expect(await start(await other.peers.opened(), true)).toBeUndefined();
});

test('after a pause it has again what was put back, and not what still runs', async () => {
  await using reader = reading({ 'x-stream-offset': 'first' });
  const { peers, got, consumer } = reader;
  const peer = await peers.opened();
  await start(peer, true);
  for (let n = 0; n < 3; n += 1) send(peer, n + 1, n);
  const [one, two, three] = [await got.next(), await got.next(), await got.next()];
  const paused = consumer.pause();
  two.nack();
  one.ack();
  await peer.receive('basic.cancel');
  // Nothing can be put back to a stream: the broker hears that it may send more.
  expect((await peer.receive('basic.ack')).args).toEqual({ deliveryTag: 2, multiple: true });
  peer.send(1, 'basic.cancel-ok', { consumerTag: 'c' });
  await paused;
  consumer.resume();
  await exists(peer);
  expect(await offset(peer)).toBe(1);
  for (let n = 1; n < 4; n += 1) send(peer, n + 3, n);
  const again = [await got.next(), await got.next()];
  expect(again.map(({ properties }) => properties.headers?.['x-stream-offset'])).toEqual([1, 3]);
  three.ack();
  await peer.receive('basic.ack');
});

test('a stream that is gone is read as a new one, from its first message where an offset was said', async () => {
  for (const [said, again] of [
    ['first', 'first'],
    [40, 'first'],
    ['next', expect.stringMatching(/^[1-9]s$/)],
  ] as const) {
    await using reader = reading({ 'x-stream-offset': said });
    const { peers, got } = reader;
    const one = await peers.opened();
    await start(one, true);
    send(one, 1, 40);
    (await got.next()).ack();
    await one.receive('basic.ack');
    one.hangUp();
    const two = await peers.opened();
    const channel = await two.openChannel();
    await two.receive('queue.declare');
    const reply = { replyCode: 404, replyText: "NOT_FOUND - no queue 'q' in vhost '/'", classId: 50, methodId: 10 };
    two.send(channel, 'channel.close', reply);
    await two.receive('channel.close-ok');
    expect(await start(two, true)).toEqual(again);
    send(two, 1, 0);
    expect((await got.next()).properties.headers?.['x-stream-offset']).toBe(0);
  }
});

test('a channel that lives once answers a stream with nothing but acknowledgements, too', async () => {
  const got = new Inbox<Message>();
  const { channel, peer } = await scriptedChannel();
  const more = { consumerTag: 'c', arguments: { 'x-stream-offset': 'first' } };
  const started = channel.basicConsume('q', got.push, more);
  await peer.answer('basic.consume-ok', { consumerTag: 'c' });
  await started;
  send(peer, 1, 0);
  (await got.next()).reject();
  expect((await peer.receive('basic.ack')).args).toEqual({ deliveryTag: 1, multiple: false });
  send(peer, 2, 1);
  (await got.next()).nack();
  expect((await peer.receive('basic.ack')).args).toEqual({ deliveryTag: 2, multiple: false });
  const other = await consuming(got.push);
  send(other.peer, 1, 0);
  (await got.next()).reject();
  await other.peer.receive('basic.reject');
});
