/** Payloads to bodies and back, by content type. */
import { AmqpError, quoted } from '../errors.js';
import type { BasicProperties } from '../protocol/properties.js';

/** A body with the content type that tells how to read it. */
export interface Serialized {
  readonly body: string | Uint8Array;
  readonly contentType: string;
}

/** A Uint8Array as it is, anything else as JSON text. Throws `UNSERIALIZABLE` for what JSON has no text for. */
export function serialize(payload: unknown): Serialized {
  if (payload instanceof Uint8Array) return { body: payload, contentType: 'application/octet-stream' };
  return { body: jsonText(payload), contentType: 'application/json' };
}

function jsonText(payload: unknown): string {
  let text: unknown;
  try {
    text = JSON.stringify(payload);
  } catch (cause) {
    throw new AmqpError(
      'UNSERIALIZABLE',
      `The payload cannot be written as JSON: ${cause instanceof Error ? cause.message : 'toJSON threw'}. ` +
        'Publish plain data, without bigints and without references to itself.',
      { cause },
    );
  }
  if (typeof text === 'string') return text;
  throw new AmqpError('UNSERIALIZABLE', `JSON has no text for ${typeof payload}. Publish null, or an object.`);
}

/** A body to be read, with the properties that say how. */
interface Encoded {
  readonly body: Buffer;
  /** The body as UTF-8. */
  readonly text: string;
  readonly properties: BasicProperties;
}

/**
 * What a body says: JSON for `…/json` and `…+json`, text for `text/…`, bytes for other types. Without a content type it is
 * taken for JSON, else text, else bytes. Throws `UNDECODABLE`.
 */
export function deserialize(encoded: Encoded): unknown {
  const { contentType, contentEncoding } = encoded.properties;
  if (contentEncoding !== undefined && !/^(identity|binary|utf-?8)?$/i.test(contentEncoding)) {
    throw new AmqpError(
      'UNDECODABLE',
      `The body is encoded as ${quoted(contentEncoding)}, which is not supported. Publish it without an encoding.`,
    );
  }
  // What most messages are, and what all of the rest comes to.
  if (contentType === 'application/json') return parseJson(encoded.text);
  const [type = ''] = (contentType ?? '')
    .toLowerCase()
    .split(';', 1)
    .map((part) => part.trim());
  if (type === '') return guess(encoded.body);
  if (/[/+]json$/.test(type)) return parseJson(encoded.text);
  return type.startsWith('text/') ? encoded.text : encoded.body;
}

function parseJson(text: string): unknown {
  if (text === '') return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    // Node's message quotes the body; the message of this error goes to logs, where a body has no business.
    throw new AmqpError(
      'UNDECODABLE',
      `The body of ${Buffer.byteLength(text)} bytes is not the JSON that its content type says.`,
      { cause },
    );
  }
}

const UTF_8 = new TextDecoder('utf-8', { fatal: true });

function guess(body: Buffer): unknown {
  let text: string;
  try {
    text = UTF_8.decode(body);
  } catch {
    return body;
  }
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
