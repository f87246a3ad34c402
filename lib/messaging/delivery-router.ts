/**
 * Sends the messages of one consumer to its handlers, by the routing key that they were first published with: what a retry brings
 * back comes to the handler that had it. What the handlers do with them is theirs; that no two want the same is checked here.
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import type { Message } from '../client/message.js';
import { AmqpError, quoted } from '../errors.js';
import { TopicPatterns, commonKey, looseWildcard } from '../protocol/topic-pattern.js';
import { originOf } from './attempt-headers.js';
import type { MessageReceiver } from './consumer.js';
import type { Log } from './log.js';
import { HandledDeliveries, type HandlerOptions } from './handled-deliveries.js';
import type { RunningDelivery } from './running-deliveries.js';

/** A handler and the routing keys that it takes; without `when` all that no other one takes. */
export interface Route {
  /** `BillingConsumer.charge` */
  readonly name: string;
  readonly when: string | undefined;
}

export class DeliveryRouter implements MessageReceiver {
  readonly #connection: AmqpConnection;
  readonly #queue: string;
  readonly #patterns = new TopicPatterns<MessageReceiver>();
  readonly #fallback: MessageReceiver;
  readonly #receivers: readonly MessageReceiver[];
  /** What the queue is called on the present connection. */
  #name: string;

  /** The receivers by their patterns, which have passed `checkRoutes`, and the one for what no pattern matches. */
  constructor(
    connection: AmqpConnection,
    queue: string,
    routes: ReadonlyMap<string, MessageReceiver>,
    fallback: MessageReceiver,
  ) {
    this.#connection = connection;
    this.#queue = queue;
    this.#name = queue;
    this.#fallback = fallback;
    for (const [when, receiver] of routes) this.#patterns.add(when, receiver);
    this.#receivers = [...routes.values(), fallback];
  }

  get underWay(): number {
    return this.#receivers.reduce((sum, { underWay }) => sum + underWay, 0);
  }

  get oldest(): RunningDelivery | undefined {
    return this.#receivers
      .map(({ oldest }) => oldest)
      .reduce(
        (one, other) => (other !== undefined && (one === undefined || other.since < one.since) ? other : one),
        undefined,
      );
  }

  renew(): void {
    this.#name = this.#connection.topology.current(this.#queue);
    for (const receiver of this.#receivers) receiver.renew();
  }

  receive(message: Message): void {
    const [receiver = this.#fallback] = this.#patterns.match(routingKeyOf(message, this.#name));
    receiver.receive(message);
  }

  lost(why: string): void {
    for (const receiver of this.#receivers) receiver.lost(why);
  }

  giveBack(): void {
    for (const receiver of this.#receivers) receiver.giveBack();
  }

  stop(): void {
    for (const receiver of this.#receivers) receiver.stop();
  }

  async idle(): Promise<void> {
    await Promise.all(this.#receivers.map((receiver) => receiver.idle()));
  }

  abandon(until: string): void {
    for (const receiver of this.#receivers) receiver.abandon(until);
  }
}

/** Dead-letters what comes to it, because no handler takes its routing key. */
export function unmatchedDeliveries(
  connection: AmqpConnection,
  options: Omit<HandlerOptions, 'decode' | 'ack' | 'retry' | 'timeout'>,
  patterns: readonly string[],
  log: Log,
): MessageReceiver {
  const takes = patterns.map(quoted).join(', ');
  return new HandledDeliveries(
    connection,
    { ...options, decode: () => undefined },
    ({ routingKey }) => {
      throw new AmqpError(
        'NO_HANDLER',
        `No handler of queue ${quoted(options.queue)} takes the routing key ${quoted(routingKey)}: they take ${takes} (when). ` +
          'Add one, without when for all the rest, or remove the binding that brings it here.',
      );
    },
    log,
  );
}

/** Throws `INVALID_DEFINITION` for a pattern that looks like one and matches nothing but itself. */
export function checkPattern({ name, when }: Route): void {
  const loose = when === undefined ? undefined : looseWildcard(when);
  if (when === undefined || loose === undefined) return;
  throw new AmqpError(
    'INVALID_DEFINITION',
    `${name} has when ${quoted(when)}, which takes only messages with that very routing key: a ${loose.wildcard} is a word of its own, ` +
      `${quoted(loose.mended)}.`,
  );
}

/**
 * Checks that every message of the queue has one handler at most. Throws `INVALID_DEFINITION`, with the names of two that would
 * both have it.
 */
export function checkRoutes(routes: readonly Route[], queue: string): void {
  for (const [index, one] of routes.entries()) {
    for (const other of routes.slice(0, index)) {
      const conflict = conflictOf(other, one);
      if (conflict === undefined) continue;
      throw new AmqpError(
        'INVALID_DEFINITION',
        `${other.name} and ${one.name} both handle ${conflict} of queue ${quoted(queue)}. ` +
          'Say when (a routing-key pattern) so that each message has one handler, and leave it out of one at most. ' +
          'To have several consumers that share the messages, say competing: true to each.',
      );
    }
  }
}

function conflictOf(one: Route, other: Route): string | undefined {
  if (one.when === undefined || other.when === undefined) {
    return one.when === other.when ? 'every message' : undefined;
  }
  const key = commonKey(one.when, other.when);
  return key === undefined
    ? undefined
    : `routing key ${quoted(key)} (when ${quoted(one.when)} and ${quoted(other.when)})`;
}

/** Of a message whose properties cannot be decoded, the one that it came with. */
function routingKeyOf(message: Message, queue: string): string {
  try {
    return originOf(message, queue).routingKey;
  } catch {
    return message.routingKey;
  }
}
