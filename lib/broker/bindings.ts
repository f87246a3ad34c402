/** All bindings of a virtual host, so that what is deleted takes its bindings along. Routing is the exchanges'. */
import { canonical } from './argument-values.js';
import { type Binding, Exchange } from './exchange.js';
import type { MessageQueue } from './message-queue.js';

type End = MessageQueue | Exchange;

export class Bindings {
  readonly #bySource = new Map<Exchange, Map<string, Binding>>();
  readonly #byDestination = new Map<End, Set<Binding>>();
  readonly #orphaned: (exchange: Exchange) => void;
  /** Auto-delete exchanges that are to go. */
  readonly #orphans: Exchange[] = [];
  #isReleasing = false;
  readonly #ids = new WeakMap<End, number>();
  #lastId = 0;

  /** @param orphaned - called when an auto-delete exchange has lost its last binding */
  constructor(orphaned: (exchange: Exchange) => void) {
    this.#orphaned = orphaned;
  }

  /** Does nothing when there is such a binding already. */
  add(binding: Binding): void {
    let bindings = this.#bySource.get(binding.source);
    if (bindings === undefined) this.#bySource.set(binding.source, (bindings = new Map<string, Binding>()));
    const key = this.#key(binding);
    if (bindings.has(key)) return;
    bindings.set(key, binding);
    binding.source.add(binding);
    const incoming = this.#byDestination.get(binding.destination);
    if (incoming === undefined) this.#byDestination.set(binding.destination, new Set([binding]));
    else incoming.add(binding);
  }

  /** True for a binding with the same ends, key and arguments. */
  has(like: Binding): boolean {
    return this.#bySource.get(like.source)?.has(this.#key(like)) === true;
  }

  /** Removes the binding with the same ends, key and arguments, if there is one. */
  remove(like: Binding): void {
    const binding = this.#bySource.get(like.source)?.get(this.#key(like));
    if (binding !== undefined) this.#drop(binding);
    this.#releaseOrphans();
  }

  /** Removes what leads to it and, of an exchange, what leads out of it. */
  removeEnd(end: End): void {
    if (end instanceof Exchange) {
      const outgoing = this.#bySource.get(end);
      this.#bySource.delete(end);
      for (const binding of outgoing?.values() ?? []) this.#forget(binding);
    }
    for (const binding of [...(this.#byDestination.get(end) ?? [])]) this.#drop(binding);
    this.#releaseOrphans();
  }

  /** One after the other, however long a chain of exchanges is that go because of each other. */
  #releaseOrphans(): void {
    if (this.#isReleasing) return;
    this.#isReleasing = true;
    for (let next = this.#orphans.pop(); next !== undefined; next = this.#orphans.pop()) this.#orphaned(next);
    this.#isReleasing = false;
  }

  /** True when a binding leads out of it. */
  isUsed(exchange: Exchange): boolean {
    return this.#bySource.has(exchange);
  }

  *[Symbol.iterator](): Iterator<Binding> {
    for (const bindings of this.#bySource.values()) yield* bindings.values();
  }

  #drop(binding: Binding): void {
    this.#forget(binding);
    const { source } = binding;
    const bindings = this.#bySource.get(source);
    bindings?.delete(this.#key(binding));
    if (bindings?.size !== 0) return;
    this.#bySource.delete(source);
    if (source.autoDelete) this.#orphans.push(source);
  }

  #forget(binding: Binding): void {
    binding.source.remove(binding);
    const incoming = this.#byDestination.get(binding.destination);
    incoming?.delete(binding);
    if (incoming?.size === 0) this.#byDestination.delete(binding.destination);
  }

  /** The same for bindings with the same destination, key and arguments. */
  #key({ destination, routingKey, arguments: args }: Binding): string {
    let id = this.#ids.get(destination);
    if (id === undefined) this.#ids.set(destination, (id = this.#lastId += 1));
    return `${id} ${routingKey.length} ${routingKey}${canonical(args)}`;
  }
}
