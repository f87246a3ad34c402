/**
 * A message as the broker holds it: where it was published to, the property bytes and the body. It does not change; what
 * dead-lettering and delivery counts write into headers makes another message of it.
 */
import { AmqpError, ProtocolError } from '../errors.js';
import { type FieldTable, field } from '../protocol/field-table.js';
import { type BasicProperties, readProperties } from '../protocol/properties.js';
import { WireReader } from '../protocol/wire.js';
import { fieldTypeOfLetter } from './argument-values.js';
import { internalError, preconditionFailed } from './broker-error.js';
import { NO_NOTES, type Notes } from './message-notes.js';
import {
  type HeaderEntry,
  type PropertyChange,
  type PropertyLayout,
  changedProperties,
  decodedEntry,
  headerEntries,
  layoutOf,
  stringsOf,
} from './property-bytes.js';

/** Made by `publishedMessage`. */
export class BrokerMessage {
  readonly exchange: string;
  /** The one that it was published with. */
  readonly routingKey: string;
  /** The routing key, then those in the headers CC and BCC. */
  readonly routingKeys: readonly string[];
  /** Flags and values as they were published: RabbitMQ hands them on unread, except the header BCC. */
  readonly propertyBytes: Buffer;
  readonly body: Buffer;
  /** @internal */
  readonly notes: Notes;
  #properties: BasicProperties | undefined;
  #layout: PropertyLayout | undefined;

  /** @internal */
  constructor(
    exchange: string,
    routingKey: string,
    routingKeys: readonly string[],
    propertyBytes: Buffer,
    body: Buffer,
    notes: Notes = NO_NOTES,
  ) {
    this.exchange = exchange;
    this.routingKey = routingKey;
    this.routingKeys = routingKeys;
    this.propertyBytes = propertyBytes;
    this.body = body;
    this.notes = notes;
  }

  /** The decoded properties. Throws `UNDECODABLE` when the publisher wrote nonsense. */
  get properties(): BasicProperties {
    if (this.#properties === undefined) {
      try {
        this.#properties = readProperties(new WireReader(this.propertyBytes));
      } catch (cause) {
        const why = cause instanceof Error ? cause.message : '';
        throw new AmqpError('UNDECODABLE', `The properties of this message cannot be decoded. ${why}`, { cause });
      }
    }
    return this.#properties;
  }

  /** @internal Throws `ProtocolError` for bytes that are not properties; so do `priority` and `expiration`. */
  get layout(): PropertyLayout {
    return (this.#layout ??= isBare(this.propertyBytes) ? NO_PROPERTIES : layoutOf(this.propertyBytes));
  }

  /** 0 when it has none. */
  get priority(): number {
    return this.layout.priority;
  }

  /** Milliseconds, as the publisher wrote them. */
  get expiration(): string | undefined {
    return this.layout.expiration;
  }

  /** One header, decoded; undefined when it is not there, or is nonsense. */
  header(name: string): FieldTable[string] {
    try {
      const entry = this.headerEntries().find((candidate) => candidate.name === name);
      return entry && decodedEntry(this.propertyBytes, entry)[name];
    } catch (error) {
      if (error instanceof ProtocolError) return undefined;
      throw error;
    }
  }

  /** @internal */
  headerEntries(): readonly HeaderEntry[] {
    const { layout } = this;
    return layout.headersEnd === layout.headersStart ? [] : headerEntries(this.propertyBytes, layout);
  }
}

/** A message from its publisher. The buffers are kept; they must not be written to again. */
export function publishedMessage(
  exchange: string,
  routingKey: string,
  propertyBytes: Buffer,
  body: Buffer,
): BrokerMessage {
  return new BrokerMessage(exchange, routingKey, [routingKey], propertyBytes, body);
}

const NO_PROPERTIES: PropertyLayout = layoutOf(Buffer.alloc(2));

function isBare(propertyBytes: Buffer): boolean {
  return propertyBytes.length === 2 && propertyBytes[0] === 0 && propertyBytes[1] === 0;
}

/**
 * Sender-selected distribution (https://www.rabbitmq.com/docs/sender-selected): the message with the routing keys that its
 * headers CC and BCC name, and without the header BCC. Throws `BrokerError`, 541 for properties that are nonsense.
 */
export function distributed(message: BrokerMessage): BrokerMessage {
  const carbonCopies = found(message, 'CC');
  const blindCopies = found(message, 'BCC');
  if (carbonCopies === undefined && blindCopies === undefined) return message;
  const copies = keysOf(message, carbonCopies);
  const blindKeys = keysOf(message, blindCopies);
  return changed(message, {
    routingKeys: [message.routingKey, ...copies, ...blindKeys],
    properties: blindCopies === undefined ? undefined : { remove: ['BCC'] },
    notes: { blindKeys },
  });
}

function keysOf(message: BrokerMessage, entry: HeaderEntry | undefined): readonly string[] {
  if (entry === undefined) return [];
  if (entry.letter !== 'A') {
    const type = fieldTypeOfLetter(entry.letter);
    throw preconditionFailed(`invalid message: {unacceptable_type_in_header,"${entry.name}",${type}}`);
  }
  return decoding(() => stringsOf(message.propertyBytes, entry));
}

function found(message: BrokerMessage, name: string): HeaderEntry | undefined {
  return decoding(() => message.headerEntries()).find((entry) => entry.name === name);
}

/** Throws `BrokerError` (541): RabbitMQ's channel does not survive properties that it cannot parse, and takes the connection with it. */
function decoding<T>(decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof ProtocolError) throw internalError('the properties of the message cannot be parsed');
    throw error;
  }
}

interface MessageChange {
  readonly exchange?: string;
  readonly routingKey?: string;
  readonly routingKeys?: readonly string[];
  readonly properties?: PropertyChange | undefined;
  readonly notes?: Partial<Notes>;
}

/** The same message, but for what is named. */
export function changed(message: BrokerMessage, change: MessageChange): BrokerMessage {
  const {
    exchange = message.exchange,
    routingKey = message.routingKey,
    routingKeys = message.routingKeys,
    properties,
    notes,
  } = change;
  const bytes =
    properties === undefined
      ? message.propertyBytes
      : changedProperties(message.propertyBytes, message.layout, properties);
  return new BrokerMessage(exchange, routingKey, routingKeys, bytes, message.body, { ...message.notes, ...notes });
}

/** The message as a quorum queue hands it out: with how often it came back. */
export function counted(message: BrokerMessage, deliveryCount: number): BrokerMessage {
  return changed(message, { properties: { set: { 'x-delivery-count': field.int64(deliveryCount) } } });
}
