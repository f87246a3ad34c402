/** Field tables: the letters byte for byte, the borders of numbers, and what is refused in either direction. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { runInNewContext } from 'node:vm';

import type { TypedField } from '../../lib/protocol/field-table.js';
import {
  Decimal,
  type FieldTable,
  type FieldValue,
  MAX_NESTING,
  field,
  readTable,
  writeTable,
} from '../../lib/protocol/field-table.js';
import { WireReader, WireWriter } from '../../lib/protocol/wire.js';
import { bytes } from '../support/golden-frames.js';
import { fieldTable } from './arbitraries.js';

/** The bytes of a table, from values that are not checked against their types. */
function encoded(table: Readonly<Record<string, unknown>>): Buffer {
  const writer = new WireWriter();
  writeTable(writer, table as FieldTable, 'headers');
  return writer.take();
}

function decoded(table: Buffer): FieldTable {
  return readTable(new WireReader(table));
}

/** The table whose entries are `notation`, with its length before it. */
function tableOf(notation: string): Buffer {
  const entries = bytes(notation);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(entries.length);
  return Buffer.concat([length, entries]);
}

/** What a table with `value` under the name `k` holds behind that name: letter and value. */
function encodedValue(value: unknown): string {
  return encoded({ k: value }).subarray(6).toString('hex');
}

function decodedValue(notation: string): FieldValue | undefined {
  return decoded(tableOf(`01 "k" ${notation}`))['k'];
}

function hex(notation: string): string {
  return bytes(notation).toString('hex');
}

describe('letters', () => {
  test.each<[what: string, value: FieldValue, notation: string]>([
    ['true', true, '"t" 01'],
    ['false', false, '"t" 00'],
    ['null', null, '"V"'],
    ['a string', 'añ€🐇', '"S" 0000000a "a" c3b1 e282ac f09f9087'],
    ['an empty string', '', '"S" 00000000'],
    ['bytes', Buffer.from([0, 255]), '"x" 00000002 00ff'],
    ['a time', new Date('2023-11-14T22:13:20Z'), '"T" 000000006553f100'],
    ['the start of time', new Date(0), '"T" 0000000000000000'],
    ['the end of time', new Date(8.64e15), '"T" 000007dba8218000'],
    ['a decimal', new Decimal(2, 314), '"D" 02 0000013a'],
    ['the largest decimal', new Decimal(255, 0xffff_ffff), '"D" ff ffffffff'],
    ['an array', [1, 'a', null, [true]], '"A" 00000013 "I" 00000001 "S" 00000001 "a" "V" "A" 00000002 "t" 01'],
    ['an empty array', [], '"A" 00000000'],
    ['a table', { a: { b: null } }, '"F" 0000000a 01 "a" "F" 00000003 01 "b" "V"'],
    ['an empty table', {}, '"F" 00000000'],
    ['a fraction', 0.1, '"d" 3fb999999999999a'],
    ['a fraction below zero', -1.5, '"d" bff8000000000000'],
    ['a number beyond every integer', 1e300, '"d" 7e37e43c8800759c'],
    ['negative zero', -0, '"d" 8000000000000000'],
  ])('%s is the same bytes both ways', (_what, value, notation) => {
    expect(encodedValue(value)).toBe(hex(notation));
    expect(decodedValue(notation)).toEqual(value);
  });

  test.each<[letter: string, typed: TypedField, notation: string, value: FieldValue]>([
    ['b', field.int8(-2), '"b" fe', -2],
    ['B', field.uint8(254), '"B" fe', 254],
    ['s', field.int16(-2), '"s" fffe', -2],
    ['u', field.uint16(65_534), '"u" fffe', 65_534],
    ['I', field.int32(-2), '"I" fffffffe', -2],
    ['i', field.uint32(4_294_967_294), '"i" fffffffe', 4_294_967_294],
    ['l', field.int64(-2), '"l" fffffffffffffffe', -2],
    ['f', field.float(0.5), '"f" 3f000000', 0.5],
    ['d', field.double(2), '"d" 4000000000000000', 2],
    ['T', field.timestamp(60), '"T" 000000000000003c', new Date(60_000)],
  ])('a number can be sent as %s', (_letter, typed, notation, value) => {
    expect(encodedValue(typed)).toBe(hex(notation));
    expect(decodedValue(notation)).toEqual(value);
  });

  test("'L' is read as the signed 64-bit integer that 'l' is", () => {
    expect(decodedValue('"L" ffffffffffffffff')).toBe(-1);
    expect(decodedValue('"L" 7fffffffffffffff')).toBe(2n ** 63n - 1n);
  });

  test('any octet but zero is true', () => {
    expect(decodedValue('"t" 02')).toBe(true);
    expect(decodedValue('"t" ff')).toBe(true);
  });

  test('a time that Date does not reach is read as a typed field and written back as it came', () => {
    const notation = '"T" 000007dba8218001';
    const value = decodedValue(notation);
    expect(value).toEqual(field.timestamp(8_640_000_000_001n));
    expect(encodedValue(value)).toBe(hex(notation));
    expect(decodedValue('"T" ffffffffffffffff')).toEqual(field.timestamp(2n ** 64n - 1n));
  });

  test('a time has whole seconds: the rest is cut off', () => {
    expect(encodedValue(new Date(1999))).toBe(hex('"T" 0000000000000001'));
  });

  test('a peer may send NaN and the infinities', () => {
    expect(decodedValue('"d" 7ff8000000000000')).toBe(NaN);
    expect(decodedValue('"f" ff800000')).toBe(-Infinity);
  });

  test('bytes are copied out of the frame that they came in', () => {
    const table = tableOf('01 "k" "x" 00000002 0102');
    const value = decoded(table)['k'];
    table.fill(0);
    expect(value).toEqual(Buffer.from([1, 2]));
  });

  test('bytes of any view are written as that view shows them', () => {
    expect(encodedValue(new Uint8Array([9, 1, 2, 9]).subarray(1, 3))).toBe(hex('"x" 00000002 0102'));
  });

  test('text that is not UTF-8 is read with replacement characters', () => {
    expect(decoded(tableOf('02 ff "k" "S" 00000002 fe "v"'))).toEqual({ '\ufffdk': '\ufffdv' });
  });

  test.each(['"U" 0000', '"Z" 00', '00', 'ff', '"a" 00'])('the unknown letter in %s is refused', (notation) => {
    expect(() => decodedValue(notation)).toThrow(expect.objectContaining({ code: 'PROTOCOL_ERROR', replyCode: 502 }));
  });

  test('an unknown letter is named by its number', () => {
    expect(() => decodedValue('07')).toThrow('a field of unknown type 0x07');
  });
});

describe('integers', () => {
  // The letters b, B, s, u and i are only for those who ask: brokers and clients read I and l everywhere.
  test.each<[integer: number | bigint, notation: string]>([
    [0, '"I" 00000000'],
    [127, '"I" 0000007f'],
    [128, '"I" 00000080'],
    [-128, '"I" ffffff80'],
    [-129, '"I" ffffff7f'],
    [32_767, '"I" 00007fff'],
    [32_768, '"I" 00008000'],
    [-32_768, '"I" ffff8000'],
    [-32_769, '"I" ffff7fff'],
    [2 ** 31 - 1, '"I" 7fffffff'],
    [2 ** 31, '"l" 0000000080000000'],
    [-(2 ** 31), '"I" 80000000'],
    [-(2 ** 31) - 1, '"l" ffffffff7fffffff'],
    [3_000_000_000, '"l" 00000000b2d05e00'],
    [2 ** 53 - 1, '"l" 001fffffffffffff'],
    [-(2 ** 53) + 1, '"l" ffe0000000000001'],
    [2n ** 53n, '"l" 0020000000000000'],
    [-(2n ** 53n), '"l" ffe0000000000000'],
    [2n ** 63n - 1n, '"l" 7fffffffffffffff'],
    [-(2n ** 63n), '"l" 8000000000000000'],
  ])('%p is the same bytes both ways', (integer, notation) => {
    expect(encodedValue(integer)).toBe(hex(notation));
    expect(decodedValue(notation)).toBe(integer);
  });

  test('an integer that no safe number holds is written as the double that it is', () => {
    expect(encodedValue(2 ** 53)).toBe(hex('"d" 4340000000000000'));
    expect(encodedValue(-(2 ** 63))).toBe(hex('"d" c3e0000000000000'));
  });

  test('a bigint is always written in 64 bits, and read as a number where one holds it', () => {
    expect(encodedValue(5n)).toBe(hex('"l" 0000000000000005'));
    expect(decodedValue('"l" 0000000000000005')).toBe(5);
  });

  test.each<[what: string, value: unknown, message: string]>([
    ['int8', field.int8(128), 'headers.k is 128; it has to be an integer from -128 to 127.'],
    ['int8', field.int8(-129), 'an integer from -128 to 127'],
    ['uint8', field.uint8(256), 'an integer from 0 to 255'],
    ['uint8', field.uint8(-1), 'an integer from 0 to 255'],
    ['int16', field.int16(32_768), 'an integer from -32768 to 32767'],
    ['int16', field.int16(-32_769), 'an integer from -32768 to 32767'],
    ['uint16', field.uint16(65_536), 'an integer from 0 to 65535'],
    ['int32', field.int32(2 ** 31), 'an integer from -2147483648 to 2147483647'],
    ['int32', field.int32(-(2 ** 31) - 1), 'an integer from -2147483648 to 2147483647'],
    ['uint32', field.uint32(2 ** 32), 'an integer from 0 to 4294967295'],
    ['int64', field.int64(2n ** 63n), 'headers.k is 9223372036854775808; it has to be an integer from'],
    ['int64', field.int64(-(2n ** 63n) - 1n), 'headers.k is -9223372036854775809'],
    ['int64 of a fraction', field.int64(1.5), 'headers.k is 1.5'],
    ['timestamp', field.timestamp(-1), 'headers.k is -1'],
    ['timestamp', field.timestamp(2n ** 64n), 'headers.k is 18446744073709551616'],
    ['a bigint', 2n ** 63n, 'headers.k is 9223372036854775808'],
    ['uint8 of NaN', field.uint8(NaN), 'headers.k is NaN'],
    ['a decimal scale', new Decimal(256, 1), 'headers.k.scale is 256; it has to be an integer from 0 to 255.'],
    ['a decimal', new Decimal(0, -1), 'headers.k.unscaled is -1; it has to be an integer from 0 to 4294967295.'],
  ])('%s one beyond its border is refused', (_what, value, message) => {
    expect(() => encodedValue(value)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(message) }),
    );
  });

  test('a number that a float can only hold as infinity is refused', () => {
    expect(encodedValue(field.float(3.4028234663852886e38))).toBe(hex('"f" 7f7fffff'));
    expect(() => encodedValue(field.float(3.5e38))).toThrow('headers.k is 3.5e+38');
    expect(() => encodedValue(field.float(-1e300))).toThrow('headers.k is -1e+300');
  });
});

describe('a decimal', () => {
  test.each([
    [new Decimal(2, 314), 3.14, '3.14'],
    [new Decimal(0, 42), 42, '42'],
    [new Decimal(3, 5), 0.005, '0.005'],
  ])('%p counts as a number and prints as one', (decimal, number, printed) => {
    expect(decimal.valueOf()).toBe(number);
    expect(String(decimal)).toBe(printed);
  });
});

describe('names', () => {
  test('of two fields with one name the first counts', () => {
    expect(decoded(tableOf('01 "k" "I" 00000001  01 "k" "I" 00000002'))).toEqual({ k: 1 });
  });

  test('__proto__ and constructor are fields like any other, and set no prototype', () => {
    const table = decoded(
      tableOf(`
        09 "__proto__"   "F" 0000000a  07 "isAdmin" "t" 01
        0b "constructor" "t" 01
      `),
    );
    expect(Object.keys(table)).toEqual(['__proto__', 'constructor']);
    expect(table['isAdmin']).toBeUndefined();
    expect(table['__proto__']).toEqual({ isAdmin: true });
    expect(encoded(table)).toHaveLength(4 + 25 + 14);
  });

  test('a table has no prototype to look names up in, at any depth', () => {
    const table = decoded(tableOf('01 "k" "F" 00000000'));
    expect(Object.getPrototypeOf(table)).toBeNull();
    expect(Object.getPrototypeOf(table['k'])).toBeNull();
    expect('toString' in table).toBe(false);
  });

  test('an own __proto__ is written; an object that inherits fields is refused', () => {
    const table = Object.create({ inherited: 1 }) as Record<string, unknown>;
    expect(encoded({ nested: JSON.parse('{"__proto__": true}') as unknown })).toEqual(
      tableOf('06 "nested" "F" 0000000c 09 "__proto__" "t" 01'),
    );
    expect(() => encoded({ nested: table })).toThrow('headers.nested is');
  });

  test('a name takes 255 bytes of UTF-8, not 256', () => {
    const name = `${'€'.repeat(84)}abc`;
    expect(decoded(encoded({ [name]: true }))).toEqual({ [name]: true });
    expect(() => encoded({ outer: { [`${name}d`]: true } })).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('The name of a field in headers.outer is 256 bytes of UTF-8'),
      }),
    );
  });

  test('the empty name is a name', () => {
    expect(decoded(encoded({ '': 1 }))).toEqual({ '': 1 });
  });

  test('a field that is undefined is left out; an item that is undefined keeps its place as null', () => {
    expect(encoded({ a: undefined, b: null })).toEqual(tableOf('01 "b" "V"'));
    expect(encodedValue([undefined, true])).toBe(hex('"A" 00000003 "V" "t" 01'));
  });

  test('a hole in an array keeps its place as null', () => {
    const holed: unknown[] = [];
    holed[1] = true;
    expect(encodedValue(holed)).toBe(hex('"A" 00000003 "V" "t" 01'));
  });
});

describe('values that no letter stands for', () => {
  class Order {
    readonly id = 1;
  }

  test.each<[what: string, value: unknown]>([
    ['NaN', NaN],
    ['Infinity', Infinity],
    ['-Infinity', -Infinity],
    ['a function', () => 1],
    ['a symbol', Symbol('s')],
    ['a Map', new Map([['a', 1]])],
    ['a Set', new Set([1])],
    ['a RegExp', /a/],
    ['a Promise', Promise.resolve()],
    ['an Order', new Order()],
    ['a Float64Array', new Float64Array(1)],
    ['an ArrayBuffer', new ArrayBuffer(1)],
    ['a Date that is invalid', new Date(NaN)],
    ['a Date before 1970', new Date(-1)],
    ['an infinite double', field.double(Infinity)],
    ['an infinite float', field.float(NaN)],
    ['an object of an unknown class', Object.create(Object.create(Object.create(null) as object) as object)],
  ])('%s is refused with the path to it', (_what, value) => {
    expect(() => encoded({ a: { list: [1, { b: value }] } })).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringMatching(/^headers\.a\.list\[1\]\.b is /),
      }),
    );
  });

  test('a table itself has to be a plain object', () => {
    for (const table of [new Map([['a', 1]]), new Order(), Buffer.from('a'), new Date(0)]) {
      expect(() => encoded(table as unknown as FieldTable)).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(/^headers is /) }),
      );
    }
  });

  test('the path in an error has no control characters', () => {
    expect(() => encoded({ '\u001b[2J\n': field.uint8(256) })).toThrow('headers.\\u001b[2J\\u000a is 256');
    expect(() => encoded({ '\u001b[2J\n': NaN })).toThrow('headers.\\u001b[2J\\u000a is NaN');
  });

  test('plain objects, dates, bytes and arrays of another realm are as good as those of this one', () => {
    const other = runInNewContext('({ o: { a: 1 }, d: new Date(0), b: new Uint8Array([1]), l: [true] })') as FieldTable;
    const table: FieldTable = { o: { a: 1 }, d: new Date(0), b: new Uint8Array([1]), l: [true] };
    expect(encoded(other)).toEqual(encoded(table));
  });
});

describe('nesting', () => {
  /** A value inside `levels` tables, or inside `levels` of what `wrap` makes. */
  function nested(levels: number, wrap: (inner: FieldValue) => FieldValue = (inner) => ({ k: inner })): FieldTable {
    let value: FieldValue = true;
    for (let level = 1; level < levels; level += 1) value = wrap(value);
    return { k: value };
  }

  /** The same as bytes: tables, or arrays below the one table that there has to be. */
  function nestedBytes(levels: number, letter: 'F' | 'A'): Buffer {
    const name = letter === 'F' ? bytes('01 "k"') : Buffer.alloc(0);
    let value = bytes('"t" 01');
    for (let level = 1; level < levels; level += 1) {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(name.length + value.length);
      value = Buffer.concat([Buffer.from(letter), length, name, value]);
    }
    return tableOf(`01 "k" ${value.toString('hex')}`);
  }

  test('32 levels of tables or arrays are written and read', () => {
    expect(MAX_NESTING).toBe(32);
    expect(encoded(nested(32))).toEqual(nestedBytes(32, 'F'));
    expect(encoded(nested(32, (inner) => [inner]))).toEqual(nestedBytes(32, 'A'));
    expect(decoded(nestedBytes(32, 'F'))).toEqual(nested(32));
    expect(decoded(nestedBytes(32, 'A'))).toEqual(nested(32, (inner) => [inner]));
  });

  test('33 levels are not written', () => {
    const refusal = expect.objectContaining({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('nested deeper than 32 levels'),
    });
    expect(() => encoded(nested(33))).toThrow(refusal);
    expect(() => encoded(nested(33, (inner) => [inner]))).toThrow(refusal);
  });

  test('33 levels are not read, and 5,000 do not exhaust the stack', () => {
    for (const levels of [33, 5_000]) {
      for (const letter of ['F', 'A'] as const) {
        expect(() => decoded(nestedBytes(levels, letter))).toThrow(
          expect.objectContaining({ code: 'PROTOCOL_ERROR', replyCode: 502 }),
        );
      }
    }
  });

  test('an object or array that contains itself is refused', () => {
    const table: Record<string, unknown> = {};
    table['self'] = [table];
    expect(() => encoded(table)).toThrow('headers.self[0].self[0]');
    expect(() => encoded(table)).toThrow('or contains itself');
  });
});

describe('lengths that lie', () => {
  test.each([
    ['of the table, by one', '00000008  01 "k" "S" 00000000'],
    ['of the table, by 4 GiB', 'ffffffff  01 "k" "V"'],
    ['of a name', '00000003  ff "k" "V"'],
    ['of a string, beyond its table', '00000009  01 "k" "S" 00000004 "ab"  "cdef"'],
    ['of bytes', '00000009  01 "k" "x" ffffffff "ab"'],
    ['of an array', '00000009  01 "k" "A" 00000003 "t" 01  01'],
    ['of a nested table, beyond its table', '0000000a  01 "k" "F" 00000005 01 "a" "V"  0000'],
    ['of a string, beyond its array', '0000000e  01 "k" "A" 00000005 "S" 00000001 "a" 0000 '],
    ['of the table, cutting a number short', '00000005  01 "k" "I" 0000 0001'],
    ['of the table, leaving a name without a value', '00000002  01 "k"'],
  ])('a length %s is refused', (_what, notation) => {
    expect(() => decoded(bytes(notation))).toThrow(expect.objectContaining({ code: 'PROTOCOL_ERROR' }));
  });

  test('a table that ends early at any byte is refused', () => {
    const whole = encoded({
      s: 'text',
      n: [1, 2.5, { deep: [new Date(0), null] }],
      d: new Decimal(1, 1),
      b: 2n ** 60n,
    });
    for (let end = 0; end < whole.length; end += 1) {
      expect(() => readTable(new WireReader(whole, 0, end))).toThrow(expect.objectContaining({ replyCode: 501 }));
    }
  });

  test('any garbage is read as a table or refused as a protocol error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (garbage) => {
        try {
          decoded(tableOf(Buffer.from(garbage).toString('hex') || '""'));
        } catch (error) {
          expect(error).toMatchObject({ code: 'PROTOCOL_ERROR' });
        }
      }),
      { numRuns: 500 },
    );
  });

  test('a table with any one byte changed is read as a table or refused as a protocol error', () => {
    const whole = encoded({
      s: 'text',
      n: [1, 2.5, { deep: [new Date(0), null] }],
      d: new Decimal(1, 1),
      b: 2n ** 60n,
    });
    for (let at = 0; at < whole.length; at += 1) {
      for (const octet of [0x00, 0x01, 0x7f, 0x80, 0xff]) {
        const changed = Buffer.from(whole);
        changed[at] = octet;
        try {
          decoded(changed);
        } catch (error) {
          expect(error).toMatchObject({ code: 'PROTOCOL_ERROR' });
        }
      }
    }
  });
});

describe('round trip', () => {
  test('every table comes back as it was', () => {
    fc.assert(
      fc.property(fieldTable, (table) => {
        expect(decoded(encoded(table))).toEqual(table);
      }),
      { numRuns: 500 },
    );
  });

  test('every table is written again as the bytes that it was read from', () => {
    fc.assert(
      fc.property(fieldTable, (table) => {
        const once = encoded(table);
        expect(encoded(decoded(once)).equals(once)).toBe(true);
      }),
    );
  });

  test.each<[width: string, make: (value: number) => TypedField, values: fc.Arbitrary<number>]>([
    ['int8', field.int8, fc.integer({ min: -0x80, max: 0x7f })],
    ['uint8', field.uint8, fc.nat(0xff)],
    ['int16', field.int16, fc.integer({ min: -0x8000, max: 0x7fff })],
    ['uint16', field.uint16, fc.nat(0xffff)],
    ['int32', field.int32, fc.integer()],
    ['uint32', field.uint32, fc.nat(0xffff_ffff)],
    ['int64', field.int64, fc.maxSafeInteger()],
    ['float', field.float, fc.float({ noNaN: true, noDefaultInfinity: true })],
    ['double', field.double, fc.double({ noNaN: true, noDefaultInfinity: true })],
  ])('every number sent as %s comes back', (_width, make, values) => {
    fc.assert(
      fc.property(values, (value) => {
        expect(decoded(encoded({ k: make(value) }))).toEqual({ k: value });
      }),
    );
  });
});
