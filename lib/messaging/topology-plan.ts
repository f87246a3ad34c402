/**
 * The topologies of several places as one: what is declared alike counts once, what is declared differently is refused, and
 * queues without a name get a key to be known by. It declares nothing, see `topology`.
 */
import { inspect, isDeepStrictEqual } from 'node:util';
import { AmqpError, printable, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { QUEUE_ARGUMENTS, exchangeDeclaration, queueDeclaration } from './declarations.js';
import type { BindingDefinition, ExchangeDefinition, QueueDefinition, Topology } from './definitions.js';
import type { BindingEntity } from './topology-error.js';

/** A queue as an application knows it. */
export interface PlannedQueue extends QueueDefinition {
  /** Its name; of a queue that the broker names, the key that consumers and bindings use. */
  readonly name: string;
  readonly isServerNamed: boolean;
  /** Somebody consumes from it, and nobody defines it: it is used as it is, and declared durable where it is missing. */
  readonly isAdopted: boolean;
}

/** A topology whose bindings name every queue, by its name or its key. */
export interface PlannedTopology extends Topology {
  readonly exchanges: readonly ExchangeDefinition[];
  readonly queues: readonly PlannedQueue[];
  readonly bindings: readonly BindingDefinition[];
}

/** Something that was declared, and where. */
interface Placed<D> {
  readonly definition: D;
  /** In words: `AmqpModule.forFeature in BillingModule`. */
  readonly place: string;
}

export class TopologyPlan {
  readonly #exchanges = new Map<string, Placed<ExchangeDefinition>>();
  readonly #queues = new Map<string, Placed<PlannedQueue>>();
  readonly #bindings: Placed<BindingDefinition>[] = [];
  /** The places of queues that are consumed from. */
  readonly #adopted = new Map<string, string>();
  /** Queues without a name are told apart by the object that defines them. */
  readonly #keys = new Map<QueueDefinition, string>();

  /**
   * Adds what one place declares, which `checkTopology` has checked. Throws `INVALID_DEFINITION` for what another place
   * declares differently, naming both places and what differs.
   */
  add({ exchanges = [], queues = [], bindings = [] }: Topology, place: string): void {
    for (const definition of exchanges) {
      const known = this.#exchanges.get(definition.name);
      if (known === undefined) this.#exchanges.set(definition.name, { definition, place });
      else requireAlike(`Exchange ${quoted(definition.name)}`, known, { definition, place }, exchangeFields);
    }
    for (const definition of queues) this.#addQueue(definition, place);
    for (const definition of bindings) this.#bindings.push({ definition, place });
  }

  /** Has a queue that nobody defines declared where it is missing. A definition, whenever it is added, counts for more. */
  adopt(queue: string, place: string): void {
    if (!this.#adopted.has(queue)) this.#adopted.set(queue, place);
  }

  /** The name of a queue, or the key of one without a name that has been added. */
  keyOf(queue: string | QueueDefinition): string | undefined {
    return typeof queue === 'string' ? queue : (queue.name ?? this.#keys.get(queue));
  }

  /** Where a queue or an exchange was first declared, or else bound. */
  placeOf(kind: 'exchange' | 'queue', name: string): string | undefined {
    if (kind === 'exchange') return this.#exchanges.get(name)?.place ?? this.#placeOfBound(name);
    return this.#queues.get(name)?.place ?? this.#adopted.get(name);
  }

  /** Where a binding was first declared. */
  placeOfBinding({ source, destination, destinationKind, routingKey }: BindingEntity): string | undefined {
    const isIt = (definition: BindingDefinition): boolean =>
      definition.source === source &&
      (definition.routingKey ?? '') === routingKey &&
      this.#named(definition)[destinationKind] === destination;
    return this.#bindings.find(({ definition }) => isIt(definition))?.place;
  }

  /** All of it. Throws `INVALID_DEFINITION` for a binding to a queue without a name that nobody declares. */
  get topology(): PlannedTopology {
    const bindings = new Map<string, BindingDefinition>();
    for (const { definition, place } of this.#bindings) {
      const named = this.#named(definition);
      if (typeof named.queue === 'object') {
        throw new AmqpError(
          'INVALID_DEFINITION',
          `In ${place} exchange ${quoted(named.source)} is bound to a queue without a name that nobody declares. ` +
            'Put the very same object into queues, or consume from it: @Consume(definition).',
        );
      }
      bindings.set(identityOf(named), named);
    }
    const undefinedOnes = [...this.#adopted.keys()].filter((name) => !this.#queues.has(name));
    return {
      exchanges: [...this.#exchanges.values()].map(({ definition }) => definition),
      queues: [...[...this.#queues.values()].map(({ definition }) => definition), ...undefinedOnes.map(adopted)],
      bindings: [...bindings.values()],
    };
  }

  #placeOfBound(name: string): string | undefined {
    return this.#bindings.find(({ definition: { source, exchange } }) => source === name || exchange === name)?.place;
  }

  #addQueue(definition: QueueDefinition, place: string): void {
    const name = this.keyOf(definition) ?? this.#newKey(definition, place);
    const planned = { ...definition, name, isServerNamed: definition.name === undefined, isAdopted: false };
    const known = this.#queues.get(name);
    if (known === undefined) this.#queues.set(name, { definition: planned, place });
    else requireAlike(`Queue ${quoted(name)}`, known, { definition: planned, place }, queueFields);
  }

  #newKey(definition: QueueDefinition, place: string): string {
    const base = `unnamed (${place})`;
    let key = base;
    for (let count = 2; this.#queues.has(key); count += 1) key = `${base} (${count})`;
    this.#keys.set(definition, key);
    return key;
  }

  #named(binding: BindingDefinition): BindingDefinition {
    const { queue } = binding;
    return typeof queue === 'object' ? { ...binding, queue: this.keyOf(queue) ?? queue } : binding;
  }
}

/** A queue that somebody consumes from, and nobody defines. */
export function adopted(name: string): PlannedQueue {
  return { name, isServerNamed: false, isAdopted: true };
}

/** What differs in two definitions is told by field. */
type Fields = Readonly<Record<string, unknown>>;

function requireAlike<D>(what: string, first: Placed<D>, second: Placed<D>, fieldsOf: (definition: D) => Fields): void {
  const [one, other] = [fieldsOf(first.definition), fieldsOf(second.definition)];
  const fields = [...new Set([...Object.keys(one), ...Object.keys(other)])];
  const differing = fields.filter((field) => !isDeepStrictEqual(one[field], other[field]));
  if (differing.length === 0) return;
  const told = differing.map(
    (field) => `${field} is ${shown(one[field])} in ${first.place} and ${shown(other[field])} in ${second.place}`,
  );
  throw new AmqpError(
    'INVALID_DEFINITION',
    `${what} is declared in two ways: ${told.join('; ')}. Declare it in one place, or alike in both.`,
  );
}

function exchangeFields(definition: ExchangeDefinition): Fields {
  const { arguments: args, ...flags } = exchangeDeclaration(definition);
  return { ...flags, ...byField(args, { alternateExchange: ['alternate-exchange'] }) };
}

function queueFields(definition: PlannedQueue): Fields {
  const { arguments: args, ...flags } = queueDeclaration(definition);
  return { ...flags, ...byField(args, QUEUE_ARGUMENTS) };
}

/** Arguments under the names of the fields that users write, where there are such. */
function byField(args: FieldTable, names: Readonly<Record<string, readonly string[]>>): Fields {
  const fields: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(args)) {
    const field = Object.keys(names).find((candidate) => names[candidate]?.includes(name) === true);
    const isOneOfSeveral = field !== undefined && (names[field]?.length ?? 0) > 1;
    fields[field === undefined || isOneOfSeveral ? name : field] = value;
  }
  return fields;
}

function shown(value: unknown): string {
  return value === undefined ? 'not set' : printable(inspect(value, { depth: 2, breakLength: Infinity }), 100);
}

/** The same binding said twice is one. */
function identityOf({ source, queue, exchange, routingKey = '', arguments: args = {} }: BindingDefinition): string {
  const isEmpty = Object.keys(args).length === 0;
  const table = isEmpty
    ? ''
    : inspect(args, { depth: null, sorted: true, breakLength: Infinity, maxArrayLength: null, maxStringLength: null });
  return JSON.stringify([source, typeof queue === 'string' ? queue : null, exchange, routingKey, table]);
}
