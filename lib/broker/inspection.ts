/** What a test sees of a broker: queues, exchanges, bindings and connections as they are at this moment, as plain values. */
import { AmqpError, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { BasicProperties } from '../protocol/properties.js';
import type { BrokerConnection } from './broker-connection.js';
import type { BrokerMessage } from './broker-message.js';
import { Exchange } from './exchange.js';
import type { MessageQueue } from './message-queue.js';
import type { VirtualHost } from './virtual-host.js';

/** A message that waits in a queue. */
export interface QueuedMessage {
  /** Where it was published to, or dead-lettered to. */
  readonly exchange: string;
  readonly routingKey: string;
  /** Throws `UNDECODABLE` when the publisher wrote nonsense. */
  readonly properties: BasicProperties;
  readonly body: Buffer;
  /** The body as UTF-8. */
  readonly text: string;
}

/** A queue as it was when it was asked for. */
export interface QueueInfo {
  readonly name: string;
  readonly virtualHost: string;
  readonly type: 'classic' | 'quorum';
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly autoDelete: boolean;
  readonly arguments: FieldTable;
  /** How many it holds: `ready` and `unacked` together. */
  readonly messages: number;
  /** How many wait to be delivered. */
  readonly ready: number;
  /** How many are delivered and not settled. */
  readonly unacked: number;
  readonly consumers: number;
  /** The messages that wait, from the head of the queue, at most `limit`. Throws `INVALID_ARGUMENT`. @param limit - @default 100 */
  peek(limit?: number): readonly QueuedMessage[];
}

/** An exchange; the default one has the empty name. */
export interface ExchangeInfo {
  readonly name: string;
  readonly virtualHost: string;
  readonly type: string;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly internal: boolean;
  readonly arguments: FieldTable;
}

/** A binding; those of the default exchange, one for each queue, are not listed. */
export interface BindingInfo {
  readonly virtualHost: string;
  readonly source: string;
  readonly destination: string;
  readonly destinationType: 'queue' | 'exchange';
  readonly routingKey: string;
  readonly arguments: FieldTable;
}

/** An open channel. */
export interface ChannelInfo {
  readonly number: number;
  /** The tags of its consumers. */
  readonly consumers: readonly string[];
  /** How many deliveries on it are not settled. */
  readonly unacked: number;
}

/** A connection that has come through the handshake. */
export interface ConnectionInfo {
  /** The client's `connection_name`; undefined where it gave none. */
  readonly name: string | undefined;
  readonly user: string;
  readonly virtualHost: string;
  readonly clientProperties: FieldTable;
  readonly channels: readonly ChannelInfo[];
  /** It has published while publishers are blocked, and is not read from. */
  readonly blocked: boolean;
}

/** Throws `INVALID_ARGUMENT`, naming those that there are, when there is no such queue. */
export function queueInfo(virtualHost: VirtualHost, name: string): QueueInfo {
  for (const queue of virtualHost.queues) {
    if (queue.name === name) return infoOf(virtualHost, queue);
  }
  const names = [...virtualHost.queues].map((queue) => quoted(queue.name));
  throw new AmqpError(
    'INVALID_ARGUMENT',
    `There is no queue ${quoted(name)} in virtual host ${quoted(virtualHost.name)}; ` +
      (names.length === 0 ? 'there is none at all.' : `there are ${names.slice(0, 20).join(', ')}.`),
  );
}

export function infoOf(virtualHost: VirtualHost, queue: MessageQueue): QueueInfo {
  const { name, type, durable, exclusive, autoDelete, messageCount: ready, unackedCount: unacked } = queue;
  return {
    name,
    virtualHost: virtualHost.name,
    type,
    durable,
    exclusive,
    autoDelete,
    arguments: queue.arguments,
    messages: ready + unacked,
    ready,
    unacked,
    consumers: queue.consumerCount,
    peek: (limit = 100) => queue.peek(checkedLimit(limit)).map(queued),
  };
}

function checkedLimit(limit: number): number {
  if ((Number.isInteger(limit) && limit >= 0) || limit === Infinity) return limit;
  throw new AmqpError(
    'INVALID_ARGUMENT',
    'peek takes a number of messages: a whole number of 0 or more, or Infinity for all.',
  );
}

function queued(message: BrokerMessage): QueuedMessage {
  const { exchange, routingKey, body } = message;
  return {
    exchange,
    routingKey,
    get properties() {
      return message.properties;
    },
    body,
    text: body.toString(),
  };
}

export function exchangesOf(virtualHost: VirtualHost): ExchangeInfo[] {
  return [...virtualHost.exchanges].map(({ name, type, durable, autoDelete, internal, arguments: args }) => {
    return { name, virtualHost: virtualHost.name, type, durable, autoDelete, internal, arguments: args };
  });
}

export function bindingsOf(virtualHost: VirtualHost): BindingInfo[] {
  return Array.from(virtualHost.bindings, ({ source, destination, routingKey, arguments: args }) => ({
    virtualHost: virtualHost.name,
    source: source.name,
    destination: destination.name,
    destinationType: destination instanceof Exchange ? 'exchange' : 'queue',
    routingKey,
    arguments: args,
  }));
}

/** Undefined for a connection that is not through the handshake, or on its way out. */
export function connectionInfo(connection: BrokerConnection): ConnectionInfo | undefined {
  const { opened } = connection;
  if (opened === undefined) return undefined;
  const { clientProperties, user, virtualHost } = opened;
  const { connection_name: name } = clientProperties;
  return {
    name: typeof name === 'string' ? name : undefined,
    user,
    virtualHost: virtualHost.name,
    clientProperties,
    channels: connection.channels.map(({ number, deliveries }) => ({
      number,
      consumers: [...deliveries.consumers].map(({ tag }) => tag),
      unacked: deliveries.unsettledCount,
    })),
    blocked: connection.isBlocked,
  };
}
