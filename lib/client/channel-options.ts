/** What a channel's methods take and tell. */
import type { AmqpError } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { BasicProperties } from '../protocol/properties.js';
import type { Duration } from '../time/duration.js';
import type { Message } from './message.js';

/**
 * How long to wait for the broker's answer. What ends the wait does not undo the request: the broker may still carry it out,
 * and its late answer is dropped.
 */
export interface RequestOptions {
  /** Longest wait; then the promise rejects with `REQUEST_TIMEOUT`. @default the connection's `requestTimeout` */
  readonly timeout?: Duration | undefined;
  /** Ends the wait: the promise rejects with `ABORTED`. */
  readonly signal?: AbortSignal | undefined;
}

/** What ends a wait that has no time of its own. */
export interface WaitOptions {
  /** Ends the wait: the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** For methods that the broker may be asked not to answer. */
export interface NoWaitOptions extends RequestOptions {
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

/** Options of `exchangeDelete` (specification, exchange.delete). */
export interface ExchangeDeleteOptions extends NoWaitOptions {
  /** Only when it has no bindings. @default false */
  readonly ifUnused?: boolean | undefined;
}

/** Options of `queueDelete` (specification, queue.delete). */
export interface QueueDeleteOptions extends NoWaitOptions {
  /** Only when it has no consumers. @default false */
  readonly ifUnused?: boolean | undefined;
  /** Only when no messages wait in it. @default false */
  readonly ifEmpty?: boolean | undefined;
}

/** Options of `basicGet` (specification, basic.get). */
export interface GetOptions extends RequestOptions {
  /** The broker forgets the message as it sends it; a wait that is ended then may lose it. @default false */
  readonly noAck?: boolean | undefined;
}

/** What a close says to the broker, for its log. */
export interface CloseOptions {
  /** 200, or why it is none in order (specification, section 1.2). @default 200 */
  readonly replyCode?: number | undefined;
  /** Cut to the 255 bytes that AMQP allows. @default 'Goodbye' */
  readonly replyText?: string | undefined;
}

/** Options of `Channel.consume`. */
export interface StreamOptions extends Omit<ConsumeOptions, 'timeout'> {
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
  /** @internal Is told, instead of the event `callbackError`, of a message over `maxMessageSize`, whose body was dropped. It must not throw. */
  readonly onTooLarge?: ((message: Message, error: AmqpError) => void) | undefined;
}

/** Options of `basicPublish`: the message's properties, and whether it has to reach a queue. */
export interface PublishOptions extends BasicProperties {
  /** The broker returns the message when no queue takes it. @default false */
  readonly mandatory?: boolean | undefined;
  /** Ends the wait for the confirm: the promise rejects with `ABORTED`. Without confirms there is no wait. */
  readonly signal?: AbortSignal | undefined;
  /** Not with RabbitMQ, which closes the connection over it (540): `true` is refused with `INVALID_ARGUMENT`. */
  readonly immediate?: boolean | undefined;
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
