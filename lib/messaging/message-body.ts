/** The body of a message that is sent: its payload serialised, and compressed where that is said. Reading one is the decoder's. */
import { types } from 'node:util';
import { compress, isUncompressed } from './content-encoding.js';
import type { Serialized, Serializers } from './serializer.js';

/**
 * The body of a payload, with `usual` as its content type where none is said. Bytes are as they are, neither compressed nor of the usual
 * type. A promise only where a serializer or the compression takes its time. Throws, or rejects with, `UNSERIALIZABLE`.
 */
export function bodyOf(
  serializers: Serializers,
  payload: unknown,
  said: { readonly contentType?: string | undefined; readonly contentEncoding?: string | undefined } | undefined,
  usual: string | undefined,
): Serialized | Promise<Serialized> {
  if (payload instanceof Uint8Array) return serializers.serialize(payload, said?.contentType);
  const serialized = serializers.serialize(payload, said?.contentType ?? usual);
  const encoding = said?.contentEncoding;
  return encoding === undefined || isUncompressed(encoding) ? serialized : compressed(serialized, encoding);
}

async function compressed(serialized: Serialized | Promise<Serialized>, encoding: string): Promise<Serialized> {
  const { body, contentType } = types.isPromise(serialized) ? await serialized : serialized;
  return { body: await compress(body, encoding), contentType };
}
