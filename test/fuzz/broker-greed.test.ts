/** Clients that cost: those that claim, hoard, read nothing, say nothing, or say it a byte at a time. None of them costs others. */
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import type { ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import { PROTOCOL_HEADER } from '../../lib/protocol/frame.js';
import { collectGarbage } from '../support/garbage.js';
import { RawClient } from '../support/raw-client.js';
import { eventually } from '../support/waits.js';
import { Random, runs, turns, writeCut } from './hostile-peer.js';
import { rawFrame, rawHeader, rawMethod, rawTable, textValue } from './raw-frames.js';

let broker: EmbeddedBroker;
let honest: Connection;
let channel: ConfirmChannel;

beforeEach(async () => {
  broker = EmbeddedBroker.create();
  honest = await connect({ dial: () => broker.connect(), heartbeat: 0 });
  channel = await (await honest.channel()).confirmSelect();
  await channel.queueDeclare('honest', { exclusive: true });
});

afterEach(async () => {
  await honest.close();
  await broker.close();
});

/** The honest client publishes and gets. */
async function works(): Promise<void> {
  await channel.basicPublish('', 'honest', 'still here');
  const got = await channel.basicGet('honest', { noAck: true });
  expect(got?.message.text).toBe('still here');
}

/** Bytes that buffers hold, in MiB. */
function buffers(): number {
  return process.memoryUsage().arrayBuffers / 1024 / 1024;
}

/** By how many MiB that has grown; once more after a collection where it is not below the limit. */
function growth(before: number, limit: number): number {
  if (buffers() - before >= limit) collectGarbage();
  return buffers() - before;
}

/** A client that has said these frames after the handshake. */
async function said(...frames: readonly Buffer[]): Promise<RawClient> {
  const client = await RawClient.open(broker.connect());
  for (const frame of frames) client.sendRaw(frame);
  await turns(5);
  return client;
}

const publish = (number: number): Buffer => rawMethod(number, 'basic.publish', { routingKey: 'honest' });

/** Whatever is wrong with it is said at once, and nothing of what it claims is awaited. */
test.each([
  ['frames of 2 GiB', [rawMethod(1, 'channel.open'), Buffer.from('0100017fffffff', 'hex')], 501],
  ['header frames of 4 GiB', [rawMethod(1, 'channel.open'), publish(1), Buffer.from('020001ffffffff', 'hex')], 501],
  ['a body of 2^60 octets', [rawMethod(1, 'channel.open'), publish(1), rawHeader(1, 2n ** 60n)], 502],
  ['a table that is longer than its frame', [rawMethod(1, 'channel.open'), lyingTable()], 501],
])('%s end the connection', async (_what, frames, replyCode) => {
  const client = await said(...frames);
  await client.receive('channel.open-ok');
  expect((await client.receive('connection.close')).args).toMatchObject({ replyCode });
  await works();
});

/** queue.declare whose arguments claim to have 2^31 octets. */
function lyingTable(): Buffer {
  const frame = rawMethod(1, 'queue.declare', { queue: 'x' });
  frame.writeUInt32BE(0x8000_0000, frame.length - 5);
  return frame;
}

test('a body of 2^40 octets is dropped as it comes, and costs nothing', async () => {
  const before = buffers();
  const client = await said(rawMethod(1, 'channel.open'), publish(1), rawHeader(1, 2n ** 40n));
  const part = rawFrame(3, 1, Buffer.alloc(131_000));
  for (let count = 0; count < 1_000; count += 1) {
    client.sendRaw(part);
    if (count % 50 === 0) await turns(3);
  }
  await works();
  expect(growth(before, 50)).toBeLessThan(50);
  client.transport.destroy();
});

test('a size that is only claimed costs next to nothing, however many channels claim it', async () => {
  const before = buffers();
  const channels = Array.from({ length: 2047 }, (_, index) => index + 1);
  const client = await said(
    Buffer.concat(channels.map((number) => rawMethod(number, 'channel.open'))),
    ...channels.map((number) =>
      Buffer.concat([publish(number), rawHeader(number, 100_000_000), rawFrame(3, number, Buffer.from('x'))]),
    ),
  );
  await works();
  expect(broker.connections[1]?.channels).toHaveLength(2047);
  expect(growth(before, 200)).toBeLessThan(200);
  client.transport.destroy();
});

test('a client that never reads holds up itself alone, whatever it asks for', async () => {
  await channel.queueDeclare('full');
  const body = Buffer.alloc(10_000, 'x');
  await Promise.all(Array.from({ length: 1_000 }, () => channel.basicPublish('', 'full', body)));
  const before = buffers();
  const client = await said(rawMethod(1, 'channel.open'), rawMethod(2, 'channel.open'));
  client.transport.pause();
  client.sendRaw(rawMethod(1, 'basic.consume', { queue: 'full', consumerTag: 'c' }));
  client.sendRaw(rawMethod(2, 'basic.consume', { queue: 'amq.rabbitmq.reply-to', consumerTag: 'r', noAck: true }));
  for (let count = 0; count < 200; count += 1) {
    // Delivers everything again, gets more of it, and has a message come back.
    client.sendRaw(rawMethod(1, 'basic.recover-async', { requeue: true }));
    client.sendRaw(rawMethod(2, 'basic.get', { queue: 'full' }));
    client.sendRaw(
      Buffer.concat([
        rawMethod(2, 'basic.publish', { routingKey: 'nowhere', mandatory: true }),
        rawHeader(2, body.length),
        rawFrame(3, 2, body),
      ]),
    );
    if (count % 20 === 0) await works();
  }
  await turns(20);
  expect(broker.queue('full').messages).toBe(1_000);
  // A megabyte that is to be written, a few that the line holds, and what is not read from the client.
  expect(growth(before, 40)).toBeLessThan(40);
  await works();
  client.transport.destroy();
  await eventually('the return of what it held', () =>
    Promise.resolve(broker.queue('full').ready === 1_000 || undefined),
  );
  await works();
});

test('a client of which others know the address for replies costs no more than its share, and then it is gone', async () => {
  const client = await said(
    rawMethod(1, 'channel.open'),
    rawMethod(1, 'basic.consume', { queue: 'amq.rabbitmq.reply-to', consumerTag: 'r', noAck: true }),
    rawMethod(1, 'basic.publish', { routingKey: 'honest' }),
    // The property reply-to.
    rawHeader(1, 0, Buffer.concat([Buffer.from([2, 0, 21]), Buffer.from('amq.rabbitmq.reply-to')])),
  );
  const address = (await channel.basicGet('honest', { noAck: true }))?.message.properties.replyTo ?? '';
  client.transport.pause();
  const before = buffers();
  const body = Buffer.alloc(1_000_000, 'x');
  for (let count = 0; count < 200; count += 1) await channel.basicPublish('', address, body);
  await eventually('the end of who does not read', () => Promise.resolve(broker.connections.length === 1 || undefined));
  expect(growth(before, 150)).toBeLessThan(150);
  await works();
  client.transport.destroy();
});

test.each([
  ['nothing', []],
  ['half a header', [PROTOCOL_HEADER.subarray(0, 5)]],
  ['a header', [PROTOCOL_HEADER]],
  [
    'start-ok',
    [PROTOCOL_HEADER, rawMethod(0, 'connection.start-ok', { mechanism: 'PLAIN', response: '\0guest\0guest' })],
  ],
  ['half a frame', [PROTOCOL_HEADER, Buffer.from('010000000005', 'hex')]],
])('a peer that falls silent after %s is cut off after 10 seconds', async (_what, frames) => {
  jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate', 'performance'] });
  try {
    const client = new RawClient(broker.connect());
    for (const frame of frames) client.sendRaw(frame);
    await turns(3);
    jest.advanceTimersByTime(9_999);
    await turns(3);
    expect(client.transport.readableEnded).toBe(false);
    jest.advanceTimersByTime(1);
    await client.hungUp;
  } finally {
    jest.useRealTimers();
  }
  await works();
});

test('a peer that says its session a byte at a time is served like any other', async () => {
  const { iterations, seed } = runs(1);
  const session = Buffer.concat([
    PROTOCOL_HEADER,
    rawMethod(0, 'connection.start-ok', { mechanism: 'PLAIN', response: '\0guest\0guest', locale: 'en_US' }),
    rawMethod(0, 'connection.tune-ok', { channelMax: 10, frameMax: 4096 }),
    rawMethod(0, 'connection.open', { virtualHost: '/' }),
    rawMethod(1, 'channel.open'),
    rawMethod(1, 'queue.declare', { queue: 'slow', arguments: rawTable([['x-overflow', textValue('drop-head')]]) }),
    rawMethod(1, 'basic.publish', { routingKey: 'slow' }),
    rawHeader(1, 5_000),
    rawFrame(3, 1, Buffer.alloc(4_080, 'x')),
    rawFrame(3, 1, Buffer.alloc(920, 'x')),
    rawMethod(1, 'basic.get', { queue: 'slow', noAck: true }),
    rawMethod(0, 'connection.close', { replyCode: 200 }),
  ]);
  for (let run = 0; run < Math.min(iterations, 100); run += 1) {
    const random = new Random(seed + run);
    const client = new RawClient(broker.connect());
    for (let at = 0; at < session.length;) {
      const end = at + (random.chance(50) ? 1 + random.below(300) : 1);
      writeCut(client.transport, session.subarray(at, end), random);
      at = end;
      if (random.chance(20)) await turns(1);
      if (random.chance(1_000)) await works();
    }
    const got = await client.received.next('the message', ({ name }) => name === 'basic.get-ok');
    expect(got.body).toHaveLength(5_000);
    await client.received.next('the end', ({ name }) => name === 'connection.close-ok');
    await client.hungUp;
  }
  await works();
});
