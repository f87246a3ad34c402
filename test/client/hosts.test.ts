/** An `AmqpConnection` with several brokers, or with a function that names them: which one it goes to, and when it gives up. */
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { createServer } from 'node:net';

import { AmqpConnection, type AmqpConnectionOptions, type ConnectionStatus } from '../../lib/client/amqp-connection.js';
import type { HostLookup } from '../../lib/client/dial.js';
import type { BrokerUrls } from '../../lib/client/hosts.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { everythingOf, failure, thrown } from '../support/client.js';
import { Listener } from '../support/listener.js';
import { Inbox, within } from '../support/waits.js';

const quick = { recovery: { initialDelay: 1, maxDelay: 1 }, closeTimeout: 0 };

afterEach(() => {
  jest.restoreAllMocks();
});

/** Hosts that are all one listener, where the test plays the broker; the name service tells who is looked for. */
class Town implements AsyncDisposable {
  /** The host names that were dialled. */
  readonly dialled = new Inbox<string>();
  readonly peers = new Inbox<ScriptedPeer>();
  readonly #listener: Listener;

  static async open(): Promise<Town> {
    const peers = new Inbox<ScriptedPeer>();
    const server = createServer((socket) => {
      const peer = new ScriptedPeer();
      socket.pipe(peer.transport).pipe(socket);
      peers.push(peer);
    });
    return new Town(await Listener.on(server), peers);
  }

  private constructor(listener: Listener, peers: Inbox<ScriptedPeer>) {
    this.#listener = listener;
    this.peers = peers;
  }

  connection(urls: BrokerUrls, options: AmqpConnectionOptions = {}): AmqpConnection {
    const lookup: HostLookup = (host, { all }, callback) => {
      this.dialled.push(host);
      if (all === true) callback(null, [{ address: '127.0.0.1', family: 4 }]);
      else callback(null, '127.0.0.1', 4);
    };
    return new AmqpConnection(urls, { ...quick, shuffleHosts: false, lookup, port: this.#listener.port, ...options });
  }

  /** The next connection, which is set up. */
  async opened(amqp: AmqpConnection): Promise<ScriptedPeer> {
    const peer = await this.peers.next();
    await peer.handshake();
    await within('open', amqp.opened());
    return peer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#listener[Symbol.asyncDispose]();
  }
}

/** A name service that knows nobody, and whom it was asked for. */
function desert(): { readonly asked: Inbox<string>; readonly lookup: HostLookup } {
  const asked = new Inbox<string>();
  return {
    asked,
    lookup: (host, _options, callback) => {
      asked.push(host);
      setImmediate(() => {
        callback(Object.assign(new Error('unknown'), { code: 'ENOTFOUND' }), []);
      });
    },
  };
}

/** The first hosts that are tried when none is there. */
async function tried(count: number, urls: BrokerUrls, options: AmqpConnectionOptions = {}): Promise<string[]> {
  const { asked, lookup } = desert();
  await using amqp = new AmqpConnection(urls, { ...quick, lookup, ...options });
  amqp.openInBackground();
  const names: string[] = [];
  while (names.length < count) names.push(await asked.next('the next host'));
  return names;
}

const close = (replyCode: number) => ({ replyCode, replyText: 'CLOSED', classId: 0, methodId: 0 });

describe('a list of brokers', () => {
  const list = ['amqp://a', 'amqp://b', 'amqp://c', 'amqp://d', 'amqp://e'];

  test('is tried in an order of each connection, and that order stays', async () => {
    const orders = await Promise.all(Array.from({ length: 8 }, () => tried(10, list)));
    for (const order of orders) {
      expect([...order.slice(0, 5)].sort()).toEqual(['a', 'b', 'c', 'd', 'e']);
      expect(order.slice(5)).toEqual(order.slice(0, 5));
    }
    // All of eight the same: one chance in 120 ** 7.
    expect(new Set(orders.map(String)).size).toBeGreaterThan(1);
  });

  test('is tried in its own order with shuffleHosts: false', async () => {
    expect(await tried(6, list, { shuffleHosts: false })).toEqual(['a', 'b', 'c', 'd', 'e', 'a']);
  });

  test('may name one twice, which is tried once', async () => {
    expect(await tried(4, ['amqp://a', 'amqp://a', 'amqp://b'], { shuffleHosts: false })).toEqual(['a', 'b', 'a', 'b']);
  });

  test('is refused with an option or a type that is wrong', () => {
    const options = (given: object): AmqpConnectionOptions => given;
    expect(thrown(() => new AmqpConnection(list, options({ shuffleHosts: 'no' }))).message).toContain('shuffleHosts');
    const misspelt = thrown(() => new AmqpConnection(list, options({ shufleHosts: false })));
    expect(misspelt).toMatchObject({ code: 'INVALID_OPTION' });
    expect(misspelt.message).toMatch(/shufleHosts\. Known are .*recovery, recordTopology, shuffleHosts/);
    const url: unknown = new URL('amqp://ann:secret@broker');
    const error = thrown(() => new AmqpConnection(url as string));
    expect(error.code).toBe('INVALID_URL');
    expect(everythingOf(error)).not.toContain('secret');
  });
});

describe('after a connection', () => {
  const hosts = ['amqp://a', 'amqp://b'];

  test('that was stable and is lost, the same host is tried first', async () => {
    await using town = await Town.open();
    await using amqp = town.connection(hosts, { recovery: { ...quick.recovery, stableAfter: 0 } });
    amqp.openInBackground();
    for (let count = 0; count < 3; count += 1) (await town.opened(amqp)).hangUp();
    await town.opened(amqp);
    expect(town.dialled.all).toEqual(['a', 'a', 'a', 'a']);
  });

  test('that was stable and was sent away (320), the next host is', async () => {
    await using town = await Town.open();
    await using amqp = town.connection(hosts, { recovery: { ...quick.recovery, stableAfter: 0 } });
    amqp.openInBackground();
    (await town.opened(amqp)).send(0, 'connection.close', close(320));
    await town.opened(amqp);
    expect(town.dialled.all).toEqual(['a', 'b']);
  });

  test('that broke soon, the next host is', async () => {
    await using town = await Town.open();
    await using amqp = town.connection(hosts, { recovery: { ...quick.recovery, stableAfter: '1h' } });
    amqp.openInBackground();
    (await town.opened(amqp)).hangUp();
    (await town.opened(amqp)).hangUp();
    await town.opened(amqp);
    expect(town.dialled.all).toEqual(['a', 'b', 'a']);
  });

  test('a user who is no longer let in is told in the status, and tried again slowly', async () => {
    // The longest wait of every range.
    jest.spyOn(Math, 'random').mockReturnValue(1);
    await using town = await Town.open();
    await using amqp = town.connection('amqp://a', { recovery: { initialDelay: 1, maxDelay: 300 } });
    const opening = amqp.open();
    const first = await town.opened(amqp);
    await opening;
    const failures = new Inbox<readonly [status: ConnectionStatus, at: number]>();
    amqp.on('status', (status) => {
      if (status.state === 'connecting' && status.attempt === 2) failures.push([status, performance.now()]);
    });
    first.hangUp();
    const second = await town.peers.next();
    await second.protocolHeader();
    second.send(0, 'connection.start', {
      versionMajor: 0,
      versionMinor: 9,
      serverProperties: {},
      mechanisms: 'PLAIN',
      locales: 'en_US',
    });
    await second.receive('connection.start-ok');
    second.send(0, 'connection.close', close(403));
    const [status, failedAt] = await failures.next('the failure');
    expect(status).toMatchObject({ lastError: { code: 'AUTHENTICATION_FAILED' } });
    await town.opened(amqp);
    expect(performance.now() - failedAt).toBeGreaterThan(250);
  });

  test('that the broker closed over our bytes (501 to 505), ten in a row are the last', async () => {
    await using town = await Town.open();
    const amqp = town.connection('amqp://a');
    const statuses = new Inbox<ConnectionStatus>();
    amqp.on('status', statuses.push);
    amqp.openInBackground();
    for (let count = 0; count < 10; count += 1)
      (await town.opened(amqp)).send(0, 'connection.close', close(count === 0 ? 505 : 501));
    expect(await statuses.next('the end', ({ state }) => state === 'closed')).toMatchObject({
      error: { code: 'CONNECTION_CLOSED', replyCode: 501, closedBy: 'server' },
    });
    await amqp.close();
    expect(town.dialled.all).toHaveLength(10);
  });
});

describe('a function that names the brokers', () => {
  test('is asked on every attempt, and keeps its order', async () => {
    const answers = ['amqp://a', ['amqp://b', 'amqp://c'], Promise.resolve(['amqp://b', 'amqp://c'])];
    let asked = 0;
    const urls = (): (typeof answers)[number] => {
      asked += 1;
      return answers[asked - 1] ?? ['amqp://b', 'amqp://c', 'amqp://a'];
    };
    expect(await tried(6, urls)).toEqual(['a', 'b', 'c', 'a', 'b', 'c']);
    expect(asked).toBe(6);
  });

  test('is shuffled where the user says so', async () => {
    const urls = (): string[] => ['amqp://a', 'amqp://b', 'amqp://c', 'amqp://d', 'amqp://e'];
    const firsts = await Promise.all(
      Array.from({ length: 20 }, async () => (await tried(1, urls, { shuffleHosts: true }))[0]),
    );
    // All of twenty the same: one chance in 5 ** 19.
    expect(new Set(firsts).size).toBeGreaterThan(1);
  });

  test('reaches a real broker', async () => {
    await using amqp = new AmqpConnection(() => Promise.resolve([brokerUrl]));
    await amqp.open();
    expect(amqp.status.state).toBe('open');
  });

  test.each<[string, () => unknown, RegExp]>([
    ['throws', () => thrower(new Error('registry is down')), /failed\. Error: registry is down\. It is asked again/],
    ['rejects', () => Promise.reject(new Error('registry is down')), /failed\. Error: registry is down\. It/],
    [
      'rejects with a URL',
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what others throw may be no error
      () => Promise.reject('amqp://ann:secret@a'),
      /failed\. What it threw is no error but a URL\. It is/,
    ],
    ['names none', () => [], /named none/],
    ['returns no URLs', () => ({ host: 'secret' }), /has to return a URL or a list of URLs/],
    ['returns a list of something else', () => [new URL('amqp://ann:secret@a')], /has to return a URL or a list/],
    ['returns no AMQP URL', () => 'http://ann:secret@a', /it has to begin with amqp:/],
    ['stumbles over a URL', () => new URL('amqp://ann:secret@:1'), /failed/],
    ['never answers', () => new Promise(() => undefined), /no answer within 20 ms \(connectTimeout\)/],
  ])('and %s is a failed attempt, which is made again', async (_, answer, said) => {
    let asked = 0;
    const urls = (): string => {
      asked += 1;
      return asked === 1 ? (answer() as string) : brokerUrl;
    };
    const settled = new Inbox<ConnectionStatus>();
    await using amqp = new AmqpConnection(urls, { ...quick, connectTimeout: 20 });
    amqp.on('status', settled.push);
    amqp.openInBackground();
    const status = await settled.next('the failure', (at) => at.state === 'connecting' && at.attempt === 2);
    const error = status.state === 'connecting' ? status.lastError : undefined;
    expect(error?.code).toBe('HOSTS_FAILED');
    expect(error?.message).toMatch(said);
    expect(everythingOf(error)).not.toContain('secret');
    await settled.next('the connection', ({ state }) => state === 'open');
  });

  test('and hangs is left by close()', async () => {
    const asked = new Inbox<undefined>();
    const amqp = new AmqpConnection(() => {
      asked.push(undefined);
      return new Promise(() => undefined);
    }, quick);
    const opening = failure(amqp.open());
    await asked.next('the question');
    await within('close', amqp.close());
    expect(await opening).toMatchObject({ code: 'CONNECTION_CLOSED', closedBy: 'client' });
  });

  test('has its options checked before it is asked', () => {
    const never = (): string => thrower(new Error('asked'));
    expect(thrown(() => new AmqpConnection(never, { port: 0 })).code).toBe('INVALID_OPTION');
    expect(thrown(() => new AmqpConnection(never, { connectTimeout: 'soon' as never })).code).toBe('INVALID_OPTION');
    expect(new AmqpConnection(never, { mechanism: 'EXTERNAL' }).status.state).toBe('idle');
  });

  test('makes open() reject at once when all that it named refuse for good', async () => {
    await using town = await Town.open();
    const amqp = town.connection(() => ['amqp://a', 'amqp://b']);
    const opening = failure(amqp.open());
    for (let count = 0; count < 2; count += 1) {
      const peer = await town.peers.next();
      await peer.protocolHeader();
      peer.sendRaw(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'));
    }
    expect((await opening).code).toBe('NOT_AMQP');
    expect(town.dialled.all).toEqual(['a', 'b']);
  });
});

function thrower(error: Error): never {
  throw error;
}
