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
}

/** One declaration that is said again. */
interface Step {
  readonly what: string;
  readonly declare: (channel: Channel) => Promise<unknown>;
  /** It is not there any more, or not as declared. */
  readonly forget: () => void;
  /** For a binding: declares its queue anew when that is gone. */
  readonly queue?: RecordedQueue | undefined;
}

/** What somebody outside is told of while everything is declared again. */
export interface TopologyListener {
  renamed(from: string, to: string): void;
  /** The broker refuses a declaration that it once took; it is forgotten. */
  refused(error: AmqpError): void;
}

/** A lock that a lost connection held is gone after three heartbeats at the latest; and a little more. */
const LOCK_SLACK = 5_000;
const LOCK_WITHOUT_HEARTBEAT = 30_000;

export class TopologyRecord {
  readonly #isWanted: TopologyFilter;
  readonly #listener: TopologyListener;
  readonly #exchanges = new Map<string, RecordedExchange>();
  /** By present name. */
  readonly #queues = new Map<string, RecordedQueue>();
  readonly #bindings = new Map<string, BindingFacts>();
  /** Queues by the names that they no longer have. */
  readonly #formerNames = new Map<string, RecordedQueue>();

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
    return this.#formerNames.size === 0 ? queue : (this.#formerNames.get(queue)?.name ?? queue);
  }

  hasQueue(queue: string): boolean {
    return this.#queues.has(this.current(queue));
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

  /** Declares everything on a new connection: exchanges, queues, bindings. */
  async declareAll(connection: Connection, signal: AbortSignal): Promise<void> {
    if (this.size === 0) return;
    await this.#say(
      connection,
      [...this.#exchanges.values()].map((exchange) => this.#exchangeStep(exchange)),
      signal,
    );
    await this.#say(
      connection,
      [...this.#queues.values()].map((queue) => this.#queueStep(queue)),
      signal,
    );
    await this.#say(
      connection,
      [...this.#bindings.values()].map((binding) => this.#bindingStep(binding)),
      signal,
    );
  }

  /** Declares one queue and its bindings, because it is gone. */
  async declareQueue(connection: Connection, queue: string, signal: AbortSignal): Promise<void> {
    const recorded = this.#queues.get(this.current(queue));
    if (recorded === undefined) return;
    await this.#say(connection, [this.#queueStep(recorded)], signal);
    const bindings = [...this.#bindings.values()].filter((facts) => this.#queueOf(facts) === recorded);
    await this.#say(
      connection,
      bindings.map((binding) => ({ ...this.#bindingStep(binding), queue: undefined })),
      signal,
    );
  }

  /**
   * Says the steps over a channel of their own, all of them at once: answers come in order, so that the first refusal is the
   * first step that was not carried out, and those behind it are said again over the next channel.
   */
  async #say(connection: Connection, steps: readonly Step[], signal: AbortSignal): Promise<void> {
    const lock = new Lock(connection.heartbeat);
    let left = steps;
    while (left.length > 0) {
      const channel = await connection.channel({ signal });
      const outcomes = await Promise.allSettled(left.map((step) => step.declare(channel)));
      await channel.close();
      const first = outcomes.findIndex(({ status }) => status === 'rejected');
      if (first === -1) return;
      const [step, outcome] = [left[first] as Step, outcomes[first] as PromiseRejectedResult];
      const error: unknown = outcome.reason;
      if (!(error instanceof AmqpError) || error.replyCode === undefined || !connection.isOpen) throw error;
      const isSaidAgain = await this.#refused(connection, step, error, lock, signal);
      left = left.slice(isSaidAgain ? first : first + 1);
    }
  }

  /** Deals with a refusal; says whether the step is worth saying again. */
  async #refused(
    connection: Connection,
    step: Step,
    error: AmqpError,
    lock: Lock,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (error.replyCode === 405 && (await lock.waitsFor(signal))) return true;
    if (error.replyCode === 404 && step.queue !== undefined && this.#queues.get(step.queue.name) === step.queue) {
      // It vanished between its declaration and its binding, as exclusive and auto-deleted queues may.
      await this.declareQueue(connection, step.queue.name, signal);
      return false;
    }
    step.forget();
    this.#listener.refused(
      new AmqpError(
        'TOPOLOGY_FAILED',
        `After the connection was lost the ${step.what} could not be declared again, and is forgotten. ${error.message}`,
        { replyCode: error.replyCode, replyText: error.replyText, method: error.method, cause: error },
      ),
    );
    return false;
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

  #queueStep(queue: RecordedQueue): Step {
    const { name, isServerNamed, options } = queue;
    return {
      what: `queue ${quoted(name)}`,
      declare: async (channel) => {
        const declared = await channel.queueDeclare(isServerNamed ? '' : name, options);
        if (declared.queue !== name) this.#rename(queue, declared.queue);
      },
      forget: () => {
        this.queueDeleted(name);
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
      queue: this.#queueOf(binding),
    };
  }

  // ── bookkeeping ───────────────────────────────────────────────────────────────────────────────────────────────────

  #queueOf({ kind, destination }: BindingFacts): RecordedQueue | undefined {
    return kind === 'queue' ? this.#queues.get(destination) : undefined;
  }

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

/** Waits for a queue that a connection still holds which the broker has not noticed to be lost (405), with an end. */
class Lock {
  readonly #backoff = new Backoff();
  readonly #giveUpAt: number;

  constructor(heartbeat: number) {
    this.#giveUpAt = performance.now() + (heartbeat === 0 ? LOCK_WITHOUT_HEARTBEAT : heartbeat * 3 + LOCK_SLACK);
  }

  async waitsFor(signal: AbortSignal): Promise<boolean> {
    if (performance.now() > this.#giveUpAt) return false;
    await pause(this.#backoff.next(), signal);
    signal.throwIfAborted();
    return true;
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
