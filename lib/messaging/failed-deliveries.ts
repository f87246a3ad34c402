/**
 * What is done with deliveries whose handler failed: put back, tried again later, or dead-lettered, and told to the log. How a
 * message gets into another queue without being lost on the way is `handover`'s.
 */
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { warnOf } from '../client/listeners.js';
import type { Message } from '../client/message.js';
import { pause } from '../client/wait.js';
import { quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { attemptOf, originOf } from './attempt-headers.js';
import type { DeliveryScope } from './delivery.js';
import { isAtLeast } from './check-facts.js';
import { brokerOf } from './topology-checks.js';
import { type Failure, Handover, type HandoverBounds, isUnsendable } from './handover.js';
import { type Log, clauseOf, idOf, thrownOf } from './log.js';
import { type Outcome, RetryDelivery, type RetryPolicy, outcomeOf } from './outcome.js';
import { SideQueues } from './side-queues.js';
import type { PlannedQueue } from './topology-plan.js';
import { type QueueDefinition, type Topology, isStream } from './definitions.js';

/** Where dead letters go: to a queue by its name, or wherever the broker was told to send them. */
export type DeadLetterOption = string | { readonly by: 'broker' };

export interface FailedDeliveriesOptions {
  readonly queue: string;
  /** Of the handler. What it fails on of a queue that the broker named goes to a queue that is named after it. */
  readonly name?: string;
  readonly topology: Topology;
  /** Undefined: nothing is tried again. */
  readonly retry?: RetryPolicy | undefined;
  /** @default by the broker where the queue's definition has a dead-letter exchange, else `<queue>.dead` */
  readonly deadLetter?: DeadLetterOption | undefined;
  /** Where messages are published: with confirms. */
  readonly channel: AmqpChannel;
  /** Those of the consumer, which may say that the queue is a stream where no topology does. */
  readonly arguments?: FieldTable | undefined;
  /** The messages were acknowledged before their handlers ran: the only copy is here. */
  readonly areOurs: boolean;
}

/** How long a delivery is held that was put back before, in milliseconds. */
const HOLD = 1_000;
export class FailedDeliveries {
  readonly #connection: AmqpConnection;
  readonly #options: FailedDeliveriesOptions;
  readonly #label: string;
  readonly #log: Log;
  readonly #definition: QueueDefinition | undefined;
  readonly #isStream: boolean;
  readonly #handover: Handover;
  /** Fires when the consumer stops, and when that waits no longer. */
  readonly #stopping = new AbortController();
  readonly #stopped = new AbortController();

  constructor(connection: AmqpConnection, options: FailedDeliveriesOptions, label: string, log: Log) {
    const { queue, topology, deadLetter, channel, name } = options;
    this.#connection = connection;
    this.#options = options;
    this.#label = label;
    this.#log = log;
    this.#definition = topology.queues?.find((definition) => definition.name === queue);
    this.#isStream = isStream(topology, queue, options.arguments);
    const { isServerNamed = false }: Partial<PlannedQueue> = this.#definition ?? {};
    // The queue has another name every time, and would leave a queue for each of them.
    const otherwise = isServerNamed && name !== undefined ? `${name}.dead` : undefined;
    const deadQueue = typeof deadLetter === 'string' ? deadLetter : otherwise;
    this.#handover = new Handover(channel, new SideQueues(connection, { queue, topology, deadQueue }));
  }

  /** What waits for another try to publish it goes back to its queue. */
  stop(): void {
    this.#stopping.abort();
  }

  /** Nothing is waited for any more. */
  abandon(): void {
    this.#stopping.abort();
    this.#stopped.abort();
  }

  /** Which attempt a delivery is, from 1. */
  attemptOf({ properties }: Message): number {
    const queue = this.#connection.topology.current(this.#options.queue);
    return attemptOf(properties, queue) + (this.#isRetriedByBroker ? deliveriesOf(properties) : 0);
  }

  /** Whether there will be no further attempt. `waits` is how long its requester waits still, in milliseconds. */
  givesUp(message: Message, error: unknown, waits: number | undefined): boolean {
    return this.#isStream || this.#outcomeOf(error, this.#attemptOrFirst(message), waits).kind === 'dead-letter';
  }

  /** Whether the broker drops what is rejected, for all that is known here. A stream keeps it. */
  get areDroppedByBroker(): boolean {
    return !this.#isStream && typeof this.#options.deadLetter !== 'object' && !this.#hasDeadLetterExchange;
  }

  /** Settles a request whose requester was told of the error: it is done with. */
  settleTold(message: Message, error: unknown): void {
    const queue = this.#connection.topology.current(this.#options.queue);
    const failure: Failure = { message, queue, attempt: this.#attemptOrFirst(message), error };
    const sent = message.ack() || this.#options.areOurs;
    this.#tell('warn', failure, sent ? 'Its requester was told.' : `Its requester was told. ${NOT_SENT}`);
  }

  /** Settles it; what has to be waited for is the promise, which never rejects. `waits` as for `givesUp`. */
  settle(message: Message, error: unknown, scope: DeliveryScope, waits: number | undefined): Promise<void> | undefined {
    const attempt = this.#attemptOrFirst(message);
    const outcome = this.#outcomeOf(error, attempt, waits);
    const queue = this.#connection.topology.current(this.#options.queue);
    const failure: Failure = { message, queue, attempt, error };
    if (scope.hasEnded && !this.#options.areOurs) {
      // Nobody failed: its work was for nothing.
      if (error !== scope.endError) this.#tell('warn', failure, NOT_SENT);
      return undefined;
    }
    // A stream keeps its messages, and has every consumer see what is published to it.
    switch (this.#isStream ? 'dead-letter' : outcome.kind) {
      case 'requeue':
        return this.#requeue(failure, scope);
      case 'retry':
        return this.#retry(failure, outcome.kind === 'retry' ? outcome.delay : HOLD, scope, waits);
      case 'dead-letter':
        return this.#deadLetter(failure, scope);
    }
  }

  #requeue(failure: Failure, scope: DeliveryScope): Promise<void> | undefined {
    // The broker has forgotten it.
    if (this.#options.areOurs) return this.#retry(failure, HOLD, scope);
    if (failure.message.redelivered) return this.#putBackLater(failure.message, scope);
    failure.message.reject({ requeue: true });
    return undefined;
  }

  async #putBackLater(message: Message, scope: DeliveryScope): Promise<void> {
    const lost = scope.controller();
    await pause(HOLD, AbortSignal.any([lost.signal, this.#stopping.signal]));
    scope.release(lost);
    message.reject({ requeue: true });
  }

  /** What would be tried again after its requester has given up has its last error now, while that is heard. */
  #outcomeOf(error: unknown, attempt: number, waits: number | undefined): Outcome {
    const outcome = outcomeOf(error, attempt, this.#options.retry);
    if (outcome.kind !== 'retry' || waits === undefined) return outcome;
    const delay = this.#isLeftToBroker(error) ? this.#delayOfBroker : outcome.delay;
    return delay < waits ? outcome : { kind: 'dead-letter' };
  }

  #isLeftToBroker(error: unknown): boolean {
    return this.#isRetriedByBroker && !(error instanceof RetryDelivery) && !this.#options.areOurs;
  }

  #retry(failure: Failure, delay: number, scope: DeliveryScope, waits?: number): Promise<void> | undefined {
    if (this.#isLeftToBroker(failure.error)) {
      const sent = failure.message.reject({ requeue: true });
      this.#tell('warn', failure, sent ? 'The broker delivers it again after a while.' : NOT_SENT);
      return undefined;
    }
    return this.#handOver(failure, scope, async (bounds) => {
      try {
        const waitQueue = await this.#handover.toWaitQueue(
          failure,
          delay,
          { isBuriedByBroker: this.#isDeadLetteredByBroker, waits: waits === undefined ? undefined : waits - delay },
          bounds,
        );
        return {
          isDead: false,
          told: `It waits ${delay} ms in queue ${quoted(waitQueue)} for attempt ${failure.attempt + 1}.`,
        };
      } catch (error) {
        if (!isUnsendable(error)) throw error;
        return await this.#toDeadQueue(failure, bounds);
      }
    });
  }

  #deadLetter(failure: Failure, scope: DeliveryScope): Promise<void> | undefined {
    if (this.#isDeadLetteredByBroker) {
      const sent = failure.message.reject();
      this.#tell('error', failure, sent ? 'It was rejected, for the broker to dead-letter it.' : NOT_SENT);
      return undefined;
    }
    return this.#handOver(failure, scope, (bounds) => this.#toDeadQueue(failure, bounds));
  }

  async #toDeadQueue(failure: Failure, bounds: HandoverBounds): Promise<HandedOver> {
    const deadQueue = await this.#handover.toDeadQueue(failure, bounds);
    return { isDead: true, told: `It is in queue ${quoted(deadQueue)} now.` };
  }

  /** Acknowledges what is confirmed elsewhere. What cannot get there stays in its queue. */
  async #handOver(
    failure: Failure,
    scope: DeliveryScope,
    work: (bounds: HandoverBounds) => Promise<HandedOver>,
  ): Promise<void> {
    const { areOurs } = this.#options;
    const { message } = failure;
    const lost = scope.controller();
    try {
      const { isDead, told } = await work({
        lost: areOurs ? this.#stopped.signal : lost.signal,
        stopping: areOurs ? this.#stopped.signal : this.#stopping.signal,
        failed: (error) => {
          this.#tell(
            'error',
            failure,
            `It cannot be published elsewhere yet, which is tried again: ${clauseOf(error)}.`,
          );
        },
      });
      const isSettled = message.ack() || areOurs;
      this.#tell(isDead ? 'error' : 'warn', failure, isSettled ? told : `${told} ${NOT_SENT}`);
    } catch (error) {
      // What can be written nowhere would come again at once.
      if (isUnsendable(error)) await pause(HOLD, AbortSignal.any([lost.signal, this.#stopping.signal]));
      const sent = message.nack();
      const back = sent ? 'and went back to its queue.' : areOurs ? 'and is lost.' : 'and is delivered again.';
      this.#tell('error', failure, `It could not be published elsewhere (${clauseOf(error)}), ${back}`);
    } finally {
      scope.release(lost);
    }
  }

  /** A message whose properties cannot be decoded was never published by us. */
  #attemptOrFirst(message: Message): number {
    try {
      return this.attemptOf(message);
    } catch {
      return 1;
    }
  }

  get #isDeadLetteredByBroker(): boolean {
    const { deadLetter, areOurs } = this.#options;
    if (areOurs || this.#isStream) return false;
    return deadLetter === undefined ? this.#hasDeadLetterExchange : typeof deadLetter === 'object';
  }

  /** As far as the definition of the queue says. */
  get #hasDeadLetterExchange(): boolean {
    const { deadLetter, arguments: args } = this.#definition ?? {};
    return deadLetter !== undefined || args?.['x-dead-letter-exchange'] !== undefined;
  }

  /**
   * Quorum queues of RabbitMQ 4.3 and later hold back what is rejected, when they are declared so; without a shortest delay they
   * give it back at once.
   */
  get #isRetriedByBroker(): boolean {
    const { 'x-delayed-retry-type': retries } = this.#definition?.arguments ?? {};
    if ((retries !== 'all' && retries !== 'failed') || this.#delayOfBroker <= 0) return false;
    const { status } = this.#connection;
    return status.state === 'open' && isAtLeast(brokerOf(status.connection.serverProperties), 4, 3);
  }

  /** The shortest, in milliseconds; 0 where there is none. */
  get #delayOfBroker(): number {
    const delay = this.#definition?.arguments?.['x-delayed-retry-min'];
    return typeof delay === 'number' ? delay : 0;
  }

  /** A log that throws is no reason to end the process, or to lose count of the handlers. */
  #tell(level: 'warn' | 'error', { message, queue, error }: Failure, what: string): void {
    try {
      this.#log[level](
        `${this.#label} failed on the message with routing key ${routingKeyOf(message, queue)}${idOf(message)}. ${what} ${thrownOf(error)}`,
      );
    } catch (thrown) {
      warnOf(thrown);
    }
  }
}

const NOT_SENT = 'It was not answered again, because its channel is gone: the broker delivers it again.';

interface HandedOver {
  readonly isDead: boolean;
  readonly told: string;
}

/** Quorum queues count how often a message came back (`x-delivery-count`). */
function deliveriesOf({ headers }: Message['properties']): number {
  const count = headers?.['x-delivery-count'];
  return typeof count === 'number' && Number.isInteger(count) && count > 0 ? count : 0;
}

function routingKeyOf(message: Message, queue: string): string {
  try {
    return quoted(originOf(message, queue).routingKey);
  } catch {
    return quoted(message.routingKey);
  }
}
