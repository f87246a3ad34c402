/** Conformance, codec and frames: the numbers 1 to 20. */
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { once } from 'node:events';

import { connect } from '../../lib/client/connection.js';
import type { ReturnedMessage } from '../../lib/client/channel-options.js';
import type { Message } from '../../lib/client/message.js';
import { Decimal, field, readTable, writeTable } from '../../lib/protocol/field-table.js';
import { FrameDecoder } from '../../lib/protocol/frame-decoder.js';
import { type MethodName, METHODS, readMethod, writeMethod } from '../../lib/protocol/methods.js';
import { type BasicProperties, readProperties, writeProperties } from '../../lib/protocol/properties.js';
import { WireReader, WireWriter } from '../../lib/protocol/wire.js';
import { binary, fieldTable, shortText } from '../protocol/arbitraries.js';
import { failure, frameOf, scriptedChannel, thrown } from '../support/client.js';
import { bytes, goldenContents, goldenHeartbeat, goldenMethods } from '../support/golden-frames.js';
import { Inbox } from '../support/waits.js';
import { Bench, consuming, deliver, headerFrame, rawFrame, text, verdictOn } from './bench.js';

function written(write: (writer: WireWriter) => void): Buffer {
  const writer = new WireWriter();
  write(writer);
  return writer.take();
}

/** The frames that a stream in these chunks consists of, each as type, channel and payload. */
function framesOf(chunks: readonly Buffer[]): string[] {
  const frames: string[] = [];
  const decoder = new FrameDecoder((type, channel, buffer, start, end) => {
    frames.push(`${type} ${channel} ${buffer.toString('hex', start, end)}`);
  });
  for (const chunk of chunks) decoder.push(chunk);
  return frames;
}

test('1. tables are the known bytes, and integers take the letter of their range', () => {
  const known: [value: unknown, notation: string][] = [
    [true, '"t" 01'],
    [null, '"V"'],
    ['ab', '"S" 00000002 "ab"'],
    [0.5, '"d" 3fe0000000000000'],
    [Buffer.from([1, 2]), '"x" 00000002 0102'],
    [new Date(1000), '"T" 0000000000000001'],
    [new Decimal(2, 314), '"D" 02 0000013a'],
    [[1, 'a'], '"A" 0000000b "I" 00000001 "S" 00000001 "a"'],
    [{ b: false }, '"F" 00000004 01 "b" "t" 00'],
  ];
  for (const power of [7, 15, 31, 40]) {
    for (const value of [2 ** power - 1, 2 ** power, -(2 ** power), -(2 ** power) - 1]) {
      const isInt32 = value >= -(2 ** 31) && value < 2 ** 31;
      const hex = BigInt.asUintN(isInt32 ? 32 : 64, BigInt(value)).toString(16);
      known.push([value, isInt32 ? `"I" ${hex.padStart(8, '0')}` : `"l" ${hex.padStart(16, '0')}`]);
    }
  }
  for (const [value, notation] of known) {
    const entry = bytes(`01 "k" ${notation}`);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(entry.length);
    const encoded = Buffer.concat([length, entry]);
    expect(written((writer) => writeTable(writer, { k: value as number }, 'headers'))).toEqual(encoded);
    expect(readTable(new WireReader(encoded))).toEqual({ k: value });
  }
});

test('2. every value of every domain round-trips', () => {
  fc.assert(
    fc.property(fieldTable, (table) => {
      const encoded = written((writer) => writeTable(writer, table, 'headers'));
      expect(readTable(new WireReader(encoded))).toEqual(table);
    }),
  );
});

const ANY: Record<string, fc.Arbitrary<unknown>> = {
  bit: fc.boolean(),
  octet: fc.nat(0xff),
  short: fc.nat(0xffff),
  long: fc.nat(0xffff_ffff),
  longlong: fc.maxSafeNat(),
  shortstr: shortText,
  longstr: binary,
  table: fieldTable,
};

function record(fields: readonly (readonly [name: string, type: string])[], optional: boolean): fc.Arbitrary<object> {
  const model = Object.fromEntries(fields.map(([name, type]) => [name, ANY[type] as fc.Arbitrary<unknown>]));
  return fc.record(model, optional ? { requiredKeys: [] } : {});
}

test('3. every method and the basic properties round-trip', () => {
  for (const name of Object.keys(METHODS) as MethodName[]) {
    const fields = Object.entries(METHODS[name].args).filter(([field]) => !field.startsWith('reserved'));
    fc.assert(
      fc.property(record(fields, false), (args) => {
        const encoded = written((writer) => writeMethod(writer, name, args as never));
        expect(readMethod(new WireReader(encoded))).toEqual({ name, args });
      }),
      { numRuns: 10 },
    );
  }
  const texts = 'contentType contentEncoding correlationId replyTo expiration messageId type userId appId clusterId';
  const properties = record(
    [
      ...texts.split(' ').map((name) => [name, 'shortstr'] as const),
      ['headers', 'table'],
      ['priority', 'octet'],
      ['timestamp', 'longlong'],
    ],
    true,
  );
  fc.assert(
    fc.property(properties, (given: BasicProperties) => {
      const encoded = written((writer) => writeProperties(writer, given));
      expect(readProperties(new WireReader(encoded))).toEqual(given);
    }),
  );
});

test('4. a trace gives the same frames in one chunk, in thirds, and cut at every byte', () => {
  const pieces = [...Object.values(goldenMethods), ...Object.values(goldenContents)].map((golden) => golden.bytes);
  fc.assert(
    fc.property(fc.shuffledSubarray(pieces, { minLength: 1, maxLength: 4 }), (trace) => {
      const stream = Buffer.concat(trace);
      const whole = framesOf(trace);
      const third = Math.ceil(stream.length / 3);
      expect(framesOf([stream])).toEqual(whole);
      expect(framesOf([0, 1, 2].map((n) => stream.subarray(n * third, (n + 1) * third)))).toEqual(whole);
      expect(framesOf([...stream].map((byte) => Buffer.from([byte])))).toEqual(whole);
      for (let cut = 0; cut <= stream.length; cut += 1) {
        if (framesOf([stream.subarray(0, cut), stream.subarray(cut)]).join() !== whole.join()) {
          throw new Error(`not the same frames when cut at ${cut}`);
        }
      }
    }),
    { numRuns: 10 },
  );
});

test('5. a heartbeat is read whole and in parts', () => {
  for (let cut = 0; cut <= goldenHeartbeat.length; cut += 1) {
    expect(framesOf([goldenHeartbeat.subarray(0, cut), goldenHeartbeat.subarray(cut)])).toEqual(['8 0 ']);
  }
});

test('6. a wrong size, a wrong end octet, an unknown method and an unknown type end the connection', async () => {
  const flow = frameOf(1, 'channel.flow', { active: true });
  const changed = (at: number, value: number): Buffer => {
    const copy = Buffer.from(flow);
    copy[at] = value;
    return copy;
  };
  // One byte fewer than it has: the end octet is not where it should be.
  expect(await verdictOn(changed(6, flow.length - 9))).toBe(501);
  expect(await verdictOn(changed(flow.length - 1, 0))).toBe(501);
  expect(await verdictOn(changed(10, 99))).toBe(503);
  expect(await verdictOn(changed(0, 9))).toBe(501);
});

test('7. no emitted frame exceeds frame_max, whatever the body', async () => {
  const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 }, { frameMax: 4096 });
  const sent: Buffer[] = [];
  const write = peer.transport._write.bind(peer.transport);
  peer.transport._write = (chunk: Buffer, encoding, done) => {
    sent.push(chunk);
    write(chunk, encoding, done);
  };
  const sizes = fc.sample(fc.nat(60_000), { numRuns: 30, seed: 7 });
  for (const size of [0, 4087, 4088, 4089, ...sizes]) {
    void channel.basicPublish('', 'q', Buffer.alloc(size, 'x'));
    expect((await peer.receive('basic.publish')).body).toHaveLength(size);
  }
  const stream = Buffer.concat(sent);
  const frameSizes: number[] = [];
  for (let at = 0; at < stream.length; at += frameSizes.at(-1) as number) {
    frameSizes.push(stream.readUInt32BE(at + 3) + 8);
  }
  expect(Math.max(...frameSizes)).toBe(4096);
  await connection.close();
});

test('8. a header of exactly frame_max passes; one byte more is refused and the channel stays usable', async () => {
  await using bench = await Bench.open({ frameMax: 8192 });
  const { channel, connection } = bench;
  const queue = await bench.queueWith();
  // 8 of the frame, 14 of the header, 4 of the table, 2 for the name h, 5 for the letter and length of the value.
  const fits = connection.frameMax - 8 - 14 - 4 - 2 - 5;
  const refused = thrown(() => channel.basicPublish('', queue, 'no', { headers: { h: 'x'.repeat(fits + 1) } }));
  expect(refused.code).toBe('INVALID_ARGUMENT');
  void channel.basicPublish('', queue, 'yes', { headers: { h: 'x'.repeat(fits) } });
  expect(await bench.text(queue)).toBe('yes');
});

test('9. with frame_max 0 a body of 500 kB and a header of 50 kB travel in one frame each', async () => {
  const messages = new Inbox<Message>();
  const { peer, connection, channel } = await consuming(messages.push, {}, { frameMax: 0 });
  const [body, headers] = [Buffer.alloc(500_000, 'x'), { h: 'y'.repeat(50_000) }];
  void channel.basicPublish('', 'q', body, { headers });
  const published = await peer.receive('basic.publish');
  expect(published.body.equals(body)).toBe(true);
  peer.sendContent(1, 'basic.deliver', deliver(1), published.properties, body);
  const message = await messages.next();
  expect(message.body.equals(body)).toBe(true);
  expect(message.properties.headers).toEqual(headers);
  await connection.close();
});

test('10. an inbound frame of frame_max passes, one past the eight octets of grace does not, and 0 means no limit on frames alone', async () => {
  const messages = new Inbox<Message>();
  const small = { frameMax: 4096 };
  const { peer, connection } = await consuming(messages.push, {}, small);
  const content = (payload: number): Buffer =>
    Buffer.concat([
      frameOf(1, 'basic.deliver', deliver(1)),
      headerFrame(1, BigInt(payload)),
      rawFrame(3, 1, Buffer.alloc(payload)),
    ]);
  peer.sendRaw(content(4088));
  peer.sendRaw(content(4096));
  expect((await messages.next()).body).toHaveLength(4088);
  expect((await messages.next()).body).toHaveLength(4096);
  await connection.close();
  expect(await verdictOn(content(4097), small)).toBe(501);

  const unlimited = await consuming(messages.push, { maxMessageSize: 1000 }, { frameMax: 0 });
  const told = once(unlimited.connection, 'callbackError');
  unlimited.peer.sendRaw(content(1001));
  expect(await told).toMatchObject([{ code: 'MESSAGE_TOO_LARGE' }]);
  await unlimited.connection.close();
  expect((await failure(connect({ frameMax: -1 }))).code).toBe('INVALID_OPTION');
});

test('11. a body larger than declared, and a declared size beyond reason, are malformed', async () => {
  const method = frameOf(1, 'basic.deliver', deliver(1));
  const overrun = Buffer.concat([method, headerFrame(1, 1n), rawFrame(3, 1, Buffer.alloc(2))]);
  expect(await verdictOn(overrun)).toBe(501);
  // As a signed number it is -1.
  expect(await verdictOn(Buffer.concat([method, headerFrame(1, 2n ** 64n - 1n)]))).toBe(502);
});

test('12. a header without a method, a body without a header and a method in place of a header are unexpected', async () => {
  expect(await verdictOn(headerFrame(1, 1n))).toBe(505);
  expect(await verdictOn(rawFrame(3, 1, Buffer.from('x')))).toBe(505);
  const method = frameOf(1, 'basic.deliver', deliver(1));
  expect(await verdictOn(Buffer.concat([method, rawFrame(3, 1, Buffer.from('x'))]))).toBe(505);
  expect(await verdictOn(Buffer.concat([method, method]))).toBe(505);
});

test('13. a message beyond maxMessageSize is dead-lettered, consumed or fetched, and the channel goes on', async () => {
  await using bench = await Bench.open({ maxMessageSize: 100 });
  const { scratch, channel } = bench;
  const { queue, dead } = await scratch.queueWithDeadLetters();
  await scratch.send(queue, Buffer.alloc(101));
  expect((await failure(channel.basicGet(queue))).code).toBe('MESSAGE_TOO_LARGE');
  await scratch.hasMessages(dead, 1);

  const told = once(bench.connection, 'callbackError');
  const messages = new Inbox<Message>();
  await channel.basicConsume(queue, messages.push);
  await scratch.send(queue, Buffer.alloc(101));
  await scratch.send(queue, Buffer.alloc(100));
  expect(await told).toMatchObject([{ code: 'MESSAGE_TOO_LARGE' }]);
  expect((await messages.next()).ack()).toBe(true);
  await scratch.hasMessages(dead, 2);
});

test('14. a short string is at most 255 bytes, not characters', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const stem = scratch.queueName();
  const name = stem + 'é'.repeat((255 - stem.length) >> 1) + 'x'.repeat((255 - stem.length) & 1);
  expect(Buffer.byteLength(name)).toBe(255);
  expect((await channel.queueDeclare(name, { exclusive: true })).queue).toBe(name);
  const tooLong = `${name}é`;
  expect([tooLong.length < 255, Buffer.byteLength(tooLong) > 255]).toEqual([true, true]);
  expect((await failure(channel.queueDeclare(tooLong))).code).toBe('INVALID_ARGUMENT');
  expect(channel.isOpen).toBe(true);
});

test('15. arrays, nested tables, bytes, times and decimals come back from the broker as they were', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith();
  const headers = {
    list: ['a', 1, [true, null], { deep: [{}] }],
    table: { inner: { number: 2.5 } },
    bytes: Buffer.from([0, 255]),
    time: new Date(1_700_000_000_000),
    decimal: new Decimal(2, 314),
    huge: 2n ** 62n,
    short: field.int16(-5),
  };
  void bench.channel.basicPublish('', queue, '', { headers });
  expect((await bench.take(queue))?.properties.headers).toEqual({ ...headers, short: -5 });
  await bench.channel.queueDeclare('', { arguments: { 'x-note': [1, 'two', { three: 3 }] } });
});

test('16. an empty body is published, delivered, fetched and returned', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const queue = await bench.queueWith('', '');
  expect((await bench.take(queue))?.body).toHaveLength(0);
  const messages = new Inbox<Message>();
  await channel.basicConsume(queue, messages.push);
  expect((await messages.next()).body).toHaveLength(0);
  const returned = once(channel, 'return') as Promise<[ReturnedMessage]>;
  void channel.basicPublish('', bench.scratch.queueName(), '', { mandatory: true });
  expect((await returned)[0]).toMatchObject({ replyCode: 312, body: Buffer.alloc(0) });
});

test('17. a body over several frames and a megabyte of Unicode come back whole', async () => {
  await using bench = await Bench.open({ frameMax: 8192 });
  const body = 'aä€😀'.repeat(110_000);
  expect(Buffer.byteLength(body)).toBeGreaterThan(2 ** 20);
  const queue = await bench.queueWith(body);
  expect((await bench.text(queue)) === body).toBe(true);
});

test('18. a body may come in frames of any size, empty ones included', async () => {
  const messages = new Inbox<Message>();
  const { peer, connection } = await consuming(messages.push);
  const parts = ['', 'a', '', '', 'bc', 'd', ''].map((part) => rawFrame(3, 1, Buffer.from(part)));
  // The last empty frame would come after the end of the body.
  peer.sendRaw(Buffer.concat([frameOf(1, 'basic.deliver', deliver(1)), headerFrame(1, 4n), ...parts.slice(0, -1)]));
  expect(text(await messages.next())).toBe('abcd');
  await connection.close();
});

test('19. of a slice of a larger buffer the slice alone is sent', async () => {
  await using bench = await Bench.open();
  const memory = new Uint8Array(100_000).fill(7);
  memory.fill(8, 1000, 41_000);
  const queue = await bench.queueWith(
    Buffer.from(memory.buffer, 1000, 5),
    memory.subarray(1000, 41_000) as Buffer,
    Buffer.from(memory.buffer, 999, 2),
  );
  for (const expected of [Buffer.alloc(5, 8), Buffer.alloc(40_000, 8), Buffer.from([7, 8])]) {
    expect((await bench.take(queue))?.body.equals(expected)).toBe(true);
  }
});

test('20. bodies and headers below and above every buffer on the way arrive', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queueWith();
  const confirming = await bench.confirming();
  const shapes = [10, 16_383, 16_384, 65_536, 300_000].flatMap((body) =>
    [10, 70_000, 120_000].map((header) => [body, header] as const),
  );
  await Promise.all(
    shapes.map(([body, header]) =>
      confirming.basicPublish('', queue, Buffer.alloc(body, 'b'), { headers: { h: 'h'.repeat(header) } }),
    ),
  );
  for (const [body, header] of shapes) {
    const message = await bench.take(queue);
    expect(message?.body).toHaveLength(body);
    expect(message?.properties.headers?.['h']).toHaveLength(header);
  }
});
