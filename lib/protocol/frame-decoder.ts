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

/** Where whole frames go. The payload is `buffer[start, end)`: a view, valid during the call. */
export type FrameReceiver = (type: number, channel: number, buffer: Buffer, start: number, end: number) => void;

/** What a decoder accepts where the peers agreed on no limit (frame_max 0). */
export const UNNEGOTIATED_FRAME_LIMIT = 16 * 1024 * 1024;
/** What a decoder accepts before the peers have agreed: RabbitMQ's default frame_max. */
export const INITIAL_FRAME_LIMIT = 131_072;

export class FrameDecoder {
  readonly #receive: FrameReceiver;
  #limit = INITIAL_FRAME_LIMIT;
  #headerLimit = INITIAL_FRAME_LIMIT;
  /** The bytes of a frame that has not come whole, in order. */
  #parts: Buffer[] = [];
  #have = 0;

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
    if (this.#have > 0) {
      offset = this.#complete(chunk);
      if (offset < 0) return;
    }
    while (chunk.length - offset >= FRAME_HEAD_SIZE) {
      const size = this.#frameSize(chunk, offset);
      if (chunk.length - offset < size) break;
      this.#emit(chunk, offset, size);
      offset += size;
    }
    if (offset < chunk.length) this.#keep(chunk.subarray(offset));
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
    // Specification, section 4.2.3: the frame-end octet must be 0xCE; anything else means that the stream is out of step.
    if (buffer[end] !== FRAME_END) {
      throw new ProtocolError(501, 'The peer sent a frame that does not end with 0xCE: the stream is out of step.');
    }
    this.#receive(
      buffer[offset] as number,
      ((buffer[offset + 1] as number) << 8) | (buffer[offset + 2] as number),
      buffer,
      offset + FRAME_HEAD_SIZE,
      end,
    );
  }
}
