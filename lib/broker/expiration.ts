/** What a publisher may write as the expiration of a message: whole milliseconds, in digits. */
import { LONGEST_TIME } from './queue-arguments.js';

/** What is wrong with it, as RabbitMQ prints it; undefined when it may be. */
export function expirationProblem(expiration: string | undefined): string | undefined {
  if (expiration === undefined) return undefined;
  const [, number, rest] = /^([+-]?\d+)(.*)$/s.exec(expiration) ?? [];
  if (number === undefined) return 'no_integer';
  if (rest !== '') return `{leftover_string,"${rest}"}`;
  const milliseconds = BigInt(number.replace('+', ''));
  if (milliseconds < 0n) return `{value_negative,${milliseconds}}`;
  return milliseconds > LONGEST_TIME ? `{value_too_large,${milliseconds}}` : undefined;
}
