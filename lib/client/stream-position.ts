/**
 * How far a consumer has read a stream, so that it goes on there when it starts over: RabbitMQ keeps no position for consumers of
 * AMQP 0-9-1, and begins where `x-stream-offset` says each time. Plain state; who consumes is `AmqpConsumer`.
 *
 * ```
 *   offset     40     41     42     43     44
 *            answered back answered runs   not delivered yet
 *                      ^ consumes from here                     41 is handed on, 42 and 43 are not, 44 is
 * ```
 *
 * Where nothing is to come again it asks for the last that it had, and hands that on no more: a stream that does not have it is
 * another one, which was declared anew and begins at 0.
 */
import type { FieldTable } from '../protocol/field-table.js';
import { STREAM_OFFSET } from '../protocol/stream-offset.js';
import type { Message } from './message.js';

/** A message that was handed on and is not answered. */
interface Open {
  /** It was put back, or its channel is gone: it has to come again. */
  isBack: boolean;
}

export class StreamPosition {
  readonly #arguments: FieldTable;
  /** When it was to begin, the first time that it then ran; by the clock of this machine. */
  #since: number | undefined;
  #begun = 0;
  /** The one after the highest that came; undefined before the first. */
  #next: bigint | undefined;
  /** In ascending order: what comes again keeps its place. As many as the prefetch says, and those that were put back. */
  readonly #open = new Map<bigint, Open>();
  /** What this start has asked for, and has to come at once; undefined when something came. */
  #awaited: bigint | undefined;
  /** The stream is not the one that the arguments were written for. */
  #isAnew = false;

  /** Undefined for the consumer of a queue of another kind. */
  static of(args: FieldTable | undefined, isStream: boolean): StreamPosition | undefined {
    return isStream || args?.[STREAM_OFFSET] !== undefined ? new StreamPosition(args ?? {}) : undefined;
  }

  private constructor(args: FieldTable) {
    this.#arguments = args;
  }

  /** An offset that the stream has to have, and from which nothing has come yet. */
  get awaited(): bigint | undefined {
    return this.#awaited;
  }

  /** The arguments of the next basic.consume. */
  begin(): FieldTable {
    this.#begun = Date.now();
    this.#awaited = this.#from();
    return { ...this.#arguments, [STREAM_OFFSET]: this.#awaited ?? this.#fromTheStart() };
  }

  /** The broker has said that it consumes. */
  runs(): void {
    this.#since ??= this.#begun;
  }

  get hasRun(): boolean {
    return this.#since !== undefined;
  }

  /** Whether a message is to be handed on; one that was answered before, or still runs, is acknowledged. */
  takes(message: Message): boolean {
    this.#awaited = undefined;
    const offset = offsetOf(message);
    if (offset === undefined || message.settled) return true;
    if (this.#next === undefined || offset >= this.#next) this.#next = offset + 1n;
    else if (this.#open.get(offset)?.isBack !== true) {
      message.ack();
      return false;
    }
    const open: Open = { isBack: false };
    this.#open.set(offset, open);
    message.hear((answer) => {
      // It may have come again meanwhile: then that one counts.
      if (this.#open.get(offset) !== open) return;
      if (answer === 'requeue') open.isBack = true;
      else this.#open.delete(offset);
    });
    return true;
  }

  /** The channel is gone: what is not answered comes again, unless its handler still answers it before. */
  lost(): void {
    for (const open of this.#open.values()) open.isBack = true;
  }

  /** It is another stream: nothing of it was read. */
  forget(): void {
    this.#next = undefined;
    this.#awaited = undefined;
    this.#open.clear();
    this.#isAnew = true;
  }

  #from(): bigint | undefined {
    if (this.#next === undefined) return undefined;
    for (const [offset, { isBack }] of this.#open) if (isBack) return offset;
    return this.#next - 1n;
  }

  /** Nothing came so far, or nothing of this stream. */
  #fromTheStart(): FieldTable[string] {
    const offset = this.#arguments[STREAM_OFFSET] ?? 'next';
    if (offset === 'next' || offset === 'last') {
      if (this.#since === undefined) return offset;
      // What was published since it first ran. How far back is by the broker's clock, and in whole seconds.
      return `${Math.max(0, Math.ceil((Date.now() - this.#since) / 1000)) + 1}s`;
    }
    return this.#isAnew && (typeof offset === 'number' || typeof offset === 'bigint') ? 'first' : offset;
  }
}

function offsetOf(message: Message): bigint | undefined {
  try {
    const offset = message.properties.headers?.[STREAM_OFFSET];
    return typeof offset === 'number' || typeof offset === 'bigint' ? BigInt(offset) : undefined;
  } catch {
    // What cannot be decoded is its receiver's to tell.
    return undefined;
  }
}
