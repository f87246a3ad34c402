/**
 * What was declared through the handles of one `AmqpConnection` and still stands, and how it is declared again on a new
 * connection. What the application's own set-ups declare is not recorded: they run again as they are.
 *
 * A queue that the broker named gets another name every time it is declared. It goes on answering to the names it had: its
 * bindings, its consumers and whoever holds the name that `queueDeclare` once returned.
 */
import { AmqpError, printable, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { Backoff } from './backoff.js';
import type { Channel } from './channel.js';
import type { ExchangeDeclareOptions, QueueDeclareOptions } from './channel-options.js';
import type { Connection } from './connection.js';
import { Lock } from './queue-lock.js';
import { pause } from './wait.js';

/** Something that is recorded, as a filter sees it. */
export type RecordedEntity =
  | { readonly kind: 'exchange'; readonly name: string }
  | { readonly kind: 'queue'; readonly name: string }
  | {
      readonly kind: 'binding';
      readonly source: string;
      readonly destination: string;
      readonly destinationKind: 'queue' | 'exchange';
      readonly routingKey: string;
    };

/** Says what is worth declaring again. */
export type TopologyFilter = (entity: RecordedEntity) => boolean;

/** A binding to say again, or to forget. */
export interface BindingFacts {
  readonly kind: 'queue' | 'exchange';
  readonly destination: string;
  readonly source: string;
  readonly routingKey: string;
  readonly arguments: FieldTable;
}

interface RecordedExchange {
  readonly name: string;
  readonly type: string;
  readonly options: ExchangeDeclareOptions;
}

interface RecordedQueue {
  /** Its present name. */
  name: string;
  /** The name that it was first told by, and the one before the present one. */
  readonly firstName: string;
  previousName: string;
  readonly isServerNamed: boolean;
  readonly options: QueueDeclareOptions;
  /** Consumers started through the handles: the last one takes a queue with autoDelete along. */
  consumers: number;
  /** While it is declared again because it was found gone. */
  declaring?: Promise<void> | undefined;
}

/** One declaration that is said again. */
interface Step {
  readonly what: string;
  readonly declare: (channel: Channel) => Promise<unknown>;
  /** It is not there any more, or not as declared. */
  readonly forget: () => void;
  /** Says whether a refusal because something is missing (404) is to be left to the caller. */
  readonly missing?: () => 'again' | 'later';
  /** What it needs, in the broker's words: `exchange 'orders'`. */
  readonly needs?: readonly string[];
}

/** A step that the broker refused. */
interface Refusal {
  readonly step: Step;
  readonly error: AmqpError;
}

/** What somebody outside is told of while everything is declared again. */
export interface TopologyListener {
  renamed(from: string, to: string): void;
  /** The broker refuses a declaration that it once took; it is forgotten. */
  refused(error: AmqpError): void;
}

/** So often everything is declared while something is missing that was declared just before. */
const ROUNDS = 5;

export class TopologyRecord {
  readonly #isWanted: TopologyFilter;
  readonly #listener: TopologyListener;
  readonly #exchanges = new Map<string, RecordedExchange>();
  /** By present name. */
  readonly #queues = new Map<string, RecordedQueue>();
  readonly #bindings = new Map<string, BindingFacts>();
  /** Queues by the names that they no longer have. */
  readonly #formerNames = new Map<string, RecordedQueue>();
  /** Names of queues by what an application calls them, whose set-up declares them. */
  readonly #aliases = new Map<string, string>();

  constructor(isWanted: TopologyFilter, listener: TopologyListener) {
    this.#isWanted = isWanted;
    this.#listener = listener;
  }

  /** How many exchanges, queues and bindings are recorded. */
  get size(): number {
    return this.#exchanges.size + this.#queues.size + this.#bindings.size;
  }

  /** The present name of a queue. */
  current(queue: string): string {
    const alias = this.#aliases.size === 0 ? undefined : this.#aliases.get(queue);
    if (alias !== undefined) return alias;
    return this.#formerNames.size === 0 ? queue : (this.#formerNames.get(queue)?.name ?? queue);
  }

  /** A set-up has declared a queue that the broker named: `current(alias)` is its name from now on. */
  knownAs(alias: string, name: string): void {
    this.#aliases.set(alias, name);
  }

  hasQueue(queue: string): boolean {
    return this.#queues.has(this.current(queue));
  }

  /** Whether it was declared as a stream here. */
  isStream(queue: string): boolean {
    return this.#queues.get(this.current(queue))?.options.arguments?.['x-queue-type'] === 'stream';
  }

  // ── what is said ──────────────────────────────────────────────────────────────────────────────────────────────────

  exchangeDeclared(name: string, type: string, options: ExchangeDeclareOptions = {}): void {
    // amq.* exchanges are the broker's own.
    if (options.passive === true || name.startsWith('amq.')) return;
    if (this.#isWanted({ kind: 'exchange', name }))
      this.#exchanges.set(name, { name, type, options: lasting(options) });
  }

  exchangeDeleted(name: string): void {
    this.#exchanges.delete(name);
    this.#unbindAll(
      ({ source, destination, kind }) => source === name || (kind === 'exchange' && destination === name),
    );
  }

  /** `requested` is empty for a queue that the broker named. */
  queueDeclared(requested: string, name: string, options: QueueDeclareOptions = {}): void {
    if (options.passive === true || !this.#isWanted({ kind: 'queue', name })) return;
    const isServerNamed = requested === '';
    const names = { name, firstName: name, previousName: name };
    const consumers = this.#queues.get(name)?.consumers ?? 0;
    this.#queues.set(name, { ...names, isServerNamed, options: lasting(options), consumers });
  }

  queueDeleted(queue: string): void {
    const name = this.current(queue);
    const recorded = this.#queues.get(name);
    if (recorded !== undefined) this.#forgetQueue(recorded);
    this.#unbindAll(({ kind, destination }) => kind === 'queue' && destination === name);
  }

  bound(binding: BindingFacts): void {
    const facts = this.#present(binding);
    const { kind: destinationKind, source, destination, routingKey } = facts;
    if (this.#isWanted({ kind: 'binding', source, destination, destinationKind, routingKey }))
      this.#bindings.set(keyOf(facts), facts);
  }

  unbound(binding: BindingFacts): void {
    const facts = this.#present(binding);
    if (this.#bindings.delete(keyOf(facts))) this.#forgetUnused(facts.source);
  }

  consumerStarted(queue: string): void {
    const recorded = this.#queues.get(this.current(queue));
    if (recorded !== undefined) recorded.consumers += 1;
  }

  /** The broker deletes a queue with autoDelete when its last consumer goes. */
  consumerEnded(queue: string): void {
    const recorded = this.#queues.get(this.current(queue));
    if (recorded === undefined) return;
    recorded.consumers -= 1;
    const autoDelete = recorded.options.autoDelete ?? recorded.isServerNamed;
    if (recorded.consumers === 0 && autoDelete) this.queueDeleted(recorded.name);
  }

  // ── saying it again ───────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Declares everything on a new connection: exchanges, queues, bindings. While the broker clears up after the lost connection
   * it deletes its exclusive queues, and with their bindings what is auto-deleted, also what was found there a moment before.
   * What is missing for a binding is therefore declared again, from the exchanges on.
   */
  async declareAll(connection: Connection, signal: AbortSignal): Promise<void> {
    if (this.size === 0) return;
    const backoff = new Backoff();
    const named = new Set<string>();
    for (let round = 1; ; round += 1) {
      const steps = [...this.#exchanges.values()].map((exchange) => this.#exchangeStep(exchange));
      await this.#say(connection, steps, signal);
      const queues = [...this.#queues.values()].map((queue) => this.#queueStep(queue, named));
      await this.#say(connection, queues, signal);
      const bindings = [...this.#bindings.values()].map((binding) => this.#bindingStep(binding));
      const refusals = await this.#say(connection, bindings, signal);
      if (refusals.length === 0) return;
      if (round === ROUNDS) {
        for (const refusal of refusals) this.#forget(refusal);
        return;
      }
      await pause(backoff.next(), signal);
      signal.throwIfAborted();
    }
  }

  /**
   * Declares one queue with its bindings and their exchanges, because it is gone. Of several consumers that find it gone each
   * asks; it is declared once, and not again when it has another name by now.
   */
  async declareQueue(connection: Connection, queue: string, signal: AbortSignal): Promise<void> {
    const recorded = this.#queues.get(this.current(queue));
    if (recorded?.isServerNamed === true && recorded.name !== queue) return;
    if (recorded === undefined) return;
    recorded.declaring ??= this.#declareQueue(connection, recorded, signal).finally(() => {
      recorded.declaring = undefined;
    });
    await recorded.declaring;
  }

  async #declareQueue(connection: Connection, recorded: RecordedQueue, signal: AbortSignal): Promise<void> {
    const bindings = (): BindingFacts[] =>
      [...this.#bindings.values()].filter(({ kind, destination }) => kind === 'queue' && destination === recorded.name);
    const sources = new Set(bindings().map(({ source }) => source));
    const exchanges = [...this.#exchanges.values()].filter(({ name }) => sources.has(name));
    const exchangeSteps = exchanges.map((exchange) => this.#exchangeStep(exchange));
    await this.#say(connection, [...exchangeSteps, this.#queueStep(recorded, new Set())], signal);
    const steps = bindings().map((binding) => this.#bindingStep(binding));
    for (const refusal of await this.#say(connection, steps, signal)) this.#forget(refusal);
  }

  /**
   * Says the steps over a channel of their own, all of them at once: answers come in order, so that the first refusal is the
   * first step that was not carried out, and those behind it are said again over the next channel. Returns those that wait
   * for something that is missing.
   */
  async #say(connection: Connection, steps: readonly Step[], signal: AbortSignal): Promise<Refusal[]> {
    const lock = new Lock(connection.heartbeat);
    const later: Refusal[] = [];
    let left = steps;
    while (left.length > 0) {
      const channel = await connection.channel({ signal });
      const outcomes = await Promise.allSettled(left.map((step) => step.declare(channel)));
      await channel.close();
      const first = outcomes.findIndex(({ status }) => status === 'rejected');
      if (first === -1) break;
      const [step, outcome] = [left[first] as Step, outcomes[first] as PromiseRejectedResult];
      const error: unknown = outcome.reason;
      if (!(error instanceof AmqpError) || error.replyCode === undefined || !connection.isOpen) throw error;
      const missing = error.replyCode === 404 ? step.missing?.() : undefined;
      const isSaidAgain = missing === 'again' || (error.replyCode === 405 && (await lock.waitsFor(signal)));
      if (missing !== 'later') {
        if (!isSaidAgain) this.#forget({ step, error });
        left = left.slice(isSaidAgain ? first : first + 1);
        continue;
      }
      // What is missing for one is missing for all that need it: saying each of them would cost a channel each.
      const rest = left.slice(first);
      const isHopeless = (other: Step): boolean =>
        other === step || other.needs?.some((need) => error.replyText?.includes(`no ${need} in vhost`)) === true;
      later.push(...rest.filter(isHopeless).map((hopeless) => ({ step: hopeless, error })));
      left = rest.filter((other) => !isHopeless(other));
    }
    return later;
  }

  #forget({ step, error }: Refusal): void {
    step.forget();
    this.#listener.refused(
      new AmqpError(
        'TOPOLOGY_FAILED',
        `After the connection was lost the ${step.what} could not be declared again, and is forgotten. ${error.message}`,
        { replyCode: error.replyCode, replyText: error.replyText, method: error.method, cause: error },
      ),
    );
  }

  #exchangeStep({ name, type, options }: RecordedExchange): Step {
    return {
      what: `exchange ${quoted(name)}`,
      declare: (channel) => channel.exchangeDeclare(name, type, options),
      forget: () => {
        this.exchangeDeleted(name);
      },
    };
  }

  /** @param named - the names that the broker has made up on this connection: asked for again, it would make up others */
  #queueStep(queue: RecordedQueue, named: Set<string>): Step {
    const { isServerNamed, options } = queue;
    return {
      what: `queue ${quoted(queue.name)}`,
      declare: async (channel) => {
        if (named.has(queue.name)) {
          await channel.queueDeclare(queue.name, { passive: true });
          return;
        }
        const declared = await channel.queueDeclare(isServerNamed ? '' : queue.name, options);
        if (isServerNamed) named.add(declared.queue);
        if (declared.queue !== queue.name) this.#rename(queue, declared.queue);
      },
      forget: () => {
        this.queueDeleted(queue.name);
      },
      missing: () => {
        named.delete(queue.name);
        return 'again';
      },
    };
  }

  #bindingStep(binding: BindingFacts): Step {
    const { kind, destination, source, routingKey, arguments: args } = binding;
    return {
      what: `binding of ${kind} ${quoted(destination)} to exchange ${quoted(source)} with key '${printable(routingKey)}'`,
      declare: (channel) =>
        kind === 'queue'
          ? channel.queueBind(destination, source, routingKey, args)
          : channel.exchangeBind(destination, source, routingKey, args),
      forget: () => {
        this.unbound(binding);
      },
      missing: () => 'later',
      needs: [`exchange '${source}'`, `${kind} '${destination}'`],
    };
  }

  // ── bookkeeping ───────────────────────────────────────────────────────────────────────────────────────────────────

  #rename(queue: RecordedQueue, name: string): void {
    const before = queue.name;
    // Of the names between the first and the present one only the last is kept: a name for each loss would add up.
    if (queue.previousName !== queue.firstName) this.#formerNames.delete(queue.previousName);
    queue.previousName = before;
    queue.name = name;
    this.#queues.delete(before);
    this.#queues.set(name, queue);
    this.#formerNames.set(queue.firstName, queue);
    this.#formerNames.set(before, queue);
    for (const [key, facts] of [...this.#bindings]) {
      if (facts.kind !== 'queue' || facts.destination !== before) continue;
      const renamed = { ...facts, destination: name };
      this.#bindings.delete(key);
      this.#bindings.set(keyOf(renamed), renamed);
    }
    this.#listener.renamed(before, name);
  }

  #forgetQueue(queue: RecordedQueue): void {
    this.#queues.delete(queue.name);
    this.#formerNames.delete(queue.firstName);
    this.#formerNames.delete(queue.previousName);
  }

  #unbindAll(isGone: (facts: BindingFacts) => boolean): void {
    const sources = new Set<string>();
    for (const [key, facts] of this.#bindings) {
      if (!isGone(facts)) continue;
      this.#bindings.delete(key);
      sources.add(facts.source);
    }
    for (const source of sources) this.#forgetUnused(source);
  }

  /** The broker deletes an exchange with autoDelete when its last binding goes. */
  #forgetUnused(exchange: string): void {
    if (this.#exchanges.get(exchange)?.options.autoDelete !== true) return;
    for (const { source } of this.#bindings.values()) if (source === exchange) return;
    this.exchangeDeleted(exchange);
  }

  /** The binding with its queue's present name. */
  #present(binding: BindingFacts): BindingFacts {
    return binding.kind === 'queue' ? { ...binding, destination: this.current(binding.destination) } : binding;
  }
}

/** The options that describe the entity, without those that describe one request. */
function lasting<T extends ExchangeDeclareOptions>(options: T): T {
  return { ...options, noWait: undefined, signal: undefined, timeout: undefined };
}

function keyOf({ kind, destination, source, routingKey, arguments: args }: BindingFacts): string {
  const text = JSON.stringify(args, (_, value: unknown) => (typeof value === 'bigint' ? `${value}n` : value));
  return JSON.stringify([kind, destination, source, routingKey, text]);
}
