/** Properties that are changed without being decoded. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { changedProperties, headerEntries, layoutOf } from '../../lib/broker/property-bytes.js';
import { field } from '../../lib/protocol/field-table.js';
import { type BasicProperties, readProperties } from '../../lib/protocol/properties.js';
import { WireReader } from '../../lib/protocol/wire.js';
import { fieldTable, shortText } from '../protocol/arbitraries.js';
import { propertyBytes } from './engine.js';

const anyProperties: fc.Arbitrary<BasicProperties> = fc.record(
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
    timestamp: fc.nat(),
    type: shortText,
    userId: shortText,
    appId: shortText,
    clusterId: shortText,
  },
  { requiredKeys: [] },
);

function decoded(bytes: Buffer): BasicProperties {
  return readProperties(new WireReader(bytes));
}

describe('property bytes', () => {
  test('tell priority, expiration and the names of headers', () => {
    fc.assert(
      fc.property(anyProperties, (properties) => {
        const bytes = propertyBytes(properties);
        const layout = layoutOf(bytes);
        expect(layout.priority).toBe(properties.priority ?? 0);
        expect(layout.expiration).toBe(properties.expiration);
        expect(headerEntries(bytes, layout).map(({ name }) => name)).toEqual(Object.keys(decoded(bytes).headers ?? {}));
      }),
    );
  });

  test('that nothing changes stay what they are, but for a table of headers', () => {
    fc.assert(
      fc.property(anyProperties, (properties) => {
        const bytes = propertyBytes({ headers: {}, ...properties });
        expect(changedProperties(bytes, layoutOf(bytes), {})).toEqual(bytes);
      }),
    );
  });

  test('lose and gain what they are told to, and nothing else', () => {
    fc.assert(
      fc.property(anyProperties, fc.boolean(), (properties, dropExpiration) => {
        const headers = { ...properties.headers, gone: 1, other: 2 };
        const bytes = propertyBytes({ ...properties, headers });
        const changed = changedProperties(bytes, layoutOf(bytes), {
          remove: ['gone'],
          set: { other: 'changed', more: true },
          dropExpiration,
        });
        const expected = decoded(
          propertyBytes({
            ...properties,
            headers: { ...headers, gone: undefined, other: 'changed', more: true },
            ...(dropExpiration ? { expiration: undefined } : {}),
          }),
        );
        expect(decoded(changed)).toEqual(expected);
      }),
    );
  });

  test('keep the widths and letters that the publisher chose', () => {
    const bytes = propertyBytes({ headers: { narrow: field.int8(1), wide: field.int64(1), gone: 1 } });
    const changed = changedProperties(bytes, layoutOf(bytes), { remove: ['gone'] });
    expect(changed).toEqual(propertyBytes({ headers: { narrow: field.int8(1), wide: field.int64(1) } }));
  });

  test('that are cut short are refused, wherever the cut is', () => {
    const bytes = propertyBytes({ contentType: 'a', headers: { a: 'b' }, expiration: '5', timestamp: 5 });
    for (let length = 0; length < bytes.length; length += 1) {
      expect(() => layoutOf(bytes.subarray(0, length))).toThrow('The peer');
    }
    expect(() => layoutOf(Buffer.concat([bytes, Buffer.from([0])]))).toThrow('1 bytes after the last property');
    expect(() => layoutOf(Buffer.from([0, 1]))).toThrow('second word');
  });
});
