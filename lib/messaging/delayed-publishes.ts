/**
 * Publishes that the broker holds back for a while, without a plugin. How a message is written, and what a publish without a delay
 * does, is the publisher's.
 *
 * ```
 *   publish ─key─► fanout nest-amqp.delay.<ms>.<exchange> ──► queue of that name ──x-message-ttl──► exchange ─key─► …
 * ```
 *
 * The message is sent with its own routing key, which a fanout does not look at and a dead letter keeps; through the default
 * exchange it would be the name of the wait queue.
 */
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { Channel } from '../client/channel.js';
import { Backoff } from '../client/backoff.js';
import type { PublishOptions } from '../client/channel-options.js';
import { isLoss } from '../client/consumer-status.js';
import { orAborted, pause, unblocked } from '../client/wait.js';
import { AmqpError, PublishRefusedError, UnroutableError, destination, quoted } from '../errors.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';
import { withoutDeaths } from './attempt-headers.js';
import { derivedName } from './derived-name.js';
import { SharedDeclarations } from './shared-declarations.js';
import { AFTERLIFE } from './side-queues.js';

/** A publish that waits longer than this could be sent to a queue that is about to go, with its messages. */
const LONGEST_TIMEOUT = AFTERLIFE / 2;

/** How often the wait queue may be gone when the message gets there. */
const TRIES = 3;

/** Where a message goes in the end. */
interface Target {
  readonly exchange: string;
  readonly routingKey: string;
}

/** Of one publish: each begins when the one before it is done. */
interface Steps {
  readonly ready: () => Promise<void>;
  /** Waits for those before it. */
  readonly turn: (before: Promise<void>) => Promise<void>;
  readonly send: () => Promise<void>;
}

export class DelayedPublishes {
  readonly #channel: AmqpChannel;
  readonly #declarations: SharedDeclarations;
  /** By wait exchange, the end of the line before it: a lost connection delays one declaration more than the next. */
  readonly #lines = new Map<string, Promise<void>>();

  constructor(channel: AmqpChannel) {
    this.#channel = channel;
    this.#declarations = new SharedDeclarations(channel.connection);
  }

  /**
   * Resolves when the message is in its wait queue, confirmed; with a delay of 0 it is published at once. Rejects as a publish does,
   * with `PublishRefusedError` for an exchange and `UnroutableError` for a queue that is not there now, with `TOPOLOGY_FAILED` where
   * there can be no wait queue, and with `INVALID_OPTION`. Those with one delay and exchange go to their wait queue in the order in
   * which they were said, unless that is deleted meanwhile.
   */
  async publish(
    delay: Duration,
    target: Target,
    body: string | Uint8Array,
    message: PublishOptions,
    { signal, timeout }: { readonly signal: AbortSignal | undefined; readonly timeout: number },
  ): Promise<void> {
    const ms = Math.ceil(timerMilliseconds(delay, 'delay'));
    if (ms === 0) {
      await this.#channel.publish(target.exchange, target.routingKey, body, message, { signal, timeout });
      return;
    }
    if (message.expiration !== undefined) {
      throw new AmqpError(
        'INVALID_OPTION',
        'A publish has either delay or expiration: in the queue where it waits, the expiration would end the delay. ' +
          'Give the queue that it goes to a messageTtl.',
      );
    }
    const longest = Math.min(timeout, LONGEST_TIMEOUT);
    const deadline = performance.now() + longest;
    // It takes whole milliseconds only.
    const late = AbortSignal.timeout(Math.ceil(longest));
    const ending = signal === undefined ? late : AbortSignal.any([signal, late]);
    const options = delayedOptions(message);
    const wait = nameFor(target.exchange, ms);
    const ready = (): Promise<void> => this.#ready(wait, target, ms, message.mandatory === true, ending);
    const send = (): Promise<void> => {
      const left = Math.max(1, deadline - performance.now());
      return this.#channel.publish(wait, target.routingKey, body, options, { signal, timeout: left });
    };
    const turn = (before: Promise<void>): Promise<void> => unlessOver(before, target, 'its turn came', ending);
    let sent = this.#inLine(wait, body.length, { ready, turn, send });
    for (let attempt = 1; ; attempt += 1) {
      try {
        await sent;
        return;
      } catch (error) {
        if (attempt === TRIES || !isGone(error)) throw error;
        sent = ready().then(send);
      }
    }
  }

  /** Sends as soon as it is ready and everything before it has been sent, or given up. */
  async #inLine(wait: string, bytes: number, { ready, turn, send }: Steps): Promise<void> {
    const release = this.#channel.hold(bytes);
    const before = this.#lines.get(wait);
    let leave: () => void = () => undefined;
    const left = new Promise<void>((resolve) => {
      leave = resolve;
    });
    const line = before === undefined ? left : before.then(() => left);
    this.#lines.set(wait, line);
    try {
      await ready();
      if (before !== undefined) await turn(before);
    } finally {
      // What is sent takes the room that was kept for it, and its place before the next in line.
      release();
      leave();
      if (this.#lines.get(wait) === line) this.#lines.delete(wait);
    }
    await send();
  }

  /** When the wait exchange is there, its queue lasts longer than the message will be in it. */
  async #ready(
    wait: string,
    { exchange, routingKey }: Target,
    delay: number,
    isMandatory: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const declare = async (): Promise<void> => {
      // A broker that blocks reads no declarations either.
      await unblocked(await this.#channel.connection.opened(signal), signal);
      if (exchange !== '' || isMandatory) await this.#target(exchange, routingKey);
      // Each time anew, as for retries: messages do not count as use, and are lost with their queue.
      await this.#declarations.declare(wait, (channel) => declareWait(channel, wait, exchange, delay));
    };
    await unlessOver(
      this.#acrossLosses(declare, signal),
      { exchange, routingKey },
      'its wait queue was declared',
      signal,
    );
  }

  /** A connection that is lost meanwhile is no reason to give up; one that is closed for good opens no more, and says so. */
  async #acrossLosses(declare: () => Promise<void>, signal: AbortSignal): Promise<void> {
    const backoff = new Backoff();
    for (;;) {
      try {
        await declare();
        return;
      } catch (error) {
        if (signal.aborted || !isNoAnswer(error) || this.#channel.connection.status.state === 'closed') throw error;
        await pause(backoff.next(), signal);
      }
    }
  }

  /** A message that is dead-lettered to where nothing is, is lost, and nobody hears of it: so it is looked for each time. */
  async #target(exchange: string, routingKey: string): Promise<void> {
    const queue = this.#channel.connection.queueNamed(routingKey);
    try {
      await this.#declarations.declare(exchange === '' ? `queue ${queue}` : `exchange ${exchange}`, (channel) =>
        exchange === ''
          ? channel.queueDeclare(queue, { passive: true })
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

/** What `work` comes to; rejects with `ABORTED` when the signal fires first. */
async function unlessOver(
  work: Promise<void>,
  { exchange, routingKey }: Target,
  awaited: string,
  signal: AbortSignal,
): Promise<void> {
  try {
    await orAborted(work, signal);
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error;
    throw new AmqpError(
      'ABORTED',
      `The delayed publish to ${destination(exchange, routingKey)} ended before ${awaited}. The message was not sent.`,
      { cause: error },
    );
  }
}

function nameFor(exchange: string, delay: number): string {
  const name = exchange === '' ? `nest-amqp.delay.${delay}` : `nest-amqp.delay.${delay}.${exchange}`;
  return derivedName(name, exchange, (digest) => `nest-amqp.delay.${delay}.${digest}`);
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
    if (!(error instanceof AmqpError) || error.replyCode === undefined || isNoAnswer(error)) throw error;
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

/** Not the broker's answer to a declaration, but the end of what it was sent over. */
function isNoAnswer(error: unknown): boolean {
  return (
    isLoss(error) || (error instanceof AmqpError && error.code === 'CHANNEL_CLOSED' && error.replyCode === undefined)
  );
}
