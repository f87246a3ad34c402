/** From a message to the payload that a handler gets: decompressed, deserialized, validated. */
import { types } from 'node:util';
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { AmqpError } from '../errors.js';
import { decompress, isUncompressed } from './content-encoding.js';
import { validated } from './message.js';
import { type Encoded, Serializers } from './serializer.js';

export interface DecoderOptions {
  readonly serializers?: Serializers | undefined;
  /** Largest body, in bytes, that a compressed one may become. */
  readonly maxSize: number;
  /** Read instead of what messages say of themselves. */
  readonly contentType?: string | undefined;
  /** What payloads have to be. The handler gets what the schema makes of them. */
  readonly schema?: StandardSchemaV1 | undefined;
}

/**
 * The payload of a message: a promise of it where the body is compressed, or a serializer or the schema takes its time, and
 * else at once. Throws, or rejects with, `UNDECODABLE` and `INVALID_PAYLOAD`.
 */
export type Decoder = (message: Encoded) => unknown;

export function decoderOf({ serializers = new Serializers(), maxSize, contentType, schema }: DecoderOptions): Decoder {
  const decode: Decoder = (message) => {
    const { properties } = message;
    const { contentEncoding } = properties;
    if (contentEncoding === undefined || isUncompressed(contentEncoding)) {
      return serializers.deserialize(message, contentType);
    }
    return decompress(message.body, contentEncoding, maxSize).then((body) =>
      serializers.deserialize({ body, text: body.toString('utf8'), properties }, contentType),
    );
  };
  if (schema === undefined) return decode;
  return (message) => {
    const payload = decode(message);
    return types.isPromise(payload) ? payload.then((value) => validated(schema, value)) : validated(schema, payload);
  };
}

/** The same, but what takes longer than `ms` milliseconds rejects with `HANDLER_TIMEOUT`: it is up to code that may never settle. */
export function decodingWithin(ms: number | undefined, decode: Decoder): Decoder {
  if (ms === undefined) return decode;
  return (message) => {
    const payload = decode(message);
    if (!types.isPromise(payload)) return payload;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(readingTimeout(ms));
      }, ms);
      // The connection keeps the process alive, and nobody heeds this without one.
      timer.unref();
      payload.then(resolve, reject).finally(() => {
        clearTimeout(timer);
      });
    });
  };
}

function readingTimeout(ms: number): AmqpError {
  return new AmqpError(
    'HANDLER_TIMEOUT',
    `The message could not be read within the timeout of ${ms} ms: its schema, or a serializer, took longer. Its handler was not called.`,
  );
}
