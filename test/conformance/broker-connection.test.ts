/** What a broker says and takes on a connection: the handshake, and the errors that end a channel or all of it. */
import { expect, test } from '@jest/globals';

import { AmqpError } from '../../lib/errors.js';
import { BareClient, type BareHandshake } from '../support/bare-client.js';
import { unique } from '../support/client.js';
import { within } from '../support/waits.js';
import { Bench, headerFrame, rawFrame } from './bench.js';

const QUEUE = { passive: false, durable: false, exclusive: true, autoDelete: false, noWait: false, arguments: {} };
const CONSUME = { noLocal: false, noAck: true, exclusive: false, noWait: false, arguments: {} };

/** A method frame without arguments but these bytes. */
function methodFrame(channel: number, classId: number, methodId: number, args: readonly number[] = []): Buffer {
  return rawFrame(1, channel, Buffer.from([0, classId, 0, methodId, ...args]));
}

/** How the broker ends the connection over what this client says once channel 1 is open. */
async function verdict(say: (client: BareClient) => void): Promise<string> {
  await using client = await BareClient.open();
  say(client);
  const { replyCode, replyText, classId, methodId } = await client.connectionClosed();
  return `${replyCode} ${replyText} (${classId}, ${methodId})`;
}

/** A verdict without what is said between name and numbers: about bytes that are no AMQP each broker has its own words. */
const codes = (text: string): string => text.replace(/ - .* \(/s, ' (');

test('a broker says who it is, what it can, how clients prove who they are, and proposes limits', async () => {
  await using client = await BareClient.dial();
  const start = await client.startUntilTune();
  expect(start).toMatchObject({
    versionMajor: 0,
    versionMinor: 9,
    serverProperties: {
      product: expect.any(String),
      version: expect.any(String),
      capabilities: {
        publisher_confirms: true,
        exchange_exchange_bindings: true,
        'basic.nack': true,
        consumer_cancel_notify: true,
        'connection.blocked': true,
        consumer_priorities: true,
        authentication_failure_close: true,
        per_consumer_qos: true,
        direct_reply_to: true,
      },
    },
  });
  const words = (text: string | Uint8Array): string[] => Buffer.from(text).toString().split(' ').sort();
  expect(words(start.mechanisms)).toEqual(expect.arrayContaining(['AMQPLAIN', 'PLAIN']));
  expect(words(start.locales)).toEqual(['en_US']);
  const { args } = await client.receive('connection.tune');
  expect(args).toEqual({ channelMax: 2047, frameMax: 131_072, heartbeat: 60 });
});

test('to another protocol the broker answers with a header of its own, and hangs up', async () => {
  for (const header of ['AMQP\0\u0001\0\0', 'AMQP\0\0\u0008\0', 'GET / HTTP/1.1\r\n']) {
    await using client = await BareClient.dial();
    client.sendRaw(Buffer.from(header, 'latin1'));
    await within('the end', client.hungUp);
    // RabbitMQ 4 prefers AMQP 1.0; it names that version instead of 0-9-1.
    const answer = Buffer.concat(client.raw).toString('latin1');
    expect(['AMQP\0\0\u0009\u0001', 'AMQP\u0003\u0001\0\0']).toContain(answer);
  }
});

test('wrong credentials, an unknown user and an unknown vhost are refused with what they are', async () => {
  for (const response of ['\0guest\0wrong', `\0${unique('user')}\0guest`]) {
    await using client = await BareClient.dial();
    await client.startUntilTune({ response });
    expect(await client.connectionClosed()).toEqual({
      replyCode: 403,
      replyText:
        'ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.',
      classId: 0,
      methodId: 0,
    });
  }
  await using lost = await BareClient.dial();
  await lost.startUntilTune();
  await lost.openFrom({ virtualHost: 'nowhere' });
  expect(await lost.connectionClosed()).toEqual({
    replyCode: 530,
    replyText: 'NOT_ALLOWED - vhost nowhere not found',
    classId: 10,
    methodId: 40,
  });
});

test('a handshake that goes wrong otherwise is hung up on; RabbitMQ waits three seconds with that, and says nothing', async () => {
  const hungUp = async (handshake: BareHandshake): Promise<string[]> => {
    await using client = await BareClient.dial();
    await client.startUntilTune(handshake);
    // It may be over by now; so whatever is sent may fail.
    if (handshake.frameMax !== undefined) await client.openFrom(handshake);
    await within('the end', client.hungUp);
    return client.commands.all.map(({ name }) => name);
  };
  // To these no answer is expected: not even channel 0 is open.
  const virtualHost = 'unanswered';
  const heard = await Promise.all([
    hungUp({ mechanism: 'NONSENSE' }),
    hungUp({ response: 'nonsense' }),
    hungUp({ response: '\0guest\0wrong', capabilities: {} }),
    hungUp({ frameMax: 4095, virtualHost }),
    hungUp({ frameMax: 131_073, virtualHost }),
    hungUp({ frameMax: 0, virtualHost }),
  ]);
  expect(heard.flat()).not.toContain('connection.open-ok');
});

test('one channel more than were agreed on ends the connection (530)', async () => {
  await using client = await BareClient.open({ channelMax: 1 });
  client.send(2, 'channel.open', {});
  expect(await client.connectionClosed()).toEqual({
    replyCode: 530,
    replyText: 'NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (1)',
    classId: 0,
    methodId: 0,
  });
});

test('what RabbitMQ does not implement ends the connection with 540', async () => {
  expect(await verdict((client) => client.publish(1, { routingKey: 'q', immediate: true }))).toBe(
    '540 NOT_IMPLEMENTED - immediate=true (60, 40)',
  );
  expect(
    await verdict((client) => client.send(1, 'basic.qos', { prefetchSize: 10, prefetchCount: 1, global: false })),
  ).toBe('540 NOT_IMPLEMENTED - prefetch_size!=0 (10) (60, 10)');
  expect(await verdict((client) => client.send(1, 'channel.flow', { active: false }))).toBe(
    '540 NOT_IMPLEMENTED - active=false (20, 20)',
  );
  expect(await verdict((client) => client.send(1, 'basic.recover', { requeue: false }))).toBe(
    '540 NOT_IMPLEMENTED - requeue=false (60, 110)',
  );
});

test('a consumer tag that the channel has already ends the connection (530), on another channel it is free', async () => {
  await using client = await BareClient.open();
  client.send(2, 'channel.open', {});
  await client.receive('channel.open-ok');
  client.send(1, 'queue.declare', { queue: '', ...QUEUE });
  const { queue } = (await client.receive('queue.declare-ok')).args;
  for (const channel of [1, 2]) {
    client.send(channel, 'basic.consume', { queue, consumerTag: 'c', ...CONSUME });
    expect((await client.receive('basic.consume-ok')).args.consumerTag).toBe('c');
  }
  client.send(1, 'basic.consume', { queue, consumerTag: '', ...CONSUME });
  expect((await client.receive('basic.consume-ok')).args.consumerTag).toMatch(/^amq\.ctag-[\w-]{22}$/);
  client.send(1, 'basic.consume', { queue, consumerTag: 'c', ...CONSUME });
  expect(await client.connectionClosed()).toEqual({
    replyCode: 530,
    replyText: "NOT_ALLOWED - attempt to reuse consumer tag 'c'",
    classId: 60,
    methodId: 20,
  });
});

test('a method on a channel that is not open, a second open, and a channel’s method on channel 0 end the connection (504)', async () => {
  expect(await verdict((client) => client.send(5, 'queue.purge', { queue: 'q', noWait: false }))).toBe(
    "504 CHANNEL_ERROR - expected 'channel.open' (50, 30)",
  );
  expect(await verdict((client) => client.publish(5, { routingKey: 'q' }))).toBe(
    "504 CHANNEL_ERROR - expected 'channel.open' (60, 40)",
  );
  expect(await verdict((client) => client.send(1, 'channel.open', {}))).toBe(
    "504 CHANNEL_ERROR - second 'channel.open' seen (20, 10)",
  );
  expect(await verdict((client) => client.send(0, 'queue.purge', { queue: 'q', noWait: false }))).toBe(
    '504 CHANNEL_ERROR - unexpected method in connection state running (50, 30)',
  );
});

test('frames that are none end the connection with 501', async () => {
  for (const bytes of [
    // An unknown type, a wrong last byte, more bytes than were agreed on, and bytes where heartbeats have none.
    rawFrame(7, 1, Buffer.alloc(0)),
    Buffer.from([1, 0, 1, 0, 0, 0, 4, 0, 90, 0, 10, 0xcd]),
    Buffer.concat([Buffer.from([1, 0, 1, 0, 3, 0, 0]), Buffer.alloc(100)]),
    rawFrame(8, 0, Buffer.from('x')),
  ]) {
    expect(codes(await verdict((client) => client.sendRaw(bytes)))).toBe('501 FRAME_ERROR (0, 0)');
  }
  // queue.declare, cut short.
  const cut = methodFrame(1, 50, 10, [0]);
  expect(codes(await verdict((client) => client.sendRaw(cut)))).toBe('501 FRAME_ERROR (50, 10)');
});

test('frames where they do not belong end the connection with 505, methods of the server with 503', async () => {
  const publish = methodFrame(1, 60, 40, [0, 0, 0, 0, 0]);
  const otherHeader = headerFrame(1, 0n);
  otherHeader.writeUInt16BE(50, 7);
  for (const [bytes, expected] of [
    [rawFrame(3, 1, Buffer.from('x')), '505 UNEXPECTED_FRAME (0, 0)'],
    [headerFrame(1, 0n), '505 UNEXPECTED_FRAME (0, 0)'],
    [Buffer.concat([publish, methodFrame(1, 90, 10)]), '505 UNEXPECTED_FRAME (60, 40)'],
    [Buffer.concat([publish, otherHeader]), '505 UNEXPECTED_FRAME (60, 40)'],
    [rawFrame(8, 1, Buffer.alloc(0)), '505 UNEXPECTED_FRAME (0, 0)'],
    [methodFrame(1, 40, 11), '503 COMMAND_INVALID (40, 11)'],
    [methodFrame(1, 10, 51), '503 COMMAND_INVALID (10, 51)'],
  ] as const) {
    expect(codes(await verdict((client) => client.sendRaw(bytes)))).toBe(expected);
  }
});

test('what a channel is sent between its close and the answer is passed over, then its number is free again', async () => {
  await using client = await BareClient.open();
  const missing = unique('queue');
  client.send(1, 'basic.get', { queue: missing, noAck: true });
  client.send(1, 'queue.purge', { queue: missing, noWait: false });
  client.publish(1, { exchange: unique('exchange') }, {}, 'x');
  expect((await client.channelClosed()).methodId).toBe(70);
  client.send(1, 'channel.open', {});
  await client.receive('channel.open-ok');
  client.send(1, 'channel.close', { replyCode: 200, replyText: '', classId: 0, methodId: 0 });
  await client.receive('channel.close-ok');
  client.send(1, 'channel.open', {});
  await client.receive('channel.open-ok');
});

test('channels are independent: one that fails takes nothing of another with it', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith('a');
  const refused = bench.refusal((channel) => channel.basicGet(unique('queue')));
  expect(await refused).toBeInstanceOf(AmqpError);
  expect(await bench.text(queue)).toBe('a');
});

test('without consumer_cancel_notify nobody is told that a queue is gone', async () => {
  for (const [capabilities, told] of [
    [{ consumer_cancel_notify: true }, true],
    [{}, false],
  ] as const) {
    await using client = await BareClient.open({ capabilities });
    client.send(1, 'queue.declare', { queue: '', ...QUEUE });
    const { queue } = (await client.receive('queue.declare-ok')).args;
    client.send(1, 'basic.consume', { queue, consumerTag: 'c', ...CONSUME });
    await client.receive('basic.consume-ok');
    client.send(1, 'queue.delete', { queue, ifUnused: false, ifEmpty: false, noWait: false });
    await client.receive('queue.delete-ok');
    if (told) expect((await client.receive('basic.cancel')).args).toEqual({ consumerTag: 'c', noWait: true });
    else {
      client.send(1, 'basic.qos', { prefetchSize: 0, prefetchCount: 1, global: false });
      await client.receive('basic.qos-ok');
    }
  }
});

test('a client that closes is answered, and what it sends after that is not', async () => {
  await using client = await BareClient.open();
  client.send(0, 'connection.close', { replyCode: 200, replyText: 'Goodbye', classId: 0, methodId: 0 });
  client.send(1, 'channel.close', { replyCode: 200, replyText: '', classId: 0, methodId: 0 });
  await client.receive('connection.close-ok');
  client.end();
  await within('the end', client.hungUp);
  expect(client.commands.all.map(({ name }) => name)).not.toContain('channel.close-ok');
});
