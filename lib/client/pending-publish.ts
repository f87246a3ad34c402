/** One publish, from the call to its outcome. Whether an attempt that failed is the last, its owner decides. */
import { AmqpError, PublishOutcomeUnknownError, type UnroutableError, destination } from '../errors.js';
import type { PublishOptions } from './channel-options.js';
import type { UnconfirmedPublish } from './publisher-confirms.js';

/** Who keeps it until it has its outcome. */
interface PublishOwner {
  /** The broker has confirmed it. False when it was over before. */
  confirmed(publish: PendingPublish): boolean;
  /** It has its outcome. False when it had one before. */
  ended(publish: PendingPublish): boolean;
  /** An attempt failed; see `UnconfirmedPublish.reject`. */
  failed(publish: PendingPublish, error: AmqpError, isInnocent: boolean): void;
}

/** Also what the channel's ledger of confirms holds of it, and a link of its owner's list. */
export class PendingPublish implements UnconfirmedPublish {
  readonly exchange: string;
  routingKey: string;
  readonly messageId: string | undefined;
  readonly mandatory: boolean;
  returned: UnroutableError | undefined = undefined;
  body: string | Uint8Array;
  readonly options: PublishOptions;
  readonly bytes: number;
  readonly publishedAt: number;
  readonly deadline: number;
  /** It was sent at least once. */
  wasSent = false;
  /** It was sent and has no outcome yet. */
  isInFlight = false;
  /** It was sent on a channel that the broker closed over one of several: it is sent alone, which tells whether it was this one. */
  isSuspect = false;
  /** Why the last channel that it was sent on ended without an outcome. */
  lost: PublishOutcomeUnknownError | undefined = undefined;
  before: PendingPublish | undefined = undefined;
  after: PendingPublish | undefined = undefined;
  unlisten: (() => void) | undefined = undefined;
  readonly #owner: PublishOwner;
  readonly #resolve: () => void;
  readonly #reject: (error: unknown) => void;

  constructor(
    owner: PublishOwner,
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options: PublishOptions,
    timeout: number,
    resolve: () => void,
    reject: (error: unknown) => void,
  ) {
    this.#owner = owner;
    this.exchange = exchange;
    this.routingKey = routingKey;
    this.messageId = options.messageId;
    this.mandatory = options.mandatory ?? false;
    this.body = body;
    this.options = options;
    this.bytes = body.length;
    this.publishedAt = performance.now();
    this.deadline = this.publishedAt + timeout;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  /** The broker has confirmed it. */
  resolve(): void {
    if (this.#owner.confirmed(this)) this.#resolve();
  }

  /** The attempt failed; the owner decides whether there is another. */
  reject(error: AmqpError, isInnocent: boolean): void {
    this.#owner.failed(this, error, isInnocent);
  }

  /** It is over. The ledger of confirms may hold on to it, and need not hold on to its body. */
  end(error: unknown): void {
    if (!this.#owner.ended(this)) return;
    this.body = '';
    this.#reject(error);
  }
}

/** Why a signal has fired, to be added to a sentence. */
export function whyOf({ reason }: AbortSignal): string {
  return reason instanceof AmqpError ? reason.message : 'it was aborted';
}

/** The error for a publish that its signal or its deadline ended. */
export function givenUp(
  { exchange, routingKey, wasSent }: Pick<PendingPublish, 'exchange' | 'routingKey' | 'wasSent'>,
  why: string,
  cause?: unknown,
): AmqpError {
  return new AmqpError(
    'ABORTED',
    `The publish to ${destination(exchange, routingKey)} ended before the broker confirmed it: ${why}. ` +
      (wasSent ? 'Whether the broker has the message is unknown.' : 'The message was not sent.'),
    { cause: cause instanceof AmqpError ? cause.cause : cause },
  );
}

/** The channel had ended before the message could leave. */
export function isUnsent(error: unknown): boolean {
  return error instanceof AmqpError && ['CHANNEL_CLOSED', 'CONNECTION_LOST', 'CONNECTION_CLOSED'].includes(error.code);
}

/** The broker closed the channel over one of several publishes, and nothing tells which. */
export function isAnybodys(error: unknown): boolean {
  return error instanceof PublishOutcomeUnknownError && error.method === 'basic.publish';
}
