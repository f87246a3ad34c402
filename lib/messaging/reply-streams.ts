/**
 * The streams of replies that handlers of one connection send: each value a reply with its number, and a last one that says so. The
 * channel listens to requesters who want no more. What is written into a reply is the `replier`'s.
 */
import { randomUUID } from 'node:crypto';
import { types } from 'node:util';
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { ReplyOptions } from '../client/channel-options.js';
import type { ConfirmChannel } from '../client/channel.js';
import { quietly } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { orAborted } from '../client/wait.js';
import { AmqpError } from '../errors.js';
import type { DeliveryScope } from './delivery.js';
import { ANNOUNCEMENT, placeHeaders, stoppedStream } from './reply-format.js';

const DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to';
/** So many replies of one stream may be unconfirmed; a handler that has more to say is asked for it later. */
const WINDOW = 64;
/** How long a stream may run before it says whom to tell that nobody wants it, in milliseconds: most are over by then. */
const ANNOUNCED_AFTER = 1_000;
/** Between two looks whether a requester is still there, in milliseconds. */
const CHECK_INTERVAL = 10_000;

/** A stream that is sent. */
interface Run {
  readonly stop: AbortController;
  isAskedToStop: boolean;
}

/** A reply that is written and not yet sent. */
export interface WrittenReply {
  readonly body: string | Uint8Array;
  readonly properties: ReplyOptions;
}

export interface StreamOptions {
  readonly request: Message;
  readonly values: AsyncIterable<unknown>;
  readonly write: (value: unknown) => WrittenReply | Promise<WrittenReply>;
  readonly writeError: (error: unknown) => WrittenReply;
  /** The broker does not say when the requester is gone. */
  readonly isDirect: boolean;
  readonly life: DeliveryScope;
}

const END: WrittenReply = { body: '', properties: {} };

/** How a stream ended: to its end, because nobody wants more, or with an error of the handler that the requester was told. */
export type StreamEnd =
  | { readonly kind: 'complete' }
  | { readonly kind: 'stopped'; readonly why: AmqpError }
  | { readonly kind: 'failed'; readonly error: unknown };

export class ReplyStreams {
  readonly #channel: AmqpChannel;
  readonly #running = new Map<string, Run>();
  readonly #listening = new WeakSet<ConfirmChannel>();

  constructor(channel: AmqpChannel) {
    this.#channel = channel;
  }

  /** Sends all values. Rejects with what the handler failed with before the first of them: then nothing was sent. */
  async send({ request, values, write, writeError, isDirect, life }: StreamOptions): Promise<StreamEnd> {
    const stream = randomUUID();
    const run: Run = { stop: new AbortController(), isAskedToStop: false };
    const { stop } = run;
    const lost = life.controller();
    const over = AbortSignal.any([stop.signal, lost.signal]);
    this.#running.set(stream, run);
    let checks: (() => void) | undefined;
    let iterator: AsyncIterator<unknown> | undefined;
    let isDone = false;
    try {
      over.throwIfAborted();
      iterator = values[Symbol.asyncIterator]();
      const channel = await orAborted(this.#opened(), over);
      const sender = new Sender({ channel, request, stream, isDirect, stop });
      checks = this.#checking(sender, isDirect ? request : undefined, stop);
      try {
        for (;;) {
          const next = await orAborted(iterator.next(), over);
          isDone = next.done === true;
          if (isDone) break;
          const written = write(next.value);
          await orAborted(sender.send(types.isPromise(written) ? await orAborted(written, over) : written), over);
        }
      } catch (error) {
        // So that its requester waits for nothing more.
        if (run.isAskedToStop) void sender.end(END);
        if (over.aborted || sender.count === 0) throw error;
        await orAborted(sender.end(writeError(error)), over);
        return { kind: 'failed', error };
      }
      await orAborted(sender.end(END), over);
      return { kind: 'complete' };
    } catch (error) {
      if (!over.aborted) throw error;
      return { kind: 'stopped', why: over.reason instanceof AmqpError ? over.reason : stopped('it is over', error) };
    } finally {
      if (!isDone) quietly(() => iterator?.return?.());
      this.#running.delete(stream);
      checks?.();
      life.release(lost);
    }
  }

  /** The channel, with a consumer that hears requesters. Its answer is not awaited: a broker that blocks gives none, and it begins in order. */
  async #opened(): Promise<ConfirmChannel> {
    const channel = await this.#channel.opened();
    if (this.#listening.has(channel)) return channel;
    this.#listening.add(channel);
    const onMessage = (message: Message): void => {
      this.#hear(message);
    };
    await channel.basicConsume(DIRECT_REPLY_TO, onMessage, { noAck: true, noWait: true });
    return channel;
  }

  #hear(message: Message): void {
    const stream = stoppedStream(message);
    const run = stream === undefined ? undefined : this.#running.get(stream);
    if (run === undefined) return;
    run.isAskedToStop = true;
    run.stop.abort(stopped('its requester wants no more'));
  }

  /**
   * A requester that died says nothing, and one that stopped listening before it heard of this stream knows nobody to tell. So a stream
   * that is silent says where it hears, over and over; and the address of a direct requester is asked for, as if it were a queue.
   * The function returned ends it.
   */
  #checking(sender: Sender, direct: Message | undefined, stop: AbortController): () => void {
    let count = 0;
    const look = (): void => {
      if (sender.count === count) sender.announce();
      count = sender.count;
      timer = setTimeout(look, CHECK_INTERVAL).unref();
      if (direct === undefined) return;
      void this.#isGone(direct).then((isGone) => {
        if (isGone) stop.abort(stopped('its requester is gone'));
      });
    };
    let timer = setTimeout(look, ANNOUNCED_AFTER).unref();
    return () => {
      clearTimeout(timer);
    };
  }

  async #isGone(request: Message): Promise<boolean> {
    try {
      const channel = await (await this.#channel.connection.opened()).channel();
      try {
        await channel.queueDeclare(request.properties.replyTo, { passive: true });
      } finally {
        await channel.close();
      }
      return false;
    } catch (error) {
      return error instanceof AmqpError && error.replyCode === 404;
    }
  }
}

interface SenderOptions {
  readonly channel: ConfirmChannel;
  readonly request: Message;
  readonly stream: string;
  readonly isDirect: boolean;
  readonly stop: AbortController;
}

/** The replies of one stream on their way. What fails with one of them stops the stream. */
class Sender {
  readonly #options: SenderOptions;
  readonly #unconfirmed: Promise<void>[] = [];
  #number = 0;
  #isAnnouncing = false;

  constructor(options: SenderOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#number;
  }

  /** Resolves when there is room for the next one. */
  async send(reply: WrittenReply): Promise<void> {
    this.#next(reply, false);
    if (this.#unconfirmed.length >= WINDOW) await this.#unconfirmed.shift();
  }

  /** Resolves when all of them are confirmed. */
  async end(reply: WrittenReply): Promise<void> {
    this.#next(reply, true);
    await Promise.all(this.#unconfirmed);
  }

  /** Tells the requester of the stream, without a value. A broker that does not take the last one is not given another. */
  announce(): void {
    if (this.#isAnnouncing) return;
    this.#isAnnouncing = true;
    // Nobody takes it from a queue that nobody reads.
    const properties = { deliveryMode: 1, mandatory: !this.#options.isDirect, expiration: String(CHECK_INTERVAL) };
    void this.#publish({ body: '', properties }, ANNOUNCEMENT, false).then(() => {
      this.#isAnnouncing = false;
    });
  }

  #next(reply: WrittenReply, isEnd: boolean): void {
    this.#number += 1;
    this.#unconfirmed.push(this.#publish(reply, this.#number, isEnd));
  }

  /** Never rejects. */
  #publish({ body, properties }: WrittenReply, number: number, isEnd: boolean): Promise<void> {
    const { channel, request, stream, stop } = this.#options;
    const headers = { ...properties.headers, ...placeHeaders({ stream, number, isEnd }) };
    return channel
      .reply(request, body, { ...properties, headers, replyTo: DIRECT_REPLY_TO })
      .catch((error: unknown) => {
        const { code } = error instanceof AmqpError ? error : {};
        if (code === 'UNROUTABLE') stop.abort(stopped('its requester is gone', error));
        else stop.abort(code === 'MESSAGE_TOO_LARGE' ? error : broken(error));
      });
  }
}

/** The requester is there still, and has to be told. */
function broken(cause: unknown): AmqpError {
  const more = cause instanceof AmqpError ? ` ${cause.message}` : '';
  return new AmqpError('REPLY_LOST', `The stream of replies broke off: one could not be published.${more}`, { cause });
}

function stopped(why: string, cause?: unknown): AmqpError {
  const more = cause instanceof AmqpError ? ` ${cause.message}` : '';
  return new AmqpError('ABORTED', `The stream of replies was stopped: ${why}.${more}`, { cause });
}
