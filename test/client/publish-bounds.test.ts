/** What bounds publishes that wait: what is in flight, a blocked broker, a channel that ends, and their own age. */
import { expect, test } from '@jest/globals';
import { once } from 'node:events';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpError } from '../../lib/errors.js';
import type { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { Peers } from '../conformance/bench.js';
import { failure } from '../support/client.js';
import { within } from '../support/waits.js';

async function openConfirmChannel(peer: ScriptedPeer): Promise<number> {
  const number = await peer.openChannel();
  await peer.answer('confirm.select-ok', {});
  return number;
}

/** The broker takes no publishes from now on, and the client knows. */
async function block(peers: Peers, peer: ScriptedPeer): Promise<void> {
  const blocked = once(await peers.amqp.opened(), 'blocked');
  peer.send(0, 'connection.blocked', { reason: 'low on memory' });
  await within('blocked', blocked);
}

/** The codes of all outcomes, each once; 'confirmed' for those that have none. */
async function outcomesOf(publishing: readonly Promise<void>[]): Promise<string[]> {
  const outcomes = await within('all outcomes', Promise.allSettled(publishing));
  const codes = outcomes.map((outcome) => {
    if (outcome.status === 'fulfilled') return 'confirmed';
    return outcome.reason instanceof AmqpError ? outcome.reason.code : String(outcome.reason);
  });
  return [...new Set(codes)];
}

test('a broker that never confirms gets no more than maxInFlight, however many publishes time out', async () => {
  const peers = new Peers();
  const peer = await peers.opened();
  const handle = new AmqpChannel(peers.amqp, { maxInFlight: 10 });
  const opening = handle.opened();
  await openConfirmChannel(peer);
  const channel = await opening;
  for (let round = 0; round < 10; round += 1) {
    const publishing = Array.from({ length: 10 }, () => handle.publish('', 'q', 'x', {}, { timeout: 2 }));
    expect(await outcomesOf(publishing)).toEqual(['ABORTED']);
  }
  expect(channel.unconfirmedCount).toBe(10);
  await peers.amqp.close();
});

test('a publish that waits for a blocked broker outlasts requestTimeout, also when there is no channel yet', async () => {
  const peers = new Peers({ requestTimeout: 500 });
  const peer = await peers.opened();
  await block(peers, peer);
  const publishing = new AmqpChannel(peers.amqp).basicPublish('', 'q', 'x');
  // A request that was made after it has run into the limit.
  expect((await failure((await peers.amqp.opened()).channel())).code).toBe('REQUEST_TIMEOUT');
  await peer.receive('channel.open');
  await peer.receive('channel.close');
  peer.send(0, 'connection.unblocked', {});
  const number = await openConfirmChannel(peer);
  await peer.receive('basic.publish');
  peer.send(number, 'basic.ack', { deliveryTag: 1, multiple: false });
  await within('the confirm', publishing);
  await peers.amqp.close();
});

test('a publish that waits for a blocked broker is sent on the next channel when its own ends meanwhile', async () => {
  const peers = new Peers();
  const peer = await peers.opened();
  const handle = new AmqpChannel(peers.amqp);
  const opening = handle.opened();
  const number = await openConfirmChannel(peer);
  await opening;
  // Once more through the handle, so that it holds the channel that will end.
  const first = handle.basicPublish('', 'q', 'one');
  await peer.receive('basic.publish');
  peer.send(number, 'basic.ack', { deliveryTag: 1, multiple: false });
  await first;

  await block(peers, peer);
  const waiting = handle.basicPublish('', 'q', 'two');
  peer.send(number, 'channel.close', { replyCode: 406, replyText: 'PRECONDITION_FAILED', classId: 0, methodId: 0 });
  await peer.receive('channel.close-ok');
  peer.send(0, 'connection.unblocked', {});
  const next = await openConfirmChannel(peer);
  expect((await peer.receive('basic.publish')).body.toString()).toBe('two');
  peer.send(next, 'basic.ack', { deliveryTag: 1, multiple: false });
  await within('the confirm', waiting);
  await peers.amqp.close();
});

test('thousands of invalid publishes that waited for a connection are each rejected for what is wrong with them', async () => {
  const peers = new Peers();
  const peer = await peers.next();
  const handle = new AmqpChannel(peers.amqp);
  const publishing = Array.from({ length: 9_000 }, () => handle.basicPublish('', 'q', 'x', { priority: 1_000 }));
  const outcomes = outcomesOf(publishing);
  await peer.handshake();
  await openConfirmChannel(peer);
  expect(await outcomes).toEqual(['INVALID_ARGUMENT']);
  await peers.amqp.close();
});

test('thousands of publishes that are older than maxAge after a loss are each rejected as unknown', async () => {
  const peers = new Peers();
  const peer = await peers.opened();
  const handle = new AmqpChannel(peers.amqp, { maxAge: 1 });
  const publishing = Array.from({ length: 4_096 }, () => handle.basicPublish('', 'q', 'x'));
  const outcomes = outcomesOf(publishing);
  await openConfirmChannel(peer);
  for (let sent = 0; sent < publishing.length; sent += 1) await peer.receive('basic.publish');
  peer.hangUp();
  await openConfirmChannel(await peers.opened());
  expect(await outcomes).toEqual(['PUBLISH_OUTCOME_UNKNOWN']);
  await peers.amqp.close();
});
