/**
 * What is to be written, gathered: everything said in one turn of the event loop leaves in as few socket writes as it
 * fits. Small bodies are copied into the batch, large ones are handed over as they are.
 *
 * The flush runs after the promise jobs of the turn: a chain of awaited publishes that one incoming chunk set off, or the
 * acknowledgements of handlers that awaited something, still leave as one write. In a socket's callback ticks come before
 * promise jobs, and a tick that a promise job asks for comes when no more of them are left.
 */
import type { Writable } from 'node:stream';
import {
  patchBodySize,
  payloadLimit,
  writeAck,
  writeBodyFrameHead,
  writeFrameEnd,
  writeHeartbeat,
  writeMethodFrame,
  writePublishHead,
} from '../protocol/frame.js';
import type { MethodArgs, MethodName } from '../protocol/methods.js';
import type { EchoingProperties } from '../protocol/properties.js';
import { WireWriter } from '../protocol/wire.js';
import type { Metrics } from './metrics.js';
import { Segments } from './segments.js';

/** Bodies from this size on are not copied into the batch: past it a write of its own costs less than the copy. */
const COPY_LIMIT = 16 * 1024;
/** Text bodies up to this many code units are encoded into the batch; they fit a frame however many bytes they take. */
const INLINE_TEXT = 1024;
/** A batch of this size leaves at once, without waiting for the end of the turn. */
const FLUSH_SIZE = 64 * 1024;
/** Above this many bytes that the socket has not taken, publishers are asked to wait. */
const HIGH_WATER_MARK = 1024 * 1024;

/** Holds back what it has to say until the batch leaves. */
export interface LateWriter {
  writeLate(): void;
}

export class Outbox {
  readonly #socket: Writable;
  readonly #metrics: Metrics;
  readonly #segments: Segments | undefined;
  readonly #writer: WireWriter;
  /** Finished pieces of the batch, before the writer's own. */
  #pieces: Uint8Array[] = [];
  #pieceBytes = 0;
  /** Bytes that the socket had not taken when it was last written to; they only get fewer until then. */
  #untaken = 0;
  #late: LateWriter[] = [];
  #scheduled = false;
  #frameMax = 0;
  /** When bytes last left, by `performance.now()`. */
  #wroteAt = performance.now();
  #drainWaiters: { resolve: () => void; reject: (error: unknown) => void }[] = [];
  #ended: unknown;

  /**
   * @param isSocket - the transport has done with bytes when none is left to write, as sockets have. What is only passed on in
   * memory, the other end may still look at.
   */
  constructor(socket: Writable, metrics: Metrics, isSocket: boolean) {
    this.#socket = socket;
    this.#metrics = metrics;
    this.#segments = isSocket ? new Segments() : undefined;
    this.#writer = new WireWriter(undefined, this.#segments);
    socket.on('drain', () => {
      this.#announceDrained();
    });
  }

  /** The negotiated frame_max; 0 for none. */
  set frameMax(frameMax: number) {
    this.#frameMax = frameMax;
  }

  get wroteAt(): number {
    return this.#wroteAt;
  }

  /** Bytes that the operating system has not taken yet. */
  get backlog(): number {
    return this.#pieceBytes + this.#writer.length + this.#socket.writableLength;
  }

  /** Throws `INVALID_ARGUMENT`, with nothing written, for values that the method cannot carry. */
  method<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): void {
    writeMethodFrame(this.#writer, this.#frameMax, channel, name, args);
    this.#schedule();
  }

  /**
   * basic.publish with its content; says whether to keep writing. A body of bytes must not change before it has left. Throws
   * like `method`.
   */
  publish(
    channel: number,
    exchange: string,
    routingKey: string | Uint8Array,
    mandatory: boolean,
    properties: EchoingProperties,
    body: string | Uint8Array,
  ): boolean {
    const writer = this.#writer;
    if (typeof body === 'string' && body.length <= INLINE_TEXT) {
      const sizeAt = writePublishHead(writer, this.#frameMax, channel, exchange, routingKey, mandatory, properties, 0);
      if (body !== '') this.#shortText(channel, sizeAt, body);
    } else {
      const bytes = typeof body === 'string' ? Buffer.from(body) : body;
      const size = bytes.length;
      writePublishHead(writer, this.#frameMax, channel, exchange, routingKey, mandatory, properties, size);
      this.#body(channel, bytes);
    }
    this.#schedule();
    return this.#pieceBytes + writer.length + this.#untaken < HIGH_WATER_MARK;
  }

  /** A body that is written as it is encoded, so that its size is known only after that. */
  #shortText(channel: number, sizeAt: number, body: string): void {
    const writer = this.#writer;
    writeBodyFrameHead(writer, channel, 0);
    const frameSizeAt = writer.length - 4;
    const size = writer.text(body);
    patchBodySize(writer, sizeAt, size);
    writer.patchLong(frameSizeAt, size);
    writeFrameEnd(writer);
  }

  #body(channel: number, body: Uint8Array): void {
    const writer = this.#writer;
    const limit = payloadLimit(this.#frameMax);
    for (let start = 0; start < body.length; start += limit) {
      const part = start === 0 && body.length <= limit ? body : body.subarray(start, start + limit);
      writeBodyFrameHead(writer, channel, part.length);
      if (part.length < COPY_LIMIT) {
        writer.bytes(part);
      } else {
        this.#keep(writer.take());
        this.#keep(part);
      }
      writeFrameEnd(writer);
    }
  }

  /** basic.ack. */
  ack(channel: number, deliveryTag: number, multiple: boolean): void {
    writeAck(this.#writer, channel, deliveryTag, multiple);
    this.#schedule();
  }

  /** Has `late` write what it holds back when the batch leaves, at the end of this turn. */
  writeLate(late: LateWriter): void {
    this.#late.push(late);
    this.#schedule();
  }

  heartbeat(): void {
    writeHeartbeat(this.#writer);
    this.flush();
  }

  raw(bytes: Uint8Array): void {
    this.#writer.bytes(bytes);
    this.flush();
  }

  /** Writes the batch now. */
  flush(): void {
    if (this.#late.length > 0) this.#writeLate();
    this.#scheduled = false;
    if (this.#writer.length > 0) this.#keep(this.#writer.take());
    const pieces = this.#pieces;
    if (pieces.length === 0 || this.#ended !== undefined) return;
    this.#pieces = [];
    this.#metrics.bytesSent += this.#pieceBytes;
    this.#pieceBytes = 0;
    this.#wroteAt = performance.now();
    const socket = this.#socket;
    if (pieces.length === 1) {
      socket.write(pieces[0]);
    } else {
      // Corked writes leave together, as one writev.
      socket.cork();
      for (const piece of pieces) socket.write(piece);
      socket.uncork();
    }
    this.#untaken = socket.writableLength;
    if (this.#untaken === 0) this.#segments?.allTaken();
    this.#writer.freshen();
  }

  #writeLate(): void {
    const late = this.#late;
    this.#late = [];
    for (const writer of late) writer.writeLate();
  }

  /** Resolves when the backlog is below the high-water mark; rejects with the reason when the connection ends first. */
  async drained(): Promise<void> {
    if (this.#ended !== undefined) throw this.#ended as Error;
    this.#untaken = this.#socket.writableLength;
    if (this.backlog < HIGH_WATER_MARK) return;
    this.flush();
    if (!this.#socket.writableNeedDrain) return;
    await new Promise<void>((resolve, reject) => {
      this.#drainWaiters.push({ resolve, reject });
    });
  }

  /** Drops what is not written and ends every wait with `reason`. */
  end(reason: unknown): void {
    this.#ended = reason;
    this.#pieces = [];
    this.#late = [];
    const waiters = this.#drainWaiters;
    this.#drainWaiters = [];
    for (const waiter of waiters) waiter.reject(reason);
  }

  #announceDrained(): void {
    this.#untaken = 0;
    // Pieces of a segment that the writer has left may still wait for the end of the turn.
    if (this.#pieces.length === 0) this.#segments?.allTaken();
    const waiters = this.#drainWaiters;
    this.#drainWaiters = [];
    for (const waiter of waiters) waiter.resolve();
  }

  #keep(piece: Uint8Array): void {
    this.#pieces.push(piece);
    this.#pieceBytes += piece.length;
  }

  readonly #flushScheduled = (): void => {
    if (this.#scheduled) this.flush();
  };

  readonly #flushNextTick = (): void => {
    process.nextTick(this.#flushScheduled);
  };

  #schedule(): void {
    if (this.#pieceBytes + this.#writer.length >= FLUSH_SIZE) {
      this.flush();
    } else if (!this.#scheduled) {
      this.#scheduled = true;
      queueMicrotask(this.#flushNextTick);
    }
  }
}
