/**
 * Every method of AMQP 0-9-1 and of RabbitMQ's extensions to it, as one table; types, encoder and decoder follow from it.
 * Frames are left to `frame`, what a method means to `client` and `broker`.
 *
 * Names and ids are the specification's (amqp0-9-1.extended.xml) in camelCase; connection.blocked, unblocked and
 * update-secret are RabbitMQ's own (https://www.rabbitmq.com/docs/specification).
 */
import { AmqpError, ProtocolError } from '../errors.js';
import { type FieldTable, readTable, writeTable } from './field-table.js';
import type { WireReader, WireWriter } from './wire.js';

interface WireTypes {
  bit: boolean;
  octet: number;
  short: number;
  long: number;
  longlong: number;
  shortstr: string;
  longstr: string | Uint8Array;
  table: FieldTable;
}

type WireType = keyof WireTypes;

interface MethodShape {
  /** Class id and method id. */
  readonly id: readonly [classId: number, methodId: number];
  /** Fields in wire order. A name that begins with `reserved` is written as zero or empty and not decoded. */
  readonly args: Readonly<Record<string, WireType>>;
  /** The methods that answer this one. */
  readonly reply?: readonly string[];
  /** A content header and body follow. */
  readonly content?: true;
}

const close = { replyCode: 'short', replyText: 'shortstr', classId: 'short', methodId: 'short' } as const;
const tuning = { channelMax: 'short', frameMax: 'long', heartbeat: 'short' } as const;

export const METHODS = {
  'connection.start': {
    id: [10, 10],
    args: {
      versionMajor: 'octet',
      versionMinor: 'octet',
      serverProperties: 'table',
      mechanisms: 'longstr',
      locales: 'longstr',
    },
    reply: ['connection.start-ok'],
  },
  'connection.start-ok': {
    id: [10, 11],
    args: { clientProperties: 'table', mechanism: 'shortstr', response: 'longstr', locale: 'shortstr' },
  },
  'connection.secure': { id: [10, 20], args: { challenge: 'longstr' }, reply: ['connection.secure-ok'] },
  'connection.secure-ok': { id: [10, 21], args: { response: 'longstr' } },
  'connection.tune': { id: [10, 30], args: tuning, reply: ['connection.tune-ok'] },
  'connection.tune-ok': { id: [10, 31], args: tuning },
  'connection.open': {
    id: [10, 40],
    args: { virtualHost: 'shortstr', reserved1: 'shortstr', reserved2: 'bit' },
    reply: ['connection.open-ok'],
  },
  'connection.open-ok': { id: [10, 41], args: { reserved1: 'shortstr' } },
  'connection.close': { id: [10, 50], args: close, reply: ['connection.close-ok'] },
  'connection.close-ok': { id: [10, 51], args: {} },
  'connection.blocked': { id: [10, 60], args: { reason: 'shortstr' } },
  'connection.unblocked': { id: [10, 61], args: {} },
  'connection.update-secret': {
    id: [10, 70],
    args: { newSecret: 'longstr', reason: 'shortstr' },
    reply: ['connection.update-secret-ok'],
  },
  'connection.update-secret-ok': { id: [10, 71], args: {} },

  'channel.open': { id: [20, 10], args: { reserved1: 'shortstr' }, reply: ['channel.open-ok'] },
  'channel.open-ok': { id: [20, 11], args: { reserved1: 'longstr' } },
  'channel.flow': { id: [20, 20], args: { active: 'bit' }, reply: ['channel.flow-ok'] },
  'channel.flow-ok': { id: [20, 21], args: { active: 'bit' } },
  'channel.close': { id: [20, 40], args: close, reply: ['channel.close-ok'] },
  'channel.close-ok': { id: [20, 41], args: {} },

  'exchange.declare': {
    id: [40, 10],
    args: {
      reserved1: 'short',
      exchange: 'shortstr',
      type: 'shortstr',
      passive: 'bit',
      durable: 'bit',
      autoDelete: 'bit',
      internal: 'bit',
      noWait: 'bit',
      arguments: 'table',
    },
    reply: ['exchange.declare-ok'],
  },
  'exchange.declare-ok': { id: [40, 11], args: {} },
  'exchange.delete': {
    id: [40, 20],
    args: { reserved1: 'short', exchange: 'shortstr', ifUnused: 'bit', noWait: 'bit' },
    reply: ['exchange.delete-ok'],
  },
  'exchange.delete-ok': { id: [40, 21], args: {} },
  'exchange.bind': {
    id: [40, 30],
    args: {
      reserved1: 'short',
      destination: 'shortstr',
      source: 'shortstr',
      routingKey: 'shortstr',
      noWait: 'bit',
      arguments: 'table',
    },
    reply: ['exchange.bind-ok'],
  },
  'exchange.bind-ok': { id: [40, 31], args: {} },
  'exchange.unbind': {
    id: [40, 40],
    args: {
      reserved1: 'short',
      destination: 'shortstr',
      source: 'shortstr',
      routingKey: 'shortstr',
      noWait: 'bit',
      arguments: 'table',
    },
    reply: ['exchange.unbind-ok'],
  },
  // 51, not 41: the number that RabbitMQ first shipped.
  'exchange.unbind-ok': { id: [40, 51], args: {} },

  'queue.declare': {
    id: [50, 10],
    args: {
      reserved1: 'short',
      queue: 'shortstr',
      passive: 'bit',
      durable: 'bit',
      exclusive: 'bit',
      autoDelete: 'bit',
      noWait: 'bit',
      arguments: 'table',
    },
    reply: ['queue.declare-ok'],
  },
  'queue.declare-ok': { id: [50, 11], args: { queue: 'shortstr', messageCount: 'long', consumerCount: 'long' } },
  'queue.bind': {
    id: [50, 20],
    args: {
      reserved1: 'short',
      queue: 'shortstr',
      exchange: 'shortstr',
      routingKey: 'shortstr',
      noWait: 'bit',
      arguments: 'table',
    },
    reply: ['queue.bind-ok'],
  },
  'queue.bind-ok': { id: [50, 21], args: {} },
  // The one method of its kind without a no-wait bit.
  'queue.unbind': {
    id: [50, 50],
    args: { reserved1: 'short', queue: 'shortstr', exchange: 'shortstr', routingKey: 'shortstr', arguments: 'table' },
    reply: ['queue.unbind-ok'],
  },
  'queue.unbind-ok': { id: [50, 51], args: {} },
  'queue.purge': {
    id: [50, 30],
    args: { reserved1: 'short', queue: 'shortstr', noWait: 'bit' },
    reply: ['queue.purge-ok'],
  },
  'queue.purge-ok': { id: [50, 31], args: { messageCount: 'long' } },
  'queue.delete': {
    id: [50, 40],
    args: { reserved1: 'short', queue: 'shortstr', ifUnused: 'bit', ifEmpty: 'bit', noWait: 'bit' },
    reply: ['queue.delete-ok'],
  },
  'queue.delete-ok': { id: [50, 41], args: { messageCount: 'long' } },

  'basic.qos': {
    id: [60, 10],
    args: { prefetchSize: 'long', prefetchCount: 'short', global: 'bit' },
    reply: ['basic.qos-ok'],
  },
  'basic.qos-ok': { id: [60, 11], args: {} },
  'basic.consume': {
    id: [60, 20],
    args: {
      reserved1: 'short',
      queue: 'shortstr',
      consumerTag: 'shortstr',
      noLocal: 'bit',
      noAck: 'bit',
      exclusive: 'bit',
      noWait: 'bit',
      arguments: 'table',
    },
    reply: ['basic.consume-ok'],
  },
  'basic.consume-ok': { id: [60, 21], args: { consumerTag: 'shortstr' } },
  'basic.cancel': { id: [60, 30], args: { consumerTag: 'shortstr', noWait: 'bit' }, reply: ['basic.cancel-ok'] },
  'basic.cancel-ok': { id: [60, 31], args: { consumerTag: 'shortstr' } },
  'basic.publish': {
    id: [60, 40],
    args: { reserved1: 'short', exchange: 'shortstr', routingKey: 'shortstr', mandatory: 'bit', immediate: 'bit' },
    content: true,
  },
  'basic.return': {
    id: [60, 50],
    args: { replyCode: 'short', replyText: 'shortstr', exchange: 'shortstr', routingKey: 'shortstr' },
    content: true,
  },
  'basic.deliver': {
    id: [60, 60],
    args: {
      consumerTag: 'shortstr',
      deliveryTag: 'longlong',
      redelivered: 'bit',
      exchange: 'shortstr',
      routingKey: 'shortstr',
    },
    content: true,
  },
  'basic.get': {
    id: [60, 70],
    args: { reserved1: 'short', queue: 'shortstr', noAck: 'bit' },
    reply: ['basic.get-ok', 'basic.get-empty'],
  },
  'basic.get-ok': {
    id: [60, 71],
    args: {
      deliveryTag: 'longlong',
      redelivered: 'bit',
      exchange: 'shortstr',
      routingKey: 'shortstr',
      messageCount: 'long',
    },
    content: true,
  },
  'basic.get-empty': { id: [60, 72], args: { reserved1: 'shortstr' } },
  'basic.ack': { id: [60, 80], args: { deliveryTag: 'longlong', multiple: 'bit' } },
  'basic.reject': { id: [60, 90], args: { deliveryTag: 'longlong', requeue: 'bit' } },
  'basic.recover-async': { id: [60, 100], args: { requeue: 'bit' } },
  'basic.recover': { id: [60, 110], args: { requeue: 'bit' }, reply: ['basic.recover-ok'] },
  'basic.recover-ok': { id: [60, 111], args: {} },
  'basic.nack': { id: [60, 120], args: { deliveryTag: 'longlong', multiple: 'bit', requeue: 'bit' } },

  'confirm.select': { id: [85, 10], args: { noWait: 'bit' }, reply: ['confirm.select-ok'] },
  'confirm.select-ok': { id: [85, 11], args: {} },

  'tx.select': { id: [90, 10], args: {}, reply: ['tx.select-ok'] },
  'tx.select-ok': { id: [90, 11], args: {} },
  'tx.commit': { id: [90, 20], args: {}, reply: ['tx.commit-ok'] },
  'tx.commit-ok': { id: [90, 21], args: {} },
  'tx.rollback': { id: [90, 30], args: {}, reply: ['tx.rollback-ok'] },
  'tx.rollback-ok': { id: [90, 31], args: {} },
} as const satisfies Record<string, MethodShape>;

type MethodTable = typeof METHODS;

/** The name of a method: `'queue.declare-ok'`. */
export type MethodName = keyof MethodTable;

/** The fields of a method, without the reserved ones. */
export type MethodArgs<N extends MethodName> = {
  [
    F in keyof MethodTable[N]['args'] as F extends `reserved${string}` ? never : F
  ]: MethodTable[N]['args'][F] extends WireType ? WireTypes[MethodTable[N]['args'][F]] : never;
};

/** The fields of a method to write. A routing key may be the bytes that came in another message, whatever text they may be. */
export type WritableArgs<N extends MethodName> = {
  [F in keyof MethodArgs<N>]: F extends 'routingKey' ? string | Uint8Array : MethodArgs<N>[F];
};

/** A method with its fields; narrow it by `name`. */
export type Method<N extends MethodName = MethodName> = {
  [M in N]: { readonly name: M; readonly args: MethodArgs<M> };
}[N];

/** Methods that are answered. */
export type RequestName = {
  [N in MethodName]: MethodTable[N] extends { readonly reply: readonly string[] } ? N : never;
}[MethodName];

/** Methods that are answered unless their no-wait bit is set. */
export type NoWaitRequestName = {
  [N in RequestName]: MethodTable[N]['args'] extends { readonly noWait: 'bit' } ? N : never;
}[RequestName];

/** What answers a method: `'queue.declare-ok'` for `'queue.declare'`. */
export type ReplyName<N extends RequestName> = MethodTable[N] extends { readonly reply: readonly (infer R)[] }
  ? Extract<R, MethodName>
  : never;

/** The answers to a method, to narrow by `name`. */
export type Reply<N extends RequestName> = Method<ReplyName<N>>;

/** Methods that a content header and body follow. */
export type ContentMethodName = {
  [N in MethodName]: MethodTable[N] extends { readonly content: true } ? N : never;
}[MethodName];

/** Names by id: class id in the high, method id in the low 16 bits. */
const NAMES = new Map<number, MethodName>();
const FIELDS = new Map<MethodName, readonly (readonly [name: string, type: WireType])[]>();

for (const [name, shape] of Object.entries(METHODS) as [MethodName, MethodShape][]) {
  NAMES.set((shape.id[0] << 16) | shape.id[1], name);
  FIELDS.set(name, Object.entries(shape.args));
}

/** The name of a method by its ids, as `connection.close` and `channel.close` blame one; undefined for 0, 0. */
export function methodName(classId: number, methodId: number): MethodName | undefined {
  return NAMES.get((classId << 16) | methodId);
}

/** Class id in the high, method id in the low 16 bits, as the first four octets of a method frame have them. */
export function methodId(name: MethodName): number {
  const [classId, id] = METHODS[name].id;
  return (classId << 16) | id;
}

export function hasContent(name: MethodName): name is ContentMethodName {
  return 'content' in METHODS[name];
}

/** The names of the methods that may answer `name`. */
export function repliesOf<N extends RequestName>(name: N): readonly ReplyName<N>[] {
  return METHODS[name].reply as readonly string[] as readonly ReplyName<N>[];
}

/** Writes ids and fields. Neighbouring bits share an octet, lowest bit first (specification, section 4.2.5.2). */
export function writeMethod<N extends MethodName>(
  writer: WireWriter,
  name: N,
  args: MethodArgs<N> | WritableArgs<N>,
): void {
  const [classId, methodId] = METHODS[name].id;
  writer.short(classId);
  writer.short(methodId);
  const values = args as Readonly<Record<string, unknown>>;
  let bits = 0;
  let bitCount = 0;
  for (const [fieldName, type] of FIELDS.get(name) ?? []) {
    const value = values[fieldName];
    if (type === 'bit') {
      // 'no' is not false: what somebody wrote in place of a boolean is not guessed.
      if (value !== undefined && typeof value !== 'boolean') {
        throw wrongField(name, fieldName, 'true or false', ofType(value));
      }
      if (value === true) bits |= 1 << bitCount;
      bitCount += 1;
      continue;
    }
    if (bitCount > 0) writer.octet(bits);
    bits = bitCount = 0;
    writeField(writer, type, value, name, fieldName);
  }
  if (bitCount > 0) writer.octet(bits);
}

const UNSIGNED_MAX = { octet: 0xff, short: 0xffff, long: 0xffff_ffff, longlong: Number.MAX_SAFE_INTEGER } as const;

function writeField(
  writer: WireWriter,
  kind: Exclude<WireType, 'bit'>,
  value: unknown,
  method: string,
  name: string,
): void {
  switch (kind) {
    case 'octet':
    case 'short':
    case 'long':
    case 'longlong': {
      const number = value ?? 0;
      if (typeof number !== 'number' || !Number.isInteger(number) || number < 0 || number > UNSIGNED_MAX[kind]) {
        const given = typeof value === 'number' ? String(value) : ofType(value);
        throw wrongField(method, name, `an integer from 0 to ${UNSIGNED_MAX[kind]}`, given);
      }
      writer[kind](number);
      return;
    }
    case 'shortstr': {
      const text = value ?? '';
      if (typeof text !== 'string' && !(name === 'routingKey' && text instanceof Uint8Array)) {
        throw wrongField(method, name, 'a string', ofType(value));
      }
      writer.shortstr(text, `${name} of ${method}`);
      return;
    }
    case 'longstr': {
      const bytes = value ?? '';
      if (typeof bytes !== 'string' && !(bytes instanceof Uint8Array)) {
        // The type alone: secrets travel in long strings.
        throw wrongField(method, name, 'a string or bytes', ofType(value));
      }
      writer.longstr(bytes);
      return;
    }
    case 'table': {
      const table = value ?? {};
      if (typeof table !== 'object' || Array.isArray(table)) throw wrongField(method, name, 'an object', ofType(value));
      writeTable(writer, table as FieldTable, `${name} of ${method}`);
      return;
    }
    default:
      kind satisfies never;
  }
}

/** The error for a value that a field cannot hold. */
export function wrongField(method: string, name: string, wanted: string, given: string): AmqpError {
  return new AmqpError('INVALID_ARGUMENT', `${name} of ${method} has to be ${wanted}; it is ${given}.`, { method });
}

/** What a value is, for an error that must not show it. */
export function ofType(value: unknown): string {
  return Array.isArray(value) ? 'an array' : `of type ${typeof value}`;
}

/** Reads ids and fields to the end of the reader. Long strings are views on the bytes read. */
export function readMethod(reader: WireReader): Method {
  const classId = reader.short();
  const methodId = reader.short();
  const name = methodName(classId, methodId);
  if (name === undefined) {
    throw new ProtocolError(
      503,
      `The peer sent a method that AMQP 0-9-1 does not have (class ${classId}, method ${methodId}).`,
    );
  }
  const args: Record<string, unknown> = {};
  let bits = 0;
  let bitCount = 0;
  for (const [fieldName, type] of FIELDS.get(name) ?? []) {
    let value: unknown;
    if (type === 'bit') {
      if (bitCount === 0) bits = reader.octet();
      value = (bits & (1 << bitCount)) !== 0;
      bitCount += 1;
    } else {
      bitCount = 0;
      value = type === 'table' ? readTable(reader) : reader[type]();
    }
    if (!fieldName.startsWith('reserved')) args[fieldName] = value;
  }
  if (reader.remaining > 0) {
    throw new ProtocolError(501, `The peer sent ${reader.remaining} bytes after the last field of ${name}.`, {
      method: name,
    });
  }
  // The table has just decided which fields there are and of what type.
  return { name, args } as Method;
}
