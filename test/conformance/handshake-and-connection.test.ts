/** Conformance, handshake and connection: the numbers 21 to 45. */
import { expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { type Server, type Socket, connect as connectTcp, createServer } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { setTimeout as delay } from 'node:timers/promises';

import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import { type ConnectionOptions, resolveConnectionOptions } from '../../lib/client/connection-options.js';
import type { Message } from '../../lib/client/message.js';
import type { AmqpError } from '../../lib/errors.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import {
  failure,
  frameOf,
  scripted,
  scriptedChannel,
  scriptedConfirmChannel,
  thrown,
  unique,
} from '../support/client.js';
import { Inbox, within } from '../support/waits.js';
import { Bench, Peers, QUICK, consuming, deliver } from './bench.js';

/** A server on this machine for the time of one test. */
class Listener implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  static async on(server: Server): Promise<Listener> {
    const listener = new Listener(server);
    await once(server.listen(0, '127.0.0.1'), 'listening');
    return listener;
  }

  private constructor(server: Server) {
    this.#server = server;
    server.on('connection', (socket: Socket) => this.#sockets.add(socket.on('error', () => undefined)));
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  get url(): string {
    return `amqp://127.0.0.1:${this.port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** A connection attempt and the peer at its other end. */
function dialling(options: ConnectionOptions = {}): { peer: ScriptedPeer; refused: Promise<AmqpError> } {
  const peer = new ScriptedPeer();
  return { peer, refused: failure(connect({ dial: () => peer.transport, closeTimeout: 0, ...options })) };
}

test('21. a connection opens; a wrong first frame, or a frame of a channel before open-ok, is a protocol error', async () => {
  await using connection = await connect(brokerUrl);
  expect(connection.isOpen).toBe(true);
  for (const frame of [
    frameOf(0, 'connection.tune', { channelMax: 0, frameMax: 0, heartbeat: 0 }),
    frameOf(1, 'channel.open-ok', {}),
  ]) {
    const { peer, refused } = dialling();
    await peer.protocolHeader();
    peer.sendRaw(frame);
    expect((await refused).code).toBe('PROTOCOL_ERROR');
    await within('the end', peer.hungUp);
  }
});

test('22. a server that answers with its own protocol header is a version mismatch', async () => {
  const { peer, refused } = dialling();
  await peer.protocolHeader();
  peer.sendRaw(Buffer.from([0x41, 0x4d, 0x51, 0x50, 0, 1, 0, 0]));
  expect((await refused).code).toBe('VERSION_MISMATCH');
});

test('23. a server that says nothing, or stops half-way, is a handshake timeout', async () => {
  const silent = dialling({ handshakeTimeout: 50 });
  expect((await silent.refused).code).toBe('HANDSHAKE_TIMEOUT');
  const halfWay = dialling({ handshakeTimeout: 50 });
  await halfWay.peer.handshakeUntilTune();
  expect((await halfWay.refused).code).toBe('HANDSHAKE_TIMEOUT');
  await within('the end', halfWay.peer.hungUp);
});

test('24. a refused port, a server that closes and one that answers in HTTP are told apart', async () => {
  let dead: string;
  {
    await using closes = await Listener.on(createServer((socket) => socket.destroy()));
    dead = closes.url;
    expect((await failure(connect(dead))).code).toBe('NOT_AMQP');
  }
  expect((await failure(connect(dead))).code).toBe('CONNECT_FAILED');
  await using http = await Listener.on(createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')));
  const error = await failure(connect(http.url));
  expect([error.code, error.message]).toEqual(['NOT_AMQP', expect.stringContaining('HTTP/1.1 400')]);
});

test('25. tune-ok carries the smaller limits, where 0 is none, and for heartbeats off', async () => {
  for (const [options, proposed, agreed] of [
    [{}, [2047, 131_072, 60], [2047, 131_072, 10]],
    [{ channelMax: 5, frameMax: 8192, heartbeat: '20s' }, [0, 0, 60], [5, 8192, 20]],
    [{ channelMax: 5000, frameMax: 200_000, heartbeat: 0 }, [100, 4096, 60], [100, 4096, 0]],
    [{}, [0, 0, 0], [65_535, 0, 0]],
  ] as const) {
    const peer = new ScriptedPeer();
    const connecting = connect({ dial: () => peer.transport, closeTimeout: 0, ...options });
    const [channelMax, frameMax, heartbeat] = proposed;
    await peer.handshakeUntilTune({ channelMax, frameMax, heartbeat });
    const { args } = await peer.receive('connection.tune-ok');
    expect([args.channelMax, args.frameMax, args.heartbeat]).toEqual(agreed);
    await peer.receive('connection.open');
    peer.send(0, 'connection.open-ok', {});
    await (await connecting).close();
  }
});

test('26. a frame_max below a minimum, ours or the server’s, fails cleanly', async () => {
  expect((await failure(connect({ frameMax: 4095 }))).code).toBe('INVALID_OPTION');
  const low = dialling();
  await low.peer.handshakeUntilTune({ frameMax: 100 });
  expect(await low.refused).toMatchObject({ code: 'PROTOCOL_ERROR', replyCode: 501 });

  const strict = dialling({ frameMax: 4096 });
  await strict.peer.handshakeUntilTune();
  await strict.peer.receive('connection.tune-ok');
  await strict.peer.receive('connection.open');
  const replyText = 'negotiated frame_max = 4096 is lower than the minimum allowed value (8192)';
  strict.peer.send(0, 'connection.close', { replyCode: 530, replyText, classId: 10, methodId: 31 });
  expect(await strict.refused).toMatchObject({ code: 'CONNECTION_CLOSED', replyCode: 530, replyText });
});

test('27. an unknown vhost and a wrong password are errors of their own', async () => {
  const [vhost, password] = await Promise.all([
    failure(connect(brokerUrl, { vhost: unique('vhost') })),
    failure(connect(brokerUrl, { credentials: { username: 'guest', password: 'wrong' } })),
  ]);
  expect([vhost.code, password.code]).toEqual(['VHOST_REFUSED', 'AUTHENTICATION_FAILED']);
  expect(password.message).not.toContain('wrong');
});

test('28. PLAIN and AMQPLAIN open; a mechanism that the server does not offer is an error', async () => {
  for (const mechanism of ['PLAIN', 'AMQPLAIN'] as const) {
    await using connection = await connect(brokerUrl, { mechanism });
    expect(connection.isOpen).toBe(true);
  }
  const { peer, refused } = dialling();
  const playing = peer.handshake({ mechanisms: 'EXTERNAL CRAM-MD5' }).catch(() => undefined);
  expect((await refused).message).toContain('EXTERNAL, CRAM-MD5');
  await playing;
});

test('29. a URL names user, password, host, port and vhost, with defaults and escapes', () => {
  const read = (url: string): unknown[] => {
    const { credentials, hostname, port, vhost, tls } = resolveConnectionOptions(url);
    return [credentials.username, credentials.password, hostname, port, vhost, tls !== undefined];
  };
  expect(read('amqp://')).toEqual(['guest', 'guest', 'localhost', 5672, '/', false]);
  expect(read('amqps://host')).toEqual(['guest', 'guest', 'host', 5671, '/', true]);
  expect(read('amqp://u%3A%40:p%23%25@h:1/%2Fv')).toEqual(['u:@', 'p#%', 'h', 1, '/v', false]);
  expect(read('amqp://u@h/')).toEqual(['u', '', 'h', 5672, '/', false]);
  expect(read('amqp://:p@h/%2F')).toEqual(['', 'p', 'h', 5672, '/', false]);
  expect(read('amqp://[::1]:7/v')).toEqual(['guest', 'guest', '::1', 7, 'v', false]);
  for (const url of ['http://h', 'h:5672', 'amqp:h', 'amqp://h:port', 'amqp://h/a/b', 'amqp://h/100%']) {
    expect(thrown(() => resolveConnectionOptions(url)).code).toBe('INVALID_URL');
  }
});

test('30. a URL may set heartbeat, connection_timeout and channel_max; malformed values are refused', () => {
  const options = resolveConnectionOptions('amqp://h?heartbeat=5&connection_timeout=700&channel_max=9');
  expect(options).toMatchObject({ heartbeat: 5, connectTimeout: 700, channelMax: 9 });
  for (const query of ['heartbeat=x', 'channel_max=-1', 'connection_timeout=', 'unknown=1']) {
    expect(thrown(() => resolveConnectionOptions(`amqp://h?${query}`)).code).toBe('INVALID_URL');
  }
  expect(thrown(() => resolveConnectionOptions('amqp://h?channel_max=65536')).code).toBe('INVALID_OPTION');
});

test('31. the server’s properties and the connection’s name are passed on', async () => {
  await using connection = await connect(brokerUrl);
  expect(connection.serverProperties).toMatchObject({
    product: expect.any(String),
    capabilities: { publisher_confirms: true },
  });
  const peer = new ScriptedPeer();
  const connecting = connect({ dial: () => peer.transport, closeTimeout: 0, connectionName: 'billing' });
  expect((await peer.handshake()).clientProperties).toMatchObject({ connection_name: 'billing' });
  await (await connecting).close();
});

test('32. TCP_NODELAY is set', async () => {
  const sockets: unknown[] = [];
  const note = (message: unknown): void => {
    sockets.push((message as { socket: unknown }).socket);
  };
  subscribe('net.client.socket', note);
  await using connection = await connect(brokerUrl);
  unsubscribe('net.client.socket', note);
  const [socket] = sockets as [Record<symbol, unknown>];
  // Where Node keeps the wish; it has no public face.
  const wish = Object.getOwnPropertySymbols(socket).find(({ description }) => description === 'kSetNoDelay');
  expect([connection.isOpen, wish !== undefined && socket[wish]]).toEqual([true, true]);
});

test('33. TLS verifies authority and name, and presents a client certificate', async () => {
  // Key and certificate of `localhost`, which is its own authority.
  const pem = execFileSync(
    'openssl',
    'req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout - -out -'.split(
      ' ',
    ),
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const identity = { key: pem, cert: pem };
  const { hostname, port } = new URL(brokerUrl);
  const terminator = createTlsServer({ ...identity, ca: pem, requestCert: true }, (socket) => {
    const toBroker = connectTcp(Number(port || 5672), hostname.replace(/^\[|\]$/g, ''));
    socket.on('error', () => toBroker.destroy());
    toBroker.on('error', () => socket.destroy());
    socket.pipe(toBroker).pipe(socket);
  });
  await using tls = await Listener.on(terminator);
  const url = brokerUrl.replace('amqp:', 'amqps:');
  const through = { hostname: 'localhost', port: tls.port };
  await using connection = await connect(url, { ...through, tls: { ca: pem, ...identity } });
  expect(connection.isOpen).toBe(true);
  expect((await failure(connect(url, through))).message).toContain('tls.ca');
  const otherName = failure(connect(url, { ...through, hostname: '127.0.0.1', tls: { ca: pem, ...identity } }));
  expect((await otherName).message).toContain('tls.servername');
  const anonymous = failure(connect(url, { ...through, tls: { ca: pem } }));
  expect(['CONNECT_FAILED', 'NOT_AMQP', 'CONNECTION_LOST']).toContain((await anonymous).code);
});

test('34. of several addresses the next is tried after a refusal and after a timeout', async () => {
  await using silent = await Listener.on(createServer());
  const gone = await Listener.on(createServer());
  const nobody = gone.url;
  await gone[Symbol.asyncDispose]();
  await using amqp = new AmqpConnection([nobody, silent.url, brokerUrl], {
    handshakeTimeout: '1s',
    shuffleHosts: false,
    ...QUICK,
  });
  await amqp.open();
  expect(amqp.status.state).toBe('open');
});

test('35. a close is answered, may be repeated, crosses the server’s, and is told to both sides', async () => {
  const real = await connect(brokerUrl);
  await Promise.all([real.close(), real.close()]);
  await real.close();
  expect(real.isOpen).toBe(false);

  const crossing = await scripted();
  const closing = crossing.connection.close();
  const close = { replyCode: 320, replyText: 'CONNECTION_FORCED - by the operator', classId: 0, methodId: 0 };
  crossing.peer.send(0, 'connection.close', close);
  await within('close', closing);
  await crossing.peer.receive('connection.close');
  await crossing.peer.receive('connection.close-ok');

  const { peer, connection } = await scripted();
  const ended = once(connection, 'close') as Promise<[AmqpError]>;
  peer.send(0, 'connection.close', close);
  expect((await ended)[0]).toMatchObject({ code: 'CONNECTION_CLOSED', replyCode: 320, closedBy: 'server' });
  await peer.receive('connection.close-ok');
});

test('36. what is asked after the end fails with the cause of the end', async () => {
  const { peer, connection, channel } = await scriptedChannel();
  const ended = once(connection, 'close');
  peer.send(0, 'connection.close', { replyCode: 541, replyText: 'INTERNAL_ERROR - boom', classId: 0, methodId: 0 });
  await ended;
  for (const error of [
    await failure(connection.channel()),
    await failure(channel.queueDeclare('q')),
    thrown(() => channel.basicPublish('', 'q', '')),
    thrown(() => channel.basicAck(1)),
  ]) {
    expect([error.code, error.replyCode, error.message]).toEqual([
      'CONNECTION_CLOSED',
      541,
      expect.stringContaining('INTERNAL_ERROR - boom'),
    ]);
  }
});

test('37. close() works inside a consumer', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith('x');
  const closed = new Inbox<unknown>();
  await bench.channel.basicConsume(queue, async () => {
    await bench.connection.close();
    closed.push(bench.connection.endError);
  });
  expect(await closed.next()).toBeUndefined();
});

test('38. close() ends also while the broker blocks the connection and reads nothing', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 50 });
  const blocked = once(connection, 'blocked');
  peer.send(0, 'connection.blocked', { reason: 'low on memory' });
  await blocked;
  peer.pauseReading();
  while (channel.basicPublish('', 'q', Buffer.alloc(100_000)));
  await within('close', connection.close());
});

test('42. heartbeats are sent when idle, not while other bytes flow, and their absence ends the connection', async () => {
  const { peer, connection, channel } = await scriptedChannel({ heartbeat: '1s' }, { heartbeat: 1 });
  const lost = once(connection, 'close') as Promise<[AmqpError]>;
  let stalls = 0;
  for (let count = 0; count < 10; count += 1) {
    const published = performance.now();
    void channel.basicPublish('', 'q', 'x');
    peer.sendHeartbeat();
    await delay(100);
    // A stall of this machine lets one become due.
    if (performance.now() - published >= 500) stalls += 1;
  }
  expect(peer.heartbeats).toBeLessThanOrEqual(stalls);
  peer.sendHeartbeat();
  const silentSince = performance.now();
  expect((await within('the end', lost))[0]).toMatchObject({ code: 'CONNECTION_LOST', closedBy: 'network' });
  expect(performance.now() - silentSince).toBeGreaterThan(1_900);
  expect(peer.heartbeats).toBeGreaterThanOrEqual(1);
});

test('43. heartbeats go on being sent by a client that only receives', async () => {
  const messages = new Inbox<Message>();
  const { peer, connection } = await consuming(messages.push, { heartbeat: '1s' }, { heartbeat: 1 });
  for (let count = 0; count < 25; count += 1) {
    peer.sendContent(1, 'basic.deliver', deliver(count + 1), {}, 'x');
    await messages.next();
    await delay(100);
  }
  expect(peer.heartbeats).toBeGreaterThanOrEqual(2);
  expect(connection.isOpen).toBe(true);
  await connection.close();
});

test('44. blocked and unblocked are told, from the first chunk on, whoever throws, and after a recovery', async () => {
  const peers = new Peers();
  await using amqp = peers.amqp;
  const told = new Inbox<string | undefined>();
  const thrownThere = new Inbox<unknown>();
  amqp.onSetup((connection) => {
    connection.on('callbackError', thrownThere.push);
    connection.on('blocked', () => {
      throw new Error('boom');
    });
    connection.on('blocked', told.push);
    connection.on('unblocked', () => {
      told.push(connection.blockedReason);
    });
    told.push(connection.blockedReason ?? 'open');
    return Promise.resolve();
  });
  for (const round of ['first', 'second']) {
    const peer = await peers.next();
    await peer.handshakeUntilTune();
    await peer.receive('connection.tune-ok');
    await peer.receive('connection.open');
    const blocked = frameOf(0, 'connection.blocked', { reason: round });
    peer.sendRaw(Buffer.concat([frameOf(0, 'connection.open-ok', {}), blocked]));
    expect(await told.next()).toBe(round);
    peer.send(0, 'connection.unblocked', {});
    expect(await told.next()).toBeUndefined();
    peer.sendRaw(blocked);
    expect(await told.next()).toBe(round);
    expect(await thrownThere.next()).toMatchObject({ message: 'boom' });
    peer.hangUp();
  }
});

test('45. while the broker is blocked, publishers wait and consumers of another connection go on', async () => {
  const publishing = await scriptedConfirmChannel({ closeTimeout: 0 });
  publishing.peer.send(0, 'connection.blocked', { reason: 'low on memory' });
  publishing.peer.pauseReading();
  let published = 0;
  const fates: Promise<void>[] = [];
  while (published < 30) {
    fates.push(publishing.channel.basicPublish('', 'q', Buffer.alloc(100_000)));
    published += 1;
  }
  const drained = publishing.channel.drained();
  const messages = new Inbox<Message>();
  const consumer = await consuming(messages.push);
  consumer.peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'x');
  expect((await messages.next()).ack()).toBe(true);
  await consumer.peer.receive('basic.ack');
  expect(publishing.channel.unconfirmedCount).toBe(published);
  // A second alarm neither ends the first nor is needed to.
  publishing.peer.send(0, 'connection.blocked', { reason: 'low on disk' });
  publishing.peer.send(0, 'connection.unblocked', {});
  publishing.peer.resumeReading();
  await within('drained', drained);
  for (let count = 0; count < published; count += 1) await publishing.peer.receive('basic.publish');
  publishing.peer.send(1, 'basic.ack', { deliveryTag: published, multiple: true });
  await within('the confirms', Promise.all(fates));
  await publishing.connection.close();
  await consumer.connection.close();
});

test('39. a reply text of a close is cut to 255 bytes, at a character, and hurts nobody', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
  const replyText = `x${'é'.repeat(200)}`;
  const closing = channel.close({ replyCode: 541, replyText });
  expect((await peer.answer('channel.close-ok', {})).args).toMatchObject({
    replyCode: 541,
    replyText: replyText.slice(0, 128),
  });
  await closing;
  await Promise.all([connection.close({ replyText }), peer.receive('connection.close')]);
  await using bench = await Bench.open();
  await bench.channel.close({ replyCode: 541, replyText });
  expect((await bench.connection.channel()).isOpen).toBe(true);
});

test('40. update-secret is answered, and the connection goes on', async () => {
  const { password } = new URL(brokerUrl);
  await using connection = await connect(brokerUrl);
  await within('update-secret-ok', connection.updateSecret(decodeURIComponent(password), 'rotation'));
  expect(connection.isOpen).toBe(true);
});

test('41. a provider of credentials is asked again on recovery, and before they expire', async () => {
  const peers = new Inbox<ScriptedPeer>();
  let asked = 0;
  await using amqp = new AmqpConnection('amqp://broker', {
    recovery: { initialDelay: 1 },
    credentials: () => {
      asked += 1;
      // The second is asked for on recovery, and not because the first expires.
      const lifetime = asked === 1 ? 3_600_000 : 1_000;
      return { username: 'ann', password: `token ${asked}`, expiresAt: new Date(Date.now() + lifetime) };
    },
    dial: () => {
      const peer = new ScriptedPeer();
      peers.push(peer);
      return peer.transport;
    },
  });
  amqp.openInBackground();
  const first = await peers.next();
  expect(Buffer.from((await first.handshake()).response).toString()).toContain('token 1');
  first.hangUp();
  const second = await peers.next();
  expect(Buffer.from((await second.handshake()).response).toString()).toContain('token 2');
  const { args } = await second.receive('connection.update-secret');
  expect(Buffer.from(args.newSecret).toString()).toBe('token 3');
  second.hangUp();
});
