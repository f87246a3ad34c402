/** A message as it came from a queue, and the one answer that it may be given. */
import { AmqpError } from '../errors.js';
import type { Content } from '../protocol/content.js';
import type { BasicProperties } from '../protocol/properties.js';

/** Where a message's answer goes. Of a channel that has ended every answer is a harmless no-op. */
export interface Settler {
  /** Says whether the answer was sent; `method` is how anything but `'ack'` is said. */
  settle(answer: Answer, deliveryTag: number, method?: 'basic.nack' | 'basic.reject'): boolean;
  /** Has the connection read nothing more; the function returned has it read on. */
  pauseReading(): () => void;
}

/** Acknowledge, give back to the queue, or refuse for good (dead-letter, where the queue has a dead-letter exchange). */
export type Answer = 'ack' | 'requeue' | 'discard';

/** What `basic.deliver` and `basic.get-ok` have in common. */
export interface MessageEnvelope {
  readonly deliveryTag: number;
  readonly redelivered: boolean;
  readonly exchange: string;
  readonly routingKey: string;
}

/** A received message. */
export class Message {
  /** The consumer that it came to; undefined when it was fetched with `basicGet`. */
  readonly consumerTag: string | undefined;
  /** Its number on its channel, from 1. */
  readonly deliveryTag: number;
  /** True when it was delivered before: to this consumer or another one. */
  readonly redelivered: boolean;
  /** The exchange that it was published to; empty for the default exchange. */
  readonly exchange: string;
  readonly routingKey: string;
  readonly #content: Content;
  #settler: Settler;
  /** What it was answered with; of a consumer that need not answer, `'ack'`. */
  #answer: Answer | undefined;

  constructor(
    envelope: MessageEnvelope,
    content: Content,
    settler: Settler,
    consumerTag: string | undefined,
    noAck: boolean,
  ) {
    this.consumerTag = consumerTag;
    this.deliveryTag = envelope.deliveryTag;
    this.redelivered = envelope.redelivered;
    this.exchange = envelope.exchange;
    this.routingKey = envelope.routingKey;
    this.#content = content;
    this.#settler = settler;
    this.#answer = noAck ? 'ack' : undefined;
  }

  /** The bytes of the body. */
  get body(): Buffer {
    return this.#content.body;
  }

  /** The same as `body`. */
  get payload(): Buffer {
    return this.#content.body;
  }

  /** The body as UTF-8; cheaper than `body.toString()`. */
  get text(): string {
    return this.#content.text;
  }

  /** Bytes of the body. */
  get size(): number {
    return this.#content.size;
  }

  /** Decoded when first read. Throws `UNDECODABLE` when the publisher wrote property bytes that make no sense. */
  get properties(): BasicProperties {
    return this.#content.properties;
  }

  /** @internal A property as the bytes that came. Throws like `properties`, though not over headers that make no sense. */
  bytesOf(property: 'correlationId' | 'replyTo'): Buffer | undefined {
    return this.#content.bytesOf(property);
  }

  /** @internal Flags and values of the properties as they came. */
  get propertyBytes(): Buffer {
    return this.#content.propertyBytes;
  }

  /** @internal Has the connection that it came over read nothing more, until the function returned is called. */
  pauseReading(): () => void {
    return this.#settler.pauseReading();
  }

  /** True once it was answered, or needs no answer because its consumer is `noAck`. */
  get settled(): boolean {
    return this.#answer !== undefined;
  }

  /** @internal It went back to its queue. */
  get wasPutBack(): boolean {
    return this.#answer === 'requeue';
  }

  /** @internal Whether it has a `replyTo`. Costs next to nothing. */
  get hasReplyTo(): boolean {
    return this.#content.hasReplyTo;
  }

  /** @internal Has its answer told to somebody beside the broker, also when its channel is gone. */
  hear(heard: (answer: Answer) => void): void {
    const settler = this.#settler;
    this.#settler = {
      settle: (answer, deliveryTag, method) => {
        heard(answer);
        return settler.settle(answer, deliveryTag, method);
      },
      pauseReading: () => settler.pauseReading(),
    };
  }

  /** Done: the broker may forget it. Says whether the answer was sent; a second answer, or one to a dead channel, is not. */
  ack(): boolean {
    return this.#settle('ack');
  }

  /**
   * Not done: back into the queue, or with `requeue: false` dead-lettered or dropped. With `basic.nack`, which quorum queues of
   * RabbitMQ 4.3 and later do not count towards their delivery limit: for what has not been tried.
   */
  nack({ requeue = true }: { requeue?: boolean } = {}): boolean {
    return this.#settle(requeue ? 'requeue' : 'discard', 'basic.nack');
  }

  /**
   * Refused: dead-lettered where the queue says so, else dropped; with `requeue: true` back into the queue. With `basic.reject`, which
   * counts towards the delivery limit of a quorum queue: for what was tried and failed.
   */
  reject({ requeue = false }: { requeue?: boolean } = {}): boolean {
    return this.#settle(requeue ? 'requeue' : 'discard', 'basic.reject');
  }

  #settle(answer: Answer, method?: 'basic.nack' | 'basic.reject'): boolean {
    if (this.#answer !== undefined) return false;
    this.#answer = answer;
    return this.#settler.settle(answer, this.deliveryTag, method);
  }
}

/**
 * Where the reply to a request goes, as the bytes that the requester wrote: what is no UTF-8 does not survive decoding.
 * Throws `INVALID_ARGUMENT` when it has no address, `UNDECODABLE` when that cannot be found.
 */
export function returnAddress(request: Message): {
  readonly replyTo: Buffer;
  readonly correlationId: Buffer | undefined;
} {
  const replyTo = request.bytesOf('replyTo');
  if (replyTo === undefined || replyTo.length === 0) {
    throw new AmqpError(
      'INVALID_ARGUMENT',
      'The message has no replyTo: nobody waits for a reply to it. Look at message.properties.replyTo before replying.',
    );
  }
  return { replyTo, correlationId: request.bytesOf('correlationId') };
}
