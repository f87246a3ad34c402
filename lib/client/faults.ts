/** What the failures of a connection that comes back mean: try again, try again slowly, or give up. Plain state. */
import type { AmqpError } from '../errors.js';

/** What to do after a failure. */
export type Verdict = 'retry' | 'retry slowly' | 'give up';

/** So many connections in a row that ended over a broken protocol, and no more is tried: the next would end so, too. */
const MOST_BROKEN = 10;

/** Errors of a host that time will not mend. */
const PERMANENT = new Set([
  'INVALID_URL',
  'INVALID_OPTION',
  'AUTHENTICATION_FAILED',
  'VHOST_REFUSED',
  'NOT_AMQP',
  'VERSION_MISMATCH',
]);

const SETUP_FAULTS = new Set([
  'TOPOLOGY_CONFLICT',
  'TOPOLOGY_FAILED',
  'SETUP_FAILED',
  'INVALID_DEFINITION',
  'INVALID_ARGUMENT',
]);

export class Faults {
  readonly #newCredentials: boolean;
  /** The first connection has to come without a fault that time will not mend. */
  #firstIsRequired: boolean;
  /** Permanent failures in a row. */
  #permanent = 0;
  /** Connections in a row that ended over a broken protocol. */
  #broken = 0;

  /** @param options - `newCredentials`: every attempt has its own, so that a refusal of the last ones is not final */
  constructor(options: { readonly firstIsRequired: boolean; readonly newCredentials: boolean }) {
    this.#firstIsRequired = options.firstIsRequired;
    this.#newCredentials = options.newCredentials;
  }

  /** An attempt failed, before or while it was set up, with so many hosts to try. */
  attemptFailed(error: AmqpError, hosts: number): Verdict {
    this.#permanent = this.#isPermanent(error) ? this.#permanent + 1 : 0;
    if (isBroken(error)) this.#broken += 1;
    if (this.#broken >= MOST_BROKEN) return 'give up';
    const hopeless = this.#permanent > 0 && this.#permanent >= hosts;
    if (this.#firstIsRequired) return hopeless || isSetupFault(error) ? 'give up' : 'retry';
    return hopeless ? 'retry slowly' : 'retry';
  }

  /** A connection is set up. */
  opened(): void {
    this.#firstIsRequired = false;
    this.#permanent = 0;
  }

  /** A connection that was set up ended; `stable` when it had lasted. */
  ended(error: AmqpError | undefined, stable: boolean): Verdict {
    this.#broken = isBroken(error) && !stable ? this.#broken + 1 : 0;
    return this.#broken >= MOST_BROKEN ? 'give up' : 'retry';
  }

  /** Hanging up is no answer: so does a proxy in front of a broker that is still starting. */
  #isPermanent(error: AmqpError): boolean {
    if (error.code === 'AUTHENTICATION_FAILED' && this.#newCredentials) return false;
    return PERMANENT.has(error.code) && error.closedBy !== 'network';
  }
}

/**
 * One side broke the protocol, which is a bug of a peer and not of what was asked: 501 to 505 (specification, section 1.2), but
 * for 503, which RabbitMQ says also to an exchange type that it does not know.
 */
function isBroken(error: AmqpError | undefined): boolean {
  if (error?.code === 'PROTOCOL_ERROR') return true;
  const { replyCode = 0 } = error ?? {};
  return error?.code === 'CONNECTION_CLOSED' && replyCode >= 501 && replyCode <= 505 && replyCode !== 503;
}

/** A set-up that the broker refuses is a fault of what was declared; a lock (405) that a lost connection held goes with time. */
function isSetupFault(error: AmqpError): boolean {
  return error.replyCode !== 405 && SETUP_FAULTS.has(error.code);
}
