/** Telling an emitter's listeners something, so that one that throws keeps neither the others nor the caller from going on. */
import { inspect, types } from 'node:util';

interface Listeners<E extends string> {
  rawListeners(event: E): unknown[];
}

/** What `emit` does, except that what a listener throws goes to `failed`. */
export function tell<E extends string>(
  emitter: Listeners<E>,
  event: E,
  args: readonly unknown[],
  failed: (error: unknown) => void,
): void {
  // Raw, so that `once` listeners take themselves off the list; a copy, so that they may.
  for (const listener of emitter.rawListeners(event)) {
    try {
      Reflect.apply(listener as (...args: readonly unknown[]) => unknown, emitter, args);
    } catch (error) {
      failed(error);
    }
  }
}

/** Runs the user's code where nobody can do anything about what it throws, or rejects with: that becomes a process warning. */
export function quietly(run: () => unknown): void {
  try {
    const returned = run();
    if (types.isPromise(returned)) returned.catch(warnOf);
  } catch (error) {
    warnOf(error);
  }
}

/** Makes a process warning of what went wrong where nobody listens for it. */
export function warnOf(thrown: unknown): void {
  // As text: an Error of another realm, as test runners make them, is none to `emitWarning`.
  const { message, stack } = types.isNativeError(thrown) ? thrown : { message: inspect(thrown), stack: undefined };
  process.emitWarning(message, { code: 'NEST_AMQP_CALLBACK', ...(stack === undefined ? {} : { detail: stack }) });
}
