/** One connection's life after the handshake: its endings, its frames, its channels. The broker is the test. */
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { once } from 'node:events';
import { PassThrough, type Duplex } from 'node:stream';

import type { Channel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import type { AmqpError } from '../../lib/errors.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl, ctl, ctlAvailable } from '../support/broker.mjs';
import {
  failure,
  frameOf,
  scripted,
  scriptedChannel,
  scriptedConfirmChannel,
  thrown,
  unique,
} from '../support/client.js';
import { Inbox, eventually, within } from '../support/waits.js';

/** How the connection ends, and that it says so once. */
function endings(connection: Connection | Channel): (AmqpError | undefined)[] {
  const seen: (AmqpError | undefined)[] = [];
  connection.on('close', (error) => seen.push(error));
  return seen;
}

const queueOk = { queue: 'q', messageCount: 0, consumerCount: 0 };

describe('close()', () => {
  test('says goodbye, waits for the answer, and may be called again and again', async () => {
    const { peer, connection } = await scripted();
    const seen = endings(connection);
    const closing = [connection.close(), connection.close()];
    expect(connection.isOpen).toBe(false);
    expect((await peer.receive('connection.close')).args).toMatchObject({ replyCode: 200, classId: 0, methodId: 0 });
    expect(seen).toEqual([]);
    peer.send(0, 'connection.close-ok', {});
    await within('both closes', Promise.all(closing));
    await connection.close();
    expect(seen).toEqual([undefined]);
    await within('the end of the transport', peer.hungUp);
  });

  test('sends what was published before it', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    void channel.basicPublish('', 'q', 'last words');
    await connection.close();
    expect((await peer.receive('basic.publish')).body.toString()).toBe('last words');
    await peer.receive('connection.close');
  });

  test('ends at closeTimeout when the broker does not answer, also while it blocks and reads nothing', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 50 });
    const blocked = once(connection, 'blocked');
    peer.send(0, 'connection.blocked', { reason: 'low on memory' });
    expect(await blocked).toEqual(['low on memory']);
    expect(connection.blockedReason).toBe('low on memory');
    peer.pauseReading();
    while (channel.basicPublish('', 'q', Buffer.alloc(100_000)));
    await within('close', connection.close());
    expect(connection.isOpen).toBe(false);
    await within('the end of the transport', once(peer.transport, 'close'));
  });

  test('ends in order when the broker closes at the same time', async () => {
    const { peer, connection } = await scripted();
    const seen = endings(connection);
    const closing = connection.close();
    peer.send(0, 'connection.close', { replyCode: 320, replyText: 'bye', classId: 0, methodId: 0 });
    await within('close', closing);
    expect(seen).toEqual([undefined]);
    await peer.receive('connection.close');
    await peer.receive('connection.close-ok');
  });

  test('ends in order when the broker hangs up in place of an answer', async () => {
    const { peer, connection } = await scripted();
    const seen = endings(connection);
    const closing = connection.close();
    await peer.receive('connection.close');
    peer.hangUp();
    await within('close', closing);
    expect(seen).toEqual([undefined]);
  });

  test('works inside a consumer', async () => {
    const { peer, connection, channel } = await scriptedChannel();
    const closed = new Promise<void>((resolve, reject) => {
      const consuming = channel.basicConsume('q', () => void connection.close().then(resolve, reject), {
        consumerTag: 'c',
      });
      consuming.catch(reject);
    });
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'x');
    await peer.receive('connection.close');
    peer.send(0, 'connection.close-ok', {});
    await within('close', closed);
  });

  test('closes the channels in order, and what they were asked says so', async () => {
    const { peer, connection, channel } = await scriptedChannel();
    const seen = endings(channel);
    const asked = failure(channel.queueDeclare('q'));
    const closing = connection.close();
    await peer.receive('queue.declare');
    await peer.receive('connection.close');
    peer.send(0, 'connection.close-ok', {});
    await closing;
    expect(await asked).toMatchObject({ code: 'CONNECTION_CLOSED', closedBy: 'client' });
    expect(seen).toEqual([undefined]);
    expect(channel.isOpen).toBe(false);
  });

  test('is the last thing that a peer hears: later calls are refused, not lost behind it', async () => {
    const { peer, connection, channel } = await scriptedChannel();
    const closing = connection.close();
    await peer.receive('connection.close');
    expect(thrown(() => channel.basicPublish('', 'q', 'lost')).code).toBe('CHANNEL_CLOSED');
    expect((await failure(channel.queueDeclare('q'))).code).toBe('CHANNEL_CLOSED');
    expect((await failure(connection.channel())).code).toBe('CONNECTION_CLOSED');
    peer.send(0, 'connection.close-ok', {});
    await closing;
    await within('the end', peer.hungUp);
  });

  test('happens at the end of the scope that holds the connection', async () => {
    const { peer, connection } = await scripted({ closeTimeout: 0 });
    {
      await using scope = connection;
      expect(scope.isOpen).toBe(true);
    }
    await peer.receive('connection.close');
    expect(connection.isOpen).toBe(false);
  });
});

function deliver(deliveryTag: number): {
  consumerTag: string;
  deliveryTag: number;
  redelivered: boolean;
  exchange: string;
  routingKey: string;
} {
  return { consumerTag: 'c', deliveryTag, redelivered: false, exchange: '', routingKey: 'q' };
}

describe('when the broker closes the connection', () => {
  test('its reason is told once, to the connection, its channels and everything that waits', async () => {
    const { peer, connection, channel } = await scriptedChannel();
    const seen = [endings(connection), endings(channel)];
    const asked = failure(channel.queueDeclare('q'));
    await peer.receive('queue.declare');
    const ended = once(connection, 'close');
    const replyText = 'CONNECTION_FORCED - broker forced connection closure';
    peer.send(0, 'connection.close', { replyCode: 320, replyText, classId: 0, methodId: 0 });
    await within('the end', ended);
    await peer.receive('connection.close-ok');

    const facts = { code: 'CONNECTION_CLOSED', replyCode: 320, replyText, closedBy: 'server' };
    expect(seen).toEqual([[expect.objectContaining(facts)], [expect.objectContaining(facts)]]);
    const error = await asked;
    expect(error).toMatchObject(facts);
    expect(error.message).toMatch(/queue\.declare was not answered.*320 CONNECTION_FORCED/);
    await within('the end of the transport', peer.hungUp);
  });

  test('every later operation names that reason', async () => {
    const { peer, connection, channel } = await scriptedChannel();
    const ended = once(connection, 'close');
    peer.send(0, 'connection.close', {
      replyCode: 541,
      replyText: 'INTERNAL_ERROR\r\nevil',
      classId: 60,
      methodId: 40,
    });
    await within('the end', ended);
    for (const error of [
      await failure(connection.channel()),
      await failure(channel.queueDeclare('q')),
      thrown(() => channel.basicPublish('', 'q', '')),
      await failure(channel.drained()),
    ]) {
      expect(error).toMatchObject({ code: 'CONNECTION_CLOSED', replyCode: 541, closedBy: 'server' });
      expect(error.message).toContain('541 INTERNAL_ERROR\\u000d\\u000aevil (basic.publish)');
    }
    await connection.close();
    await channel.close();
  });

  (ctlAvailable ? test : test.skip)(
    'as an operator does, the real one says CONNECTION_FORCED',
    async () => {
      const connectionName = unique('connection');
      const connection = await connect(brokerUrl, { connectionName });
      const ended = once(connection, 'close') as Promise<[AmqpError]>;
      const listed = await eventually('the connection in the list', async () => {
        const list = await ctl('list_connections', 'pid', 'client_properties', '--no-table-headers');
        return list.split('\n').find((line) => line.includes(connectionName));
      });
      await ctl('close_connection', /^<\S+>/.exec(listed)?.[0] ?? '', 'maintenance at noon');
      const [error] = await within('the end', ended);
      expect(error).toMatchObject({ code: 'CONNECTION_CLOSED', replyCode: 320, closedBy: 'server' });
      expect(error.message).toContain('maintenance at noon');
      // rabbitmqctl takes its time on a busy machine.
    },
    180_000,
  );
});

describe('when the transport is lost', () => {
  test('pending requests, channels, publishes and drains all end with CONNECTION_LOST', async () => {
    const { peer, connection, channel } = await scriptedConfirmChannel();
    const seen = [endings(connection), endings(channel)];
    const request = failure(channel.queueDeclare('q'));
    const opening = failure(connection.channel());
    const publish = failure(channel.basicPublish('', 'q', 'x'));
    await peer.receive('queue.declare');
    await peer.receive('channel.open');
    await peer.receive('basic.publish');
    peer.hangUp();
    expect(await request).toMatchObject({ code: 'CONNECTION_LOST', closedBy: 'network' });
    expect(await opening).toMatchObject({ code: 'CONNECTION_LOST' });
    expect(await publish).toMatchObject({ code: 'PUBLISH_OUTCOME_UNKNOWN', closedBy: 'network' });
    expect((await publish).cause).toMatchObject({ code: 'CONNECTION_LOST' });
    expect(seen.map((errors) => errors.map((error) => error?.code))).toEqual([
      ['CONNECTION_LOST'],
      ['CONNECTION_LOST'],
    ]);
    expect(channel.unconfirmedCount).toBe(0);
  });

  test('by an error, that error is the cause', async () => {
    const { peer, connection } = await scripted();
    const ended = once(connection, 'close') as Promise<[AmqpError]>;
    const cause = new Error('the cable is cut');
    peer.transport.destroy(cause);
    const [error] = await within('the end', ended);
    expect(error).toMatchObject({ code: 'CONNECTION_LOST', cause, closedBy: 'network' });
  });
});

describe('heartbeats', () => {
  test('are sent also by a client that only receives, and whatever comes proves the peer alive', async () => {
    const { peer, connection, channel } = await scriptedChannel(
      { heartbeat: '1s', closeTimeout: 0 },
      { heartbeat: 60 },
    );
    const messages = new Inbox<unknown>();
    const consuming = channel.basicConsume('q', messages.push, { consumerTag: 'c' });
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    // For longer than the peer's silence would be borne.
    const sender = setInterval(() => {
      peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'x');
    }, 100);
    try {
      for (let count = 0; count < 25; count += 1) await messages.next();
    } finally {
      clearInterval(sender);
    }
    expect(peer.heartbeats).toBeGreaterThanOrEqual(3);
    expect(connection.isOpen).toBe(true);
    await connection.close();
  });

  test('that do not come end the connection after two intervals', async () => {
    // Nothing comes after the handshake, which ends some time after this.
    const begun = performance.now();
    const { connection } = await scripted({ heartbeat: '1s' }, { heartbeat: 1 });
    const [error] = await within('the end', once(connection, 'close') as Promise<[AmqpError]>);
    expect(error).toMatchObject({ code: 'CONNECTION_LOST', closedBy: 'network' });
    expect(error.message).toContain('nothing came for 2 s');
    expect(performance.now() - begun).toBeGreaterThan(1_900);
  });

  test('on a channel are a protocol error', async () => {
    const { peer, connection } = await scripted();
    const ended = once(connection, 'close') as Promise<[AmqpError]>;
    peer.sendRaw(Buffer.from([8, 0, 1, 0, 0, 0, 0, 0xce]));
    expect((await within('the end', ended))[0]).toMatchObject({ code: 'PROTOCOL_ERROR', replyCode: 501 });
  });
});

describe('a peer that breaks the protocol is told so, and the connection ends:', () => {
  const method = frameOf(1, 'channel.flow', { active: true });
  const wrongEnd = Buffer.from(method);
  wrongEnd[wrongEnd.length - 1] = 0;
  const huge = Buffer.from(method);
  huge.writeUInt32BE(0x7fff_ffff, 3);
  const unknown = Buffer.from(method);
  unknown.writeUInt16BE(999, 7);
  const trailing = Buffer.from([1, 0, 1, 0, 0, 0, 6, 0, 20, 0, 41, 0, 0, 0xce]);
  const header = Buffer.from([2, 0, 1, 0, 0, 0, 14, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0xce]);
  const deliverFrame = frameOf(1, 'basic.deliver', deliver(1));
  const hugeBody = Buffer.from(header);
  hugeBody.fill(0x1f, 11, 19);

  test.each<[string, Buffer, number]>([
    ['a method that does not exist', unknown, 503],
    ['a frame that does not end with 0xCE', wrongEnd, 501],
    ['a frame of two gigabytes', huge, 501],
    ['a frame of an unknown type', Buffer.from([9, 0, 1, 0, 0, 0, 0, 0xce]), 501],
    ['a method with too many bytes', trailing, 501],
    ['a method with too few bytes', Buffer.from([1, 0, 1, 0, 0, 0, 2, 0, 20, 0xce]), 501],
    ['a frame on a channel that was never opened', frameOf(7, 'channel.flow', { active: true }), 504],
    ['a content header without a method', header, 505],
    ['a body without a header', Buffer.from([3, 0, 1, 0, 0, 0, 1, 0x61, 0xce]), 505],
    ['a method where a content header had to come', Buffer.concat([deliverFrame, method]), 505],
    [
      'a body larger than announced',
      Buffer.concat([deliverFrame, header, Buffer.from([3, 0, 1, 0, 0, 0, 2, 1, 2, 0xce])]),
      501,
    ],
    ['a body of petabytes', Buffer.concat([deliverFrame, hugeBody]), 502],
    ['an answer that nobody asked for', frameOf(1, 'queue.purge-ok', { messageCount: 1 }), 505],
    ['a request that only clients make', frameOf(1, 'queue.purge', { queue: 'q', noWait: false }), 505],
    ['a method of a channel on channel 0', frameOf(0, 'basic.qos-ok', {}), 503],
    ['a second open-ok', frameOf(0, 'connection.open-ok', {}), 503],
  ])('%s', async (_, bytes, replyCode) => {
    const { peer, connection, channel } = await scriptedChannel();
    const seen = endings(connection);
    const lostChannel = endings(channel);
    const ended = once(connection, 'close');
    peer.sendRaw(bytes);
    await within('the end', ended);
    const { args } = await peer.receive('connection.close');
    expect(args.replyCode).toBe(replyCode);
    expect(args.replyText).not.toBe('');
    expect(seen).toHaveLength(1);
    expect(seen[0]).toMatchObject({ name: 'ProtocolError', code: 'PROTOCOL_ERROR', replyCode });
    expect(lostChannel).toEqual(seen);
    await within('the end of the transport', peer.hungUp);
  });

  test('an answer of the wrong kind', async () => {
    const { peer, connection, channel } = await scriptedChannel();
    const ended = once(connection, 'close');
    const asked = failure(channel.queueDeclare('q'));
    await peer.receive('queue.declare');
    peer.send(1, 'queue.bind-ok', {});
    expect(await asked).toMatchObject({ code: 'PROTOCOL_ERROR', replyCode: 505 });
    expect((await asked).message).toContain('queue.bind-ok where queue.declare was asked');
    await within('the end', ended);
  });
});

describe('a message beyond maxMessageSize', () => {
  test('is rejected for good, said so, and hurts nothing else', async () => {
    const { peer, connection, channel } = await scriptedChannel({ maxMessageSize: 10 });
    const told = once(connection, 'callbackError') as Promise<[AmqpError]>;
    const messages = new Inbox<Message>();
    const consuming = channel.basicConsume('q', messages.push, { consumerTag: 'c' });
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    peer.sendContent(1, 'basic.deliver', { ...deliver(1), consumerTag: 'c' }, {}, 'x'.repeat(11));
    expect((await peer.receive('basic.reject')).args).toEqual({ deliveryTag: 1, requeue: false });
    expect((await within('the report', told))[0]).toMatchObject({ code: 'MESSAGE_TOO_LARGE' });
    peer.sendContent(1, 'basic.deliver', { ...deliver(2), consumerTag: 'c' }, {}, 'x'.repeat(10));
    expect((await messages.next()).deliveryTag).toBe(2);
  });

  test('that was fetched with basicGet rejects the call', async () => {
    const { peer, channel } = await scriptedChannel({ maxMessageSize: 10 });
    const getting = channel.basicGet('q');
    await peer.receive('basic.get');
    const envelope = { deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'q', messageCount: 0 };
    peer.sendContent(1, 'basic.get-ok', envelope, {}, 'x'.repeat(11));
    await expect(getting).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' });
    expect((await peer.receive('basic.reject')).args).toEqual({ deliveryTag: 1, requeue: false });
  });
});

describe('callbacks that throw', () => {
  const boom = new Error('boom');

  afterEach(() => {
    jest.restoreAllMocks();
  });

  function explode(): never {
    throw boom;
  }

  async function consumingChannel(): ReturnType<typeof scriptedChannel> {
    const all = await scriptedChannel({ closeTimeout: 0 });
    const consuming = all.channel.basicConsume('q', { onMessage: explode, onCancel: explode }, { consumerTag: 'c' });
    await all.peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    return all;
  }

  test("are told to 'callbackError' and hurt nothing", async () => {
    const { peer, connection, channel } = await consumingChannel();
    const errors = new Inbox<unknown>();
    connection.on('callbackError', errors.push);
    channel.on('return', explode);
    connection.on('blocked', explode);
    connection.on('unblocked', explode);
    peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'x');
    peer.sendContent(
      1,
      'basic.return',
      { replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: 'x' },
      {},
      '',
    );
    peer.send(0, 'connection.blocked', { reason: 'x' });
    peer.send(0, 'connection.unblocked', {});
    peer.send(1, 'basic.cancel', { consumerTag: 'c', noWait: true });
    for (let count = 0; count < 5; count += 1) expect(await errors.next()).toBe(boom);
    const declared = channel.queueDeclare('q');
    await peer.answer('queue.declare-ok', queueOk);
    await declared;
    await connection.close();
  });

  test('may be async: what they reject with is told the same way', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const errors = new Inbox<unknown>();
    connection.on('callbackError', errors.push);
    const consuming = channel.basicConsume('q', () => Promise.reject(boom), { consumerTag: 'c' });
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'x');
    expect(await errors.next()).toBe(boom);
    await connection.close();
  });

  test.each<[string, unknown]>([
    ['an Error', boom],
    ['a string', 'boom'],
    ['undefined', undefined],
    ['an object that has no text', Object.create(null)],
  ])('without a listener become a process warning: %s', async (_, value) => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const warnings = new Inbox<unknown>();
    jest.spyOn(process, 'emitWarning').mockImplementation(warnings.push);
    channel.on('return', () => {
      throw value;
    });
    peer.sendContent(
      1,
      'basic.return',
      { replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: 'x' },
      {},
      '',
    );
    const warning = await warnings.next('the warning');
    if (value === boom) expect(warning).toBe(boom.message);
    expect(connection.isOpen).toBe(true);
    await connection.close();
  });

  test("so does a 'callbackError' listener that throws itself", async () => {
    const { peer, connection } = await consumingChannel();
    const warnings = new Inbox<unknown>();
    jest.spyOn(process, 'emitWarning').mockImplementation(warnings.push);
    const worse = new Error('worse');
    connection.on('callbackError', () => {
      throw worse;
    });
    peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'x');
    expect(await warnings.next('the warning')).toBe(worse.message);
    expect(connection.isOpen).toBe(true);
    await connection.close();
  });

  test("on 'close' keep neither the other listeners nor the other channels from hearing it", async () => {
    const { peer, connection, channel } = await scriptedChannel();
    const errors = new Inbox<unknown>();
    connection.on('callbackError', errors.push);
    connection.on('close', explode);
    channel.on('close', explode);
    const [second] = await Promise.all([connection.channel(), peer.openChannel()]);
    const heard = [endings(channel), endings(second), endings(connection)];
    peer.hangUp();
    expect([await errors.next(), await errors.next()]).toEqual([boom, boom]);
    expect(heard.map((seen) => seen.length)).toEqual([1, 1, 1]);
  });
});

describe('channels', () => {
  test('open in parallel on numbers of their own', async () => {
    const { peer, connection } = await scripted({ closeTimeout: 0 });
    const opening = Promise.all(Array.from({ length: 100 }, () => connection.channel()));
    for (let count = 0; count < 100; count += 1) await peer.openChannel();
    const numbers = (await opening).map(({ number }) => number);
    expect(new Set(numbers).size).toBe(100);
    expect(Math.min(...numbers)).toBe(1);
    expect(Math.max(...numbers)).toBe(100);
    await connection.close();
  });

  test('beyond the limit are refused with CHANNEL_LIMIT, and the connection goes on', async () => {
    const { peer, connection } = await scripted({ closeTimeout: 0 }, { channelMax: 2 });
    const opening = [connection.channel(), connection.channel()];
    await peer.openChannel();
    await peer.openChannel();
    const [first] = await Promise.all(opening);
    const error = await failure(connection.channel());
    expect(error.code).toBe('CHANNEL_LIMIT');
    expect(error.message).toContain('All 2 channels');

    const closing = first?.close();
    await peer.answer('channel.close-ok', {});
    await closing;
    const [third] = await Promise.all([connection.channel(), peer.openChannel()]);
    expect(third.number).toBe(1);
    await connection.close();
  });

  test('whose opening was never sent are not closed either: over that a broker closes the connection', async () => {
    const { peer, connection } = await scripted();
    expect((await failure(connection.channel({ signal: AbortSignal.abort() }))).code).toBe('ABORTED');
    expect((await failure(connection.channel({ timeout: -1 }))).code).toBe('INVALID_OPTION');
    const opening = connection.channel();
    expect(await peer.openChannel()).toBe(1);
    await opening;
    peer.hangUp();
  });

  test('give their number back only when the close is answered', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const closing = channel.close();
    const [second] = await Promise.all([
      connection.channel(),
      peer.receive('channel.close').then(() => peer.openChannel()),
    ]);
    expect(second.number).toBe(2);
    peer.send(1, 'channel.close-ok', {});
    await closing;
    const [third] = await Promise.all([connection.channel(), peer.openChannel()]);
    expect(third.number).toBe(1);
    await connection.close();
  });

  test('that both sides close at once end when the close is answered', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const seen = endings(channel);
    const closing = channel.close();
    await peer.receive('channel.close');
    peer.send(1, 'channel.close', { replyCode: 404, replyText: 'NOT_FOUND', classId: 50, methodId: 10 });
    await peer.receive('channel.close-ok');
    expect(seen).toEqual([]);
    peer.send(1, 'channel.close-ok', {});
    await within('close', closing);
    expect(seen).toEqual([undefined]);
    expect(connection.isOpen).toBe(true);
    await connection.close();
  });

  test('close once, however often they are told to', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const closing = Promise.all([channel.close(), channel.close()]);
    await peer.answer('channel.close-ok', {});
    await within('both closes', closing);
    await channel.close();
    const declaring = failure(channel.queueDeclare('q'));
    expect((await declaring).message).toContain('closed with close()');
    await connection.close();
    await peer.receive('connection.close');
  });

  test('that have ended may get late frames', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const closing = channel.close();
    await peer.answer('channel.close-ok', {});
    await closing;
    peer.sendContent(1, 'basic.deliver', deliver(1), {}, 'late');
    peer.send(1, 'queue.purge-ok', { messageCount: 1 });
    const readUpTo = once(connection, 'blocked');
    peer.send(0, 'connection.blocked', { reason: 'x' });
    await within('what came before', readUpTo);
    const [next] = await Promise.all([connection.channel(), peer.openChannel()]);
    expect(next.isOpen).toBe(true);
    await connection.close();
  });

  test('answer channel.flow', async () => {
    const { peer, connection } = await scriptedChannel({ closeTimeout: 0 });
    peer.send(1, 'channel.flow', { active: true });
    expect((await peer.receive('channel.flow-ok')).args.active).toBe(true);
    await connection.close();
  });

  test('open in parallel on the real broker, and each works', async () => {
    await using connection = await connect(brokerUrl);
    const channels = await Promise.all(Array.from({ length: 50 }, () => connection.channel()));
    const queues = await Promise.all(channels.map((channel) => channel.queueDeclare()));
    expect(new Set(queues.map(({ queue }) => queue)).size).toBe(50);
    await Promise.all(channels.map((channel) => channel.close()));
  });
});

/** The client's end of a peer with every write noted. */
function countingTransport(peer: ScriptedPeer): { transport: Duplex; writes: number[] } {
  const { transport } = peer;
  const writes: number[] = [];
  const write = transport._write.bind(transport);
  transport._write = (chunk: Buffer, encoding, done) => {
    writes.push(chunk.length);
    write(chunk, encoding, done);
  };
  return { transport, writes };
}

describe('writing', () => {
  test('gathers what is said in one turn into one write, across channels and awaited publishes', async () => {
    const peer = new ScriptedPeer();
    const { transport, writes } = countingTransport(peer);
    const [connection] = await Promise.all([connect({ dial: () => transport, closeTimeout: 0 }), peer.handshake()]);
    const [first] = await Promise.all([connection.channel(), peer.openChannel()]);
    const [second] = await Promise.all([connection.channel(), peer.openChannel()]);
    writes.length = 0;
    for (let count = 0; count < 100; count += 1) void first.basicPublish('', 'q', `message ${count}`);
    second.basicAck(1);
    await (async () => {
      void second.basicPublish('', 'q', 'after');
      await Promise.resolve();
      void second.basicPublish('', 'q', 'a promise');
    })();
    for (let count = 0; count < 100; count += 1) await peer.receive('basic.publish');
    await peer.receive('basic.ack');
    await peer.receive('basic.publish');
    expect((await peer.receive('basic.publish')).body.toString()).toBe('a promise');
    expect(writes).toHaveLength(1);
    await connection.close();
  });

  test.each([0, 1, 4087, 4088, 4089, 8176, 8177, 100_000])(
    'cuts a body of %i bytes to the frame_max of 4096, and it arrives whole',
    async (size) => {
      const peer = new ScriptedPeer();
      const sizes: number[] = [];
      const [connection] = await Promise.all([
        connect({ dial: () => peer.transport, closeTimeout: 0 }),
        peer.handshake({ frameMax: 4096 }),
      ]);
      const [channel] = await Promise.all([connection.channel(), peer.openChannel()]);
      const frames = new PassThrough();
      const write = peer.transport._write.bind(peer.transport);
      peer.transport._write = (chunk: Buffer, encoding, done) => {
        frames.write(chunk);
        write(chunk, encoding, done);
      };
      const body = Buffer.alloc(size, 'abcdefg');
      void channel.basicPublish('', 'q', body);
      expect((await peer.receive('basic.publish')).body.equals(body)).toBe(true);
      const bytes = (frames.read() ?? Buffer.alloc(0)) as Buffer;
      for (let at = 0; at < bytes.length; at += sizes.at(-1) ?? 0) sizes.push(bytes.readUInt32BE(at + 3) + 8);
      expect(Math.max(...sizes)).toBeLessThanOrEqual(4096);
      // Method and header, then the fewest body frames.
      expect(sizes).toHaveLength(2 + Math.ceil(size / 4088));
      await connection.close();
    },
  );

  test('does not cut a body where there is no frame_max', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 }, { frameMax: 0 });
    const body = Buffer.alloc(500_000, 'x');
    void channel.basicPublish('', 'q', body, { headers: { h: 'x'.repeat(50_000) } });
    expect((await peer.receive('basic.publish')).body.equals(body)).toBe(true);
    await connection.close();
  });

  test('sends a slice of a larger buffer, and only the slice', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const memory = new Uint8Array(100_000).fill(7);
    memory.fill(8, 1000, 61_000);
    void channel.basicPublish('', 'q', memory.subarray(1000, 61_000));
    const { body } = await peer.receive('basic.publish');
    expect(body.equals(Buffer.alloc(60_000, 8))).toBe(true);
    await connection.close();
  });

  test('asks publishers to wait when the peer does not read, and drained() tells when to go on', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    await channel.drained();
    peer.pauseReading();
    let published = 0;
    do published += 1;
    while (channel.basicPublish('', 'q', Buffer.alloc(50_000)));
    expect(published).toBeLessThan(100);
    const drained = channel.drained();
    peer.resumeReading();
    await within('drained', drained);
    expect(channel.basicPublish('', 'q', 'small')).toBe(true);
    for (let count = 0; count <= published; count += 1) await peer.receive('basic.publish');
    await connection.close();
  });

  test('rejects drained() when the connection ends instead', async () => {
    const { peer, connection, channel } = await scriptedChannel();
    peer.pauseReading();
    while (channel.basicPublish('', 'q', Buffer.alloc(50_000)));
    const drained = failure(channel.drained());
    peer.hangUp();
    expect((await drained).code).toBe('CONNECTION_LOST');
    expect((await failure(channel.drained())).code).toBe('CONNECTION_LOST');
    expect(connection.isOpen).toBe(false);
  });
});
