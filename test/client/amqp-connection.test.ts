/** The connection that survives its sockets: opening, recovering, giving up, closing. */
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { once } from 'node:events';
import { createServer } from 'node:net';

import { AmqpConnection, type AmqpConnectionOptions, type ConnectionStatus } from '../../lib/client/amqp-connection.js';
import type { Connection } from '../../lib/client/connection.js';
import { AmqpError } from '../../lib/errors.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { everythingOf, failure, thrown, unique } from '../support/client.js';
import { RabbitMqServer } from '../support/rabbitmq-server.mjs';
import { findRabbitMq } from '../support/rabbitmq-install.mjs';
import { CuttableLine } from '../support/scratch.js';
import { Gate, Inbox, within } from '../support/waits.js';

const quick = { recovery: { initialDelay: 1, maxDelay: 5 } };

/** A broker for every dial: the test awaits the next one and plays its part. */
class Peers {
  readonly #dialled = new Inbox<ScriptedPeer>();

  get count(): number {
    return this.#dialled.all.length;
  }

  readonly dial = (): ScriptedPeer['transport'] => {
    const peer = new ScriptedPeer();
    this.#dialled.push(peer);
    return peer.transport;
  };

  async next(): Promise<ScriptedPeer> {
    return await this.#dialled.next('the next dial');
  }

  /** The next peer, after its handshake. */
  async opened(): Promise<ScriptedPeer> {
    const peer = await this.next();
    await peer.handshake();
    return peer;
  }
}

function onPeers(options: AmqpConnectionOptions = {}): { peers: Peers; amqp: AmqpConnection; statuses: string[] } {
  const peers = new Peers();
  const amqp = new AmqpConnection(undefined, { dial: peers.dial, closeTimeout: 0, ...quick, ...options });
  return { peers, amqp, statuses: statusesOf(amqp) };
}

function statusesOf(amqp: AmqpConnection): string[] {
  const seen: string[] = [];
  amqp.on('status', (status) =>
    seen.push(status.state === 'connecting' ? `connecting ${status.attempt}` : status.state),
  );
  return seen;
}

/** A port of this machine on which nothing listens. */
async function deadPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' && address !== null ? address.port : 0;
}

describe('open()', () => {
  test('connects, and tells every step', async () => {
    const amqp = new AmqpConnection(brokerUrl);
    const seen = statusesOf(amqp);
    expect(amqp.status).toEqual({ state: 'idle' });
    await amqp.open();
    expect(amqp.status.state).toBe('open');
    expect((await amqp.opened()).serverProperties).toMatchObject({ capabilities: { publisher_confirms: true } });
    await amqp.close();
    await amqp.close();
    expect(seen).toEqual(['connecting 1', 'open', 'closed']);
  });

  test('tries the next host', async () => {
    const urls = [`amqp://guest:guest@127.0.0.1:${await deadPort()}`, brokerUrl];
    await using amqp = new AmqpConnection(urls, { ...quick, shuffleHosts: false });
    const seen = statusesOf(amqp);
    await amqp.open();
    expect(seen).toEqual(['connecting 1', 'connecting 2', 'open']);
  });

  test('retries within the timeout, then rejects with the last error and is closed', async () => {
    const amqp = new AmqpConnection(`amqp://ann:secret@127.0.0.1:${await deadPort()}`, quick);
    const seen = statusesOf(amqp);
    const error = await failure(amqp.open({ timeout: 1_000 }));
    expect(error).toMatchObject({ code: 'CONNECT_FAILED' });
    expect(everythingOf(error)).not.toContain('secret');
    expect(seen.length).toBeGreaterThan(3);
    expect(amqp.status).toEqual({ state: 'closed', error });
    expect(await failure(amqp.opened())).toBe(error);
    expect(await failure(amqp.open())).toBe(error);
  });

  test('says what to do when not even the first attempt ends in time', async () => {
    const { amqp } = onPeers();
    const error = await failure(amqp.open({ timeout: 50 }));
    expect(error.code).toBe('CONNECT_TIMEOUT');
    expect(error.message).toContain('Start the broker');
  });

  test('tells of the handshake that a silent peer did not finish, not only that the time is over', async () => {
    const amqp = new AmqpConnection('amqp://broker', {
      dial: () => new ScriptedPeer().transport,
      handshakeTimeout: 60,
    });
    expect((await failure(amqp.open({ timeout: 50 }))).code).toBe('HANDSHAKE_TIMEOUT');
  });

  test.each<[string, Partial<AmqpConnectionOptions>]>([
    ['VHOST_REFUSED', { vhost: unique('vhost') }],
    ['AUTHENTICATION_FAILED', { credentials: { username: 'guest', password: 'wrong-secret' } }],
  ])('rejects at once with %s, which time will not mend', async (code, options) => {
    const amqp = new AmqpConnection(brokerUrl, { ...quick, ...options });
    const seen = statusesOf(amqp);
    const error = await failure(amqp.open({ timeout: '60s' }));
    expect(error.code).toBe(code);
    expect(everythingOf(error)).not.toContain('wrong-secret');
    expect(seen).toEqual(['connecting 1', 'closed']);
  });

  test('rejects at once when the other end is no broker', async () => {
    const { peers, amqp } = onPeers();
    const opening = failure(amqp.open());
    const peer = await peers.next();
    await peer.protocolHeader();
    peer.sendRaw(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'));
    expect((await opening).code).toBe('NOT_AMQP');
    expect(peers.count).toBe(1);
  });

  test('tries again where the other end hangs up: so does a proxy whose broker is still starting', async () => {
    const { peers, amqp } = onPeers();
    const opening = amqp.open();
    (await peers.next()).hangUp();
    const second = await peers.next();
    await second.handshakeUntilTune();
    second.hangUp();
    await peers.opened();
    await within('open', opening);
    await amqp.close();
  });

  test('rejects at once when a set-up was declared wrongly', async () => {
    const { peers, amqp } = onPeers();
    amqp.onSetup(() => Promise.reject(new AmqpError('TOPOLOGY_CONFLICT', 'no')));
    const opening = failure(amqp.open());
    const peer = await peers.opened();
    expect((await opening).code).toBe('TOPOLOGY_CONFLICT');
    await within('the end', peer.hungUp);
  });

  test('refuses bad options before anything is dialled', () => {
    expect(thrown(() => new AmqpConnection('http://x')).code).toBe('INVALID_URL');
    expect(thrown(() => new AmqpConnection([])).code).toBe('INVALID_URL');
    expect(thrown(() => new AmqpConnection(undefined, { port: 0 })).code).toBe('INVALID_OPTION');
    expect(thrown(() => new AmqpConnection(undefined, { recovery: { maxDelay: -1 } })).code).toBe('INVALID_OPTION');
  });
});

describe('openInBackground()', () => {
  test('returns at once and retries whatever happens, also what open() would not', async () => {
    const { peers, amqp } = onPeers();
    amqp.openInBackground();
    const opened = amqp.opened();
    const first = await peers.next();
    await first.protocolHeader();
    first.sendRaw(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'));
    await peers.opened();
    expect((await within('open', opened)).isOpen).toBe(true);
    await amqp.close();
  });

  test('tells why the last attempt failed', async () => {
    const amqp = new AmqpConnection(`amqp://127.0.0.1:${await deadPort()}`, quick);
    const statuses = new Inbox<ConnectionStatus>();
    amqp.on('status', statuses.push);
    amqp.openInBackground();
    const failed = await statuses.next('a failure', (status) => status.state === 'connecting' && status.attempt === 3);
    expect(failed).toMatchObject({ lastError: { code: 'CONNECT_FAILED' } });
    await amqp.close();
  });
});

describe('recovery', () => {
  test('runs the set-ups again, in order, before it announces the new connection', async () => {
    const { peers, amqp, statuses } = onPeers();
    amqp.onSetup(async (connection) => {
      await connection.channel();
      statuses.push('set-up 1');
    });
    amqp.onSetup(() => {
      statuses.push('set-up 2');
      return Promise.resolve();
    });
    const opening = amqp.open();
    const first = await peers.opened();
    await first.openChannel();
    await opening;
    const old = await amqp.opened();
    const recovered = new Inbox<ConnectionStatus>();
    amqp.on('status', recovered.push);
    first.hangUp();
    const second = await peers.opened();
    await second.openChannel();
    const status = await recovered.next('open', ({ state }) => state === 'open');
    expect(status).toMatchObject({ connection: { isOpen: true } });
    expect(await amqp.opened()).not.toBe(old);
    const life = ['set-up 1', 'set-up 2', 'open'];
    expect(statuses).toEqual(['connecting 1', ...life, 'connecting 1', ...life]);
    await amqp.close();
  });

  test('tells why the connection was lost', async () => {
    const { peers, amqp } = onPeers();
    const opening = amqp.open();
    const peer = await peers.opened();
    await opening;
    const statuses = new Inbox<ConnectionStatus>();
    amqp.on('status', statuses.push);
    peer.send(0, 'connection.close', { replyCode: 320, replyText: 'maintenance', classId: 0, methodId: 0 });
    expect(await statuses.next()).toMatchObject({
      state: 'connecting',
      attempt: 1,
      lastError: { code: 'CONNECTION_CLOSED', replyCode: 320 },
    });
    await amqp.close();
  });

  test('goes on through failures of every kind, also those that would have ended open()', async () => {
    const { peers, amqp, statuses } = onPeers();
    let attempts = 0;
    amqp.onSetup(() => {
      attempts += 1;
      return attempts === 2 ? Promise.reject(new AmqpError('TOPOLOGY_CONFLICT', 'no')) : Promise.resolve();
    });
    const opening = amqp.open();
    const first = await peers.opened();
    await opening;
    first.hangUp();
    const strange = await peers.next();
    await strange.protocolHeader();
    strange.sendRaw(Buffer.from('SSH-2.0'));
    const conflicting = await peers.opened();
    await within('the end of the refused set-up', conflicting.hungUp);
    await peers.opened();
    await within('open', amqp.opened());
    expect(statuses).toEqual(['connecting 1', 'open', 'connecting 1', 'connecting 2', 'connecting 3', 'open']);
    await amqp.close();
  });

  test('begins anew when the connection is lost during a set-up', async () => {
    const { peers, amqp, statuses } = onPeers();
    amqp.onSetup(async (connection) => {
      await connection.channel();
    });
    const opening = amqp.open();
    const first = await peers.opened();
    await first.receive('channel.open');
    first.hangUp();
    const second = await peers.opened();
    await second.openChannel();
    await within('open', opening);
    expect(statuses).toEqual(['connecting 1', 'connecting 2', 'open']);
    await amqp.close();
  });

  test('does not wait for a set-up whose connection has ended', async () => {
    const { peers, amqp, statuses } = onPeers();
    const runs = new Inbox<Connection>();
    amqp.onSetup((connection) => {
      runs.push(connection);
      return runs.all.length === 1 ? new Promise(() => undefined) : Promise.resolve();
    });
    const opening = amqp.open();
    const first = await peers.opened();
    await runs.next('the set-up');
    first.hangUp();
    await peers.opened();
    await within('open', opening);
    expect(statuses).toEqual(['connecting 1', 'connecting 2', 'open']);
    await amqp.close();
  });

  test('hears of a set-up that throws at once as of one that rejects', async () => {
    const { peers, amqp } = onPeers();
    amqp.onSetup(() => {
      throw new Error('no such file');
    });
    const opening = failure(amqp.open({ timeout: 0 }));
    const peer = await peers.opened();
    expect((await opening).message).toContain('no such file');
    await within('the end of the connection', peer.hungUp);
    await amqp.close();
    // Jest fails a test over what nobody has caught, which Node.js tells between two turns.
    await new Promise(setImmediate);
  });

  test('gives up a set-up that has not settled in its time, with its connection', async () => {
    const { peers, amqp } = onPeers();
    let isStuck = false;
    amqp.onSetup(() => (isStuck ? new Promise(() => undefined) : Promise.resolve()), { timeout: 20 });
    const opening = amqp.open();
    const first = await peers.opened();
    await opening;
    const statuses = new Inbox<ConnectionStatus>();
    amqp.on('status', statuses.push);
    isStuck = true;
    first.hangUp();
    const second = await peers.opened();
    await within('the end of the connection that is not set up', second.hungUp);
    isStuck = false;
    const failed = await statuses.next('a failure', (status) => status.state === 'connecting' && status.attempt === 2);
    expect(failed).toMatchObject({ lastError: { code: 'SETUP_FAILED' } });
    expect(failed).toMatchObject({ lastError: { message: expect.stringContaining('did not settle within 20 ms') } });
    await peers.opened();
    await statuses.next('open', ({ state }) => state === 'open');
    await amqp.close();
    expect(thrown(() => amqp.onSetup(() => Promise.resolve(), { timeout: -1 })).code).toBe('INVALID_OPTION');
  });

  // It takes a node of its own to restart.
  (findRabbitMq() === undefined ? test.skip : test)(
    'follows a broker through its restart',
    async () => {
      await using server = await RabbitMqServer.start();
      await using amqp = new AmqpConnection(server.url, { recovery: { initialDelay: 20, maxDelay: 100 } });
      let setups = 0;
      amqp.onSetup(() => {
        setups += 1;
        return Promise.resolve();
      });
      await amqp.open();
      const statuses = new Inbox<ConnectionStatus>();
      amqp.on('status', statuses.push);
      await server.kill();
      expect(await statuses.next('the loss')).toMatchObject({
        state: 'connecting',
        lastError: { code: 'CONNECTION_LOST' },
      });
      await server.restart();
      await statuses.next('open', ({ state }) => state === 'open', 60_000);
      expect(setups).toBe(2);
    },
    120_000,
  );

  test('comes back again and again to the real broker', async () => {
    const line = new CuttableLine();
    await using amqp = new AmqpConnection(brokerUrl, { dial: line.dial, ...quick });
    await amqp.open();
    const statuses = new Inbox<ConnectionStatus>();
    amqp.on('status', statuses.push);
    for (let count = 2; count <= 10; count += 1) {
      line.cut();
      await statuses.next('open', ({ state }) => state === 'open');
      expect(line.dialled).toBe(count);
    }
    expect(amqp.listenerCount('status')).toBe(1);
  });
});

describe('opened()', () => {
  test('waits for the next connection, or until its signal fires', async () => {
    const { peers, amqp } = onPeers();
    const waiting = amqp.opened();
    const life = new AbortController();
    const impatient = amqp.opened(life.signal);
    const reason = new AmqpError('ABORTED', 'enough');
    life.abort(reason);
    expect(await failure(impatient)).toBe(reason);
    expect(await failure(amqp.opened(life.signal))).toBe(reason);
    expect(amqp.listenerCount('status')).toBe(2);
    const opening = amqp.open();
    await peers.opened();
    await opening;
    expect((await waiting).isOpen).toBe(true);
    expect(amqp.listenerCount('status')).toBe(1);
    await amqp.close();
  });
});

describe('close()', () => {
  test('wins over an attempt that hangs', async () => {
    const { peers, amqp } = onPeers();
    const opening = failure(amqp.open());
    await peers.next();
    await within('close', amqp.close());
    expect(await opening).toMatchObject({ code: 'CONNECTION_CLOSED', closedBy: 'client' });
  });

  test('wins over a wait between attempts', async () => {
    const amqp = new AmqpConnection(`amqp://127.0.0.1:${await deadPort()}`, {
      recovery: { initialDelay: '1h', maxDelay: '1h' },
    });
    const statuses = new Inbox<ConnectionStatus>();
    amqp.on('status', statuses.push);
    amqp.openInBackground();
    await statuses.next('the wait', (status) => status.state === 'connecting' && status.attempt === 2);
    await within('close', amqp.close());
    expect(amqp.status.state).toBe('closed');
  });

  test('wins over a set-up that hangs, and closes its connection', async () => {
    const { peers, amqp } = onPeers();
    const begun = new Gate();
    amqp.onSetup(() => {
      begun.open();
      return new Promise(() => undefined);
    });
    const opening = failure(amqp.open());
    const peer = await peers.opened();
    await within('the set-up', begun.opened);
    await within('close', amqp.close());
    expect((await opening).code).toBe('CONNECTION_CLOSED');
    await within('the end', peer.hungUp);
  });

  test('wins at every moment of an attempt, and leaves no connection behind', async () => {
    for (let turns = 0; turns < 40; turns += 1) {
      const { peers, amqp } = onPeers();
      amqp.openInBackground();
      const opened = amqp.opened().catch(() => undefined);
      const peer = await peers.next();
      await peer.handshakeUntilTune();
      await peer.receive('connection.tune-ok');
      await peer.receive('connection.open');
      // From the chunk that opens the connection, so many promise jobs later.
      const closed = new Promise<void>((resolve, reject) => {
        peer.transport.once('data', () => {
          void (async () => {
            for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
            await amqp.close();
          })().then(resolve, reject);
        });
      });
      peer.send(0, 'connection.open-ok', {});
      await within(`close after ${turns} turns`, closed);
      await within(`the end after ${turns} turns`, peer.hungUp);
      await opened;
      expect(amqp.status.state).toBe('closed');
    }
  });

  test('is final: nothing is dialled after it', async () => {
    const { peers, amqp, statuses } = onPeers();
    const opening = amqp.open();
    const peer = await peers.opened();
    await opening;
    await amqp.close();
    await within('the end', peer.hungUp);
    amqp.openInBackground();
    expect(await failure(amqp.open())).toMatchObject({ code: 'CONNECTION_CLOSED', closedBy: 'client' });
    expect(peers.count).toBe(1);
    expect(statuses).toEqual(['connecting 1', 'open', 'closed']);
  });

  test('before open() closes as well', async () => {
    const { peers, amqp } = onPeers();
    await amqp.close();
    expect((await failure(amqp.open())).code).toBe('CONNECTION_CLOSED');
    expect(peers.count).toBe(0);
  });
});

describe('listeners that throw', () => {
  afterEach(() => {
    jest.restoreAllMocks();
  });

  test("of 'status' stop neither the connection nor those who wait for it", async () => {
    const warnings = new Inbox<unknown>();
    jest.spyOn(process, 'emitWarning').mockImplementation(warnings.push);
    const { peers, amqp } = onPeers();
    const boom = new Error('boom');
    amqp.on('status', () => {
      throw boom;
    });
    const opening = amqp.open();
    const first = await peers.opened();
    await within('open', opening);
    first.hangUp();
    await peers.opened();
    await within('open again', amqp.opened());
    await within('close', amqp.close());
    expect(warnings.all).toEqual(Array(5).fill(boom.message));
  });

  test("of a connection's 'close' do not stop the recovery", async () => {
    const warnings = new Inbox<unknown>();
    jest.spyOn(process, 'emitWarning').mockImplementation(warnings.push);
    const { peers, amqp } = onPeers();
    amqp.onSetup((connection) => {
      connection.once('close', () => {
        throw new Error('boom');
      });
      return Promise.resolve();
    });
    const opening = amqp.open();
    const first = await peers.opened();
    await opening;
    const statuses = new Inbox<ConnectionStatus>();
    amqp.on('status', statuses.push);
    first.hangUp();
    await peers.opened();
    await statuses.next('open', ({ state }) => state === 'open');
    await amqp.close();
  });
});
