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
import { placeHeaders, stoppedStream } from './reply-format.js';

const DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to';
/** So many replies of one stream may be unconfirmed; a handler that has more to say is asked for it later. */
const WINDOW = 64;
/** Between two looks whether a requester is still there that the broker does not tell of, in milliseconds. */
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
  readonly #listening = new WeakMap<ConfirmChannel, Promise<unknown>>();

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
    const checks = isDirect ? this.#checking(request, stop) : undefined;
    let iterator: AsyncIterator<unknown> | undefined;
    let isDone = false;
    try {
      over.throwIfAborted();
      iterator = values[Symbol.asyncIterator]();
      const channel = await orAborted(this.#opened(), over);
      const sender = new Sender(channel, request, stream, stop);
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
      clearInterval(checks);
      life.release(lost);
    }
  }

  /** The channel, once requesters can be heard on it. */
  async #opened(): Promise<ConfirmChannel> {
    const channel = await this.#channel.opened();
    let listening = this.#listening.get(channel);
    if (listening === undefined) {
      const onMessage = (message: Message): void => {
        this.#hear(message);
      };
      listening = channel.basicConsume(DIRECT_REPLY_TO, onMessage, { noAck: true });
      this.#listening.set(channel, listening);
    }
    await listening;
    return channel;
  }

  #hear(message: Message): void {
    const stream = stoppedStream(message);
    const run = stream === undefined ? undefined : this.#running.get(stream);
    if (run === undefined) return;
    run.isAskedToStop = true;
    run.stop.abort(stopped('its requester wants no more'));
  }

  /** A requester that died says nothing: its address is asked for, as if it were a queue. */
  #checking(request: Message, stop: AbortController): NodeJS.Timeout {
    const timer = setInterval(() => {
      void this.#isGone(request).then((isGone) => {
        if (isGone) stop.abort(stopped('its requester is gone'));
      });
    }, CHECK_INTERVAL);
    return timer.unref();
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

/** The replies of one stream on their way. What fails with one of them stops the stream. */
class Sender {
  readonly #channel: ConfirmChannel;
  readonly #request: Message;
  readonly #stream: string;
  readonly #stop: AbortController;
  readonly #unconfirmed: Promise<void>[] = [];
  #number = 0;

  constructor(channel: ConfirmChannel, request: Message, stream: string, stop: AbortController) {
    this.#channel = channel;
    this.#request = request;
    this.#stream = stream;
    this.#stop = stop;
  }

  get count(): number {
    return this.#number;
  }

  /** Resolves when there is room for the next one. */
  async send(reply: WrittenReply): Promise<void> {
    this.#publish(reply, false);
    if (this.#unconfirmed.length >= WINDOW) await this.#unconfirmed.shift();
  }

  /** Resolves when all of them are confirmed. */
  async end(reply: WrittenReply): Promise<void> {
    this.#publish(reply, true);
    await Promise.all(this.#unconfirmed);
  }

  #publish({ body, properties }: WrittenReply, isEnd: boolean): void {
    this.#number += 1;
    const place = placeHeaders({ stream: this.#stream, number: this.#number, isEnd });
    const options = { ...properties, headers: { ...properties.headers, ...place }, replyTo: DIRECT_REPLY_TO };
    this.#unconfirmed.push(
      this.#channel.reply(this.#request, body, options).catch((error: unknown) => {
        const { code } = error instanceof AmqpError ? error : {};
        if (code === 'UNROUTABLE') this.#stop.abort(stopped('its requester is gone', error));
        else this.#stop.abort(code === 'MESSAGE_TOO_LARGE' ? error : broken(error));
      }),
    );
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
