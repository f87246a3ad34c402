/** The brokers of this process by name: which are there, and which were made on purpose and are closed. */
import { AmqpError, quoted } from '../errors.js';

/** A name is free again when its broker is closed; whether `embedded:NAME` may then start another one is remembered here. */
export class BrokerNames<Broker> {
  readonly #brokers = new Map<string, Broker>();
  /** Names of brokers that somebody made and closed: a client that still tries to come back must not start another one. */
  readonly #closed = new Set<string>();
  #count = 0;

  get(name: string): Broker | undefined {
    return this.#brokers.get(name);
  }

  /** Whether a broker of that name was made, and closed, and none was made since. */
  isClosed(name: string): boolean {
    return this.#closed.has(name);
  }

  /** A name that no broker has. */
  free(): string {
    for (;;) {
      this.#count += 1;
      const name = `broker-${this.#count}`;
      if (!this.#brokers.has(name)) return name;
    }
  }

  /** Throws `INVALID_OPTION` for a name that is taken. */
  refuseTaken(name: string): void {
    if (!this.#brokers.has(name)) return;
    throw new AmqpError(
      'INVALID_OPTION',
      `There is an embedded broker ${quoted(name)} in this process already. Close it, or choose another name.`,
    );
  }

  add(name: string, broker: Broker): void {
    this.#brokers.set(name, broker);
    this.#closed.delete(name);
  }

  /** @param staysClosed - `embedded:NAME` starts no other of that name */
  delete(name: string, staysClosed: boolean): void {
    this.#brokers.delete(name);
    if (staysClosed) this.#closed.add(name);
  }
}
