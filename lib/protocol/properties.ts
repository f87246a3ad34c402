/**
 * The content header: a message's properties and its body size (specification, section 4.2.6.1).
 *
 * ```
 *   0        2        4                        12        14
 *   | class  | weight | body size              | flags   | values of the properties whose flag is set, in flag order …
 * ```
 */
import { AmqpError, ProtocolError } from '../errors.js';
import { type FieldTable, readTable, writeTable } from './field-table.js';
import { SeenText } from './seen-text.js';
import type { WireReader, WireWriter } from './wire.js';

/** The properties of a message (specification, class basic). All are optional; RabbitMQ hands them on unchanged. */
export interface BasicProperties {
  /** MIME type of the body, for example `application/json`. */
  readonly contentType?: string | undefined;
  /** MIME encoding of the body, for example `gzip`. */
  readonly contentEncoding?: string | undefined;
  readonly headers?: FieldTable | undefined;
  /** 1: the broker may keep the message in memory only. 2: it writes it to disk. */
  readonly deliveryMode?: number | undefined;
  /** 0 to 255; counts only on queues declared with `x-max-priority`. */
  readonly priority?: number | undefined;
  readonly correlationId?: string | undefined;
  readonly replyTo?: string | undefined;
  /** How long the message may wait in a queue, as a string of milliseconds. */
  readonly expiration?: string | undefined;
  readonly messageId?: string | undefined;
  /** Seconds since 1970. */
  readonly timestamp?: number | undefined;
  /** Name of the message's type, the application's own. */
  readonly type?: string | undefined;
  /** RabbitMQ refuses a user id that is not the connection's own user. */
  readonly userId?: string | undefined;
  readonly appId?: string | undefined;
  /** Deprecated in 0-9-1, carried for peers that still set it. */
  readonly clusterId?: string | undefined;
}

/** Properties to write, among them one that is echoed: as the bytes that came, whatever text they may be. */
export interface EchoingProperties extends Omit<BasicProperties, 'correlationId'> {
  readonly correlationId?: string | Uint8Array | undefined;
}

type PropertyType = 'shortstr' | 'octet' | 'table' | 'seconds';

/** In flag order: the first has bit 15 of the flag word, the last bit 2. Bit 0 would announce a second flag word. */
const PROPERTIES: readonly (readonly [name: keyof BasicProperties, type: PropertyType])[] = [
  ['contentType', 'shortstr'],
  ['contentEncoding', 'shortstr'],
  ['headers', 'table'],
  ['deliveryMode', 'octet'],
  ['priority', 'octet'],
  ['correlationId', 'shortstr'],
  ['replyTo', 'shortstr'],
  ['expiration', 'shortstr'],
  ['messageId', 'shortstr'],
  ['timestamp', 'seconds'],
  ['type', 'shortstr'],
  ['userId', 'shortstr'],
  ['appId', 'shortstr'],
  ['clusterId', 'shortstr'],
];

/**
 * Writes flags and values; throws `INVALID_ARGUMENT` for a value that its property cannot hold. Every message that is published
 * passes here, and a loop over the table above costs more than all the rest of publishing: so each property has its line.
 */
export function writeProperties(writer: WireWriter, properties: EchoingProperties): void {
  const begin = writer.length;
  let flags = 0;
  writer.short(flags);
  if (writeText(writer, 'contentType', properties.contentType)) flags |= 1 << 15;
  if (writeText(writer, 'contentEncoding', properties.contentEncoding)) flags |= 1 << 14;
  if (writeHeaders(writer, properties.headers)) flags |= 1 << 13;
  if (writeOctet(writer, 'deliveryMode', properties.deliveryMode)) flags |= 1 << 12;
  if (writeOctet(writer, 'priority', properties.priority)) flags |= 1 << 11;
  if (writeText(writer, 'correlationId', properties.correlationId)) flags |= 1 << 10;
  if (writeText(writer, 'replyTo', properties.replyTo)) flags |= 1 << 9;
  if (writeText(writer, 'expiration', properties.expiration)) flags |= 1 << 8;
  if (writeText(writer, 'messageId', properties.messageId)) flags |= 1 << 7;
  if (writeSeconds(writer, 'timestamp', properties.timestamp)) flags |= 1 << 6;
  if (writeText(writer, 'type', properties.type)) flags |= 1 << 5;
  if (writeText(writer, 'userId', properties.userId)) flags |= 1 << 4;
  if (writeText(writer, 'appId', properties.appId)) flags |= 1 << 3;
  if (writeText(writer, 'clusterId', properties.clusterId)) flags |= 1 << 2;
  writer.patchShort(begin, flags);
}

// Each of these says whether the property is there. What the types promise is checked: options come from configuration, too.

function writeText(writer: WireWriter, name: keyof BasicProperties, value: unknown): boolean {
  if (value === undefined) return false;
  if (typeof value !== 'string' && !(name === 'correlationId' && value instanceof Uint8Array)) {
    throw wrongProperty(name, 'a string', value);
  }
  writer.shortstr(value, 'The property', name);
  return true;
}

function writeOctet(writer: WireWriter, name: keyof BasicProperties, value: unknown): boolean {
  if (value === undefined) return false;
  if (!isIntegerUpTo(value, 255)) throw wrongProperty(name, 'an integer from 0 to 255', value);
  // RabbitMQ closes the channel (406) over any other delivery mode.
  if (name === 'deliveryMode' && value !== 1 && value !== 2) throw wrongProperty(name, '1 or 2', value);
  writer.octet(value);
  return true;
}

function writeSeconds(writer: WireWriter, name: keyof BasicProperties, value: unknown): boolean {
  if (value === undefined) return false;
  if (!isIntegerUpTo(value, Number.MAX_SAFE_INTEGER)) throw wrongProperty(name, 'whole seconds since 1970', value);
  writer.longlong(value);
  return true;
}

function writeHeaders(writer: WireWriter, value: unknown): boolean {
  if (value === undefined) return false;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw wrongProperty('headers', 'an object', value);
  }
  writeTable(writer, value as FieldTable, 'headers');
  return true;
}

function isIntegerUpTo(value: unknown, high: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= high;
}

function wrongProperty(name: string, wanted: string, value: unknown): AmqpError {
  const given = typeof value === 'number' ? String(value) : value === null ? 'null' : `a ${typeof value}`;
  return new AmqpError('INVALID_ARGUMENT', `The property ${name} has to be ${wanted}; it is ${given}.`);
}

/** What short strings the messages of a connection had last, by property. */
export type SeenProperties = Map<keyof BasicProperties, SeenText>;

/** Those that differ from message to message: comparing them would be in vain. */
const ALWAYS_NEW: ReadonlySet<keyof BasicProperties> = new Set(['correlationId', 'messageId']);

/** Reads flags and values up to the end of the header frame. */
export function readProperties(reader: WireReader, seen?: SeenProperties): BasicProperties {
  const flags = readFlags(reader);
  const properties: Record<string, unknown> = {};
  for (let bit = 15, left = flags; left !== 0; bit -= 1) {
    if ((left & (1 << bit)) === 0) continue;
    left &= ~(1 << bit);
    // Bit 1 stands for nothing.
    if (bit < 2) break;
    const [name, type] = PROPERTIES[15 - bit] as (typeof PROPERTIES)[number];
    properties[name] = readProperty(reader, name, type, seen);
  }
  if (reader.remaining > 0) {
    throw new ProtocolError(502, `The peer sent ${reader.remaining} bytes after the last property.`);
  }
  return properties;
}

/**
 * The bytes of one short string among the properties, a view; undefined when it is not there. The properties before it are
 * skipped by their length and not decoded: nonsense in a header does not hide it.
 */
export function readPropertyBytes(reader: WireReader, wanted: 'correlationId' | 'replyTo'): Buffer | undefined {
  const flags = readFlags(reader);
  for (const [index, [name, type]] of PROPERTIES.entries()) {
    if ((flags & (1 << (15 - index))) === 0) continue;
    const { buffer, position, end } = reader.section(sizeOf(reader, type));
    if (name === wanted) return buffer.subarray(position, end);
  }
  return undefined;
}

/** Octets of the next property, without the length that stands before it. */
function sizeOf(reader: WireReader, type: PropertyType): number {
  switch (type) {
    case 'shortstr':
      return reader.octet();
    case 'octet':
      return 1;
    case 'seconds':
      return 8;
    case 'table':
      return reader.long();
  }
}

function readFlags(reader: WireReader): number {
  const flags = reader.short();
  if ((flags & 1) !== 0) throw new ProtocolError(502, 'The peer announced a second word of property flags.');
  return flags;
}

function readProperty(
  reader: WireReader,
  name: keyof BasicProperties,
  type: PropertyType,
  seen: SeenProperties | undefined,
): string | number | FieldTable {
  switch (type) {
    case 'shortstr':
      return seen === undefined || ALWAYS_NEW.has(name) ? reader.shortstr() : reader.seenText(seenOf(seen, name));
    case 'octet':
      return reader.octet();
    case 'seconds':
      return reader.longlong();
    case 'table':
      return readTable(reader);
  }
}

function seenOf(seen: SeenProperties, name: keyof BasicProperties): SeenText {
  let text = seen.get(name);
  if (text === undefined) seen.set(name, (text = new SeenText()));
  return text;
}
