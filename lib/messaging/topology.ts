/**
 * Applies a topology to a connection: declares it, or checks that it is there. What the broker refuses is collected, see
 * `topology-error`; when it is applied is decided above.
 */
import type { Channel } from '../client/channel.js';
import type { Connection } from '../client/connection.js';
import { AmqpError } from '../errors.js';
import { type QueueDeclaration, exchangeDeclaration, queueDeclaration } from './declarations.js';
import type { BindingDefinition, ExchangeDefinition, QueueDefinition, Topology } from './definitions.js';
import {
  type BindingEntity,
  type TopologyConflict,
  type TopologyEntity,
  TopologyError,
  conflictOf,
} from './topology-error.js';
import { type PlannedQueue, adopted } from './topology-plan.js';

/** How a topology is applied. */
export interface ApplyOptions {
  /** `'check'` asks whether exchanges and queues are there, and declares only what belongs to the connection alone. @default 'declare' */
  readonly mode?: 'declare' | 'check';
  /** `'warn'` uses what the broker has with other properties, and tells `differs`. @default 'fail' */
  readonly onConflict?: 'fail' | 'warn';
  readonly differs?: (conflict: TopologyConflict) => void;
  /** The name that the broker gave a queue, by its key. */
  readonly named?: (key: string, name: string) => void;
  /** The name of a queue that was declared before, by its key. @default the key */
  readonly nameOf?: (key: string) => string;
  /** Queues that were declared before, and that bindings may name. */
  readonly declared?: readonly QueueDefinition[];
  /** Where something is declared, in words. */
  readonly placeOf?: (entity: TopologyEntity) => string | undefined;
}

/**
 * RabbitMQ takes the requests of one channel in turn, and each of them waits for its database; those of several channels
 * wait together. More channels than these made it no faster, and for fewer declarations than these a channel is not opened.
 */
const MOST_CHANNELS = 16;
const DECLARATIONS_PER_CHANNEL = 8;

/** One declaration. */
interface Step {
  readonly entity: TopologyEntity;
  readonly say: (channel: Channel) => Promise<unknown>;
  /** What is said instead where it is missing (404). */
  readonly whereMissing?: Step;
}

/**
 * Declares exchanges, then queues, then bindings, over channels of its own: one, and more for a large topology. Alternate
 * and dead-letter exchanges need no order: brokers look for them when a message is to go there. Rejects with a
 * `TopologyError` that lists all that the broker refuses; what it does not refuse is declared all the same, except bindings
 * of what it does.
 */
export async function applyTopology(
  connection: Connection,
  { exchanges = [], queues = [], bindings = [] }: Topology,
  options: ApplyOptions = {},
): Promise<void> {
  const most = Math.max(exchanges.length, queues.length, bindings.length);
  const channels = new Channels(connection, Math.min(MOST_CHANNELS, Math.ceil(most / DECLARATIONS_PER_CHANNEL)));
  const names = new Names(options);
  const run = new Run(channels, options);
  try {
    await channels.open();
    const bound = options.mode === 'check' ? boundExchanges(bindings, exchanges) : [];
    await run.stage([...exchanges.map((definition) => exchangeStep(definition, options)), ...bound.map(exchangeCheck)]);
    await run.stage(queues.map((definition) => queueStep(definition, names, options)));
    const known = [...queues, ...(options.declared ?? [])];
    const wanted = options.mode === 'check' ? ofOwnQueues(bindings, known) : bindings;
    const steps = wanted.map((definition) => bindingStep(definition, names));
    await run.stage(steps.filter(({ entity }) => !run.isHopeless(entity)));
  } catch (error) {
    // Their last answers may be seconds away, and nobody waits for those.
    channels.abandon();
    throw error;
  }
  await channels.close();
  run.throwConflicts();
}

/**
 * The part of a topology that a queue needs: its definition, its bindings and their sources. A queue that it does not define is used
 * as it is, and durable where it is missing.
 */
export function topologyOf(name: string, { exchanges = [], queues = [], bindings = [] }: Topology): Topology {
  const bound = bindings.filter((definition) => definition.queue === name);
  return {
    exchanges: exchanges.filter((definition) => bound.some(({ source }) => source === definition.name)),
    queues: [queues.find((definition) => definition.name === name) ?? adopted(name)],
    bindings: bound,
  };
}

/** The part that the broker refused: what it refused, and what was left out for it. */
export function refusedPart(
  { exchanges = [], queues = [], bindings = [] }: Topology,
  { conflicts }: TopologyError,
): Topology {
  const refused = new Set(conflicts.map(({ entity }) => JSON.stringify(entity)));
  const isRefused = (entity: TopologyEntity): boolean => refused.has(JSON.stringify(entity));
  return {
    exchanges: exchanges.filter(({ name }) => isRefused({ kind: 'exchange', name })),
    queues: queues.filter(({ name = '' }) => isRefused({ kind: 'queue', name })),
    bindings: bindings.filter((definition) => {
      const entity = bindingEntity(definition);
      const { source, destination, destinationKind: kind } = entity;
      return (
        isRefused(entity) || isRefused({ kind: 'exchange', name: source }) || isRefused({ kind, name: destination })
      );
    }),
  };
}

/** A queue that exists is used as it is; one that is missing is declared as the topology says, else durable. */
export async function ensureQueue(
  connection: Connection,
  name: string,
  topology: Topology,
  options?: ApplyOptions,
): Promise<void> {
  if (await isThere(connection, name)) return;
  // It was deleted since the connection was set up, and its bindings with it; or it was never declared.
  await applyTopology(connection, topologyOf(name, topology), options);
}

/** Whether there is a queue of that name. */
export async function isThere(connection: Connection, queue: string): Promise<boolean> {
  const channel = await connection.channel();
  try {
    await channel.queueDeclare(queue, { passive: true });
    return true;
  } catch (error) {
    if (!(error instanceof AmqpError) || error.replyCode !== 404) throw error;
    return false;
  } finally {
    await channel.close();
  }
}

/** The channels of one run: a refusal closes one, and it is opened anew. */
class Channels {
  readonly #connection: Connection;
  readonly #lanes: (Channel | undefined)[];

  constructor(connection: Connection, count: number) {
    this.#connection = connection;
    this.#lanes = Array.from({ length: Math.max(count, 1) }, () => undefined);
  }

  get connection(): Connection {
    return this.#connection;
  }

  get count(): number {
    return this.#lanes.length;
  }

  /** At least one channel, and as many of the others as the connection has left. */
  async open(): Promise<void> {
    const opening = await Promise.allSettled(Array.from({ length: this.count }, () => this.#connection.channel()));
    const opened = opening.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []));
    const [first] = opening;
    if (opened.length === 0 && first?.status === 'rejected') throw first.reason;
    this.#lanes.splice(0, this.count, ...opened);
  }

  async of(lane: number): Promise<Channel> {
    const channel = this.#lanes[lane];
    if (channel?.isOpen === true) return channel;
    // Until the broker has heard that it is closed its number is taken.
    await channel?.close();
    const opened = await this.#connection.channel();
    this.#lanes[lane] = opened;
    return opened;
  }

  async close(): Promise<void> {
    await Promise.all(this.#lanes.map(async (channel) => channel?.close()));
  }

  abandon(): void {
    for (const channel of this.#lanes) void channel?.close();
  }
}

/** What the stages of one run have in common: what was refused. */
class Run {
  readonly #channels: Channels;
  readonly #options: ApplyOptions;
  readonly #conflicts: TopologyConflict[] = [];
  #cause: AmqpError | undefined;

  constructor(channels: Channels, options: ApplyOptions) {
    this.#channels = channels;
    this.#options = options;
  }

  /** Within a stage all requests are under way at a time; each stage needs the one before it. */
  async stage(steps: readonly Step[]): Promise<void> {
    const { count } = this.#channels;
    const lanes = Array.from({ length: Math.min(count, steps.length) }, (_, lane) =>
      steps.filter((_step, index) => index % count === lane),
    );
    const unanswered: (Step | undefined)[] = [];
    const ends = await Promise.allSettled(
      lanes.map(async (lane, index) => {
        unanswered[index] = await this.#say(lane, index);
      }),
    );
    const culprits = unanswered.filter((step) => step !== undefined);
    if (culprits.length > 0) throw this.#ended(culprits);
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** True for a binding of something that was refused. */
  isHopeless(entity: TopologyEntity): boolean {
    if (entity.kind !== 'binding') return false;
    return this.#conflicts.some(
      ({ entity: refused }) =>
        refused.kind !== 'binding' &&
        ((refused.kind === 'exchange' && refused.name === entity.source) ||
          (refused.kind === entity.destinationKind && refused.name === entity.destination)),
    );
  }

  throwConflicts(): void {
    if (this.#conflicts.length > 0) throw new TopologyError(this.#conflicts, this.#cause);
  }

  /**
   * All steps at once: answers come in order, so that the first refusal is that of the first step that was not carried out, and
   * those behind it are said again over the next channel. Returns the step that may have ended the connection.
   */
  async #say(steps: readonly Step[], lane: number): Promise<Step | undefined> {
    let left = steps;
    while (left.length > 0) {
      const channel = await this.#channels.of(lane);
      const outcomes = await Promise.allSettled(left.map((step) => step.say(channel)));
      const first = outcomes.findIndex(({ status }) => status === 'rejected');
      if (first === -1) return undefined;
      const [step, outcome] = [left[first] as Step, outcomes[first] as PromiseRejectedResult];
      const error: unknown = outcome.reason;
      // A broker that shuts down meanwhile (320) blames no method, and nothing is wrong with the declaration.
      if (!(error instanceof AmqpError) || error.closedBy !== 'server' || error.method === undefined) throw error;
      this.#cause ??= error;
      if (!this.#channels.connection.isOpen) return step;
      const instead = error.replyCode === 404 ? step.whereMissing : undefined;
      if (instead === undefined) this.#note(this.#conflictOf(step, error));
      left = [...(instead === undefined ? [] : [instead]), ...left.slice(first + 1)];
    }
    return undefined;
  }

  #conflictOf({ entity }: Step, error: AmqpError): TopologyConflict {
    const { mode = 'declare', placeOf } = this.#options;
    return conflictOf(entity, error, { mode, declaredIn: placeOf?.(entity) });
  }

  #note(conflict: TopologyConflict): void {
    if (conflict.difference === undefined || this.#options.onConflict !== 'warn') this.#conflicts.push(conflict);
    else this.#options.differs?.(conflict);
  }

  /** The broker closed the connection over one of them, and does not say which. */
  #ended(culprits: readonly Step[]): TopologyError {
    const cause = this.#cause as AmqpError;
    const blamed = culprits.filter(({ entity }) => methodOf(entity) === cause.method);
    const all = blamed.length > 0 ? blamed : culprits;
    const conflicts = all.map((step) => this.#conflictOf(step, cause));
    return new TopologyError([...this.#conflicts, ...conflicts], cause);
  }
}

function methodOf(entity: TopologyEntity): string {
  if (entity.kind !== 'binding') return `${entity.kind}.declare`;
  return `${entity.destinationKind}.bind`;
}

/** The names of the queues that the broker named, by their keys and definitions. */
class Names {
  readonly #named = new Map<string | QueueDefinition, string>();
  readonly #options: ApplyOptions;

  constructor(options: ApplyOptions) {
    this.#options = options;
  }

  note(definition: QueueDefinition, name: string): void {
    this.#named.set(definition, name);
    if (definition.name === undefined) return;
    this.#named.set(definition.name, name);
    this.#options.named?.(definition.name, name);
  }

  of(queue: string | QueueDefinition): string {
    const key = typeof queue === 'string' ? queue : (queue.name ?? '');
    return this.#named.get(queue) ?? this.#options.nameOf?.(key) ?? key;
  }
}

function exchangeStep(definition: ExchangeDefinition, { mode }: ApplyOptions): Step {
  const { name, type, ...options } = exchangeDeclaration(definition);
  if (mode === 'check') return exchangeCheck(name);
  return { entity: { kind: 'exchange', name }, say: (channel) => channel.exchangeDeclare(name, type, options) };
}

/** A passive declaration looks at no type. */
function exchangeCheck(name: string): Step {
  return {
    entity: { kind: 'exchange', name },
    say: (channel) => channel.exchangeDeclare(name, 'direct', { passive: true }),
  };
}

function queueStep(definition: QueueDefinition, names: Names, { mode }: ApplyOptions): Step {
  const { name, ...options } = declarationOf(definition);
  const { isAdopted = false }: Partial<PlannedQueue> = definition;
  const entity = { kind: 'queue', name: definition.name ?? '' } as const;
  const check: Step = { entity, say: (channel) => channel.queueDeclare(name, { passive: true }) };
  const declare: Step = {
    entity,
    say: async (channel) => {
      const declared = await channel.queueDeclare(name, options);
      if (name === undefined) names.note(definition, declared.queue);
    },
  };
  if (mode === 'check' && !isOwn(definition)) return check;
  return isAdopted ? { ...check, whereMissing: declare } : declare;
}

/** A key is no name. */
function declarationOf(definition: QueueDefinition): QueueDeclaration {
  const { isServerNamed = false, name, ...rest }: Partial<PlannedQueue> = definition;
  return queueDeclaration(isServerNamed || name === undefined ? rest : { ...rest, name });
}

function bindingStep(definition: BindingDefinition, names: Names): Step {
  const { source, queue, exchange, routingKey, arguments: args } = definition;
  return {
    entity: bindingEntity(definition),
    say: (channel) =>
      queue === undefined
        ? channel.exchangeBind(exchange, source, routingKey, args)
        : channel.queueBind(names.of(queue), source, routingKey, args),
  };
}

function bindingEntity({ source, queue, exchange, routingKey = '' }: BindingDefinition): BindingEntity {
  const destination = exchange ?? (typeof queue === 'string' ? queue : (queue.name ?? ''));
  const destinationKind = exchange === undefined ? 'queue' : 'exchange';
  return { kind: 'binding', source, destination, destinationKind, routingKey };
}

/** True for a queue that is nobody else's to declare or bind: one that the broker names, or of this connection alone. */
export function isOwn(definition: QueueDefinition): boolean {
  const { name, exclusive } = declarationOf(definition);
  return name === undefined || exclusive;
}

/** What bindings name and no definition does. Bindings cannot be seen, what they need can. */
function boundExchanges(
  bindings: readonly BindingDefinition[],
  defined: readonly ExchangeDefinition[],
): readonly string[] {
  const bound = new Set(bindings.flatMap(({ source, exchange = source }) => [source, exchange]));
  for (const { name } of defined) bound.delete(name);
  return [...bound];
}

function ofOwnQueues(bindings: readonly BindingDefinition[], queues: readonly QueueDefinition[]): BindingDefinition[] {
  const own = queues.filter(isOwn);
  const known = new Set<unknown>([...own, ...own.map(({ name }) => name)]);
  known.delete(undefined);
  return bindings.filter(({ queue }) => known.has(queue));
}
