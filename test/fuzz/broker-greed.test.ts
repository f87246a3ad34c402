/** Clients that cost: those that claim, hoard, read nothing, say nothing, or say it a byte at a time. None of them costs others. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import type { ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import { RawClient } from '../support/raw-client.js';
import { turns } from './hostile-peer.js';
import { rawFrame, rawHeader, rawMethod } from './raw-frames.js';

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

/** A client that has said these frames after the handshake. */
async function said(...frames: readonly Buffer[]): Promise<RawClient> {
  const client = await RawClient.open(broker.connect());
  for (const frame of frames) client.sendRaw(frame);
  await turns(5);
  return client;
}

const publish = (number: number): Buffer => rawMethod(number, 'basic.publish', { routingKey: 'honest' });

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
  expect(buffers() - before).toBeLessThan(400);
  client.transport.destroy();
});
