/**
 * Field tables: the letters of AMQP 0-9-1 as RabbitMQ reads and writes them, to and from JavaScript values.
 * The letters are RabbitMQ's (https://www.rabbitmq.com/amqp-0-9-1-errata), which differ from the specification's.
 *
 * | letter | on the wire | decoded | encoded from |
 * | --- | --- | --- | --- |
 * | `t` | boolean, any non-zero octet is true | boolean | boolean |
 * | `b` `B` | int8, uint8 | number | `field.int8`, `field.uint8` |
 * | `s` `u` | int16, uint16 | number | `field.int16`, `field.uint16` |
 * | `I` `i` | int32, uint32 | number | an integer in the range of int32; `field.uint32` |
 * | `l` `L` | int64 | number, a bigint beyond 2^53 | any other safe integer, bigint |
 * | `f` `d` | float, double | number | `field.float`; any other finite number |
 * | `D` | scale octet, uint32 | `Decimal` | `Decimal` |
 * | `S` | UTF-8 | string | string |
 * | `x` | bytes | Buffer | Uint8Array |
 * | `T` | uint64 seconds | Date; `TypedField` where Date ends | Date |
 * | `A` | array | array | array |
 * | `F` | table | object without a prototype | plain object |
 * | `V` | nothing | null | null |
 */
import { types } from 'node:util';
import { AmqpError, ProtocolError, printable } from '../errors.js';
import type { WireReader, WireWriter } from './wire.js';

/** A value that a field table can hold. */
export type FieldValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | Date
  | Decimal
  | TypedField
  | readonly FieldValue[]
  | FieldTable;

/** Headers, queue arguments, server properties: names of at most 255 bytes and their values. `undefined` is left out. */
export interface FieldTable {
  readonly [name: string]: FieldValue | undefined;
}

/** A decimal number: `unscaled / 10 ** scale`, with `unscaled` an unsigned 32-bit integer as RabbitMQ reads it. */
export class Decimal {
  readonly scale: number;
  readonly unscaled: number;

  constructor(scale: number, unscaled: number) {
    this.scale = scale;
    this.unscaled = unscaled;
  }

  valueOf(): number {
    return this.unscaled / 10 ** this.scale;
  }

  toString(): string {
    const digits = String(this.unscaled).padStart(this.scale + 1, '0');
    return this.scale === 0 ? digits : `${digits.slice(0, -this.scale)}.${digits.slice(-this.scale)}`;
  }
}

type NumberTag = 'b' | 'B' | 's' | 'u' | 'I' | 'i' | 'l' | 'f' | 'd' | 'T';

/** A number with the letter that it is to be written with. Made by `field`. */
export class TypedField {
  readonly tag: NumberTag;
  readonly value: number | bigint;

  constructor(tag: NumberTag, value: number | bigint) {
    this.tag = tag;
    this.value = value;
  }
}

/**
 * Numbers of a chosen width, for the rare peer that insists on one.
 *
 * @example
 * ```ts
 * { headers: { retries: field.uint8(3) } }
 * ```
 */
export const field = {
  int8: (value: number): TypedField => new TypedField('b', value),
  uint8: (value: number): TypedField => new TypedField('B', value),
  int16: (value: number): TypedField => new TypedField('s', value),
  uint16: (value: number): TypedField => new TypedField('u', value),
  int32: (value: number): TypedField => new TypedField('I', value),
  uint32: (value: number): TypedField => new TypedField('i', value),
  int64: (value: number | bigint): TypedField => new TypedField('l', value),
  float: (value: number): TypedField => new TypedField('f', value),
  double: (value: number): TypedField => new TypedField('d', value),
  /** Seconds since 1970, for times that `Date` cannot hold. */
  timestamp: (seconds: number | bigint): TypedField => new TypedField('T', seconds),
} as const;

/** Deeper nesting is refused both ways: 32 levels are more than any real header has, and few enough for any stack. */
export const MAX_NESTING = 32;

const INT32_MAX = 0x7fff_ffff;
const INT32_MIN = -0x8000_0000;
/** The last second that a `Date` can hold. */
const MAX_DATE_SECONDS = 8_640_000_000_000n;

/** Writes a table. `what` names it in errors: `headers`, `arguments`. */
export function writeTable(writer: WireWriter, table: FieldTable, what: string): void {
  if (!isPlainObject(table)) {
    throw new AmqpError(
      'INVALID_ARGUMENT',
      `${printable(what)} is a ${className(table)}; it has to be a plain object.`,
    );
  }
  writeEntries(writer, table, what, 1);
}

function writeEntries(writer: WireWriter, table: FieldTable, path: string, depth: number): void {
  if (depth > MAX_NESTING) throw tooDeep(path);
  const begin = writer.length;
  writer.long(0);
  for (const name of Object.keys(table)) {
    const value = table[name];
    if (value === undefined) continue;
    writer.shortstr(name, 'The name of a field in', path);
    if (!writePlain(writer, value)) writeValue(writer, value, `${path}.${name}`, depth);
  }
  writer.patchLong(begin, writer.length - begin - 4);
}

/** Writes what most fields are, without a path for errors that cannot happen; says whether it was such a value. */
function writePlain(writer: WireWriter, value: unknown): boolean {
  if (typeof value === 'string') {
    writer.octet(LETTER_S);
    writer.longstr(value);
  } else if (typeof value === 'number' && (value | 0) === value && !Object.is(value, -0)) {
    writer.octet(LETTER_I);
    writer.long(value);
  } else if (typeof value === 'boolean') {
    writer.octet(LETTER_T);
    writer.octet(value ? 1 : 0);
  } else {
    return false;
  }
  return true;
}

const LETTER_S = 'S'.charCodeAt(0);
const LETTER_I = 'I'.charCodeAt(0);
const LETTER_T = 't'.charCodeAt(0);

function writeValue(writer: WireWriter, value: unknown, path: string, depth: number): void {
  if (writePlain(writer, value)) return;
  switch (typeof value) {
    case 'number':
      writeNumber(writer, value, path);
      return;
    case 'bigint':
      writeTyped(writer, 'l', value, path);
      return;
    case 'object':
      writeObject(writer, value, path, depth);
      return;
    default:
      throw notAField(path, `a ${typeof value}`);
  }
}

function writeNumber(writer: WireWriter, value: number, path: string): void {
  if (!Number.isFinite(value)) throw notAField(path, String(value), 'RabbitMQ closes the connection over it (541).');
  // -0 is an integer that only a double can hold.
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
    writeTyped(writer, 'l', value, path);
  } else {
    writeTyped(writer, 'd', value, path);
  }
}

function writeObject(writer: WireWriter, value: object | null, path: string, depth: number): void {
  if (value === null) {
    tag(writer, 'V');
  } else if (Array.isArray(value)) {
    if (depth >= MAX_NESTING) throw tooDeep(path);
    tag(writer, 'A');
    writer.measured(() => {
      // Not forEach, which leaves holes out: a hole or an undefined item keeps its place, as it does in JSON.
      for (const [index, item] of (value as unknown[]).entries()) {
        writeValue(writer, item ?? null, `${path}[${index}]`, depth + 1);
      }
    });
  } else if (types.isUint8Array(value)) {
    tag(writer, 'x');
    writer.longstr(value);
  } else if (types.isDate(value)) {
    const seconds = Math.floor(value.getTime() / 1000);
    if (!(seconds >= 0)) throw notAField(path, 'a Date that is invalid or before 1970');
    writeTyped(writer, 'T', seconds, path);
  } else if (value instanceof TypedField) {
    writeTyped(writer, value.tag, value.value, path);
  } else if (value instanceof Decimal) {
    tag(writer, 'D');
    writer.octet(inRange(value.scale, 0, 255, `${path}.scale`));
    writer.long(inRange(value.unscaled, 0, 0xffff_ffff, `${path}.unscaled`));
  } else if (isPlainObject(value)) {
    tag(writer, 'F');
    writeEntries(writer, value as FieldTable, path, depth + 1);
  } else {
    throw notAField(path, `a ${className(value)}`);
  }
}

function className(value: object): string {
  const name = typeof value.constructor === 'function' ? value.constructor.name : '';
  return name === '' ? 'class instance' : name;
}

/** True for `{}` and `Object.create(null)` of any realm: an object whose prototype, if any, is the root one. */
function isPlainObject(value: object): boolean {
  const prototype = Object.getPrototypeOf(value) as object | null;
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

function writeTyped(writer: WireWriter, letter: NumberTag, value: number | bigint, path: string): void {
  // The letter first: an exception below makes the caller rewind the whole frame.
  tag(writer, letter);
  switch (letter) {
    case 'b':
      writer.octet(inRange(value, -0x80, 0x7f, path) & 0xff);
      return;
    case 'B':
      writer.octet(inRange(value, 0, 0xff, path));
      return;
    case 's':
      writer.short(inRange(value, -0x8000, 0x7fff, path) & 0xffff);
      return;
    case 'u':
      writer.short(inRange(value, 0, 0xffff, path));
      return;
    case 'I':
      writer.long(inRange(value, INT32_MIN, INT32_MAX, path));
      return;
    case 'i':
      writer.long(inRange(value, 0, 0xffff_ffff, path));
      return;
    case 'l':
      writer.int64(integer(value, -(2n ** 63n), 2n ** 63n - 1n, path));
      return;
    case 'T':
      writer.uint64(integer(value, 0n, 2n ** 64n - 1n, path));
      return;
    case 'f':
      // What is finite as a double may be infinite as a float.
      writer.float(finite(Math.fround(Number(value)), value, path));
      return;
    case 'd':
      writer.double(finite(Number(value), value, path));
      return;
    default:
      letter satisfies never;
  }
}

function tag(writer: WireWriter, letter: string): void {
  writer.octet(letter.charCodeAt(0));
}

function inRange(value: number | bigint, low: number, high: number, path: string): number {
  return Number(integer(value, BigInt(low), BigInt(high), path));
}

function integer(value: number | bigint, low: bigint, high: bigint, path: string): bigint {
  if (typeof value === 'bigint' || Number.isInteger(value)) {
    const whole = BigInt(value);
    if (whole >= low && whole <= high) return whole;
  }
  throw new AmqpError(
    'INVALID_ARGUMENT',
    `${printable(path)} is ${String(value)}; it has to be an integer from ${low} to ${high}.`,
  );
}

function finite(number: number, given: number | bigint, path: string): number {
  if (!Number.isFinite(number)) throw notAField(path, String(given));
  return number;
}

function notAField(path: string, what: string, why = 'A field table has no type for it.'): AmqpError {
  return new AmqpError(
    'INVALID_ARGUMENT',
    `${printable(path)} is ${printable(what)}. ${why} ` +
      'Use null, a boolean, a finite number, a bigint, a string, a Uint8Array, a Date, an array or a plain object.',
  );
}

function tooDeep(path: string): AmqpError {
  return new AmqpError(
    'INVALID_ARGUMENT',
    `${printable(path, 80)} is nested deeper than ${MAX_NESTING} levels, or contains itself. Flatten it, or send it in the body.`,
  );
}

/** Reads a table into an object without a prototype. Of two fields with one name the first counts, as in the Java client. */
export function readTable(reader: WireReader): FieldTable {
  return readEntries(reader, 1);
}

function readEntries(reader: WireReader, depth: number): FieldTable {
  checkDepth(depth);
  const section = reader.section(reader.long());
  const table = Object.create(null) as Record<string, FieldValue>;
  while (section.remaining > 0) {
    const name = section.shortstr();
    const value = readValue(section, depth);
    if (!(name in table)) table[name] = value;
  }
  return table;
}

function readValue(reader: WireReader, depth: number): FieldValue {
  const letter = reader.octet();
  switch (String.fromCharCode(letter)) {
    case 't':
      return reader.octet() !== 0;
    case 'b':
      return reader.int8();
    case 'B':
      return reader.octet();
    case 's':
      return reader.int16();
    case 'u':
      return reader.short();
    case 'I':
      return reader.int32();
    case 'i':
      return reader.long();
    case 'l':
    case 'L':
      return numberIfSafe(reader.int64());
    case 'f':
      return reader.float();
    case 'd':
      return reader.double();
    case 'D':
      return new Decimal(reader.octet(), reader.long());
    case 'S':
      return reader.longText();
    case 'x':
      // A copy: headers outlive the chunk that they came in.
      return Buffer.from(reader.longstr());
    case 'T': {
      const seconds = reader.uint64();
      return seconds <= MAX_DATE_SECONDS ? new Date(Number(seconds) * 1000) : new TypedField('T', seconds);
    }
    case 'A':
      return readArray(reader, depth + 1);
    case 'F':
      return readEntries(reader, depth + 1);
    case 'V':
      return null;
    default:
      throw new ProtocolError(502, `The peer sent a field of unknown type 0x${letter.toString(16).padStart(2, '0')}.`);
  }
}

function readArray(reader: WireReader, depth: number): FieldValue[] {
  checkDepth(depth);
  const section = reader.section(reader.long());
  const items: FieldValue[] = [];
  while (section.remaining > 0) items.push(readValue(section, depth));
  return items;
}

function checkDepth(depth: number): void {
  if (depth > MAX_NESTING) {
    throw new ProtocolError(502, `The peer sent a field table nested deeper than ${MAX_NESTING} levels.`);
  }
}

function numberIfSafe(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
