/**
 * Messages to pull instead of callbacks to be called: an async iterable between a channel that pushes and a loop that
 * pulls. How its consumers start and end is the channel's.
 */
import { AmqpError } from '../errors.js';
import type { Message } from './message.js';
import { whenFired } from './signals.js';

/** What a stream asks of its channel. */
export interface MessageSource {
  /** Called before the first message is awaited. */
  start(): Promise<void>;
  /** The loop was left: end the consumers. */
  stop(): Promise<void>;
}

type End = { readonly error: AmqpError | undefined };

/** Bodies that may wait to be pulled, in bytes: above it the connection stops reading, below half of it it goes on. */
const MOST_WAITING = 16 * 1024 * 1024;

/**
 * Ends when its consumer is cancelled, rejects when the channel dies, and cancels when the loop is left. What was delivered
 * and not yet pulled goes back to the queue then. The prefetch of the consumer bounds what waits here; without one, 16 MiB of
 * bodies do: then the whole connection reads nothing until the loop has caught up.
 */
export class MessageStream implements AsyncIterableIterator<Message>, AsyncDisposable {
  readonly #source: MessageSource;
  readonly #waiting: Message[] = [];
  #waitingBytes = 0;
  /** Has the connection read again. */
  #readOn: (() => void) | undefined;
  #started: Promise<void> | undefined;
  #stopped: Promise<void> | undefined;
  #end: End | undefined;
  #wake: (() => void) | undefined;
  #unlisten: (() => void) | undefined;

  /** @internal Made by `Channel.consume()` and `Queue.consume()`. */
  constructor(source: MessageSource) {
    this.#source = source;
  }

  /** True once no more messages come; those that came may still be pulled. */
  get isEnded(): boolean {
    return this.#end !== undefined;
  }

  /** @internal It has ended, and there is nothing left to pull. */
  get isSpent(): boolean {
    return this.#end !== undefined && this.#waiting.length === 0;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Message, undefined>> {
    if (this.#end === undefined) {
      this.#started ??= this.#source.start();
      try {
        await this.#started;
      } catch (error) {
        // A loop that cannot begin is not left by `return()`.
        this.#unlisten?.();
        throw error;
      }
    }
    for (;;) {
      const message = this.#waiting.shift();
      if (message !== undefined) {
        this.#waitingBytes -= message.size;
        if (this.#waitingBytes < MOST_WAITING / 2) this.#readAgain();
        return { done: false, value: message };
      }
      if (this.#end !== undefined) {
        if (this.#end.error !== undefined) throw this.#end.error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => {
        const others = this.#wake;
        this.#wake = () => {
          others?.();
          resolve();
        };
      });
    }
  }

  /** Leaves the loop: the consumer is cancelled. */
  async return(): Promise<IteratorResult<Message, undefined>> {
    this.end(undefined);
    this.#stopped ??= this.#stop();
    await this.#stopped;
    return { done: true, value: undefined };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  /** @internal */
  push(message: Message): void {
    // A message that crosses the cancel: somebody else shall have it.
    if (this.#stopped !== undefined) {
      message.nack();
      return;
    }
    this.#waiting.push(message);
    this.#waitingBytes += message.size;
    if (this.#waitingBytes > MOST_WAITING) this.#readOn ??= message.pauseReading();
    this.#wakeUp();
  }

  /** @internal Forgets what waits: its channel is gone, and the broker delivers it again. */
  drop(): void {
    this.#waiting.length = 0;
    this.#waitingBytes = 0;
    this.#readAgain();
  }

  /** @internal Ends with `ABORTED` when the signal fires, and cancels the consumer. */
  endOn(signal: AbortSignal | undefined): void {
    const onAbort = (): void => {
      this.end(new AmqpError('ABORTED', 'The loop over messages was aborted.', { cause: signal?.reason }));
      void this.return();
    };
    if (signal?.aborted === true) onAbort();
    else if (signal !== undefined) this.#unlisten = whenFired(signal, onAbort);
  }

  /** @internal No more messages come: in order, or because of an error. */
  end(error: AmqpError | undefined): void {
    this.#end ??= { error };
    this.#unlisten?.();
    this.#wakeUp();
  }

  async #stop(): Promise<void> {
    const left = this.#waiting.splice(0);
    // Before the broker is asked for anything: its answer has to be read.
    this.#readAgain();
    try {
      await this.#started;
      if (this.#started !== undefined) await this.#source.stop();
    } catch {
      // It never started, or the channel is gone and the consumer with it.
    }
    // Before, they would be delivered to the consumer again.
    for (const message of left) message.nack();
  }

  #readAgain(): void {
    this.#readOn?.();
    this.#readOn = undefined;
  }

  #wakeUp(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}
