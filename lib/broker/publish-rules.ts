/**
 * What RabbitMQ asks of a message before it routes it: the user's id, the expiration, the delivery mode. Properties are read
 * where they lie and not decoded: what the rules do not need may be any nonsense that fits its length.
 */
import { ProtocolError } from '../errors.js';
import { internalError, preconditionFailed } from './broker-error.js';
import type { BrokerMessage } from './broker-message.js';
import { expirationProblem } from './expiration.js';

/** The bits of properties in the flag word (see `protocol/properties`). */
const CONTENT_TYPE = 1 << 15;
const HEADERS = 1 << 13;
const DELIVERY_MODE = 1 << 12;
const PRIORITY = 1 << 11;
const REPLY_TO = 1 << 9;
const TIMESTAMP = 1 << 6;
const USER_ID = 1 << 4;

/** Throws `BrokerError`: 406 for what RabbitMQ refuses, in its order, and 541 for properties that cannot be told apart. */
export function checkProperties(message: BrokerMessage, user: string): void {
  const flags = flagsOf(message);
  const userId = (flags & USER_ID) === 0 ? user : textAt(message.propertyBytes, USER_ID);
  if (userId !== user) {
    throw preconditionFailed(`user_id property set to '${userId}' but authenticated user was '${user}'`);
  }
  const { expiration } = message;
  const problem = expirationProblem(expiration);
  if (problem !== undefined) throw preconditionFailed(`invalid expiration '${expiration}': ${problem}`);
  if ((flags & DELIVERY_MODE) === 0) return;
  const deliveryMode = message.propertyBytes[offsetOf(message.propertyBytes, DELIVERY_MODE)];
  if (deliveryMode !== 1 && deliveryMode !== 2) {
    throw preconditionFailed(`invalid message: {delivery_mode_unknown,${deliveryMode}}`);
  }
}

/** Where the publisher wants its reply; undefined when it does not say. Throws `BrokerError` (541). */
export function replyToOf(message: BrokerMessage): string | undefined {
  return (flagsOf(message) & REPLY_TO) === 0 ? undefined : textAt(message.propertyBytes, REPLY_TO);
}

/** Property bytes with another reply-to in place of the one that they have; nothing else of them changes. */
export function withReplyTo(propertyBytes: Buffer, replyTo: string): Buffer {
  const at = offsetOf(propertyBytes, REPLY_TO);
  const text = Buffer.from(replyTo);
  return Buffer.concat([
    propertyBytes.subarray(0, at),
    Buffer.from([text.length]),
    text,
    propertyBytes.subarray(at + 1 + (propertyBytes[at] as number)),
  ]);
}

/** The flag word of properties whose lengths fit. RabbitMQ's channel does not survive others, nor does its connection. */
function flagsOf(message: BrokerMessage): number {
  try {
    return message.layout.flags;
  } catch (error) {
    if (error instanceof ProtocolError) throw internalError('the properties of the message cannot be parsed');
    throw error;
  }
}

function textAt(bytes: Buffer, flag: number): string {
  const at = offsetOf(bytes, flag);
  return bytes.toString('utf8', at + 1, at + 1 + (bytes[at] as number));
}

/** Where the value of a property that is there begins. */
function offsetOf(bytes: Buffer, wanted: number): number {
  const flags = bytes.readUInt16BE(0);
  let at = 2;
  for (let flag = CONTENT_TYPE; flag > wanted; flag >>= 1) {
    if ((flags & flag) === 0) continue;
    if (flag === HEADERS) at += 4 + bytes.readUInt32BE(at);
    else if (flag === DELIVERY_MODE || flag === PRIORITY) at += 1;
    else at += flag === TIMESTAMP ? 8 : 1 + (bytes[at] as number);
  }
  return at;
}
