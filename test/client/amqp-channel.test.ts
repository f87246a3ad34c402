/** The channel that survives reconnects: its consumers, its publishes, what it does not repeat. */
import { describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection, type AmqpConnectionOptions, type ConnectionStatus } from '../../lib/client/amqp-connection.js';
import type { Message } from '../../lib/client/message.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, frameOf } from '../support/client.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox, within } from '../support/waits.js';

const quick = { recovery: { initialDelay: 1, maxDelay: 5 } };

/** A handle on the real broker, whose line the test can cut. */
async function onBroker(): Promise<{ amqp: AmqpConnection; channel: AmqpChannel; line: CuttableLine }> {
  const line = new CuttableLine();
  const amqp = new AmqpConnection(brokerUrl, { dial: line.dial, ...quick });
  await amqp.open();
  return { amqp, channel: new AmqpChannel(amqp), line };
}

/** A handle on scripted peers, one for every dial. */
function onPeers(options: AmqpConnectionOptions = quick): {
  amqp: AmqpConnection;
  channel: AmqpChannel;
  nextPeer: () => Promise<ScriptedPeer>;
} {
  const dialled = new Inbox<ScriptedPeer>();
  const dial = (): ScriptedPeer['transport'] => {
    const peer = new ScriptedPeer();
    dialled.push(peer);
    return peer.transport;
  };
  const amqp = new AmqpConnection(undefined, { dial, closeTimeout: 0, ...options });
  amqp.openInBackground();
  return {
    amqp,
    channel: new AmqpChannel(amqp),
    nextPeer: async () => {
      const peer = await dialled.next('the next dial');
      await peer.handshake();
      return peer;
    },
  };
}

async function openConfirmChannel(peer: ScriptedPeer): Promise<number> {
  const number = await peer.openChannel();
  await peer.answer('confirm.select-ok', {});
  return number;
}

const text = (message: Message): string => message.body.toString();

test.each([true, { global: true }])('a prefetch of all consumers together is refused: %p', async (options) => {
  const channel = new AmqpChannel(new AmqpConnection(brokerUrl));
  const error = await failure(channel.basicQos(5, options as never));
  expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('has no global') });
});

describe('a handle on the real broker', () => {
  test('declares, binds, publishes with confirms, fetches and deletes', async () => {
    await using scratch = await Scratch.open();
    const { amqp, channel } = await onBroker();
    const queue = scratch.queueName();
    const exchange = scratch.exchangeName();
    const second = scratch.exchangeName();
    await channel.exchangeDeclare(exchange, 'topic');
    await channel.exchangeDeclare(second, 'fanout');
    await channel.exchangeBind(exchange, second, 'order.#');
    await channel.queueDeclare(queue);
    await channel.queueBind(queue, exchange, 'order.*');
    await channel.basicPublish(second, 'order.new', 'one', { mandatory: true });
    expect(await failure(channel.basicPublish(exchange, 'x', '', { mandatory: true }))).toMatchObject({
      code: 'UNROUTABLE',
    });
    const got = await channel.basicGet(queue);
    expect(got?.message.body.toString()).toBe('one');
    got?.message.ack();
    await channel.basicPublish('', queue, 'two');
    expect(await channel.queuePurge(queue)).toBe(1);
    await channel.queueUnbind(queue, exchange, 'order.*');
    await channel.exchangeUnbind(exchange, second, 'order.#');
    expect(await channel.queueDelete(queue)).toBe(0);
    await channel.exchangeDelete(exchange);
    await channel.close();
    await channel.close();
    expect((await failure(channel.queueDeclare())).code).toBe('CHANNEL_CLOSED');
    await amqp.close();
  });

  test('consumes on after the connection was lost; what the old one delivered settles as a no-op', async () => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const { amqp, channel, line } = await onBroker();
    const messages = new Inbox<Message>();
    await channel.basicQos(2);
    const consumerTag = await channel.basicConsume(queue, messages.push);
    for (const body of ['a', 'b', 'c']) await scratch.send(queue, body);
    const old = [await messages.next(), await messages.next()];
    expect(old.map(text)).toEqual(['a', 'b']);

    line.isDown = true;
    line.cut();
    // Before the broker has noticed, it would have only the third to give.
    await scratch.hasMessages(queue, 3);
    line.isDown = false;
    const again = [await messages.next(), await messages.next()];
    expect(again.map(text)).toEqual(['a', 'b']);
    expect(again.map((message) => [message.redelivered, message.consumerTag])).toEqual([
      [true, consumerTag],
      [true, consumerTag],
    ]);
    // The same tags on the new channel belong to other deliveries: an old answer must not reach them.
    expect(old.map((message) => message.ack())).toEqual([false, false]);
    expect(again.map((message) => message.ack())).toEqual([true, true]);
    const last = await messages.next();
    expect([text(last), last.ack()]).toEqual(['c', true]);
    await channel.basicCancel(consumerTag);
    await scratch.hasConsumers(queue, 0);
    await amqp.close();
  });

  test('is not hurt by an error of its channel: the next use has another one, and consumers go on', async () => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const { amqp, channel } = await onBroker();
    const messages = new Inbox<Message>();
    await channel.basicConsume(queue, messages.push, { noAck: true });
    const first = await channel.opened();
    const missing = scratch.queueName();
    expect(await failure(channel.queueDeclare(missing, { passive: true }))).toMatchObject({ replyCode: 404 });
    await channel.basicPublish('', queue, 'after the error');
    expect(text(await messages.next())).toBe('after the error');
    expect(await channel.opened()).not.toBe(first);
    await scratch.hasConsumers(queue, 1);
    await amqp.close();
  });

  test('does not start a cancelled consumer again', async () => {
    await using scratch = await Scratch.open();
    const [queue, other] = [await scratch.queue(), await scratch.queue()];
    const { amqp, channel, line } = await onBroker();
    const messages = new Inbox<Message>();
    const cancelled = await channel.basicConsume(queue, messages.push);
    await channel.basicConsume(other, messages.push, { noAck: true });
    await channel.basicCancel(cancelled);
    line.isDown = true;
    line.cut();
    // Before the broker has noticed, it would send what wants no answer to where nobody is.
    await scratch.hasConsumers(other, 0);
    line.isDown = false;
    await scratch.hasConsumers(other, 1);
    await scratch.send(other, 'other');
    expect(text(await messages.next())).toBe('other');
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 0 });
    await amqp.close();
  });

  test.each<[string, (amqp: AmqpConnection, channel: AmqpChannel) => Promise<void>]>([
    ['the handle', (_, channel) => channel.close()],
    ['its connection', (amqp) => amqp.close()],
  ])('has published everything of the same turn when %s is closed', async (_, close) => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const { amqp, channel } = await onBroker();

    const publishing = Array.from({ length: 500 }, () => channel.basicPublish('', queue, 'x'));
    await Promise.all([close(amqp, channel), ...publishing]);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 500 });
    await amqp.close();
  });

  test('does not count its first publishes on an open connection as buffered', async () => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const { amqp } = await onBroker();
    const channel = new AmqpChannel(amqp, { maxBuffered: 10 });
    await Promise.all(Array.from({ length: 1_000 }, () => channel.basicPublish('', queue, 'x')));
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 1_000 });
    await amqp.close();
  });

  test('goes on after every cut of many', async () => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const { amqp, channel, line } = await onBroker();
    const messages = new Inbox<Message>();
    await channel.basicConsume(queue, (message) => {
      message.ack();
      messages.push(message);
    });
    for (let round = 0; round < 4; round += 1) {
      await scratch.send(queue, `round ${round}`);
      await messages.next(`round ${round}`, (message) => text(message) === `round ${round}`);
      line.cut();
    }
    await amqp.close();
  });

  test('ends when its connection is closed, and leaves no timer that keeps the process alive', async () => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    const { amqp, channel } = await onBroker();
    await channel.basicConsume(queue, () => undefined);
    await amqp.close();
    const deadline = performance.now() + 3_000;
    // A wait has no event; one turn of the event loop is long enough to see it.
    while (timers() > before && performance.now() < deadline) await new Promise((resolve) => setImmediate(resolve));
    expect(timers()).toBeLessThanOrEqual(before);
    expect((await failure(channel.opened())).code).toBe('CONNECTION_CLOSED');
  });
});

describe('a handle, as the peer sees it,', () => {
  test('opens its channel at the first use, once for all who ask', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const opening = Promise.all([channel.opened(), channel.opened(), channel.queueDeclare('q')]);
    await openConfirmChannel(peer);
    await peer.answer('queue.declare-ok', { queue: 'q', messageCount: 0, consumerCount: 0 });
    const [first, second] = await opening;
    expect(first).toBe(second);
    await amqp.close();
  });

  test('starts its consumers again on a channel of their own, with the prefetch of when they were started', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const first = await nextPeer();
    const consuming = channel.basicQos(7).then(() => channel.basicConsume('q', () => undefined, { consumerTag: 'c' }));
    await openConfirmChannel(first);
    await first.answer('basic.qos-ok', {});
    await first.openChannel();
    await first.answer('basic.qos-ok', {});
    await first.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    first.hangUp();
    const second = await nextPeer();
    await second.openChannel();
    expect((await second.answer('basic.qos-ok', {})).args).toMatchObject({ prefetchCount: 7 });
    expect((await second.answer('basic.consume-ok', { consumerTag: 'c' })).args).toMatchObject({ queue: 'q' });
    await amqp.close();
  });

  test('starts a consumer again although the signal of its first start has fired since', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const first = await nextPeer();
    const giveUp = new AbortController();
    const consuming = channel.basicConsume('q', () => undefined, { consumerTag: 'c', signal: giveUp.signal });
    await first.openChannel();
    await first.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    giveUp.abort();
    first.hangUp();
    const second = await nextPeer();
    await second.openChannel();
    expect((await second.answer('basic.consume-ok', { consumerTag: 'c' })).name).toBe('basic.consume');
    await amqp.close();
  });

  test('starts a consumer again whose channel ended together with its consume-ok', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const consuming = channel.basicConsume('q', () => undefined, { consumerTag: 'c' });
    await peer.openChannel();
    await peer.receive('basic.consume');
    peer.sendRaw(
      Buffer.concat([
        frameOf(1, 'basic.consume-ok', { consumerTag: 'c' }),
        frameOf(1, 'channel.close', { replyCode: 406, replyText: 'PRECONDITION_FAILED', classId: 60, methodId: 80 }),
      ]),
    );
    await peer.receive('channel.close-ok');
    await consuming;
    await peer.openChannel();
    expect((await peer.answer('basic.consume-ok', { consumerTag: 'c' })).name).toBe('basic.consume');
    await amqp.close();
  });

  test('waits between attempts that the broker refuses, as long as its connection may', async () => {
    const { amqp, channel, nextPeer } = onPeers({ recovery: { maxDelay: 800 } });
    const peer = await nextPeer();
    const consuming = channel.basicConsume('q', () => undefined, { consumerTag: 'c' });
    await peer.openChannel();
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    const refused = { replyCode: 403, replyText: 'ACCESS_REFUSED', classId: 60, methodId: 20 };
    peer.send(1, 'channel.close', refused);
    await peer.receive('channel.close-ok');
    const begun = performance.now();
    for (let attempt = 1; attempt <= 4; attempt += 1) {
      const number = await peer.openChannel();
      await peer.receive('basic.consume');
      peer.send(number, 'channel.close', refused);
      await peer.receive('channel.close-ok');
    }
    // Random waits of up to 800 ms: that four make less than 20 ms has a chance of 1 in 60 million.
    expect(performance.now() - begun).toBeGreaterThan(20);
    await amqp.close();
  });

  test('tells a consumer whose queue is gone that it is cancelled, and goes on for all others', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const first = await nextPeer();
    const cancelled = new Inbox<string>();
    const consuming = channel.basicConsume(
      'q',
      { onMessage: () => undefined, onCancel: cancelled.push },
      { consumerTag: 'c' },
    );
    await first.openChannel();
    await first.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    first.hangUp();
    const second = await nextPeer();
    const number = await second.openChannel();
    await second.receive('basic.consume');
    second.send(number, 'channel.close', { replyCode: 404, replyText: 'NOT_FOUND', classId: 60, methodId: 20 });
    await second.receive('channel.close-ok');
    expect(await cancelled.next()).toBe('c');
    const declaring = channel.queueDeclare('q');
    await openConfirmChannel(second);
    await second.answer('queue.declare-ok', { queue: 'q', messageCount: 0, consumerCount: 0 });
    expect(await declaring).toMatchObject({ queue: 'q' });
    await amqp.close();
  });

  test('keeps the channel of a cancelled consumer until its messages are answered', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const messages = new Inbox<Message>();
    const consuming = channel.basicConsume('q', messages.push, { consumerTag: 'c' });
    const number = await peer.openChannel();
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    const deliver = { consumerTag: 'c', deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'q' };
    peer.sendContent(number, 'basic.deliver', deliver, {}, 'late');
    const message = await messages.next();
    const cancelling = channel.basicCancel('c');
    await peer.answer('basic.cancel-ok', { consumerTag: 'c' });
    await cancelling;
    expect(message.ack()).toBe(true);
    expect((await peer.receive('basic.ack')).args.deliveryTag).toBe(1);
    await peer.answer('channel.close-ok', {});
    await amqp.close();
  });

  test('gives back what a cancelled consumer has not answered when it is closed', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const messages = new Inbox<Message>();
    const consuming = channel.basicConsume('q', messages.push, { consumerTag: 'c' });
    const number = await peer.openChannel();
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    const deliver = { consumerTag: 'c', deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'q' };
    peer.sendContent(number, 'basic.deliver', deliver, {}, 'never answered');
    await messages.next();
    const cancelling = channel.basicCancel('c');
    await peer.answer('basic.cancel-ok', { consumerTag: 'c' });
    await cancelling;
    const closing = channel.close();
    expect(await peer.answer('channel.close-ok', {})).toMatchObject({ name: 'channel.close', channel: number });
    await within('close', closing);
    await amqp.close();
  });

  test('that is closed while its channels open closes them, and waits for no answer', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const waiting = [failure(channel.queueDeclare('q')), failure(channel.basicPublish('', 'q', 'x'))];
    await peer.receive('channel.open');
    waiting.push(failure(channel.basicConsume('q', () => undefined)));
    await peer.receive('channel.open');
    await within('close', channel.close());
    const codes = (await within('the end of what waited', Promise.all(waiting))).map(({ code }) => code);
    expect(codes).toEqual(['CHANNEL_CLOSED', 'CHANNEL_CLOSED', 'ABORTED']);
    for (const number of [1, 2]) {
      peer.send(number, 'channel.open-ok', {});
      expect((await peer.answer('channel.close-ok', {})).name).toBe('channel.close');
    }
    await amqp.close();
  });

  test('rejects a request that is given up while the connection is down with ABORTED', async () => {
    const { amqp, channel } = onPeers();
    const giveUp = new AbortController();
    const waits = [{ signal: giveUp.signal }, { signal: giveUp.signal, timeout: '1m' as const }];
    const waiting = waits.map((options) => failure(channel.queueDeclare('q', options)));
    giveUp.abort();
    const errors = await Promise.all(waiting);
    for (const error of errors) {
      expect(error).toMatchObject({ code: 'ABORTED', method: 'queue.declare', cause: giveUp.signal.reason as unknown });
    }
    await amqp.close();
  });

  test('that is closed while the connection is down rejects what waited', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const statuses = new Inbox<ConnectionStatus>();
    amqp.on('status', statuses.push);
    const peer = await nextPeer();
    await statuses.next('open', ({ state }) => state === 'open');
    peer.hangUp();
    await statuses.next('the loss', ({ state }) => state === 'connecting');
    const waiting = failure(channel.queueDeclare('q'));
    await within('close', channel.close());
    expect((await waiting).code).toBe('CHANNEL_CLOSED');
    await amqp.close();
  });
});
