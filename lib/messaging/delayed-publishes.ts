/**
 * Publishes that the broker holds back for a while, without a plugin. How a message is written, and what a publish without a delay
 * does, is the publisher's.
 *
 * ```
 *   publish ──► exchange orders.delay.600000 (fanout) ──► queue orders.delay.600000 ──x-message-ttl──► exchange orders
 * ```
 *
 * The message is sent with its own routing key, which a fanout does not look at and a dead letter keeps; through the default
 * exchange it would be the name of the wait queue.
 */
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { Channel } from '../client/channel.js';
import { Backoff } from '../client/backoff.js';
import type { PublishOptions } from '../client/channel-options.js';
import type { Connection } from '../client/connection.js';
import { orAborted, pause, unblocked } from '../client/wait.js';
import { AmqpError, PublishRefusedError, UnroutableError, quoted } from '../errors.js';
import { milliseconds } from '../time/duration.js';
import { withoutDeaths } from './attempt-headers.js';
import type { PublishMessageOptions } from './publish-options.js';
import { SharedDeclarations } from './shared-declarations.js';
import { AFTERLIFE, besides } from './side-queues.js';

/** The longest delay: with the time that its queue lasts longer it stays below the 2^32 ms that RabbitMQ counts (49.7 days). */
const LONGEST = 49 * 24 * 60 * 60 * 1000;

/** A publish that waits longer than this could be sent to a queue that is about to go, with its messages. */
const LONGEST_TIMEOUT = AFTERLIFE / 2;

/** How often the wait queue may be gone when the message gets there. */
const TRIES = 3;

/** What stands beside the default exchange, which has no name. */
const DEFAULT_EXCHANGE = 'nest-amqp.default';

export interface DelayedMessage {
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: string | Uint8Array;
  readonly options: PublishOptions;
  /** Whole milliseconds, more than 0. */
  readonly delay: number;
}

/** The delay in whole milliseconds. Throws `INVALID_OPTION`. */
export function delayOf({ delay = 0, expiration }: PublishMessageOptions): number {
  const ms = Math.ceil(milliseconds(delay, 'delay'));
  if (ms > LONGEST) {
    throw new AmqpError('INVALID_OPTION', `delay is ${quoted(String(delay))}; the longest is 49 days.`);
  }
  if (ms > 0 && expiration !== undefined) {
    throw new AmqpError(
      'INVALID_OPTION',
      'A publish has either a delay or an expiration: in the queue where it waits, the expiration would end the delay. ' +
        'Give the queue that it goes to a messageTtl.',
    );
  }
  return ms;
}

export class DelayedPublishes {
  readonly #channel: AmqpChannel;
  readonly #declarations: SharedDeclarations;
  /** Of each connection the exchanges and queues that messages go to in the end, once looked for. */
  readonly #targets = new WeakMap<Connection, Map<string, Promise<void>>>();

  constructor(channel: AmqpChannel) {
    this.#channel = channel;
    this.#declarations = new SharedDeclarations(channel.connection);
  }

  /**
   * Resolves when the message is in its wait queue, confirmed. Rejects as a publish does, with `PublishRefusedError` for an exchange
   * and `UnroutableError` for a queue that is not there now, and with `TOPOLOGY_FAILED` where there can be no wait queue.
   */
  async publish(
    message: DelayedMessage,
    bounds: { readonly signal: AbortSignal | undefined; readonly timeout: number },
  ): Promise<void> {
    const timeout = Math.min(bounds.timeout, LONGEST_TIMEOUT);
    const deadline = performance.now() + timeout;
    const late = AbortSignal.timeout(timeout);
    const signal = bounds.signal === undefined ? late : AbortSignal.any([bounds.signal, late]);
    const options = delayedOptions(message.options);
    for (let attempt = 1; ; attempt += 1) {
      const wait = await this.#ready(message, signal);
      const left = Math.max(1, deadline - performance.now());
      try {
        const sent = { signal: bounds.signal, timeout: left };
        await this.#channel.publish(wait, message.routingKey, message.body, options, sent);
        return;
      } catch (error) {
        if (attempt === TRIES || !isGone(error)) throw error;
      }
    }
  }

  /** The exchange to wait at; its queue lasts longer than the message will be in it. */
  async #ready(message: DelayedMessage, signal: AbortSignal): Promise<string> {
    const { exchange, routingKey, delay, options } = message;
    const wait = besides(exchange === '' ? DEFAULT_EXCHANGE : exchange, `delay.${delay}`);
    const declare = async (): Promise<void> => {
      // A broker that blocks reads no declarations either.
      await unblocked(await this.#channel.connection.opened(signal), signal);
      if (exchange !== '' || options.mandatory === true) await this.#target(exchange, routingKey);
      await this.#declarations.declare(wait, (channel) => declareWait(channel, wait, exchange, delay));
    };
    try {
      await orAborted(this.#acrossLosses(declare, signal), signal);
    } catch (error) {
      if (!signal.aborted || error !== signal.reason) throw error;
      throw new AmqpError(
        'ABORTED',
        `The publish to exchange ${quoted(exchange)} with routing key ${quoted(routingKey)} and a delay ended before its wait ` +
          'queue was there. The message was not sent.',
        { cause: error },
      );
    }
    return wait;
  }

  /** A connection that is lost meanwhile is no reason to give up; one that is closed for good opens no more, and says so. */
  async #acrossLosses(declare: () => Promise<void>, signal: AbortSignal): Promise<void> {
    const backoff = new Backoff();
    for (;;) {
      try {
        await declare();
        return;
      } catch (error) {
        if (signal.aborted || !isLoss(error) || this.#channel.connection.status.state === 'closed') throw error;
        await pause(backoff.next(), signal);
      }
    }
  }

  /** A message that is dead-lettered to where nothing is, is lost, and nobody hears of it. */
  async #target(exchange: string, routingKey: string): Promise<void> {
    const { connection } = this.#channel;
    const current = await connection.opened();
    let known = this.#targets.get(current);
    if (known === undefined) this.#targets.set(current, (known = new Map<string, Promise<void>>()));
    const queue = connection.queueNamed(routingKey);
    const key = exchange === '' ? `queue ${queue}` : `exchange ${exchange}`;
    let found = known.get(key);
    if (found === undefined) {
      known.set(key, (found = this.#look(exchange, queue)));
      // What is not there may be there the next time.
      found.catch(() => known.delete(key));
    }
    await found;
  }

  async #look(exchange: string, routingKey: string): Promise<void> {
    try {
      await this.#declarations.alone((channel) =>
        exchange === ''
          ? channel.queueDeclare(routingKey, { passive: true })
          : // The type is not looked at.
            channel.exchangeDeclare(exchange, 'direct', { passive: true }),
      );
    } catch (error) {
      if (!(error instanceof AmqpError)) throw error;
      // Of another connection alone, but there.
      if (exchange === '' && error.replyCode === 405) return;
      if (error.replyCode !== 404) throw error;
      if (exchange === '') throw new UnroutableError(exchange, routingKey, { cause: error });
      throw new PublishRefusedError(exchange, routingKey, error);
    }
  }
}

/**
 * The queue first: what is declared anew lasts its time, while the exchange goes with the binding of a queue that goes. Names are
 * compared by the broker: what has the name and is something else is refused.
 */
async function declareWait(channel: Channel, wait: string, exchange: string, delay: number): Promise<void> {
  try {
    await channel.queueDeclare(wait, {
      arguments: {
        'x-queue-type': 'classic',
        'x-message-ttl': delay,
        'x-expires': delay + AFTERLIFE,
        'x-dead-letter-exchange': exchange,
      },
    });
    await channel.exchangeDeclare(wait, 'fanout', { autoDelete: true });
    await channel.queueBind(wait, wait);
  } catch (error) {
    if (!(error instanceof AmqpError) || error.replyCode === undefined || isLoss(error)) throw error;
    throw new AmqpError(
      'TOPOLOGY_FAILED',
      `Queue and exchange ${quoted(wait)}, where messages with a delay of ${delay} ms wait, could not be declared. ${error.message} ` +
        'Delete what has that name, or permit the user to configure, read and write it.',
      { replyCode: error.replyCode, replyText: error.replyText, method: error.method, cause: error },
    );
  }
}

/** Mandatory also where the message is not: it has to get to its wait queue. */
function delayedOptions({ headers, ...options }: PublishOptions): PublishOptions {
  return { ...options, ...(headers === undefined ? {} : { headers: withoutDeaths(headers) }), mandatory: true };
}

/** The wait queue, and its exchange with it, went between its declaration and the message. */
function isGone(error: unknown): boolean {
  return error instanceof UnroutableError || (error instanceof PublishRefusedError && error.replyCode === 404);
}

/** Not the broker's answer to a declaration, but the end of the connection that it was sent over. */
function isLoss(error: unknown): boolean {
  if (!(error instanceof AmqpError)) return false;
  const { code, replyCode } = error;
  return (
    code === 'CONNECTION_LOST' || code === 'CONNECTION_CLOSED' || (code === 'CHANNEL_CLOSED' && replyCode === undefined)
  );
}
