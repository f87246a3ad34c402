/** What a channel's methods take and tell. */
import type { AmqpError } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { BasicProperties } from '../protocol/properties.js';
import type { Message } from './message.js';

/** For methods that the broker may be asked not to answer. */
export interface NoWaitOptions {
  /**
   * Sends the method and resolves at once; the broker answers only by closing the channel when it refuses.
   * @default false
   */
  readonly noWait?: boolean | undefined;
}

/** Options of `exchangeDeclare` (specification, exchange.declare). */
export interface ExchangeDeclareOptions extends NoWaitOptions {
  /** Only check that it exists. @default false */
  readonly passive?: boolean | undefined;
  /** Survives a restart of the broker. @default true */
  readonly durable?: boolean | undefined;
  /** Deleted when its last binding goes. @default false */
  readonly autoDelete?: boolean | undefined;
  /** Takes messages from other exchanges only. @default false */
  readonly internal?: boolean | undefined;
  readonly arguments?: FieldTable | undefined;
}

/** Options of `queueDeclare` (specification, queue.declare). */
export interface QueueDeclareOptions extends NoWaitOptions {
  /** Only check that it exists. @default false */
  readonly passive?: boolean | undefined;
  /** Survives a restart of the broker. @default true, for an unnamed queue false */
  readonly durable?: boolean | undefined;
  /** For this connection alone, and deleted with it. @default false, for an unnamed queue true */
  readonly exclusive?: boolean | undefined;
  /** Deleted when its last consumer goes. @default false, for an unnamed queue true */
  readonly autoDelete?: boolean | undefined;
  readonly arguments?: FieldTable | undefined;
}

/** Options of `basicConsume` (specification, basic.consume). */
export interface ConsumeOptions extends NoWaitOptions {
  /** Name of the consumer, unique on its channel. @default a random one */
  readonly consumerTag?: string | undefined;
  /** The broker forgets messages as it sends them; nothing is to be acknowledged. @default false */
  readonly noAck?: boolean | undefined;
  /** Nobody else may consume from the queue. @default false */
  readonly exclusive?: boolean | undefined;
  /** Not messages published on this connection. RabbitMQ ignores it. @default false */
  readonly noLocal?: boolean | undefined;
  readonly arguments?: FieldTable | undefined;
}

/** Options of `Channel.consume`. */
export interface StreamOptions extends ConsumeOptions {
  /** Most messages that may be unanswered at a time, 1 to 65535. @default 50 */
  readonly prefetch?: number | undefined;
  /** Ends the loop: it rejects with `ABORTED`, and the consumer is cancelled. */
  readonly signal?: AbortSignal | undefined;
}

/** What is done with a consumer's messages. Both functions are called synchronously, in order of arrival. */
export interface ConsumerCallbacks {
  readonly onMessage: (message: Message) => unknown;
  /** The broker cancelled the consumer: its queue was deleted or failed over. Nothing more comes. */
  readonly onCancel?: ((consumerTag: string) => void) | undefined;
}

/** Options of `basicPublish`: the message's properties, and whether it has to reach a queue. */
export interface PublishOptions extends BasicProperties {
  /** The broker returns the message when no queue takes it. @default false */
  readonly mandatory?: boolean | undefined;
}

/** Options of `reply`: the request says to whom it goes, and which request it answers. */
export type ReplyOptions = Omit<PublishOptions, 'correlationId'>;

/** A message that came back with `basic.return`. */
export interface ReturnedMessage {
  readonly replyCode: number;
  readonly replyText: string;
  readonly exchange: string;
  readonly routingKey: string;
  readonly properties: BasicProperties;
  readonly body: Buffer;
}

export interface ChannelEvents {
  /** Ended; with the error, unless `close()` was called. Emitted once. */
  close: [error: AmqpError | undefined];
  /** A mandatory message that no queue took, published without confirms. */
  return: [message: ReturnedMessage];
}
