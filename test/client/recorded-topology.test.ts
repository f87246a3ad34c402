/** What handles declared, declared again: what the broker refuses then, and loops and consumers whose queue is gone. */
import { expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection, type ConnectionStatus } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import type { AmqpError } from '../../lib/errors.js';
import { Peers, QUICK, text } from '../conformance/bench.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, unique } from '../support/client.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox, eventually, within } from '../support/waits.js';

const declared = (queue: string): { queue: string; messageCount: number; consumerCount: number } => ({
  queue,
  messageCount: 0,
  consumerCount: 0,
});

/** A handle that has declared queue `q` on its first connection, which then is lost. */
async function lostAfterDeclaring(): Promise<{ peers: Peers; channel: AmqpChannel }> {
  const peers = new Peers();
  const channel = new AmqpChannel(peers.amqp);
  const declaring = channel.queueDeclare('q', { exclusive: true });
  const first = await peers.opened();
  await first.openChannel();
  await first.answer('confirm.select-ok', {});
  await first.answer('queue.declare-ok', declared('q'));
  await declaring;
  first.hangUp();
  return { peers, channel };
}

test('a declaration that the broker refuses after a loss is told as recoveryError, forgotten, and holds nothing up', async () => {
  const { peers } = await lostAfterDeclaring();
  const errors = new Inbox<AmqpError>();
  peers.amqp.on('recoveryError', errors.push);
  const second = await peers.opened();
  const number = await second.openChannel();
  await second.receive('queue.declare');
  const replyText = "PRECONDITION_FAILED - inequivalent arg 'durable'";
  second.send(number, 'channel.close', { replyCode: 406, replyText, classId: 50, methodId: 10 });
  await second.receive('channel.close-ok');
  const error = await errors.next();
  expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 406, method: 'queue.declare' });
  expect(error.message).toContain("queue 'q'");
  expect((await within('the recovery', peers.amqp.opened())).isOpen).toBe(true);
  expect(peers.amqp.topology.size).toBe(0);
  await peers.amqp.close();
});

test('a queue that the lost connection still holds (405) is asked for until it is free', async () => {
  const { peers } = await lostAfterDeclaring();
  const second = await peers.opened();
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const number = await second.openChannel();
    await second.receive('queue.declare');
    second.send(number, 'channel.close', {
      replyCode: 405,
      replyText: 'RESOURCE_LOCKED',
      classId: 50,
      methodId: 10,
    });
    await second.receive('channel.close-ok');
  }
  const number = await second.openChannel();
  await second.answer('queue.declare-ok', declared('q'));
  await second.receive('channel.close');
  second.send(number, 'channel.close-ok', {});
  expect((await within('the recovery', peers.amqp.opened())).isOpen).toBe(true);
  expect(peers.amqp.topology.size).toBe(1);
  await peers.amqp.close();
});

/** A recovering connection to the broker under test, whose line the test can cut. */
async function onBroker(): Promise<{ amqp: AmqpConnection; line: CuttableLine; opened: () => Promise<unknown> }> {
  const line = new CuttableLine();
  const amqp = new AmqpConnection(brokerUrl, { dial: line.dial, ...QUICK });
  await amqp.open();
  const statuses = new Inbox<ConnectionStatus>();
  amqp.on('status', statuses.push);
  return { amqp, line, opened: () => statuses.next('open', ({ state }) => state === 'open') };
}

test('a queue that somebody deletes comes back with its bindings for the consumer of the handle that declared it', async () => {
  await using scratch = await Scratch.open();
  const exchange = await scratch.exchange('fanout');
  const name = scratch.queueName();
  const { amqp } = await onBroker();
  const channel = new AmqpChannel(amqp);
  const queue = await channel.queue(name);
  await queue.bind(exchange);
  const messages = new Inbox<Message>();
  await queue.basicConsume(messages.push, { noAck: true });
  await scratch.delete(name);
  await scratch.hasConsumers(name, 1);
  await channel.basicPublish(exchange, '', 'x', { mandatory: true });
  expect(text(await messages.next())).toBe('x');
  await amqp.close();
});

test('a loop over messages goes on after a loss, hands out nothing twice that it had not reached, and settles old ones harmlessly', async () => {
  await using scratch = await Scratch.open();
  const name = await scratch.queue();
  const { amqp, line, opened } = await onBroker();
  const channel = new AmqpChannel(amqp);
  for (const body of ['a', 'b', 'c']) await scratch.send(name, body);
  const loop = channel.consume(name, { prefetch: 10 });
  const next = async (): Promise<Message> => (await within('the next message', loop.next())).value as Message;
  const first = await next();
  line.cut();
  await opened();
  expect([text(first), first.ack()]).toEqual(['a', false]);
  const rest: string[] = [];
  for (let count = 0; count < 3; count += 1) {
    const message = await next();
    rest.push(text(message));
    message.ack();
  }
  expect(rest).toEqual(['a', 'b', 'c']);
  await loop.return();
  await scratch.hasConsumers(name, 0);
  await scratch.hasMessages(name, 0);
  await amqp.close();
});

test('a loop ends when its queue is gone for good, with its handle, and with its connection', async () => {
  await using scratch = await Scratch.open();
  const { amqp } = await onBroker();
  const channel = new AmqpChannel(amqp);
  const deleted = await scratch.queue();
  const loop = channel.consume(deleted);
  const ended = loop.next();
  await scratch.hasConsumers(deleted, 1);
  await scratch.delete(deleted);
  expect((await within('the end with the queue', ended)).done).toBe(true);

  const kept = await scratch.queue();
  // With its first message it has started; the broker knows of a consumer before the client has its answer.
  const started = async (handle: AmqpChannel): Promise<AsyncIterator<Message, undefined>> => {
    const loopOver = handle.consume(kept, { noAck: true });
    await scratch.send(kept, 'x');
    expect((await within('the first message', loopOver.next())).value?.text).toBe('x');
    return loopOver;
  };
  const other = new AmqpChannel(amqp);
  const withHandle = (await started(other)).next();
  await other.close();
  expect((await within('the end with the handle', withHandle)).done).toBe(true);

  const withConnection = (await started(channel)).next();
  await amqp.close();
  expect((await within('the end with the connection', withConnection)).done).toBe(true);
  expect((await failure(channel.consume(kept).next())).code).toBe('CONNECTION_CLOSED');
});

test('without recording nothing is declared again', async () => {
  const name = unique('queue');
  const line = new CuttableLine();
  const amqp = new AmqpConnection(brokerUrl, { dial: line.dial, ...QUICK, recordTopology: false });
  await amqp.open();
  const statuses = new Inbox<ConnectionStatus>();
  amqp.on('status', statuses.push);
  const channel = new AmqpChannel(amqp);
  await channel.queueDeclare(name, { exclusive: true });
  line.cut();
  await statuses.next('open', ({ state }) => state === 'open');
  // Locked (405) until the broker has noticed that the first connection is lost.
  await eventually('the end of the queue', async () =>
    (await failure(channel.queueDeclare(name, { passive: true }))).replyCode === 404 ? true : undefined,
  );
  await amqp.close();
});

test('bindings to an exchange that is gone cost a refusal each, and not all of them said again for each', async () => {
  await using scratch = await Scratch.open();
  const [queue, exchange] = [await scratch.queue(), await scratch.exchange('direct')];
  const line = new CuttableLine();
  await using amqp = new AmqpConnection(brokerUrl, { dial: line.dial, ...QUICK });
  const refusals = new Inbox<AmqpError>();
  amqp.on('recoveryError', refusals.push);
  await amqp.open();
  const channel = new AmqpChannel(amqp);
  const count = 100;
  const keys = Array.from({ length: count }, (_, index) => `key.${index}`);
  await Promise.all(keys.map((key) => channel.queueBind(queue, exchange, key)));
  await using other = await connect(brokerUrl);
  await (await other.channel()).exchangeDelete(exchange);
  const statuses = new Inbox<ConnectionStatus>();
  amqp.on('status', statuses.push);
  const before = amqp.metrics.bytesSent;
  line.cut();
  await statuses.next('the next connection', ({ state }) => state === 'open');
  expect(refusals.all).toHaveLength(count);
  // A binding is some 100 bytes, and a channel with its close no more; said again for each it would be half a million.
  expect(amqp.metrics.bytesSent - before).toBeLessThan(count * 1_000);
});
