/**
 * Reading and writing AMQP's elementary types (specification, section 4.2.5) in network byte order.
 * What the bytes mean is left to the tables above this file.
 */
import { AmqpError, ProtocolError, printable } from '../errors.js';
import type { SeenText } from './seen-text.js';

/** More than is gathered before it leaves, so that a batch seldom crosses from one segment to the next. */
export const SEGMENT_SIZE = 80 * 1024;
const ALMOST_FULL = 16 * 1024;
const TWO_TO_THE_32 = 0x1_0000_0000;
/** Most bytes of a shortstr, whose length is one octet. Names, routing keys and reply texts are such. */
export const LONGEST_SHORTSTR = 255;
/** Strings up to this length are written in a loop. */
const LOOPED = 64;

/** Where a writer gets its segments from, and gives them when it is done with them. */
export interface SegmentSource {
  /** Memory that nobody reads any more. */
  next(): Buffer;
  /** What was taken of it may still be read; the writer will not write into it again. */
  retired(segment: Buffer): void;
}

/** Segments of their own for every writer, left to the garbage collector. */
const NEW_SEGMENTS: SegmentSource = {
  next: () => Buffer.allocUnsafeSlow(SEGMENT_SIZE),
  retired: () => undefined,
};

/**
 * An append-only writer over large segments of memory. `take()` hands out what was written since the last `take()`
 * without copying it; the bytes handed out are not written again before the source gives out their segment anew.
 *
 * ```
 *   buffer  [ taken | taken | being written | free          ]
 *                             ^start          ^position
 * ```
 */
export class WireWriter {
  readonly #segments: SegmentSource;
  #buffer: Buffer;
  #start = 0;
  #position = 0;

  /** @param size - of the first segment, where it is not to be one of the source's */
  constructor(size?: number, segments = NEW_SEGMENTS) {
    this.#segments = segments;
    this.#buffer = size === undefined ? segments.next() : Buffer.allocUnsafeSlow(size);
  }

  /** Bytes written and not yet taken. Pass it to `rewind` to undo what is written after this moment. */
  get length(): number {
    return this.#position - this.#start;
  }

  /** Forgets everything written after the first `length` bytes that are not yet taken. */
  rewind(length: number): void {
    this.#position = this.#start + length;
  }

  take(): Buffer {
    const bytes = this.#buffer.subarray(this.#start, this.#position);
    this.#start = this.#position;
    return bytes;
  }

  /** Goes on in a new segment when this one is almost full and nothing in it awaits `take()`: then nothing has to be moved. */
  freshen(): void {
    if (this.#start === this.#position && this.#buffer.length - this.#position < ALMOST_FULL) this.#nextSegment(0);
  }

  octet(value: number): void {
    const at = this.#grow(1);
    this.#buffer[at] = value;
  }

  short(value: number): void {
    const at = this.#grow(2);
    this.#buffer[at] = value >>> 8;
    this.#buffer[at + 1] = value;
  }

  long(value: number): void {
    const at = this.#grow(4);
    this.#putLong(at, value);
  }

  /** An unsigned 64-bit integer given as a safe, non-negative number. */
  longlong(value: number): void {
    const at = this.#grow(8);
    this.#putLong(at, Math.floor(value / TWO_TO_THE_32));
    this.#putLong(at + 4, value % TWO_TO_THE_32);
  }

  int64(value: bigint): void {
    const at = this.#grow(8);
    this.#buffer.writeBigInt64BE(value, at);
  }

  uint64(value: bigint): void {
    const at = this.#grow(8);
    this.#buffer.writeBigUInt64BE(value, at);
  }

  float(value: number): void {
    const at = this.#grow(4);
    this.#buffer.writeFloatBE(value, at);
  }

  double(value: number): void {
    const at = this.#grow(8);
    this.#buffer.writeDoubleBE(value, at);
  }

  /** At most `LONGEST_SHORTSTR` bytes, of a string as UTF-8, after their length in one octet. `what` and `of` name the value in the error. */
  shortstr(value: string | Uint8Array, what: string, of?: string): void {
    if (typeof value === 'string' && value.length <= LOOPED) {
      const at = this.#grow(1 + value.length);
      if (this.#putAscii(value, at + 1)) {
        this.#buffer[at] = value.length;
        return;
      }
      this.#position = at;
    }
    const length = typeof value === 'string' ? Buffer.byteLength(value) : value.length;
    if (length > LONGEST_SHORTSTR) {
      const start = typeof value === 'string' ? value : Buffer.from(value).toString();
      throw new AmqpError(
        'INVALID_ARGUMENT',
        `${printable(of === undefined ? what : `${what} ${of}`)} is ${length} bytes of UTF-8 ` +
          `('${printable(start, 40)}'); AMQP allows ${LONGEST_SHORTSTR}. Shorten it.`,
      );
    }
    const at = this.#grow(1 + length);
    this.#buffer[at] = length;
    if (typeof value === 'string') this.#buffer.write(value, at + 1, length, 'utf8');
    else this.#buffer.set(value, at + 1);
  }

  longstr(value: string | Uint8Array): void {
    if (typeof value !== 'string') {
      this.long(value.length);
      this.bytes(value);
      return;
    }
    const at = this.#grow(4 + value.length);
    if (value.length <= LOOPED && this.#putAscii(value, at + 4)) {
      this.#putLong(at, value.length);
      return;
    }
    this.#position = at;
    // Relative to the start: what makes room for the text may move what is written.
    const lengthAt = this.length;
    this.long(0);
    const length = this.text(value);
    this.patchLong(lengthAt, length);
  }

  /** The bytes of a string as UTF-8; returns how many they are. */
  text(value: string): number {
    // A code unit takes three bytes at most, and a pair of surrogates four. Measuring first costs as much as writing.
    const at = this.#grow(value.length * 3);
    const length = this.#buffer.write(value, at, 'utf8');
    this.#position = at + length;
    return length;
  }

  bytes(value: Uint8Array): void {
    const at = this.#grow(value.length);
    this.#buffer.set(value, at);
  }

  /** Writes a length in four octets after `write` has shown how long what it measures is. */
  measured(write: () => void): void {
    this.long(0);
    const begin = this.length;
    write();
    this.patchLong(begin - 4, this.length - begin);
  }

  /** Overwrites four octets, `offset` bytes after the last `take()`. */
  patchLong(offset: number, value: number): void {
    this.#putLong(this.#start + offset, value);
  }

  /** Writes a string if it is all ASCII, and says so. For short ones this costs less than the way into native code. */
  #putAscii(value: string, at: number): boolean {
    const buffer = this.#buffer;
    for (let index = 0; index < value.length; index += 1) {
      const code = value.charCodeAt(index);
      if (code > 0x7f) return false;
      buffer[at + index] = code;
    }
    return true;
  }

  /** Overwrites two octets, `offset` bytes after the last `take()`. */
  patchShort(offset: number, value: number): void {
    const at = this.#start + offset;
    this.#buffer[at] = value >>> 8;
    this.#buffer[at + 1] = value;
  }

  #putLong(at: number, value: number): void {
    const buffer = this.#buffer;
    buffer[at] = value >>> 24;
    buffer[at + 1] = value >>> 16;
    buffer[at + 2] = value >>> 8;
    buffer[at + 3] = value;
  }

  /** Makes room for `size` bytes, moves past them and tells where they begin. */
  #grow(size: number): number {
    if (this.#position + size > this.#buffer.length) this.#nextSegment(size);
    const at = this.#position;
    this.#position += size;
    return at;
  }

  #nextSegment(size: number): void {
    const full = this.#buffer;
    const unfinished = full.subarray(this.#start, this.#position);
    // Twice the unfinished part, so that one huge frame written piece by piece is copied O(1) times a byte.
    const needed = unfinished.length * 2 + size;
    const segment = needed > SEGMENT_SIZE ? Buffer.allocUnsafeSlow(needed) : this.#segments.next();
    segment.set(unfinished, 0);
    this.#buffer = segment;
    this.#start = 0;
    this.#position = unfinished.length;
    this.#segments.retired(full);
  }
}

/** A cursor over bytes from a peer. Every read checks that the bytes are there, so a lying length is a `ProtocolError`. */
export class WireReader {
  buffer: Buffer;
  position: number;
  end: number;

  constructor(buffer: Buffer, start = 0, end = buffer.length) {
    this.buffer = buffer;
    this.position = start;
    this.end = end;
  }

  /** The same reader, over other bytes. */
  over(buffer: Buffer, start: number, end: number): this {
    this.buffer = buffer;
    this.position = start;
    this.end = end;
    return this;
  }

  get remaining(): number {
    return this.end - this.position;
  }

  octet(): number {
    return this.buffer.readUInt8(this.#advance(1));
  }

  int8(): number {
    return this.buffer.readInt8(this.#advance(1));
  }

  short(): number {
    return this.buffer.readUInt16BE(this.#advance(2));
  }

  int16(): number {
    return this.buffer.readInt16BE(this.#advance(2));
  }

  long(): number {
    return this.buffer.readUInt32BE(this.#advance(4));
  }

  int32(): number {
    return this.buffer.readInt32BE(this.#advance(4));
  }

  /** An unsigned 64-bit integer that has to fit a safe number, as delivery tags and body sizes do. */
  longlong(): number {
    const at = this.#advance(8);
    const high = this.buffer.readUInt32BE(at);
    const value = high * TWO_TO_THE_32 + this.buffer.readUInt32BE(at + 4);
    if (value > Number.MAX_SAFE_INTEGER) {
      throw new ProtocolError(502, `The peer sent a 64-bit number beyond 2^53 (${value.toExponential(3)}).`);
    }
    return value;
  }

  int64(): bigint {
    return this.buffer.readBigInt64BE(this.#advance(8));
  }

  uint64(): bigint {
    return this.buffer.readBigUInt64BE(this.#advance(8));
  }

  float(): number {
    return this.buffer.readFloatBE(this.#advance(4));
  }

  double(): number {
    return this.buffer.readDoubleBE(this.#advance(8));
  }

  /** The next four octets, which are read again; -1 where there are fewer. */
  peekLong(): number {
    return this.remaining < 4 ? -1 : this.buffer.readUInt32BE(this.position);
  }

  shortstr(): string {
    const length = this.octet();
    const at = this.#advance(length);
    return this.buffer.toString('utf8', at, at + length);
  }

  /** A short string that mostly is the one that `seen` read last. */
  seenText(seen: SeenText): string {
    const length = this.octet();
    const at = this.#advance(length);
    return seen.read(this.buffer, at, at + length);
  }

  /** A long string as UTF-8. */
  longText(): string {
    const length = this.long();
    const at = this.#advance(length);
    return this.buffer.toString('utf8', at, at + length);
  }

  /** The bytes of a long string: a view, not a copy. */
  longstr(): Buffer {
    const length = this.long();
    const at = this.#advance(length);
    return this.buffer.subarray(at, at + length);
  }

  /** The next `length` bytes as a reader of their own. */
  section(length: number): WireReader {
    const at = this.#advance(length);
    return new WireReader(this.buffer, at, at + length);
  }

  #advance(size: number): number {
    const at = this.position;
    if (size > this.end - at) {
      throw new ProtocolError(501, `The peer announced ${size} more bytes where ${this.end - at} are left.`);
    }
    this.position = at + size;
    return at;
  }
}
