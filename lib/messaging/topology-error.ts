/** What a broker has against a topology, as one error that names every entity. Asking the broker is `topology`'s. */
import { replyTold } from '../client/reply-text.js';
import type { RecordedEntity } from '../client/topology-record.js';
import { AmqpError, type AmqpErrorFacts, factsOf, printable, quoted } from '../errors.js';
import { inWords } from './declarations.js';

/** Something that is declared. */
export type TopologyEntity = RecordedEntity;
/** A binding among them. */
export type BindingEntity = Extract<TopologyEntity, { kind: 'binding' }>;

/** A property that the broker has otherwise. */
export interface TopologyDifference {
  /** As the broker calls it: `durable`, `x-max-length`. */
  readonly property: string;
  /** Its values as text; undefined where it is not set. */
  readonly declared: string | undefined;
  readonly existing: string | undefined;
}

/** One thing that the broker does not have, or has otherwise, or does not allow. */
export interface TopologyConflict {
  readonly entity: TopologyEntity;
  /** Where it is declared, in words, where that is known. */
  readonly declaredIn: string | undefined;
  /** What the broker says: 403, 404, 405, 406 and others (specification, section 1.2). */
  readonly replyCode: number | undefined;
  readonly replyText: string | undefined;
  /** The first property that differs; brokers tell no others. Undefined where the conflict is about something else. */
  readonly difference: TopologyDifference | undefined;
  /** What happened, to what, and what to do. */
  readonly message: string;
}

/**
 * The broker does not have what is declared, or has it with other properties, or does not allow it. The code is
 * `TOPOLOGY_CONFLICT` when something exists with other properties, else `TOPOLOGY_FAILED`; `conflicts` lists everything.
 */
export class TopologyError extends AmqpError {
  override readonly name = 'TopologyError';
  /** Exchanges, then queues, then bindings, each by name. */
  readonly conflicts: readonly TopologyConflict[];

  constructor(conflicts: readonly TopologyConflict[], cause: AmqpError | undefined) {
    const sorted = [...conflicts].sort((one, other) => compare(orderOf(one.entity), orderOf(other.entity)));
    const differs = sorted.some(({ difference }) => difference !== undefined);
    super(differs ? 'TOPOLOGY_CONFLICT' : 'TOPOLOGY_FAILED', toldOf(sorted, differs), factsFor(sorted, cause));
    this.conflicts = sorted;
  }
}

function toldOf(conflicts: readonly TopologyConflict[], differs: boolean): string {
  const [only] = conflicts;
  if (only !== undefined && conflicts.length === 1) return only.message;
  const first = differs ? ' Of what differs a broker tells the first property only.' : '';
  return `${conflicts.length} declarations do not fit the broker.${first}\n${conflicts.map(({ message }) => `- ${message}`).join('\n')}`;
}

/** Those of the first that time does not mend: a lock (405) goes by itself, and with it an error that is about locks alone. */
function factsFor(conflicts: readonly TopologyConflict[], cause: AmqpError | undefined): AmqpErrorFacts {
  const telling = conflicts.find(({ replyCode }) => replyCode !== 405) ?? conflicts[0];
  const wire = cause === undefined ? {} : { ...factsOf(cause), cause };
  return { ...wire, replyCode: telling?.replyCode, replyText: telling?.replyText };
}

/**
 * RabbitMQ's 406: `inequivalent arg 'durable' for queue 'orders' in vhost '/': received 'false' but current is 'true'`, or
 * `received none but current is the value '5000' of type 'signedint'`.
 */
const INEQUIVALENT = /inequivalent arg '(.+?)' for .*?: received (.*?) but current is (.*)$/s;

/** How it was asked for, and where. */
interface Asked {
  readonly mode: 'declare' | 'check';
  readonly declaredIn: string | undefined;
}

/** What the broker's refusal of a declaration, or of a look for what is declared, means. */
export function conflictOf(entity: TopologyEntity, error: AmqpError, { mode, declaredIn }: Asked): TopologyConflict {
  const { replyCode, replyText } = error;
  const [, property, declared, existing] = (replyCode === 406 ? INEQUIVALENT.exec(replyText ?? '') : undefined) ?? [];
  const difference =
    property === undefined ? undefined : { property, declared: valueIn(declared), existing: valueIn(existing) };
  const told = { entity, declaredIn, replyCode, replyText, difference };
  const what = wordsFor(entity);
  const where = declaredIn === undefined ? '' : ` (${declaredIn})`;
  if (difference !== undefined) {
    const message =
      `The broker has ${what} with ${printable(inWords(difference.property))} ${shown(difference.existing)}; ` +
      `${declaredIn ?? 'this module'} declares ${shown(difference.declared)}. ` +
      'Change the declaration, or delete it on the broker so that it is made anew.';
    return { ...told, message };
  }
  if (mode === 'check' && replyCode === 404 && entity.kind !== 'binding')
    return { ...told, message: missing(what, where) };
  const verb = mode === 'check' && entity.kind !== 'binding' ? 'checked' : 'declared';
  return { ...told, message: `The ${what} cannot be ${verb}${where}. ${adviceOf(entity, error)}` };
}

/** Of what `topologyMode: 'check'` does not find. `what` and `where` are words: `queue 'billing'`, ` (AmqpModule.forRoot)`. */
export function missing(what: string, where = ''): string {
  return (
    `The broker has no ${what}${where}, and topologyMode is 'check': it is not declared. ` +
    'Have it declared, or correct the name.'
  );
}

/** The value in `'false'` and in `the value '5000' of type 'signedint'`; of `none` there is none. */
function valueIn(told = ''): string | undefined {
  if (told === 'none') return undefined;
  const [, typed, plain] = /^(?:the value '(.*)' of type '.*?'|'(.*)')$/s.exec(told) ?? [];
  return printable(typed ?? plain ?? told);
}

function shown(value: string | undefined): string {
  return value === undefined ? 'none' : quoted(value);
}

/** What is to be done about it, after the broker's own words; those of the client's error have advice of their own. */
function adviceOf(entity: TopologyEntity, { message, replyCode = 0, replyText = '', method }: AmqpError): string {
  const advice = ADVICE[replyCode]?.(entity);
  return advice === undefined ? message : `The broker says: ${replyTold(replyCode, replyText, method)} ${advice}`;
}

const ADVICE: Readonly<Record<number, (entity: TopologyEntity) => string>> = {
  403: (entity) =>
    entity.kind === 'binding'
      ? 'Give the user the permission to write to what is bound and to read from its source.'
      : "Give the user the permission to configure it; or have somebody else declare it, and check only: topologyMode: 'check'.",
  404: (entity) =>
    entity.kind === 'binding'
      ? `Declare both: exchange ${quoted(entity.source)} in exchanges of the topology, and the ${entity.destinationKind} ` +
        `${quoted(entity.destination)}; or correct the name.`
      : 'Have it declared, or correct the name.',
  405: () => 'Another connection holds it, or it was declared with another value of exclusive.',
};

/** An entity in a sentence. */
function wordsFor(entity: TopologyEntity): string {
  if (entity.kind !== 'binding') return `${entity.kind} ${entity.name === '' ? 'without a name' : quoted(entity.name)}`;
  const { source, destination, destinationKind, routingKey } = entity;
  const key = routingKey === '' ? '' : ` with key ${quoted(routingKey)}`;
  return `binding from exchange ${quoted(source)} to ${destinationKind} ${quoted(destination)}${key}`;
}

const KINDS = ['exchange', 'queue', 'binding'];

function orderOf(entity: TopologyEntity): readonly string[] {
  const rank = String(KINDS.indexOf(entity.kind));
  return entity.kind === 'binding' ? [rank, entity.source, entity.destination, entity.routingKey] : [rank, entity.name];
}

function compare(one: readonly string[], other: readonly string[]): number {
  for (const [index, text] of one.entries()) {
    const against = other[index] ?? '';
    if (text !== against) return text < against ? -1 : 1;
  }
  return 0;
}
