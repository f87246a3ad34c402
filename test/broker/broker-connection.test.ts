/** A connection to the embedded broker in raw frames: its handshake, what ends it, and that nothing else ends with it. */
import { connect as connectTcp } from 'node:net';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import { bytes } from '../support/golden-frames.js';
import { RawClient } from '../support/raw-client.js';
import { eventually, within } from '../support/waits.js';

let broker: EmbeddedBroker;

beforeEach(() => {
  broker = EmbeddedBroker.create();
});

afterEach(async () => {
  await broker.close();
});

async function opened(options?: Parameters<RawClient['handshake']>[0]): Promise<RawClient> {
  return await RawClient.open(broker.connect(), options);
}

async function withChannel(): Promise<RawClient> {
  const client = await opened();
  await client.openChannel(1);
  return client;
}

const qos = { prefetchSize: 0, prefetchCount: 1, global: false };

describe('the handshake', () => {
  test('announces what RabbitMQ can, and proposes its limits', async () => {
    const client = new RawClient(broker.connect());
    const start = await client.login();
    expect(start).toMatchObject({ versionMajor: 0, versionMinor: 9, mechanisms: Buffer.from('PLAIN AMQPLAIN') });
    expect(Object.keys(start.serverProperties['capabilities'] as object)).toEqual(
      expect.arrayContaining(['publisher_confirms', 'basic.nack', 'consumer_cancel_notify', 'direct_reply_to']),
    );
    const tune = await client.receive('connection.tune');
    expect(tune.args).toEqual({ channelMax: 2047, frameMax: 131_072, heartbeat: 60 });
  });

  test.each([
    ['another version', Buffer.from('AMQP\0\x01\0\0', 'latin1')],
    ['another protocol', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ])('answers %s with the header of this one, and hangs up', async (_what, greeting) => {
    const client = new RawClient(broker.connect());
    client.sendRaw(greeting);
    expect(await within('the header', client.greeting)).toEqual(Buffer.from('AMQP\0\0\x09\x01', 'latin1'));
    await client.end();
  });

  test('tells a wrong password only to clients that understand it', async () => {
    const told = new RawClient(broker.connect());
    await told.login({ password: 'wrong' });
    const { args } = await told.receive('connection.close');
    expect(args).toMatchObject({ replyCode: 403, classId: 0, methodId: 0 });
    expect(args.replyText).toMatch(/^ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN/);
    const untold = new RawClient(broker.connect());
    await untold.login({ password: 'wrong', capabilities: {} });
    await untold.end();
    expect(untold.received.all).toHaveLength(1);
  });

  test.each([
    ['no limit of channels', { channelMax: 0 }],
    ['more channels than offered', { channelMax: 2048 }],
    ['no limit of frames', { frameMax: 0 }],
    ['frames larger than offered', { frameMax: 131_073 }],
    ['frames below the smallest', { frameMax: 4095 }],
  ])('is over, without a word, for a client that wants %s', async (_what, tuning) => {
    const client = new RawClient(broker.connect());
    await client.handshakeUntilTune(tuning);
    await client.end();
  });

  test('is over when something else comes than has to', async () => {
    const client = new RawClient(broker.connect());
    await client.login();
    await client.receive('connection.tune');
    client.send(1, 'channel.open', {});
    await client.end();
  });

  test('is over for a peer that is silent for 10 seconds', async () => {
    jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate', 'performance'] });
    try {
      const client = new RawClient(broker.connect());
      jest.advanceTimersByTime(9_999);
      expect(client.transport.readableEnded).toBe(false);
      jest.advanceTimersByTime(1);
      await client.hungUp;
    } finally {
      jest.useRealTimers();
    }
  });
});

describe('a connection ends with RabbitMQ’s code', () => {
  test.each([
    [501, 'a frame that does not end with 0xCE', '01 0001 00000005  0055 000a 00 cf'],
    [501, 'a frame of an unknown type', '05 0001 00000000 ce'],
    [501, 'a frame over frame_max', '03 0001 00030000'],
    [501, 'a method that is cut short', '01 0001 00000005  0032 000a 00 ce'],
    [503, 'a method that there is not', '01 0001 00000004  0064 0001 ce'],
    [505, 'a content header without a method', '02 0001 0000000e  003c 0000 0000000000000000 0000 ce'],
    [505, 'a body without a header', '03 0001 00000001 61 ce'],
    [505, 'a heartbeat on a channel', '08 0001 00000000 ce'],
    [501, 'a heartbeat with something in it', '08 0000 00000001 00 ce'],
  ])('%i for %s', async (replyCode, _what, notation) => {
    const other = await opened();
    const client = await withChannel();
    client.sendRaw(bytes(notation));
    expect((await client.receive('connection.close')).args).toMatchObject({ replyCode });
    client.send(0, 'connection.close-ok', {});
    await client.end();
    await other.openChannel(1);
  });

  test.each([
    ['a method on a channel that is not open', 504, "CHANNEL_ERROR - expected 'channel.open'", 2, [60, 10]],
    [
      'a channel method on channel 0',
      504,
      'CHANNEL_ERROR - unexpected method in connection state running',
      0,
      [60, 10],
    ],
  ] as const)('for %s', async (_what, replyCode, replyText, channel, [classId, methodId]) => {
    const client = await withChannel();
    client.send(channel, 'basic.qos', qos);
    const { args } = await client.receive('connection.close');
    expect(args).toEqual({ replyCode, replyText, classId, methodId });
  });

  test('for a channel that is opened twice, and for one too many', async () => {
    const twice = await withChannel();
    twice.send(1, 'channel.open', {});
    const { args } = await twice.receive('connection.close');
    expect(args).toEqual({
      replyCode: 504,
      replyText: "CHANNEL_ERROR - second 'channel.open' seen",
      classId: 20,
      methodId: 10,
    });
    const many = await opened({ channelMax: 1 });
    await many.openChannel(7);
    many.send(8, 'channel.open', {});
    expect((await many.receive('connection.close')).args).toEqual({
      replyCode: 530,
      replyText: 'NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (1)',
      classId: 0,
      methodId: 0,
    });
  });

  test('for a method that only the broker says', async () => {
    const client = await withChannel();
    client.send(1, 'basic.qos-ok', {});
    expect((await client.receive('connection.close')).args).toMatchObject({
      replyCode: 503,
      replyText: 'COMMAND_INVALID - unimplemented method',
      classId: 60,
      methodId: 11,
    });
  });

  test('for properties that cannot be told apart', async () => {
    const client = await withChannel();
    client.sendRaw(
      bytes(`
      01 0001 0000000a  003c 0028 0000 00 01 "q" 00 ce
      02 0001 0000000f  003c 0000 0000000000000000 0000 00 ce # a byte after the last property
    `),
    );
    expect((await client.receive('connection.close')).args).toMatchObject({ replyCode: 541 });
  });

  test('for bodies that are begun on many channels and not ended', async () => {
    await using small = EmbeddedBroker.create({ maxMessageSize: 10_000 });
    const client = await RawClient.open(small.connect());
    for (const number of ['0001', '0002', '0003']) {
      await client.openChannel(Number(number));
      client.sendRaw(
        bytes(`
        01 ${number} 0000000a  003c 0028 0000 00 01 "q" 00 ce
        02 ${number} 0000000e  003c 0000 0000000000002710 0000 ce
        03 ${number} 00002000 ${'61'.repeat(8192)} ce
      `),
      );
    }
    expect((await client.receive('connection.close')).args).toMatchObject({ replyCode: 506 });
  });

  test('and what else was sent in the meantime is not looked at', async () => {
    const client = await withChannel();
    client.send(1, 'channel.open', {});
    client.send(1, 'queue.declare', {
      queue: 'q',
      passive: false,
      durable: true,
      exclusive: false,
      autoDelete: false,
      noWait: false,
      arguments: {},
    });
    await client.receive('connection.close');
    client.send(0, 'connection.close', { replyCode: 200, replyText: 'bye', classId: 0, methodId: 0 });
    await client.receive('connection.close-ok');
    await client.end();
    expect(broker.queues).toEqual([]);
  });
});

describe('a frame', () => {
  test('may come a byte at a time', async () => {
    const client = new RawClient(broker.connect());
    const { transport } = client;
    const write = transport.write.bind(transport);
    transport.write = ((chunk: Uint8Array) => {
      for (const byte of chunk) write(Buffer.from([byte]));
      return true;
    }) as typeof transport.write;
    await client.handshake();
    await client.openChannel(1);
    client.publish(1, { routingKey: 'nowhere', mandatory: true }, { messageId: 'm' }, 'hello');
    const returned = await client.receive('basic.return');
    expect([returned.body.toString(), returned.properties.messageId]).toEqual(['hello', 'm']);
  });

  test('of a body is no larger than the client asked for', async () => {
    const client = await opened({ frameMax: 4096 });
    await client.openChannel(1);
    let largest = 0;
    client.transport.on('data', (chunk: Buffer) => {
      if (chunk[0] === 3) largest = Math.max(largest, chunk.readUInt32BE(3) + 8);
    });
    client.publish(1, { routingKey: 'nowhere', mandatory: true }, {}, Buffer.alloc(100_000, 'x'));
    expect((await client.receive('basic.return')).body).toHaveLength(100_000);
    expect(largest).toBeLessThanOrEqual(4096);
  });
});

describe('heartbeats', () => {
  test('are sent to a client that is silent no longer than twice their interval, then it is cut off', async () => {
    jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate'] });
    try {
      const client = await opened({ heartbeat: 10 });
      await jest.advanceTimersByTimeAsync(8_000);
      expect(client.heartbeats).toBeGreaterThan(0);
      client.sendHeartbeat();
      await jest.advanceTimersByTimeAsync(15_000);
      expect(client.transport.readableEnded).toBe(false);
      await jest.advanceTimersByTimeAsync(10_000);
      await client.hungUp;
    } finally {
      jest.useRealTimers();
    }
  });

  test('are not sent to a client that wants none', async () => {
    jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate'] });
    try {
      const client = await opened({ heartbeat: 0 });
      await jest.advanceTimersByTimeAsync(200_000);
      expect([client.heartbeats, client.transport.readableEnded]).toEqual([0, false]);
    } finally {
      jest.useRealTimers();
    }
  });
});

test('a secret may be renewed', async () => {
  const client = await opened();
  client.send(0, 'connection.update-secret', { newSecret: 'new', reason: 'the old one expires' });
  await client.receive('connection.update-secret-ok');
});

test('a client that is gone without a word leaves its messages and takes its exclusive queues along', async () => {
  const client = await withChannel();
  const declare = { passive: false, durable: true, autoDelete: false, noWait: false, arguments: {} };
  await client.call(1, 'queue.declare', { ...declare, queue: 'all', exclusive: false }, 'queue.declare-ok');
  await client.call(1, 'queue.declare', { ...declare, queue: 'mine', exclusive: true }, 'queue.declare-ok');
  client.publish(1, { routingKey: 'all' }, {}, 'x');
  await client.call(1, 'basic.get', { queue: 'all', noAck: false }, 'basic.get-ok');
  client.transport.destroy();
  await eventually('the connection is gone', () => Promise.resolve(broker.connections.length === 0 || undefined));
  expect(broker.queues).toMatchObject([{ name: 'all', ready: 1, unacked: 0 }]);
});

describe('a client that does not read', () => {
  test('holds up its own deliveries alone, and costs no more than some megabytes', async () => {
    await using listening = await EmbeddedBroker.listen();
    const port = Number(new URL(listening.url).port);
    const lazy = await RawClient.open(connectTcp(port, '127.0.0.1'));
    await lazy.openChannel(1);
    const declare = {
      passive: false,
      durable: true,
      exclusive: false,
      autoDelete: false,
      noWait: false,
      arguments: {},
    };
    await lazy.call(1, 'queue.declare', { ...declare, queue: 'flood' }, 'queue.declare-ok');
    const consume = { queue: 'flood', consumerTag: 'c', noLocal: false, noAck: true, exclusive: false, noWait: false };
    await lazy.call(1, 'basic.consume', { ...consume, arguments: {} }, 'basic.consume-ok');
    lazy.transport.pause();
    const busy = await RawClient.open(connectTcp(port, '127.0.0.1'));
    await busy.openChannel(1);
    await busy.call(1, 'confirm.select', { noWait: false }, 'confirm.select-ok');
    const count = 400;
    for (let number = 0; number < count; number += 1)
      busy.publish(1, { routingKey: 'flood' }, {}, Buffer.alloc(65_536));
    for (let confirmed = 0; confirmed < count;) confirmed = (await busy.receive('basic.ack')).args.deliveryTag;
    // The kernel's buffers and one megabyte are what is on its way; the rest waits in the queue.
    expect(listening.queue('flood').ready).toBeGreaterThan(100);
    lazy.transport.resume();
    for (let number = 0; number < count; number += 1) await lazy.receive('basic.deliver');
    expect(listening.queue('flood').messages).toBe(0);
  });

  test('is not read from itself until it reads', async () => {
    const client = await withChannel();
    client.transport.pause();
    for (let number = 0; number < 200; number += 1) {
      client.publish(1, { routingKey: 'nowhere', mandatory: true }, {}, Buffer.alloc(65_536));
    }
    await eventually('the line is full', () => Promise.resolve(client.transport.writableNeedDrain || undefined));
    const waiting = client.transport.writableLength;
    expect(waiting).toBeGreaterThan(4 * 1024 * 1024);
    client.transport.resume();
    for (let number = 0; number < 200; number += 1) await client.receive('basic.return');
  });
});
