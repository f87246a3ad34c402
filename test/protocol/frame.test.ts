/** Frames as they are written: golden bytes, frame_max, and that an error leaves nothing behind. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import {
  FRAME_END,
  FRAME_MIN_SIZE,
  PROTOCOL_HEADER,
  payloadLimit,
  writeAck,
  writeBodyFrameHead,
  writeContentHead,
  writeFrameEnd,
  writeHeartbeat,
  writeMethodFrame,
  writePublishHead,
} from '../../lib/protocol/frame.js';
import { type FieldTable, field } from '../../lib/protocol/field-table.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { thrown } from '../support/client.js';
import { bytes, goldenContents, goldenHeartbeat, goldenMethods } from '../support/golden-frames.js';
import { binary, fieldTable, shortText } from './arbitraries.js';

const UNLIMITED = 0;
const TO_QUEUE = { exchange: '', routingKey: 'q', mandatory: false, immediate: false };

/** The bytes of the whole frame at `offset`. */
function frameAt(buffer: Buffer, offset: number): Buffer {
  return buffer.subarray(offset, offset + buffer.readUInt32BE(offset + 3) + 8);
}

/** Headers with which the header frame of a message to a queue has `size` bytes. */
function headersFor(size: number): FieldTable {
  const writer = new WireWriter();
  writeContentHead(writer, UNLIMITED, 1, 'basic.publish', TO_QUEUE, { headers: { pad: '' } }, 0);
  const written = writer.take();
  const without = frameAt(written, frameAt(written, 0).length).length;
  return { pad: 'x'.repeat(size - without) };
}

describe('golden frames', () => {
  test.each(Object.values(goldenMethods))(
    '$method.name is written as its golden frame',
    ({ channel, method, bytes }) => {
      const writer = new WireWriter();
      writeMethodFrame(writer, FRAME_MIN_SIZE, channel, method.name, method.args);
      expect(writer.take().toString('hex')).toBe(bytes.toString('hex'));
    },
  );

  test.each(Object.values(goldenContents))('$method.name is written as its golden frames, body and all', (golden) => {
    const { channel, method, properties, pieces } = golden;
    const size = Buffer.concat(pieces).length;
    const writer = new WireWriter();
    writeContentHead(writer, FRAME_MIN_SIZE, channel, method.name, method.args, properties, size);
    for (const piece of pieces) {
      writeBodyFrameHead(writer, channel, piece.length);
      writer.bytes(piece);
      writeFrameEnd(writer);
    }
    expect(writer.take().toString('hex')).toBe(golden.bytes.toString('hex'));
  });

  test('a heartbeat is written as its golden frame', () => {
    const writer = new WireWriter();
    writeHeartbeat(writer);
    expect(writer.take()).toEqual(goldenHeartbeat);
  });

  test('the protocol header asks for AMQP 0-9-1', () => {
    expect(PROTOCOL_HEADER).toEqual(bytes('"AMQP" 00 00 09 01'));
  });

  test('frames written one after the other stand one after the other, wherever the memory of the writer ends', () => {
    const { queueDeclare, connectionStart } = goldenMethods;
    const expected = Buffer.concat([goldenHeartbeat, queueDeclare.bytes, connectionStart.bytes, goldenHeartbeat]);
    for (let size = 0; size <= expected.length; size += 1) {
      const writer = new WireWriter(size);
      writeHeartbeat(writer);
      writeMethodFrame(writer, UNLIMITED, 1, 'queue.declare', queueDeclare.method.args);
      writeMethodFrame(writer, UNLIMITED, 0, 'connection.start', connectionStart.method.args);
      writeHeartbeat(writer);
      expect(writer.take().equals(expected)).toBe(true);
    }
  });

  test('a body size beyond 2^32 is written in 64 bits', () => {
    const writer = new WireWriter();
    writeContentHead(writer, UNLIMITED, 1, 'basic.publish', TO_QUEUE, {}, 2 ** 40 + 1);
    const written = writer.take();
    expect(frameAt(written, frameAt(written, 0).length)).toEqual(
      bytes('02 0001 0000000e  003c 0000 0000010000000001 0000  ce'),
    );
  });
});

test('a routing key may be bytes that are no UTF-8, and is written as they are', () => {
  const writer = new WireWriter();
  const args = { ...TO_QUEUE, exchange: '', routingKey: bytes('ff00fe') };
  writeContentHead(writer, UNLIMITED, 1, 'basic.publish', args, {}, 0);
  const published = frameAt(writer.take(), 0);
  expect(published.subarray(7, 18)).toEqual(bytes('003c 0028  0000  00  03 ff00fe'));
});

describe('frame_max', () => {
  test('counts the eight octets around a payload, and 0 is no limit', () => {
    expect(payloadLimit(4096)).toBe(4088);
    expect(payloadLimit(131_072)).toBe(131_064);
    expect(payloadLimit(0)).toBe(0xffff_ffff);
  });

  test('a header frame of exactly frame_max bytes is written', () => {
    const writer = new WireWriter();
    writeContentHead(writer, 4096, 1, 'basic.publish', TO_QUEUE, { headers: headersFor(4096) }, 3);
    const written = writer.take();
    const header = frameAt(written, frameAt(written, 0).length);
    expect(header).toHaveLength(4096);
    expect(header.at(-1)).toBe(FRAME_END);
  });

  test('a header frame one byte larger is refused, nothing of the message is written, and the next one is', () => {
    const writer = new WireWriter();
    writeHeartbeat(writer);
    expect(() => {
      writeContentHead(writer, 4096, 1, 'basic.publish', TO_QUEUE, { headers: headersFor(4097) }, 3);
    }).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining(
          'The header of basic.publish makes a frame of 4097 bytes; the broker takes 4096 (frame_max)',
        ),
      }),
    );
    expect(writer.length).toBe(goldenHeartbeat.length);

    const { returnWithoutBody } = goldenContents;
    writeContentHead(writer, 4096, 1, 'basic.return', returnWithoutBody.method.args, {}, 0);
    expect(writer.take()).toEqual(Buffer.concat([goldenHeartbeat, returnWithoutBody.bytes]));
  });

  test('a method frame is held to it as well', () => {
    const writer = new WireWriter();
    const declare = (padding: number): void => {
      writeMethodFrame(writer, 4096, 1, 'queue.bind', {
        queue: 'q',
        exchange: 'e',
        routingKey: '',
        noWait: false,
        arguments: { pad: 'x'.repeat(padding) },
      });
    };
    declare(0);
    const without = writer.take().length;
    declare(4096 - without);
    expect(writer.take()).toHaveLength(4096);
    expect(() => declare(4097 - without)).toThrow('queue.bind makes a frame of 4097 bytes');
    expect(writer.length).toBe(0);
  });

  test('0 lets a header of 500 kB through', () => {
    const writer = new WireWriter();
    writeContentHead(writer, UNLIMITED, 1, 'basic.publish', TO_QUEUE, { headers: headersFor(500_000) }, 0);
    expect(writer.take().length).toBeGreaterThan(500_000);
  });
});

describe('an error while writing', () => {
  const faults: readonly [what: string, properties: BasicProperties][] = [
    ['a property', { contentType: 'x'.repeat(256) }],
    ['a property behind large ones', { headers: { large: 'x'.repeat(100_000) }, priority: 256 }],
    ['a header deep inside', { headers: { large: 'x'.repeat(1000), a: [{ b: [field.uint8(256)] }] } }],
  ];

  test.each(faults)('in %s leaves what was written before as it was', (_what, properties) => {
    const { queueDeclare } = goldenMethods;
    for (let size = 0; size < 300; size += 1) {
      const writer = new WireWriter(size);
      writeHeartbeat(writer);
      writer.take();
      writeMethodFrame(writer, UNLIMITED, 1, 'queue.declare', queueDeclare.method.args);
      const before = writer.length;
      expect(() => {
        writeContentHead(writer, 4096, 1, 'basic.publish', TO_QUEUE, properties, 3);
      }).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
      expect(writer.length).toBe(before);
      writeHeartbeat(writer);
      expect(writer.take().equals(Buffer.concat([queueDeclare.bytes, goldenHeartbeat]))).toBe(true);
    }
  });

  test('in an argument of a method leaves nothing behind', () => {
    const writer = new WireWriter();
    expect(() => {
      writeMethodFrame(writer, UNLIMITED, 1, 'basic.qos', { prefetchSize: 0, prefetchCount: 70_000, global: false });
    }).toThrow('prefetchCount of basic.qos');
    expect(writer.length).toBe(0);
  });

  test('comes between good frames without a trace', () => {
    const good = { headers: { a: 1 } };
    const bad = { headers: { a: NaN } };
    const write = (writer: WireWriter, properties: BasicProperties): void => {
      writeContentHead(writer, 4096, 1, 'basic.publish', TO_QUEUE, properties, 0);
    };
    fc.assert(
      fc.property(fc.array(fc.boolean()), fc.nat(100), (outcomes, size) => {
        const writer = new WireWriter(size);
        const expected = new WireWriter();
        for (const succeeds of outcomes) {
          if (succeeds) {
            write(writer, good);
            write(expected, good);
          } else {
            expect(() => write(writer, bad)).toThrow();
          }
        }
        expect(writer.take().equals(expected.take())).toBe(true);
      }),
    );
  });
});

describe('what is laid out by hand', () => {
  const name = fc.oneof(shortText, fc.string({ maxLength: 80 }));
  const some = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(arbitrary, { nil: undefined });
  const properties = fc.record({
    contentType: some(name),
    contentEncoding: some(name),
    headers: some(fieldTable),
    deliveryMode: some(fc.constantFrom(1, 2)),
    priority: some(fc.nat(255)),
    correlationId: some(fc.oneof(name, binary)),
    replyTo: some(name),
    expiration: some(name),
    messageId: some(name),
    timestamp: some(fc.maxSafeNat()),
    type: some(name),
    userId: some(name),
    appId: some(name),
    clusterId: some(name),
  });

  test('of basic.publish are the bytes that the table says', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 0xffff }),
        name,
        fc.oneof(name, binary),
        fc.boolean(),
        properties,
        fc.maxSafeNat(),
        (channel, exchange, routingKey, mandatory, options, bodySize) => {
          const [byHand, byTable] = [new WireWriter(64), new WireWriter(64)];
          writePublishHead(byHand, 0, channel, exchange, routingKey, mandatory, options, bodySize);
          const args = { exchange, routingKey, mandatory, immediate: false };
          writeContentHead(byTable, 0, channel, 'basic.publish', args, options, bodySize);
          expect(byHand.take()).toEqual(byTable.take());
        },
      ),
    );
  });

  test('of basic.ack are the bytes that the table says', () => {
    fc.assert(
      fc.property(fc.nat(0xffff), fc.maxSafeNat(), fc.boolean(), (channel, deliveryTag, multiple) => {
        const [byHand, byTable] = [new WireWriter(64), new WireWriter(64)];
        writeAck(byHand, channel, deliveryTag, multiple);
        writeMethodFrame(byTable, 0, channel, 'basic.ack', { deliveryTag, multiple });
        expect(byHand.take()).toEqual(byTable.take());
      }),
    );
  });

  test('of basic.publish refuses what the table refuses, with nothing written', () => {
    for (const [exchange, routingKey, mandatory] of [
      [7, 'k', false],
      ['e', null, false],
      ['e', 'k', 'no'],
      ['e'.repeat(256), 'k', false],
    ] as unknown as [string, string, boolean][]) {
      const writer = new WireWriter();
      const write = (): unknown => writePublishHead(writer, 0, 1, exchange, routingKey, mandatory, {}, 0);
      expect([thrown(write).code, writer.length]).toEqual(['INVALID_ARGUMENT', 0]);
    }
  });
});
