/** The arguments of queue.declare: which there are, what they may be, and what they mean. */
import type { FieldTable, FieldValue } from '../protocol/field-table.js';
import { fieldTypeOf, integerOf, isSameValue, printed, requireSameArgument } from './argument-values.js';
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

const BOTH: readonly QueueType[] = ['classic', 'quorum'];
const CLASSIC: readonly QueueType[] = ['classic'];
const QUORUM: readonly QueueType[] = ['quorum'];
const NEITHER: readonly QueueType[] = [];

/** In the order in which RabbitMQ checks them. Names that are not here are taken and mean nothing. */
const ARGUMENTS: Readonly<Record<string, readonly [types: readonly QueueType[], check: Check]>> = {
  'x-expires': [BOTH, (value, args) => (integerOf(value) === 0 ? `{value_zero,${printed(value)}}` : time(value, args))],
  'x-message-ttl': [BOTH, time],
  // Checked before all others, with words of its own.
  'x-dead-letter-exchange': [BOTH, () => undefined],
  'x-dead-letter-routing-key': [
    BOTH,
    (value, args) =>
      string(value, args) ??
      // RabbitMQ takes it, and then cuts off whoever is to be sent the dead letter.
      (Buffer.byteLength(value as string) > 255 ? text('routing key longer than 255 bytes') : undefined) ??
      (args['x-dead-letter-exchange'] === undefined ? 'routing_key_but_no_dlx_defined' : undefined),
  ],
  'x-dead-letter-strategy': [QUORUM, oneOf(['at-most-once', 'at-least-once'], () => 'invalid_dlx_strategy')],
  'x-max-length': [BOTH, notNegative],
  'x-max-length-bytes': [BOTH, notNegative],
  'x-max-in-memory-length': [QUORUM, notNegative],
  'x-max-in-memory-bytes': [QUORUM, notNegative],
  'x-max-priority': [
    CLASSIC,
    (value, args) =>
      notNegative(value, args) ??
      ((integerOf(value) ?? 0) > 255 ? `{max_value_exceeded,${printed(value)}}` : undefined),
  ],
  'x-overflow': [BOTH, oneOf(['drop-head', 'reject-publish', 'reject-publish-dlx'], () => 'invalid_overflow')],
  'x-queue-mode': [CLASSIC, oneOf(['default', 'lazy'], (mode) => text(`unsupported queue mode '${mode}'`))],
  'x-queue-version': [
    CLASSIC,
    (value, args) =>
      notNegative(value, args) ??
      (integerOf(value) === 1 || integerOf(value) === 2
        ? undefined
        : text(`unsupported queue version '${printed(value)}'`)),
  ],
  'x-single-active-consumer': [BOTH, (value) => (typeof value === 'boolean' ? undefined : ofType(value))],
  'x-queue-type': [BOTH, oneOf(['classic', 'quorum', 'stream'], (type) => text(`unsupported queue type '${type}'`))],
  'x-quorum-initial-group-size': [QUORUM, notNegative],
  'x-queue-leader-locator': [
    QUORUM,
    oneOf(['client-local', 'balanced', 'random', 'least-leaders'], () => 'invalid_queue_locator_arg'),
  ],
  // RabbitMQ 3.10 takes any value here.
  'x-delivery-limit': [QUORUM, () => undefined],
  'x-queue-master-locator': [CLASSIC, () => undefined],
  'x-max-age': [NEITHER, () => undefined],
  'x-stream-max-segment-size-bytes': [NEITHER, () => undefined],
  'x-initial-cluster-size': [NEITHER, () => undefined],
};

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
    overflow: (string('x-overflow') ?? 'drop-head') as Overflow,
    maxPriority: number('x-max-priority', 0),
    deadLetterExchange: string('x-dead-letter-exchange'),
    deadLetterRoutingKey: string('x-dead-letter-routing-key'),
    singleActiveConsumer: args['x-single-active-consumer'] === true,
    deliveryLimit: number('x-delivery-limit', Infinity),
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
  const wrong = ARGUMENTS['x-queue-type']?.[1](wanted, args);
  if (wrong !== undefined) throw invalidArgument('x-queue-type', of, wrong);
  if (wanted === 'stream') throw notImplemented(`${of} is a stream, and the embedded broker has none`);
  const type = wanted as QueueType;
  const known = Object.entries(ARGUMENTS).filter(([name]) => args[name] !== undefined);
  for (const [name, [types]] of known) {
    if (!types.includes(type)) {
      throw preconditionFailed(`invalid arg '${name}' for ${of} of queue type rabbit_${type}_queue`);
    }
  }
  for (const [name, [, check]] of known) {
    const problem = check(args[name] ?? null, args);
    if (problem !== undefined) throw invalidArgument(name, of, problem);
  }
  return type;
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
export function requireSameQueueArguments(received: FieldTable, current: FieldTable, of: string): void {
  for (const name of Object.keys(ARGUMENTS)) {
    // Classic is what a queue is that does not say.
    const isType = name === 'x-queue-type';
    if (isType && isSameValue(received[name] ?? 'classic', current[name] ?? 'classic')) continue;
    requireSameArgument(name, of, received, current);
  }
}
