/** Another channel for what is published, in place of one over which the broker goes on refusing, or never confirms. */
import { afterEach, expect, jest, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { RepublishOptions } from '../../lib/client/republish-options.js';
import { type ScriptedHandshake, ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { failure } from '../support/client.js';
import { within } from '../support/waits.js';

const realNow = performance.now.bind(performance);

afterEach(() => {
  jest.restoreAllMocks();
});

/** So many milliseconds have gone by. */
function later(ms: number): void {
  jest.spyOn(performance, 'now').mockImplementation(() => realNow() + ms);
}

async function openConfirmChannel(peer: ScriptedPeer): Promise<number> {
  const number = await peer.openChannel();
  await peer.answer('confirm.select-ok', {});
  return number;
}

/** A handle with an open channel; the broker is the test. */
async function opened(options?: RepublishOptions, handshake?: ScriptedHandshake) {
  const peer = new ScriptedPeer();
  const amqp = new AmqpConnection('amqp://broker', { closeTimeout: 0, dial: () => peer.transport });
  const opening = amqp.open();
  await peer.handshake(handshake);
  await opening;
  const channel = new AmqpChannel(amqp, options);
  const channelOpening = channel.opened();
  const number = await openConfirmChannel(peer);
  await channelOpening;
  return { amqp, channel, peer, number };
}

/** The next publish: over which channel, and what. */
async function nextPublish(peer: ScriptedPeer): Promise<[channel: number, body: string]> {
  const { channel, body } = await peer.receive('basic.publish');
  return [channel, body.toString()];
}

async function refuse(peer: ScriptedPeer, channel: number, deliveryTag: number): Promise<void> {
  expect((await peer.receive('basic.publish')).channel).toBe(channel);
  peer.send(channel, 'basic.nack', { deliveryTag, multiple: false, requeue: false });
}

test('a channel over which the broker goes on refusing is left for another, once what is under way has landed', async () => {
  const { amqp, channel, peer, number } = await opened();
  const early = failure(channel.basicPublish('', 'q', 'early'));
  await refuse(peer, number, 1);
  expect((await early).code).toBe('PUBLISH_NACKED');

  later(1_000);
  const [refused, slow] = [failure(channel.basicPublish('', 'q', 'refused')), channel.basicPublish('', 'q', 'slow')];
  await refuse(peer, number, 2);
  await refused;
  expect(await nextPublish(peer)).toEqual([number, 'slow']);
  const next = channel.basicPublish('', 'q', 'next');
  peer.send(number, 'basic.ack', { deliveryTag: 3, multiple: false });
  await slow;
  const second = await openConfirmChannel(peer);
  expect(second).not.toBe(number);
  expect(await nextPublish(peer)).toEqual([second, 'next']);
  peer.send(second, 'basic.ack', { deliveryTag: 1, multiple: false });
  await within('the confirm', next);

  // What else the handle is asked stays where it was.
  const asked = channel.queuePurge('q');
  expect((await peer.answer('queue.purge-ok', { messageCount: 0 })).channel).toBe(number);
  await asked;

  // The next one, when it is time again, replaces the second: there are never more.
  later(4_000);
  const again = failure(channel.basicPublish('', 'q', 'again'));
  await refuse(peer, second, 2);
  await again;
  const last = channel.basicPublish('', 'q', 'last');
  const closing = await peer.answer('channel.close-ok', {});
  expect([closing.name, closing.channel]).toEqual(['channel.close', second]);
  const third = await openConfirmChannel(peer);
  expect(await nextPublish(peer)).toEqual([third, 'last']);
  peer.send(third, 'basic.ack', { deliveryTag: 1, multiple: false });
  await within('the confirm', last);
  await amqp.close();
});

test('a publish that is not confirmed soon keeps the channel: what waits behind it is held up for a second', async () => {
  const { amqp, channel, peer, number } = await opened();
  later(1_000);
  const refused = failure(channel.basicPublish('', 'q', 'refused'));
  const slow = channel.basicPublish('', 'q', 'slow');
  await refuse(peer, number, 1);
  await refused;
  expect(await nextPublish(peer)).toEqual([number, 'slow']);
  const next = channel.basicPublish('', 'q', 'next');
  expect(await nextPublish(peer)).toEqual([number, 'next']);
  peer.send(number, 'basic.ack', { deliveryTag: 3, multiple: true });
  await within('the confirms', Promise.all([slow, next]));
  await amqp.close();
});

test('where the connection has no other channel to give, the present one goes on', async () => {
  const { amqp, channel, peer, number } = await opened({}, { channelMax: 1 });
  later(1_000);
  const refused = failure(channel.basicPublish('', 'q', 'refused'));
  await refuse(peer, number, 1);
  await refused;
  const next = channel.basicPublish('', 'q', 'next');
  expect(await nextPublish(peer)).toEqual([number, 'next']);
  peer.send(number, 'basic.ack', { deliveryTag: 2, multiple: false });
  await within('the confirm', next);
  await amqp.close();
});

test('publishes that were given up and are never confirmed do not hold up others: these go over another channel', async () => {
  const { amqp, channel, peer, number } = await opened({ maxInFlight: 2 });
  const lost = ['a', 'b'].map((body) => failure(channel.publish('', 'stuck', body, {}, { timeout: 20 })));
  expect(await nextPublish(peer)).toEqual([number, 'a']);
  expect(await nextPublish(peer)).toEqual([number, 'b']);
  for (const error of await Promise.all(lost)) expect(error.code).toBe('ABORTED');
  const others = ['c', 'd', 'e'].map((body) => channel.basicPublish('', 'q', body));
  const second = await openConfirmChannel(peer);
  expect(await nextPublish(peer)).toEqual([second, 'c']);
  expect(await nextPublish(peer)).toEqual([second, 'd']);
  // The confirms may come after all, and are for nobody.
  peer.send(number, 'basic.ack', { deliveryTag: 2, multiple: true });
  peer.send(second, 'basic.ack', { deliveryTag: 2, multiple: true });
  expect(await nextPublish(peer)).toEqual([second, 'e']);
  peer.send(second, 'basic.ack', { deliveryTag: 3, multiple: false });
  await within('the confirms', Promise.all(others));
  await amqp.close();
});
