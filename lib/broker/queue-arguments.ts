/** The arguments of queue.declare: which there are, what they may be, and what they mean. */
import type { FieldTable, FieldValue } from '../protocol/field-table.js';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';
import { fieldTypeOf, integerOf, printed, requireSame, requireSameArgument } from './argument-values.js';
import { type BrokerError, notImplemented, preconditionFailed } from './broker-error.js';

export type QueueType = 'classic' | 'quorum';
type Overflow = 'drop-head' | 'reject-publish' | 'reject-publish-dlx';

/** What a queue goes by, complete. Times are milliseconds; what has no limit is `Infinity`. */
export interface QueueSettings {
  readonly type: QueueType;
  readonly messageTtl: number;
  readonly expires: number;
  readonly maxLength: number;
  readonly maxLengthBytes: number;
  readonly overflow: Overflow;
  readonly maxPriority: number;
  readonly deadLetterExchange: string | undefined;
  /** Undefined: the keys that the message has. */
  readonly deadLetterRoutingKey: string | undefined;
  readonly singleActiveConsumer: boolean;
  readonly deliveryLimit: number;
}

/** What is wrong with a value, as RabbitMQ prints it. */
type Check = (value: FieldValue, args: FieldTable) => string | undefined;

/** Longer times are refused: ten years, in milliseconds. */
export const LONGEST_TIME = 315_360_000_000;

/** As RabbitMQ prints an Erlang string. */
const text = (what: string): string => `"${what}"`;
const ofType = (value: FieldValue): string => `{unacceptable_type,${fieldTypeOf(value)}}`;

const integer: Check = (value) =>
  integerOf(value) === undefined ? text(`expected integer, got ${fieldTypeOf(value)}`) : undefined;

const notNegative: Check = (value, args) =>
  integer(value, args) ?? ((integerOf(value) ?? 0) < 0 ? `{value_negative,${printed(value)}}` : undefined);

const time: Check = (value, args) =>
  notNegative(value, args) ??
  ((integerOf(value) ?? 0) > LONGEST_TIME ? `{value_too_large,${printed(value)}}` : undefined);

const string: Check = (value) => (typeof value === 'string' ? undefined : ofType(value));

const oneOf =
  (values: readonly string[], otherwise: (value: string) => string): Check =>
  (value) =>
    typeof value !== 'string' ? ofType(value) : values.includes(value) ? undefined : otherwise(value);

/** What there is to check of values, in the order in which RabbitMQ does it. */
const CHECKS: Readonly<Record<string, Check>> = {
  'x-expires': (value, args) => (integerOf(value) === 0 ? `{value_zero,${printed(value)}}` : time(value, args)),
  'x-message-ttl': time,
  'x-dead-letter-routing-key': (value, args) =>
    string(value, args) ??
    // RabbitMQ takes it, and then cuts off whoever is to be sent the dead letter.
    (Buffer.byteLength(value as string) > LONGEST_SHORTSTR ? text('routing key longer than 255 bytes') : undefined) ??
    (args['x-dead-letter-exchange'] === undefined ? 'routing_key_but_no_dlx_defined' : undefined),
  'x-dead-letter-strategy': oneOf(['at-most-once', 'at-least-once'], () => 'invalid_dlx_strategy'),
  'x-max-length': notNegative,
  'x-max-length-bytes': notNegative,
  'x-max-in-memory-length': notNegative,
  'x-max-in-memory-bytes': notNegative,
  'x-max-priority': (value, args) =>
    notNegative(value, args) ?? ((integerOf(value) ?? 0) > 255 ? `{max_value_exceeded,${printed(value)}}` : undefined),
  'x-overflow': oneOf(['drop-head', 'reject-publish', 'reject-publish-dlx'], () => 'invalid_overflow'),
  'x-queue-mode': oneOf(['default', 'lazy'], (mode) => text(`unsupported queue mode '${mode}'`)),
  'x-queue-version': (value, args) =>
    notNegative(value, args) ??
    (integerOf(value) === 1 || integerOf(value) === 2
      ? undefined
      : text(`unsupported queue version '${printed(value)}'`)),
  'x-single-active-consumer': (value) => (typeof value === 'boolean' ? undefined : ofType(value)),
  'x-quorum-initial-group-size': (value, args) =>
    integerOf(value) === 0 ? `{value_zero,${printed(value)}}` : notNegative(value, args),
  'x-queue-leader-locator': oneOf(
    ['client-local', 'balanced', 'random', 'least-leaders'],
    () => 'invalid_queue_locator_arg',
  ),
};

const checkType = oneOf(['classic', 'quorum', 'stream'], (type) => text(`unsupported queue type '${type}'`));

/** The arguments of each type of queue, in the order in which RabbitMQ compares them with those that a queue has. */
const ARGUMENTS: Readonly<Record<QueueType, readonly string[]>> = {
  classic: [
    'x-expires',
    'x-message-ttl',
    'x-dead-letter-exchange',
    'x-dead-letter-routing-key',
    'x-max-length',
    'x-max-length-bytes',
    'x-max-priority',
    'x-overflow',
    'x-queue-mode',
    'x-queue-version',
    'x-single-active-consumer',
    'x-queue-type',
    'x-queue-master-locator',
    'x-queue-leader-locator',
  ],
  quorum: [
    'x-dead-letter-exchange',
    'x-dead-letter-routing-key',
    'x-dead-letter-strategy',
    'x-expires',
    'x-max-length',
    'x-max-length-bytes',
    'x-max-in-memory-length',
    'x-max-in-memory-bytes',
    'x-overflow',
    'x-single-active-consumer',
    'x-queue-type',
    'x-quorum-initial-group-size',
    'x-delivery-limit',
    'x-message-ttl',
    'x-queue-leader-locator',
  ],
};

/** What means something to some type of queue. Other names are taken, and mean nothing. */
const KNOWN: ReadonlySet<string> = new Set([
  ...ARGUMENTS.classic,
  ...ARGUMENTS.quorum,
  // Those of streams.
  'x-max-age',
  'x-stream-max-segment-size-bytes',
  'x-initial-cluster-size',
]);

/** How often a quorum queue takes a message back that does not say; RabbitMQ 4.0 has a limit where 3.10 has none. */
const DELIVERY_LIMIT = 20;

interface Declared {
  readonly name: string;
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly autoDelete: boolean;
  readonly arguments: FieldTable;
}

/** What a new queue goes by. Throws `BrokerError` for arguments that it cannot have. `of` is `queue 'x' in vhost '/'`. */
export function queueSettings(declared: Declared, of: string): QueueSettings {
  const { arguments: args } = declared;
  const type = checkArguments(args, of);
  if (type === 'quorum') checkQuorum(declared, of);
  const number = (name: string, otherwise: number): number => integerOf(args[name] ?? null) ?? otherwise;
  const string = (name: string): string | undefined => {
    const value = args[name];
    return typeof value === 'string' ? value : undefined;
  };
  return {
    type,
    messageTtl: number('x-message-ttl', Infinity),
    expires: number('x-expires', Infinity),
    maxLength: number('x-max-length', Infinity),
    maxLengthBytes: number('x-max-length-bytes', Infinity),
    overflow: overflowOf(type, string('x-overflow')),
    maxPriority: number('x-max-priority', 0),
    deadLetterExchange: string('x-dead-letter-exchange'),
    deadLetterRoutingKey: string('x-dead-letter-routing-key'),
    singleActiveConsumer: args['x-single-active-consumer'] === true,
    deliveryLimit: deliveryLimitOf(args),
  };
}

function checkArguments(args: FieldTable, of: string): QueueType {
  const deadLetterExchange = args['x-dead-letter-exchange'];
  if (deadLetterExchange !== undefined && typeof deadLetterExchange !== 'string') {
    const type = fieldTypeOf(deadLetterExchange);
    throw preconditionFailed(`invalid type '${type}' for arg 'x-dead-letter-exchange' in ${of}`);
  }
  // The type first: what else may be there hangs on it.
  const wanted = args['x-queue-type'] ?? 'classic';
  const wrong = checkType(wanted, args);
  if (wrong !== undefined) throw invalidArgument('x-queue-type', of, wrong);
  if (wanted === 'stream') throw notImplemented(`${of} is a stream, and the embedded broker has none`);
  const type = wanted as QueueType;
  for (const [name, check] of Object.entries(CHECKS)) {
    const value = args[name];
    const problem = value === undefined || !ARGUMENTS[type].includes(name) ? undefined : check(value, args);
    if (problem !== undefined) throw invalidArgument(name, of, problem);
  }
  for (const name of Object.keys(args)) {
    if (KNOWN.has(name) && !ARGUMENTS[type].includes(name)) {
      throw preconditionFailed(`invalid arg '${name}' for ${of} of queue type rabbit_${type}_queue`);
    }
  }
  return type;
}

/** A quorum queue has no reject-publish-dlx, and does not say so. */
function overflowOf(type: QueueType, wanted: string | undefined): Overflow {
  if (wanted === undefined || (type === 'quorum' && wanted === 'reject-publish-dlx')) return 'drop-head';
  return wanted as Overflow;
}

/** A negative limit is none. So is any value that is no number. */
function deliveryLimitOf(args: FieldTable): number {
  const wanted = args['x-delivery-limit'];
  if (wanted === undefined) return DELIVERY_LIMIT;
  const limit = integerOf(wanted) ?? -1;
  return limit < 0 ? Infinity : limit;
}

function checkQuorum({ name, durable, exclusive, autoDelete }: Declared, of: string): void {
  if (name === '') throw preconditionFailed('Cannot declare a server-named queue for type rabbit_quorum_queue');
  const property = autoDelete ? 'auto-delete' : exclusive ? 'exclusive-owner' : durable ? undefined : 'non-durable';
  if (property !== undefined) throw preconditionFailed(`invalid property '${property}' for ${of}`);
}

function invalidArgument(name: string, of: string, problem: string): BrokerError {
  return preconditionFailed(`invalid arg '${name}' for ${of}: ${problem}`);
}

/** Throws 406 when a queue is declared again with arguments that are not those it has. */
export function requireSameQueueArguments(
  received: FieldTable,
  current: { readonly type: QueueType; readonly arguments: FieldTable },
  of: string,
): void {
  for (const name of ARGUMENTS[current.type]) {
    if (name === 'x-queue-type') {
      // Classic is what a queue is that does not say.
      requireSame(name, of, printed(received[name] ?? 'classic'), current.type);
    } else {
      requireSameArgument(name, of, received, current.arguments);
    }
  }
}
