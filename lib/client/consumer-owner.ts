/** What a consumer is made with: options, and an owner who does something with its messages. What it does itself is `AmqpConsumer`'s. */
import type { AmqpError } from '../errors.js';
import type { ConsumeOptions } from './channel-options.js';
import type { Connection } from './connection.js';
import type { ConsumerStatus } from './consumer-status.js';
import type { Message } from './message.js';

export interface AmqpConsumerOptions {
  readonly queue: string;
  /** Most unanswered messages; undefined for no bound. */
  readonly prefetch: number | undefined;
  readonly consume: ConsumeOptions;
  /** The queue is known to be a stream, also where the arguments say no offset. @default false */
  readonly isStream?: boolean | undefined;
}

/** What an owner is told, and asked. */
export interface AmqpConsumerOwner {
  /** Runs before every attempt; what it throws is a failed attempt. */
  prepare?(connection: Connection): Promise<void>;
  /** There is a new channel; what comes next comes over it. */
  opened?(): void;
  receive(message: Message): unknown;
  /** The channel has ended: what came over it can be answered no more. */
  lost?(why: string): void;
  /** Every change of the status. */
  changed?(status: ConsumerStatus): void;
  /** An attempt that is not the last one failed. False to give up. */
  failed?(error: AmqpError): boolean;
  /** It ran, and does not start over: `failed` said so, or the connection was closed for good. Not told after `stop` or `cancel`. */
  ended?(error: AmqpError): void;
}
