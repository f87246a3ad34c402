/** What a payload becomes as bytes, and what bytes become as a payload. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { deserialize, serialize } from '../../lib/messaging/serializer.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { thrown } from '../support/client.js';

const read = (body: string | Uint8Array, properties: BasicProperties = {}): unknown =>
  deserialize({ body: Buffer.from(body), text: Buffer.from(body).toString('utf8'), properties });

describe('serializing', () => {
  test.each<[what: string, payload: unknown, text: string]>([
    ['an object', { id: 7, items: ['a'] }, '{"id":7,"items":["a"]}'],
    ['text', 'grüß', '"grüß"'],
    ['a number', 1.5, '1.5'],
    ['null', null, 'null'],
    ['what toJSON says', new Date(0), '"1970-01-01T00:00:00.000Z"'],
  ])('%s is JSON', (_what, payload, text) => {
    const { body, contentType } = serialize(payload);
    expect(Buffer.from(body).toString('utf8')).toBe(text);
    expect(contentType).toBe('application/json');
  });

  test('bytes are sent as they are', () => {
    const bytes = new Uint8Array([0, 255, 1]);
    expect(serialize(bytes)).toEqual({ body: bytes, contentType: 'application/octet-stream' });
    expect(serialize(Buffer.from(bytes)).body).toEqual(Buffer.from(bytes));
  });

  const cyclic: Record<string, unknown> = {};
  cyclic['self'] = cyclic;
  test.each<[what: string, payload: unknown]>([
    ['a reference to itself', cyclic],
    ['a bigint', { amount: 10n }],
    ['a function', () => 1],
    ['nothing at all', undefined],
    ['a symbol', Symbol('s')],
    [
      'a toJSON that throws something that is no error',
      {
        toJSON: () => {
          // eslint-disable-next-line @typescript-eslint/only-throw-error -- users do
          throw 'no';
        },
      },
    ],
  ])('%s is refused as UNSERIALIZABLE', (_what, payload) => {
    expect(thrown(() => serialize(payload)).code).toBe('UNSERIALIZABLE');
  });
});

describe('deserializing by content type', () => {
  test.each<[contentType: string, body: string, payload: unknown]>([
    ['application/json', '{"a":1}', { a: 1 }],
    ['application/vnd.shop.order+json', '[1]', [1]],
    ['application/json; charset=utf-8', '"é"', 'é'],
    ['Application/JSON;charset=UTF-8', '1', 1],
    ['text/json', '1', 1],
    ['text/plain', '{"a":1}', '{"a":1}'],
    ['text/plain; charset=utf-8', 'é', 'é'],
    ['text/csv', 'a,b', 'a,b'],
  ])('%s', (contentType, body, payload) => {
    expect(read(body, { contentType })).toEqual(payload);
  });

  test.each(['application/octet-stream', 'image/png', 'application/x-protobuf', 'application/jsonish'])(
    '%s stays bytes',
    (contentType) => {
      expect(read('{"a":1}', { contentType })).toEqual(Buffer.from('{"a":1}'));
    },
  );

  test('an empty body is undefined as JSON, an empty text, and no bytes', () => {
    expect(read('', { contentType: 'application/json' })).toBeUndefined();
    expect(read('', { contentType: 'text/plain' })).toBe('');
    expect(read('', { contentType: 'image/png' })).toEqual(Buffer.alloc(0));
  });

  test.each<[what: string, body: string | Uint8Array, payload: unknown]>([
    ['JSON', '{"a":1}', { a: 1 }],
    ['text', 'hello', 'hello'],
    ['bytes', new Uint8Array([0xff, 0xfe]), Buffer.from([0xff, 0xfe])],
    ['an empty text', '', ''],
  ])('without a content type a body that can be %s is taken for that', (_what, body, payload) => {
    expect(read(body)).toEqual(payload);
    expect(read(body, { contentType: '' })).toEqual(payload);
  });
});

describe('what cannot be decoded', () => {
  test.each(['gzip', 'deflate', 'br'])(
    'content encoding %s is refused rather than handed on compressed',
    (encoding) => {
      const error = thrown(() => read('x', { contentType: 'application/json', contentEncoding: encoding }));
      expect(error.code).toBe('UNDECODABLE');
      expect(error.message).toContain(`'${encoding}'`);
    },
  );

  test.each(['identity', 'utf-8', 'UTF8', 'binary', ''])("content encoding '%s' says nothing", (contentEncoding) => {
    expect(read('{"a":1}', { contentType: 'application/json', contentEncoding })).toEqual({ a: 1 });
  });

  test('broken JSON is told by its size; the body, which may hold secrets, is not quoted', () => {
    const body = 'password=hunter2';
    const error = thrown(() => read(body, { contentType: 'application/json' }));
    expect(error.code).toBe('UNDECODABLE');
    expect(error.message).toContain(`${body.length} bytes`);
    expect(`${error.message}\n${error.stack ?? ''}`).not.toContain('hunter2');
  });
});

describe('there and back', () => {
  test('every JSON value comes back as JSON has it', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const { body, contentType } = serialize(value);
        const back = read(body, { contentType });
        expect(back).toEqual(JSON.parse(JSON.stringify(value)));
        // Also for a consumer that gets no content type.
        expect(read(body, {})).toEqual(back);
      }),
    );
  });

  test('every run of bytes comes back as the same bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (value) => {
        const { body, contentType } = serialize(value);
        expect(read(body, { contentType })).toEqual(Buffer.from(value));
      }),
    );
  });

  test('no bytes at all make reading throw anything but UNDECODABLE', () => {
    const contentType = fc.constantFrom(undefined, '', ';', 'application/json', 'text/plain', 'a/b+json', 'x');
    fc.assert(
      fc.property(fc.uint8Array(), contentType, (bytes, type) => {
        try {
          read(bytes, { contentType: type });
        } catch (error) {
          expect(error).toMatchObject({ code: 'UNDECODABLE' });
        }
      }),
    );
  });
});
