/** Waits that always end: by the event, by an `AbortSignal`, or by a deadline. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { AmqpError } from '../errors.js';
import { whenFired } from './signals.js';

/** Resolves after `ms` milliseconds, or as soon as the signal fires. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal });
  } catch {
    // Aborted: the caller looks at the signal.
  }
}

/** The result of `promise`, or a rejection with the signal's reason when it fires first. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  if (signal.aborted) {
    promise.catch(() => undefined);
    throw signal.reason as Error;
  }
  let unlisten: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    unlisten = whenFired(signal, () => {
      reject(signal.reason as Error);
    });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    unlisten?.();
  }
}

/** The result of `promise`; a rejection with what `late` makes after `ms` milliseconds, or with the signal's reason when it fires first. */
export async function orLate<T>(
  promise: Promise<T>,
  ms: number,
  late: () => AmqpError,
  signal: AbortSignal | undefined,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(late());
    }, ms);
  });
  try {
    return await orAborted(Promise.race([promise, deadline]), signal);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves when `work` is done, at the latest after `ms` milliseconds. What it rejects with, it rejects with. */
export async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const done = new AbortController();
  try {
    await Promise.race([work, pause(ms, done.signal)]);
  } finally {
    done.abort();
  }
}

/** Resolves when the signal fires. */
export async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    whenFired(signal, resolve);
  });
}

/** What ends: a connection or a channel. */
interface Mortal {
  /** Why it ended; undefined while it is open, and when it was closed on purpose. */
  readonly endError: AmqpError | undefined;
  /** False also while it is being closed. */
  readonly hasEnded: boolean;
  once(event: 'close', listener: (error: AmqpError | undefined) => void): unknown;
}

/** Resolves when it has ended: with the error, or with undefined when it was closed on purpose. */
export async function ended(mortal: Mortal): Promise<AmqpError | undefined> {
  return await new Promise((resolve) => {
    if (mortal.hasEnded) resolve(mortal.endError);
    else mortal.once('close', resolve);
  });
}

/** What may take no publishes for a while: a connection. */
interface Blockable {
  readonly blockedReason: string | undefined;
  on(event: 'unblocked' | 'close', listener: () => void): unknown;
  off(event: 'unblocked' | 'close', listener: () => void): unknown;
}

/** Resolves when the broker reads from the connection, or that has ended; rejects with the signal's reason. */
export async function unblocked(connection: Blockable, signal?: AbortSignal): Promise<void> {
  if (connection.blockedReason === undefined) return;
  let done: () => void = () => undefined;
  const waited = new Promise<void>((resolve) => {
    done = resolve;
    connection.on('unblocked', done);
    connection.on('close', done);
  });
  try {
    await orAborted(waited, signal);
  } finally {
    connection.off('unblocked', done);
    connection.off('close', done);
  }
}
