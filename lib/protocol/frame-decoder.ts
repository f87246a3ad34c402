/**
 * Bytes in, whole frames out, however the bytes were cut on the way. It owns the rules about frames (type, size, end
 * octet); what is in a frame is left to the receiver.
 */
import { ProtocolError } from '../errors.js';
import {
  FRAME_BODY,
  FRAME_END,
  FRAME_HEAD_SIZE,
  FRAME_HEADER,
  FRAME_HEARTBEAT,
  FRAME_METHOD,
  FRAME_OVERHEAD,
} from './frame.js';

/**
 * Where whole frames go. The payload is `buffer[start, end)`: a view, valid during the call. Of a large body frame it may be a
 * part, and the other parts follow: a body is its bytes, however they are cut.
 */
export type FrameReceiver = (type: number, channel: number, buffer: Buffer, start: number, end: number) => void;

/** What a decoder accepts where the peers agreed on no limit (frame_max 0). */
export const UNNEGOTIATED_FRAME_LIMIT = 16 * 1024 * 1024;
/** What a decoder accepts before the peers have agreed: RabbitMQ's default frame_max. */
export const INITIAL_FRAME_LIMIT = 131_072;

/** Body frames from this size on are handed on as they come: putting each together first would copy the whole body once more. */
const STREAMED = 4096;

export class FrameDecoder {
  readonly #receive: FrameReceiver;
  #limit = INITIAL_FRAME_LIMIT;
  #headerLimit = INITIAL_FRAME_LIMIT;
  /** The bytes of a frame that has not come whole, in order. */
  #parts: Buffer[] = [];
  #have = 0;
  /** Of a body frame that is handed on as it comes: its channel, and how many bytes of its payload are still to come. */
  #bodyChannel = 0;
  #bodyLeft = 0;
  /** The last byte of that payload, kept until the frame-end octet has proven that it is the last. */
  #lastByte: Buffer | undefined;

  constructor(receive: FrameReceiver) {
    this.#receive = receive;
  }

  /**
   * Sets the largest frames to accept, in octets with their overhead; 0 stands for no agreed limit.
   * RabbitMQ sends header frames beyond the negotiated frame_max, because it cannot split a header that a publisher with a
   * larger frame_max wrote, so their limit is what the broker proposed.
   */
  limit(negotiated: number, proposed: number): void {
    this.#limit = negotiated === 0 ? UNNEGOTIATED_FRAME_LIMIT : negotiated;
    this.#headerLimit = Math.max(this.#limit, proposed === 0 ? UNNEGOTIATED_FRAME_LIMIT : proposed);
  }

  /** Takes a chunk and hands on the frames that it completes. Throws `ProtocolError`; after that the decoder is of no use. */
  push(chunk: Buffer): void {
    let offset = 0;
    if (chunk.length === 0) return;
    if (this.#bodyLeft > 0) {
      offset = this.#body(chunk, 0);
      if (offset < 0) return;
    } else if (this.#have > 0) {
      offset = this.#complete(chunk);
      if (offset < 0) return;
    }
    while (chunk.length - offset >= FRAME_HEAD_SIZE) {
      const size = this.#frameSize(chunk, offset);
      if (chunk.length - offset < size) {
        if (chunk[offset] !== FRAME_BODY || size < STREAMED) break;
        this.#bodyChannel = ((chunk[offset + 1] as number) << 8) | (chunk[offset + 2] as number);
        this.#bodyLeft = size - FRAME_OVERHEAD;
        if (chunk.length > offset + FRAME_HEAD_SIZE) this.#body(chunk, offset + FRAME_HEAD_SIZE);
        return;
      }
      this.#emit(chunk, offset, size);
      offset += size;
    }
    if (offset < chunk.length) this.#keep(chunk.subarray(offset));
  }

  /** Hands on what the chunk has of a body frame; returns where the next frame begins, or -1 when more is needed. */
  #body(chunk: Buffer, offset: number): number {
    const last = this.#lastByte;
    const end = offset + (last === undefined ? this.#bodyLeft : 0);
    if (end < chunk.length) {
      checkEnd(chunk, end);
      this.#bodyLeft = 0;
      this.#lastByte = undefined;
      if (last === undefined) this.#receive(FRAME_BODY, this.#bodyChannel, chunk, offset, end);
      else this.#receive(FRAME_BODY, this.#bodyChannel, last, 0, 1);
      return end + 1;
    }
    // All of the payload and not the end: its last byte waits.
    if (end === chunk.length) this.#lastByte = Buffer.from(chunk.subarray(end - 1));
    const known = end === chunk.length ? end - 1 : chunk.length;
    this.#bodyLeft -= known - offset;
    if (known > offset) this.#receive(FRAME_BODY, this.#bodyChannel, chunk, offset, known);
    return -1;
  }

  /** Completes the frame that was cut; returns where the next one begins in `chunk`, or -1 when more is needed. */
  #complete(chunk: Buffer): number {
    let offset = 0;
    if (this.#have < FRAME_HEAD_SIZE) {
      offset = Math.min(FRAME_HEAD_SIZE - this.#have, chunk.length);
      this.#keep(chunk.subarray(0, offset));
      if (this.#have < FRAME_HEAD_SIZE) return -1;
    }
    const head = this.#parts[0] as Buffer;
    const size = this.#frameSize(head, 0);
    const missing = size - this.#have;
    if (chunk.length - offset < missing) {
      if (offset < chunk.length) this.#keep(chunk.subarray(offset));
      return -1;
    }
    this.#keep(chunk.subarray(offset, offset + missing));
    const frame = Buffer.concat(this.#parts, size);
    this.#parts = [];
    this.#have = 0;
    this.#emit(frame, 0, size);
    return offset + missing;
  }

  #keep(part: Buffer): void {
    const [first] = this.#parts;
    // The size of the whole frame is read off the first part, so that part holds the whole head.
    if (first !== undefined && first.length < FRAME_HEAD_SIZE) this.#parts = [Buffer.concat([first, part])];
    else this.#parts.push(part);
    this.#have += part.length;
  }

  /** The size of the frame whose head is at `offset`, refused before a byte of it is stored when it is too large. */
  #frameSize(buffer: Buffer, offset: number): number {
    const type = buffer[offset] as number;
    if (type !== FRAME_METHOD && type !== FRAME_HEADER && type !== FRAME_BODY && type !== FRAME_HEARTBEAT) {
      throw new ProtocolError(501, `The peer sent a frame of unknown type ${type}.`);
    }
    const size = buffer.readUInt32BE(offset + 3) + FRAME_OVERHEAD;
    const limit = type === FRAME_HEADER ? this.#headerLimit : this.#limit;
    if (size > limit + FRAME_OVERHEAD) {
      // RabbitMQ itself tolerates eight octets over, so that peers who forget the overhead get by.
      throw new ProtocolError(501, `The peer announced a frame of ${size} bytes; the limit is ${limit} (frame_max).`);
    }
    return size;
  }

  #emit(buffer: Buffer, offset: number, size: number): void {
    const end = offset + size - 1;
    checkEnd(buffer, end);
    this.#receive(
      buffer[offset] as number,
      ((buffer[offset + 1] as number) << 8) | (buffer[offset + 2] as number),
      buffer,
      offset + FRAME_HEAD_SIZE,
      end,
    );
  }
}

/** Specification, section 4.2.3: the frame-end octet must be 0xCE; anything else means that the stream is out of step. */
function checkEnd(buffer: Buffer, end: number): void {
  if (buffer[end] !== FRAME_END) {
    throw new ProtocolError(501, 'The peer sent a frame that does not end with 0xCE: the stream is out of step.');
  }
}
