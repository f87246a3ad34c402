/** The properties of a message: flag word and values. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { isDeepStrictEqual } from 'node:util';

import {
  type BasicProperties,
  readProperties,
  readPropertyBytes,
  writeProperties,
} from '../../lib/protocol/properties.js';
import { WireReader, WireWriter } from '../../lib/protocol/wire.js';
import { bytes } from '../support/golden-frames.js';
import { fieldTable, shortText } from './arbitraries.js';

/** Flags and values, from properties that are not checked against their types. */
function encoded(properties: Readonly<Record<string, unknown>>): Buffer {
  const writer = new WireWriter();
  writeProperties(writer, properties);
  return writer.take();
}

function decoded(encodedProperties: Buffer): BasicProperties {
  return readProperties(new WireReader(encodedProperties));
}

const GOLDEN: readonly [name: keyof BasicProperties, value: unknown, notation: string][] = [
  ['contentType', 'text/plain', '8000  0a "text/plain"'],
  ['contentEncoding', 'gzip', '4000  04 "gzip"'],
  ['headers', { a: true }, '2000  00000004 01 "a" "t" 01'],
  ['deliveryMode', 2, '1000  02'],
  ['priority', 255, '0800  ff'],
  ['correlationId', 'c-1', '0400  03 "c-1"'],
  ['replyTo', 'amq.rabbitmq.reply-to', '0200  15 "amq.rabbitmq.reply-to"'],
  ['expiration', '60000', '0100  05 "60000"'],
  ['messageId', 'm-1', '0080  03 "m-1"'],
  ['timestamp', 1_700_000_000, '0040  000000006553f100'],
  ['type', 'order', '0020  05 "order"'],
  ['userId', 'guest', '0010  05 "guest"'],
  ['appId', 'shop', '0008  04 "shop"'],
  ['clusterId', '', '0004  00'],
];

const anyProperties = fc.record(
  {
    contentType: shortText,
    contentEncoding: shortText,
    headers: fieldTable,
    deliveryMode: fc.constantFrom(1, 2),
    priority: fc.nat(255),
    correlationId: shortText,
    replyTo: shortText,
    expiration: shortText,
    messageId: shortText,
    timestamp: fc.maxSafeNat(),
    type: shortText,
    userId: shortText,
    appId: shortText,
    clusterId: shortText,
  },
  { requiredKeys: [], noNullPrototype: true },
);

describe('golden properties', () => {
  test('there is one for each of the fourteen properties', () => {
    expect(GOLDEN).toHaveLength(14);
  });

  test.each(GOLDEN)('%s alone is the same bytes both ways', (name, value, notation) => {
    expect(encoded({ [name]: value })).toEqual(bytes(notation));
    expect(decoded(bytes(notation))).toEqual({ [name]: value });
  });

  test('no properties are a flag word of zero', () => {
    expect(encoded({})).toEqual(bytes('0000'));
    expect(decoded(bytes('0000'))).toEqual({});
  });

  test('values stand in flag order, in whatever order they were given', () => {
    const notation = '9400  0a "text/plain"  01  01 "c"';
    expect(encoded({ correlationId: 'c', deliveryMode: 1, contentType: 'text/plain' })).toEqual(bytes(notation));
    expect(decoded(bytes(notation))).toEqual({ contentType: 'text/plain', deliveryMode: 1, correlationId: 'c' });
  });

  test('a property that is undefined has no flag', () => {
    expect(encoded({ contentType: undefined, priority: 0 })).toEqual(bytes('0800  00'));
  });
});

describe('round trip', () => {
  test('every one of the 16,384 subsets comes back, with no property more or less', () => {
    const headers = Object.assign(Object.create(null) as object, { a: true });
    const lost: BasicProperties[] = [];
    for (let subset = 0; subset < 1 << GOLDEN.length; subset += 1) {
      const properties: Record<string, unknown> = {};
      GOLDEN.forEach(([name, value], index) => {
        if ((subset & (1 << index)) !== 0) properties[name] = name === 'headers' ? headers : value;
      });
      if (!isDeepStrictEqual(decoded(encoded(properties)), properties)) lost.push(properties);
    }
    expect(lost).toEqual([]);
  });

  test('every value comes back', () => {
    fc.assert(
      fc.property(anyProperties, (properties) => {
        expect(decoded(encoded(properties))).toEqual(properties);
      }),
      { numRuns: 200 },
    );
  });
});

describe('properties that cannot be sent', () => {
  test.each<[properties: Record<string, unknown>, message: string]>([
    [{ deliveryMode: 3 }, 'The property deliveryMode has to be 1 or 2; it is 3.'],
    [{ deliveryMode: 0 }, 'The property deliveryMode has to be 1 or 2; it is 0.'],
    [{ deliveryMode: '2' }, 'The property deliveryMode has to be an integer from 0 to 255; it is a string.'],
    [{ priority: 256 }, 'The property priority has to be an integer from 0 to 255; it is 256.'],
    [{ priority: -1 }, 'it is -1.'],
    [{ priority: 1.5 }, 'it is 1.5.'],
    [{ timestamp: 1.5 }, 'The property timestamp has to be whole seconds since 1970; it is 1.5.'],
    [{ timestamp: 2 ** 53 }, 'whole seconds'],
    [{ timestamp: -1 }, 'whole seconds'],
    [{ timestamp: new Date(0) }, 'it is a object.'],
    [{ expiration: 60_000 }, 'The property expiration has to be a string; it is 60000.'],
    [{ contentType: null }, 'The property contentType has to be a string; it is null.'],
    [{ headers: null }, 'The property headers has to be an object; it is null.'],
    [{ headers: ['a'] }, 'The property headers has to be an object'],
    [{ headers: 'a' }, 'The property headers has to be an object; it is a string.'],
    [{ headers: new Map() }, 'headers is a Map; it has to be a plain object.'],
    [{ headers: { a: { b: Symbol('s') } } }, 'headers.a.b is a symbol.'],
  ])('%j is refused', (properties, message) => {
    expect(() => encoded(properties)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(message) }),
    );
  });

  test('a short string is measured in bytes of UTF-8: 255 pass, 256 do not', () => {
    const fits = '€'.repeat(85);
    expect(decoded(encoded({ correlationId: fits }))).toEqual({ correlationId: fits });
    expect(() => encoded({ correlationId: `${fits}x` })).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('The property correlationId is 256 bytes of UTF-8'),
      }),
    );
    expect(() => encoded({ messageId: 'é'.repeat(128) })).toThrow('The property messageId is 256 bytes');
  });
});

describe('one property as the bytes that came', () => {
  const bytesOf = (wanted: 'correlationId' | 'replyTo', notation: Buffer): Buffer | undefined =>
    readPropertyBytes(new WireReader(notation), wanted);

  test('is found behind whatever stands before it', () => {
    fc.assert(
      fc.property(anyProperties, (properties) => {
        const all = encoded(properties);
        for (const name of ['correlationId', 'replyTo'] as const) {
          expect(bytesOf(name, all)?.toString()).toBe(properties[name]);
        }
      }),
      { numRuns: 200 },
    );
  });

  test('is what was written, though it is no UTF-8', () => {
    const id = Buffer.alloc(255, 0xff);
    const written = encoded({ contentType: 'a', correlationId: id, replyTo: 'r' });
    expect(written).toEqual(Buffer.concat([bytes('8600  01 "a"  ff'), id, bytes('01 "r"')]));
    expect(bytesOf('correlationId', written)).toEqual(id);
    expect(bytesOf('replyTo', written)).toEqual(bytes('"r"'));
  });

  test('is found behind headers that cannot be decoded', () => {
    const notation = bytes('2400  00000004 01 "a" "?" 01  03 "c-1"');
    expect(() => decoded(notation)).toThrow(expect.objectContaining({ code: 'PROTOCOL_ERROR' }));
    expect(bytesOf('correlationId', notation)).toEqual(bytes('"c-1"'));
  });

  test.each(['', '00', '0401  01 "c"', '0400', '0400  05 "text"', '2400  7fffffff 01 "c"'])(
    'is refused where lengths lie: %j',
    (notation) => {
      expect(() => bytesOf('correlationId', bytes(notation))).toThrow(
        expect.objectContaining({ code: 'PROTOCOL_ERROR' }),
      );
    },
  );

  test('may be given as bytes for the correlation id alone', () => {
    expect(() => encoded({ replyTo: Buffer.from('r') })).toThrow('The property replyTo has to be a string');
    expect(() => encoded({ correlationId: Buffer.alloc(256, 'c') })).toThrow('The property correlationId is 256 bytes');
  });
});

describe('properties that a peer must not send', () => {
  test.each([
    ['a flag that announces a second word of flags', '8001  01 "a"  0000'],
    ['a byte left over', '1000  02  00'],
    ['values without flags', '0000  02'],
    ['no flag word', '00'],
    ['a value that is missing', '9000  01 "a"'],
    ['a string that ends early', '8000  05 "text"'],
    ['a table that ends early', '2000  00000005 01 "a" "t" 01'],
    ['an unknown letter in the headers', '2000  00000004 01 "a" "?" 01'],
    ['a timestamp beyond 2^53', '0040  0020000000000000'],
  ])('%s is refused', (_what, notation) => {
    expect(() => decoded(bytes(notation))).toThrow(expect.objectContaining({ code: 'PROTOCOL_ERROR' }));
  });

  test('a delivery mode that we would not send is read as it came', () => {
    expect(decoded(bytes('1000  03'))).toEqual({ deliveryMode: 3 });
  });

  test('headers keep a field of the name __proto__', () => {
    const properties = decoded(bytes('2000  0000000c 09 "__proto__" "t" 01'));
    expect(Object.keys(properties.headers ?? {})).toEqual(['__proto__']);
  });
});
