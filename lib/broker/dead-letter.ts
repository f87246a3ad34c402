/**
 * What a message says of its deaths (https://www.rabbitmq.com/docs/dlx): the header `x-death` with an entry for every queue and
 * reason, the latest first, and what the first and the last one were. Where it goes then is `virtual-host`'s.
 */
import { type FieldTable, type FieldValue, field } from '../protocol/field-table.js';
import { type BrokerMessage, changed } from './broker-message.js';
import type { Death, DeathReason } from './message-notes.js';

interface Burial {
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
export function deadLettered(message: BrokerMessage, burial: Burial): BrokerMessage {
  const { exchange, routingKey } = burial;
  const deaths = deathsAfter(message, burial);
  return changed(message, {
    exchange,
    routingKey: routingKey ?? message.routingKey,
    routingKeys: routingKey === undefined ? message.routingKeys : [routingKey],
    properties: { set: headersOf(message, burial, deaths), dropExpiration: true },
    notes: { deaths },
  });
}

function deathsAfter(message: BrokerMessage, { reason, queue, time }: Burial): Death[] {
  const { deaths } = message.notes;
  const before = deaths.find((death) => death.queue === queue && death.reason === reason);
  const last: Death =
    before === undefined
      ? { reason, queue, count: 1, time, ...originOf(message) }
      : { ...before, count: before.count + 1 };
  return [last, ...deaths.filter((death) => death !== before)];
}

function originOf(message: BrokerMessage): Pick<Death, 'exchange' | 'routingKeys' | 'expiration'> {
  const { exchange, expiration, notes } = message;
  const routingKeys = [...message.routingKeys];
  // Every blind key takes one key out, also where it is what the message was sent to.
  for (const key of notes.blindKeys) {
    const at = routingKeys.indexOf(key);
    if (at !== -1) routingKeys.splice(at, 1);
  }
  return { exchange, routingKeys, expiration };
}

function headersOf(message: BrokerMessage, { reason, queue }: Burial, deaths: readonly Death[]): FieldTable {
  const told = (which: string): FieldTable => ({
    [`x-${which}-death-reason`]: reason,
    [`x-${which}-death-queue`]: queue,
    [`x-${which}-death-exchange`]: message.exchange,
  });
  return {
    'x-death': deaths.map(entryOf),
    // Later, it is among the headers already.
    ...(message.notes.deaths.length === 0 ? told('first') : {}),
    ...told('last'),
  };
}

function entryOf({ reason, queue, count, time, exchange, routingKeys, expiration }: Death): FieldValue {
  return {
    ...(expiration === undefined ? {} : { 'original-expiration': String(BigInt(expiration)) }),
    count: field.int64(count),
    reason,
    queue,
    time: new Date(time),
    exchange,
    'routing-keys': routingKeys,
  };
}

/**
 * True when a message that has just died would come back into a queue that it died in before, without anybody having
 * rejected it on the way: it would go round for ever, so it is dropped.
 */
export function isCycle(letter: BrokerMessage, queue: string): boolean {
  const { deaths } = letter.notes;
  const last = deaths.findIndex((death) => death.queue === queue);
  return last !== -1 && deaths.slice(0, last + 1).every(({ reason }) => reason !== 'rejected');
}
