/** Reaching a host: each of its addresses, with and without TLS, what is said when none answers, and where a password may go. */
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { Socket, createServer, isIPv4 } from 'node:net';
import { networkInterfaces } from 'node:os';
import { createServer as createTlsServer } from 'node:tls';

import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import { type ConnectionOptions, resolveConnectionOptions } from '../../lib/client/connection-options.js';
import { type HostLookup, dial } from '../../lib/client/dial.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { failure } from '../support/client.js';
import { DeafPort, Listener } from '../support/listener.js';
import { Inbox, within } from '../support/waits.js';

/** A name service that knows one host, which has these addresses. */
function addresses(...list: readonly string[]): HostLookup {
  return (_host, { all }, callback) => {
    const [first = ''] = list;
    setImmediate(() => {
      if (all === true)
        callback(
          null,
          list.map((address) => ({ address, family: 4 })),
        );
      else callback(null, first, 4);
    });
  };
}

async function dialled(options: ConnectionOptions): Promise<string | undefined> {
  const transport = await dial(resolveConnectionOptions('amqp://broker.example', options));
  if (!(transport instanceof Socket)) throw new Error('it dialled no socket');
  const { remoteAddress } = transport;
  transport.destroy();
  return remoteAddress;
}

/** Key and certificate of broker.example, which is its own authority; undefined where there is no openssl to make them. */
function certificate(): Buffer | undefined {
  const args =
    'req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=broker.example -addext subjectAltName=DNS:broker.example -keyout - -out -';
  try {
    return execFileSync('openssl', args.split(' '), { stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return undefined;
  }
}

// All of 127.0.0.0/8 is this machine on Linux; elsewhere it is 127.0.0.1 alone.
(process.platform === 'linux' ? describe : describe.skip)('a host with several addresses', () => {
  const pem = certificate();
  const testTls = pem === undefined ? test.skip : test;
  const kinds = pem === undefined ? (['TCP'] as const) : (['TCP', 'TLS'] as const);
  const servers = {
    TCP: { create: createServer, options: {} },
    TLS: { create: () => createTlsServer({ key: pem, cert: pem }), options: { tls: { ca: pem } } },
  };

  test.each(kinds)('is reached with %s where the first refuses', async (kind) => {
    const { create, options } = servers[kind];
    await using listener = await Listener.on(create(), '127.0.0.3');
    const lookup = addresses('127.0.0.2', '127.0.0.3');
    expect(await dialled({ ...options, lookup, port: listener.port })).toBe('127.0.0.3');
  });

  test.each(kinds)('is reached with %s where the first does not answer', async (kind) => {
    const { create, options } = servers[kind];
    await using deaf = await DeafPort.open('127.0.0.2');
    await using listener = await Listener.on(create(), '127.0.0.3', deaf.port);
    const lookup = addresses('127.0.0.2', '127.0.0.3');
    // An address gets half of the time; the first one's retransmission of SYN after 1 s would be too late.
    expect(await dialled({ ...options, lookup, port: listener.port, connectTimeout: 1_900 })).toBe('127.0.0.3');
  });

  test('has each of them in the error, with what became of it', async () => {
    await using deaf = await DeafPort.open('127.0.0.2');
    const lookup = addresses('127.0.0.4', '127.0.0.2', '127.0.0.5');
    const error = await failure(dialled({ lookup, port: deaf.port, connectTimeout: 1_500 }));
    expect(error.code).toBe('CONNECT_FAILED');
    expect(error.message).toContain(
      `No connection to broker.example:${deaf.port}: ` +
        '127.0.0.4 ECONNREFUSED, 127.0.0.2 no answer in its time, 127.0.0.5 ECONNREFUSED.',
    );
  });

  test('has them in the error also when the time for all is over', async () => {
    await using deaf = await DeafPort.open('127.0.0.2');
    const lookup = addresses('127.0.0.4', '127.0.0.2');
    const error = await failure(dialled({ lookup, port: deaf.port, connectTimeout: 1_500 }));
    expect(error.code).toBe('CONNECT_TIMEOUT');
    expect(error.message).toContain('within 1500 ms (127.0.0.4 ECONNREFUSED, 127.0.0.2 no answer)');
  });

  testTls('has in the error why the TLS of the one that answered failed', async () => {
    await using listener = await Listener.on(servers.TLS.create(), '127.0.0.3');
    const lookup = addresses('127.0.0.2', '127.0.0.3');
    const error = await failure(dialled({ tls: true, lookup, port: listener.port }));
    expect(error.message).toContain('127.0.0.2 ECONNREFUSED, 127.0.0.3 DEPTH_ZERO_SELF_SIGNED_CERT. ');
    expect(error.message).toContain('tls.ca');
  });
});

test('a host name is looked up on every attempt, and one that is unknown is an error that says so', async () => {
  const asked = new Inbox<string>();
  const lookup: HostLookup = (host, _options, callback) => {
    asked.push(host);
    callback(Object.assign(new Error('unknown'), { code: 'ENOTFOUND' }), []);
  };
  const error = await failure(dialled({ lookup }));
  expect(error.message).toBe(
    'No connection to broker.example:5672: ENOTFOUND. The host name is unknown. Correct it, or the name service.',
  );
  const amqp = new AmqpConnection('amqp://broker.example', { lookup, recovery: { initialDelay: 1, maxDelay: 1 } });
  amqp.openInBackground();
  for (let count = 0; count < 3; count += 1) expect(await asked.next()).toBe('broker.example');
  await amqp.close();
});

describe('a password', () => {
  afterEach(() => {
    jest.restoreAllMocks();
  });

  const ownAddress = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .find(({ address, internal }) => !internal && isIPv4(address))?.address;
  const testOutside = ownAddress === undefined ? test.skip : test;

  function warnings(): readonly unknown[][] {
    const spy = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
    return spy.mock.calls;
  }

  /** A port where a peer answers every connection, and hangs up when told. */
  async function peersAt(host: string): Promise<Listener & { readonly peers: Inbox<ScriptedPeer> }> {
    const peers = new Inbox<ScriptedPeer>();
    const server = createServer((socket) => {
      const peer = new ScriptedPeer();
      socket.pipe(peer.transport).pipe(socket);
      peers.push(peer);
    });
    return Object.assign(await Listener.on(server, host), { peers });
  }

  testOutside('that leaves the machine unencrypted is warned of once, however often it reconnects', async () => {
    const seen = warnings();
    await using at = await peersAt(ownAddress ?? '');
    await using amqp = new AmqpConnection(`amqp://ann:secret@${ownAddress}:${at.port}`, {
      closeTimeout: 0,
      recovery: { initialDelay: 1, maxDelay: 1 },
    });
    amqp.openInBackground();
    for (let count = 0; count < 3; count += 1) {
      const peer = await at.peers.next();
      await peer.handshake();
      await within('open', amqp.opened());
      peer.hangUp();
    }
    expect(seen).toEqual([[expect.stringContaining('amqps://'), { code: 'NEST_AMQP_PLAINTEXT_CREDENTIALS' }]]);
    expect(String(seen[0]?.[0])).toContain(`${ownAddress}:${at.port}`);
    expect(String(seen[0]?.[0])).not.toMatch(/ann|secret/);
  });

  testOutside('is warned of by every connection for itself', async () => {
    const seen = warnings();
    await using at = await peersAt(ownAddress ?? '');
    for (let count = 0; count < 2; count += 1) {
      const connecting = connect(`amqp://${ownAddress}:${at.port}`, { closeTimeout: 0 });
      await (await at.peers.next()).handshake();
      await (await connecting).close();
    }
    expect(seen).toHaveLength(2);
  });

  test('that stays on the machine, or goes where the user dials, is no matter', async () => {
    const seen = warnings();
    await using at = await peersAt('127.0.0.1');
    const connecting = connect(`amqp://127.0.0.1:${at.port}`, { closeTimeout: 0 });
    await (await at.peers.next()).handshake();
    await (await connecting).close();
    const peer = new ScriptedPeer();
    const dialling = connect(`amqp://broker.example`, { dial: () => peer.transport, closeTimeout: 0 });
    await peer.handshake();
    await (await dialling).close();
    expect(seen).toEqual([]);
  });

  testOutside('of a mechanism of your own, which may hide it, is no matter', async () => {
    const seen = warnings();
    await using at = await peersAt(ownAddress ?? '');
    const mechanism = { name: 'CRAM', respond: () => Buffer.from('hidden') };
    const connecting = connect(`amqp://${ownAddress}:${at.port}`, { mechanism, closeTimeout: 0 });
    await (await at.peers.next()).handshake({ mechanisms: 'CRAM' });
    await (await connecting).close();
    expect(seen).toEqual([]);
  });
});
