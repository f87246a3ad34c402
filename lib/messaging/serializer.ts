/** Payloads to bodies and back, by content type. */
import { AmqpError, quoted } from '../errors.js';
import type { BasicProperties } from '../protocol/properties.js';

/** A body with the content type that tells how to read it. */
export interface Serialized {
  readonly body: string | Uint8Array;
  readonly contentType: string;
}

/** A Uint8Array as it is, anything else as JSON. Throws `UNSERIALIZABLE` for what JSON has no text for. */
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

/**
 * What a body says: JSON for `…/json` and `…+json`, text for `text/…`, bytes for other types. Without a content type it is
 * taken for JSON, else text, else bytes. Throws `UNDECODABLE`.
 */
export function deserialize(body: Buffer, { contentType, contentEncoding }: BasicProperties): unknown {
  if (contentEncoding !== undefined && !/^(identity|binary|utf-?8)?$/i.test(contentEncoding)) {
    throw new AmqpError(
      'UNDECODABLE',
      `The body is encoded as ${quoted(contentEncoding)}, which is not supported. Publish it without an encoding.`,
    );
  }
  const [type = ''] = (contentType ?? '')
    .toLowerCase()
    .split(';', 1)
    .map((part) => part.trim());
  if (type === '') return guess(body);
  if (/[/+]json$/.test(type)) return body.length === 0 ? undefined : parseJson(body);
  return type.startsWith('text/') ? body.toString('utf8') : body;
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch (cause) {
    // Node's message quotes the body; the message of this error goes to logs, where a body has no business.
    throw new AmqpError('UNDECODABLE', `The body of ${body.length} bytes is not the JSON that its content type says.`, {
      cause,
    });
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
