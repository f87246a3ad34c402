/**
 * What becomes of a delivery whose handler failed: what a handler throws to say it, and the decision where it throws something
 * else. Carrying it out is the consumer's.
 */
import { itIs } from '../client/option-names.js';
import { AmqpError, type AmqpErrorCode } from '../errors.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';

/** Thrown by a handler for what no retry can help: the delivery is dead-lettered at once. */
export class RejectDelivery extends Error {
  override readonly name: string = 'RejectDelivery';

  constructor(message = 'The handler rejected the delivery.', options?: ErrorOptions) {
    super(message, options);
  }
}

/**
 * Thrown by a handler to put the delivery back into its queue at once, with `basic.reject`: for another consumer, or for later.
 * One that was put back before is held for a second first, so that a handler that never takes it makes no hot loop.
 */
export class RequeueDelivery extends Error {
  override readonly name: string = 'RequeueDelivery';

  constructor(message = 'The handler put the delivery back.', options?: ErrorOptions) {
    super(message, options);
  }
}

/**
 * Thrown by a handler to have the delivery again after a while. It counts as an attempt: where the handler has `retry` and the
 * attempts are used up, the delivery is dead-lettered; where it has none, this may go on for as long as the handler likes.
 *
 * @example
 * ```ts
 * throw new RetryDelivery({ after: '30s' });
 * ```
 */
export class RetryDelivery extends Error {
  override readonly name: string = 'RetryDelivery';
  /** Milliseconds. */
  readonly after: number;

  /**
   * `after` is rounded up to two significant digits, because every length of time has a wait queue of its own. Throws
   * `INVALID_OPTION`.
   */
  constructor({ after }: { readonly after: Duration }, message?: string, options?: ErrorOptions) {
    const ms = Math.max(1, timerMilliseconds(after, 'after of RetryDelivery'));
    super(message ?? `The handler wants the delivery again after ${ms} ms.`, options);
    const step = 10 ** Math.max(0, Math.floor(Math.log10(ms)) - 1);
    this.after = Math.ceil(ms / step) * step;
  }
}

/** How often a delivery is tried, and how long it waits in between. */
export interface RetryOptions {
  /** How often in all, the first time included, 1 or more. @default one more than there are delays */
  readonly attempts?: number | undefined;
  /**
   * How long to wait before the second attempt, the third and so on; the last one serves for all further ones, those of the default
   * too: six attempts wait 1 s, 10 s, and three times a minute. @default ['1s', '10s', '1m']
   */
  readonly delays?: readonly Duration[] | undefined;
}

/** `RetryOptions`, checked and completed; milliseconds. */
export interface RetryPolicy {
  readonly attempts: number;
  /** One at least. */
  readonly delays: readonly number[];
}

const DEFAULT_DELAYS: readonly Duration[] = ['1s', '10s', '1m'];

/** Throws `INVALID_OPTION`. `where` names who said it. */
export function retryPolicy(options: RetryOptions, where: string): RetryPolicy {
  // Options often come from configuration, past the compiler.
  if (typeof (options as unknown) !== 'object' || (options as unknown) === null) {
    throw new AmqpError(
      'INVALID_OPTION',
      `retry of ${where} has to be an object: { attempts: 3, delays: ['1s', '10s'] }${itIs(options)}`,
    );
  }
  const { attempts, delays = DEFAULT_DELAYS } = options;
  const given: unknown = delays;
  if (!Array.isArray(given) || given.length === 0) {
    throw new AmqpError(
      'INVALID_OPTION',
      `retry.delays of ${where} has to be a list of one length of time or more${itIs(given)}`,
    );
  }
  if (attempts !== undefined && !(Number.isInteger(attempts) && attempts >= 1)) {
    throw new AmqpError(
      'INVALID_OPTION',
      `retry.attempts of ${where} has to be an integer of 1 or more${itIs(attempts)}`,
    );
  }
  return {
    attempts: attempts ?? delays.length + 1,
    // A queue's time to live is a whole number, and one of 0 would expire before it waits.
    delays: delays.map((delay) => Math.max(1, Math.ceil(timerMilliseconds(delay, `retry.delays of ${where}`)))),
  };
}

export type Outcome =
  { readonly kind: 'requeue' } | { readonly kind: 'retry'; readonly delay: number } | { readonly kind: 'dead-letter' };

const DEAD_LETTER: Outcome = { kind: 'dead-letter' };
const REQUEUE: Outcome = { kind: 'requeue' };

/** What becomes of a delivery whose attempt, the first being 1, failed with this error. */
export function outcomeOf(error: unknown, attempt: number, policy: RetryPolicy | undefined): Outcome {
  if (error instanceof RequeueDelivery) return REQUEUE;
  const isUsedUp = policy !== undefined && attempt >= policy.attempts;
  if (error instanceof RetryDelivery) return isUsedUp ? DEAD_LETTER : { kind: 'retry', delay: error.after };
  if (policy === undefined || isUsedUp || isBeyondHelp(error)) return DEAD_LETTER;
  return { kind: 'retry', delay: policy.delays[Math.min(attempt, policy.delays.length) - 1] as number };
}

/** Of HTTP's 4xx those that are about time: request timeout, too early, too many requests. */
const LATER = new Set([408, 425, 429]);

/** The payload cannot be read, is not what the schema says, or what is made of it cannot be written, or sent. */
const HOPELESS: ReadonlySet<AmqpErrorCode> = new Set([
  'UNDECODABLE',
  'INVALID_PAYLOAD',
  'UNSERIALIZABLE',
  'MESSAGE_TOO_LARGE',
]);

/** True for an error that would come again: the delivery itself is to blame, or is not allowed. */
function isBeyondHelp(error: unknown): boolean {
  if (error instanceof RejectDelivery) return true;
  if (error instanceof AmqpError) return HOPELESS.has(error.code);
  const status = statusOf(error);
  return status >= 400 && status < 500 && !LATER.has(status);
}

/** True for what is thrown to say what is to become of a delivery: where it was thrown is of no interest. */
export function isDeliberate(error: unknown): boolean {
  if (error instanceof RequeueDelivery || error instanceof RetryDelivery || error instanceof AmqpError) return true;
  return isBeyondHelp(error) || LATER.has(statusOf(error));
}

/** Nest's HttpException by its face: this floor does not know Nest, and an application may have it twice. */
function statusOf(error: unknown): number {
  try {
    const { getStatus } = error as { getStatus?: unknown };
    const status: unknown = typeof getStatus === 'function' ? Reflect.apply(getStatus, error, []) : undefined;
    return typeof status === 'number' ? status : 0;
  } catch {
    return 0;
  }
}
