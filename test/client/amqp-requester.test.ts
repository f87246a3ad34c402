/** Requests and replies by direct reply-to: on the real broker, and by script what no broker can be made to send. */
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { getEventListeners, once } from 'node:events';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { AmqpRequester, type RequestMessageOptions } from '../../lib/client/amqp-requester.js';
import type { Channel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { writeContentHead } from '../../lib/protocol/frame.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { type ReceivedCommand, type ScriptedHandshake, ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, frameOf, thrown } from '../support/client.js';
import { bytes } from '../support/golden-frames.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox, eventually, within } from '../support/waits.js';

const quick = { recovery: { initialDelay: 1, maxDelay: 5 } };
const text = (message: Message): string => message.body.toString();

describe('on the real broker', () => {
  let scratch: Scratch;
  let line: CuttableLine;
  let amqp: AmqpConnection;
  let requester: AmqpRequester;
  let serverConnection: Connection;
  let server: Channel;

  beforeEach(async () => {
    scratch = await Scratch.open();
    line = new CuttableLine();
    amqp = new AmqpConnection(brokerUrl, { dial: line.dial, ...quick });
    requester = new AmqpRequester(amqp);
    serverConnection = await connect(brokerUrl);
    [server] = await Promise.all([serverConnection.channel(), amqp.open()]);
  });

  afterEach(async () => {
    await requester.close();
    await amqp.close();
    await serverConnection.close();
    await scratch[Symbol.asyncDispose]();
  });

  /** A queue whose requests are answered at once. */
  async function echoing(): Promise<string> {
    const queue = await scratch.queue();
    await server.basicConsume(queue, (request) => server.reply(request, `re: ${text(request)}`), { noAck: true });
    return queue;
  }

  /** A queue whose requests the test answers. */
  async function inbox(): Promise<{ readonly queue: string; readonly requests: Inbox<Message> }> {
    const queue = await scratch.queue();
    const requests = new Inbox<Message>();
    await server.basicConsume(queue, requests.push, { noAck: true });
    return { queue, requests };
  }

  test('a request is replied to, through the default exchange and through others, with its properties', async () => {
    const { queue, requests } = await inbox();
    const exchange = await scratch.exchange('direct');
    await scratch.bind(queue, exchange, 'price');
    const first = requester.request('', queue, 'apples', { contentType: 'text/plain', headers: { a: 1 } });
    const second = requester.request(exchange, 'price', Buffer.from('pears'), { correlationId: 'mine' });
    const seen = [await requests.next(), await requests.next()];
    for (const request of seen) {
      await server.reply(request, `${text(request)}: 3`, { contentType: 'text/x-price', headers: { currency: 'EUR' } });
    }
    expect(text(await first)).toBe('apples: 3');
    expect(text(await second)).toBe('pears: 3');
    const apples = seen.find((request) => text(request) === 'apples')?.properties;
    expect(apples).toMatchObject({
      contentType: 'text/plain',
      headers: { a: 1 },
      replyTo: expect.stringMatching(/^amq\.rabbitmq\.reply-to\../),
    });
    expect((await first).properties).toEqual({
      contentType: 'text/x-price',
      headers: { currency: 'EUR' },
      correlationId: apples?.correlationId,
    });
    expect((await second).properties.correlationId).toBe('mine');
    expect(requester.pendingCount).toBe(0);
  });

  test('a request is sent that comes just as the connection opens for one that nobody awaits any more', async () => {
    const { queue, requests } = await inbox();
    // As many turns of the microtask queue later as there may be between the connection's word and the look for requests.
    for (const turns of [0, 1, 2, 3, 4]) {
      await using late = new AmqpConnection(brokerUrl);
      await using other = new AmqpRequester(late);
      expect(await failure(other.request('', queue, 'given up', { timeout: 1 }))).toMatchObject({
        code: 'REPLY_TIMEOUT',
      });
      const reply = (async () => {
        await late.opened();
        for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
        return await other.request('', queue, `after ${turns}`);
      })();
      await late.open();
      const request = await requests.next(`the request after ${turns} turns`);
      await server.reply(request, 'here');
      expect(text(await reply)).toBe('here');
    }
  });

  test('3,000 requests at a time get their own replies, whatever the order in which these come', async () => {
    const { queue, requests } = await inbox();
    const count = 3_000;
    const replies = Promise.all(
      Array.from({ length: count }, (_, index) => requester.request('', queue, String(index))),
    );
    for (let index = 0; index < count; index += 1) await requests.next();
    expect(requester.pendingCount).toBe(count);
    for (const request of requests.all.toReversed()) void server.reply(request, text(request));
    expect((await within('the replies', replies)).map(text)).toEqual(
      Array.from({ length: count }, (_, index) => String(index)),
    );
    expect([requester.pendingCount, requester.unexpectedReplies]).toEqual([0, 0]);
  });

  test('a request that no queue takes is rejected at once, and no other one is', async () => {
    const { queue, requests } = await inbox();
    const answered = requester.request('', queue, 'a');
    const missing = scratch.queueName();
    expect(await failure(requester.request('', missing, 'b'))).toMatchObject({
      code: 'UNROUTABLE',
      routingKey: missing,
    });
    await server.reply(await requests.next(), 'still here');
    expect(text(await answered)).toBe('still here');
  });

  test('a request to a full queue that refuses is rejected at once', async () => {
    const queue = await scratch.queue({ arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
    await scratch.send(queue, 'in the way');
    expect((await failure(requester.request('', queue, 'x'))).code).toBe('PUBLISH_NACKED');
  });

  test('a reply that is late is no reply to the next request', async () => {
    // So that there is a channel, and the request has only its own way to go within its time.
    await requester.request('', await echoing(), 'first');
    const { queue, requests } = await inbox();
    const slow = failure(requester.request('', queue, 'slow', { timeout: 1_000 }));
    const first = await requests.next();
    const late = await slow;
    expect(late.code).toBe('REPLY_TIMEOUT');
    expect(late.message).toBe(
      `The request to queue '${queue}' ended without a reply: none came within 1000 ms. Whether it was carried out is unknown.`,
    );
    const next = requester.request('', queue, 'next');
    const second = await requests.next();
    await server.reply(first, 'too late');
    await server.reply(second, 'in time');
    expect(text(await next)).toBe('in time');
    expect(requester.unexpectedReplies).toBe(1);
  });

  test('a request expires when it is no longer awaited, after at least 1 ms', async () => {
    const answered = await echoing();
    await requester.request('', answered, 'so that there is a channel');
    const queue = await scratch.queue();
    const given = new AbortController();
    const stored = failure(requester.request('', queue, 'x', { timeout: '1m', signal: given.signal }));
    const expiration = (await scratch.take(queue)).properties.expiration ?? '';
    expect(expiration).toMatch(/^(5\d{4}|60000)$/);
    given.abort();
    expect((await stored).code).toBe('ABORTED');
    for (const timeout of [0, 0.4, 30]) {
      const error = await failure(requester.request('', queue, 'y', { timeout }));
      expect(error).toMatchObject({ code: 'REPLY_TIMEOUT', message: expect.stringContaining('none came within') });
    }
    // Sent behind them, on the same channel: they have come to the queue.
    await requester.request('', answered, 'the last');
    await scratch.hasMessages(queue, 0);
  });

  test('a missing exchange rejects its calls alone, and the next call to it is made afresh', async () => {
    const { queue, requests } = await inbox();
    const answered = requester.request('', queue, 'a');
    const exchange = scratch.exchangeName();
    const refused = ['b', 'c'].map((body) => failure(requester.request(exchange, 'key', body)));
    for (const error of await Promise.all(refused)) {
      expect(error).toMatchObject({ code: 'PUBLISH_REFUSED', replyCode: 404 });
    }
    await server.reply(await requests.next(), 'not hurt');
    expect(text(await answered)).toBe('not hurt');

    await server.exchangeDeclare(exchange, 'fanout');
    await server.queueBind(queue, exchange);
    const again = requester.request(exchange, 'key', 'd');
    await server.reply(await requests.next(), 'now it is there');
    expect(text(await again)).toBe('now it is there');
  });

  test('a lost connection rejects what is pending at once; the next request goes over the next connection', async () => {
    const { queue, requests } = await inbox();
    const pending = Array.from({ length: 3 }, (_, index) => failure(requester.request('', queue, String(index))));
    for (let index = 0; index < 3; index += 1) await requests.next();
    line.isDown = true;
    line.cut();
    for (const lost of await Promise.all(pending)) {
      expect(lost).toMatchObject({ code: 'REPLY_LOST', closedBy: 'network' });
      expect(lost.message).toMatch(/was lost: .* Whether the request was carried out is unknown\.$/);
    }
    const unsent = await failure(requester.request('', queue, 'no', { timeout: 20 }));
    expect(unsent.message).toContain('no connection took it within 20 ms. It was not sent.');
    const waiting = requester.request('', queue, 'later');
    const given = new AbortController();
    const givenUp = failure(requester.request('', queue, 'never', { signal: given.signal }));
    given.abort();
    expect((await givenUp).message).toMatch(/It was not sent\.$/);
    line.isDown = false;
    const request = await requests.next();
    expect(text(request)).toBe('later');
    await server.reply(request, 'here');
    expect(text(await waiting)).toBe('here');
  });

  test('a signal ends the wait, with its reason as the cause', async () => {
    const { queue, requests } = await inbox();
    const reason = new Error('no longer needed');
    const ending = new AbortController();
    const pending = failure(requester.request('', queue, 'x', { signal: ending.signal }));
    const request = await requests.next();
    ending.abort(reason);
    expect(await pending).toMatchObject({ code: 'ABORTED', cause: reason });
    const aborted = await failure(requester.request('', queue, 'y', { signal: ending.signal }));
    expect(aborted).toMatchObject({ code: 'ABORTED', cause: reason });
    expect(aborted.message).toMatch(/It was not sent\.$/);
    await server.reply(request, 'to nobody');
    await eventually('the reply', () => Promise.resolve(requester.unexpectedReplies === 1 ? true : undefined));
  });

  test('requests that share a signal put one listener on it, and all end with it', async () => {
    const { queue, requests } = await inbox();
    const controller = new AbortController();
    const { signal } = controller;
    const pending = Array.from({ length: 20 }, () => failure(requester.request('', queue, 'x', { signal })));
    for (let count = 0; count < 20; count += 1) await requests.next();
    expect(getEventListeners(signal, 'abort')).toHaveLength(1);
    controller.abort();
    expect(new Set((await Promise.all(pending)).map(({ code }) => code))).toEqual(new Set(['ABORTED']));
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });

  test('what is no signal is refused, and nothing is sent', async () => {
    const { queue, requests } = await inbox();
    for (const signal of [{}, null, 5]) {
      const refused = await failure(requester.request('', queue, 'x', { signal: signal as AbortSignal }));
      expect(refused).toMatchObject({
        code: 'INVALID_OPTION',
        message: expect.stringMatching(/^signal of a request is /),
      });
    }
    expect(requester.pendingCount).toBe(0);
    const reply = requester.request('', queue, 'the first');
    const request = await requests.next();
    expect(text(request)).toBe('the first');
    await server.reply(request, 'here');
    await reply;
  });

  test('more requests than may await a reply are rejected at once', async () => {
    const { queue, requests } = await inbox();
    await using small = new AmqpRequester(amqp, { maxPending: 2 });
    const replies = [small.request('', queue, 'a'), small.request('', queue, 'b')];
    const refused = await failure(small.request('', queue, 'c'));
    expect(refused).toMatchObject({ code: 'REQUEST_LIMIT', message: expect.stringContaining('2 requests') });
    await server.reply(await requests.next(), '1');
    await replies[0];
    const next = small.request('', queue, 'd');
    await server.reply(await requests.next(), '2');
    await server.reply(await requests.next(), '3');
    expect([text((await replies[1]) as Message), text(await next)]).toEqual(['2', '3']);
  });

  test('what cannot be sent is rejected before it is, and hurts no other request', async () => {
    const { queue, requests } = await inbox();
    const first = requester.request('', queue, 'x', { correlationId: 'same' });
    const codes = [
      await failure(requester.request('', queue, 'y', { correlationId: 'same' })),
      await failure(requester.request('', queue, 'y', { correlationId: 'x'.repeat(256) })),
      await failure(requester.request('', queue, 'y', { priority: 256 })),
      await failure(requester.request('', queue, 'y', JSON.parse('{ "correlationId": 7 }') as RequestMessageOptions)),
      await failure(requester.request('', queue, 'y', { timeout: -1 })),
    ].map(({ code }) => code);
    const invalid = 'INVALID_ARGUMENT';
    expect(codes).toEqual([invalid, invalid, invalid, invalid, 'INVALID_OPTION']);
    await server.reply(await requests.next(), 're: x');
    expect(text(await first)).toBe('re: x');
    expect(thrown(() => new AmqpRequester(amqp, { maxPending: 0 })).code).toBe('INVALID_OPTION');
    expect(thrown(() => new AmqpRequester(amqp, { timeout: Number.NaN })).code).toBe('INVALID_OPTION');
  });

  test('closing rejects what is pending and what comes after; the connection stays', async () => {
    const { queue, requests } = await inbox();
    const sent = failure(requester.request('', queue, 'x'));
    await requests.next();
    const opening = failure(requester.request('amq.fanout', '', 'y'));
    await requester.close();
    await requester.close();
    expect(await sent).toMatchObject({ code: 'CHANNEL_CLOSED', closedBy: 'client' });
    expect((await sent).message).toMatch(/Whether it was carried out is unknown\.$/);
    expect((await opening).message).toMatch(/It was not sent\.$/);
    expect(await failure(requester.request('', queue, 'x'))).toMatchObject({ code: 'CHANNEL_CLOSED' });
    expect(amqp.status.state).toBe('open');
  });

  test('requests that wait for a connection are rejected when there will be none', async () => {
    const queue = await echoing();
    line.isDown = true;
    line.cut();
    const waiting = failure(requester.request('', queue, 'x'));
    await amqp.close();
    expect((await waiting).code).toBe('CONNECTION_CLOSED');
  });

  test('requests to many exchanges one after the other keep few channels open', async () => {
    const queue = await echoing();
    for (let index = 0; index < 40; index += 1) {
      const exchange = await scratch.exchange('fanout');
      await scratch.bind(queue, exchange);
      expect(text(await requester.request(exchange, '', String(index)))).toBe(`re: ${index}`);
    }
    const connection = await amqp.opened();
    // Numbers are given out again: a new channel has the lowest that is free, or the next.
    await using channel = await connection.channel();
    expect(channel.number).toBeLessThanOrEqual(20);
  });

  test('a channel that survives reconnects replies too', async () => {
    const queue = await scratch.queue();
    const channel = new AmqpChannel(amqp);
    await channel.basicConsume(queue, async (request) => {
      await channel.reply(request, 'here');
      request.ack();
    });
    expect(text(await requester.request('', queue, 'anybody?'))).toBe('here');
    expect(text(await requester.request('', queue, 'again?'))).toBe('here');
    await channel.close();
  });

  test('a message without replyTo has no reply', async () => {
    const { queue, requests } = await inbox();
    await scratch.send(queue, 'x', { correlationId: '1' });
    await scratch.send(queue, 'x', { replyTo: '' });
    for (const request of [await requests.next(), await requests.next()]) {
      const error = await failure(server.reply(request, 'to whom?'));
      expect(error.code).toBe('INVALID_ARGUMENT');
      expect(error.message).toContain('The message has no replyTo');
    }
    expect(server.isOpen).toBe(true);
  });

  test('a correlation id of 255 bytes that are no UTF-8 comes back as it went', async () => {
    const queue = await echoing();
    const correlationId = Buffer.alloc(255, 0xff);
    const raw = await connect(brokerUrl, { dial: line.dial });
    const channel = await raw.channel();
    const replies = new Inbox<Message>();
    await channel.basicConsume('amq.rabbitmq.reply-to', replies.push, { noAck: true });
    const writer = new WireWriter();
    const replyTo = 'amq.rabbitmq.reply-to';
    const args = { exchange: '', routingKey: queue, mandatory: true, immediate: false };
    writeContentHead(writer, 0, channel.number, 'basic.publish', args, { replyTo, correlationId }, 0);
    line.socket.write(writer.take());
    const reply = await replies.next('the reply');
    expect(text(reply)).toBe('re: ');
    expect(reply.bytesOf('correlationId')).toEqual(correlationId);
    await raw.close();
  });
});

describe('by script', () => {
  interface Scripted {
    readonly requester: AmqpRequester;
    readonly amqp: AmqpConnection;
    readonly peer: ScriptedPeer;
  }

  async function scripted(closeTimeout = 0, handshake?: ScriptedHandshake): Promise<Scripted> {
    const peer = new ScriptedPeer();
    const amqp = new AmqpConnection(undefined, { dial: () => peer.transport, closeTimeout, ...quick });
    amqp.openInBackground();
    await peer.handshake(handshake);
    return { requester: new AmqpRequester(amqp), amqp, peer };
  }

  /** Confirms the first publish of a channel, and refuses the second, a second later by the clock: time for another channel. */
  async function isRefused(requester: AmqpRequester, peer: ScriptedPeer, channel: number): Promise<void> {
    peer.send(channel, 'basic.ack', { deliveryTag: 1, multiple: false });
    const now = performance.now.bind(performance);
    const clock = jest.spyOn(performance, 'now').mockImplementation(() => now() + 1_000);
    const refused = requester.request('', 'q', 'y');
    expect((await peer.receive('basic.publish')).channel).toBe(channel);
    peer.send(channel, 'basic.nack', { deliveryTag: 2, multiple: false, requeue: false });
    expect((await failure(refused)).code).toBe('PUBLISH_NACKED');
    clock.mockRestore();
  }

  /** Plays the broker up to the next request on a new channel. */
  async function openedFor(
    peer: ScriptedPeer,
  ): Promise<{ channel: number; consumerTag: string; request: ReceivedCommand<'basic.publish'> }> {
    const channel = await peer.openChannel();
    await peer.answer('confirm.select-ok', {});
    const { consumerTag } = (await peer.receive('basic.consume')).args;
    peer.send(channel, 'basic.consume-ok', { consumerTag });
    return { channel, consumerTag, request: await peer.receive('basic.publish') };
  }

  /** A reply as bytes, with any bytes for its properties and without a body. */
  function replyFrames(channel: number, consumerTag: string, properties: Buffer): Buffer {
    const deliver = {
      consumerTag,
      deliveryTag: 1,
      redelivered: false,
      exchange: '',
      routingKey: 'amq.rabbitmq.reply-to',
    };
    const head = Buffer.alloc(7);
    head.writeUInt8(2, 0);
    head.writeUInt16BE(channel, 1);
    head.writeUInt32BE(12 + properties.length, 3);
    const fixed = bytes('003c 0000 0000000000000000');
    return Buffer.concat([frameOf(channel, 'basic.deliver', deliver), head, fixed, properties, bytes('ce')]);
  }

  const shortstr = (value: string): Buffer => Buffer.concat([Buffer.from([value.length]), Buffer.from(value)]);

  test('replies of strangers, without an id, and a second time are dropped and counted', async () => {
    const { requester, amqp, peer } = await scripted();
    const replied = requester.request('', 'q', 'x');
    const { channel, consumerTag, request } = await openedFor(peer);
    const id = request.properties.correlationId ?? '';
    const send = (properties: Buffer): void => {
      peer.sendRaw(replyFrames(channel, consumerTag, properties));
    };
    send(bytes('0000'));
    send(Buffer.concat([bytes('0400'), shortstr('stranger')]));
    send(Buffer.concat([bytes('0400'), shortstr(`${id}0`)]));
    send(Buffer.concat([bytes('0400'), shortstr(id)]));
    send(Buffer.concat([bytes('0400'), shortstr(id)]));
    expect((await replied).properties).toEqual({ correlationId: id });
    await eventually('the last', () => Promise.resolve(requester.unexpectedReplies === 4 ? true : undefined));
    await amqp.close();
  });

  test('what the broker goes on refusing is sent over another channel; replies still come over the one before', async () => {
    const { requester, amqp, peer } = await scripted();
    const first = requester.request('', 'q', 'x');
    const before = await openedFor(peer);
    await isRefused(requester, peer, before.channel);
    const next = requester.request('', 'q', 'z');
    const after = await openedFor(peer);
    expect(after.channel).not.toBe(before.channel);
    for (const { channel, consumerTag, request } of [after, before]) {
      const id = shortstr(request.properties.correlationId ?? '');
      peer.sendRaw(replyFrames(channel, consumerTag, Buffer.concat([bytes('0400'), id])));
    }
    await within('the replies', Promise.all([first, next]));
    expect((await peer.receive('channel.close')).channel).toBe(before.channel);
    await amqp.close();
  });

  test('where the connection has no other channel to give, what is refused is followed over the same', async () => {
    const { requester, amqp, peer } = await scripted(0, { channelMax: 1 });
    const first = requester.request('', 'q', 'x');
    const before = await openedFor(peer);
    await isRefused(requester, peer, before.channel);
    const next = requester.request('', 'q', 'z');
    const { properties } = await peer.receive('basic.publish');
    for (const { correlationId = '' } of [before.request.properties, properties]) {
      const id = Buffer.concat([bytes('0400'), shortstr(correlationId)]);
      peer.sendRaw(replyFrames(before.channel, before.consumerTag, id));
    }
    await within('the replies', Promise.all([first, next]));
    await amqp.close();
  });

  test('a reply whose headers make no sense is its own call’s trouble; one whose id cannot be found is nobody’s', async () => {
    const { requester, amqp, peer } = await scripted();
    const first = requester.request('', 'q', 'x');
    const { channel, consumerTag, request } = await openedFor(peer);
    const second = requester.request('', 'q', 'y');
    const other = await peer.receive('basic.publish');
    const badHeaders = bytes('2400  00000004 01 "a" "?" 01');
    peer.sendRaw(replyFrames(channel, consumerTag, bytes('2400  7fffffff 00')));
    peer.sendRaw(replyFrames(channel, consumerTag, bytes('0401')));
    peer.sendRaw(replyFrames(channel, consumerTag, bytes('00')));
    const id = shortstr(request.properties.correlationId ?? '');
    peer.sendRaw(replyFrames(channel, consumerTag, Buffer.concat([badHeaders, id])));
    const reply = await within('the reply', first);
    expect(thrown(() => reply.properties).code).toBe('UNDECODABLE');
    const otherId = shortstr(other.properties.correlationId ?? '');
    peer.sendRaw(replyFrames(channel, consumerTag, Buffer.concat([bytes('0400'), otherId])));
    expect((await within('the other reply', second)).properties).toEqual(
      expect.objectContaining({ correlationId: other.properties.correlationId }),
    );
    expect(requester.unexpectedReplies).toBe(3);
    await amqp.close();
  });

  test('a channel that ends over one unconfirmed request loses the replies to the confirmed ones', async () => {
    const { requester, amqp, peer } = await scripted();
    const calls = [requester.request('x', 'a', ''), requester.request('x', 'b', ''), requester.request('x', 'c', '')];
    const failures = calls.map((call) => failure(call));
    const { channel } = await openedFor(peer);
    await peer.receive('basic.publish');
    await peer.receive('basic.publish');
    peer.send(channel, 'basic.ack', { deliveryTag: 1, multiple: false });
    const close = { replyCode: 406, replyText: 'PRECONDITION_FAILED - too large', classId: 60, methodId: 40 };
    // The confirm of the second in the same chunk as the end.
    peer.sendRaw(
      Buffer.concat([
        frameOf(channel, 'basic.ack', { deliveryTag: 2, multiple: false }),
        frameOf(channel, 'channel.close', close),
      ]),
    );
    const ends = (await Promise.all(failures)).map(({ code, replyCode }) => [code, replyCode]);
    expect(ends).toEqual([
      ['REPLY_LOST', 406],
      ['REPLY_LOST', 406],
      // Nobody else can have been to blame.
      ['PUBLISH_REFUSED', 406],
    ]);
    await peer.receive('channel.close-ok');

    const next = requester.request('x', 'a', '');
    const again = await openedFor(peer);
    const id = shortstr(again.request.properties.correlationId ?? '');
    peer.sendRaw(replyFrames(again.channel, again.consumerTag, Buffer.concat([bytes('0400'), id])));
    await next;
    await amqp.close();
  });

  test('a broker that ends the taking of replies loses them; the next request has another channel', async () => {
    const { requester, amqp, peer } = await scripted(5_000);
    const lost = failure(requester.request('', 'q', 'x'));
    const { channel, consumerTag } = await openedFor(peer);
    peer.send(channel, 'basic.ack', { deliveryTag: 1, multiple: false });
    peer.send(channel, 'basic.cancel', { consumerTag, noWait: true });
    await peer.receive('channel.close');
    // Confirmed while the old channel is still being closed.
    const next = requester.request('', 'q', 'y');
    const other = await openedFor(peer);
    peer.send(other.channel, 'basic.ack', { deliveryTag: 1, multiple: false });
    peer.send(channel, 'channel.close-ok', {});
    expect((await lost).code).toBe('REPLY_LOST');
    const id = shortstr(other.request.properties.correlationId ?? '');
    peer.sendRaw(replyFrames(other.channel, other.consumerTag, Buffer.concat([bytes('0400'), id])));
    await within('the reply', next);
    peer.hangUp();
    await amqp.close();
  });

  test('while the broker blocks the connection no request is sent, and those that wait still are sent later', async () => {
    const { requester, amqp, peer } = await scripted();
    const first = requester.request('', 'q', '1');
    const { channel, consumerTag, request } = await openedFor(peer);
    const connection = await amqp.opened();
    const blocked = once(connection, 'blocked');
    peer.send(0, 'connection.blocked', { reason: 'low on memory' });
    await within('the block', blocked);
    const unsent = await failure(requester.request('', 'q', '2', { timeout: 1 }));
    expect(unsent).toMatchObject({ code: 'REPLY_TIMEOUT', message: expect.stringMatching(/It was not sent\.$/) });
    const waiting = requester.request('', 'q', '3');
    peer.send(0, 'connection.unblocked', {});
    const sent = await peer.receive('basic.publish');
    expect([sent.channel, sent.body.toString()]).toEqual([channel, '3']);
    for (const { properties } of [request, sent]) {
      const id = Buffer.concat([bytes('0400'), shortstr(properties.correlationId ?? '')]);
      peer.sendRaw(replyFrames(channel, consumerTag, id));
    }
    await within('the replies', Promise.all([first, waiting]));
    await amqp.close();
  });

  test('a broker without direct reply-to is told to those who wait', async () => {
    const { requester, amqp, peer } = await scripted();
    const refused = failure(requester.request('', 'q', 'x'));
    const channel = await peer.openChannel();
    await peer.answer('confirm.select-ok', {});
    await peer.receive('basic.consume');
    const replyText = "NOT_FOUND - no queue 'amq.rabbitmq.reply-to' in vhost '/'";
    peer.send(channel, 'channel.close', { replyCode: 404, replyText, classId: 60, methodId: 20 });
    expect(await refused).toMatchObject({ replyCode: 404, message: expect.stringContaining('amq.rabbitmq.reply-to') });
    await amqp.close();
  });
});
