/** Lengths of time as users write them. */
import ms, { type StringValue } from 'ms';
import { AmqpError, printable } from '../errors.js';

/** Milliseconds as a number, or text that the `ms` package reads: `'250ms'`, `'10s'`, `'5m'`. */
export type Duration = number | StringValue;

/** The longest that a timer of Node.js counts, 24.8 days; of anything longer it makes 1 ms. */
const LONGEST_TIMER = 0x7fff_ffff;

/** A duration in milliseconds. Throws `INVALID_OPTION` naming the option for anything that is not a length of time. */
export function milliseconds(duration: Duration, option: string): number {
  const value: unknown = typeof duration === 'string' && duration.length > 0 ? ms(duration) : duration;
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) {
    throw new AmqpError(
      'INVALID_OPTION',
      `${option} is ${printable(String(duration), 60)}, which is not a length of time. ` +
        "Give milliseconds as a number of 0 or more, or text such as '250ms', '10s' or '5m'.",
    );
  }
  return value;
}

/** A duration that a timer is to count, in milliseconds. Throws `INVALID_OPTION` for what no timer can count, too. */
export function timerMilliseconds(duration: Duration, option: string): number {
  const value = milliseconds(duration, option);
  if (value > LONGEST_TIMER) {
    throw new AmqpError(
      'INVALID_OPTION',
      `${option} is ${printable(String(duration), 60)}; the longest that can be waited is 24 days.`,
    );
  }
  return value;
}
