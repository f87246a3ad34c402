/** What becomes of answers that come when nobody waits for them any more, by timeout or signal. */
import { expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { Peers, deliver } from '../conformance/bench.js';
import { failure, scripted, scriptedChannel, scriptedConfirmChannel } from '../support/client.js';
import { within } from '../support/waits.js';

const NOW = { signal: AbortSignal.abort(new Error('enough')) };

test('a message that is fetched too late goes back to its queue', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const getting = failure(channel.basicGet('q', { timeout: 1 }));
  await peer.receive('basic.get');
  expect(await getting).toMatchObject({ code: 'REQUEST_TIMEOUT', method: 'basic.get' });
  const got = { deliveryTag: 4, redelivered: false, exchange: '', routingKey: 'q', messageCount: 0 };
  peer.sendContent(1, 'basic.get-ok', got, {}, 'late');
  expect((await peer.receive('basic.nack')).args).toEqual({
    deliveryTag: 4,
    multiple: false,
    requeue: true,
  });
  await connection.close();
});

test('a consumer that starts too late is cancelled, and what it got goes back', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const delivered: unknown[] = [];
  const controller = new AbortController();
  const options = { consumerTag: 'c', signal: controller.signal };
  const starting = failure(channel.basicConsume('q', (message) => delivered.push(message), options));
  await peer.receive('basic.consume');
  controller.abort();
  expect((await starting).code).toBe('ABORTED');
  peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'x');
  expect((await peer.receive('basic.nack')).args).toEqual({
    deliveryTag: 1,
    multiple: false,
    requeue: true,
  });
  peer.send(1, 'basic.consume-ok', { consumerTag: 'c' });
  expect((await peer.receive('basic.cancel')).args).toEqual({ consumerTag: 'c', noWait: true });
  expect(delivered).toEqual([]);
  await connection.close();
});

test('a channel that opens too late is closed', async () => {
  const { peer, connection } = await scripted({ closeTimeout: 0, requestTimeout: 1 });
  const opening = failure(connection.channel());
  await peer.receive('channel.open');
  expect(await opening).toMatchObject({ code: 'REQUEST_TIMEOUT', method: 'channel.open' });
  expect((await peer.receive('channel.close')).channel).toBe(1);
  await connection.close();
});

test('nothing is sent for a signal that has fired already', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  for (const asked of [
    channel.queueDeclare('q', NOW),
    channel.basicGet('q', NOW),
    channel.basicConsume('q', () => undefined, NOW),
    channel.confirmSelect(NOW),
    channel.txSelect(NOW),
    connection.channel(NOW),
  ]) {
    expect((await failure(asked)).code).toBe('ABORTED');
  }
  const asked = channel.queuePurge('q');
  expect((await peer.answer('queue.purge-ok', { messageCount: 0 })).name).toBe('queue.purge');
  await asked;
  await connection.close();
});

test('of a handle a timeout bounds the wait for a connection and for the answer together', async () => {
  const down = new AmqpConnection(undefined, { dial: () => Promise.reject(new Error('down')) });
  down.openInBackground();
  const waiting = new AmqpChannel(down);
  expect((await failure(waiting.queueDeclare('q', { timeout: 1 }))).code).toBe('REQUEST_TIMEOUT');
  expect((await failure(waiting.queuePurge('q', NOW))).code).toBe('ABORTED');
  await down.close();

  const peers = new Peers();
  const peer = await peers.opened();
  const channel = new AmqpChannel(peers.amqp);
  const asked = failure(channel.queueDeclare('q', { timeout: 1_500 }));
  await peer.openChannel();
  await peer.answer('confirm.select-ok', {});
  await peer.receive('queue.declare');
  expect((await within('the timeout', asked)).code).toBe('REQUEST_TIMEOUT');
  await peers.amqp.close();
});

test('a handle gives up starting a consumer when the signal fires, with or without a connection', async () => {
  const peers = new Peers();
  const channel = new AmqpChannel(peers.amqp);
  const controller = new AbortController();
  const starting = failure(channel.basicConsume('q', () => undefined, { signal: controller.signal }));
  controller.abort();
  expect((await starting).code).toBe('ABORTED');
  expect((await failure(channel.basicConsume('q', () => undefined, NOW))).code).toBe('ABORTED');
  await peers.amqp.close();
});

test('whatever else waits ends by a signal: a confirm, answers to messages, room to write, the first connection', async () => {
  const late = (): { signal: AbortSignal; abort: () => void } => {
    const controller = new AbortController();
    return {
      signal: controller.signal,
      abort: () => {
        controller.abort(new Error('enough'));
      },
    };
  };
  const { peer, connection, channel } = await scriptedConfirmChannel({ closeTimeout: 0 });
  const confirm = late();
  const publishing = failure(channel.basicPublish('', 'q', 'x', { signal: confirm.signal }));
  await peer.receive('basic.publish');
  confirm.abort();
  expect((await publishing).message).toContain('Whether the broker has the message is unknown');
  expect((await failure(channel.basicPublish('', 'q', 'x', NOW))).message).toContain('not sent');
  const confirms = late();
  const waiting = failure(channel.waitForConfirms({ signal: confirms.signal }));
  confirms.abort();
  expect((await waiting).message).toContain('1 publishes are unconfirmed');

  const getting = channel.basicGet('q');
  await peer.receive('basic.get');
  const got = { deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'q', messageCount: 0 };
  peer.sendContent(1, 'basic.get-ok', got, {}, 'x');
  await getting;
  await expect(channel.allSettled(NOW)).rejects.toBe(NOW.signal.reason);
  await connection.close();

  const down = new AmqpConnection(undefined, { dial: () => Promise.reject(new Error('down')) });
  const opening = late();
  const opened = failure(down.open({ signal: opening.signal, timeout: '1m' }));
  opening.abort();
  expect((await opened).code).toBe('ABORTED');
  expect(down.status.state).toBe('closed');
  expect((await failure(new AmqpConnection().open(NOW))).code).toBe('ABORTED');
});
