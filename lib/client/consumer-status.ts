/**
 * Where a consumer stands, and what a start that failed means for it. How it gets from one state to the next is `AmqpConsumer`'s.
 *
 * ```
 *   idle ──start()──► starting ──consume-ok──► running ──lost──► recovering ──consume-ok──► running
 *                        └──────────────refused────────────────►     │  ▲
 *                                                            refused │  │ refused, but time may mend it
 *                                                 for good reason    ▼  │
 *                                                                  failed ──consume-ok──► running
 *
 *   lost         its channel or its connection has ended, or the broker has cancelled it: the queue is deleted, its node is down
 *   recovering   starts again by itself, after ever longer waits; resume() tries at once
 *   failed       so, too, with the longest waits
 *
 *   starting, running, recovering, failed ──pause()──► paused ──resume()──► starting
 *   any but idle ──stop()──► stopping ──all answered, or out of time──► stopped
 *   starting ──first attempt refused, where start() waits for it; or the connection closed for good──► stopped
 * ```
 */
import { AmqpError } from '../errors.js';

/** Why a consumer does not run, and when it is tried again. */
export interface Setback {
  /** When it came to this state; further attempts that fail alike do not change it. */
  readonly since: Date;
  /** What happened last, as a sentence. */
  readonly why: string;
  /** When it is tried again; undefined while that waits for a connection. */
  readonly nextAttempt: Date | undefined;
  /** Attempts that failed since it last ran. */
  readonly attempts: number;
}

/**
 * Where a consumer stands. `recovering`: it starts again by itself, after ever longer waits. `failed`: the broker refuses it for
 * a reason that time will hardly mend, such as a missing permission (403) or a queue that has other properties (406); it is tried
 * again all the same, with the longest waits. `stopped` has an error when it did not stop on purpose.
 */
export type ConsumerStatus =
  | { readonly state: 'idle'; readonly since: Date }
  | { readonly state: 'starting'; readonly since: Date }
  | { readonly state: 'running'; readonly since: Date }
  | { readonly state: 'paused'; readonly since: Date }
  | ({ readonly state: 'recovering'; readonly error: AmqpError | undefined } & Setback)
  | ({ readonly state: 'failed'; readonly error: AmqpError } & Setback)
  | { readonly state: 'stopping'; readonly since: Date }
  | { readonly state: 'stopped'; readonly since: Date; readonly error: AmqpError | undefined };

export type ConsumerState = ConsumerStatus['state'];

/** True for the end of a connection, as against an answer that the next attempt would get again. */
export function isLoss(error: unknown): boolean {
  return (
    error instanceof AmqpError &&
    (error.code === 'CONNECTION_LOST' || (error.code === 'CONNECTION_CLOSED' && error.method === undefined))
  );
}

/** True when the broker has no such queue (404). */
export function isQueueMissing(error: unknown): boolean {
  return error instanceof AmqpError && error.replyCode === 404;
}

/**
 * Refusals that stay until somebody changes the application or the broker (specification, 1.2): access-refused, not-found,
 * precondition-failed, not-allowed, not-implemented. A locked queue (405) and an internal error (541) are not among them.
 */
const HOPELESS_REPLIES = new Set([403, 404, 406, 530, 540]);

const HOPELESS_CODES = new Set(['INVALID_ARGUMENT', 'INVALID_DEFINITION', 'INVALID_OPTION']);

/** What RabbitMQ says with the same codes about what passes: another consumer's exclusive use, and a queue whose node is down. */
const PASSING = /in exclusive use|down or inaccessible/;

/** True for the failure of a start that the next one will hardly escape. */
export function isHopeless(error: AmqpError): boolean {
  const { code, replyCode, replyText = '', method } = error;
  if (replyCode === undefined) return HOPELESS_CODES.has(code);
  // A queue that is gone again although it was there, or declared, in the same attempt: somebody deletes it meanwhile.
  if (replyCode === 404 && method === 'basic.consume') return false;
  return HOPELESS_REPLIES.has(replyCode) && !PASSING.test(replyText);
}
