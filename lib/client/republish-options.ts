/** What a `Republisher` is told: what may wait, how much may be in flight, and what becomes of publishes whose connection is lost. */
import { AmqpError } from '../errors.js';
import { itIs } from './option-names.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';

/** What may wait, and what becomes of publishes whose connection is lost. */
export interface RepublishOptions {
  /** `false` rejects what a loss leaves unconfirmed with `PublishOutcomeUnknownError` instead of sending it again. @default true */
  readonly republish?: boolean | undefined;
  /**
   * Most publishes that may wait: while there is no connection, while the broker blocks it, and for those in flight to be confirmed.
   * @default 10000
   */
  readonly maxBuffered?: number | undefined;
  /** Most bytes of bodies that may wait then; a string counts one for each of its UTF-16 units. @default 67108864 (64 MiB) */
  readonly maxBufferedBytes?: number | undefined;
  /**
   * What becomes of a publish beyond that: `'reject'` rejects it with `PublisherBufferFullError`; `'wait'` has it wait for its turn,
   * in any number, so that who awaits it waits for the broker. @default 'reject'
   */
  readonly onOverflow?: 'reject' | 'wait' | undefined;
  /**
   * Most publishes that may be sent and not confirmed. What is published beyond it waits, in order, as far as `maxBuffered` goes.
   * @default 4096
   */
  readonly maxInFlight?: number | undefined;
  /** Most bytes of bodies that may be sent and not confirmed; one message may be larger. @default 16777216 (16 MiB) */
  readonly maxInFlightBytes?: number | undefined;
  /** A publish older than this is not sent again. @default '5m' */
  readonly maxAge?: Duration | undefined;
}

/** The options, checked and complete: numbers, `Infinity` where there is no bound. */
export interface RepublishBounds {
  readonly republish: boolean;
  readonly maxBuffered: number;
  readonly maxBufferedBytes: number;
  readonly maxInFlight: number;
  readonly maxInFlightBytes: number;
  /** Milliseconds. */
  readonly maxAge: number;
}

/** Throws `INVALID_OPTION`. */
export function boundsOf(options: RepublishOptions): RepublishBounds {
  const maxBuffered = bound(options.maxBuffered ?? 10_000, 'maxBuffered');
  const maxBufferedBytes = bound(options.maxBufferedBytes ?? 64 * 1024 * 1024, 'maxBufferedBytes');
  const isBounded = overflowOf(options.onOverflow ?? 'reject') === 'reject';
  return {
    republish: options.republish ?? true,
    maxBuffered: isBounded ? maxBuffered : Infinity,
    maxBufferedBytes: isBounded ? maxBufferedBytes : Infinity,
    maxInFlight: bound(options.maxInFlight ?? 4_096, 'maxInFlight', 1),
    maxInFlightBytes: bound(options.maxInFlightBytes ?? 16 * 1024 * 1024, 'maxInFlightBytes', 1),
    maxAge: timerMilliseconds(options.maxAge ?? '5m', 'maxAge'),
  };
}

/** Past the compiler, as all options. */
function overflowOf(value: string): string {
  if (value === 'reject' || value === 'wait') return value;
  throw new AmqpError('INVALID_OPTION', `onOverflow has to be 'reject' or 'wait'${itIs(value)}`);
}

function bound(value: number, option: string, least = 0): number {
  if (Number.isInteger(value) && value >= least) return value;
  throw new AmqpError('INVALID_OPTION', `${option} has to be an integer of ${least} or more${itIs(value)}`);
}
