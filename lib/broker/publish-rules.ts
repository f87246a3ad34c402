/** What RabbitMQ asks of a message before it routes it: the user's id, the expiration, the delivery mode. */
import type { BasicProperties } from '../protocol/properties.js';
import { WireReader } from '../protocol/wire.js';
import { readPropertyBytes } from '../protocol/properties.js';
import { preconditionFailed } from './broker-error.js';

/** The longest expiration, in milliseconds: ten years. */
const LONGEST_EXPIRATION = 10 * 365 * 24 * 60 * 60 * 1000;

/** Throws `BrokerError` (406) for what RabbitMQ refuses, in its order. */
export function checkProperties({ userId, expiration, deliveryMode }: BasicProperties, user: string): void {
  if (userId !== undefined && userId !== user) {
    throw preconditionFailed(`user_id property set to '${userId}' but authenticated user was '${user}'`);
  }
  if (expiration !== undefined) checkExpiration(expiration);
  if (deliveryMode !== undefined && deliveryMode !== 1 && deliveryMode !== 2) {
    throw preconditionFailed(`invalid message: {delivery_mode_unknown,${deliveryMode}}`);
  }
}

function checkExpiration(expiration: string): void {
  const [, digits, rest] = /^([+-]?\d+)?([\s\S]*)$/.exec(expiration) as unknown as [string, string?, string?];
  const value = Number(digits);
  let fault: string | undefined;
  if (digits === undefined) fault = 'no_integer';
  else if (rest !== '') fault = `{leftover_string,"${rest}"}`;
  else if (value < 0) fault = `{value_negative,${value}}`;
  else if (value > LONGEST_EXPIRATION) fault = `{value_too_large,${BigInt(digits)}}`;
  if (fault !== undefined) throw preconditionFailed(`invalid expiration '${expiration}': ${fault}`);
}

/** Property bytes with another reply-to in place of the one that they have; nothing else of them changes. */
export function withReplyTo(propertyBytes: Buffer, replyTo: string): Buffer {
  const old = readPropertyBytes(new WireReader(propertyBytes), 'replyTo');
  if (old === undefined) return propertyBytes;
  const start = old.byteOffset - propertyBytes.byteOffset;
  const text = Buffer.from(replyTo);
  return Buffer.concat([
    propertyBytes.subarray(0, start - 1),
    Buffer.from([text.length]),
    text,
    propertyBytes.subarray(start + old.length),
  ]);
}
