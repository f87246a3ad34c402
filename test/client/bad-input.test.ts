/**
 * What goes wrong from outside: a wrong password, a wrong address, peers that are no broker, values that AMQP cannot
 * carry. Each has its own code and advice, and none shows a credential.
 */
import { describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { type Socket, createServer } from 'node:net';

import type { Channel, ConfirmChannel } from '../../lib/client/channel.js';
import { connect } from '../../lib/client/connection.js';
import { field } from '../../lib/protocol/field-table.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { everythingOf, failure, scripted, scriptedChannel, thrown, unique } from '../support/client.js';

/** A server on a free port that treats every connection so. */
async function serverThat(
  treats: (socket: Socket) => void,
): Promise<AsyncDisposable & { readonly url: string; readonly port: number }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    treats(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    port,
    url: `amqp://ann:secret@127.0.0.1:${port}/`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

const { hostname: brokerHost, port: brokerPort } = new URL(brokerUrl);
const broker = { hostname: brokerHost, port: Number(brokerPort || 5672) };

const isEmbedded = process.env['NEST_AMQP_TEST_BROKER'] === 'embedded';

describe('the broker refuses', () => {
  test('a wrong password: AUTHENTICATION_FAILED with its own words, and the password nowhere', async () => {
    const error = await failure(connect({ ...broker, credentials: { username: 'guest', password: 'wrong-secret' } }));
    expect(error).toMatchObject({ code: 'AUTHENTICATION_FAILED', replyCode: 403, closedBy: 'server' });
    expect(error.replyText).toContain('ACCESS_REFUSED');
    expect(error.message).toContain("user 'guest'");
    expect(error.message).toContain('Check the user name and the password');
    expect(error.message.includes('RabbitMQ')).toBe(!isEmbedded);
    expect(everythingOf(error)).not.toContain('wrong-secret');
  });

  test('an unknown user with AMQPLAIN in the same way', async () => {
    const credentials = { username: unique('user'), password: 'wrong-secret' };
    const error = await failure(connect({ ...broker, credentials, mechanism: 'AMQPLAIN' }));
    expect(error).toMatchObject({ code: 'AUTHENTICATION_FAILED', replyCode: 403 });
    expect(error.message).toContain(credentials.username);
    expect(everythingOf(error)).not.toContain('wrong-secret');
  });

  test('an unknown virtual host: VHOST_REFUSED with its name and what to do', async () => {
    const vhost = unique('vhost');
    const error = await failure(connect(brokerUrl, { vhost }));
    expect(error).toMatchObject({ code: 'VHOST_REFUSED', replyCode: 530, closedBy: 'server' });
    expect(error.message).toContain(vhost);
    expect(error.message).toContain(isEmbedded ? 'virtualHosts' : 'add_vhost');
  });
});

describe('instead of a broker there is', () => {
  test('nothing: CONNECT_FAILED', async () => {
    const { port } = await (async () => {
      await using gone = await serverThat(() => undefined);
      return gone;
    })();
    const error = await failure(connect({ hostname: '127.0.0.1', port }));
    expect(error).toMatchObject({ code: 'CONNECT_FAILED', closedBy: 'network' });
    expect(error.message).toContain(`127.0.0.1:${port}: ECONNREFUSED`);
    expect(error.message).toContain('Start the broker, or correct the host and port');
    expect(error.cause).toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('an unknown host: CONNECT_FAILED', async () => {
    const error = await failure(connect('amqp://ann:secret@broker.invalid'));
    expect(error.code).toBe('CONNECT_FAILED');
    expect(error.message).toMatch(/broker\.invalid:5672: E(NOTFOUND|AI_AGAIN)\. .*name/);
    expect(everythingOf(error)).not.toContain('secret');
  });

  test('an HTTP server: NOT_AMQP with what it said', async () => {
    await using server = await serverThat((socket) => {
      socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n'));
    });
    const error = await failure(connect(server.url));
    expect(error.code).toBe('NOT_AMQP');
    expect(error.message).toContain('HTTP/1.1 400 Bad Request');
    expect(error.message).toContain('Correct the host and port');
    // What strangers say is shown without its control characters.
    expect(error.message).not.toContain('\r');
    expect(everythingOf(error)).not.toContain('secret');
  });

  test('a server that hangs up at once: NOT_AMQP', async () => {
    await using server = await serverThat((socket) => socket.end());
    const error = await failure(connect(server.url));
    expect(error).toMatchObject({ code: 'NOT_AMQP', closedBy: 'network' });
    expect(error.message).toContain('amqps://');
  });

  test('a server that resets the connection: NOT_AMQP', async () => {
    await using server = await serverThat((socket) => {
      socket.once('data', () => socket.resetAndDestroy());
    });
    expect((await failure(connect(server.url))).code).toBe('NOT_AMQP');
  });

  test('a TLS server, which answers with an alert: NOT_AMQP, use amqps', async () => {
    await using server = await serverThat((socket) => {
      // Alert, TLS 1.2, two bytes: fatal, unexpected message.
      socket.once('data', () => socket.end(Buffer.from([21, 3, 3, 0, 2, 2, 10])));
    });
    const error = await failure(connect(server.url));
    expect(error.code).toBe('NOT_AMQP');
    expect(error.message).toContain('Use amqps://');
  });

  test('an AMQP 1.0 broker: VERSION_MISMATCH, wherever its eight bytes are cut', async () => {
    const header = Buffer.from('AMQP\0\x01\0\0', 'latin1');
    for (let cut = 0; cut < header.length; cut += 1) {
      const peer = new ScriptedPeer();
      const connecting = failure(connect({ dial: () => peer.transport }));
      await peer.protocolHeader();
      peer.sendRaw(header.subarray(0, cut));
      peer.sendRaw(header.subarray(cut));
      peer.hangUp();
      const error = await connecting;
      expect(error.code).toBe('VERSION_MISMATCH');
      expect(error.message).toContain('speaks AMQP 1-0-0; this client speaks 0-9-1');
    }
  });

  test('a broker of AMQP 0-8 that starts all the same: VERSION_MISMATCH', async () => {
    const peer = new ScriptedPeer();
    const connecting = failure(connect({ dial: () => peer.transport }));
    await peer.protocolHeader();
    peer.send(0, 'connection.start', {
      versionMajor: 8,
      versionMinor: 0,
      serverProperties: {},
      mechanisms: 'PLAIN',
      locales: 'en_US',
    });
    expect((await connecting).code).toBe('VERSION_MISMATCH');
  });

  test('a server that accepts and says nothing: HANDSHAKE_TIMEOUT', async () => {
    await using server = await serverThat(() => undefined);
    const error = await failure(connect(server.url, { handshakeTimeout: 50 }));
    expect(error.code).toBe('HANDSHAKE_TIMEOUT');
    expect(error.message).toContain('within 50 ms');
    expect(error.message).toContain('handshakeTimeout');
    expect(everythingOf(error)).not.toContain('secret');
  });

  test('a broker that stops half-way: HANDSHAKE_TIMEOUT', async () => {
    const peer = new ScriptedPeer();
    const connecting = failure(connect({ dial: () => peer.transport, handshakeTimeout: 50 }));
    await peer.handshakeUntilTune();
    expect((await connecting).code).toBe('HANDSHAKE_TIMEOUT');
    await peer.hungUp;
  });

  test('a transport that never opens: CONNECT_TIMEOUT', async () => {
    const error = await failure(connect({ dial: () => new Promise(() => undefined), connectTimeout: 50 }));
    expect(error.code).toBe('CONNECT_TIMEOUT');
    expect(error.message).toContain('raise connectTimeout');
  });

  test('a transport that fails to open: CONNECT_FAILED with the cause', async () => {
    const cause = new Error('the tunnel is shut');
    const error = await failure(connect({ dial: () => Promise.reject(cause) }));
    expect(error).toMatchObject({ code: 'CONNECT_FAILED', cause });
    expect(error.message).toContain('the tunnel is shut');
  });

  test('a broker without our mechanisms: AUTHENTICATION_FAILED, naming its own', async () => {
    const peer = new ScriptedPeer();
    const connecting = failure(
      connect({ dial: () => peer.transport, credentials: { username: 'ann', password: 'secret' } }),
    );
    await peer.protocolHeader();
    peer.send(0, 'connection.start', {
      versionMajor: 0,
      versionMinor: 9,
      serverProperties: {},
      mechanisms: 'EXTERNAL SCRAM-SHA-256',
      locales: 'en_US',
    });
    const error = await connecting;
    expect(error.code).toBe('AUTHENTICATION_FAILED');
    expect(error.message).toContain('EXTERNAL, SCRAM-SHA-256, and none of PLAIN, AMQPLAIN');
    expect(error.message).toContain('auth_mechanisms');
    expect(everythingOf(error)).not.toContain('secret');
    await peer.hungUp;
  });

  test('a mechanism that the user insists on and the broker has not: AUTHENTICATION_FAILED', async () => {
    const peer = new ScriptedPeer();
    const connecting = failure(connect({ dial: () => peer.transport, mechanism: 'AMQPLAIN' }));
    await peer.protocolHeader();
    peer.send(0, 'connection.start', {
      versionMajor: 0,
      versionMinor: 9,
      serverProperties: {},
      mechanisms: 'PLAIN',
      locales: 'en_US',
    });
    const error = await connecting;
    expect(error.code).toBe('AUTHENTICATION_FAILED');
    expect(error.message).toContain('PLAIN, and none of AMQPLAIN');
  });
});

/** JavaScript's callers have no compiler. */
function wrong(value: unknown): never {
  return value as never;
}

const LONG = 'x'.repeat(256);
/** 255 characters, 256 bytes. */
const LONG_UTF8 = `${'x'.repeat(254)}é`;

type Call = (channel: Channel) => unknown;

const REFUSED: readonly (readonly [what: string, call: Call, message: RegExp])[] = [
  ['a queue name of 256 bytes', (c) => c.queueDeclare(LONG), /queue of queue\.declare is 256 bytes/],
  ['a queue name of 255 characters and 256 bytes', (c) => c.queueDeclare(LONG_UTF8), /256 bytes of UTF-8/],
  ['an exchange name of 256 bytes', (c) => c.exchangeDeclare(LONG, 'topic'), /exchange of exchange\.declare/],
  ['an exchange type of 256 bytes', (c) => c.exchangeDeclare('x', LONG), /type of exchange\.declare/],
  ['a routing key of 256 bytes', (c) => c.basicPublish('', LONG, ''), /routingKey of basic\.publish/],
  ['a binding key of 256 bytes', (c) => c.queueBind('q', 'x', LONG_UTF8), /routingKey of queue\.bind/],
  ['a consumer tag of 256 bytes', (c) => c.basicConsume('q', () => undefined, { consumerTag: LONG }), /consumerTag/],
  ['an empty consumer tag', (c) => c.basicConsume('q', () => undefined, { consumerTag: '' }), /cannot be empty/],
  ['a consumer that is nothing', (c) => c.basicConsume('q', wrong(null)), /consumer has to be a function/],
  ['a consumer without onMessage', (c) => c.basicConsume('q', wrong({})), /onMessage/],
  ['a message id of 256 bytes', (c) => c.basicPublish('', 'q', '', { messageId: LONG_UTF8 }), /messageId is 256 bytes/],
  ['a header name of 256 bytes', (c) => c.basicPublish('', 'q', '', { headers: { [LONG]: 1 } }), /256 bytes/],
  ['a header that is a function', (c) => c.basicPublish('', 'q', '', { headers: wrong({ f: wrong }) }), /headers\.f/],
  ['a header that is NaN', (c) => c.basicPublish('', 'q', '', { headers: { n: Number.NaN } }), /headers\.n is NaN/],
  ['a header that is infinite', (c) => c.basicPublish('', 'q', '', { headers: { n: -Infinity } }), /headers\.n/],
  ['a header beyond its type', (c) => c.basicPublish('', 'q', '', { headers: { n: field.uint8(256) } }), /headers\.n/],
  ['headers that contain themselves', (c) => c.basicPublish('', 'q', '', { headers: circular() }), /nested deeper/],
  ['headers that are a list', (c) => c.basicPublish('', 'q', '', { headers: wrong([1]) }), /headers/],
  ['a delivery mode of 3', (c) => c.basicPublish('', 'q', '', { deliveryMode: 3 }), /deliveryMode has to be 1 or 2/],
  ['a delivery mode of 0', (c) => c.basicPublish('', 'q', '', { deliveryMode: 0 }), /deliveryMode has to be 1 or 2/],
  ['a priority of 256', (c) => c.basicPublish('', 'q', '', { priority: 256 }), /priority/],
  ['an expiration as a number', (c) => c.basicPublish('', 'q', '', { expiration: wrong(5) }), /expiration/],
  ['a timestamp as a Date', (c) => c.basicPublish('', 'q', '', { timestamp: wrong(new Date()) }), /timestamp/],
  ['mandatory as text', (c) => c.basicPublish('', 'q', '', { mandatory: wrong('yes') }), /mandatory/],
  ['a body that is an object', (c) => c.basicPublish('', 'q', wrong({ a: 1 })), /body.*Serialise it first/],
  ['a body that is missing', (c) => c.basicPublish('', 'q', wrong(undefined)), /body/],
  ['a body that is a number', (c) => c.basicPublish('', 'q', wrong(5)), /body/],
  ['an exchange that is null', (c) => c.basicPublish(wrong(5), 'q', ''), /exchange/],
  ['a queue name that is a number', (c) => c.queueDeclare(wrong(5)), /queue of queue\.declare has to be a string/],
  ['durable as text', (c) => c.queueDeclare('q', { durable: wrong('no') }), /durable of queue\.declare/],
  ['arguments that are a list', (c) => c.queueDeclare('q', { arguments: wrong(['x']) }), /arguments/],
  [
    'an argument that is a symbol',
    (c) => c.queueDeclare('q', { arguments: wrong({ a: Symbol('s') }) }),
    /arguments of queue\.declare\.a is a symbol/,
  ],
  ['a prefetch of -1', (c) => c.basicQos(-1), /prefetchCount of basic\.qos has to be an integer from 0 to 65535/],
  ['a prefetch of 65536', (c) => c.basicQos(65_536), /prefetchCount/],
  ['a prefetch of 1.5', (c) => c.basicQos(1.5), /prefetchCount/],
  ['a delivery tag of 1.5', (c) => c.basicAck(1.5), /deliveryTag/],
  ['a delivery tag of -1', (c) => c.basicNack(-1), /deliveryTag/],
  ['a delivery tag as text', (c) => c.basicReject(wrong('1')), /deliveryTag/],
];

function circular(): never {
  const headers = { self: {} };
  headers.self = headers;
  return wrong(headers);
}

describe('a value that AMQP cannot carry is refused before a byte leaves:', () => {
  test.each(REFUSED)('%s', async (_, call, message) => {
    const { peer, connection } = await scripted({ closeTimeout: 0 });
    const opening = connection.channel();
    await peer.openChannel();
    const channel = await opening;

    const error = await failure((async () => await call(channel))());
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch(message);

    // The very next thing that the peer hears is the next good request.
    const declared = channel.queueDeclare('good');
    expect((await peer.receive('queue.declare')).args.queue).toBe('good');
    peer.send(channel.number, 'queue.declare-ok', { queue: 'good', messageCount: 0, consumerCount: 0 });
    await declared;
    await connection.close();
  });

  test('a consumer tag that is in use, which would cost the whole connection', async () => {
    const { peer, connection } = await scripted({ closeTimeout: 0 });
    const opening = connection.channel();
    await peer.openChannel();
    const channel = await opening;
    const first = channel.basicConsume('q', () => undefined, { consumerTag: 'c' });
    const error = await failure(channel.basicConsume('q', () => undefined, { consumerTag: 'c' }));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain("consumer tagged 'c'");
    await peer.receive('basic.consume');
    peer.send(1, 'basic.consume-ok', { consumerTag: 'c' });
    await first;
    const good = channel.basicQos(1);
    await peer.answer('basic.qos-ok', {});
    await good;
    await connection.close();
  });

  test('a header frame of exactly frame_max passes, one byte more does not', async () => {
    const { peer, connection } = await scripted({ closeTimeout: 0 }, { frameMax: 4096 });
    const opening = connection.channel();
    await peer.openChannel();
    const channel = await opening;
    // 8 of the frame, 14 of the header, 4 of the table, 2 for the name h, 5 for the letter and length of the value.
    const fits = 4096 - 8 - 14 - 4 - 2 - 5;
    const error = thrown(() => channel.basicPublish('', 'q', 'b', { headers: { h: 'x'.repeat(fits + 1) } }));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch(/4097 bytes; the broker takes 4096/);
    expect(channel.basicPublish('', 'q', 'b', { headers: { h: 'x'.repeat(fits) } })).toBe(true);
    expect((await peer.receive('basic.publish')).body.toString()).toBe('b');
    await connection.close();
  });

  test('by a confirm channel as a rejection, without counting it', async () => {
    const { peer, connection } = await scripted({ closeTimeout: 0 });
    const opening = connection.channel({ confirm: true });
    const number = await peer.openChannel();
    await peer.answer('confirm.select-ok', {});
    const channel: ConfirmChannel = await opening;
    expect((await failure(channel.basicPublish('', LONG, ''))).code).toBe('INVALID_ARGUMENT');
    expect(channel.unconfirmedCount).toBe(0);
    const good = channel.basicPublish('', 'q', 'body');
    await peer.receive('basic.publish');
    peer.send(number, 'basic.ack', { deliveryTag: 1, multiple: false });
    await good;
    await connection.close();
  });

  test('and the real broker has not noticed: one channel survives them all', async () => {
    await using connection = await connect(brokerUrl);
    const channel = await connection.channel();
    for (const [, call] of REFUSED) {
      expect((await failure((async () => await call(channel))())).code).toBe('INVALID_ARGUMENT');
    }
    const { queue } = await channel.queueDeclare();
    expect(channel.basicPublish('', queue, 'still here')).toBe(true);
    expect((await channel.basicGet(queue, { noAck: true }))?.message.body.toString()).toBe('still here');
  });
});

test.each<[what: string, expiration: unknown]>([
  ['text that is no number', 'soon'],
  ['an empty text', ''],
  ['a fraction', '1.5'],
  ['a number', 60_000],
  ['a negative number', -5],
])('an expiration that is %s is refused before it leaves', async (_what, expiration) => {
  const { connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const options = { expiration } as { expiration: string };
  expect(thrown(() => channel.basicPublish('', 'q', 'x', options)).code).toBe('INVALID_ARGUMENT');
  expect(channel.isOpen).toBe(true);
  await connection.close();
});
