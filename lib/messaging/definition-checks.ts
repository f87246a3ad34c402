/**
 * What of a definition can be checked without a broker: its fields, their types and ranges. What brokers of some version have
 * against it is `topology-checks`'s.
 */
import { inspect } from 'node:util';
import { AmqpError, printable, quoted } from '../errors.js';
import { type SaidElsewhere, adviceOn } from '../client/option-names.js';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';
import { type Duration, milliseconds } from '../time/duration.js';
import { QUEUE_ARGUMENTS } from './declarations.js';
import type { BindingDefinition, ExchangeDefinition, QueueDefinition, Topology } from './definitions.js';

/** What is wrong with a value, to stand after "has to be"; undefined when nothing is. */
type Check = (value: unknown) => string | undefined;

const boolean: Check = (value) => (typeof value === 'boolean' ? undefined : 'true or false');

const oneOf =
  (...values: readonly string[]): Check =>
  (value) =>
    typeof value === 'string' && values.includes(value) ? undefined : values.map(quoted).join(' or ');

const integer =
  (least: number, most = Number.MAX_SAFE_INTEGER): Check =>
  (value) =>
    typeof value === 'number' && Number.isSafeInteger(value) && value >= least && value <= most
      ? undefined
      : `an integer ${most === Number.MAX_SAFE_INTEGER ? `of ${least} or more` : `from ${least} to ${most}`}`;

const shortText: Check = (value) =>
  typeof value === 'string' && Buffer.byteLength(value) <= LONGEST_SHORTSTR
    ? undefined
    : `text of at most ${LONGEST_SHORTSTR} bytes`;

/** Ten years in milliseconds, after which RabbitMQ says `value_too_large`. */
const LONGEST_TIME = 315_360_000_000;

const time =
  (least: 0 | 1): Check =>
  (value) => {
    try {
      const ms = Math.round(milliseconds(value as Duration, ''));
      return ms >= least && ms <= LONGEST_TIME ? undefined : `from ${least} ms to ten years`;
    } catch {
      return "a length of time: milliseconds as a number, or text such as '250ms', '10s' or '5m'";
    }
  };

const table: Check = (value) =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? undefined : "an object: { 'x-name': value }";

/** Under which names RabbitMQ keeps what it makes itself (https://www.rabbitmq.com/docs/queues#names). */
const RESERVED = 'amq.';

const EXCHANGE_TYPES = ['direct', 'fanout', 'topic', 'headers'];

const EXCHANGE_FIELDS = {
  name: shortText,
  type: (value) =>
    typeof value === 'string' && (EXCHANGE_TYPES.includes(value) || value.startsWith('x-'))
      ? undefined
      : `${EXCHANGE_TYPES.map(quoted).join(', ')}, or 'x-…' for one of a plugin`,
  durable: boolean,
  autoDelete: boolean,
  internal: boolean,
  alternateExchange: shortText,
  arguments: table,
} as const satisfies Record<keyof ExchangeDefinition, Check>;

const QUEUE_FIELDS = {
  name: shortText,
  type: oneOf('classic', 'quorum', 'stream'),
  durable: boolean,
  exclusive: boolean,
  autoDelete: boolean,
  expires: time(1),
  messageTtl: time(0),
  maxLength: integer(0),
  maxLengthBytes: integer(0),
  overflow: oneOf('drop-head', 'reject-publish', 'reject-publish-dlx'),
  deadLetter: (value) => {
    const { exchange, routingKey, ...others } = (value ?? {}) as Readonly<Record<string, unknown>>;
    const isRight = shortText(exchange) ?? (routingKey === undefined ? undefined : shortText(routingKey));
    return isRight === undefined && Object.keys(others).length === 0
      ? undefined
      : "{ exchange, routingKey? }, each text of at most 255 bytes; '' is the default exchange";
  },
  maxPriority: integer(1, 255),
  // -1 is no limit: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
  deliveryLimit: integer(-1),
  singleActiveConsumer: boolean,
  arguments: table,
} as const satisfies Record<keyof QueueDefinition, Check>;

const BINDING_FIELDS = {
  source: shortText,
  queue: () => undefined,
  exchange: shortText,
  routingKey: shortText,
  arguments: table,
} as const satisfies Record<keyof BindingDefinition, Check>;

const BESIDE = 'Its fields stand beside the name.';
const ADOPTED = "topologyMode: 'check' of AmqpModule declares nothing, and fails over what is missing.";
const BINDINGS = 'Say bindings: [{ source, queue, routingKey }] of the topology, or bind of @Consume.';
const DEAD_LETTER = 'Say deadLetter: { exchange, routingKey }.';

/** What definitions are told by those who come from other libraries. */
const ELSEWHERE: SaidElsewhere = {
  options: BESIDE,
  queueOptions: BESIDE,
  deadLetterExchange: DEAD_LETTER,
  deadLetterRoutingKey: DEAD_LETTER,
  ttl: 'Say messageTtl.',
  exchange: BINDINGS,
  routingKey: BINDINGS,
  bindQueueArguments: BINDINGS,
  createExchangeIfNotExists: ADOPTED,
  createQueueIfNotExists: ADOPTED,
  passive: ADOPTED,
  destination: 'Say queue, or exchange: where its messages go.',
  pattern: 'Say routingKey.',
  'x-': "Say arguments: { 'x-…': value }.",
};

const anyList: Check = (value) => (Array.isArray(value) ? undefined : 'a list');

const TOPOLOGY_FIELDS = {
  exchanges: anyList,
  queues: anyList,
  bindings: anyList,
} as const satisfies Record<keyof Topology, Check>;

/** Checks what can be checked without a broker. Throws `INVALID_DEFINITION`. */
export function checkTopology(topology: Topology): void {
  checkFields(topology, TOPOLOGY_FIELDS, 'The topology');
  topology.exchanges?.forEach(checkExchange);
  topology.queues?.forEach(checkQueue);
  topology.bindings?.forEach(checkBinding);
}

function checkExchange(definition: ExchangeDefinition): void {
  requireObject(definition, 'An exchange', (name) => `{ name: ${name}, type: 'topic' }`);
  const what = `Exchange ${nameOf(definition)}`;
  if (!isName(definition.name)) {
    throw invalid('An exchange has no name. Give it one; the default exchange is always there.');
  }
  if ((definition.type as unknown) === undefined) {
    throw invalid(`${what} has no type: direct, fanout, topic, headers.`);
  }
  checkFields(definition, EXCHANGE_FIELDS, what);
  if (definition.name.startsWith(RESERVED)) {
    throw invalid(
      `${what} has a name that begins with ${quoted(RESERVED)}: those exchanges are the broker's own and always there. ` +
        'Leave it out; bindings may name it all the same.',
    );
  }
  if (definition.alternateExchange !== undefined && definition.arguments?.['alternate-exchange'] !== undefined) {
    throw twice(what, 'alternateExchange', 'alternate-exchange');
  }
}

/** Checks one queue definition. Throws `INVALID_DEFINITION`. */
function checkQueue(definition: QueueDefinition): void {
  requireObject(definition, 'A queue', (name) => `{ name: ${name} }`);
  const what = `Queue ${nameOf(definition)}`;
  checkFields(definition, QUEUE_FIELDS, what);
  if (definition.name === '') {
    throw invalid('A queue has the name ""; leave the name out for a queue that the broker names.');
  }
  if (definition.name?.startsWith(RESERVED) === true) {
    throw invalid(
      `${what} has a name that begins with ${quoted(RESERVED)}, which is the broker's to give. Choose another.`,
    );
  }
  for (const [field, names] of Object.entries(QUEUE_ARGUMENTS)) {
    const said = names.find((name) => definition.arguments?.[name] !== undefined);
    if (said !== undefined && definition[field as keyof QueueDefinition] !== undefined) throw twice(what, field, said);
  }
}

function checkBinding(definition: BindingDefinition): void {
  requireObject(definition, 'A binding', (name) => `{ source: ${name}, queue: 'billing' }`);
  const { queue, exchange }: { queue?: unknown; exchange?: unknown } = definition;
  if (!isName(definition.source)) {
    checkFields(definition, { ...BINDING_FIELDS, source: () => undefined }, 'A binding');
    throw isName(exchange) ? misplacedSource(exchange, queue) : invalid(NO_SOURCE);
  }
  const what = `The binding of ${quoted(definition.source)}`;
  checkFields(definition, BINDING_FIELDS, 'A binding');
  const toQueue = isName(queue) || (typeof queue === 'object' && queue !== null);
  // Also '' of a variable that is not set: what is there decides where it goes.
  if (queue !== undefined && exchange !== undefined && (toQueue || isName(exchange))) {
    throw invalid(
      `${what} has queue ${nameOf(queue)} and exchange ${nameOf(exchange)}, and needs one of them: where its messages go.`,
    );
  }
  if (!toQueue && !isName(exchange)) {
    throw invalid(`${what} needs either a queue or an exchange: where its messages go.`);
  }
  if (typeof queue === 'object') checkQueue(queue as QueueDefinition);
  else if (queue !== undefined && shortText(queue) !== undefined) {
    throw invalid(`${what} goes to a queue whose name has more than ${LONGEST_SHORTSTR} bytes.`);
  }
}

const NO_SOURCE =
  'A binding has no source exchange. The default exchange cannot be bound: it routes to every queue by name.';

/** Brokers and `bind` of `@Consume` call the source of a binding its exchange; in a definition that is where messages go. */
function misplacedSource(exchange: string, queue: unknown): AmqpError {
  const hasQueue = queue !== undefined && queue !== null;
  const meant = hasQueue
    ? `{ source: ${quoted(exchange)}, queue: ${isName(queue) || isName((queue as QueueDefinition).name) ? nameOf(queue) : '…'} }`
    : `{ source: '…', exchange: ${quoted(exchange)} }`;
  return invalid(
    `A binding has exchange ${quoted(exchange)}${hasQueue ? ` and queue ${nameOf(queue)}` : ''}, and no source. ` +
      'source is the exchange that messages come from; queue or exchange is where they go. ' +
      `Write ${meant}.`,
  );
}

function checkFields(definition: object, checks: Readonly<Record<string, Check>>, what: string): void {
  requireObject(definition, what);
  for (const [field, value] of Object.entries(definition) as [string, unknown][]) {
    const check = Object.hasOwn(checks, field) ? checks[field] : undefined;
    if (check === undefined) {
      throw invalid(
        `${what} has the unknown field ${quoted(field)}. ${adviceOn(field, Object.keys(checks), ELSEWHERE)}`,
      );
    }
    const wanted = value === undefined ? undefined : check(value);
    if (wanted !== undefined) {
      const of = `${field} of ${what.charAt(0).toLowerCase()}${what.slice(1)}`;
      throw invalid(`${of} is ${shown(value)}; it has to be ${wanted}.`);
    }
  }
}

/**
 * What a list holds is past the compiler when it comes from a configuration file. `writtenAs` is the definition that may be meant,
 * by a name in quotes.
 */
function requireObject(definition: unknown, what: string, writtenAs?: (name: string) => string): void {
  if (typeof definition === 'object' && definition !== null && !Array.isArray(definition)) return;
  const example = writtenAs?.(isName(definition) ? quoted(definition) : "'…'");
  const told = example === undefined ? '' : `: ${example}`;
  throw invalid(`${what} is ${shown(definition)}; it has to be an object${told}.`);
}

function shown(value: unknown): string {
  return typeof value === 'string' ? quoted(value) : printable(inspect(value, { depth: 1, breakLength: Infinity }), 60);
}

function isName(name: unknown): name is string {
  return typeof name === 'string' && name !== '';
}

/** Of a definition, or a name by itself. */
function nameOf(definition: unknown): string {
  if (typeof definition === 'string') return quoted(definition);
  const name = (definition as { readonly name?: unknown } | null | undefined)?.name;
  return typeof name === 'string' && name !== '' ? quoted(name) : 'without a name';
}

function twice(what: string, field: string, argument: string): AmqpError {
  return invalid(`${what} says ${field} and, in arguments, ${argument}, which is the same. Leave one of them out.`);
}

function invalid(message: string): AmqpError {
  return new AmqpError('INVALID_DEFINITION', message);
}
