/**
 * Exchanges, queues and bindings as a user writes them. Checking them is `definition-checks`'s, what they are on the wire
 * `declarations`', and declaring them `topology`'s.
 */
import type { FieldTable } from '../protocol/field-table.js';
import { STREAM_OFFSET } from '../protocol/stream-offset.js';
import type { Duration } from '../time/duration.js';

/** An exchange to declare (https://www.rabbitmq.com/docs/exchanges). */
export interface ExchangeDefinition {
  readonly name: string;
  /** How it routes; `x-…` for the types of plugins. */
  readonly type: 'direct' | 'fanout' | 'topic' | 'headers' | `x-${string}`;
  /** Survives a restart of the broker. @default true */
  readonly durable?: boolean | undefined;
  /** Deleted when its last binding goes. @default false */
  readonly autoDelete?: boolean | undefined;
  /** Takes messages from other exchanges only. @default false */
  readonly internal?: boolean | undefined;
  /** Where messages go that no binding takes. */
  readonly alternateExchange?: string | undefined;
  /** Anything else, by the broker's own names. */
  readonly arguments?: FieldTable | undefined;
}

/** A queue to declare (https://www.rabbitmq.com/docs/queues). */
export interface QueueDefinition {
  /**
   * Without a name the queue is exclusive and auto-deleted, and the broker makes up a name, another one on every connection.
   * Bindings and `@Consume` then refer to it by this very object. Undefined is not taken for that: a name that a configuration lacks.
   */
  readonly name?: string;
  /** @default the broker's, usually classic */
  readonly type?: 'classic' | 'quorum' | 'stream' | undefined;
  /** Survives a restart of the broker. @default true, unnamed false */
  readonly durable?: boolean | undefined;
  /** For this connection alone, and deleted with it. @default false, unnamed true */
  readonly exclusive?: boolean | undefined;
  /** Deleted when its last consumer goes. @default false, unnamed true */
  readonly autoDelete?: boolean | undefined;
  /** Deleted after this long without use. */
  readonly expires?: Duration | undefined;
  /** How long a message may wait in it. */
  readonly messageTtl?: Duration | undefined;
  /** Most messages that may wait in it. */
  readonly maxLength?: number | undefined;
  /** Most bytes of bodies that may wait in it. */
  readonly maxLengthBytes?: number | undefined;
  /** What happens at `maxLength`. @default the broker's, 'drop-head' */
  readonly overflow?: 'drop-head' | 'reject-publish' | 'reject-publish-dlx' | undefined;
  /** Where messages go that are rejected, expire or overflow. */
  readonly deadLetter?: { readonly exchange: string; readonly routingKey?: string | undefined } | undefined;
  /** Highest priority of its messages, 1 to 255. */
  readonly maxPriority?: number | undefined;
  /** How often a message may come back to a quorum queue; the next time it is dead-lettered. It is delivered once more than that. */
  readonly deliveryLimit?: number | undefined;
  /** One consumer at a time gets messages. @default false */
  readonly singleActiveConsumer?: boolean | undefined;
  /** Anything else, by the broker's own names. */
  readonly arguments?: FieldTable | undefined;
}

/** What `source` routes under the key goes to a queue, or to another exchange. A queue without a name is given as its definition. */
export type BindingDefinition = {
  readonly source: string;
  /** @default '' */
  readonly routingKey?: string | undefined;
  /** What the exchange compares, for a headers exchange. */
  readonly arguments?: FieldTable | undefined;
} & (
  | { readonly queue: string | QueueDefinition; readonly exchange?: never }
  | { readonly exchange: string; readonly queue?: never }
);

/** What an application needs on the broker. Declared in the order exchanges, queues, bindings. */
export interface Topology {
  readonly exchanges?: readonly ExchangeDefinition[] | undefined;
  readonly queues?: readonly QueueDefinition[] | undefined;
  readonly bindings?: readonly BindingDefinition[] | undefined;
}

/** Gives an exchange definition its type. */
export const exchange = (definition: ExchangeDefinition): ExchangeDefinition => definition;
/** Gives a queue definition its type; without a definition it is one of an unnamed queue. */
export const queue = (definition: QueueDefinition = {}): QueueDefinition => definition;
/** Gives a binding definition its type. */
export const binding = (definition: BindingDefinition): BindingDefinition => definition;

/** Whether a queue is a stream, by its definition or, where there is none, by what its consumer says. */
export function isStream(topology: Topology, queue: string, consumer: FieldTable = {}): boolean {
  const definition = topology.queues?.find(({ name }) => name === queue);
  const type = definition?.type ?? definition?.arguments?.['x-queue-type'];
  return type === undefined ? consumer[STREAM_OFFSET] !== undefined : type === 'stream';
}
