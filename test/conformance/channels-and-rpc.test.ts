/** Conformance, channels and requests: the numbers 46 to 54. */
import { expect, test } from '@jest/globals';
import { once } from 'node:events';

import type { Message } from '../../lib/client/message.js';
import { failure, frameOf, scripted, scriptedChannel } from '../support/client.js';
import { Inbox, within } from '../support/waits.js';
import { Bench, consuming, deliver, text, verdictOn } from './bench.js';

const declared = (queue: string): { queue: string; messageCount: number; consumerCount: number } => ({
  queue,
  messageCount: 0,
  consumerCount: 0,
});

test('46. a channel opens, closes, closes again, and crosses the close of the server', async () => {
  await using bench = await Bench.open();
  const channel = await bench.connection.channel();
  await Promise.all([channel.close(), channel.close()]);
  await channel.close();
  expect((await failure(channel.queueDeclare())).code).toBe('CHANNEL_CLOSED');

  const { peer, connection, channel: crossing } = await scriptedChannel({ closeTimeout: 0 });
  const closing = crossing.close();
  await peer.receive('channel.close');
  peer.send(1, 'channel.close', { replyCode: 406, replyText: 'PRECONDITION_FAILED', classId: 60, methodId: 80 });
  await peer.receive('channel.close-ok');
  peer.send(1, 'channel.close-ok', {});
  await within('close', closing);
  expect([crossing.endError, connection.isOpen]).toEqual([undefined, true]);
  await connection.close();
});

test('47. channel numbers count from 1 to channel_max, and are used again only after close-ok', async () => {
  const { peer, connection } = await scripted({ closeTimeout: 0 }, { channelMax: 4 });
  const open = async (): Promise<number> => (await Promise.all([connection.channel(), peer.openChannel()]))[0].number;
  const [first] = await Promise.all([connection.channel(), peer.openChannel()]);
  expect([first.number, await open(), await open()]).toEqual([1, 2, 3]);
  const closing = first.close();
  await peer.receive('channel.close');
  expect(await open()).toBe(4);
  peer.send(1, 'channel.close-ok', {});
  await closing;
  expect(await open()).toBe(1);
  await connection.close();
});

test('48. one channel too many is a local error, and the connection stays usable', async () => {
  await using bench = await Bench.open({ channelMax: 2 });
  const second = await bench.connection.channel();
  expect((await failure(bench.connection.channel())).code).toBe('CHANNEL_LIMIT');
  await second.close();
  const third = await bench.connection.channel();
  expect((await third.queueDeclare()).messageCount).toBe(0);
});

test('49. answers belong to requests in order; a wrong one ends the connection with 505, and later requests reject', async () => {
  const { peer, connection, channel } = await scriptedChannel();
  const [first, second] = [channel.queueDeclare('a'), channel.queueDeclare('b')];
  await peer.receive('queue.declare');
  await peer.answer('queue.declare-ok', declared('a'));
  peer.send(1, 'queue.declare-ok', declared('b'));
  expect([(await first).queue, (await second).queue]).toEqual(['a', 'b']);

  const ended = once(connection, 'close');
  const asked = failure(channel.queuePurge('q'));
  await peer.answer('queue.bind-ok', {});
  expect(await asked).toMatchObject({ code: 'PROTOCOL_ERROR', replyCode: 505 });
  expect((await peer.receive('connection.close')).args.replyCode).toBe(505);
  await within('the end', ended);
  expect(await failure(channel.queuePurge('q'))).toMatchObject({ code: 'PROTOCOL_ERROR', replyCode: 505 });
});

test('50. requests of different kinds run at the same time on one channel', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queues = await Promise.all(Array.from({ length: 10 }, () => channel.queueDeclare()));
  const messages = new Inbox<Message>();
  await Promise.all(
    queues.flatMap(({ queue }, index): Promise<unknown>[] => [
      channel.basicConsume(queue, messages.push, { noAck: true, consumerTag: `c${index}` }),
      channel.queueBind(queue, 'amq.direct', queue),
      channel.basicGet(queue),
      channel.basicQos(index),
      channel.queueDeclare(queue, { passive: true }),
    ]),
  );
  for (const { queue } of queues) void channel.basicPublish('amq.direct', queue, queue);
  const tags = new Map<string, string | undefined>();
  while (tags.size < queues.length) {
    const message = await messages.next();
    tags.set(text(message), message.consumerTag);
  }
  expect(queues.map(({ queue }) => tags.get(queue))).toEqual(queues.map((_, index) => `c${index}`));
});

test('51. a request without an answer ends by its timeout or signal, and its late answer is not given to the next one', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const late = failure(channel.queueDeclare('late', { timeout: 1 }));
  await peer.receive('queue.declare');
  expect(await late).toMatchObject({ code: 'REQUEST_TIMEOUT', method: 'queue.declare' });
  const [given, giveUp] = [new Error('enough'), new AbortController()];
  const aborted = failure(channel.queuePurge('q', { signal: giveUp.signal }));
  await peer.receive('queue.purge');
  giveUp.abort(given);
  expect(await aborted).toMatchObject({ code: 'ABORTED', cause: given });
  const asked = channel.queueDeclare('next');
  await peer.receive('queue.declare');
  peer.send(1, 'queue.declare-ok', declared('late'));
  peer.send(1, 'queue.purge-ok', { messageCount: 7 });
  peer.send(1, 'queue.declare-ok', declared('next'));
  expect((await within('the answer', asked)).queue).toBe('next');
  // Nothing leaves for a signal that has fired.
  expect((await failure(channel.queuePurge('q', { signal: giveUp.signal }))).message).toContain('not sent');
  await connection.close();
});

test('52. a frame on a channel that was never opened is an error, on one that has ended it is ignored', async () => {
  expect(await verdictOn(frameOf(9, 'channel.flow', { active: true }))).toBe(504);
  const { peer, connection, channel } = await consuming(() => undefined);
  const closing = channel.close();
  await peer.answer('channel.close-ok', {});
  await closing;
  peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'late');
  peer.send(1, 'queue.purge-ok', { messageCount: 1 });
  const readUpTo = once(connection, 'blocked');
  peer.send(0, 'connection.blocked', { reason: 'x' });
  await within('what came before', readUpTo);
  const [next] = await Promise.all([connection.channel(), peer.openChannel()]);
  expect([next.number, connection.isOpen]).toEqual([1, true]);
  await connection.close();
});

test('53. channel.flow of the server is answered with what it asked, and the client may ask for true', async () => {
  await using bench = await Bench.open();
  await bench.channel.flow(true);
  expect((await failure(bench.channel.flow(false))).code).toBe('INVALID_ARGUMENT');
  const { peer, connection } = await scriptedChannel({ closeTimeout: 0 });
  for (const active of [true, false]) {
    peer.send(1, 'channel.flow', { active });
    expect((await peer.receive('channel.flow-ok')).args).toEqual({ active });
  }
  await connection.close();
});

test('54. what callbacks throw reaches neither their channel nor any other', async () => {
  await using bench = await Bench.open();
  const { channel, connection } = bench;
  const errors = new Inbox<unknown>();
  connection.on('callbackError', errors.push);
  const boom = new Error('boom');
  const queue = await bench.queueWith('a');
  const explode = (): never => {
    throw boom;
  };
  await channel.basicConsume(queue, explode, { noAck: true });
  expect(await errors.next('the error of a consumer')).toBe(boom);
  channel.on('return', explode);
  void channel.basicPublish('', bench.scratch.queueName(), '', { mandatory: true });
  expect(await errors.next('the error of a listener')).toBe(boom);
  const other = await connection.channel();
  other.on('close', explode);
  await failure(other.queueDeclare(bench.scratch.queueName(), { passive: true }));
  expect(await errors.next('the error of a close listener')).toBe(boom);
  expect((await channel.queueDeclare()).messageCount).toBe(0);
});
