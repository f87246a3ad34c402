/**
 * Where a consumer begins to read a stream: the values that RabbitMQ takes as `x-stream-offset`
 * (https://www.rabbitmq.com/docs/streams#consuming). Over most others it closes the connection (541), with everything that runs on it.
 */
import { types } from 'node:util';
import { type FieldValue, TypedField } from './field-table.js';

/** The argument of basic.consume, and the header of what is delivered. */
export const STREAM_OFFSET = 'x-stream-offset';

/** What the argument may be, in words. */
export const STREAM_OFFSETS =
  "'first', 'last', 'next', a whole number of 0 or more, a Date, or how far back, as '7D' (a number of Y, M, D, h, m or s)";

const MOST = 2n ** 63n - 1n;
/** How far back: a number that is not 0, and its unit. */
const INTERVAL = /^0*[1-9]\d*[YMDhms]$/;

/** Whether the broker takes it. */
export function isStreamOffset(value: unknown): value is FieldValue {
  switch (typeof value) {
    case 'string':
      return value === 'first' || value === 'last' || value === 'next' || isInterval(value);
    case 'number':
      // Another number is written as a double, and so is -0.
      return Number.isSafeInteger(value) && value >= 0 && !Object.is(value, -0);
    case 'bigint':
      return value >= 0n && value <= MOST;
    case 'object':
      if (types.isDate(value)) return value.getTime() >= 0;
      // The field table looks whether it is whole, and fits its letter.
      return value instanceof TypedField && value.tag !== 'f' && value.tag !== 'd' && value.value >= 0;
    default:
      return false;
  }
}

/** `$` matches before a line break at the end, too. */
function isInterval(text: string): boolean {
  return INTERVAL.test(text) && !text.endsWith('\n');
}
