/** Reading URLs and options. The URLs are RabbitMQ's: https://www.rabbitmq.com/docs/uri-spec. */
import { describe, expect, test } from '@jest/globals';
import { inspect } from 'node:util';

import {
  type ConnectionOptions,
  type ResolvedConnectionOptions,
  addressOf,
  resolveConnectionOptions,
} from '../../lib/client/connection-options.js';
import { Credentials } from '../../lib/client/credentials.js';
import { everythingOf, thrown } from '../support/client.js';

/** The part of the options that a test is about. */
function pick(from: string, ...keys: readonly (keyof ResolvedConnectionOptions)[]): Record<string, unknown> {
  const options = resolveConnectionOptions(from);
  return Object.fromEntries(keys.map((key) => [key, options[key]]));
}

/** Options as JavaScript may give them, without the compiler's help. */
function untyped(options: object): ConnectionOptions {
  return options;
}

describe('a URL', () => {
  test('that names nothing means guest at localhost', () => {
    const { credentials, ...options } = resolveConnectionOptions('amqp://');
    expect(options).toMatchObject({
      hostname: 'localhost',
      port: 5672,
      vhost: '/',
      tls: undefined,
      heartbeat: 10,
      frameMax: 0,
      channelMax: 0,
      mechanisms: ['PLAIN', 'AMQPLAIN'],
      connectTimeout: 10_000,
      handshakeTimeout: 10_000,
      closeTimeout: 2_000,
    });
    expect([credentials.username, credentials.password]).toEqual(['guest', 'guest']);
  });

  test('names user, password, host, port and virtual host', () => {
    const { credentials, ...options } = resolveConnectionOptions('amqp://ann:secret@broker.example:5673/shop');
    expect(options).toMatchObject({ hostname: 'broker.example', port: 5673, vhost: 'shop', tls: undefined });
    expect([credentials.username, credentials.password]).toEqual(['ann', 'secret']);
  });

  test('may escape every character in every part', () => {
    const { credentials, ...options } = resolveConnectionOptions(
      'amqp://a%3Ab%40c:p%2Fw%3F%23%5B%5D%25%C3%A9@h%61st/v%2Fh%20%25',
    );
    expect(options).toMatchObject({ hostname: 'hast', vhost: 'v/h %' });
    expect([credentials.username, credentials.password]).toEqual(['a:b@c', 'p/w?#[]%é']);
  });

  test.each([
    ['amqp://host', '/'],
    ['amqp://host/', '/'],
    ['amqp://host/%2F', '/'],
    ['amqp://host/%2Fshop', '/shop'],
    ['amqp://host/shop', 'shop'],
    ['amqp:///shop', 'shop'],
  ])('%s means the virtual host %s', (url, vhost) => {
    expect(resolveConnectionOptions(url).vhost).toBe(vhost);
  });

  test('of an IPv6 address has it in brackets, and so has the address in errors', () => {
    const options = resolveConnectionOptions('amqp://[2001:db8::1]:5673/');
    expect(options).toMatchObject({ hostname: '2001:db8::1', port: 5673 });
    expect(addressOf(options)).toBe('[2001:db8::1]:5673');
  });

  test('with amqps: turns TLS on, with its own port', () => {
    expect(pick('amqps://broker', 'port', 'tls')).toEqual({ port: 5671, tls: {} });
    expect(pick('amqps://broker:1234', 'port', 'tls')).toEqual({ port: 1234, tls: {} });
  });

  test('may be written in capitals', () => {
    expect(pick('AMQPS://broker', 'hostname', 'port')).toEqual({ hostname: 'broker', port: 5671 });
  });

  test('without a password has an empty one', () => {
    const { credentials } = resolveConnectionOptions('amqp://ann@broker');
    expect([credentials.username, credentials.password]).toEqual(['ann', '']);
  });

  test("takes parameters by RabbitMQ's names and in its units", () => {
    expect(
      pick(
        'amqp://h/v?heartbeat=5&connection_timeout=1500&channel_max=9&frame_max=8192&auth_mechanism=amqplain',
        'heartbeat',
        'connectTimeout',
        'channelMax',
        'frameMax',
        'mechanisms',
      ),
    ).toEqual({ heartbeat: 5, connectTimeout: 1500, channelMax: 9, frameMax: 8192, mechanisms: ['AMQPLAIN'] });
  });

  test('yields to the options beside it, except to those that are undefined', () => {
    const options = resolveConnectionOptions('amqps://ann:secret@a:1/x?heartbeat=5', {
      hostname: 'b',
      heartbeat: '30s',
      tls: { servername: 'c' },
      vhost: undefined,
      credentials: { username: 'bob', password: 'other' },
    });
    expect(options).toMatchObject({ hostname: 'b', port: 1, vhost: 'x', heartbeat: 30, tls: { servername: 'c' } });
    expect([options.credentials.username, options.credentials.password]).toEqual(['bob', 'other']);
  });
});

describe('a malformed URL is refused without repeating any part of it:', () => {
  test.each([
    ['nothing', ''],
    ['no URL', 'secret'],
    ['a host alone', 'ann:secret@broker'],
    ['another scheme', 'http://ann:secret@broker/'],
    ['no slashes after the scheme', 'amqp:ann:secret@broker'],
    ['one slash after the scheme', 'amqp:/ann:secret@broker'],
    ['a port that is no number', 'amqp://ann:secret@broker:port/'],
    ['a port beyond 65535', 'amqp://ann:secret@broker:70000/'],
    ['a raw / in the password', 'amqp://ann:sec/ret@broker/'],
    ['a raw / behind digits in the password', 'amqp://ann:1/secret@broker'],
    ['a raw ? behind digits in the password', 'amqp://ann:1?secret@broker'],
    ['a raw ? behind digits, with a =', 'amqp://ann:1?secret=2@broker'],
    ['a raw # in the password', 'amqp://ann:1#secret@broker'],
    ['a raw % in the password', 'amqp://ann:100%secret@broker'],
    ['a raw % in the user name', 'amqp://100%ann:secret@broker'],
    ['an escape that is no UTF-8', 'amqp://ann:secret%FF@broker'],
    ['a raw % in the virtual host', 'amqp://ann:secret@broker/100%'],
    ['two path segments', 'amqp://ann:secret@broker/a/b'],
    ['a fragment', 'amqp://ann:secret@broker/a#b'],
    ['a broken IPv6 address', 'amqp://ann:secret@[::1/'],
    ['an unknown parameter', 'amqp://ann:secret@broker/?secret=1'],
    ['a heartbeat that is no number', 'amqp://ann:secret@broker/?heartbeat=secret'],
    ['an empty parameter', 'amqp://ann:secret@broker/?frame_max='],
    ['a negative parameter', 'amqp://ann:secret@broker/?channel_max=-1'],
  ])('%s', (_, url) => {
    const error = thrown(() => resolveConnectionOptions(url));
    expect(error.code).toBe('INVALID_URL');
    expect(error.message).toContain('amqp://user:password@host:port/vhost');
    expect(everythingOf(error).replaceAll('amqp://user:password@', '')).not.toMatch(/secret|@broker|sec\/ret/);
  });

  test.each([
    ['port', 'amqp://ann:secret@broker:0/'],
    ['frameMax', 'amqp://ann:secret@broker/?frame_max=100'],
    ['channelMax', 'amqp://ann:secret@broker/?channel_max=65536'],
    ['heartbeat', 'amqp://ann:secret@broker/?heartbeat=65536'],
    ['mechanism', 'amqp://ann:secret@broker/?auth_mechanism=secret'],
  ])('a %s out of range is an INVALID_OPTION', (option, url) => {
    const error = thrown(() => resolveConnectionOptions(url));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(option);
    expect(everythingOf(error)).not.toContain('secret');
  });
});

describe('options', () => {
  test('that do not exist are refused, and the message names those that do', () => {
    const error = thrown(() => resolveConnectionOptions(untyped({ hostName: 'broker' })));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain('hostName');
    expect(error.message).toContain('hostname, port, vhost, credentials');
  });

  test('that are not own properties of the table are unknown too', () => {
    expect(thrown(() => resolveConnectionOptions(untyped({ toString: 1 }))).code).toBe('INVALID_OPTION');
  });

  test.each<[string, unknown]>([
    ['hostname', ''],
    ['hostname', null],
    ['port', '5672'],
    ['port', 0],
    ['port', 65_536],
    ['port', 1.5],
    ['vhost', 7],
    ['credentials', 'secret'],
    ['credentials', { username: 'ann' }],
    ['credentials', { username: 'ann', password: 5 }],
    ['mechanism', 'plain'],
    ['tls', 'secret'],
    ['tls', null],
    ['heartbeat', true],
    ['heartbeat', 'often'],
    ['heartbeat', -1],
    ['heartbeat', 10],
    ['heartbeat', '500ms'],
    ['heartbeat', '1d'],
    ['frameMax', 4095],
    ['frameMax', 2 ** 32],
    ['frameMax', '8192'],
    ['channelMax', -1],
    ['channelMax', 65_536],
    ['connectionName', 3],
    ['clientProperties', 'x'],
    ['connectTimeout', Number.NaN],
    ['connectTimeout', Infinity],
    ['handshakeTimeout', null],
    ['closeTimeout', ''],
    ['closeTimeout', '10 parsecs'],
    ['maxMessageSize', 0],
    ['maxMessageSize', '1MB'],
    ['lookup', 'dns'],
    ['dial', {}],
  ])('%s: %p is refused by name, without its value', (option, value) => {
    const error = thrown(() => resolveConnectionOptions(untyped({ [option]: value })));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(option);
    expect(everythingOf(error)).not.toContain('secret');
  });

  test('a heartbeat in milliseconds that was meant as seconds is refused with the units', () => {
    expect(thrown(() => resolveConnectionOptions({ heartbeat: 10 })).message).toContain("'10s' or 10_000");
    expect(resolveConnectionOptions({ heartbeat: 10_000 }).heartbeat).toBe(10);
  });

  test.each(['connectTimeout', 'handshakeTimeout', 'closeTimeout'] as const)(
    'a %s beyond what a timer can count is refused, because the timer would fire at once',
    (option) => {
      const error = thrown(() => resolveConnectionOptions({ [option]: '30d' }));
      expect(error.code).toBe('INVALID_OPTION');
      expect(error.message).toContain(option);
      expect(resolveConnectionOptions({ [option]: '24d' })[option]).toBe(24 * 86_400_000);
    },
  );

  test.each<[string, unknown]>([
    ['a URL object', new URL('amqp://ann:secret@broker')],
    ['null', null],
    ['a number', 5672],
    ['a function', (): void => undefined],
  ])('%s in place of a URL or options is refused, not taken for defaults', (_, given) => {
    const error = thrown(() => resolveConnectionOptions(given as string));
    expect(error.code).toBe('INVALID_OPTION');
    expect(everythingOf(error)).not.toContain('secret');
  });
});

describe('credentials', () => {
  const credentials = new Credentials('ann', 'secret');

  test('do not show the password when they are printed', () => {
    const options = { nested: [resolveConnectionOptions('amqp://ann:secret@broker')] };
    expect(inspect(credentials)).toContain('***');
    expect(inspect(credentials, { showHidden: true, customInspect: false })).not.toContain('secret');
    expect(inspect(options, { depth: 10, showHidden: true, getters: true })).not.toContain('secret');
    expect(JSON.stringify([credentials, options])).not.toContain('secret');
    expect(Object.entries(credentials).flat()).not.toContain('secret');
  });

  test('still hand it to whoever logs in', () => {
    expect(credentials.password).toBe('secret');
  });
});
