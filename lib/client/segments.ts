/**
 * The memory that a connection writes into, used again when the socket has taken it. Fresh memory costs more than what is
 * written into it: the operating system clears it page by page, and the processor has none of it at hand.
 */
import { SEGMENT_SIZE, type SegmentSource } from '../protocol/wire.js';

/** Most segments that wait for their next use; what is beyond is left to the garbage collector. */
const KEPT = 24;

export class Segments implements SegmentSource {
  readonly #free: Buffer[] = [];
  readonly #retired: Buffer[] = [];

  next(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(SEGMENT_SIZE);
  }

  retired(segment: Buffer): void {
    // Larger ones were for one huge frame.
    if (segment.length === SEGMENT_SIZE && this.#retired.length < KEPT) this.#retired.push(segment);
  }

  /** The socket has taken everything that was written: what the writer is done with, nobody reads any more. */
  allTaken(): void {
    while (this.#retired.length > 0 && this.#free.length < KEPT) this.#free.push(this.#retired.pop() as Buffer);
    this.#retired.length = 0;
  }
}
