/** What definitions are on the wire, with everything said that they leave to defaults. Pure functions. */
import type { FieldTable } from '../protocol/field-table.js';
import { milliseconds } from '../time/duration.js';
import type { ExchangeDefinition, QueueDefinition } from './definitions.js';

/** The fields of a queue definition that are arguments of queue.declare (https://www.rabbitmq.com/docs/queues#optional-arguments). */
export const QUEUE_ARGUMENTS = {
  type: ['x-queue-type'],
  expires: ['x-expires'],
  messageTtl: ['x-message-ttl'],
  maxLength: ['x-max-length'],
  maxLengthBytes: ['x-max-length-bytes'],
  overflow: ['x-overflow'],
  deadLetter: ['x-dead-letter-exchange', 'x-dead-letter-routing-key'],
  maxPriority: ['x-max-priority'],
  deliveryLimit: ['x-delivery-limit'],
  singleActiveConsumer: ['x-single-active-consumer'],
} as const satisfies Partial<Record<keyof QueueDefinition, readonly string[]>>;

/** The fields of definitions by the name that brokers have for them, where that is another. */
const FIELDS: Readonly<Record<string, string>> = {
  ...Object.fromEntries(Object.entries(QUEUE_ARGUMENTS).map(([field, [argument]]) => [argument, field])),
  'x-dead-letter-exchange': 'deadLetter.exchange',
  'x-dead-letter-routing-key': 'deadLetter.routingKey',
  'alternate-exchange': 'alternateExchange',
  auto_delete: 'autoDelete',
};

/** What a broker calls a property, as a definition calls it: `messageTtl (x-message-ttl)`; else as it is. */
export function inWords(property: string): string {
  const field = Object.hasOwn(FIELDS, property) ? FIELDS[property] : undefined;
  return field === undefined ? property : `${field} (${property})`;
}

/** How a queue is declared. Without a name the broker makes one up. */
export interface QueueDeclaration {
  readonly name: string | undefined;
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly autoDelete: boolean;
  readonly arguments: FieldTable;
}

/** How an exchange is declared. */
export interface ExchangeDeclaration {
  readonly name: string;
  readonly type: string;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly internal: boolean;
  readonly arguments: FieldTable;
}

export function queueDeclaration(definition: QueueDefinition): QueueDeclaration {
  const { name, type, expires, messageTtl, maxLength, maxLengthBytes, overflow } = definition;
  const { deadLetter, maxPriority, deliveryLimit, singleActiveConsumer } = definition;
  const unnamed = name === undefined;
  return {
    name,
    durable: definition.durable ?? !unnamed,
    exclusive: definition.exclusive ?? unnamed,
    autoDelete: definition.autoDelete ?? unnamed,
    arguments: {
      ...said({
        'x-queue-type': type,
        'x-expires': expires === undefined ? undefined : Math.round(milliseconds(expires, 'expires')),
        'x-message-ttl': messageTtl === undefined ? undefined : Math.round(milliseconds(messageTtl, 'messageTtl')),
        'x-max-length': maxLength,
        'x-max-length-bytes': maxLengthBytes,
        'x-overflow': overflow,
        'x-dead-letter-exchange': deadLetter?.exchange,
        'x-dead-letter-routing-key': deadLetter?.routingKey,
        'x-max-priority': maxPriority,
        'x-delivery-limit': deliveryLimit,
        'x-single-active-consumer': singleActiveConsumer,
      }),
      ...definition.arguments,
    },
  };
}

export function exchangeDeclaration(definition: ExchangeDefinition): ExchangeDeclaration {
  const { name, type, durable = true, autoDelete = false, internal = false, alternateExchange } = definition;
  return {
    name,
    type,
    durable,
    autoDelete,
    internal,
    arguments: { ...said({ 'alternate-exchange': alternateExchange }), ...definition.arguments },
  };
}

/** Without the arguments that nobody gave. */
function said(table: Readonly<Record<string, string | number | boolean | undefined>>): FieldTable {
  return Object.fromEntries(
    Object.entries(table).filter((entry): entry is [string, string | number | boolean] => entry[1] !== undefined),
  );
}
