/** Who the client says it is: mechanisms, challenges, providers of credentials, secrets that expire. */
import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';

import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { type ConnectOptions, connect } from '../../lib/client/connection.js';
import { resolveConnectionOptions } from '../../lib/client/connection-options.js';
import type { SaslMechanism, UserCredentials } from '../../lib/client/credentials.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, scripted, thrown } from '../support/client.js';
import { Inbox, within } from '../support/waits.js';

/** A handshake that the test plays from connection.start on. */
async function started(options: ConnectOptions, mechanisms: string) {
  const peer = new ScriptedPeer();
  const connecting = connect({ ...options, dial: () => peer.transport });
  connecting.catch(() => undefined);
  await peer.protocolHeader();
  const start = { versionMajor: 0, versionMinor: 9, serverProperties: {}, mechanisms, locales: 'en_US' };
  peer.send(0, 'connection.start', start);
  return { peer, connecting };
}

async function finish(peer: ScriptedPeer): Promise<void> {
  peer.send(0, 'connection.tune', { channelMax: 0, frameMax: 0, heartbeat: 0 });
  await peer.receive('connection.tune-ok');
  await peer.receive('connection.open');
  peer.send(0, 'connection.open-ok', {});
}

describe('mechanisms', () => {
  const cramLike: SaslMechanism = {
    name: 'CRAM',
    respond: ({ username }) => Buffer.from(username),
    answer: (challenge, { password }) =>
      Promise.resolve(Buffer.from(`${Buffer.from(challenge).toString()}+${password}`)),
  };

  test('EXTERNAL says nothing: the certificate does', async () => {
    const { peer, connecting } = await started({ mechanism: 'EXTERNAL' }, 'PLAIN EXTERNAL');
    const { args } = await peer.receive('connection.start-ok');
    expect([args.mechanism, Buffer.from(args.response).length]).toEqual(['EXTERNAL', 0]);
    await finish(peer);
    expect((await connecting).isOpen).toBe(true);
  });

  test('EXTERNAL without a client certificate is refused before dialling', () => {
    const error = thrown(() => resolveConnectionOptions('amqps://broker', { mechanism: 'EXTERNAL' }));
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
    expect(error.message).toContain('tls.cert');
  });

  test('one of your own answers as many challenges as there are', async () => {
    const credentials = { username: 'ann', password: 'secret' };
    const { peer, connecting } = await started({ mechanism: cramLike, credentials }, 'PLAIN CRAM');
    const { args } = await peer.receive('connection.start-ok');
    expect([args.mechanism, Buffer.from(args.response).toString()]).toEqual(['CRAM', 'ann']);
    for (const challenge of ['one', 'two']) {
      peer.send(0, 'connection.secure', { challenge });
      const { args: answer } = await peer.receive('connection.secure-ok');
      expect(Buffer.from(answer.response).toString()).toBe(`${challenge}+secret`);
    }
    await finish(peer);
    expect((await connecting).isOpen).toBe(true);
  });

  test('a challenge that the mechanism has no answer to ends the attempt', async () => {
    const { peer, connecting } = await started({}, 'PLAIN');
    await peer.receive('connection.start-ok');
    peer.send(0, 'connection.secure', { challenge: 'what?' });
    expect((await failure(connecting)).code).toBe('AUTHENTICATION_FAILED');
  });

  test('one of your own that throws ends the attempt with its cause', async () => {
    const cause = new Error('no key');
    const broken: SaslMechanism = {
      name: 'CRAM',
      respond: () => {
        throw cause;
      },
    };
    const { connecting } = await started({ mechanism: broken }, 'CRAM');
    expect(await failure(connecting)).toMatchObject({ code: 'CREDENTIALS_FAILED', cause });
  });

  test('one of your own that never answers ends the attempt with the time for the handshake', async () => {
    const silent: SaslMechanism = { ...cramLike, answer: () => new Promise(() => undefined) };
    const { peer, connecting } = await started({ mechanism: silent, handshakeTimeout: 50 }, 'CRAM');
    await peer.receive('connection.start-ok');
    peer.send(0, 'connection.secure', { challenge: 'one' });
    expect((await failure(connecting)).code).toBe('HANDSHAKE_TIMEOUT');
  });
});

describe('a provider of credentials', () => {
  test('is asked on every attempt to connect', async () => {
    const asked: UserCredentials[] = [];
    const peers = new Inbox<ScriptedPeer>();
    await using amqp = new AmqpConnection('amqp://broker', {
      credentials: () => {
        const credentials = { username: 'ann', password: `secret ${asked.length}` };
        asked.push(credentials);
        return credentials;
      },
      dial: () => {
        const peer = new ScriptedPeer();
        peers.push(peer);
        return peer.transport;
      },
    });
    amqp.openInBackground();
    for (const password of ['secret 0', 'secret 1']) {
      const peer = await peers.next();
      const { response } = await peer.handshake();
      expect(Buffer.from(response).toString()).toBe(`\0ann\0${password}`);
      peer.hangUp();
    }
  });

  test('works against a real broker, and so does a new secret', async () => {
    const { username, password } = new URL(brokerUrl);
    await using connection = await connect(brokerUrl, {
      credentials: () => Promise.resolve({ username, password: decodeURIComponent(password) }),
    });
    await within('update-secret-ok', connection.updateSecret(decodeURIComponent(password), 'rotation'));
    expect(connection.isOpen).toBe(true);
  });

  test('that fails rejects with its cause, and is asked before anything is dialled', async () => {
    const cause = new Error('vault is sealed');
    const error = await failure(
      connect({
        credentials: () => Promise.reject(cause),
        dial: () => {
          throw new Error('dialled');
        },
      }),
    );
    expect(error).toMatchObject({ code: 'CREDENTIALS_FAILED', cause });
    expect(error.message).toContain('failed. Error: vault is sealed. It is asked again');
  });

  test('that never answers is given up after connectTimeout', async () => {
    const error = await failure(connect({ credentials: () => new Promise(() => undefined), connectTimeout: 20 }));
    expect(error.code).toBe('CREDENTIALS_FAILED');
    expect(error.message).toContain('no answer within 20 ms');
  });

  test('is asked again before its credentials expire, and the broker gets the new secret', async () => {
    let count = 0;
    const { peer, connection } = await scripted({
      credentials: () => {
        count += 1;
        const lifetime = count === 1 ? 1_000 : 3_600_000;
        return { username: 'ann', password: `token ${count}`, expiresAt: new Date(Date.now() + lifetime) };
      },
    });
    const { args } = await peer.receive('connection.update-secret');
    expect(Buffer.from(args.newSecret).toString()).toBe('token 2');
    peer.send(0, 'connection.update-secret-ok', {});
    expect(connection.isOpen).toBe(true);
    const closing = connection.close();
    await peer.receive('connection.close');
    peer.send(0, 'connection.close-ok', {});
    await closing;
  });
});

test('an update of the secret that is unanswered when the connection ends is rejected', async () => {
  const { peer, connection } = await scripted();
  const updating = failure(connection.updateSecret('new'));
  await peer.receive('connection.update-secret');
  peer.hangUp();
  expect(await updating).toMatchObject({ code: 'CONNECTION_LOST' });
});

describe('the signal of connect()', () => {
  test('ends an attempt that hangs in the handshake', async () => {
    const leaving = new AbortController();
    const peer = new ScriptedPeer();
    const connecting = failure(connect({ dial: () => peer.transport, signal: leaving.signal }));
    await peer.protocolHeader();
    leaving.abort();
    expect((await within('the end', connecting)).code).toBe('ABORTED');
    await within('the hang-up', peer.hungUp);
  });

  test('ends an attempt whose transport does not open', async () => {
    const connecting = failure(connect({ dial: () => new Promise(() => undefined), signal: AbortSignal.timeout(10) }));
    expect((await within('the end', connecting)).code).toBe('ABORTED');
  });
});

describe("TLS parameters of RabbitMQ's URLs", () => {
  test('name the files of certificates and keys', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'nest-amqp-'));
    const file = (name: string): string => {
      writeFileSync(join(folder, name), name);
      return encodeURIComponent(join(folder, name));
    };
    const { tls, mechanisms } = resolveConnectionOptions(
      `amqps://broker?cacertfile=${file('ca')}&certfile=${file('cert')}&keyfile=${file('key')}` +
        '&server_name_indication=other&verify=verify_peer&auth_mechanism=external',
    );
    const text = (bytes: unknown): string => String(bytes);
    expect([text(tls?.ca), text(tls?.cert), text(tls?.key)]).toEqual(['ca', 'cert', 'key']);
    expect([tls?.servername, mechanisms]).toEqual(['other', ['EXTERNAL']]);
    await rm(folder, { recursive: true });
  });

  test.each([
    ['verify=verify_none', 'verify_peer'],
    ['cacertfile=/no/such/file', 'cacertfile'],
  ])('%s is refused', (parameter, named) => {
    const error = thrown(() => resolveConnectionOptions(`amqps://broker?${parameter}`));
    expect(error.code).toBe('INVALID_URL');
    expect(error.message).toContain(named);
  });

  test('do not go with amqp://', () => {
    expect(thrown(() => resolveConnectionOptions('amqp://broker?server_name_indication=x')).code).toBe('INVALID_URL');
  });
});
