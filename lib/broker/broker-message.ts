/**
 * A message as the broker holds it: where it was published to, the property bytes and the body. It does not change; what
 * dead-lettering and delivery counts write into headers makes another message of it.
 */
import { AmqpError } from '../errors.js';
import { type BasicProperties, readProperties } from '../protocol/properties.js';
import { WireReader } from '../protocol/wire.js';

export interface BrokerMessage {
  readonly exchange: string;
  /** The one that it was published with. */
  readonly routingKey: string;
  /** The routing key, then those in the headers CC and BCC. */
  readonly routingKeys: readonly string[];
  /** Flags and values as they were published: RabbitMQ hands them on unread, except the header BCC. */
  readonly propertyBytes: Buffer;
  /** The decoded properties. Throws `UNDECODABLE` when the publisher wrote nonsense. */
  readonly properties: BasicProperties;
  readonly body: Buffer;
}

/** A message from its publisher. The buffers are kept; they must not be written to again. */
export function publishedMessage(
  exchange: string,
  routingKey: string,
  propertyBytes: Buffer,
  body: Buffer,
): BrokerMessage {
  return new Message(exchange, routingKey, [routingKey], propertyBytes, body);
}

class Message implements BrokerMessage {
  #properties: BasicProperties | undefined;

  constructor(
    readonly exchange: string,
    readonly routingKey: string,
    readonly routingKeys: readonly string[],
    readonly propertyBytes: Buffer,
    readonly body: Buffer,
  ) {}

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
}
