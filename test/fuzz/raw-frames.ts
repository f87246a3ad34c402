/**
 * Frames of values that nobody has checked: names that are no UTF-8, tables nested too deep, numbers that our own encoder
 * refuses. What is sent when is the caller's.
 */
import { type MethodName, METHODS } from '../../lib/protocol/methods.js';
import type { Random } from './hostile-peer.js';

/** The value of a field; text may be given as the bytes that it is to be, a table is. */
export type RawValue = boolean | number | bigint | string | Buffer;

export const NO_ARGUMENTS = Buffer.alloc(4);

/** A frame of any type around any payload. */
export function rawFrame(type: number, channel: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(7);
  head.writeUInt8(type, 0);
  head.writeUInt16BE(channel, 1);
  head.writeUInt32BE(payload.length, 3);
  return Buffer.concat([head, payload, Buffer.from([0xce])]);
}

/** A method frame; fields that are not given are zero, false or empty. */
export function rawMethod(channel: number, name: MethodName, values: Readonly<Record<string, RawValue>> = {}): Buffer {
  const [classId, methodId] = METHODS[name].id;
  const parts = [integer(classId, 2), integer(methodId, 2)];
  let bits: boolean[] = [];
  const endBits = (): void => {
    if (bits.length > 0)
      parts.push(
        integer(
          bits.reduce((sum, bit, index) => sum + (bit ? 2 ** index : 0), 0),
          1,
        ),
      );
    bits = [];
  };
  for (const [field, type] of Object.entries(METHODS[name].args)) {
    const value = values[field];
    if (type === 'bit') {
      bits.push(value === true);
      continue;
    }
    endBits();
    parts.push(rawField(type, value));
  }
  endBits();
  return rawFrame(1, channel, Buffer.concat(parts));
}

/** A content header; `size` may be a lie. */
export function rawHeader(channel: number, size: number | bigint, properties: Buffer = Buffer.alloc(2)): Buffer {
  return rawFrame(2, channel, Buffer.concat([integer(60, 2), integer(0, 2), integer(size, 8), properties]));
}

/** Properties with headers of these bytes, and nothing else but what `more` says: by the bits of the flag word. */
export function rawProperties(
  headers: Buffer,
  more: { readonly expiration?: string; readonly priority?: number } = {},
): Buffer {
  const { expiration, priority } = more;
  const flags = 0x2000 | (priority === undefined ? 0 : 0x0800) | (expiration === undefined ? 0 : 0x0100);
  return Buffer.concat([
    integer(flags, 2),
    headers,
    priority === undefined ? Buffer.alloc(0) : integer(priority, 1),
    expiration === undefined ? Buffer.alloc(0) : shortstr(expiration),
  ]);
}

/** A table of fields whose values are given as bytes, their letter first. */
export function rawTable(fields: readonly (readonly [name: string | Buffer, value: Buffer])[]): Buffer {
  return longstr(Buffer.concat(fields.map(([name, value]) => Buffer.concat([shortstr(name), value]))));
}

/** A table, or an array, in a table in a table… */
export function nested(depth: number, letter: 'F' | 'A'): Buffer {
  let value = Buffer.from('V');
  for (let level = 0; level < depth; level += 1) {
    const content = letter === 'F' ? Buffer.concat([shortstr('n'), value]) : value;
    value = Buffer.concat([Buffer.from(letter), longstr(content)]);
  }
  return value;
}

/** The bytes of some value, its letter first: also of what no client of ours would write. */
export function anyValue(random: Random, depth = 0): Buffer {
  const letter = random.pick(Array.from('tbBsuIilLfdDSxTAFVSSIAF?'));
  return Buffer.concat([Buffer.from(letter), valueBytes(letter, random, depth)]);
}

/** A text value. */
export function textValue(text: string | Buffer): Buffer {
  return Buffer.concat([Buffer.from('S'), longstr(Buffer.from(text))]);
}

function valueBytes(letter: string, random: Random, depth: number): Buffer {
  switch (letter) {
    case 'V':
    case '?':
      return Buffer.alloc(0);
    case 'f':
      return random.pick([Buffer.from('7fc00000', 'hex'), Buffer.from('ff800000', 'hex'), random.bytes(4)]);
    case 'd':
      return random.pick([
        Buffer.from('7ff8000000000000', 'hex'),
        Buffer.from('7ff0000000000000', 'hex'),
        random.bytes(8),
      ]);
    case 'S':
    case 'x':
      return longstr(random.bytes(random.below(12)));
    case 'A':
      return longstr(
        Buffer.concat(depth > 3 ? [] : Array.from({ length: random.below(4) }, () => anyValue(random, depth + 1))),
      );
    case 'F':
      return depth > 3
        ? NO_ARGUMENTS
        : rawTable([[random.pick(['count', 'queue', 'n', '__proto__']), anyValue(random, depth + 1)]]);
    default:
      return random.bytes(LENGTHS[letter] ?? 0);
  }
}

const LENGTHS: Readonly<Record<string, number>> = {
  t: 1,
  b: 1,
  B: 1,
  s: 2,
  u: 2,
  I: 4,
  i: 4,
  l: 8,
  L: 8,
  D: 5,
  T: 8,
};

function rawField(type: string, value: RawValue | undefined): Buffer {
  switch (type) {
    case 'shortstr':
      return shortstr((value as string | Buffer | undefined) ?? '');
    case 'longstr':
      return longstr(Buffer.from((value as string | undefined) ?? ''));
    case 'table':
      return (value as Buffer | undefined) ?? NO_ARGUMENTS;
    default:
      return integer((value as number | undefined) ?? 0, { octet: 1, short: 2, long: 4 }[type] ?? 8);
  }
}

function shortstr(value: string | Buffer): Buffer {
  const bytes = Buffer.from(value).subarray(0, 255);
  return Buffer.concat([Buffer.from([bytes.length]), bytes]);
}

function longstr(bytes: Buffer): Buffer {
  return Buffer.concat([integer(bytes.length, 4), bytes]);
}

function integer(value: number | bigint, octets: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes.subarray(8 - octets);
}
