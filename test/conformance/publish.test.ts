/** Conformance, publishing: the numbers 67 to 77. */
import { expect, test } from '@jest/globals';
import { once } from 'node:events';

import type { ReturnedMessage } from '../../lib/client/channel-options.js';
import { brokerUrl } from '../support/broker.mjs';
import type { AmqpError } from '../../lib/errors.js';
import { failure, scriptedChannel, scriptedConfirmChannel, thrown } from '../support/client.js';
import { within } from '../support/waits.js';
import { Bench } from './bench.js';

test('67. an unroutable mandatory message is returned, an empty one too, before it is confirmed', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const missing = scratch.queueName();
  for (const body of ['lost', '']) {
    const returned = once(channel, 'return') as Promise<[ReturnedMessage]>;
    void channel.basicPublish('', missing, body, { mandatory: true, messageId: 'm' });
    const [message] = await within('the return', returned);
    expect(message).toMatchObject({
      replyCode: 312,
      exchange: '',
      routingKey: missing,
      properties: { messageId: 'm' },
    });
    expect(message.body.toString()).toBe(body);
  }
  const confirming = await bench.confirming();
  expect(await failure(confirming.basicPublish('', missing, '', { mandatory: true }))).toMatchObject({
    code: 'UNROUTABLE',
    replyCode: 312,
  });
  await confirming.basicPublish('', missing, '');
  expect(confirming.unconfirmedCount).toBe(0);
});

test('68. immediate is refused before it leaves, and the channel goes on', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  expect(thrown(() => channel.basicPublish('', 'q', '', { immediate: true })).code).toBe('INVALID_ARGUMENT');
  expect((await channel.queueDeclare()).messageCount).toBe(0);
});

test('69. confirms settle publishes singly, in groups, out of order, and leave the rest waiting', async () => {
  const { peer, connection, channel } = await scriptedConfirmChannel({ closeTimeout: 0 });
  const fates: string[] = [];
  const settled = Array.from({ length: 8 }, async (_, index) => {
    const fate = await channel.basicPublish('', 'q', '').then(
      () => 'ack',
      (error: unknown) => (error as { code: string }).code,
    );
    fates.push(`${index + 1} ${fate}`);
  });
  for (let count = 0; count < 8; count += 1) await peer.receive('basic.publish');
  peer.send(1, 'basic.ack', { deliveryTag: 5, multiple: false });
  peer.send(1, 'basic.nack', { deliveryTag: 2, multiple: false, requeue: false });
  peer.send(1, 'basic.ack', { deliveryTag: 3, multiple: true });
  peer.send(1, 'basic.nack', { deliveryTag: 6, multiple: true, requeue: false });
  await within('the confirms', Promise.all(settled.slice(0, 6)));
  expect(fates).toEqual(['5 ack', '2 PUBLISH_NACKED', '1 ack', '3 ack', '4 PUBLISH_NACKED', '6 PUBLISH_NACKED']);
  expect(channel.unconfirmedCount).toBe(2);
  peer.send(1, 'basic.ack', { deliveryTag: 0, multiple: true });
  await within('the rest', Promise.all(settled));
  await connection.close();
});

test('70. waitForConfirms waits for all so far, tells the first failure, and ends by time, signal or close', async () => {
  const { peer, channel } = await scriptedConfirmChannel({ closeTimeout: 0 });
  await channel.waitForConfirms();
  const fates = ['a', 'b', 'c'].map((body) =>
    channel.basicPublish('', 'q', body).then(
      () => 'acked',
      (error: unknown) => (error as AmqpError).code,
    ),
  );
  const waiting = failure(channel.waitForConfirms());
  expect((await failure(channel.waitForConfirms({ timeout: 1 }))).code).toBe('REQUEST_TIMEOUT');
  expect((await failure(channel.waitForConfirms({ signal: AbortSignal.abort() }))).code).toBe('ABORTED');
  const later = channel.basicPublish('', 'q', 'd');
  peer.send(1, 'basic.ack', { deliveryTag: 1, multiple: false });
  peer.send(1, 'basic.ack', { deliveryTag: 3, multiple: false });
  peer.send(1, 'basic.nack', { deliveryTag: 2, multiple: false, requeue: false });
  // The fourth publish came after the call, and is not waited for.
  expect((await waiting).code).toBe('PUBLISH_NACKED');
  expect(await Promise.all(fates)).toEqual(['acked', 'PUBLISH_NACKED', 'acked']);
  const ended = [failure(channel.waitForConfirms()), failure(later)];
  peer.send(1, 'channel.close', { replyCode: 406, replyText: 'PRECONDITION_FAILED', classId: 0, methodId: 0 });
  for (const { code } of await Promise.all(ended)) expect(code).toBe('PUBLISH_OUTCOME_UNKNOWN');
  await using bench = await Bench.open();
  expect((await failure(bench.channel.waitForConfirms())).code).toBe('INVALID_ARGUMENT');
  const confirming = await bench.confirming();
  const queue = await bench.queueWith();
  const publishes = Array.from({ length: 100 }, () => confirming.basicPublish('', queue, ''));
  await confirming.waitForConfirms();
  expect(confirming.unconfirmedCount).toBe(0);
  await Promise.all(publishes);
});

test('71. confirm.select goes over the wire once, however often it is asked for', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const selecting = Promise.all([channel.confirmSelect(), channel.confirmSelect()]);
  await peer.answer('confirm.select-ok', {});
  await selecting;
  await channel.confirmSelect();
  const declaring = channel.queuePurge('q');
  expect((await peer.answer('queue.purge-ok', { messageCount: 0 })).name).toBe('queue.purge');
  await declaring;
  await connection.close();
});

test('72. a full queue that rejects publishes rejects the promise, and the channel goes on', async () => {
  await using bench = await Bench.open();
  const { queue } = await bench.channel.queueDeclare('', {
    arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' },
  });
  const confirming = await bench.confirming();
  await confirming.basicPublish('', queue, 'fits');
  expect((await failure(confirming.basicPublish('', queue, 'does not'))).code).toBe('PUBLISH_NACKED');
  await bench.channel.queuePurge(queue);
  await confirming.basicPublish('', queue, 'fits again');
});

test('73. publishes that are unconfirmed when the channel ends are rejected, each of them', async () => {
  const { peer, connection, channel } = await scriptedConfirmChannel({ closeTimeout: 0 });
  const [confirmed, ...rest] = [1, 2, 3].map((number) => channel.basicPublish('', 'q', `${number}`));
  for (let count = 0; count < 3; count += 1) await peer.receive('basic.publish');
  peer.send(1, 'basic.ack', { deliveryTag: 1, multiple: false });
  peer.send(1, 'channel.close', { replyCode: 406, replyText: 'PRECONDITION_FAILED', classId: 60, methodId: 80 });
  await confirmed;
  for (const lost of rest) {
    expect(await failure(lost)).toMatchObject({ code: 'PUBLISH_OUTCOME_UNKNOWN', replyCode: 406 });
  }
  expect(channel.unconfirmedCount).toBe(0);
  await connection.close();
});

test('74. a publish to a missing exchange is a 404, and a new channel is fine', async () => {
  await using bench = await Bench.open();
  const broken = await bench.confirming();
  const error = await failure(broken.basicPublish(bench.scratch.exchangeName(), 'k', 'x'));
  expect(error).toMatchObject({ code: 'PUBLISH_REFUSED', replyCode: 404, method: 'basic.publish' });
  expect(broken.isOpen).toBe(false);
  const queue = await bench.queueWith('fine');
  expect(await bench.text(queue)).toBe('fine');
});

test('75. CC and BCC route, every property arrives, and a false user id and expiration are refused', async () => {
  await using bench = await Bench.open();
  const confirming = await bench.confirming();
  const [to, cc, bcc] = [await bench.queueWith(), await bench.queueWith(), await bench.queueWith()];
  await confirming.basicPublish('', to, 'x', { headers: { CC: [cc], BCC: [bcc] } });
  for (const queue of [to, cc, bcc]) {
    expect((await bench.take(queue))?.properties.headers).toEqual({ CC: [cc] });
  }
  const properties = {
    contentType: 'text/plain',
    contentEncoding: 'identity',
    headers: { h: 1 },
    deliveryMode: 2,
    priority: 9,
    correlationId: 'c',
    replyTo: 'r',
    expiration: '60000',
    messageId: 'm',
    timestamp: 1_700_000_000,
    type: 't',
    userId: decodeURIComponent(new URL(brokerUrl).username) || 'guest',
    appId: 'a',
    clusterId: 'cl',
  };
  await confirming.basicPublish('', to, 'x', properties);
  expect((await bench.take(to))?.properties).toEqual(properties);
  await confirming.basicPublish('', to, 'x', { expiration: '1' });
  await bench.ready(to, 0);
  const publishing = await bench.confirming();
  // The client knows: nothing leaves, and the channel goes on.
  expect((await failure(publishing.basicPublish('', to, 'x', { expiration: 'soon' }))).code).toBe('INVALID_ARGUMENT');
  const refused = await failure(publishing.basicPublish('', to, 'x', { userId: 'somebody else' }));
  expect(refused).toMatchObject({ replyCode: 406, method: 'basic.publish' });
});

test('76. a publish says false above the high-water mark, and drained() when to go on', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  peer.pauseReading();
  let published = 1;
  while (channel.basicPublish('', 'q', Buffer.alloc(50_000))) published += 1;
  const drained = channel.drained();
  peer.resumeReading();
  await within('drained', drained);
  expect(channel.basicPublish('', 'q', '')).toBe(true);
  for (let count = 0; count <= published; count += 1) await peer.receive('basic.publish');
  await connection.close();
});

test('77. a transaction commits and rolls back publishes and acknowledgements', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith();
  const tx = await bench.connection.channel();
  await tx.txSelect();
  void tx.basicPublish('', queue, 'rolled back');
  await tx.txRollback();
  void tx.basicPublish('', queue, 'committed');
  expect(await bench.text(queue)).toBeUndefined();
  await tx.txCommit();
  await bench.ready(queue, 1);

  expect((await tx.basicGet(queue))?.message.ack()).toBe(true);
  await tx.txRollback();
  tx.basicNack(0, { multiple: true });
  await tx.txCommit();
  await bench.ready(queue, 1);
  expect((await tx.basicGet(queue))?.message.ack()).toBe(true);
  await tx.txCommit();
  await tx.close();
  await bench.ready(queue, 0);
  const outside = bench.refusal((channel) => channel.txCommit());
  expect(await outside).toMatchObject({ replyCode: 406, method: 'tx.commit' });
});
