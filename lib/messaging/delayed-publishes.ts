/**
 * Where messages wait that are published with a delay: for each exchange and delay a durable queue whose messages expire after the
 * delay and are dead-lettered to the exchange, and before it a fanout exchange of the same name, because a dead letter keeps the
 * routing key that it was published with, and with the default exchange that would be the queue's.
 *
 * ```
 *   publish ─key─► fanout nest-amqp.delay.<ms>.<exchange> ──► queue of that name ──x-message-ttl──► exchange ─key─► …
 * ```
 */
import { createHash } from 'node:crypto';
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { PublishOptions } from '../client/channel-options.js';
import type { Connection } from '../client/connection.js';
import { ended as endOf, orLate } from '../client/wait.js';
import { AmqpError, PublishRefusedError, destination } from '../errors.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';

/** So much longer than its messages wait, a queue lasts unused, in milliseconds; with it goes the exchange. */
const AFTERLIFE = 60 * 60 * 1000;
/** A declaration begins that time anew. Until it is this old, in milliseconds, what is published stays to its end. */
const FRESH = 30 * 60 * 1000;
/** Most octets of a name. */
const LONGEST_NAME = 255;

/** Where a message goes in the end. */
interface Target {
  readonly exchange: string;
  readonly routingKey: string;
}

/** A declaration, of a connection, and when it was made. */
interface Declared {
  readonly done: Promise<void>;
  readonly connection: Connection;
  readonly at: number;
}

export class DelayedPublishes {
  readonly #channel: AmqpChannel;
  readonly #declared = new Map<string, Declared>();

  constructor(channel: AmqpChannel) {
    this.#channel = channel;
  }

  /** Resolves when the broker has it where it waits. Rejects like a publish, also when the exchange that it is for does not exist. */
  async publish(
    delay: Duration,
    { exchange, routingKey }: Target,
    body: string | Uint8Array,
    message: PublishOptions,
    { signal, timeout }: { readonly signal: AbortSignal | undefined; readonly timeout: number },
  ): Promise<void> {
    const ms = delayOf(delay);
    if (message.expiration !== undefined) {
      throw new AmqpError(
        'INVALID_OPTION',
        'A publish has either delay or expiration: the message would expire while it waits, or lose its expiration then.',
      );
    }
    const since = performance.now();
    const left = (): number => Math.max(1, timeout - (performance.now() - since));
    for (let isLast = false; ; isLast = true) {
      const name = await this.#inTime(this.#waitingFor(exchange, ms), { exchange, routingKey }, left(), signal);
      try {
        await this.#channel.publish(name, routingKey, body, message, { signal, timeout: left() });
        return;
      } catch (error) {
        // Somebody has deleted it since it was declared.
        if (isLast || !(error instanceof AmqpError) || error.replyCode !== 404) throw error;
        this.#declared.delete(name);
      }
    }
  }

  async #inTime(declared: Promise<string>, target: Target, ms: number, signal?: AbortSignal): Promise<string> {
    const { exchange, routingKey } = target;
    const ended = (why: string, cause?: unknown): AmqpError =>
      new AmqpError(
        'ABORTED',
        `The delayed publish to ${destination(exchange, routingKey)} ended: ${why}. The message was not sent.`,
        { cause },
      );
    try {
      return await orLate(declared, ms, () => ended('it took longer than its timeout'), signal);
    } catch (error) {
      if (signal?.aborted === true && error === signal.reason) throw ended('it was aborted', error);
      if (error instanceof AmqpError && (error.replyCode === 404 || error.replyCode === 403))
        throw new PublishRefusedError(exchange, routingKey, error);
      throw error;
    }
  }

  /** The exchange to publish to instead, with the same routing key; declared by then, over as many connections as it takes. */
  async #waitingFor(exchange: string, delay: number): Promise<string> {
    const name = nameFor(exchange, delay);
    for (;;) {
      const connection = await this.#channel.connection.opened();
      try {
        await this.#declaredOn(connection, name, exchange, delay);
        return name;
      } catch (error) {
        this.#declared.delete(name);
        if (connection.isOpen) throw error;
        await endOf(connection);
      }
    }
  }

  async #declaredOn(connection: Connection, name: string, exchange: string, delay: number): Promise<void> {
    let declared = this.#declared.get(name);
    if (declared?.connection !== connection || performance.now() - declared.at > FRESH) {
      declared = { done: declare(connection, name, exchange, delay), connection, at: performance.now() };
      this.#declared.set(name, declared);
    }
    await declared.done;
  }
}

/** Milliseconds of a `delay`. Throws `INVALID_OPTION`. */
export function delayOf(delay: Duration): number {
  const ms = Math.round(timerMilliseconds(delay, 'delay'));
  if (ms >= 1) return ms;
  throw new AmqpError('INVALID_OPTION', 'delay has to be 1 ms or more. Leave it out to publish at once.');
}

function nameFor(exchange: string, delay: number): string {
  const name = exchange === '' ? `nest-amqp.delay.${delay}` : `nest-amqp.delay.${delay}.${exchange}`;
  if (Buffer.byteLength(name) <= LONGEST_NAME) return name;
  return `nest-amqp.delay.${delay}.${createHash('sha256').update(exchange).digest('hex').slice(0, 16)}`;
}

/** On a channel of its own, which the broker closes over what it refuses. */
async function declare(connection: Connection, name: string, exchange: string, delay: number): Promise<void> {
  const channel = await connection.channel();
  try {
    // What is dead-lettered to an exchange that is not there is dropped without a word.
    if (exchange !== '') await channel.exchangeDeclare(exchange, '', { passive: true });
    await channel.exchangeDeclare(name, 'fanout', { autoDelete: true });
    await channel.queueDeclare(name, {
      arguments: {
        'x-queue-type': 'classic',
        'x-message-ttl': delay,
        'x-expires': delay + AFTERLIFE,
        'x-dead-letter-exchange': exchange,
      },
    });
    await channel.queueBind(name, name);
  } finally {
    void channel.close();
  }
}
