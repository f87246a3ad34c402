/**
 * Exchanges, queues and bindings as data: checked, turned into declarations, applied. When that happens is decided above.
 */
import type { Channel } from '../client/channel.js';
import type { ExchangeDeclareOptions, QueueDeclareOptions } from '../client/channel-options.js';
import type { Connection } from '../client/connection.js';
import { type Duration, milliseconds } from '../time/duration.js';
import { AmqpError, printable, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';

/** An exchange to declare (https://www.rabbitmq.com/docs/exchanges). */
export interface ExchangeDefinition {
  readonly name: string;
  /** How it routes; `x-…` for the types of plugins. */
  readonly type: 'direct' | 'fanout' | 'topic' | 'headers' | `x-${string}`;
  /** Survives a restart of the broker. @default true */
  readonly durable?: boolean;
  /** Deleted when its last binding goes. @default false */
  readonly autoDelete?: boolean;
  /** Takes messages from other exchanges only. @default false */
  readonly internal?: boolean;
  /** Where messages go that no binding takes. */
  readonly alternateExchange?: string;
  /** Anything else, by the broker's own names. */
  readonly arguments?: FieldTable;
}

/** A queue to declare (https://www.rabbitmq.com/docs/queues). */
export interface QueueDefinition {
  /** Without a name the queue is exclusive and auto-deleted, and the broker makes up a name. */
  readonly name?: string;
  /** @default the broker's, usually classic */
  readonly type?: 'classic' | 'quorum' | 'stream';
  /** Survives a restart of the broker. @default true, unnamed false */
  readonly durable?: boolean;
  /** For this connection alone, and deleted with it. @default false, unnamed true */
  readonly exclusive?: boolean;
  /** Deleted when its last consumer goes. @default false, unnamed true */
  readonly autoDelete?: boolean;
  /** Deleted after this long without use. */
  readonly expires?: Duration;
  /** How long a message may wait in it. */
  readonly messageTtl?: Duration;
  /** Most messages that may wait in it. */
  readonly maxLength?: number;
  /** Most bytes of bodies that may wait in it. */
  readonly maxLengthBytes?: number;
  /** What happens at `maxLength`. @default the broker's, 'drop-head' */
  readonly overflow?: 'drop-head' | 'reject-publish' | 'reject-publish-dlx';
  /** Where messages go that are rejected, expire or overflow. */
  readonly deadLetter?: { readonly exchange: string; readonly routingKey?: string };
  /** Highest priority of its messages, 1 to 255. */
  readonly maxPriority?: number;
  /** How often a quorum queue delivers a message before it is dead-lettered. */
  readonly deliveryLimit?: number;
  /** One consumer at a time gets messages. @default false */
  readonly singleActiveConsumer?: boolean;
  /** Anything else, by the broker's own names. */
  readonly arguments?: FieldTable;
}

/** What `source` routes under the key goes to a queue, or to another exchange. */
export type BindingDefinition = {
  readonly source: string;
  /** @default '' */
  readonly routingKey?: string;
  readonly arguments?: FieldTable;
} & ({ readonly queue: string; readonly exchange?: never } | { readonly exchange: string; readonly queue?: never });

/** What an application needs on the broker. Declared in the order exchanges, queues, bindings. */
export interface Topology {
  readonly exchanges?: readonly ExchangeDefinition[];
  readonly queues?: readonly QueueDefinition[];
  readonly bindings?: readonly BindingDefinition[];
}

/** Gives an exchange definition its type. */
export const exchange = (definition: ExchangeDefinition): ExchangeDefinition => definition;
/** Gives a queue definition its type. */
export const queue = (definition: QueueDefinition): QueueDefinition => definition;
/** Gives a binding definition its type. */
export const binding = (definition: BindingDefinition): BindingDefinition => definition;

/** How a definition's fields become arguments of queue.declare (https://www.rabbitmq.com/docs/queues#optional-arguments). */
const QUEUE_ARGUMENTS: {
  readonly [F in keyof QueueDefinition]?: (value: NonNullable<QueueDefinition[F]>, field: string) => FieldTable;
} = {
  type: (value) => ({ 'x-queue-type': value }),
  expires: (value, field) => ({ 'x-expires': Math.round(milliseconds(value, field)) }),
  messageTtl: (value, field) => ({ 'x-message-ttl': Math.round(milliseconds(value, field)) }),
  maxLength: (value) => ({ 'x-max-length': value }),
  maxLengthBytes: (value) => ({ 'x-max-length-bytes': value }),
  overflow: (value) => ({ 'x-overflow': value }),
  deadLetter: ({ exchange: target, routingKey }) => ({
    'x-dead-letter-exchange': target,
    ...(routingKey === undefined ? {} : { 'x-dead-letter-routing-key': routingKey }),
  }),
  maxPriority: (value) => ({ 'x-max-priority': value }),
  deliveryLimit: (value) => ({ 'x-delivery-limit': value }),
  singleActiveConsumer: (value) => ({ 'x-single-active-consumer': value }),
};

const EXCHANGE_FIELDS = ['name', 'type', 'durable', 'autoDelete', 'internal', 'alternateExchange', 'arguments'];
const QUEUE_FIELDS = ['name', 'durable', 'exclusive', 'autoDelete', 'arguments', ...Object.keys(QUEUE_ARGUMENTS)];
const BINDING_FIELDS = ['source', 'queue', 'exchange', 'routingKey', 'arguments'];
const TOPOLOGY_FIELDS = ['exchanges', 'queues', 'bindings'];

/** Checks what can be checked without a broker. Throws `INVALID_DEFINITION`. */
export function checkTopology(topology: Topology): void {
  checkFields(topology, TOPOLOGY_FIELDS, 'The topology');
  for (const definition of topology.exchanges ?? []) {
    checkFields(definition, EXCHANGE_FIELDS, `Exchange ${nameOf(definition)}`);
    if (!isName(definition.name))
      throw invalid('An exchange has no name. Give it one; the default exchange is always there.');
    if (!isName(definition.type))
      throw invalid(`Exchange ${quoted(definition.name)} has no type: direct, fanout, topic, headers.`);
  }
  for (const definition of topology.queues ?? []) {
    checkFields(definition, QUEUE_FIELDS, `Queue ${nameOf(definition)}`);
    queueArguments(definition);
  }
  for (const definition of topology.bindings ?? []) {
    checkFields(definition, BINDING_FIELDS, 'A binding');
    if (!isName(definition.source)) {
      throw invalid(
        'A binding has no source exchange. The default exchange cannot be bound: it routes to every queue by name.',
      );
    }
    if (isName(definition.queue) === isName(definition.exchange)) {
      throw invalid(`The binding of ${quoted(definition.source)} needs either a queue or an exchange to route to.`);
    }
  }
}

/**
 * RabbitMQ takes the requests of one channel in turn, and each of them waits for its database; those of several channels
 * wait together. More channels than these made it no faster, and for fewer declarations than these a channel is not opened.
 */
const MOST_CHANNELS = 16;
const DECLARATIONS_PER_CHANNEL = 8;

/**
 * Declares exchanges, then queues, then bindings, over channels of its own: one, and more for a large topology. Rejects with
 * `TOPOLOGY_CONFLICT` when the broker has one of them with other properties, with `TOPOLOGY_FAILED` when it refuses for
 * another reason.
 */
export async function applyTopology(
  connection: Connection,
  { exchanges = [], queues = [], bindings = [] }: Topology,
): Promise<void> {
  const most = Math.max(exchanges.length, queues.length, bindings.length);
  const channels = await openUpTo(Math.min(MOST_CHANNELS, Math.ceil(most / DECLARATIONS_PER_CHANNEL)), connection);
  // Within a stage all requests are under way at a time; each stage needs the one before it.
  const stage = async <D>(definitions: readonly D[], declare: (channel: Channel, definition: D) => Promise<void>) => {
    await Promise.all(
      definitions.map((definition, index) => declare(channels[index % channels.length] as Channel, definition)),
    );
  };
  try {
    await stage(exchanges, declareExchange);
    await stage(queues, declareQueue);
    await stage(bindings, bind);
  } catch (error) {
    // Their last answers may be seconds away, and nobody waits for those.
    for (const channel of channels) void channel.close();
    throw error;
  }
  await Promise.all(channels.map((channel) => channel.close()));
}

/** At least one channel, and as many of the others as the connection has left. */
async function openUpTo(count: number, connection: Connection): Promise<[Channel, ...Channel[]]> {
  const first = connection.channel();
  const others = Array.from({ length: count - 1 }, () => connection.channel().catch(() => undefined));
  const [opened, ...rest] = await Promise.all([first, ...others]);
  return [opened, ...rest.filter((channel) => channel !== undefined)];
}

/** The part of a topology that a queue needs: its definition, its bindings and their sources. A queue that it does not name is durable. */
export function topologyOf(name: string, { exchanges = [], queues = [], bindings = [] }: Topology): Topology {
  const bound = bindings.filter((definition) => definition.queue === name);
  return {
    exchanges: exchanges.filter((definition) => bound.some(({ source }) => source === definition.name)),
    queues: [queues.find((definition) => definition.name === name) ?? { name }],
    bindings: bound,
  };
}

async function declareExchange(channel: Channel, definition: ExchangeDefinition): Promise<void> {
  const { name, type, alternateExchange, arguments: more, ...flags } = definition;
  const options: ExchangeDeclareOptions = {
    ...flags,
    arguments: { ...(alternateExchange === undefined ? {} : { 'alternate-exchange': alternateExchange }), ...more },
  };
  await explained(`exchange ${quoted(name)}`, channel.exchangeDeclare(name, type, options));
}

async function declareQueue(channel: Channel, definition: QueueDefinition): Promise<void> {
  const { name, durable, exclusive, autoDelete } = definition;
  const options: QueueDeclareOptions = { durable, exclusive, autoDelete, arguments: queueArguments(definition) };
  await explained(`queue ${nameOf(definition)}`, channel.queueDeclare(name, options));
}

async function bind(channel: Channel, definition: BindingDefinition): Promise<void> {
  const { source, queue: toQueue, exchange: toExchange, routingKey, arguments: args } = definition;
  const what = `binding from exchange ${quoted(source)} to ${
    toQueue === undefined ? `exchange ${quoted(toExchange)}` : `queue ${quoted(toQueue)}`
  }`;
  await explained(
    what,
    toQueue === undefined
      ? channel.exchangeBind(toExchange, source, routingKey, args)
      : channel.queueBind(toQueue, source, routingKey, args),
  );
}

function queueArguments(definition: QueueDefinition): FieldTable {
  let table: FieldTable = {};
  for (const [field, read] of Object.entries(QUEUE_ARGUMENTS)) {
    const value: unknown = definition[field as keyof QueueDefinition];
    if (value === undefined) continue;
    // The entry under this field reads this field's type.
    table = {
      ...table,
      ...(read as (value: unknown, field: string) => FieldTable)(value, `${field} of queue ${nameOf(definition)}`),
    };
  }
  return { ...table, ...definition.arguments };
}

/** RabbitMQ's 406: `inequivalent arg 'durable' for queue 'orders' in vhost '/': received 'false' but current is 'true'`. */
const INEQUIVALENT = /inequivalent arg '(.+?)' for .*?: received (.*?) but current is (.*)$/;

async function explained(what: string, declared: Promise<unknown>): Promise<void> {
  try {
    await declared;
  } catch (error) {
    // A broker that shuts down meanwhile (320) blames no method, and nothing is wrong with the declaration.
    if (!(error instanceof AmqpError) || error.closedBy !== 'server' || error.method === undefined) throw error;
    const facts = { replyCode: error.replyCode, replyText: error.replyText, method: error.method, cause: error };
    const [, argument, declares, has] = INEQUIVALENT.exec(error.replyText ?? '') ?? [];
    if (error.replyCode === 406 && argument !== undefined) {
      throw new AmqpError(
        'TOPOLOGY_CONFLICT',
        `The broker has ${what} with ${printable(argument)} ${printable(has ?? '')}; this module declares ${printable(declares ?? '')}. ` +
          'Change the declaration, or delete it on the broker so that it is made anew.',
        facts,
      );
    }
    throw new AmqpError('TOPOLOGY_FAILED', `The ${what} cannot be declared. ${error.message}`, facts);
  }
}

function checkFields(definition: object, known: readonly string[], what: string): void {
  const unknown = Object.keys(definition).find((field) => !known.includes(field));
  if (unknown !== undefined) {
    throw invalid(`${what} has the unknown field ${quoted(unknown)}. Known are ${known.join(', ')}.`);
  }
}

function isName(name: unknown): name is string {
  return typeof name === 'string' && name !== '';
}

function nameOf({ name }: { readonly name?: string }): string {
  return name === undefined ? 'without a name' : quoted(name);
}

function invalid(message: string): AmqpError {
  return new AmqpError('INVALID_DEFINITION', message);
}
