/** The messages that are published and delivered, the same for every client. */

/**
 * What a scenario says of its messages.
 *
 * @typedef {object} MessageSpec
 * @property {number} size Bytes of the body; of JSON the size follows from the payload.
 * @property {'plain' | 'rich' | 'json' | 'nest'} kind Plain has 2 properties; rich 6 and 2 headers; json is the payload below
 * as a Nest layer sends it, nest the same in the envelope of @nestjs/microservices.
 */

/** How many different message ids are in use. */
const IDS = 1024;
const MESSAGE_IDS = Array.from({ length: IDS }, (_, index) => `order-placed-${String(index).padStart(8, '0')}`);

/** What is published and consumed through Nest: 121 bytes of JSON. */
export const PAYLOAD = {
  id: '018f3c9e-7a54-7cc1-b0a4-5d0c5d3c2a11',
  item: 'book',
  quantity: 2,
  price: 1200,
  currency: 'EUR',
  customer: 'c-20931',
};
/** The event's name for @nestjs/microservices, and the routing key for the others. */
export const PATTERN = 'order.placed';

/**
 * The properties of the message with this number: a new object each time, as in an application.
 *
 * @typedef {(index: number) => import('./sink/wire.mjs').Properties} PropertiesOf
 */

/**
 * @param {MessageSpec['kind']} kind
 * @returns {PropertiesOf}
 */
export function propertiesOf(kind) {
  if (kind === 'rich') {
    return (index) => ({
      contentType: 'application/octet-stream',
      deliveryMode: 1,
      priority: 3,
      correlationId: MESSAGE_IDS[(index + 7) % IDS],
      messageId: MESSAGE_IDS[index % IDS],
      timestamp: 1_790_000_000,
      headers: { tenant: 'acme-europe', attempt: 3 },
    });
  }
  if (kind === 'plain') return () => ({ contentType: 'application/octet-stream', deliveryMode: 1 });
  return () => ({ contentType: 'application/json', deliveryMode: 2 });
}

/**
 * The message in full, for whoever sends it already encoded.
 *
 * @param {MessageSpec} spec
 */
export function messageOf({ size, kind }) {
  const properties = propertiesOf(kind)(0);
  if (kind === 'json') return { properties, body: Buffer.from(JSON.stringify(PAYLOAD)) };
  if (kind === 'nest') return { properties, body: Buffer.from(JSON.stringify({ pattern: PATTERN, data: PAYLOAD })) };
  return { properties, body: Buffer.alloc(size, 'nest-amqp ') };
}
