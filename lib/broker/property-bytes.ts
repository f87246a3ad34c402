/**
 * The property bytes of a message where they are read and changed without being decoded as a whole: RabbitMQ hands on what
 * it does not need to know byte for byte, whatever widths and letters the publisher chose. The layout of properties is
 * `protocol/properties`'.
 */
import { ProtocolError } from '../errors.js';
import { type FieldTable, readTable, writeTable } from '../protocol/field-table.js';
import { WireReader, WireWriter } from '../protocol/wire.js';

const HEADERS = 1 << 13;
const PRIORITY = 1 << 11;
const EXPIRATION = 1 << 8;
/** All others are short strings. */
const OCTETS = (1 << 12) | PRIORITY;
const TIMESTAMP = 1 << 6;

/** What of a message's properties the broker itself goes by. */
export interface PropertyLayout {
  readonly flags: number;
  /** The entries of the header table, without its length: `[start, end)`; both 0 when there are no headers. */
  readonly headersStart: number;
  readonly headersEnd: number;
  readonly priority: number;
  readonly expiration: string | undefined;
  /** Where the expiration would be, had it none. */
  readonly expirationStart: number;
  readonly expirationEnd: number;
}

/** A field of the header table. */
export interface HeaderEntry {
  readonly name: string;
  readonly letter: string;
  /** Where it begins, with its name; where its value begins, after its letter; and where it ends. */
  readonly start: number;
  readonly valueStart: number;
  readonly end: number;
}

/** Throws `ProtocolError` for bytes that are not properties. */
export function layoutOf(bytes: Buffer): PropertyLayout {
  const reader = new WireReader(bytes);
  const flags = reader.short();
  if ((flags & 1) !== 0) throw new ProtocolError(502, 'The peer announced a second word of property flags.');
  let headersStart = 0;
  let headersEnd = 0;
  let priority = 0;
  let expiration: string | undefined;
  let expirationStart = 0;
  let expirationEnd = 0;
  for (let bit = 15; bit >= 2; bit -= 1) {
    const flag = 1 << bit;
    if (flag === EXPIRATION) expirationStart = expirationEnd = reader.position;
    if ((flags & flag) === 0) continue;
    if (flag === HEADERS) {
      const length = reader.long();
      headersStart = reader.position;
      reader.section(length);
      headersEnd = reader.position;
    } else if (flag === EXPIRATION) {
      expiration = reader.shortstr();
      expirationEnd = reader.position;
    } else if ((flag & OCTETS) !== 0) {
      const value = reader.octet();
      if (flag === PRIORITY) priority = value;
    } else {
      reader.section(flag === TIMESTAMP ? 8 : reader.octet());
    }
  }
  if (reader.remaining > 0) {
    throw new ProtocolError(502, `The peer sent ${reader.remaining} bytes after the last property.`);
  }
  return { flags, headersStart, headersEnd, priority, expiration, expirationStart, expirationEnd };
}

/** The fields of the header table, those of tables within it left aside. Throws `ProtocolError` for what is no table. */
export function headerEntries(bytes: Buffer, { headersStart, headersEnd }: PropertyLayout): HeaderEntry[] {
  const reader = new WireReader(bytes, headersStart, headersEnd);
  const entries: HeaderEntry[] = [];
  while (reader.remaining > 0) {
    const start = reader.position;
    const name = reader.shortstr();
    const letter = String.fromCharCode(reader.octet());
    const valueStart = reader.position;
    skipValue(reader, letter);
    entries.push({ name, letter, start, valueStart, end: reader.position });
  }
  return entries;
}

/** The strings in an array field; what else is in it is left out, as RabbitMQ does. */
export function stringsOf(bytes: Buffer, { valueStart, end }: HeaderEntry): string[] {
  const reader = new WireReader(bytes, valueStart, end);
  reader.long();
  const strings: string[] = [];
  while (reader.remaining > 0) {
    const letter = String.fromCharCode(reader.octet());
    if (letter === 'S') strings.push(reader.longText());
    else skipValue(reader, letter);
  }
  return strings;
}

/** One field, decoded. */
export function decodedEntry(bytes: Buffer, { start, end }: HeaderEntry): FieldTable {
  const table = Buffer.alloc(4 + end - start);
  table.writeUInt32BE(end - start);
  bytes.copy(table, 4, start, end);
  return readTable(new WireReader(table));
}

const LENGTHS: Readonly<Record<string, number>> = {
  t: 1,
  b: 1,
  B: 1,
  s: 2,
  u: 2,
  I: 4,
  i: 4,
  f: 4,
  l: 8,
  L: 8,
  d: 8,
  T: 8,
  D: 5,
  V: 0,
};

function skipValue(reader: WireReader, letter: string): void {
  const length = LENGTHS[letter] ?? ('SxAF'.includes(letter) ? reader.long() : undefined);
  if (length === undefined) throw new ProtocolError(502, 'The peer sent a field of unknown type.');
  reader.section(length);
}

/** What is to be changed: headers to leave out, headers to set, and whether the message may expire no more. */
export interface PropertyChange {
  readonly remove?: readonly string[];
  readonly set?: FieldTable;
  readonly dropExpiration?: boolean;
}

/** The same properties with other headers. What is not named stays byte for byte. */
export function changedProperties(bytes: Buffer, layout: PropertyLayout, change: PropertyChange): Buffer {
  const { remove = [], set = {}, dropExpiration = false } = change;
  const parts: Buffer[] = [];
  for (const { name, start, end } of headerEntries(bytes, layout)) {
    if (!remove.includes(name) && !Object.hasOwn(set, name)) parts.push(bytes.subarray(start, end));
  }
  parts.push(entriesOf(set));

  const flags = (layout.flags | HEADERS) & (dropExpiration ? ~EXPIRATION : ~0);
  const headersAt = (layout.flags & HEADERS) === 0 ? headersPosition(bytes, layout) : layout.headersStart - 4;
  const afterHeaders = (layout.flags & HEADERS) === 0 ? headersAt : layout.headersEnd;
  const head = Buffer.alloc(headersAt + 4);
  bytes.copy(head, 0, 0, headersAt);
  head.writeUInt16BE(flags, 0);
  head.writeUInt32BE(
    parts.reduce((sum, { length }) => sum + length, 0),
    headersAt,
  );
  const rest = dropExpiration
    ? [bytes.subarray(afterHeaders, layout.expirationStart), bytes.subarray(layout.expirationEnd)]
    : [bytes.subarray(afterHeaders)];
  return Buffer.concat([head, ...parts, ...rest]);
}

/** Where the headers would stand: after the flags, contentType and contentEncoding. */
function headersPosition(bytes: Buffer, { flags }: PropertyLayout): number {
  let at = 2;
  if ((flags & (1 << 15)) !== 0) at += 1 + bytes.readUInt8(at);
  if ((flags & (1 << 14)) !== 0) at += 1 + bytes.readUInt8(at);
  return at;
}

function entriesOf(table: FieldTable): Buffer {
  const writer = new WireWriter(256);
  writeTable(writer, table, 'headers');
  return writer.take().subarray(4);
}
