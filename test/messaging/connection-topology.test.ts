/** When the topology of a connection is looked through and applied, and what ends that, against a broker that the test plays. */
import { beforeEach, describe, expect, test } from '@jest/globals';

import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { Connection } from '../../lib/client/connection.js';
import { ConnectionTopology, type ConnectionTopologyOptions } from '../../lib/messaging/connection-topology.js';
import type { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { scripted } from '../support/client.js';
import { CollectedLog } from '../support/collected-log.js';

let log: CollectedLog;

beforeEach(() => {
  log = new CollectedLog();
});

function topologyOf(mode: ConnectionTopologyOptions['mode']): ConnectionTopology {
  const connection = new AmqpConnection('amqp://127.0.0.1:1', { recovery: { initialDelay: 1, maxDelay: 20 } });
  return new ConnectionTopology(connection, { mode, onConflict: 'fail', checks: {}, log });
}

async function found(peer: ScriptedPeer, queue: string): Promise<void> {
  const { channel, args } = await peer.receive('queue.declare');
  expect(args).toMatchObject({ queue, passive: true });
  peer.send(channel, 'queue.declare-ok', { queue, messageCount: 0, consumerCount: 0 });
}

async function missing(peer: ScriptedPeer, channel: number): Promise<void> {
  await peer.receive('queue.declare');
  peer.send(channel, 'channel.close', { replyCode: 404, replyText: 'NOT_FOUND', classId: 50, methodId: 10 });
  await peer.receive('channel.close-ok');
}

/** A queue that was there, and is missing on a later connection. */
async function mending(mode: ConnectionTopologyOptions['mode']): Promise<{ peer: ScriptedPeer; opened: Connection }> {
  const { peer, connection: opened } = await scripted({ requestTimeout: 50 });
  const topology = topologyOf(mode);
  topology.add({ queues: [{ name: 'billing' }] }, 'here');
  const first = topology.apply(opened);
  await peer.openChannel();
  await found(peer, 'billing');
  await peer.answer('channel.close-ok', {});
  await first;
  const second = topology.apply(opened);
  await missing(peer, await peer.openChannel());
  await second;
  expect(await log.next('error', 'billing')).toContain('the connection is used as it is');
  return { peer, opened };
}

describe('what is missing on a later connection', () => {
  test('is looked for again also after an answer that did not come in time', async () => {
    const { peer } = await mending('check');
    const late = await peer.receive('channel.open');
    // It is given up, and the broker answers everything after all.
    await peer.receive('channel.close');
    peer.send(late.channel, 'channel.open-ok', {});
    peer.send(late.channel, 'channel.close-ok', {});
    await peer.openChannel();
    await found(peer, 'billing');
    expect(await log.next('log', 'What was missing')).toBe('What was missing for the topology is there.');
    peer.hangUp();
  });
});

test('several consumers that are added late have it looked through once', async () => {
  const { peer, connection: opened } = await scripted();
  const topology = topologyOf('declare');
  topology.add({ queues: [{ name: 'billing', deadLetter: { exchange: 'dead' } }, { name: 'refunds' }] }, 'here');
  const prepared = ['billing', 'refunds'].map((queue) => topology.preparation(queue, { late: true })(opened));
  const looking = await peer.openChannel();
  // `receive` would find the channel.open of a second look.
  expect((await peer.receive('exchange.declare')).args).toMatchObject({ exchange: 'dead', passive: true });
  peer.send(looking, 'exchange.declare-ok', {});
  await peer.answer('channel.close-ok', {});
  for (let count = 0; count < prepared.length; count += 1) await peer.openChannel();
  for (let count = 0; count < prepared.length; count += 1) {
    const { channel, args } = await peer.receive('queue.declare');
    peer.send(channel, 'queue.declare-ok', { queue: args.queue, messageCount: 0, consumerCount: 0 });
  }
  for (let count = 0; count < prepared.length; count += 1) await peer.answer('channel.close-ok', {});
  await Promise.all(prepared);
  peer.hangUp();
});
