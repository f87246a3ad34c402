/** What a payload becomes as bytes, and what bytes become as a payload. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { type Serialized, type Serializer, Serializers } from '../../lib/messaging/serializer.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { failure, thrown } from '../support/client.js';

const plain = new Serializers();
const read = (body: string | Uint8Array, properties: BasicProperties = {}, by = plain): unknown =>
  by.deserialize({ body: Buffer.from(body), text: Buffer.from(body).toString('utf8'), properties });
const serialize = (payload: unknown, contentType?: string): Serialized =>
  plain.serialize(payload, contentType) as Serialized;

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
  test('broken JSON is told by its size; the body, which may hold secrets, is not quoted', () => {
    const body = 'password=hunter2';
    const error = thrown(() => read(body, { contentType: 'application/json' }));
    expect(error.code).toBe('UNDECODABLE');
    expect(error.message).toContain(`${body.length} bytes`);
    expect(`${error.message}\n${error.stack ?? ''}`).not.toContain('hunter2');
  });
});

describe('serializing with a content type', () => {
  test.each<[what: string, payload: unknown, contentType: string, body: string]>([
    ['an object of a JSON type', { a: 1 }, 'application/vnd.shop+json; v=1', '{"a":1}'],
    ['text of a JSON type', 'x', 'application/json', '"x"'],
    ['text of a text type', 'x', 'text/plain', 'x'],
    ['text of another type', '<x/>', 'application/xml', '<x/>'],
  ])('%s is written as that', (_what, payload, contentType, body) => {
    expect(serialize(payload, contentType)).toEqual({ body, contentType });
  });

  test('an object of a type that nothing writes is refused, not sent as JSON under another name', () => {
    const error = thrown(() => serialize({ a: 1 }, 'application/xml'));
    expect(error.code).toBe('UNSERIALIZABLE');
    expect(error.message).toContain("object as 'application/xml'");
  });
});

describe('a serializer of your own', () => {
  const lines: Serializer = {
    contentType: ['text/x-lines', 'Text/X-Rows'],
    serialize: (payload) => (payload as string[]).join('\n'),
    deserialize: (body, { headers }) => body.toString().split((headers?.['separator'] as string | undefined) ?? '\n'),
  };

  test('writes and reads its content types, and no others', () => {
    const by = new Serializers([lines]);
    expect(by.serialize(['a', 'b'], 'text/x-lines')).toEqual({ body: 'a\nb', contentType: 'text/x-lines' });
    expect(read('a\nb', { contentType: 'text/x-rows; charset=utf-8' }, by)).toEqual(['a', 'b']);
    expect(read('a|b', { contentType: 'text/x-lines', headers: { separator: '|' } }, by)).toEqual(['a', 'b']);
    expect(by.serialize(['a'])).toEqual({ body: '["a"]', contentType: 'application/json' });
    expect(read('["a"]', { contentType: 'application/json' }, by)).toEqual(['a']);
  });

  test('for application/json takes the place of the one there is', () => {
    const by = new Serializers([
      { contentType: 'application/json', serialize: () => '1', deserialize: () => 'read by mine' },
    ]);
    expect(by.serialize({})).toEqual({ body: '1', contentType: 'application/json' });
    expect(read('{}', { contentType: 'application/json' }, by)).toBe('read by mine');
  });

  test('may take its time', async () => {
    const by = new Serializers([
      {
        contentType: 'a/b',
        serialize: (payload) => Promise.resolve(new Uint8Array([payload as number])),
        deserialize: (body) => Promise.resolve(body[0]),
      },
    ]);
    expect(await by.serialize(7, 'a/b')).toEqual({ body: new Uint8Array([7]), contentType: 'a/b' });
    expect(await read(new Uint8Array([7]), { contentType: 'a/b' }, by)).toBe(7);
  });

  test.each<[how: string, fail: () => unknown]>([
    [
      'throws',
      () => {
        throw new Error('secret body');
      },
    ],
    ['rejects', () => Promise.reject(new Error('secret body'))],
  ])('that %s makes it UNSERIALIZABLE or UNDECODABLE, without the body in the text', async (_how, fail) => {
    const by = new Serializers([{ contentType: 'a/b', serialize: fail as () => string, deserialize: fail }]);
    const attempt = async (work: () => unknown): ReturnType<typeof failure> =>
      await failure(Promise.resolve().then(work));
    expect(await attempt(() => by.serialize(1, 'a/b'))).toMatchObject({ code: 'UNSERIALIZABLE' });
    const error = await attempt(() => read('x', { contentType: 'a/b' }, by));
    expect(error).toMatchObject({ code: 'UNDECODABLE', cause: { message: 'secret body' } });
    expect(error.message).not.toContain('secret');
  });

  test('that gives neither text nor bytes is UNSERIALIZABLE', () => {
    const by = new Serializers([{ contentType: 'a/b', serialize: () => 5 as unknown as string, deserialize: () => 1 }]);
    expect(thrown(() => by.serialize(1, 'a/b')).code).toBe('UNSERIALIZABLE');
  });

  test.each<[what: string, serializers: unknown[]]>([
    ['nothing', [undefined]],
    ['one without a content type', [{ serialize: String, deserialize: String }]],
    ['one with an empty list of them', [{ ...lines, contentType: [] }]],
    ['one whose content type is none', [{ ...lines, contentType: 'json' }]],
    ['one that only writes', [{ contentType: 'a/b', serialize: String }]],
    ['two for one content type', [lines, { ...lines, contentType: 'text/x-rows' }]],
  ])('%s is refused', (_what, serializers) => {
    expect(thrown(() => new Serializers(serializers as Serializer[])).code).toBe('INVALID_OPTION');
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
