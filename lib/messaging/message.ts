/**
 * Contracts: where messages of one kind are published to, and what their payloads are, said once for publishers, consumers and
 * requesters. Sending, binding and decoding are theirs.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { AmqpError, InvalidPayloadError, destination } from '../errors.js';
import { namesOf, refuseUnknown } from '../client/option-names.js';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';

/** What `message()` is given. */
export interface MessageDefinition<
  Schema extends StandardSchemaV1 = StandardSchemaV1,
  Reply extends StandardSchemaV1 | undefined = StandardSchemaV1 | undefined,
  Exchange extends string = string,
> {
  /** The exchange that it is published to, and bound to; empty for the queue that the routing key names. */
  readonly exchange: Exchange;
  readonly routingKey: string;
  /**
   * What payloads are, as any Standard Schema says it (zod, valibot, arktype and others). Its input is what is published and what
   * is on the wire; its output is what handlers get.
   */
  readonly schema: Schema;
  /** For requests: what is replied. Its input is what handlers return, its output what the requester gets. */
  readonly reply?: Reply;
}

/** A contract that `message()` has checked. */
export class MessageContract<
  Schema extends StandardSchemaV1 = StandardSchemaV1,
  Reply extends StandardSchemaV1 | undefined = StandardSchemaV1 | undefined,
  Exchange extends string = string,
> {
  readonly exchange: Exchange;
  readonly routingKey: string;
  readonly schema: Schema;
  readonly reply: Reply;

  /** @internal Made by `message()`. */
  constructor({ exchange, routingKey, schema, reply }: MessageDefinition<Schema, Reply, Exchange>) {
    this.exchange = exchange;
    this.routingKey = routingKey;
    this.schema = schema;
    // Left out, it is undefined in the type as well.
    this.reply = reply as Reply;
    Object.freeze(this);
  }
}

/** What handlers of a contract get. */
export type Infer<Contract extends MessageContract> = StandardSchemaV1.InferOutput<Contract['schema']>;
/** What is published by a contract. */
export type InferInput<Contract extends MessageContract> = StandardSchemaV1.InferInput<Contract['schema']>;
/** What a request by a contract resolves to; unknown where that does not say. */
export type InferReply<Contract extends MessageContract> = Contract['reply'] extends StandardSchemaV1
  ? StandardSchemaV1.InferOutput<Contract['reply']>
  : unknown;
/** What handlers of a contract return. */
export type InferReplyInput<Contract extends MessageContract> = Contract['reply'] extends StandardSchemaV1
  ? StandardSchemaV1.InferInput<Contract['reply']>
  : unknown;

const FIELDS = namesOf<MessageDefinition>({ exchange: true, routingKey: true, schema: true, reply: true });

/**
 * A contract for messages of one kind, for `publisher.publish(OrderPlaced, order)`, `@Consume(OrderPlaced, { queue })` and
 * `rpc.request(PriceOf, item)`. Throws `INVALID_DEFINITION`.
 *
 * @example
 * ```ts
 * const OrderPlaced = message({ exchange: 'orders', routingKey: 'order.placed', schema: z.object({ id: z.number() }) });
 * await publisher.publish(OrderPlaced, { id: 7 });
 * ```
 */
export function message<
  Schema extends StandardSchemaV1,
  Reply extends StandardSchemaV1 | undefined = undefined,
  Exchange extends string = string,
>(definition: MessageDefinition<Schema, Reply, Exchange>): MessageContract<Schema, Reply, Exchange> {
  // Also from plain JavaScript, and with names out of configuration.
  const given: unknown = definition;
  if (typeof given !== 'object' || given === null) {
    throw invalid("message() is given an object: message({ exchange: 'orders', routingKey: 'order.placed', schema }).");
  }
  refuseUnknown(given, FIELDS, 'message() has no field');
  const { exchange, routingKey, schema, reply }: Partial<Record<keyof MessageDefinition, unknown>> = given;
  for (const [field, value] of Object.entries({ exchange, routingKey })) {
    if (typeof value !== 'string' || Buffer.byteLength(value) > LONGEST_SHORTSTR)
      throw invalid(`${field} of message() has to be a string of at most ${LONGEST_SHORTSTR} bytes.`);
  }
  for (const [field, value] of Object.entries(reply === undefined ? { schema } : { schema, reply })) {
    if (!isStandardSchema(value)) {
      throw invalid(
        `${field} of message() is no Standard Schema: it lacks '~standard'. See https://standardschema.dev.`,
      );
    }
  }
  return new MessageContract(definition);
}

/** True for what `@Consume` and `message()` take as a schema. Those of arktype are functions. */
export function isStandardSchema(value: unknown): value is StandardSchemaV1 {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return false;
  const { '~standard': standard } = value as { readonly '~standard'?: { readonly validate?: unknown } | null };
  return typeof standard?.validate === 'function';
}

/**
 * What a schema makes of a payload: a promise of it where the schema takes its time. `what` says whose payload it is.
 * Throws, or rejects with, `INVALID_PAYLOAD`.
 */
export function validated(schema: StandardSchemaV1, payload: unknown, what?: string): unknown {
  const result = schema['~standard'].validate(payload);
  // Also a promise by another hand than the engine's, as libraries patch it.
  return 'then' in result ? Promise.resolve(result).then((settled) => outputOf(settled, what)) : outputOf(result, what);
}

function outputOf(result: StandardSchemaV1.Result<unknown>, what: string | undefined): unknown {
  if (result.issues !== undefined) throw new InvalidPayloadError(result.issues, what);
  return result.value;
}

/**
 * Holds a payload against its contract before anything is sent. What is sent is the payload as it was given: the schema's output
 * is for the other end, where the same schema reads what came. Throws, or rejects with, `INVALID_PAYLOAD`.
 */
export function holdTo({ schema, exchange, routingKey }: MessageContract, payload: unknown): unknown {
  return validated(schema, payload, `The payload to ${destination(exchange, routingKey)}`);
}

function invalid(text: string): AmqpError {
  return new AmqpError('INVALID_DEFINITION', text);
}
