/**
 * The header and body of a message as they came, decoded when they are asked for.
 *
 * They come in chunks of 64 KiB that many messages share. Until somebody asks for the bytes of a body, or `keep()` is called,
 * a content is a range of its chunk. Then the bytes move into memory of their own, so that a user who keeps a small body
 * keeps no chunk alive; bodies that are most of the memory they lie in stay where they are.
 *
 * What is kept unread moves into a string of a character per byte: that lies on JavaScript's heap, where room for a hundred
 * bytes costs a tenth of what it costs outside of it.
 */
import { AmqpError } from '../errors.js';
import { type BasicProperties, type SeenProperties, readProperties, readPropertyBytes } from './properties.js';
import { WireReader } from './wire.js';

const EMPTY = Buffer.alloc(0);
/** Of the flag word's first octet: the reply-to property is there (bit 9 of 15 to 0, see properties). */
const REPLY_TO_FLAG = 0x02;
/** Most bytes that are kept as a string: a longer one takes longer to make than memory outside of the heap. */
const LARGEST_TEXT = 2048;
/** Bytes that are this share of the memory that they lie in stay there. */
const LARGE_SHARE = 0.5;

export class Content {
  /** Octets of the body as announced. */
  readonly size: number;
  readonly #memory: ContentMemory;
  /** Property flags and values, the sender's and unchecked: `#head[#headStart, #headEnd)`. */
  #head: Buffer;
  #headStart: number;
  #headEnd: number;
  #bodyMemory: Buffer;
  #bodyStart: number;
  #bodyEnd: number;
  #isKept = false;
  /** The bytes from the head to the end of the body, while they are kept and nobody has read them. */
  #unread: string | undefined;
  #body: Buffer | undefined;
  #properties: BasicProperties | undefined;

  constructor(
    memory: ContentMemory,
    head: Buffer,
    headStart: number,
    headEnd: number,
    body: Buffer,
    bodyStart: number,
    bodyEnd: number,
    size: number,
  ) {
    this.#memory = memory;
    this.#head = head;
    this.#headStart = headStart;
    this.#headEnd = headEnd;
    this.#bodyMemory = body;
    this.#bodyStart = bodyStart;
    this.#bodyEnd = bodyEnd;
    this.size = size;
  }

  /** True when the body was over the limit, and was dropped as it came. One message's fault, not the connection's. */
  get isTooLarge(): boolean {
    return this.#bodyEnd - this.#bodyStart !== this.size;
  }

  /** The body; empty when it is too large. */
  get body(): Buffer {
    if (this.#body === undefined) {
      this.#own();
      this.#body = this.#bodyMemory.subarray(this.#bodyStart, this.#bodyEnd);
    }
    return this.#body;
  }

  /** The body as UTF-8, without a buffer in between. */
  get text(): string {
    if (this.#unread !== undefined) this.#own();
    return this.#bodyMemory.toString('utf8', this.#bodyStart, this.#bodyEnd);
  }

  /** The bytes of the property flags and values. */
  get propertyBytes(): Buffer {
    this.#own();
    return this.#head.subarray(this.#headStart, this.#headEnd);
  }

  /**
   * The decoded properties. Throws `UNDECODABLE` when the publisher wrote nonsense: RabbitMQ hands property bytes on
   * unread, so one publisher's nonsense must stay one message's fault.
   */
  get properties(): BasicProperties {
    if (this.#unread !== undefined) this.#own();
    this.#properties ??= this.#decoded((reader) => readProperties(reader, this.#memory.seen));
    return this.#properties;
  }

  /** Whether the flags announce a reply-to: one octet is looked at, and nothing decoded. */
  get hasReplyTo(): boolean {
    const flags = this.#unread === undefined ? this.#head[this.#headStart] : this.#unread.charCodeAt(0);
    return this.#headEnd > this.#headStart && ((flags ?? 0) & REPLY_TO_FLAG) !== 0;
  }

  /** A property as the bytes that came; undefined when it is not there. Throws `UNDECODABLE` when it cannot be found. */
  bytesOf(property: 'correlationId' | 'replyTo'): Buffer | undefined {
    this.#own();
    return this.#decoded((reader) => readPropertyBytes(reader, property));
  }

  /** Moves what lies in shared memory out of it. */
  keep(): void {
    if (this.#isKept) return;
    if (this.#head !== this.#bodyMemory || this.#bodyEnd - this.#headStart > LARGEST_TEXT) {
      this.#own();
      return;
    }
    this.#isKept = true;
    this.#unread = this.#head.toString('latin1', this.#headStart, this.#bodyEnd);
    this.#lieAt(EMPTY, 0);
  }

  /** Moves the bytes into memory of their own, where a buffer can look at them. */
  #own(): void {
    if (this.#unread !== undefined) {
      const { length } = this.#unread;
      const room = this.#memory.room(length);
      const at = this.#memory.take(length);
      room.write(this.#unread, at, length, 'latin1');
      this.#unread = undefined;
      this.#lieAt(room, at);
      return;
    }
    if (this.#isKept) return;
    this.#isKept = true;
    const bodyLength = this.#bodyEnd - this.#bodyStart;
    const headLength = this.#headEnd - this.#headStart;
    const isLarge = bodyLength >= this.#bodyMemory.buffer.byteLength * LARGE_SHARE;
    const room = this.#memory.room(isLarge ? headLength : headLength + bodyLength);
    const at = this.#memory.take(isLarge ? headLength : headLength + bodyLength);
    copy(this.#head, this.#headStart, this.#headEnd, room, at);
    this.#head = room;
    this.#headStart = at;
    this.#headEnd = at + headLength;
    if (isLarge) return;
    copy(this.#bodyMemory, this.#bodyStart, this.#bodyEnd, room, at + headLength);
    this.#bodyMemory = room;
    this.#bodyStart = at + headLength;
    this.#bodyEnd = at + headLength + bodyLength;
  }

  /** What stood in one piece of memory, from the head to the end of the body, stands in another now. */
  #lieAt(memory: Buffer, start: number): void {
    const moved = start - this.#headStart;
    this.#head = memory;
    this.#bodyMemory = memory;
    this.#headStart = start;
    this.#headEnd += moved;
    this.#bodyStart += moved;
    this.#bodyEnd += moved;
  }

  #decoded<T>(decode: (reader: WireReader) => T): T {
    try {
      return decode(new WireReader(this.#head, this.#headStart, this.#headEnd));
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : '';
      throw new AmqpError('UNDECODABLE', `The properties of this message cannot be decoded. ${why}`, { cause });
    }
  }
}

/** Smallest piece of memory to ask for. Asking costs a microsecond, which is why small messages share a piece. */
const SMALLEST_PIECE = 1024;
/** So many messages of one size share a piece, so that one that is kept keeps no more than the bytes of its neighbours alive. */
const NEIGHBOURS = 4;
/** Messages from this size on have memory of their own. */
const OWN_MEMORY = 16 * 1024;

/** Where the contents of one connection go that are kept, and what their properties said last. */
export class ContentMemory {
  readonly seen: SeenProperties = new Map();
  // Not from Node's shared pool: that has pieces of 8 KiB.
  #piece = Buffer.allocUnsafeSlow(0);
  #used = 0;

  /** Memory with room for `length` bytes, which `take` then gives out. */
  room(length: number): Buffer {
    if (this.#used + length > this.#piece.length) {
      const size = length >= OWN_MEMORY ? length : Math.max(SMALLEST_PIECE, length * NEIGHBOURS);
      this.#piece = Buffer.allocUnsafeSlow(size);
      this.#used = 0;
    }
    return this.#piece;
  }

  /** Where in it the bytes go. */
  take(length: number): number {
    const at = this.#used;
    this.#used += length;
    return at;
  }
}

/** Fewer bytes than this are copied in a loop, which costs less than the way into native code. */
const LOOPED = 48;

function copy(from: Buffer, start: number, end: number, to: Buffer, at: number): void {
  const length = end - start;
  if (length > LOOPED) {
    from.copy(to, at, start, end);
    return;
  }
  for (let index = 0; index < length; index += 1) to[at + index] = from[start + index] as number;
}
