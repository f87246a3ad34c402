/** Opening a connection, as the peer sees it. What goes wrong there is in bad-input.test.ts. */
import { describe, expect, test } from '@jest/globals';
import { duplexPair } from 'node:stream';

import { connect } from '../../lib/client/connection.js';
import { readTable } from '../../lib/protocol/field-table.js';
import { WireReader } from '../../lib/protocol/wire.js';
import { VERSION } from '../../lib/version.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl, ctl, ctlAvailable } from '../support/broker.mjs';
import { failure, frameOf, scripted, unique } from '../support/client.js';
import { eventually, within } from '../support/waits.js';

const start = {
  versionMajor: 0,
  versionMinor: 9,
  serverProperties: { product: 'scripted' },
  mechanisms: 'PLAIN AMQPLAIN',
  locales: 'en_US',
};

/** Decodes the table of AMQPLAIN, which comes without its length. */
function amqplain(response: Uint8Array | string): unknown {
  const table = Buffer.from(response);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(table.length);
  return readTable(new WireReader(Buffer.concat([length, table])));
}

describe('start-ok', () => {
  test('says what the client is and what it understands', async () => {
    const peer = new ScriptedPeer();
    const connecting = connect({ dial: () => peer.transport, closeTimeout: 0 });
    const { clientProperties, locale } = await peer.handshake();
    expect(clientProperties).toMatchObject({
      product: 'nest-amqp',
      version: VERSION,
      platform: `Node.js ${process.version}`,
      capabilities: {
        publisher_confirms: true,
        exchange_exchange_bindings: true,
        'basic.nack': true,
        consumer_cancel_notify: true,
        'connection.blocked': true,
        authentication_failure_close: true,
      },
    });
    expect(clientProperties).not.toHaveProperty('connection_name');
    expect(locale).toBe('en_US');
    await (await connecting).close();
  });

  test("carries the user's properties and the connection's name, and keeps the capabilities", async () => {
    const peer = new ScriptedPeer();
    const connecting = connect({
      dial: () => peer.transport,
      closeTimeout: 0,
      connectionName: 'billing',
      clientProperties: { product: 'shop', region: 'eu', connection_name: 'x', capabilities: {} },
    });
    const { clientProperties } = await peer.handshake();
    expect(clientProperties).toMatchObject({ product: 'shop', region: 'eu', connection_name: 'billing' });
    expect(clientProperties['capabilities']).toMatchObject({ authentication_failure_close: true });
    await (await connecting).close();
  });

  test.each([
    ['PLAIN AMQPLAIN', undefined, 'PLAIN'],
    ['AMQPLAIN PLAIN', undefined, 'PLAIN'],
    ['AMQPLAIN', undefined, 'AMQPLAIN'],
    ['PLAIN AMQPLAIN EXTERNAL', 'AMQPLAIN', 'AMQPLAIN'],
  ] as const)('answers the offer of %s, asked for %s, with %s', async (mechanisms, mechanism, chosen) => {
    const peer = new ScriptedPeer();
    const credentials = { username: 'ann:é', password: 'p@ss wörd' };
    const connecting = connect({ dial: () => peer.transport, credentials, mechanism, closeTimeout: 0 });
    const startOk = await peer.handshake({ mechanisms });
    expect(startOk.mechanism).toBe(chosen);
    if (chosen === 'PLAIN') expect(Buffer.from(startOk.response).toString()).toBe('\0ann:é\0p@ss wörd');
    else expect(amqplain(startOk.response)).toEqual({ LOGIN: 'ann:é', PASSWORD: 'p@ss wörd' });
    await (await connecting).close();
  });
});

describe('tuning', () => {
  test.each([
    // [server, client, agreed] of channelMax, frameMax and heartbeat
    { server: [2047, 131_072, 60], client: [0, 0, 10], agreed: [2047, 131_072, 10] },
    { server: [2047, 131_072, 5], client: [100, 8192, 10], agreed: [100, 8192, 5] },
    { server: [10, 4096, 60], client: [100, 8192, 60], agreed: [10, 4096, 60] },
    { server: [0, 0, 60], client: [100, 8192, 10], agreed: [100, 8192, 10] },
    { server: [0, 0, 0], client: [0, 0, 10], agreed: [65_535, 0, 0] },
    { server: [2047, 131_072, 60], client: [0, 0, 0], agreed: [2047, 131_072, 0] },
  ] as const)('of $server with $client agrees on $agreed', async ({ server, client, agreed }) => {
    const peer = new ScriptedPeer();
    const connecting = connect({
      dial: () => peer.transport,
      channelMax: client[0],
      frameMax: client[1],
      heartbeat: client[2] * 1000,
      closeTimeout: 0,
    });
    await peer.handshakeUntilTune({ channelMax: server[0], frameMax: server[1], heartbeat: server[2] });
    const { args } = await peer.receive('connection.tune-ok');
    expect([args.channelMax, args.frameMax, args.heartbeat]).toEqual(agreed);
    expect((await peer.receive('connection.open')).args.virtualHost).toBe('/');
    peer.send(0, 'connection.open-ok', {});
    const connection = await connecting;
    expect([connection.channelMax, connection.frameMax, connection.heartbeat / 1000]).toEqual(agreed);
    await connection.close();
  });

  test('refuses a frame_max below what AMQP allows', async () => {
    const peer = new ScriptedPeer();
    const connecting = failure(connect({ dial: () => peer.transport }));
    await peer.handshakeUntilTune({ frameMax: 4095 });
    const error = await connecting;
    expect(error).toMatchObject({ code: 'PROTOCOL_ERROR', replyCode: 501 });
    expect(error.message).toContain('4095');
    await within('the end', peer.hungUp);
  });
});

describe('the handshake', () => {
  test('asks for the virtual host by its name', async () => {
    const peer = new ScriptedPeer();
    const connecting = connect({ dial: () => peer.transport, vhost: '/shop', closeTimeout: 0 });
    await peer.handshakeUntilTune();
    await peer.receive('connection.tune-ok');
    expect((await peer.receive('connection.open')).args.virtualHost).toBe('/shop');
    peer.send(0, 'connection.open-ok', {});
    await (await connecting).close();
  });

  test('takes connection.blocked in the same chunk as open-ok', async () => {
    const peer = new ScriptedPeer();
    const connecting = connect({ dial: () => peer.transport, closeTimeout: 0 });
    await peer.handshakeUntilTune();
    await peer.receive('connection.tune-ok');
    await peer.receive('connection.open');
    peer.sendRaw(
      Buffer.concat([
        frameOf(0, 'connection.open-ok', {}),
        frameOf(0, 'connection.blocked', { reason: 'low on memory' }),
      ]),
    );
    const connection = await connecting;
    expect(connection.blockedReason).toBe('low on memory');
    const unblocked = new Promise((resolve) => connection.once('unblocked', () => resolve(connection.blockedReason)));
    peer.send(0, 'connection.unblocked', {});
    expect(await within('unblocked', unblocked)).toBeUndefined();
    await connection.close();
  });

  test('opens wherever the bytes of the broker are cut', async () => {
    const bytes = Buffer.concat([
      frameOf(0, 'connection.start', start),
      frameOf(0, 'connection.tune', { channelMax: 7, frameMax: 8192, heartbeat: 0 }),
      frameOf(0, 'connection.open-ok', {}),
    ]);
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      const [server, client] = duplexPair();
      server.resume();
      const connecting = connect({ dial: () => client, closeTimeout: 0 });
      server.write(bytes.subarray(0, cut));
      server.write(bytes.subarray(cut));
      const connection = await within(`the connection with a cut at ${cut}`, connecting);
      expect(connection).toMatchObject({ channelMax: 7, frameMax: 8192, heartbeat: 0, isOpen: true });
      await connection.close();
    }
  });

  test('opens when the bytes of the broker come one by one', async () => {
    const [server, client] = duplexPair();
    server.resume();
    const connecting = connect({ dial: () => client, closeTimeout: 0 });
    const bytes = Buffer.concat([
      frameOf(0, 'connection.start', start),
      frameOf(0, 'connection.tune', { channelMax: 7, frameMax: 8192, heartbeat: 0 }),
      frameOf(0, 'connection.open-ok', {}),
    ]);
    for (const byte of bytes) server.write(Buffer.from([byte]));
    const connection = await connecting;
    expect(connection.serverProperties).toMatchObject({ product: 'scripted' });
    await connection.close();
  });

  test.each([
    ['tune in place of start', [frameOf(0, 'connection.tune', { channelMax: 0, frameMax: 0, heartbeat: 0 })]],
    ['start twice', [frameOf(0, 'connection.start', start), frameOf(0, 'connection.start', start)]],
    ['a method of a channel', [frameOf(1, 'channel.open-ok', {})]],
    ['a method of the basic class', [frameOf(0, 'basic.qos-ok', {})]],
  ])('ends with PROTOCOL_ERROR after %s', async (_, frames) => {
    const peer = new ScriptedPeer();
    const connecting = failure(connect({ dial: () => peer.transport }));
    await peer.protocolHeader();
    for (const frame of frames) peer.sendRaw(frame);
    expect((await connecting).code).toBe('PROTOCOL_ERROR');
    await within('the end', peer.hungUp);
  });

  test('a broker that hangs up after start-ok has refused the login; after open, the virtual host', async () => {
    const login = new ScriptedPeer();
    const loggingIn = failure(connect({ dial: () => login.transport }));
    await login.protocolHeader();
    login.send(0, 'connection.start', start);
    await login.receive('connection.start-ok');
    login.hangUp();
    expect(await loggingIn).toMatchObject({ code: 'AUTHENTICATION_FAILED', closedBy: 'network' });

    const host = new ScriptedPeer();
    const opening = failure(connect({ dial: () => host.transport, vhost: 'shop' }));
    await host.handshakeUntilTune();
    await host.receive('connection.tune-ok');
    await host.receive('connection.open');
    host.hangUp();
    expect(await opening).toMatchObject({ code: 'VHOST_REFUSED', closedBy: 'network' });
  });

  test('a refusal for another reason keeps its own words', async () => {
    const peer = new ScriptedPeer();
    const connecting = failure(connect({ dial: () => peer.transport }));
    await peer.handshakeUntilTune();
    await peer.receive('connection.tune-ok');
    await peer.receive('connection.open');
    const replyText = 'NOT_ALLOWED - node connection limit is reached';
    peer.send(0, 'connection.close', { replyCode: 530, replyText, classId: 10, methodId: 40 });
    await peer.receive('connection.close-ok');
    expect(await connecting).toMatchObject({
      code: 'CONNECTION_CLOSED',
      replyCode: 530,
      replyText,
      method: 'connection.open',
    });
  });

  test('two connections do not share anything', async () => {
    const one = await scripted({ closeTimeout: 0 }, { channelMax: 1 });
    const two = await scripted({ closeTimeout: 0 }, { channelMax: 2 });
    expect([one.connection.channelMax, two.connection.channelMax]).toEqual([1, 2]);
    await Promise.all([one.connection.close(), two.connection.close()]);
    await Promise.all([within('one end', one.peer.hungUp), within('the other end', two.peer.hungUp)]);
  });
});

describe('with a real broker', () => {
  test.each(['PLAIN', 'AMQPLAIN'] as const)('%s opens', async (mechanism) => {
    await using connection = await connect(brokerUrl, { mechanism });
    expect(connection.isOpen).toBe(true);
    expect(connection.serverProperties).toMatchObject({ product: expect.any(String) });
    expect(connection.heartbeat).toBe(10_000);
    expect(connection.frameMax).toBe(131_072);
  });

  (ctlAvailable ? test : test.skip)(
    'the connection shows by its name',
    async () => {
      const connectionName = unique('connection');
      await using connection = await connect(brokerUrl, { connectionName });
      expect(connection.isOpen).toBe(true);
      const listed = await eventually('the connection in the list', async () => {
        const text = await ctl('list_connections', 'channel_max', 'client_properties', '--no-table-headers');
        return text.includes(connectionName) ? text : undefined;
      });
      expect(listed.split('\n').find((line) => line.includes(connectionName))).toMatch(/^2047\s.*"nest-amqp"/);
      // rabbitmqctl takes its time on a busy machine.
    },
    180_000,
  );
});
