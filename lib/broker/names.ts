/** Names that clients give (queues, routing keys, consumer tags) as text that can be said again. */
import { LONGEST_SHORTSTR } from '../protocol/wire.js';
import { BrokerError } from './broker-error.js';

/**
 * Throws `BrokerError` (502) for a name that came in 255 octets and would not leave in as many. RabbitMQ holds names as octets,
 * this broker as text: each octet that is no UTF-8 has become a character of three.
 */
export function checkName(name: string): void {
  if (name.length * 3 <= LONGEST_SHORTSTR || Buffer.byteLength(name) <= LONGEST_SHORTSTR) return;
  throw new BrokerError(
    'connection',
    502,
    'SYNTAX_ERROR - a long name is no UTF-8; the embedded broker takes text alone',
  );
}

/** The same for all fields of a method that are names. */
export function checkNames(args: object): void {
  for (const value of Object.values(args)) if (typeof value === 'string') checkName(value);
}
