/** What ends the wait for an answer, and the errors that say so. */
import { AmqpError } from '../errors.js';
import type { MethodName } from '../protocol/methods.js';
import type { RequestOptions } from './channel-options.js';
import { timerMilliseconds } from '../time/duration.js';
import { orLate } from './wait.js';

/**
 * An answer within its bounds, `usual` milliseconds where the options say nothing. Answers come in order, so a request whose
 * wait was ended keeps its place in the line: its late answer finds it there, and not the request behind it.
 */
export async function bounded<T>(
  name: MethodName,
  usual: number,
  { timeout, signal }: RequestOptions = {},
  ask: () => Promise<T>,
): Promise<T> {
  const limit = timeout === undefined ? usual : timerMilliseconds(timeout, 'timeout');
  if (hasFired(signal)) throw requestAborted(name, 'It was not sent.', signal?.reason);
  try {
    return await orLate(ask(), limit, () => notAnswered(name, limit), signal);
  } catch (error) {
    if (hasFired(signal) && error === signal?.reason) {
      throw requestAborted(name, 'The broker may carry it out all the same.', error);
    }
    // The error was made where the bytes came in; the stack that helps is the caller's.
    if (error instanceof AmqpError) Error.captureStackTrace(error);
    throw error;
  }
}

export function notAnswered(name: MethodName, limit: number): AmqpError {
  return new AmqpError(
    'REQUEST_TIMEOUT',
    `The broker did not answer ${name} within ${limit} ms. It may carry it out still; a blocked or overloaded broker takes ` +
      'long. Wait longer (timeout, or requestTimeout of the connection), or close the channel.',
    { method: name },
  );
}

export function requestAborted(name: MethodName, fate: string, cause: unknown): AmqpError {
  return new AmqpError('ABORTED', `The wait for the answer to ${name} was aborted. ${fate}`, { method: name, cause });
}

/** What `waitForConfirms` waits for: the ledger of confirms. */
interface Confirms {
  readonly outstanding: number;
  settled(): Promise<void>;
}

/** The wait for confirms within its bounds. */
export async function confirmsWithin(
  confirms: Confirms,
  usual: number,
  { timeout, signal }: RequestOptions = {},
): Promise<void> {
  const limit = timeout === undefined ? usual : timerMilliseconds(timeout, 'timeout');
  const unconfirmed = (): string => `${confirms.outstanding} publishes are unconfirmed`;
  const late = (): AmqpError =>
    new AmqpError('REQUEST_TIMEOUT', `${unconfirmed()} after ${limit} ms. Wait longer (timeout).`, {
      method: 'basic.publish',
    });
  const aborted = (cause: unknown): AmqpError =>
    new AmqpError('ABORTED', `The wait for confirms was aborted while ${unconfirmed()}.`, { cause });
  if (hasFired(signal)) throw aborted(signal?.reason);
  try {
    await orLate(confirms.settled(), limit, late, signal);
  } catch (error) {
    throw hasFired(signal) && error === signal?.reason ? aborted(error) : error;
  }
}

/** Looked at anew every time: the compiler takes `aborted` for what it was. */
export function hasFired(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true;
}

/** True when the wait for an answer was given up, and the answer may still come. */
export function isEndedWait(error: unknown): boolean {
  return error instanceof AmqpError && (error.code === 'REQUEST_TIMEOUT' || error.code === 'ABORTED');
}
