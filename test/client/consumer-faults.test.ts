/** Consumers whose callbacks, log, queue or start fail: what is left of them, and who hears of it. */
import { expect, jest, test } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { getEventListeners, once } from 'node:events';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { AmqpRequester } from '../../lib/client/amqp-requester.js';
import type { Message } from '../../lib/client/message.js';
import type { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { Peers, QUICK } from '../conformance/bench.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, scriptedChannel } from '../support/client.js';
import { loneHandler } from '../support/lone-handler.js';
import { Scratch } from '../support/scratch.js';
import { Inbox, eventually, within } from '../support/waits.js';

test('what onCancel throws becomes a process warning, and the handle goes on', async () => {
  const warnings = new Inbox<string | Error>();
  const spy = jest.spyOn(process, 'emitWarning').mockImplementation(warnings.push);
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  await using amqp = new AmqpConnection(brokerUrl, { ...QUICK, recordTopology: false });
  await amqp.open();
  const handle = new AmqpChannel(amqp);
  const cancelled = new Inbox<string>();
  const consumerTag = await handle.basicConsume(queue, {
    onMessage: () => undefined,
    onCancel: (tag) => {
      cancelled.push(tag);
      throw new Error('thrown by onCancel');
    },
  });
  await scratch.delete(queue);
  expect(await warnings.next('the warning')).toBe('thrown by onCancel');
  const other = await scratch.queue();
  const messages = new Inbox<Message>();
  await handle.basicConsume(other, messages.push, { consumerTag, noAck: true });
  await scratch.send(other, 'after it');
  expect((await messages.next()).body.toString()).toBe('after it');
  expect(cancelled.all).toEqual([consumerTag]);
  spy.mockRestore();
});

test('two consumers of one server-named queue that was deleted share the new one', async () => {
  await using amqp = new AmqpConnection(brokerUrl, QUICK);
  amqp.on('recoveryError', () => undefined);
  await amqp.open();
  const handle = new AmqpChannel(amqp);
  // They start again side by side: who comes first differs from time to time.
  for (let round = 0; round < 3; round += 1) {
    const { queue } = await handle.queueDeclare('', { autoDelete: false });
    const messages = new Inbox<Message>();
    for (const consumerTag of ['one', 'two']) await handle.basicConsume(queue, messages.push, { consumerTag });
    const renamed = once(amqp, 'queueRenamed');
    await (await handle.opened()).queueDelete(queue);
    await within('the new name', renamed);
    await eventually('two consumers of the new queue', async () =>
      (await handle.queueDeclare(queue, { passive: true })).consumerCount === 2 ? true : undefined,
    );
    await handle.basicPublish('', queue, 'x');
    (await messages.next()).ack();
    for (const consumerTag of ['one', 'two']) await handle.basicCancel(consumerTag);
    await handle.queueDelete(queue);
  }
});

test('a log that throws keeps no consumer from starting again', async () => {
  const peers = new Peers();
  const fail = (): never => {
    throw new Error('thrown by the log');
  };
  const consumer = loneHandler(
    peers.amqp,
    {
      name: 'BillingConsumer.charge',
      queue: 'q',
      topology: {},
      prefetch: 1,
      exclusive: false,
      consumerTag: 'c',
      arguments: {},
      channel: new AmqpChannel(peers.amqp),
    },
    () => Promise.resolve(),
    { log: fail, warn: fail, error: fail },
  );
  const serve = async (peer: ScriptedPeer): Promise<void> => {
    await peer.openChannel();
    await peer.answer('queue.declare-ok', { queue: 'q', messageCount: 0, consumerCount: 0 });
    await peer.answer('channel.close-ok', {});
    await peer.openChannel();
    await peer.answer('basic.qos-ok', {});
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
  };
  const first = await peers.opened();
  consumer.startInBackground();
  await serve(first);
  await eventually('the first run', () => Promise.resolve(consumer.state === 'running' ? true : undefined));
  first.hangUp();
  await serve(await peers.opened());
  await eventually('the second run', () => Promise.resolve(consumer.state === 'running' ? true : undefined));
  await peers.amqp.close();
});

test('a requester whose reply consumer does not start leaves no channel behind', async () => {
  // Time enough for the answers that the peer does give.
  const peers = new Peers({ requestTimeout: 500 });
  const peer = await peers.opened();
  const requester = new AmqpRequester(peers.amqp);
  for (let round = 0; round < 3; round += 1) {
    const refused = failure(requester.request('', 'q', 'x'));
    const number = await peer.openChannel();
    await peer.answer('confirm.select-ok', {});
    await peer.receive('basic.consume');
    expect((await refused).code).toBe('REQUEST_TIMEOUT');
    expect(await peer.answer('channel.close-ok', {})).toMatchObject({ name: 'channel.close', channel: number });
  }
  await peers.amqp.close();
});

test('loops that could not start leave no listener on their signal', async () => {
  await using amqp = new AmqpConnection(brokerUrl, QUICK);
  await amqp.open();
  const handle = new AmqpChannel(amqp);
  const { signal } = new AbortController();
  for (let round = 0; round < 3; round += 1) {
    const looping = (async () => {
      for await (const message of handle.consume(`missing.${randomUUID()}`, { signal })) message.ack();
    })();
    expect(await failure(looping)).toMatchObject({ replyCode: 404 });
  }
  expect(getEventListeners(signal, 'abort')).toEqual([]);
});

test('a cancel ends by its timeout although the start of the consumer is unanswered', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const consuming = failure(channel.basicConsume('q', () => undefined, { consumerTag: 'c' }));
  await peer.receive('basic.consume');
  expect((await failure(channel.basicCancel('c', { timeout: 20 }))).code).toBe('REQUEST_TIMEOUT');
  await connection.close();
  await consuming;
});
