/**
 * Publishes that outlive their channel: each is kept until its outcome is known. What a lost connection leaves unconfirmed
 * is sent again on the next channel, in order and before anything new, so that the broker may get a message twice and never
 * loses one that was confirmed to the caller. Opening channels is the handle's.
 */
import { AmqpError, PublishOutcomeUnknownError, PublisherBufferFullError, quoted } from '../errors.js';
import type { ConfirmChannel } from './channel.js';
import type { PublishOptions } from './channel-options.js';
import { type Duration, timerMilliseconds } from './duration.js';

/** What may wait, and what becomes of publishes whose connection is lost. */
export interface RepublishOptions {
  /** `false` rejects what a loss leaves unconfirmed with `PublishOutcomeUnknownError` instead of sending it again. @default true */
  readonly republish?: boolean | undefined;
  /** Most publishes that may wait while there is no connection. @default 10000 */
  readonly maxBuffered?: number | undefined;
  /** Most bytes of bodies that may wait while there is no connection. @default 67108864 (64 MiB) */
  readonly maxBufferedBytes?: number | undefined;
  /** A publish older than this is not sent again. @default '5m' */
  readonly maxAge?: Duration | undefined;
}

/** What republishing needs of a handle. */
interface ChannelSource {
  /** Opens a channel if there is none; rejects when there never will be one. */
  opened(): Promise<ConfirmChannel>;
  /** The present name of a queue. */
  queueNamed(queue: string): string;
}

interface Entry {
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: string | Uint8Array;
  readonly options: PublishOptions;
  readonly bytes: number;
  readonly publishedAt: number;
  /** It was sent at least once. */
  wasSent: boolean;
  /** It was sent and has no outcome yet. */
  isUnderWay: boolean;
  /** Why the last channel that it was sent on ended without an outcome. */
  lost: PublishOutcomeUnknownError | undefined;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class Republisher {
  readonly #source: ChannelSource;
  readonly #republish: boolean;
  readonly #maxBuffered: number;
  readonly #maxBufferedBytes: number;
  readonly #maxAge: number;
  /** Everything without an outcome, in publishing order. */
  readonly #entries = new Set<Entry>();
  #bytes = 0;
  #channel: ConfirmChannel | undefined;
  #opening = false;

  /** Throws `INVALID_OPTION`. */
  constructor(source: ChannelSource, options: RepublishOptions = {}) {
    this.#source = source;
    this.#republish = options.republish ?? true;
    this.#maxBuffered = bound(options.maxBuffered ?? 10_000, 'maxBuffered');
    this.#maxBufferedBytes = bound(options.maxBufferedBytes ?? 64 * 1024 * 1024, 'maxBufferedBytes');
    this.#maxAge = timerMilliseconds(options.maxAge ?? '5m', 'maxAge');
  }

  /** Resolves when the broker has confirmed it. When the signal fires before it has left, it is not sent. */
  async publish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options: PublishOptions,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    if (signal?.aborted === true) throw givenUp({ exchange, routingKey, wasSent: false }, signal.reason);
    const bytes = typeof body === 'string' ? Buffer.byteLength(body) : body.length;
    if (this.#channel?.isOpen !== true) this.#makeSure(bytes);
    let onAbort: () => void = () => undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const publishedAt = performance.now();
        const state = { wasSent: false, isUnderWay: false, lost: undefined };
        const entry: Entry = { exchange, routingKey, body, options, bytes, publishedAt, ...state, resolve, reject };
        onAbort = () => {
          this.#forget(entry);
          reject(givenUp(entry, signal?.reason));
        };
        signal?.addEventListener('abort', onAbort, { once: true });
        this.#entries.add(entry);
        this.#bytes += bytes;
        if (this.#channel?.isOpen === true) this.#send(entry, this.#channel);
        else this.#open();
      });
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #makeSure(bytes: number): void {
    if (this.#entries.size < this.#maxBuffered && this.#bytes + bytes <= this.#maxBufferedBytes) return;
    throw new PublisherBufferFullError(this.#entries.size, this.#bytes);
  }

  #open(): void {
    if (this.#opening) return;
    this.#opening = true;
    this.#source.opened().then(
      (channel) => {
        this.#opening = false;
        this.#channel = channel;
        // All of them in this turn: nothing new comes between.
        for (const entry of this.#entries) this.#sendAgain(entry, channel);
      },
      (error: unknown) => {
        this.#opening = false;
        // There never will be a channel. What was sent before has an unknown outcome, what was not is not sent.
        for (const entry of this.#entries) {
          this.#forget(entry);
          entry.reject(entry.lost ?? error);
        }
      },
    );
  }

  #sendAgain(entry: Entry, channel: ConfirmChannel): void {
    if (entry.isUnderWay) return;
    if (entry.lost !== undefined && performance.now() - entry.publishedAt > this.#maxAge) {
      this.#forget(entry);
      entry.reject(entry.lost);
    } else {
      this.#send(entry, channel);
    }
  }

  #send(entry: Entry, channel: ConfirmChannel): void {
    entry.wasSent = true;
    entry.isUnderWay = true;
    // The default exchange routes by the queue's name, and that may have changed.
    const routingKey = entry.exchange === '' ? this.#source.queueNamed(entry.routingKey) : entry.routingKey;
    channel.basicPublish(entry.exchange, routingKey, entry.body, entry.options).then(
      () => {
        this.#forget(entry);
        entry.resolve();
      },
      (error: unknown) => {
        if (!this.#entries.has(entry)) return;
        entry.isUnderWay = false;
        if (this.#isWorthAnotherTry(error, entry)) {
          entry.lost = error instanceof PublishOutcomeUnknownError ? error : entry.lost;
          this.#open();
        } else {
          this.#forget(entry);
          // An attempt that did not leave says nothing about those before it.
          entry.reject(isUnsent(error) ? (entry.lost ?? error) : error);
        }
      },
    );
  }

  /**
   * True when the message itself is not to blame: its connection was lost, or its channel was closed over the exchange of
   * another message. A message that might be to blame is not sent again: it would end channel after channel.
   */
  #isWorthAnotherTry(error: unknown, { exchange }: Entry): boolean {
    if (!(error instanceof AmqpError)) return false;
    if (!isUnsent(error) && !(error instanceof PublishOutcomeUnknownError && this.#republish)) return false;
    if (error.method !== 'basic.publish') return error.closedBy !== 'client';
    return (
      / exchange '.*' in vhost /.test(error.replyText ?? '') &&
      error.replyText?.includes(` exchange '${exchange}' in vhost `) === false
    );
  }

  #forget(entry: Entry): void {
    if (this.#entries.delete(entry)) this.#bytes -= entry.bytes;
  }
}

/** The channel had ended before the message could leave. */
function isUnsent(error: unknown): boolean {
  return error instanceof AmqpError && ['CHANNEL_CLOSED', 'CONNECTION_LOST', 'CONNECTION_CLOSED'].includes(error.code);
}

/** The error for a publish that its signal ended. */
function givenUp(
  { exchange, routingKey, wasSent }: Pick<Entry, 'exchange' | 'routingKey' | 'wasSent'>,
  reason: unknown,
): AmqpError {
  const why = reason instanceof AmqpError ? reason.message : 'it was aborted';
  return new AmqpError(
    'ABORTED',
    `The publish to exchange ${quoted(exchange)} with routing key ${quoted(routingKey)} ended before the broker confirmed it: ${why}. ` +
      (wasSent ? 'Whether the broker has the message is unknown.' : 'The message was not sent.'),
    { cause: reason instanceof AmqpError ? reason.cause : reason },
  );
}

function bound(value: number, option: string): number {
  if (Number.isInteger(value) && value >= 0) return value;
  throw new AmqpError('INVALID_OPTION', `${option} has to be an integer of 0 or more.`);
}
