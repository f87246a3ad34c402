/** Payloads to bodies and back, by content type. Compression and validation are the decoder's. */
import { types } from 'node:util';
import { itIs } from '../client/option-names.js';
import { AmqpError, quoted } from '../errors.js';
import type { BasicProperties } from '../protocol/properties.js';

/**
 * Writes and reads the payloads of some content types. Given to `AmqpModule` as one of its `serializers`, it reads every
 * message of those types, and writes what is published with one of them as `contentType`. One for `application/json` takes
 * the place of the module's own.
 *
 * What `serialize` throws rejects the publish with `UNSERIALIZABLE`; what `deserialize` throws is `UNDECODABLE`, which no retry
 * helps, unless it is an `AmqpError` itself. Bytes are published as they are, without it.
 *
 * @example
 * ```ts
 * const msgpack: Serializer = { contentType: 'application/msgpack', serialize: encode, deserialize: decode };
 * ```
 */
export interface Serializer {
  /** The content types that it is for, in lower case and without parameters. */
  readonly contentType: string | readonly string[];
  /** The body of a payload; may return a promise, and publishes are then sent in the order in which they are ready. */
  serialize(payload: unknown): string | Uint8Array | Promise<string | Uint8Array>;
  /** The payload of a body, uncompressed; may return a promise. */
  deserialize(body: Buffer, properties: BasicProperties): unknown;
}

/** A body with the content type that tells how to read it. */
export interface Serialized {
  readonly body: string | Uint8Array;
  readonly contentType: string;
}

/** A body to be read, with the properties that say how. */
export interface Encoded {
  readonly body: Buffer;
  /** The body as UTF-8. */
  readonly text: string;
  readonly properties: BasicProperties;
}

const JSON_TYPE = 'application/json';
const IS_JSON = /[/+]json$/;

/** The serializers of one connection. Throws `INVALID_OPTION` for one that is none, or two for the same content type. */
export class Serializers {
  readonly #byType = new Map<string, Serializer>();
  /** Nobody has another way with JSON, as nearly always. */
  readonly #isJsonOurs: boolean;

  constructor(serializers: readonly Serializer[] = []) {
    // Past the compiler, as all options.
    const given: unknown = serializers;
    if (!Array.isArray(given)) {
      throw new AmqpError('INVALID_OPTION', `serializers has to be a list of serializers${itIs(given)}`);
    }
    for (const serializer of serializers) {
      for (const type of contentTypesOf(serializer)) {
        if (this.#byType.has(type)) {
          throw new AmqpError('INVALID_OPTION', `Two serializers are for the content type ${quoted(type)}. Give one.`);
        }
        this.#byType.set(type, serializer);
      }
    }
    this.#isJsonOurs = !this.#byType.has(JSON_TYPE);
  }

  /**
   * The body of a payload. Bytes are as they are; anything else is written by the serializer of the content type, which is
   * JSON unless said; text of any other type is as it is. Throws, or rejects with, `UNSERIALIZABLE`.
   */
  serialize(payload: unknown, said?: string): Serialized | Promise<Serialized> {
    if (payload instanceof Uint8Array) return { body: payload, contentType: said ?? 'application/octet-stream' };
    if (said === undefined && this.#isJsonOurs) return { body: jsonText(payload), contentType: JSON_TYPE };
    const contentType = said ?? JSON_TYPE;
    const type = mediaType(contentType);
    const serializer = this.#byType.get(type);
    if (serializer !== undefined) return written(serializer, payload, contentType);
    if (type === '' || IS_JSON.test(type)) return { body: jsonText(payload), contentType };
    if (typeof payload === 'string') return { body: payload, contentType };
    throw new AmqpError(
      'UNSERIALIZABLE',
      `Nothing writes ${payload === null ? 'null' : typeof payload} as ${quoted(contentType)}. ` +
        'Publish text or bytes, or give AmqpModule a serializer for that content type.',
    );
  }

  /**
   * What an uncompressed body says: by the serializer of its content type, else JSON for `…/json` and `…+json`, text for
   * `text/…`, bytes for other types. Without a content type it is taken for JSON, else text, else bytes. `as` is read instead
   * of the content type. Throws, or rejects with, `UNDECODABLE`.
   */
  deserialize(encoded: Encoded, as?: string): unknown {
    const contentType = as ?? encoded.properties.contentType;
    // What most messages are, and what all of the rest comes to.
    if (contentType === JSON_TYPE && this.#isJsonOurs) return parseJson(encoded.text);
    const type = mediaType(contentType ?? '');
    const serializer = this.#byType.get(type);
    if (serializer !== undefined) return read(serializer, encoded, type);
    if (type === '') return guess(encoded.body);
    if (IS_JSON.test(type)) return parseJson(encoded.text);
    return type.startsWith('text/') ? encoded.text : encoded.body;
  }
}

/** Past the compiler, as all options. */
function contentTypesOf(serializer: unknown): readonly string[] {
  const said = (serializer ?? {}) as Readonly<Record<keyof Serializer, unknown>>;
  const given = (Array.isArray(said.contentType) ? said.contentType : [said.contentType]) as readonly string[];
  const isOne = typeof said.serialize === 'function' && typeof said.deserialize === 'function';
  if (
    !isOne ||
    given.length === 0 ||
    given.some((type) => typeof type !== 'string' || !/^[^\s;/]+\/[^\s;/]+$/.test(type))
  ) {
    throw new AmqpError(
      'INVALID_OPTION',
      "One of serializers is none: it has a contentType such as 'application/msgpack', serialize and deserialize.",
    );
  }
  return given.map((type) => type.toLowerCase());
}

/** The type without its parameters: `Text/Plain; charset=utf-8` is text/plain. */
function mediaType(contentType: string): string {
  const end = contentType.indexOf(';');
  return (end === -1 ? contentType : contentType.slice(0, end)).trim().toLowerCase();
}

function written(serializer: Serializer, payload: unknown, contentType: string): Serialized | Promise<Serialized> {
  const failed = (cause: unknown): AmqpError =>
    cause instanceof AmqpError
      ? cause
      : new AmqpError('UNSERIALIZABLE', `The serializer of ${quoted(contentType)} failed: ${textOf(cause)}`, { cause });
  const checked = (body: unknown): Serialized => {
    if (typeof body === 'string' || body instanceof Uint8Array) return { body, contentType };
    throw new AmqpError(
      'UNSERIALIZABLE',
      `The serializer of ${quoted(contentType)} gave ${typeof body}, not text or bytes.`,
    );
  };
  let body: unknown;
  try {
    body = serializer.serialize(payload);
  } catch (cause) {
    throw failed(cause);
  }
  if (!types.isPromise(body)) return checked(body);
  return body.then(checked, (cause: unknown) => {
    throw failed(cause);
  });
}

function read(serializer: Serializer, { body, properties }: Encoded, type: string): unknown {
  const failed = (cause: unknown): AmqpError =>
    cause instanceof AmqpError
      ? cause
      : new AmqpError(
          'UNDECODABLE',
          // The message of the cause may quote the body, which has no business in logs.
          `The body of ${body.length} bytes is not the ${quoted(type)} that its serializer reads. The cause of this error may quote it, and is not logged.`,
          { cause },
        );
  let payload: unknown;
  try {
    payload = serializer.deserialize(body, properties);
  } catch (cause) {
    throw failed(cause);
  }
  if (!types.isPromise(payload)) return payload;
  return payload.catch((cause: unknown) => {
    throw failed(cause);
  });
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : 'it threw something that is no error.';
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
