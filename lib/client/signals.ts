/**
 * Listening to the signals of users: with one listener on each, however many wait for it, because Node.js warns of a leak from
 * the eleventh on. What a signal ends is decided by who waits.
 */
import { inspect } from 'node:util';
import { AmqpError, printable } from '../errors.js';

const waiting = new WeakMap<AbortSignal, Waiting>();

/** Who waits for a signal, and its one listener. */
interface Waiting {
  readonly calls: Set<() => void>;
  readonly listener: () => void;
}

/** Calls it when the signal fires, which it has not yet; it must not throw, and is no one else's. The function returned takes it back. */
export function whenFired(signal: AbortSignal, call: () => void): () => void {
  const known = waiting.get(signal) ?? listenTo(signal);
  known.calls.add(call);
  return () => {
    if (!known.calls.delete(call) || known.calls.size > 0) return;
    signal.removeEventListener('abort', known.listener);
    waiting.delete(signal);
  };
}

function listenTo(signal: AbortSignal): Waiting {
  const calls = new Set<() => void>();
  const listener = (): void => {
    waiting.delete(signal);
    // One that is taken back by another is not called any more.
    for (const call of calls) {
      calls.delete(call);
      call();
    }
  };
  signal.addEventListener('abort', listener, { once: true });
  const known = { calls, listener };
  waiting.set(signal, known);
  return known;
}

/** Throws `INVALID_OPTION` for what is no signal, past the compiler too. */
export function checkSignal(signal: AbortSignal | undefined, of: string): void {
  const said: unknown = signal;
  if (said === undefined || (typeof said === 'object' && said !== null && 'addEventListener' in said)) return;
  throw new AmqpError('INVALID_OPTION', `signal of ${of} is ${printable(inspect(said), 60)}; give it an AbortSignal.`);
}
