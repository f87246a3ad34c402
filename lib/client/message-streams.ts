/** The loops over messages of one channel: those with a consumer of their own, and the one for consumers without a callback. */
import type { AmqpError } from '../errors.js';
import type { ConsumeOptions, ConsumerCallbacks, RequestOptions, StreamOptions } from './channel-options.js';
import { type MessageSource, MessageStream } from './message-stream.js';

/** What loops need of their channel. */
interface ConsumingChannel {
  readonly isOpen: boolean;
  basicQos(prefetchCount: number, options?: RequestOptions): Promise<void>;
  basicConsume(queue: string, consumer: ConsumerCallbacks, options: ConsumeOptions): Promise<string>;
  basicCancel(consumerTag: string): Promise<void>;
}

/** The stream of all consumers without a callback, and which they are. */
interface Pulled {
  readonly stream: MessageStream;
  readonly consumerTags: Set<string>;
}

export class MessageStreams {
  readonly #channel: ConsumingChannel;
  readonly #live = new Set<MessageStream>();
  #pulled: Pulled | undefined;

  constructor(channel: ConsumingChannel) {
    this.#channel = channel;
  }

  /** A stream with a consumer of its own, which starts when the loop does. */
  of(queue: string, { prefetch = 50, signal, ...options }: StreamOptions): MessageStream {
    let consumerTag: string | undefined;
    const stream: MessageStream = this.#open({
      start: async () => {
        // Sent together, so that no other consumer's prefetch comes between.
        const bounded = this.#channel.basicQos(prefetch, { signal });
        const started = this.#channel.basicConsume(queue, this.#callbacksOf(stream), { ...options, signal });
        [, consumerTag] = await Promise.all([bounded, started]);
      },
      stop: async () => {
        if (consumerTag !== undefined && this.#channel.isOpen) await this.#channel.basicCancel(consumerTag);
      },
    });
    stream.endOn(signal);
    return stream;
  }

  /** The stream of all consumers without a callback. It ends with the last of them, and may be looped over still. */
  ofAll(signal?: AbortSignal): MessageStream {
    const { stream } = this.#pull();
    if (signal !== undefined) stream.endOn(signal);
    return stream;
  }

  /** The callbacks of a consumer that has none of its own. */
  forConsumer(consumerTag: string): ConsumerCallbacks {
    // The consumers before this one have ended, and their stream with them.
    if (this.#pulled?.stream.isEnded === true) this.#pulled = undefined;
    const { stream, consumerTags } = this.#pull();
    consumerTags.add(consumerTag);
    return {
      ...this.#callbacksOf(stream),
      onCancel: () => {
        this.cancelled(consumerTag);
      },
    };
  }

  /** A consumer has ended. */
  cancelled(consumerTag: string): void {
    if (this.#pulled?.consumerTags.delete(consumerTag) === true && this.#pulled.consumerTags.size === 0) {
      this.#ended(this.#pulled.stream);
    }
  }

  /** The channel has ended: in order, or because of an error. */
  end(error: AmqpError | undefined): void {
    for (const stream of this.#live) stream.end(error);
  }

  #pull(): Pulled {
    if (this.#pulled?.stream.isSpent === false) return this.#pulled;
    const consumerTags = new Set<string>();
    const stream = this.#open({
      start: () => Promise.resolve(),
      stop: async () => {
        if (this.#channel.isOpen) await Promise.all([...consumerTags].map((tag) => this.#channel.basicCancel(tag)));
      },
    });
    this.#pulled = { stream, consumerTags };
    return this.#pulled;
  }

  #open(source: MessageSource): MessageStream {
    const stream: MessageStream = new MessageStream({
      start: () => source.start(),
      stop: async () => {
        this.#live.delete(stream);
        await source.stop();
      },
    });
    this.#live.add(stream);
    return stream;
  }

  #callbacksOf(stream: MessageStream): ConsumerCallbacks {
    return {
      onMessage: (message) => {
        stream.push(message);
      },
      onCancel: () => {
        this.#ended(stream);
      },
    };
  }

  /** Its last consumer was cancelled; a loop that is never left must not keep it listed. */
  #ended(stream: MessageStream): void {
    this.#live.delete(stream);
    stream.end(undefined);
  }
}
