/**
 * What the requesters of one handler are told: its results, all values of those that have many, or its errors. How a reply is
 * written and published is the `replier`'s; what becomes of the delivery is `handled-deliveries`'s.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { quietly } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { type AmqpError, counted, quoted } from '../errors.js';
import type { Delivery, DeliveryScope } from './delivery.js';
import { type Log, idOf } from './log.js';
import { type Replier, isStream } from './replier.js';

/** After a result: the requester has it (or is gone), it was told of an error in the end, or the result failed unsaid. */
export type ResultEnd =
  | { readonly kind: 'replied' }
  | { readonly kind: 'told'; readonly error: unknown }
  | { readonly kind: 'failed'; readonly error: unknown };

const REPLIED: ResultEnd = { kind: 'replied' };

export class HandlerReplies {
  readonly #replier: Replier;
  readonly #name: string;
  readonly #schema: StandardSchemaV1 | undefined;
  readonly #label: string;
  readonly #log: Log;
  #lost = 0;

  /** `name` is what requesters are told of the handler, `label` what the log is; results have to fit `replySchema`. */
  constructor(
    replier: Replier,
    { name, replySchema }: { readonly name: string; readonly replySchema?: StandardSchemaV1 | undefined },
    label: string,
    log: Log,
  ) {
    this.#replier = replier;
    this.#name = name;
    this.#schema = replySchema;
    this.#label = label;
    this.#log = log;
  }

  /** Replies with what the handler returned. A result that cannot be written, or does not fit, is a failure of the handler. Never rejects. */
  async result(message: Message, delivery: Delivery, result: unknown, life: DeliveryScope): Promise<ResultEnd> {
    try {
      if (isStream(result) && delivery.wantsStream) return await this.#values(message, delivery, result, life);
      this.#tellUndelivered(message, await this.#replier.reply(message, result, life, this.#schema), life);
      return REPLIED;
    } catch (error) {
      return { kind: 'failed', error };
    }
  }

  /** Says whether the requester was told. Never rejects. */
  async error(message: Message, error: unknown, life: DeliveryScope): Promise<boolean> {
    const undelivered = await this.#replier.replyError(message, error, this.#name, life);
    this.#tellUndelivered(message, undelivered, life);
    return undelivered === undefined;
  }

  /** The handler runs on meanwhile: its signal fires when its requester wants no more. */
  async #values(
    message: Message,
    delivery: Delivery,
    values: AsyncIterable<unknown>,
    life: DeliveryScope,
  ): Promise<ResultEnd> {
    const end = await this.#replier.stream(message, values, this.#name, life, this.#schema);
    if (end.kind === 'failed') return { kind: 'told', error: end.error };
    if (end.kind === 'stopped') delivery.over(end.why);
    return REPLIED;
  }

  #tellUndelivered(message: Message, undelivered: AmqpError | undefined, life: DeliveryScope): void {
    if (undelivered === undefined) return;
    if (undelivered === life.endError) {
      this.#tellLost(undelivered);
      return;
    }
    quietly(() => {
      this.#log.warn(
        `${this.#label} could not reply to the message with routing key ${quoted(message.routingKey)}${idOf(message)}, ` +
          `whose requester may be gone. ${undelivered.message}`,
      );
    });
  }

  /** One line for all that ended with their channel: they do so in one turn of the event loop. */
  #tellLost(why: AmqpError): void {
    this.#lost += 1;
    if (this.#lost > 1) return;
    setImmediate(() => {
      const count = this.#lost;
      this.#lost = 0;
      quietly(() => {
        this.#log.warn(
          `${this.#label} sent no reply to ${counted(count, 'request')} that it had handled. ${why.message}` +
            (why.code === 'CHANNEL_CLOSED' ? ' The broker delivers what was not acknowledged again.' : ''),
        );
      });
    });
  }
}
