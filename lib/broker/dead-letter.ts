/**
 * What a message says of its deaths (https://www.rabbitmq.com/docs/dlx): the header `x-death` with an entry for every queue and
 * reason, the latest first, and what the first one was. Where it goes then is `virtual-host`'s.
 *
 * RabbitMQ 3.10.8 turns the order of the older entries around with every death, so that from the third entry on it is not
 * that of time, and a message may go round a cycle again because of a rejection before it. Here the order is the documented
 * one, with which every cycle ends that nobody takes part in.
 */
import { AmqpError } from '../errors.js';
import { type FieldTable, type FieldValue, field } from '../protocol/field-table.js';
import { integerOf } from './argument-values.js';
import { type BrokerMessage, readdressed } from './broker-message.js';

export type DeathReason = 'rejected' | 'expired' | 'maxlen' | 'delivery_limit';

export interface Death {
  readonly reason: DeathReason;
  /** The queue that it died in. */
  readonly queue: string;
  /** Milliseconds since 1970. */
  readonly time: number;
  /** Where dead letters of the queue go. */
  readonly exchange: string;
  /** Undefined: with the keys that it has. */
  readonly routingKey: string | undefined;
}

/** The message on its way to the dead-letter exchange. */
export function deadLettered(message: BrokerMessage, death: Death): BrokerMessage {
  const previous = message.header('x-death');
  try {
    return withDeath(message, death, previous);
  } catch (error) {
    if (!(error instanceof AmqpError)) throw error;
    // What a client wrote there may be what can be read and not be written, such as numbers that are none: it goes.
    return withDeath(message, death, null);
  }
}

function withDeath(message: BrokerMessage, death: Death, previous: FieldValue | undefined): BrokerMessage {
  const { reason, queue, exchange, routingKey } = death;
  const set: Record<string, FieldValue> = { 'x-death': updated(previous, message, death) };
  if (previous === undefined) {
    set['x-first-death-reason'] = reason;
    set['x-first-death-queue'] = queue;
    set['x-first-death-exchange'] = message.exchange;
  }
  return readdressed(
    message,
    exchange,
    routingKey ?? message.routingKey,
    routingKey === undefined ? message.routingKeys : [routingKey],
    // With a key of the queue's own, copies to others would be sent a second time.
    { remove: routingKey === undefined ? [] : ['CC'], set, dropExpiration: true },
  );
}

function updated(previous: FieldValue | undefined, message: BrokerMessage, death: Death): FieldValue[] {
  const { queue, reason } = death;
  const entries = deathsOf(previous);
  const same = entries.findIndex((entry) => entry['queue'] === queue && entry['reason'] === reason);
  const before = entries[same];
  const others = entries.filter((_entry, index) => index !== same).map((entry) => withWideCount(entry, 0));
  return [before === undefined ? entryFor(message, death) : withWideCount(before, 1), ...others];
}

function entryFor(message: BrokerMessage, { reason, queue, time }: Death): FieldTable {
  const copies = message.header('CC');
  const { expiration } = message;
  return {
    count: field.int64(1),
    reason,
    queue,
    time: new Date(time),
    exchange: message.exchange,
    'routing-keys': [message.routingKey, ...(isList(copies) ? copies.filter((key) => typeof key === 'string') : [])],
    ...(expiration === undefined ? {} : { 'original-expiration': expiration }),
  };
}

/** RabbitMQ writes the count as a 64-bit integer. Only the count changes when a message dies again in the same way. */
function withWideCount(entry: FieldTable, more: number): FieldTable {
  const { count } = entry;
  const known = typeof count === 'bigint' ? count : BigInt(integerOf(count ?? null) ?? 1);
  return { ...entry, count: field.int64(BigInt.asIntN(64, known + BigInt(more))) };
}

function isList(value: FieldValue | undefined): value is readonly FieldValue[] {
  return Array.isArray(value);
}

/** The entries of an `x-death`. One that a client wrote may be anything. */
function deathsOf(header: FieldValue | undefined): FieldTable[] {
  if (!isList(header)) return [];
  return header.filter((item): item is FieldTable => Object.getPrototypeOf(item ?? 0) === null);
}

/**
 * True when a message that has just died would come back into a queue that it died in before, without anybody having
 * rejected it on the way: it would go round for ever, so it is dropped.
 */
export function isCycle(letter: BrokerMessage, queue: string): boolean {
  const deaths = deathsOf(letter.header('x-death'));
  const last = deaths.findIndex((entry) => entry['queue'] === queue);
  return last !== -1 && deaths.slice(0, last + 1).every((entry) => entry['reason'] !== 'rejected');
}
