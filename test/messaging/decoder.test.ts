/** From a message's body to a payload: decompressed within bounds, deserialized, validated; at once wherever that can be. */
import { describe, expect, test } from '@jest/globals';
import type { StandardSchemaV1 } from '@standard-schema/spec';
import fc from 'fast-check';
import { types } from 'node:util';
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from 'node:zlib';
import { z } from 'zod';

import { InvalidPayloadError } from '../../lib/errors.js';
import { compress } from '../../lib/messaging/content-encoding.js';
import { type DecoderOptions, decoderOf } from '../../lib/messaging/decoder.js';
import { Serializers } from '../../lib/messaging/serializer.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { failure, thrown } from '../support/client.js';

const JSON_TYPE = 'application/json';

function decode(
  body: string | Uint8Array,
  properties: BasicProperties = { contentType: JSON_TYPE },
  options: Partial<DecoderOptions> = {},
): unknown {
  const bytes = Buffer.from(body);
  return decoderOf({ maxSize: 1000, ...options })({ body: bytes, text: bytes.toString('utf8'), properties });
}

/** How decoding fails that takes its time. */
const decodeFailure = async (...args: Parameters<typeof decode>): ReturnType<typeof failure> =>
  await failure(decode(...args) as Promise<void>);

describe('a compressed body', () => {
  test.each<[encoding: string, body: Buffer]>([
    ['gzip', gzipSync('{"a":1}')],
    ['GZIP', gzipSync('{"a":1}')],
    ['x-gzip', gzipSync('{"a":1}')],
    ['deflate', deflateSync('{"a":1}')],
    ['deflate', deflateRawSync('{"a":1}')],
    ['br', brotliCompressSync('{"a":1}')],
  ])('of %s is decompressed and then read by its content type', async (contentEncoding, body) => {
    expect(await decode(body, { contentType: JSON_TYPE, contentEncoding })).toEqual({ a: 1 });
    expect(await decode(body, { contentType: 'a/b', contentEncoding })).toEqual(Buffer.from('{"a":1}'));
  });

  test.each(['gzip', 'deflate', 'br'])('of %s comes back as it was published', async (contentEncoding) => {
    await fc.assert(
      fc.asyncProperty(fc.string(), async (text) => {
        const body = await compress(text, contentEncoding);
        expect(await decode(body, { contentType: 'text/plain', contentEncoding })).toBe(text);
      }),
      { numRuns: 20 },
    );
  });

  test.each<[encoding: string, bomb: Buffer]>([
    ['gzip', gzipSync(Buffer.alloc(1001))],
    ['deflate', deflateSync(Buffer.alloc(1001))],
    ['deflate', deflateRawSync(Buffer.alloc(1001))],
    ['br', brotliCompressSync(Buffer.alloc(1001))],
  ])('of %s that becomes larger than a message may be is UNDECODABLE', async (contentEncoding, bomb) => {
    const error = await decodeFailure(bomb, { contentType: 'a/b', contentEncoding });
    expect(error.code).toBe('UNDECODABLE');
    expect(error.message).toContain('more than 1000 bytes');
    expect(await decode(bomb, { contentType: 'a/b', contentEncoding }, { maxSize: 1001 })).toHaveLength(1001);
  });

  test('that is broken, or encoded in a way that is not known, is UNDECODABLE', async () => {
    for (const contentEncoding of ['gzip', 'deflate', 'br', 'aes128gcm', 'gzip, gzip']) {
      const error = await decodeFailure('password=hunter2', { contentType: JSON_TYPE, contentEncoding });
      expect(error.code).toBe('UNDECODABLE');
      expect(error.message).toContain(`'${contentEncoding}'`);
      expect(error.message).not.toContain('hunter2');
    }
  });

  test('cannot be made with an encoding that is not known', async () => {
    expect(await failure(compress('x', 'zip').then(() => undefined))).toMatchObject({ code: 'UNSERIALIZABLE' });
  });
});

test.each(['identity', 'utf-8', 'UTF8', 'binary', ''])(
  "content encoding '%s' says nothing: the payload is there at once",
  (contentEncoding) => {
    expect(decode('{"a":1}', { contentType: JSON_TYPE, contentEncoding })).toEqual({ a: 1 });
  },
);

test('a content type that the consumer knows better is read instead of the message’s own', () => {
  expect(decode('7', { contentType: 'application/octet-stream' }, { contentType: JSON_TYPE })).toBe(7);
  expect(decode('7', {}, { contentType: 'text/plain' })).toBe('7');
});

/** What a schema refuses with. */
function refusal(...args: Parameters<typeof decode>): InvalidPayloadError {
  const error = thrown(() => decode(...args));
  if (error instanceof InvalidPayloadError) return error;
  throw error;
}

describe('a schema', () => {
  const schema = z.object({ id: z.coerce.number(), items: z.array(z.object({ price: z.number() })).default([]) });

  test('gives what it makes of the payload, at once where it can', () => {
    expect(decode('{"id":"7","more":1}', undefined, { schema })).toEqual({ id: 7, items: [] });
  });

  test('refuses what does not fit with INVALID_PAYLOAD and its issues', () => {
    const body = '{"id":1,"items":[{"price":"a"},{"price":1},{}]}';
    const error = refusal(body, undefined, { schema });
    expect(error).toMatchObject({ name: 'InvalidPayloadError', code: 'INVALID_PAYLOAD' });
    expect(error.issues.map(({ path }) => path)).toEqual([
      ['items', 0, 'price'],
      ['items', 2, 'price'],
    ]);
    expect(error.message).toContain('items.0.price: ');
  });

  test('that has much against a payload names three issues and counts the others', () => {
    const many = Object.fromEntries(['a', 'b', 'c', 'd', 'e'].map((name) => [name, z.string()]));
    const error = refusal('{}', undefined, { schema: z.object(many) });
    expect(error.message).toMatch(/a: .*b: .*c: .*\(and 2 more\)$/);
    expect(error.issues).toHaveLength(5);
  });

  test('may take its time, and comes after a body that takes its time', async () => {
    const slow = z.number().refine((value) => Promise.resolve(value < 10), 'too much');
    expect(await decode('7', undefined, { schema: slow })).toBe(7);
    expect((await decodeFailure('70', undefined, { schema: slow })).message).toContain('too much');
    // Promises that a library has patched are none of the engine's.
    const patched: StandardSchemaV1<unknown, number> = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: (value) => {
          const result = Promise.resolve(slow['~standard'].validate(value));
          const then: typeof result.then = (done, failed) => result.then(done, failed);
          return { then } as typeof result;
        },
      },
    };
    expect(await decode('7', undefined, { schema: patched })).toBe(7);
    expect((await decodeFailure('70', undefined, { schema: patched })).message).toContain('too much');
    const gzipped = { contentType: JSON_TYPE, contentEncoding: 'gzip' };
    expect(await decode(gzipSync('{"id":1}'), gzipped, { schema })).toEqual({ id: 1, items: [] });
    const serializers = new Serializers([
      { contentType: 'a/b', serialize: String, deserialize: () => Promise.resolve({ id: 'x' }) },
    ]);
    expect(await decodeFailure('', { contentType: 'a/b' }, { schema, serializers })).toMatchObject({
      code: 'INVALID_PAYLOAD',
    });
  });

  test('with issues of other shapes is told all the same', () => {
    const issues = [{ message: 'bad\nline', path: [{ key: 'a' }, Symbol('s')] }, { message: 'no place' }];
    const odd = { '~standard': { version: 1 as const, vendor: 'odd', validate: () => ({ issues }) } };
    const error = refusal('1', undefined, { schema: odd });
    expect(error.message).toContain('a.Symbol(s): bad\\u000aline; no place');
  });
});

test('without compression and with what answers at once nothing waits', () => {
  expect(types.isPromise(decode('{}'))).toBe(false);
  expect(types.isPromise(decode('{}', undefined, { schema: z.unknown() }))).toBe(false);
});
