/**
 * What is refused of a publish before its bytes leave, because RabbitMQ would close the channel or the connection over it, and every
 * other publish on that would have an unknown outcome. What cannot be written at all the protocol refuses by itself.
 */
import { types } from 'node:util';
import { AmqpError, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { PublishOptions } from './channel-options.js';

/** Throws `INVALID_ARGUMENT`. */
export function checkPublish(body: unknown, options: Omit<PublishOptions, 'correlationId' | 'replyTo'>): void {
  if (typeof body !== 'string' && !types.isUint8Array(body)) {
    throw new AmqpError(
      'INVALID_ARGUMENT',
      'The body of a message has to be a string or a Uint8Array. Serialise it first.',
    );
  }
  if (options.immediate === true) {
    throw new AmqpError(
      'INVALID_ARGUMENT',
      'RabbitMQ does not know immediate, and closes the connection over it. Give the message an expiration of 0 instead.',
    );
  }
  if ((options as { readonly persistent?: unknown }).persistent !== undefined) {
    throw new AmqpError(
      'INVALID_ARGUMENT',
      'basic.publish has no persistent. Give deliveryMode: 2 for a message that is.',
    );
  }
  if (typeof options.expiration === 'string' && !/^\d+$/.test(options.expiration)) {
    throw new AmqpError(
      'INVALID_ARGUMENT',
      `The property expiration has to be whole milliseconds as a string, such as '60000'; it is ${quoted(options.expiration)}.`,
    );
  }
  if (options.headers !== undefined) checkCopies(options.headers);
}

const COPIES = ['CC', 'BCC'] as const;

const isTextLike = (key: unknown): boolean => typeof key === 'string' || typeof key === 'object';

/** https://www.rabbitmq.com/docs/sender-selected */
function checkCopies(headers: FieldTable): void {
  for (const name of COPIES) {
    const keys: unknown = headers[name];
    // An object may be a list or a text whose type on the wire was said: see `field`.
    const isTyped = typeof keys === 'object' && keys !== null && !types.isUint8Array(keys);
    const isList = Array.isArray(keys) ? keys.every(isTextLike) : isTyped;
    if (keys === undefined || isList) continue;
    throw new AmqpError(
      'INVALID_ARGUMENT',
      `The header ${name} has to be a list of routing keys, to which the message goes as well. Give it an array of strings, or another name.`,
    );
  }
}
