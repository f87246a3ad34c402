/** What lies between a channel and its connection: what the one asks of the other, and whom a channel tells of what it heard. */
import type { AmqpError } from '../errors.js';
import type { ContentMemory } from '../protocol/content.js';
import type { MethodArgs, MethodName } from '../protocol/methods.js';
import type { EchoingProperties } from '../protocol/properties.js';
import type { ReturnedMessage } from './channel-options.js';
import type { Metrics } from './metrics.js';
import type { LateWriter } from './outbox.js';

/** What a channel needs of its connection. */
export interface ChannelLine {
  readonly metrics: Metrics;
  /** Where the contents of all channels go that are kept. */
  readonly memory: ContentMemory;
  readonly maxMessageSize: number;
  /** Longest wait for close-ok, in milliseconds. */
  readonly closeTimeout: number;
  /** Longest wait for other answers, in milliseconds. */
  readonly requestTimeout: number;
  send<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): void;
  /** Publishes; says whether to keep writing. */
  publish(
    channel: number,
    exchange: string,
    routingKey: string | Uint8Array,
    mandatory: boolean,
    properties: EchoingProperties,
    body: string | Uint8Array,
  ): boolean;
  ack(channel: number, deliveryTag: number, multiple: boolean): void;
  isBlocked(): boolean;
  /** Has the connection read nothing more; the function returned has it read on. */
  pauseReading(): () => void;
  /** Has it say, at the end of this turn, what it holds back. */
  writeLate(late: LateWriter): void;
  drained(): Promise<void>;
  /** Both sides have said goodbye: the number is free. */
  release(channel: number): void;
  /** User code threw where nobody can catch it. A property, so that it can be handed on as it is. */
  readonly callbackFailed: (error: unknown) => void;
}

/** Who is told of what nobody asked for. */
export interface ChannelListener {
  closed(error: AmqpError | undefined): void;
  returned(message: ReturnedMessage): void;
}
