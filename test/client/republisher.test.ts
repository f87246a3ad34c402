/** Publishes of a handle across lost connections: sent again in order, bounded, or rejected with what is known. */
import { describe, expect, test } from '@jest/globals';
import { once } from 'node:events';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import type { RepublishOptions } from '../../lib/client/republish-options.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, thrown } from '../support/client.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox, within } from '../support/waits.js';

/** A handle whose connections are scripted one by one. */
function onPeers(options?: RepublishOptions) {
  const peers = new Inbox<ScriptedPeer>();
  const amqp = new AmqpConnection('amqp://broker', {
    recovery: { initialDelay: 1 },
    closeTimeout: 0,
    dial: () => {
      const peer = new ScriptedPeer();
      peers.push(peer);
      return peer.transport;
    },
  });
  amqp.openInBackground();
  const nextPeer = async (): Promise<ScriptedPeer> => {
    const peer = await peers.next();
    await peer.handshake();
    return peer;
  };
  return { amqp, channel: new AmqpChannel(amqp, options), nextPeer };
}

async function openConfirmChannel(peer: ScriptedPeer): Promise<number> {
  const number = await peer.openChannel();
  await peer.answer('confirm.select-ok', {});
  return number;
}

/** The bodies of the next publishes. */
async function bodies(peer: ScriptedPeer, count: number): Promise<string[]> {
  const received: string[] = [];
  while (received.length < count) received.push((await peer.receive('basic.publish')).body.toString());
  return received;
}

const UNBLAMED = {
  replyCode: 404,
  replyText: "NOT_FOUND - no exchange 'gone' in vhost '/'",
  classId: 60,
  methodId: 40,
};

describe('what a lost connection leaves unconfirmed', () => {
  test('is sent again on the next one, in order and before what is new', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const first = await nextPeer();
    const published = ['a', 'b', 'c'].map((body) => channel.basicPublish('', 'q', body));
    const number = await openConfirmChannel(first);
    expect(await bodies(first, 3)).toEqual(['a', 'b', 'c']);
    first.send(number, 'basic.ack', { deliveryTag: 2, multiple: false });
    await published[1];
    first.hangUp();
    const second = await nextPeer();
    published.push(channel.basicPublish('', 'q', 'd'));
    const again = await openConfirmChannel(second);
    expect(await bodies(second, 3)).toEqual(['a', 'c', 'd']);
    second.send(again, 'basic.ack', { deliveryTag: 3, multiple: true });
    await within('the confirms', Promise.all(published));
    await amqp.close();
  });

  test('is rejected instead where republish is off', async () => {
    const { amqp, channel, nextPeer } = onPeers({ republish: false });
    const first = await nextPeer();
    const publishing = failure(channel.basicPublish('', 'q', 'once'));
    await openConfirmChannel(first);
    await bodies(first, 1);
    first.hangUp();
    expect(await publishing).toMatchObject({ code: 'PUBLISH_OUTCOME_UNKNOWN', closedBy: 'network' });
    await amqp.close();
  });

  test('is rejected when it is too old by then', async () => {
    const { amqp, channel, nextPeer } = onPeers({ maxAge: 0 });
    const first = await nextPeer();
    const publishing = failure(channel.basicPublish('', 'q', 'old'));
    await openConfirmChannel(first);
    await bodies(first, 1);
    first.hangUp();
    await openConfirmChannel(await nextPeer());
    expect(await publishing).toMatchObject({ code: 'PUBLISH_OUTCOME_UNKNOWN' });
    await amqp.close();
  });

  test('is rejected when the connection is closed for good', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const publishing = failure(channel.basicPublish('', 'q', 'x'));
    await openConfirmChannel(peer);
    await bodies(peer, 1);
    const closing = amqp.close();
    await peer.answer('connection.close-ok', {});
    await closing;
    expect(await publishing).toMatchObject({ code: 'PUBLISH_OUTCOME_UNKNOWN', closedBy: 'client' });
  });
});

describe('a channel that the broker closes over one exchange', () => {
  test('costs only the publish to that exchange; the others are sent again', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const [good, bad, other] = [
      channel.basicPublish('', 'q', 'good'),
      failure(channel.basicPublish('gone', 'k', 'bad')),
      channel.basicPublish('', 'q', 'other'),
    ];
    const number = await openConfirmChannel(peer);
    expect(await bodies(peer, 3)).toEqual(['good', 'bad', 'other']);
    peer.send(number, 'channel.close', UNBLAMED);
    await peer.receive('channel.close-ok');
    expect(await bad).toMatchObject({ code: 'PUBLISH_REFUSED' });
    const again = await openConfirmChannel(peer);
    expect(await bodies(peer, 2)).toEqual(['good', 'other']);
    peer.send(again, 'basic.ack', { deliveryTag: 2, multiple: true });
    await within('the confirms', Promise.all([good, other]));
    await amqp.close();
  });

  test('while the connection is being closed rejects them all: nothing is sent again any more', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const fates = [failure(channel.basicPublish('gone', 'k', 'bad')), failure(channel.basicPublish('', 'q', 'good'))];
    const number = await openConfirmChannel(peer);
    await bodies(peer, 2);
    const closing = amqp.close();
    await peer.receive('connection.close');
    peer.send(number, 'channel.close', UNBLAMED);
    peer.send(0, 'connection.close-ok', {});
    await closing;
    const codes = (await within('the fates', Promise.all(fates))).map(({ code }) => code);
    expect(codes).toEqual(['PUBLISH_REFUSED', 'PUBLISH_OUTCOME_UNKNOWN']);
  });

  test('for a reason that names no exchange sends each again alone, and the one that did it no more', async () => {
    const { amqp, channel, nextPeer } = onPeers();
    const peer = await nextPeer();
    const bad = failure(channel.basicPublish('', 'q', 'bad'));
    const good = channel.basicPublish('', 'q', 'good');
    const close = { replyCode: 406, replyText: 'PRECONDITION_FAILED - invalid expiration', classId: 60, methodId: 40 };
    const first = await openConfirmChannel(peer);
    expect(await bodies(peer, 2)).toEqual(['bad', 'good']);
    peer.send(first, 'channel.close', close);
    await peer.receive('channel.close-ok');
    const second = await openConfirmChannel(peer);
    expect(await bodies(peer, 1)).toEqual(['bad']);
    peer.send(second, 'channel.close', close);
    await peer.receive('channel.close-ok');
    expect(await within('the fate of the bad one', bad)).toMatchObject({ code: 'PUBLISH_REFUSED', replyCode: 406 });
    const third = await openConfirmChannel(peer);
    expect(await bodies(peer, 1)).toEqual(['good']);
    peer.send(third, 'basic.ack', { deliveryTag: 1, multiple: false });
    await within('the confirm of the good one', good);
    await amqp.close();
  });
});

describe('while there is no connection', () => {
  test('as many wait as may, and one more is rejected at once', async () => {
    const { amqp, channel, nextPeer } = onPeers({ maxBuffered: 2 });
    const waiting = [channel.basicPublish('', 'q', 'a'), channel.basicPublish('', 'q', 'b')];
    const error = await failure(channel.basicPublish('', 'q', 'c'));
    expect(error).toMatchObject({ name: 'PublisherBufferFullError', code: 'PUBLISHER_BUFFER_FULL' });
    const peer = await nextPeer();
    const number = await openConfirmChannel(peer);
    expect(await bodies(peer, 2)).toEqual(['a', 'b']);
    peer.send(number, 'basic.ack', { deliveryTag: 2, multiple: true });
    await within('the confirms', Promise.all(waiting));
    await amqp.close();
  });

  test('any number waits where that is asked for, and leaves in order', async () => {
    const { amqp, channel, nextPeer } = onPeers({ maxBuffered: 1, maxBufferedBytes: 1, onOverflow: 'wait' });
    const published = ['a', 'b', 'c'].map((body) => channel.basicPublish('', 'q', body));
    const peer = await nextPeer();
    const number = await openConfirmChannel(peer);
    expect(await bodies(peer, 3)).toEqual(['a', 'b', 'c']);
    peer.send(number, 'basic.ack', { deliveryTag: 3, multiple: true });
    await within('the confirms', Promise.all(published));
    await amqp.close();
    expect(thrown(() => new AmqpChannel(amqp, { onOverflow: 'drop' as never }))).toMatchObject({
      code: 'INVALID_OPTION',
    });
  });

  test('as many bytes wait as may', async () => {
    const { amqp, channel } = onPeers({ maxBufferedBytes: 5 });
    const waiting = failure(channel.basicPublish('', 'q', 'four'));
    expect((await failure(channel.basicPublish('', 'q', 'two'))).code).toBe('PUBLISHER_BUFFER_FULL');
    await amqp.close();
    expect((await within('the end of the wait', waiting)).code).toBe('CONNECTION_CLOSED');
  });

  test('bounds that are none are refused', () => {
    const amqp = new AmqpConnection();
    expect(thrown(() => new AmqpChannel(amqp, { maxBuffered: -1 })).code).toBe('INVALID_OPTION');
    expect(thrown(() => new AmqpChannel(amqp, { maxAge: Number.NaN })).code).toBe('INVALID_OPTION');
  });
});

test('a missing exchange costs one call: its neighbours arrive, in order', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  await using amqp = new AmqpConnection(brokerUrl);
  await amqp.open();
  const channel = new AmqpChannel(amqp);
  await channel.opened();
  const publish = (index: number): Promise<void> => channel.basicPublish('', queue, String(index));
  const before = Array.from({ length: 20 }, (_, index) => publish(index));
  const bad = failure(channel.basicPublish('test.no-such-exchange', 'key', 'lost'));
  const after = Array.from({ length: 20 }, (_, index) => publish(20 + index));
  const error = await bad;
  expect(error).toMatchObject({ code: 'PUBLISH_REFUSED', replyCode: 404 });
  expect(error.message).toContain("'test.no-such-exchange'");
  await within('the neighbours', Promise.all([...before, ...after]));
  const arrived = (await scratch.drain(queue)).map(Number);
  // What was taken and not yet confirmed when the channel ended is there twice.
  const firsts = arrived.filter((number, index) => arrived.indexOf(number) === index);
  expect(firsts).toEqual(Array.from({ length: 40 }, (_, index) => index));
});

test('no confirmed message is lost and none is out of order over many lost connections', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  const line = new CuttableLine();
  const amqp = new AmqpConnection(brokerUrl, { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } });
  await amqp.open();
  const channel = new AmqpChannel(amqp);
  const total = 2_000;
  const confirms: Promise<void>[] = [];
  for (let number = 0; number < total; number += 1) {
    confirms.push(channel.basicPublish('', queue, String(number), { mandatory: true }));
    if (number % 100 === 50) {
      // Somewhere in the middle of the confirms of the last hundred.
      await confirms[number - 25];
      line.cut();
    }
  }
  await within('the confirms', Promise.all(confirms), 30_000);

  // Sent again means that some come twice; the first of each must be in order, with none left out.
  await using connection = await connect(brokerUrl);
  const reader = await connection.channel();
  const seen = new Set<number>();
  for await (const message of reader.consume(queue, { noAck: true })) {
    const number = Number(message.body.toString());
    if (!seen.has(number)) expect(number).toBe(seen.size);
    seen.add(number);
    if (seen.size === total) break;
  }
  await amqp.close();
});

describe('what is published beyond a bound', () => {
  /** A handle with an open channel. */
  async function opened(options: RepublishOptions) {
    const { amqp, channel, nextPeer } = onPeers(options);
    const peer = await nextPeer();
    const opening = channel.opened();
    const number = await openConfirmChannel(peer);
    await opening;
    return { amqp, channel, nextPeer, peer, number };
  }

  /** Nothing more was published than what the test has received: the next thing that the client says is this request. */
  async function saysNothingMore(peer: ScriptedPeer, channel: AmqpChannel): Promise<void> {
    const asked = channel.queuePurge('marker');
    expect((await peer.answer('queue.purge-ok', { messageCount: 0 })).name).toBe('queue.purge');
    await asked;
  }

  test.each<[what: string, RepublishOptions, sizes: number[], inFlight: number]>([
    ['in number', { maxInFlight: 2 }, [1, 1, 1, 1], 2],
    ['in bytes', { maxInFlightBytes: 100 }, [60, 40, 1, 60], 2],
    ['as one message alone', { maxInFlightBytes: 100 }, [1000, 1, 1, 1], 1],
  ])('of what is in flight (%s) waits for confirms, in order', async (_what, options, sizes, inFlight) => {
    const { amqp, channel, peer, number } = await opened(options);
    const sent = sizes.map((size, index) => String(index).repeat(size));
    const published = sent.map((body) => channel.basicPublish('', 'q', body));
    expect(await bodies(peer, inFlight)).toEqual(sent.slice(0, inFlight));
    await saysNothingMore(peer, channel);
    const rest = bodies(peer, sizes.length - inFlight);
    for (let deliveryTag = 1; deliveryTag <= sizes.length; deliveryTag += 1) {
      peer.send(number, 'basic.ack', { deliveryTag, multiple: false });
      await published[deliveryTag - 1];
    }
    expect(await rest).toEqual(sent.slice(inFlight));
    await amqp.close();
  });

  test.each<[what: string, RepublishOptions, size: number]>([
    ['in number', { maxInFlight: 2, maxBuffered: 2 }, 1],
    ['in bytes', { maxInFlightBytes: 20, maxBufferedBytes: 20 }, 10],
    ['with none but those in flight', { maxInFlight: 4, maxBuffered: 0 }, 1],
  ])('of what may wait on an open connection (%s) is refused, until there is room', async (_what, options, size) => {
    const { amqp, channel, peer, number } = await opened(options);
    const publish = (body: number): Promise<void> => channel.basicPublish('', 'q', String(body).repeat(size));
    const published = [0, 1, 2, 3].map(publish);
    const error = await failure(publish(4));
    expect(error.code).toBe('PUBLISHER_BUFFER_FULL');
    expect(error.message).toContain('4 messages');
    expect(error.message).toContain('publishAll');
    peer.send(number, 'basic.ack', { deliveryTag: 1, multiple: false });
    await published[0];
    published.push(publish(5));
    const sent = bodies(peer, 5);
    for (const [index, deliveryTag] of [2, 3, 4, 5].entries()) {
      peer.send(number, 'basic.ack', { deliveryTag, multiple: false });
      await published[index + 1];
    }
    expect(await sent).toEqual([0, 1, 2, 3, 5].map((body) => String(body).repeat(size)));
    await amqp.close();
  });

  test("of what may wait on an open connection waits as well with onOverflow 'wait', in any number", async () => {
    const { amqp, channel, peer, number } = await opened({ maxInFlight: 1, maxBuffered: 0, onOverflow: 'wait' });
    const published = Array.from({ length: 100 }, (_, body) => channel.basicPublish('', 'q', String(body)));
    for (let deliveryTag = 1; deliveryTag <= 100; deliveryTag += 1) {
      expect(await bodies(peer, 1)).toEqual([String(deliveryTag - 1)]);
      peer.send(number, 'basic.ack', { deliveryTag, multiple: false });
    }
    await within('the confirms', Promise.all(published));
    await amqp.close();
  });

  test('of a blocked broker waits within the buffer, beyond it is refused, and leaves when the broker takes it', async () => {
    const { amqp, channel, nextPeer, peer } = await opened({ maxBuffered: 2 });
    const blocked = once(await amqp.opened(), 'blocked');
    peer.send(0, 'connection.blocked', { reason: 'low on memory' });
    await blocked;
    const published = ['a', 'b'].map((body) => channel.basicPublish('', 'q', body));
    expect((await failure(channel.basicPublish('', 'q', 'c'))).code).toBe('PUBLISHER_BUFFER_FULL');
    await saysNothingMore(peer, channel);
    peer.send(0, 'connection.unblocked', {});
    expect(await bodies(peer, 2)).toEqual(['a', 'b']);
    // And so it does when the blocked connection is lost.
    peer.send(0, 'connection.blocked', { reason: 'low on memory' });
    peer.hangUp();
    const second = await nextPeer();
    const number = await openConfirmChannel(second);
    expect(await bodies(second, 2)).toEqual(['a', 'b']);
    second.send(number, 'basic.ack', { deliveryTag: 2, multiple: true });
    await within('the confirms', Promise.all(published));
    await amqp.close();
  });

  test('of time is given up, each at its own, also before it was sent', async () => {
    const { amqp, channel, peer } = await opened({ maxInFlight: 1 });
    const publish = (body: string, timeout: number): Promise<void> => channel.publish('', 'q', body, {}, { timeout });
    const [late, waiting] = [failure(publish('a', 40)), failure(publish('b', 5))];
    expect((await waiting).message).toContain('timeout of 5 ms. The message was not sent');
    expect((await late).message).toContain('Whether the broker has the message is unknown');
    expect(await bodies(peer, 1)).toEqual(['a']);
    await amqp.close();
  });
});
