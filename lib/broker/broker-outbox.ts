/**
 * What a connection of the broker has to write, gathered: everything said in one turn of the event loop leaves together.
 * It knows how much the peer has not taken yet, which is what bounds the memory of a connection whose client does not read:
 *
 * - over `HIGH_WATER_MARK` the connection's consumers get nothing and its requests are not read, until all has left;
 * - what is said all the same (replies of others, cancel notifications) may add `EXCESS_LIMIT`; then the connection ends;
 * - a peer that takes nothing at all for `SEND_TIMEOUT` is cut off, as RabbitMQ's `send_timeout` has it.
 */
import type { Writable } from 'node:stream';
import {
  FRAME_HEADER,
  FRAME_METHOD,
  payloadLimit,
  writeBodyFrameHead,
  writeFrameEnd,
  writeHeartbeat,
  writeMethodFrame,
} from '../protocol/frame.js';
import { METHODS, type MethodArgs, type MethodName, methodId, writeMethod } from '../protocol/methods.js';
import { WireWriter } from '../protocol/wire.js';
import type { BrokerMessage } from './broker-message.js';

/** Bodies from this size on are handed over as they are. */
const COPY_LIMIT = 16 * 1024;
/** A batch of this size leaves at once. */
const FLUSH_SIZE = 64 * 1024;
const HIGH_WATER_MARK = 1024 * 1024;
const EXCESS_LIMIT = 64 * 1024 * 1024;
/** Milliseconds. */
const SEND_TIMEOUT = 30_000;

const BASIC_DELIVER = methodId('basic.deliver');
/** Class id and the weight, which 0-9-1 does not use. */
const BASIC_CONTENT = METHODS['basic.deliver'].id[0] << 16;

/** Who owns an outbox. */
export interface OutboxOwner {
  /** The batch is about to leave: what was held back is to be said now. */
  beforeFlush(): void;
  /** Bytes have left, or are about to. */
  moved(): void;
  /** More waits than may, and reading is to stop until `drained`. */
  congested(): void;
  drained(): void;
  /** The peer takes nothing, and there is too much to wait for it. */
  overflowed(): void;
}

export class BrokerOutbox {
  /** Milliseconds by which everything leaves late. */
  latency: () => number = () => 0;
  /** The negotiated frame_max. */
  frameMax = 131_072;
  /** When bytes last left, by `performance.now()`. */
  wroteAt = performance.now();
  readonly #socket: Writable;
  readonly #owner: OutboxOwner;
  readonly #writer = new WireWriter();
  #pieces: Uint8Array[] = [];
  #pieceBytes = 0;
  #isScheduled = false;
  /** Batches that leave later, for the sake of latency. */
  #late: { readonly pieces: readonly Uint8Array[]; readonly bytes: number; readonly at: number }[] = [];
  #lateBytes = 0;
  #lateTimer: NodeJS.Timeout | undefined;
  #isCongested = false;
  #excess = 0;
  #stalled: NodeJS.Timeout | undefined;
  /** Bytes that the socket was given. */
  #given = 0;
  #hasEnded = false;
  #endsAfterwards = false;

  constructor(socket: Writable, owner: OutboxOwner) {
    this.#socket = socket;
    this.#owner = owner;
    socket.on('drain', () => {
      owner.moved();
      this.#endCongestion();
    });
  }

  /** Whether so much waits that consumers have to. */
  get isCongested(): boolean {
    return this.#isCongested;
  }

  /** Bytes that the peer or its operating system has not taken. */
  get backlog(): number {
    return this.#pieceBytes + this.#writer.length + this.#lateBytes + this.#socket.writableLength;
  }

  method<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): void {
    const before = this.#begin();
    writeMethodFrame(this.#writer, 0, channel, name, args);
    this.#wrote(before);
  }

  /** basic.return and basic.get-ok, with the message. */
  content<N extends 'basic.return' | 'basic.get-ok'>(
    channel: number,
    name: N,
    args: MethodArgs<N>,
    message: BrokerMessage,
  ): void {
    const before = this.#begin();
    const writer = this.#writer;
    writer.octet(FRAME_METHOD);
    writer.short(channel);
    writer.measured(() => writeMethod(writer, name, args));
    writer.octet(0xce);
    this.#message(channel, message);
    this.#wrote(before);
  }

  /** basic.deliver by hand, which is written more than all the others. */
  deliver(
    channel: number,
    consumerTag: string,
    deliveryTag: number,
    redelivered: boolean,
    message: BrokerMessage,
  ): void {
    const before = this.#begin();
    const writer = this.#writer;
    const frame = writer.length;
    writer.octet(FRAME_METHOD);
    writer.short(channel);
    writer.long(0);
    writer.long(BASIC_DELIVER);
    writer.shortstr(consumerTag, 'consumerTag');
    writer.longlong(deliveryTag);
    writer.octet(redelivered ? 1 : 0);
    writer.shortstr(message.exchange, 'exchange');
    writer.shortstr(message.routingKey, 'routingKey');
    writer.patchLong(frame + 3, writer.length - frame - 7);
    writer.octet(0xce);
    this.#message(channel, message);
    this.#wrote(before);
  }

  heartbeat(): void {
    writeHeartbeat(this.#writer);
    this.flush();
  }

  raw(bytes: Uint8Array): void {
    this.#writer.bytes(bytes);
    this.flush();
  }

  /** The content header and the body. RabbitMQ too sends headers that are larger than frame_max: they cannot be cut. */
  #message(channel: number, { propertyBytes, body }: BrokerMessage): void {
    const writer = this.#writer;
    writer.octet(FRAME_HEADER);
    writer.short(channel);
    writer.long(12 + propertyBytes.length);
    writer.long(BASIC_CONTENT);
    writer.longlong(body.length);
    writer.bytes(propertyBytes);
    writeFrameEnd(writer);
    const limit = payloadLimit(this.frameMax);
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

  #begin(): number {
    return this.#pieceBytes + this.#writer.length;
  }

  #wrote(before: number): void {
    const pending = this.#pieceBytes + this.#writer.length;
    if (this.#isCongested) {
      this.#excess += pending - before;
      if (this.#excess > EXCESS_LIMIT) this.#owner.overflowed();
    } else if (this.backlog > HIGH_WATER_MARK) {
      this.#congest();
    }
    if (pending >= FLUSH_SIZE) this.flush();
    else this.schedule();
  }

  /** Has the batch leave at the end of this turn. */
  schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(this.#flushNextTick);
  }

  /** Writes the batch now. */
  flush(): void {
    this.#owner.beforeFlush();
    this.#isScheduled = false;
    if (this.#writer.length > 0) this.#keep(this.#writer.take());
    const pieces = this.#pieces;
    const bytes = this.#pieceBytes;
    this.#pieces = [];
    this.#pieceBytes = 0;
    if (this.#hasEnded) return;
    if (pieces.length > 0) {
      const latency = this.latency();
      if (latency > 0 || this.#late.length > 0) this.#writeLater(pieces, bytes, latency);
      else this.#write(pieces, bytes);
    }
    this.#writer.freshen();
    this.#afterWrite();
  }

  #write(pieces: readonly Uint8Array[], bytes: number): void {
    const socket = this.#socket;
    this.wroteAt = performance.now();
    if (socket.destroyed || socket.writableEnded) return;
    this.#given += bytes;
    if (pieces.length === 1) {
      socket.write(pieces[0]);
    } else {
      socket.cork();
      for (const piece of pieces) socket.write(piece);
      socket.uncork();
    }
    this.#owner.moved();
  }

  #writeLater(pieces: readonly Uint8Array[], bytes: number, latency: number): void {
    // Later than what waits already, so that a latency that is taken back turns no order around.
    const at = Math.max(performance.now() + latency, this.#late.at(-1)?.at ?? 0);
    this.#late.push({ pieces, bytes, at });
    this.#lateBytes += bytes;
    this.#lateTimer ??= setTimeout(() => this.#writeLate(), latency);
  }

  #writeLate(): void {
    this.#lateTimer = undefined;
    const now = performance.now();
    for (let next = this.#late[0]; next !== undefined; next = this.#late[0]) {
      // A timer may be a little early.
      if (next.at > now + 1) {
        this.#lateTimer = setTimeout(() => this.#writeLate(), next.at - now);
        return;
      }
      this.#late.shift();
      this.#lateBytes -= next.bytes;
      if (this.#hasEnded) return;
      this.#write(next.pieces, next.bytes);
    }
    this.#afterWrite();
  }

  #afterWrite(): void {
    if (this.#endsAfterwards && this.#late.length === 0 && !this.#hasEnded) this.#socket.end();
    this.#endCongestion();
  }

  /** Writes what there is, also what latency would have leave later. */
  hurry(): void {
    clearTimeout(this.#lateTimer);
    this.#lateTimer = undefined;
    for (const { pieces, bytes } of this.#late.splice(0)) this.#write(pieces, bytes);
    this.#lateBytes = 0;
    this.flush();
  }

  /** Writes what there is, then says the end. */
  endAfterwards(): void {
    this.#endsAfterwards = true;
    this.flush();
  }

  /** Drops what is not written. */
  end(): void {
    this.#hasEnded = true;
    this.#pieces = [];
    this.#pieceBytes = 0;
    this.#late = [];
    this.#lateBytes = 0;
    clearTimeout(this.#lateTimer);
    clearTimeout(this.#stalled);
  }

  #congest(): void {
    this.#isCongested = true;
    this.#excess = 0;
    this.#awaitProgress(this.#taken);
    this.#owner.congested();
  }

  /** Cuts the peer off when it has taken nothing since the last look. */
  #awaitProgress(before: number): void {
    this.#stalled = setTimeout(() => {
      const now = this.#taken;
      // What latency holds back the peer cannot take.
      if (now > before || this.#socket.writableLength === 0) this.#awaitProgress(now);
      else this.#owner.overflowed();
    }, SEND_TIMEOUT);
    this.#stalled.unref();
  }

  /** Bytes that the peer has taken. */
  get #taken(): number {
    return this.#given - this.#socket.writableLength;
  }

  /**
   * Asked on every drain and after every write: whichever of the two empties the last of late batches, pieces and socket comes
   * last, and there is no other event after it.
   */
  #endCongestion(): void {
    if (!this.#isCongested || this.#hasEnded) return;
    if (this.#lateBytes > 0 || this.#pieceBytes > 0 || this.#writer.length > 0) return;
    if (this.#socket.writableNeedDrain) return;
    this.#isCongested = false;
    clearTimeout(this.#stalled);
    this.#owner.drained();
  }

  #keep(piece: Uint8Array): void {
    this.#pieces.push(piece);
    this.#pieceBytes += piece.length;
  }

  readonly #flushScheduled = (): void => {
    if (this.#isScheduled) this.flush();
  };

  readonly #flushNextTick = (): void => {
    // After the promise jobs of this turn, as in the client's outbox: what they set off leaves with this batch.
    process.nextTick(this.#flushScheduled);
  };
}
