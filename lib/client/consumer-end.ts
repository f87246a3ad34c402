/** How the consuming of an `AmqpConsumer` ends, and the error that stands for what its owner threw. */
import { AmqpError, printable } from '../errors.js';

export type End =
  | { readonly how: 'paused' }
  /** With the error of the channel, when there is one. */
  | Lost;

export interface Lost {
  readonly how: 'lost';
  readonly why: string;
  readonly error: AmqpError | undefined;
}

export function lost(why: string, error?: AmqpError): Lost {
  return { how: 'lost', why, error };
}

export function asAmqpError(thrown: unknown): AmqpError {
  if (thrown instanceof AmqpError) return thrown;
  const said = thrown instanceof Error ? printable(thrown.message) : '';
  return new AmqpError('SETUP_FAILED', `Preparing a consumer failed: ${said}`, { cause: thrown });
}
