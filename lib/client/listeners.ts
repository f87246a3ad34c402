/** Telling an emitter's listeners something, so that one that throws keeps neither the others nor the caller from going on. */
import { inspect } from 'node:util';

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

/** Makes a process warning of what the user's code threw where nobody listens for it. */
export function warnOf(thrown: unknown): void {
  process.emitWarning(thrown instanceof Error ? thrown : inspect(thrown), { code: 'NEST_AMQP_CALLBACK' });
}
