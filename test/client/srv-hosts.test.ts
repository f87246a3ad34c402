/** Brokers from SRV records: their order, their URLs, and what is said when there are none. */
import { describe, expect, test } from '@jest/globals';
import { createSocket } from 'node:dgram';
import type { SrvRecord } from 'node:dns';
import { Resolver } from 'node:dns/promises';
import { once } from 'node:events';

import { bySrvOrder, srvHosts } from '../../lib/client/srv-hosts.js';
import { everythingOf, failure, thrown } from '../support/client.js';

const SERVICE = '_amqp._tcp.example.org';

function record(name: string, { priority = 1, weight = 0, port = 5672 } = {}): SrvRecord {
  return { name, priority, weight, port };
}

/** The brokers of such a template, with these records in DNS. */
async function hostsOf(url: string, ...records: readonly SrvRecord[]): Promise<string | readonly string[]> {
  return await srvHosts(SERVICE, url, { resolver: { resolveSrv: () => Promise.resolve([...records]) } })();
}

describe('URLs', () => {
  test.each([
    ['amqp://ann:secret@/shop', 'amqp://ann:secret@one.example.org:5673/shop'],
    ['amqps://ann:p%40ss@/%2F?heartbeat=5', 'amqps://ann:p%40ss@one.example.org:5673/%2F?heartbeat=5'],
    ['amqp://ann:secret@instead.example:1/shop', 'amqp://ann:secret@one.example.org:5673/shop'],
    ['amqp://ann:secret@[::1]:1', 'amqp://ann:secret@one.example.org:5673'],
    ['amqp://', 'amqp://one.example.org:5673'],
    ['amqp://?heartbeat=5', 'amqp://one.example.org:5673?heartbeat=5'],
  ])('%s becomes %s', async (template, url) => {
    expect(await hostsOf(template, record('one.example.org', { port: 5673 }))).toEqual([url]);
  });

  test.each(['', 'one', 'http://ann:secret@/', 'amqp://ann:sec/ret@/shop', 'amqp://ann:secret@/?secret=1'])(
    'of %p are refused at once, without repeating any part of it',
    (url) => {
      const error = thrown(() => srvHosts(SERVICE, url));
      expect(error.code).toBe('INVALID_URL');
      expect(everythingOf(error)).not.toMatch(/secret|sec\/ret/);
    },
  );

  test('take names of hosts alone from DNS', async () => {
    const names = ['evil@elsewhere.example', 'a/b', 'a:1', '', '.', 'good.example.org.'];
    expect(await hostsOf('amqp://', ...names.map((name) => record(name)))).toEqual(['amqp://good.example.org:5672']);
  });
});

describe('the order', () => {
  test('is by priority first', async () => {
    const records = [record('c', { priority: 30 }), record('a', { priority: 10 }), record('b', { priority: 20 })];
    expect(await hostsOf('amqp://', ...records)).toEqual(['amqp://a:5672', 'amqp://b:5672', 'amqp://c:5672']);
  });

  test('among equals is drawn by weight', () => {
    const records = [record('small', { weight: 10 }), record('large', { weight: 90 })];
    const first = Array.from({ length: 10_000 }, () => bySrvOrder(records)[0]?.name);
    const share = first.filter((name) => name === 'large').length / first.length;
    // RFC 2782 draws from 0 to 100: 90 / 101, with a standard deviation of 0.003.
    expect(share).toBeGreaterThan(0.86);
    expect(share).toBeLessThan(0.92);
  });

  test('leaves a small chance to those of weight 0, and has everyone in it once', () => {
    const records = [record('none'), record('some', { weight: 3 }), record('more', { weight: 6 })];
    expect(bySrvOrder(records, () => 0).map(({ name }) => name)).toEqual(['none', 'some', 'more']);
    expect(bySrvOrder(records, () => 0.999).map(({ name }) => name)).toEqual(['more', 'some', 'none']);
  });
});

describe('a look-up', () => {
  test('asks the name servers that it is given, and takes their answer off the wire', async () => {
    const socket = createSocket('udp4').bind(0, '127.0.0.1');
    await once(socket, 'listening');
    socket.on('message', (query, { port, address }) => {
      socket.send(srvAnswer(query, 'broker.example.org', 5673), port, address);
    });
    const resolver = new Resolver();
    resolver.setServers([`127.0.0.1:${socket.address().port}`]);
    expect(await srvHosts(SERVICE, 'amqp://ann:secret@/shop', { resolver })()).toEqual([
      'amqp://ann:secret@broker.example.org:5673/shop',
    ]);
    socket.close();
  });

  test('that fails rejects with its reason, and without the password', async () => {
    const cause = Object.assign(new Error('querySrv ENOTFOUND'), { code: 'ENOTFOUND' });
    const hosts = srvHosts(SERVICE, 'amqp://ann:secret@/', { resolver: { resolveSrv: () => Promise.reject(cause) } });
    const error = await failure((async () => await hosts())());
    expect(error).toMatchObject({ code: 'HOSTS_FAILED', cause });
    expect(error.message).toContain(`'${SERVICE}' cannot be looked up: ENOTFOUND`);
    expect(everythingOf(error)).not.toContain('secret');
  });

  test('that finds nothing rejects', async () => {
    expect(await failure(hostsOf('amqp://'))).toMatchObject({ code: 'HOSTS_FAILED' });
  });
});

/** The answer to a DNS query (RFC 1035, section 4.1): its header and question again, and one SRV record. */
function srvAnswer(query: Buffer, target: string, port: number): Buffer {
  const labels = target.split('.').flatMap((label) => [Buffer.of(label.length), Buffer.from(label)]);
  const name = Buffer.concat([...labels, Buffer.of(0)]);
  const head = Buffer.from(query.subarray(0, 12));
  head.writeUInt16BE(0x8180, 2); // an answer without error
  head.writeUInt16BE(1, 6); // one answer
  head.writeUInt32BE(0, 8); // no authorities, nothing additional
  const question = query.subarray(12, query.indexOf(0, 12) + 5);
  const fixed = Buffer.alloc(18);
  fixed.writeUInt16BE(0xc00c, 0); // the name of the question
  fixed.writeUInt16BE(33, 2); // SRV
  fixed.writeUInt16BE(1, 4); // Internet; then a time to live of 0
  fixed.writeUInt16BE(6 + name.length, 10);
  fixed.writeUInt16BE(port, 16); // after priority and weight
  return Buffer.concat([head, question, fixed, name]);
}
