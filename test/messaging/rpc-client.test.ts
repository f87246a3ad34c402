/** Requests: what is sent, what their replies come to, and how every request comes to an end. Their servers are plain AMQP. */
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { gzipSync } from 'node:zlib';

import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { ReplyOptions } from '../../lib/client/channel-options.js';
import type { ConfirmChannel } from '../../lib/client/channel.js';
import type { Connection } from '../../lib/client/connection.js';
import { connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { RemoteError } from '../../lib/errors.js';
import type { ReplyObserver } from '../../lib/messaging/incoming-replies.js';
import { RpcClient, type RpcClientOptions, type RpcRequestOptions } from '../../lib/messaging/rpc-client.js';
import { Serializers } from '../../lib/messaging/serializer.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { CollectedLog } from '../support/collected-log.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox, eventually, within } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
let connection: AmqpConnection;
let serverConnection: Connection;
let server: ConfirmChannel;
let clients: RpcClient[];
let log: CollectedLog;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  connection = new AmqpConnection(brokerUrl, { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 5 } });
  await connection.open();
  serverConnection = await connect(brokerUrl);
  server = await serverConnection.channel({ confirm: true });
  clients = [];
  log = new CollectedLog();
});

afterEach(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await connection.close();
  await serverConnection.close();
  await scratch[Symbol.asyncDispose]();
});

function client(options: RpcClientOptions = {}): RpcClient {
  const made = new RpcClient(connection, { log, ...options });
  clients.push(made);
  return made;
}

/** A queue whose requests the test answers. */
async function inbox(): Promise<{ readonly queue: string; readonly requests: Inbox<Message> }> {
  const queue = await scratch.queue();
  const requests = new Inbox<Message>();
  await server.basicConsume(queue, requests.push, { noAck: true });
  return { queue, requests };
}

/** A queue whose requests all get that reply. */
async function replying(body: string | Uint8Array, options?: ReplyOptions): Promise<string> {
  const queue = await scratch.queue();
  await server.basicConsume(queue, (request) => server.reply(request, body, options), { noAck: true });
  return queue;
}

const json = { contentType: 'application/json' };

describe('a request', () => {
  test('is JSON that expires with it, not written to disk, and says what it is told to say', async () => {
    const { queue, requests } = await inbox();
    const exchange = await scratch.exchange('direct');
    await scratch.bind(queue, exchange, 'quote');
    const before = Math.floor(Date.now() / 1000);
    const rpc = client({ appId: 'shop' });
    const options: RpcRequestOptions = { timeout: '5s', headers: { tenant: 'a' }, priority: 3, type: 'quote' };
    const reply = rpc.request<{ price: number }>(exchange, 'quote', { sku: 7 }, options);
    const request = await requests.next();
    expect(JSON.parse(request.text)).toEqual({ sku: 7 });
    const { properties } = request;
    expect(properties).toMatchObject({
      contentType: 'application/json',
      deliveryMode: 1,
      appId: 'shop',
      headers: { tenant: 'a' },
      priority: 3,
      type: 'quote',
      replyTo: expect.stringMatching(/^amq\.rabbitmq\.reply-to\../),
    });
    expect(properties.correlationId).toBeDefined();
    expect(properties.timestamp).toBeGreaterThanOrEqual(before);
    expect(Number(properties.expiration)).toBeGreaterThan(0);
    expect(Number(properties.expiration)).toBeLessThanOrEqual(5_000);
    await server.reply(request, '{"price":3}', json);
    expect((await reply).price).toBe(3);
    expect(rpc.pendingCount).toBe(0);
  });

  test('goes to a queue by its name, and to disk when it shall', async () => {
    const { queue, requests } = await inbox();
    const reply = client().requestToQueue<string>(queue, 'hello', { persistent: true });
    const request = await requests.next();
    expect([request.text, request.properties.deliveryMode]).toEqual(['"hello"', 2]);
    await server.reply(request, '"world"', json);
    expect(await reply).toBe('world');
  });

  test('is written by the serializer of its content type, compressed when it shall be, and bytes are as they are', async () => {
    const { queue, requests } = await inbox();
    const upper = {
      contentType: 'text/x-upper',
      serialize: (payload: unknown) => String(payload).toUpperCase(),
      deserialize: (body: Buffer) => body.toString().toLowerCase(),
    };
    const rpc = client({ contentType: 'text/x-upper', serializers: new Serializers([upper]) });
    const replies = [
      rpc.requestToQueue(queue, 'hello'),
      rpc.requestToQueue(queue, { a: 1 }, { contentType: 'application/json', contentEncoding: 'gzip' }),
      rpc.requestToQueue(queue, Buffer.from('raw')),
    ];
    const bodies: unknown[] = [];
    while (bodies.length < 3) {
      const request = await requests.next();
      const { contentType, contentEncoding } = request.properties;
      bodies.push([contentType, contentEncoding, contentEncoding === undefined ? request.text : 'compressed']);
      await server.reply(request, 'DONE', { contentType: 'text/x-upper' });
    }
    // What is compressed is sent when it is ready.
    expect(bodies).toEqual(
      expect.arrayContaining([
        ['text/x-upper', undefined, 'HELLO'],
        ['application/json', 'gzip', 'compressed'],
        ['application/octet-stream', undefined, 'raw'],
      ]),
    );
    expect(await Promise.all(replies)).toEqual(['done', 'done', 'done']);
  });

  test('by the thousands each gets its own reply', async () => {
    const queue = await scratch.queue();
    await server.basicConsume(queue, (request) => server.reply(request, request.text, json), { noAck: true });
    const rpc = client();
    const count = 3_000;
    const replies = Array.from({ length: count }, (_, index) => rpc.requestToQueue(queue, { index }));
    expect(await within('the replies', Promise.all(replies))).toEqual(
      Array.from({ length: count }, (_, index) => ({ index })),
    );
  });
});

describe('a reply', () => {
  test.each<[what: string, body: string | Uint8Array, properties: ReplyOptions, value: unknown]>([
    ['JSON', '{"a":[1]}', json, { a: [1] }],
    ['text', 'hello', { contentType: 'text/plain' }, 'hello'],
    ['bytes', Buffer.from([1, 2]), { contentType: 'application/octet-stream' }, Buffer.from([1, 2])],
    ['JSON that says nothing of it', '[1]', {}, [1]],
    ['compressed', gzipSync('"zipped"'), { ...json, contentEncoding: 'gzip' }, 'zipped'],
    ['nothing', '', {}, undefined],
    ['nothing, as JSON', '', json, undefined],
    ['nothing, as text', '', { contentType: 'text/plain' }, ''],
  ])('that is %s resolves to what it says', async (_what, body, properties, value) => {
    expect(await client().requestToQueue(await replying(body, properties), 1)).toEqual(value);
  });

  test('that cannot be read rejects its request, and no other', async () => {
    const { queue, requests } = await inbox();
    const rpc = client();
    const bad = failure(rpc.requestToQueue(queue, 1));
    const zipped = failure(rpc.requestToQueue(queue, 2));
    const good = rpc.requestToQueue(queue, 3);
    for (let count = 0; count < 3; count += 1) {
      const request = await requests.next();
      if (request.text === '1') await server.reply(request, '{', json);
      else if (request.text === '2') await server.reply(request, 'no gzip', { ...json, contentEncoding: 'gzip' });
      else await server.reply(request, '"good"', json);
    }
    for (const error of [await bad, await zipped]) {
      expect(error.code).toBe('UNDECODABLE');
      expect(error.message).toContain(`The reply of queue '${queue}' cannot be read. `);
    }
    expect(await good).toBe('good');
  });

  test('that tells of an error rejects with it', async () => {
    const headers = {
      'x-error-name': 'UnknownSku',
      'x-error-code': 'UNKNOWN_SKU',
      'x-error-message': 'there is no 7',
      'x-error-server': 'pricing/Quotes.quote',
    };
    const queue = await replying('', { headers });
    const error = await failure(client().requestToQueue(queue, 7));
    expect(error).toBeInstanceOf(RemoteError);
    expect(error).toMatchObject({
      name: 'RemoteError',
      code: 'REMOTE_ERROR',
      remote: {
        name: 'UnknownSku',
        code: 'UNKNOWN_SKU',
        message: 'there is no 7',
        server: 'pricing/Quotes.quote',
      },
      message:
        `The request to queue '${queue}' failed. pricing/Quotes.quote answered: ` +
        'UnknownSku (UNKNOWN_SKU): there is no 7',
    });
    expect(error.stack).toContain('rpc-client.test');
  });

  test.each<[what: string, headers: NonNullable<ReplyOptions['headers']>, remote: object]>([
    ['a message alone', { 'x-error-message': 'no' }, { name: 'Error', code: undefined, message: 'no' }],
    ['a code that is a number', { 'x-error-code': 404 }, { name: 'Error', code: '404', message: '' }],
    ['a name alone', { 'x-error-name': 'Oops' }, { name: 'Oops', code: undefined, message: '' }],
    ['a name that is no text', { 'x-error-name': { a: 1 } }, { name: 'Error', code: undefined, message: '' }],
    ['a code that is a list', { 'x-error-code': [1] }, { name: 'Error', code: undefined, message: '' }],
  ])('is an error with %s', async (_what, headers, remote) => {
    const error = await failure(client().requestToQueue(await replying('ignored', { headers }), 1));
    expect(error).toMatchObject({ code: 'REMOTE_ERROR', remote: { ...remote, server: undefined } });
  });

  test('is none with headers of errors that have no value', async () => {
    const headers = { 'x-error-name': null, 'x-error-code': null, 'x-error-message': null };
    expect(await client().requestToQueue(await replying('7', { ...json, headers }), 1)).toBe(7);
  });

  test('with the control characters of an attacker keeps them out of the message, and out of nothing else', async () => {
    const queue = await replying('', { headers: { 'x-error-message': 'a\nFATAL: b' } });
    const error = await failure(client().requestToQueue(queue, 1));
    expect(error.message).toContain('a\\u000aFATAL: b');
    expect(error).toMatchObject({ remote: { message: 'a\nFATAL: b' } });
  });

  test('that nobody awaits is dropped, and told to the log at most every ten seconds', async () => {
    const { queue, requests } = await inbox();
    const rpc = client();
    const reply = rpc.requestToQueue(queue, 1);
    const request = await requests.next();
    const { replyTo = '' } = request.properties;
    await server.basicPublish('', replyTo, '1', { correlationId: 'unknown' });
    for (let count = 0; count < 20; count += 1) await server.basicPublish('', replyTo, '1');
    await server.reply(request, '"mine"', json);
    expect(await reply).toBe('mine');
    expect(log.lines.all).toEqual([
      {
        level: 'warn',
        text: '1 reply was dropped that nobody awaits: late, or with an unknown correlation id.',
      },
    ]);
  });
});

describe('an observer of many replies', () => {
  /** With the observer in hand, as no Observable is around it. */
  class BareClient extends RpcClient {
    observe(queue: string, observer: ReplyObserver): void {
      this.stream({ exchange: '', routingKey: queue }, 1, {}, observer);
    }
  }

  afterEach(() => {
    jest.restoreAllMocks();
  });

  test.each<[callback: keyof ReplyObserver, headers: NonNullable<ReplyOptions['headers']>, calls: string[]]>([
    ['next', {}, ['next', 'error']],
    ['complete', {}, ['next', 'complete']],
    ['error', { 'x-error-message': 'no' }, ['error']],
  ])('whose %s throws gets no more, and its request is over', async (callback, headers, calls) => {
    const queue = await replying('1', { ...json, headers });
    const rpc = new BareClient(connection, { log });
    clients.push(rpc);
    const warned = new Inbox<string>();
    jest.spyOn(process, 'emitWarning').mockImplementation((warning) => {
      warned.push(String(warning));
    });
    const told = new Inbox<string>();
    const does = (name: keyof ReplyObserver) => (): void => {
      told.push(name);
      if (name === callback) throw new Error(`boom in ${name}`);
    };
    rpc.observe(queue, { next: does('next'), error: does('error'), complete: does('complete') });
    for (const call of calls) expect(await told.next()).toBe(call);
    await eventually('the end of the request', () => Promise.resolve(rpc.pendingCount === 0 ? true : undefined));
    expect(await rpc.requestToQueue<number>(await replying('2', json), 1)).toBe(2);
    expect(told.all).toEqual(calls);
    // What `next` throws, `error` is told.
    expect(warned.all).toEqual(callback === 'next' ? [] : [`boom in ${callback}`]);
  });

  test('whose error throws when nothing could be sent ends no process', async () => {
    const rpc = new BareClient(connection, { log });
    clients.push(rpc);
    const warned = new Inbox<string>();
    jest.spyOn(process, 'emitWarning').mockImplementation((warning) => {
      warned.push(String(warning));
    });
    const error = (): void => {
      throw new Error('boom');
    };
    rpc.observe('test.no-such-queue', { next: () => undefined, error, complete: () => undefined });
    expect(await warned.next()).toBe('boom');
    expect(rpc.pendingCount).toBe(0);
  });
});

describe('a request ends', () => {
  test('with its timeout, and with that of the client where it has none', async () => {
    const { queue } = await inbox();
    const rpc = client({ timeout: 20 });
    expect(await failure(rpc.requestToQueue(queue, 1))).toMatchObject({
      code: 'REPLY_TIMEOUT',
      message: expect.stringContaining('within 20 ms'),
    });
    expect(await failure(rpc.requestToQueue(queue, 1, { timeout: 10 }))).toMatchObject({
      message: expect.stringContaining('within 10 ms'),
    });
  });

  test('when its signal fires', async () => {
    const { queue, requests } = await inbox();
    const controller = new AbortController();
    const ended = failure(client().requestToQueue(queue, 1, { signal: controller.signal }));
    await requests.next();
    controller.abort();
    expect((await ended).code).toBe('ABORTED');
  });

  test('at once when no queue takes it, one refuses it, or there is no such exchange', async () => {
    const rpc = client();
    expect((await failure(rpc.requestToQueue(scratch.queueName(), 1))).name).toBe('UnroutableError');
    const full = await scratch.queue({ arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
    await scratch.send(full, 'in the way');
    expect((await failure(rpc.requestToQueue(full, 1))).name).toBe('PublishNackedError');
    expect((await failure(rpc.request(scratch.exchangeName(), 'x', 1))).name).toBe('PublishRefusedError');
    expect(await rpc.requestToQueue(await replying('1', json), 1)).toBe(1);
  });

  test('when its connection is lost; it is not sent again, and the next one goes over the next connection', async () => {
    const { queue, requests } = await inbox();
    const rpc = client();
    const lost = Array.from({ length: 50 }, (_, index) => failure(rpc.requestToQueue(queue, index)));
    while (requests.all.length < 50) await requests.next();
    line.cut();
    expect((await within('their ends', Promise.all(lost))).map(({ code }) => code)).toEqual(
      Array.from({ length: 50 }, () => 'REPLY_LOST'),
    );
    const next = rpc.requestToQueue(queue, 'next');
    const request = await requests.next('the next request', ({ text }) => text === '"next"');
    await server.reply(request, '"here"', json);
    expect(await next).toBe('here');
    expect(requests.all).toHaveLength(51);
  });

  test('when the client is closed, and then none begins', async () => {
    const { queue, requests } = await inbox();
    const rpc = client();
    const ended = failure(rpc.requestToQueue(queue, 1));
    await requests.next();
    await rpc.close();
    expect((await ended).code).toBe('CHANNEL_CLOSED');
    expect((await failure(rpc.requestToQueue(queue, 1))).code).toBe('CHANNEL_CLOSED');
    await rpc.close();
  });

  test('before it is sent when too many await their replies', async () => {
    const { queue, requests } = await inbox();
    const rpc = client({ maxPending: 1 });
    const first = rpc.requestToQueue(queue, 1);
    expect((await failure(rpc.requestToQueue(queue, 2))).code).toBe('REQUEST_LIMIT');
    await server.reply(await requests.next(), '1', json);
    await first;
  });

  test.each<[code: string, payload: unknown, options: unknown]>([
    ['UNSERIALIZABLE', 1n, {}],
    ['UNSERIALIZABLE', { a: 1 }, { contentType: 'text/plain' }],
    ['UNSERIALIZABLE', 'x', { contentEncoding: 'lzma' }],
    ['INVALID_ARGUMENT', 1, { headers: { a: Symbol('a') } }],
    ['INVALID_OPTION', 1, { timeout: 'soon' }],
    ['INVALID_OPTION', 1, { signal: {} }],
    ['INVALID_OPTION', 1, null],
    ['INVALID_OPTION', 1, 5],
    ['INVALID_OPTION', 1, { replyTo: 'me' }],
    ['INVALID_OPTION', 1, { expiration: '1s' }],
    ['INVALID_OPTION', 1, { mandatory: false }],
  ])('before it is sent with %s, and the next one is sent: %p, %p', async (code, payload, options) => {
    const { queue, requests } = await inbox();
    const rpc = client();
    expect((await failure(rpc.requestToQueue(queue, payload, options as RpcRequestOptions))).code).toBe(code);
    const next = rpc.requestToQueue(queue, 'next');
    await server.reply(await requests.next(), '1', json);
    await next;
    expect(requests.all.map(({ text }) => text)).toEqual(['"next"']);
    await eventually('no request to be pending', () => Promise.resolve(rpc.pendingCount === 0 || undefined));
  });
});
