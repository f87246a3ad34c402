/**
 * The topology of one `AmqpConnection`: what all places declare, applied to every new connection, and for one queue when a
 * consumer finds it gone. How it is applied is `topology`'s, what there is to declare `topology-plan`'s.
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import { Backoff } from '../client/backoff.js';
import type { Connection } from '../client/connection.js';
import { quietly } from '../client/listeners.js';
import { ended, pause } from '../client/wait.js';
import { AmqpError, printable, quoted } from '../errors.js';
import type { Broker, CheckedConsumer } from './check-facts.js';
import type { QueueDefinition, Topology } from './definitions.js';
import type { Log } from './log.js';
import { type ApplyOptions, applyTopology, isOwn, isThere, refusedPart, topologyOf } from './topology.js';
import { type TopologyEntity, TopologyError, missing } from './topology-error.js';
import { type CheckLevels, type Finding, brokerOf, findingsOf, missingOf } from './topology-checks.js';
import { TopologyPlan, type PlannedTopology } from './topology-plan.js';

export interface ConnectionTopologyOptions {
  readonly mode: 'declare' | 'check';
  readonly onConflict: 'fail' | 'warn';
  readonly checks: CheckLevels;
  readonly log: Log;
}

export class ConnectionTopology {
  readonly #connection: AmqpConnection;
  readonly #plan = new TopologyPlan();
  /** By the options that say it. */
  readonly #consumers = new Map<object, Map<string, CheckedConsumer>>();
  /** Which broker, and how many consumers, were looked at. */
  #inspected = '';
  #inspecting: Promise<void> | undefined;
  readonly #options: ConnectionTopologyOptions;
  #topology: PlannedTopology | undefined;
  /** It was applied once: what is refused from now on is no reason to do without a connection. */
  #hasWorked = false;
  /** What was logged, so that it is logged once. */
  readonly #told = new Set<string>();
  /** Queues that are looked for, and declared where they are gone. */
  readonly #ensuring = new Map<string, Promise<void>>();
  /** Queues that may be there without all that belongs to them: what was added late, or was refused. */
  readonly #unfinished = new Set<string>();

  constructor(connection: AmqpConnection, options: ConnectionTopologyOptions) {
    this.#connection = connection;
    this.#options = options;
  }

  /** See `TopologyPlan.add`. */
  add(topology: Topology, place: string): void {
    this.#plan.add(topology, place);
    this.#topology = undefined;
  }

  /** See `TopologyPlan.adopt`. */
  adopt(queue: string, place: string): void {
    this.#plan.adopt(queue, place);
    this.#topology = undefined;
  }

  /** Has a consumer looked at beside its queue. One that comes again, with the same options, is looked at once. */
  addConsumer(consumer: CheckedConsumer, options: object): void {
    const known = this.#consumers.get(options) ?? new Map<string, CheckedConsumer>();
    this.#consumers.set(options, known.set(consumer.name, consumer));
  }

  /** See `TopologyPlan.keyOf`. */
  keyOf(queue: string | QueueDefinition): string | undefined {
    return this.#plan.keyOf(queue);
  }

  /** Says what is wrong with the whole of it before anything is declared. Throws `INVALID_DEFINITION`. */
  check(): void {
    this.#topology = this.#plan.topology;
  }

  /** Everything that was added. Throws `INVALID_DEFINITION`, see `TopologyPlan`. */
  get topology(): PlannedTopology {
    return (this.#topology ??= this.#plan.topology);
  }

  /**
   * Applies it to a new connection, after a look for what goes wrong on such a broker: rejects with `INVALID_DEFINITION` for what
   * that finds and calls an error. Rejects with a `TopologyError` until it has once been applied; after that either error is
   * logged, once, and what may come by itself, something that is missing or locked, is tried again while the connection lasts.
   */
  async apply(opened: Connection): Promise<void> {
    try {
      await this.#inspect(opened);
    } catch (error) {
      if (!this.#hasWorked || !isFlaw(error)) throw error;
      this.#tell('error', `${error.message}\nIt was declared before, and the connection is used as it is.`);
      this.#inspected = this.#toInspect(opened);
    }
    try {
      await this.#apply(opened, this.topology);
      if (this.#options.mode === 'check') this.#tellChecked();
      this.#hasWorked = true;
    } catch (error) {
      if (!this.#hasWorked || !(error instanceof TopologyError) || !opened.isOpen) throw error;
      this.#tell('error', `${error.message}\nIt was declared before, and the connection is used as it is.`);
      if (mayComeByItself(error)) void this.#mend(opened, error);
    }
  }

  /**
   * What a consumer of the queue does before every start, see `ensureQueue`. What is `late` was added when the topology had been
   * applied, and is declared by the first start.
   */
  preparation(queue: string, { late }: { readonly late: boolean }): (opened: Connection) => Promise<void> {
    if (late) this.#unfinished.add(queue);
    return async (opened) => {
      if (late) await this.#inspect(opened);
      await this.ensureQueue(opened, queue);
    };
  }

  /**
   * Sees to it that a queue is there: it is used as it is, or declared with its bindings. What was declared by half, without a
   * binding say, is declared by the next call. Takes a key or a name.
   */
  async ensureQueue(opened: Connection, queue: string): Promise<void> {
    // Several consumers may find it gone, and a queue that the broker names would be there several times.
    const ensuring =
      this.#ensuring.get(queue) ?? this.#ensure(opened, queue).finally(() => this.#ensuring.delete(queue));
    this.#ensuring.set(queue, ensuring);
    await ensuring;
  }

  async #ensure(opened: Connection, queue: string): Promise<void> {
    const wanted = topologyOf(queue, this.topology);
    const isUnfinished = this.#unfinished.has(queue);
    const definition = this.topology.queues.find(({ name }) => name === queue);
    const isServerNamed = definition?.isServerNamed === true;
    const name = this.#connection.topology.current(queue);
    // A key is the name of nothing until the broker has given one.
    const isNamed = !isServerNamed || name !== queue;
    // What has a name may be declared again, and that says what the broker has against it.
    const isAsked = isNamed && (isServerNamed || !isUnfinished);
    const isFound = isAsked && (await isThere(opened, name));
    if (isFound && !isUnfinished) return;
    if (this.#options.mode === 'check' && !isUnfinished && (definition === undefined || !isOwn(definition))) {
      throw new AmqpError('TOPOLOGY_FAILED', missing(`queue ${quoted(queue)}`), { replyCode: 404 });
    }
    try {
      // The broker would make another one beside it.
      await this.#apply(opened, isFound ? { ...wanted, queues: [] } : wanted);
      this.#unfinished.delete(queue);
    } catch (error) {
      // The queue may be there now, and look complete.
      if (error instanceof TopologyError) this.#unfinished.add(queue);
      throw error;
    }
  }

  /** Before anything is declared, as some of it makes brokers close the connection. */
  async #inspect(opened: Connection): Promise<void> {
    const what = this.#toInspect(opened);
    if (this.#inspected === what) return;
    // As many come here at once as there are consumers that were added late.
    this.#inspecting ??= this.#look(opened).finally(() => {
      this.#inspecting = undefined;
    });
    await this.#inspecting;
    this.#inspected = what;
  }

  get #checkedConsumers(): CheckedConsumer[] {
    return [...this.#consumers.values()].flatMap((known) => [...known.values()]);
  }

  #toInspect(opened: Connection): string {
    return `${brokerOf(opened.serverProperties).name}, ${this.#checkedConsumers.length} consumers`;
  }

  async #look(opened: Connection): Promise<void> {
    const { topology } = this;
    const consumers = this.#checkedConsumers;
    const broker = brokerOf(opened.serverProperties);
    const placeOf = (name: string): string | undefined => this.#plan.placeOf('queue', name);
    const isMissing = await missingOf(opened, topology);
    const findings = findingsOf({ topology, consumers, broker, placeOf, isMissing }, this.#options.checks);
    // What somebody else has declared, somebody else has seen to.
    const isError = ({ level }: Finding): boolean => level === 'error' && this.#options.mode === 'declare';
    for (const finding of findings) if (!isError(finding)) this.#tell('warn', finding.message);
    const errors = findings.filter(isError);
    if (errors.length > 0) throw cannotWork(errors, broker);
  }

  async #apply(opened: Connection, topology: Topology): Promise<void> {
    const options: ApplyOptions = {
      mode: this.#options.mode,
      onConflict: this.#options.onConflict,
      differs: ({ message }) => {
        this.#tell('warn', `${message} It is used as it is.`);
      },
      named: (key, name) => {
        this.#connection.topology.knownAs(key, name);
      },
      nameOf: (key) => this.#connection.topology.current(key),
      declared: this.topology.queues,
      placeOf: (entity) => this.#placeOf(entity),
    };
    await applyTopology(opened, topology, options);
  }

  /** On the same connection, ever more slowly, until nothing is missing. */
  async #mend(opened: Connection, refusal: TopologyError): Promise<void> {
    const life = new AbortController();
    void ended(opened).then(() => {
      life.abort();
    });
    const backoff = new Backoff(this.#connection.recovery);
    let left = refusedPart(this.topology, refusal);
    for (;;) {
      await pause(backoff.next(), life.signal);
      if (life.signal.aborted || !opened.isOpen) return;
      try {
        await this.#apply(opened, left);
        const { log, mode } = this.#options;
        const told = mode === 'check' ? '.' : ', and the rest of it is declared.';
        quietly(() => {
          log.log(`What was missing for the topology is there${told}`);
        });
        return;
      } catch (error) {
        // Anything else, such as an answer that does not come in time, says nothing about the topology.
        if (!(error instanceof TopologyError)) continue;
        if (!mayComeByItself(error)) {
          this.#tell('error', `${error.message}\nIt is declared again on the next connection.`);
          return;
        }
        left = refusedPart(left, error);
      }
    }
  }

  #placeOf(entity: TopologyEntity): string | undefined {
    if (entity.kind !== 'binding') return this.#plan.placeOf(entity.kind, entity.name);
    return this.#plan.placeOfBinding(entity);
  }

  #tellChecked(): void {
    const { exchanges, bindings, ...all } = this.topology;
    const queues = all.queues.filter((definition) => !isOwn(definition));
    const others = bindings.filter(({ queue }) => !all.queues.some((own) => isOwn(own) && own.name === queue));
    this.#tell(
      'log',
      `${exchanges.length} exchanges and ${queues.length} queues are there. Their properties, and ${others.length} bindings, ` +
        'cannot be seen over AMQP, and were not checked.',
    );
  }

  #tell(level: 'log' | 'warn' | 'error', message: string): void {
    if (this.#told.has(message)) return;
    this.#told.add(message);
    quietly(() => {
      this.#options.log[level](message);
    });
  }
}

/** Somebody else may yet declare what is missing (404), and a lock goes with the connection that holds it (405). */
function mayComeByItself({ conflicts }: TopologyError): boolean {
  return conflicts.some(({ replyCode }) => replyCode === 404 || replyCode === 405);
}

function isFlaw(error: unknown): error is AmqpError {
  return error instanceof AmqpError && error.code === 'INVALID_DEFINITION';
}

function cannotWork(errors: readonly Finding[], { name }: Broker): AmqpError {
  const [only] = errors;
  const told =
    errors.length === 1 && only !== undefined
      ? ` ${only.message}`
      : `\n${errors.map(({ message }) => `- ${message}`).join('\n')}`;
  return new AmqpError(
    'INVALID_DEFINITION',
    `What is declared cannot work on ${printable(name)}, by the checks of topologies; topologyChecks can make warnings of them.${told}`,
  );
}
