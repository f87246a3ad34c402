/**
 * The answers to the deliveries of one handler: given for it or by it, counted, and told when they change nothing. When a delivery
 * is begun, and what handles it, is decided above; what is done with failures is `failed-deliveries`'s.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { quietly } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { AmqpError, counted, quoted } from '../errors.js';
import { type Delivery, DeliveryScope } from './delivery.js';
import { FailedDeliveries, type FailedDeliveriesOptions } from './failed-deliveries.js';
import { HandlerReplies } from './handler-replies.js';
import { askable } from './error-text.js';
import { type Log, idOf, labelOf, thrownOf } from './log.js';
import type { Replier } from './replier.js';
import { isRequest, requesterWaits } from './reply-format.js';
import { type RunningDelivery, RunningDeliveries } from './running-deliveries.js';

/**
 * Who acknowledges. `'auto'`: the handler's return. `'manual'`: the handler, with `delivery.ack()`, when it likes; what it throws
 * counts as with `'auto'`. `'none'`: nobody; a message is done with before its handler runs, and lost with a process that ends.
 */
export type AckMode = 'auto' | 'manual' | 'none';

export interface AnswerOptions extends Omit<FailedDeliveriesOptions, 'areOurs'> {
  /** What the handler is called in the log: `BillingConsumer.charge`. */
  readonly name: string;
  /** @default 'auto' */
  readonly ack?: AckMode | undefined;
  /** Answers those that carry a `replyTo`. @default nobody */
  readonly replier?: Replier | undefined;
  /** What results have to be that are replied. @default anything */
  readonly replySchema?: StandardSchemaV1 | undefined;
  /** How long the broker waits for an answer, in milliseconds. @default what the queue's definition says, else 30 minutes */
  readonly consumerTimeout?: number | undefined;
}

/** RabbitMQ's `consumer_timeout`, unless it is configured: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout */
const CONSUMER_TIMEOUT = 30 * 60 * 1000;

export class DeliveryAnswers {
  readonly #connection: AmqpConnection;
  readonly #options: AnswerOptions;
  readonly #label: string;
  readonly #log: Log;
  readonly #ended: (message: Message) => void;
  readonly #failures: FailedDeliveries;
  readonly #replies: HandlerReplies | undefined;
  readonly #running: RunningDeliveries;
  #scope: DeliveryScope;
  /** Of what is acknowledged before its handler ends, the reply outlives the channel. */
  readonly #ours: DeliveryScope;
  #underWay = 0;
  /** Handlers that run on after their time was up. */
  #outlasting = 0;
  #onIdle: (() => void)[] = [];
  /** Of handlers that returned and left the answer for later. */
  readonly #unanswered = new Map<Delivery, Message>();
  #hasToldVain = false;
  #hasToldDropped = false;

  /** `ended` is called for every message that was begun, when it is under way no more. */
  constructor(connection: AmqpConnection, options: AnswerOptions, log: Log, ended: (message: Message) => void) {
    this.#connection = connection;
    this.#options = options;
    this.#label = labelOf(options);
    this.#log = log;
    this.#ended = ended;
    this.#failures = new FailedDeliveries(
      connection,
      { ...options, areOurs: options.ack === 'none' },
      this.#label,
      log,
    );
    const limit = consumerTimeoutOf(options);
    const tellLate = (message: Message, ms: number): void => {
      this.#tellLate(message, ms, limit);
    };
    this.#running = new RunningDeliveries(limit / 2, options.ack === 'none' ? undefined : tellLate);
    this.#scope = this.#newScope();
    this.#replies = options.replier && new HandlerReplies(options.replier, options, this.#label, log);
    this.#ours = this.#newScope();
  }

  /** What the deliveries of the present channel share. */
  get scope(): DeliveryScope {
    return this.#scope;
  }

  /** Messages that were begun and not answered yet. */
  get underWay(): number {
    return this.#underWay;
  }

  /** The one that was begun first, of those that are under way. */
  get oldest(): RunningDelivery | undefined {
    return this.#running.oldest;
  }

  /** What is begun from now on came over another channel. */
  renew(): void {
    this.#scope = this.#newScope();
  }

  /** It is under way, until it is `done` or has `failed`. */
  begin(message: Message): void {
    this.#underWay += 1;
    if (this.#options.ack === 'none') message.ack();
  }

  /** It is not done when its handler has been called: that has returned a promise, or a list of them waits. */
  goesOn(message: Message, scope: DeliveryScope): void {
    this.#running.add(message, scope);
  }

  /** Its handler has returned this. Who awaits a reply is told before the broker is. */
  done(message: Message, delivery: Delivery, scope: DeliveryScope, result: unknown): void {
    const replies = this.#repliesTo(message);
    if (replies === undefined || message.wasPutBack) this.#acknowledge(message, delivery, scope);
    else void this.#reply(replies, message, delivery, scope, result);
  }

  /** Its handler has failed, or it came to none. What the broker delivers again is another's to answer, and did not fail in the end. */
  failed(message: Message, thrown: unknown, scope: DeliveryScope): void {
    const error = askable(thrown);
    const replies = this.#lifeOf(message, scope).hasEnded ? undefined : this.#repliesTo(message);
    if (replies === undefined || !this.#isOver(message, error)) this.#settleFailed(message, error, scope);
    else void this.#replyError(replies, message, error, scope);
  }

  /** Its handler runs on after its time was up: it is under way no more, and whoever waits for the end of all handlers waits for it. */
  outlasts(handled: Promise<unknown>): void {
    this.#outlasting += 1;
    const ended = (): void => {
      this.#outlasting -= 1;
      this.#tellIdle();
    };
    handled.then(ended, ended);
  }

  /** Whether its handler has answered it. */
  isAnswered(message: Message): boolean {
    return message.settled && this.#options.ack !== 'none';
  }

  /** Whether a handler that began now would begin for nothing: the broker delivers it again, or nobody waits any more. */
  isForNothing(scope: DeliveryScope): boolean {
    return (this.#options.ack === 'none' ? this.#ours : scope).hasEnded;
  }

  /** It comes to no handler, and its answer is the broker's. */
  leave(message: Message): void {
    this.#end(message);
  }

  /** The channel is gone: what nobody has answered can be answered no more. */
  lost(why: string): void {
    this.#scope.end(
      new AmqpError(
        'CHANNEL_CLOSED',
        `The delivery can be answered no more: the consumer of queue ${quoted(this.#options.queue)} stopped. ${why}`,
      ),
    );
    for (const delivery of this.#unanswered.keys()) this.#answeredLate(delivery);
  }

  /** Nothing new is begun. */
  stop(): void {
    this.#failures.stop();
  }

  /** Resolves when nothing is under way, and no handler runs. */
  async idle(): Promise<void> {
    if (this.#underWay === 0 && this.#outlasting === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle.push(resolve);
    });
  }

  /** Nothing is waited for any more, and nothing can be answered. `until` says how long it was waited for. */
  abandon(until: string): void {
    this.#failures.abandon();
    this.#running.end();
    const why = new AmqpError('ABORTED', `The consumer was stopped, and waits no longer than ${until}.`);
    this.#scope.end(why);
    this.#ours.end(why);
    if (this.#outlasting > 0) {
      this.#log.warn(
        `${counted(this.#outlasting, 'handler')} of ${this.#label} that had taken longer than their timeout still ran after ${until}.`,
      );
    }
    // Whose handlers have returned, and said nothing.
    const silent = this.#unanswered.size;
    const running = this.#underWay - silent;
    if (running > 0) {
      this.#log.warn(
        `${counted(running, 'handler')} of ${this.#label} still ran after ${until}; ` +
          (this.#options.ack === 'none'
            ? 'their messages are not delivered again.'
            : 'the broker delivers their messages again.'),
      );
    }
    if (silent > 0) {
      this.#log.warn(
        `${counted(silent, 'delivery', 'deliveries')} of ${this.#label}, whose handlers have returned, had no answer after ${until}; ` +
          'the broker delivers them again.',
      );
    }
  }

  /** How long a reply is of use. */
  #lifeOf(message: Message, scope: DeliveryScope): DeliveryScope {
    return message.settled ? this.#ours : scope;
  }

  /** Undefined for what nobody awaits a reply to, as nearly everything: one octet of it is looked at. */
  #repliesTo(message: Message): HandlerReplies | undefined {
    return this.#replies !== undefined && message.hasReplyTo && isRequest(message) ? this.#replies : undefined;
  }

  /** Never rejects. */
  async #reply(
    replies: HandlerReplies,
    message: Message,
    delivery: Delivery,
    scope: DeliveryScope,
    result: unknown,
  ): Promise<void> {
    this.#running.add(message, scope);
    const end = await replies.result(message, delivery, result, this.#lifeOf(message, scope));
    switch (end.kind) {
      case 'replied':
        this.#acknowledge(message, delivery, scope);
        return;
      case 'told':
        delivery.over();
        this.#failures.settleTold(message, end.error);
        this.#end(message);
        return;
      case 'failed':
        delivery.over();
        this.failed(message, end.error, scope);
        return;
      default:
        end satisfies never;
    }
  }

  #acknowledge(message: Message, delivery: Delivery, scope: DeliveryScope): void {
    if (this.#options.ack === 'manual' && delivery.isOpen) {
      this.#running.add(message, scope);
      this.#unanswered.set(delivery, message);
      return;
    }
    delivery.over();
    message.ack();
    this.#end(message);
  }

  /** Whether this error is the last that is heard of the message. */
  #isOver(message: Message, error: unknown): boolean {
    if (this.isAnswered(message)) return !message.wasPutBack;
    return this.#failures.givesUp(message, error, this.#waitOf(message));
  }

  /** How long the requester of a message waits still, in milliseconds, as far as is known here. Undefined where nobody waits, or for ever. */
  #waitOf(message: Message): number | undefined {
    const waits = this.#repliesTo(message) && requesterWaits(message);
    return waits === undefined ? undefined : waits - this.#running.msOf(message);
  }

  /** Never rejects. A requester that was told of the error has it; otherwise it becomes of the message what would without one. */
  async #replyError(replies: HandlerReplies, message: Message, error: unknown, scope: DeliveryScope): Promise<void> {
    this.#running.add(message, scope);
    const isTold = await replies.error(message, error, this.#lifeOf(message, scope));
    if (!isTold || this.isAnswered(message)) {
      this.#settleFailed(message, error, scope);
      return;
    }
    this.#failures.settleTold(message, error);
    this.#end(message);
  }

  #settleFailed(message: Message, error: unknown, scope: DeliveryScope): void {
    if (this.isAnswered(message)) {
      // Its handler has answered before it failed.
      quietly(() => {
        this.#log.error(
          `${this.#label} failed on the message with routing key ${quoted(message.routingKey)}${idOf(message)}. ` +
            `It was not answered again. ${thrownOf(error)}`,
        );
      });
      this.#end(message);
      return;
    }
    const settled = this.#failures.settle(message, error, scope, this.#waitOf(message));
    if (settled === undefined) {
      this.#end(message);
      return;
    }
    this.#running.add(message, scope);
    void settled.then(() => {
      this.#end(message);
    });
  }

  #end(message: Message): void {
    this.#underWay -= 1;
    this.#running.delete(message);
    this.#ended(message);
    this.#tellIdle();
  }

  #tellIdle(): void {
    if (this.#underWay === 0 && this.#outlasting === 0) for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  #newScope(): DeliveryScope {
    return new DeliveryScope({
      queue: this.#connection.topology.current(this.#options.queue),
      attemptOf: (message) => this.#failures.attemptOf(message),
      answered: (delivery) => {
        this.#answeredLate(delivery);
      },
      refused: (delivery) => {
        if (this.#failures.areDroppedByBroker) this.#tellDropped(delivery);
      },
      answeredInVain: (delivery, wasAnswered) => {
        this.#answeredLate(delivery);
        this.#tellVain(delivery, wasAnswered);
      },
    });
  }

  #answeredLate(delivery: Delivery): void {
    const message = this.#unanswered.get(delivery);
    if (message === undefined) return;
    this.#unanswered.delete(delivery);
    delivery.over();
    this.#end(message);
  }

  #tellLate(message: Message, ms: number, limit: number): void {
    quietly(() => {
      this.#log.warn(
        `${this.#label} has had the message with routing key ${quoted(message.routingKey)}${idOf(message)} for ${ms} ms without an answer. ` +
          `The broker waits ${limit} ms (consumer_timeout); then it takes back all that the channel has, and delivers it again. ` +
          'Answer earlier, do the work in parts, or give the queue a longer x-consumer-timeout.',
      );
    });
  }

  /** Once for all, like what is answered in vain. */
  #tellDropped(delivery: Delivery): void {
    if (this.#hasToldDropped) return;
    this.#hasToldDropped = true;
    const queue = quoted(delivery.queue);
    quietly(() => {
      this.#log.warn(
        `${this.#label} rejected delivery ${delivery.deliveryTag}, which the broker drops: no dead-letter exchange is known for ` +
          `queue ${queue}. Throw RejectDelivery, and it is a dead letter; or give the queue's definition a deadLetter. ` +
          "Where a policy dead-letters it, say deadLetter: { by: 'broker' }. This is told this once.",
      );
    });
  }

  /** Once for all: a handler that does it does it with every delivery. */
  #tellVain(delivery: Delivery, wasAnswered: boolean): void {
    if (this.#hasToldVain) return;
    this.#hasToldVain = true;
    const why =
      this.#options.ack === 'none'
        ? "which its consumer has not to (ack: 'none')"
        : wasAnswered
          ? 'which was answered before'
          : 'whose channel was gone by then; the broker delivers it again';
    quietly(() => {
      this.#log.warn(
        `${this.#label} answered delivery ${delivery.deliveryTag}, ${why}. That changes nothing, and is told this once.`,
      );
    });
  }
}

function consumerTimeoutOf({ consumerTimeout, queue, topology }: AnswerOptions): number {
  const definition = topology.queues?.find(({ name }) => name === queue);
  const declared = consumerTimeout ?? definition?.arguments?.['x-consumer-timeout'];
  return typeof declared === 'number' && declared > 0 ? declared : CONSUMER_TIMEOUT;
}
