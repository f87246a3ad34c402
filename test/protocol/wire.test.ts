/** The elementary types, and the writer's promises about memory. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { WireReader, WireWriter } from '../../lib/protocol/wire.js';
import { bytes } from '../support/golden-frames.js';
import { binary, shortText, text } from './arbitraries.js';

function written(write: (writer: WireWriter) => void): Buffer {
  const writer = new WireWriter();
  write(writer);
  return writer.take();
}

type WriteStep = (writer: WireWriter) => void;

/** A step of every kind of write, with small and with large values. */
const step: fc.Arbitrary<WriteStep> = fc.oneof(
  fc.nat(0xff).map(
    (value): WriteStep =>
      (writer) =>
        writer.octet(value),
  ),
  fc.nat(0xffff).map(
    (value): WriteStep =>
      (writer) =>
        writer.short(value),
  ),
  fc.nat(0xffff_ffff).map(
    (value): WriteStep =>
      (writer) =>
        writer.long(value),
  ),
  fc.maxSafeNat().map(
    (value): WriteStep =>
      (writer) =>
        writer.longlong(value),
  ),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map(
    (value): WriteStep =>
      (writer) =>
        writer.int64(value),
  ),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(
    (value): WriteStep =>
      (writer) =>
        writer.uint64(value),
  ),
  fc.double().map(
    (value): WriteStep =>
      (writer) =>
        writer.double(value),
  ),
  shortText.map(
    (value): WriteStep =>
      (writer) =>
        writer.shortstr(value, 'it'),
  ),
  text.map(
    (value): WriteStep =>
      (writer) =>
        writer.longstr(value),
  ),
  binary.map(
    (value): WriteStep =>
      (writer) =>
        writer.measured(() => writer.bytes(value)),
  ),
);

describe('elementary types', () => {
  test.each<[type: string, notation: string, write: WriteStep, read: (reader: WireReader) => unknown, value: unknown]>([
    ['octet', 'ff', (w) => w.octet(255), (r) => r.octet(), 255],
    ['signed octet', '80', (w) => w.octet(0x80), (r) => r.int8(), -128],
    ['short', 'fffe', (w) => w.short(65_534), (r) => r.short(), 65_534],
    ['signed short', '8000', (w) => w.short(0x8000), (r) => r.int16(), -32_768],
    ['long', '80000001', (w) => w.long(2_147_483_649), (r) => r.long(), 2_147_483_649],
    ['signed long', 'fffffffe', (w) => w.long(-2), (r) => r.int32(), -2],
    ['longlong', '001fffffffffffff', (w) => w.longlong(2 ** 53 - 1), (r) => r.longlong(), 2 ** 53 - 1],
    ['longlong above 2^32', '0000000180000000', (w) => w.longlong(6_442_450_944), (r) => r.longlong(), 6_442_450_944],
    ['int64', '8000000000000000', (w) => w.int64(-(2n ** 63n)), (r) => r.int64(), -(2n ** 63n)],
    ['uint64', 'ffffffffffffffff', (w) => w.uint64(2n ** 64n - 1n), (r) => r.uint64(), 2n ** 64n - 1n],
    ['float', '3fc00000', (w) => w.float(1.5), (r) => r.float(), 1.5],
    ['double', '3fb999999999999a', (w) => w.double(0.1), (r) => r.double(), 0.1],
    ['short string', '04 e2 82 ac 21', (w) => w.shortstr('€!', 'it'), (r) => r.shortstr(), '€!'],
    ['long string', '00000002 c3 a9', (w) => w.longstr('é'), (r) => r.longstr(), Buffer.from('é')],
  ])('%s is %s both ways', (_type, notation, write, read, value) => {
    expect(written(write)).toEqual(bytes(notation));
    const reader = new WireReader(bytes(notation));
    expect(read(reader)).toEqual(value);
    expect(reader.remaining).toBe(0);
  });

  test('a 64-bit number that no safe number holds is refused', () => {
    expect(() => new WireReader(bytes('0020000000000000')).longlong()).toThrow('beyond 2^53');
    expect(() => new WireReader(bytes('ffffffffffffffff')).longlong()).toThrow('beyond 2^53');
  });

  test('a long string is the bytes of the view that it was given, not of the memory behind it', () => {
    const slice = Buffer.from('0123456789').subarray(3, 6);
    expect(written((writer) => writer.longstr(slice))).toEqual(bytes('00000003 "345"'));
    expect(written((writer) => writer.longstr(new Uint8Array(slice)))).toEqual(bytes('00000003 "345"'));
  });

  test('a string with half a surrogate pair is written as the replacement character, with the right length', () => {
    expect(written((writer) => writer.shortstr('a\ud800', 'it'))).toEqual(bytes('04 "a" efbfbd'));
  });

  test('bytes that are not UTF-8 are read as replacement characters', () => {
    expect(new WireReader(bytes('03 "a" ff "b"')).shortstr()).toBe('a\ufffdb');
  });
});

describe('short strings', () => {
  test.each([
    ['255 ASCII characters', 'x'.repeat(255)],
    ['127 two-byte characters and one more byte', `${'é'.repeat(127)}x`],
    ['85 three-byte characters', '€'.repeat(85)],
  ])('%s fit', (_what, value) => {
    const encoded = written((writer) => writer.shortstr(value, 'it'));
    expect(encoded).toHaveLength(256);
    expect(new WireReader(encoded).shortstr()).toBe(value);
  });

  test.each([
    ['256 ASCII characters', 'x'.repeat(256)],
    ['128 two-byte characters', 'é'.repeat(128)],
    ['64 four-byte characters', '🐇'.repeat(64)],
  ])('%s are refused by their bytes, and nothing is written', (_what, value) => {
    const writer = new WireWriter();
    expect(() => writer.shortstr(value, 'The name of it')).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('The name of it is 256 bytes of UTF-8'),
      }),
    );
    expect(writer.length).toBe(0);
  });

  test('what an error says of a name has no control characters', () => {
    const writer = new WireWriter();
    expect(() => writer.shortstr('x'.repeat(256), 'The field \u001b[2J\n')).toThrow(
      'The field \\u001b[2J\\u000a is 256',
    );
  });
});

describe('WireReader', () => {
  test.each<[what: string, notation: string, read: (reader: WireReader) => unknown]>([
    ['an octet', '', (r) => r.octet()],
    ['a short', '00', (r) => r.short()],
    ['a long', '000000', (r) => r.long()],
    ['a longlong', '00000000000000', (r) => r.longlong()],
    ['a double', '00000000000000', (r) => r.double()],
    ['a short string', '03 "ab"', (r) => r.shortstr()],
    ['a long string', '00000003 "ab"', (r) => r.longstr()],
    ['a long string of 4 GiB', 'ffffffff "ab"', (r) => r.longstr()],
    ['a section', '"ab"', (r) => r.section(3)],
  ])('%s that ends before its last byte is refused, whatever bytes lie behind', (_what, notation, read) => {
    const announced = bytes(notation);
    const reader = new WireReader(Buffer.concat([announced, Buffer.from('behind it')]), 0, announced.length);
    expect(() => read(reader)).toThrow(expect.objectContaining({ code: 'PROTOCOL_ERROR', replyCode: 501 }));
  });

  test('a section ends where it was announced to, and the reader goes on behind it', () => {
    const reader = new WireReader(bytes('00 0102 03'), 1);
    const section = reader.section(2);
    expect(section.short()).toBe(0x0102);
    expect(() => section.octet()).toThrow('1 more bytes where 0 are left');
    expect(reader.octet()).toBe(3);
  });

  test('a long string is a view on the bytes read', () => {
    const buffer = bytes('00000002 "ab"');
    expect(new WireReader(buffer).longstr().buffer).toBe(buffer.buffer);
  });
});

describe('WireWriter', () => {
  test('gives the same bytes wherever its memory ends', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 20 }), (steps) => {
        const expected = written((writer) => {
          for (const write of steps) write(writer);
        });
        for (let size = 0; size <= expected.length; size += 1) {
          const writer = new WireWriter(size);
          for (const write of steps) write(writer);
          expect(writer.take().equals(expected)).toBe(true);
        }
      }),
      { numRuns: 30 },
    );
  });

  test('hands out every byte once, in order, whenever it is asked', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(step, fc.boolean())), fc.nat(64), (steps, size) => {
        const writer = new WireWriter(size);
        const taken: Buffer[] = [];
        for (const [write, take] of steps) {
          write(writer);
          if (take) taken.push(writer.take());
        }
        taken.push(writer.take());
        const expected = written((other) => {
          for (const [write] of steps) write(other);
        });
        expect(Buffer.concat(taken).equals(expected)).toBe(true);
      }),
    );
  });

  test('does not write again what it has handed out', () => {
    const writer = new WireWriter(16);
    writer.longlong(1);
    const taken = writer.take();
    writer.longlong(2);
    writer.rewind(0);
    writer.longlong(3);
    writer.longstr('over the border of the segment');
    expect(taken).toEqual(bytes('0000000000000001'));
  });

  test('has a length of what is not taken', () => {
    const writer = new WireWriter(8);
    expect(writer.length).toBe(0);
    writer.long(1);
    expect(writer.length).toBe(4);
    expect(writer.take()).toHaveLength(4);
    expect(writer.length).toBe(0);
    expect(writer.take()).toHaveLength(0);
    writer.bytes(Buffer.alloc(100));
    expect(writer.length).toBe(100);
  });

  test('forgets what was written after the length that it is rewound to, in an old segment and in a new one', () => {
    for (const tail of [Buffer.alloc(2), Buffer.alloc(200_000)]) {
      const writer = new WireWriter(16);
      writer.short(0xaaaa);
      writer.take();
      writer.short(0xbbbb);
      const before = writer.length;
      writer.bytes(tail);
      writer.rewind(before);
      writer.octet(0xcc);
      expect(writer.take()).toEqual(bytes('bbbb cc'));
    }
  });

  test('writes a length that is known only afterwards, after a take and over the border of a segment', () => {
    const writer = new WireWriter(8);
    writer.short(0xaaaa);
    writer.take();
    writer.measured(() => {
      writer.octet(1);
      writer.measured(() => writer.bytes(Buffer.from('a text that has no room there')));
    });
    expect(writer.take()).toEqual(bytes('00000022 01 0000001d "a text that has no room there"'));
  });

  test('patches a long by its distance from the last take', () => {
    const writer = new WireWriter();
    writer.short(0xaaaa);
    writer.take();
    writer.octet(1);
    writer.long(0);
    writer.octet(2);
    writer.patchLong(1, 0xfedc_ba98);
    expect(writer.take()).toEqual(bytes('01 fedcba98 02'));
  });

  test('writes what is larger than a segment', () => {
    const large = Buffer.alloc(1_000_000, 'x');
    expect(
      written((writer) => writer.longstr(large))
        .subarray(4)
        .equals(large),
    ).toBe(true);
    const text = '€'.repeat(300_000);
    expect(new WireReader(written((writer) => writer.longstr(text))).longstr().toString()).toBe(text);
  });
});
