/**
 * Exchanges over which the broker has closed a channel. What RabbitMQ took on that channel and had not confirmed has to be sent again;
 * an application that goes on publishing to a missing exchange would have everything else sent again and again with it. So what is
 * published to a suspect waits, and a scout goes ahead of it over a channel apart.
 *
 * ```
 *   refused ──► suspect: what is published waits ──the oldest is sent apart──► refused: with it all that waited by then
 *                  ▲                                       │                          │
 *                  └───────────────────────────────────────┼──────────────────────────┘
 *                                                          └─ any other outcome ─► no suspect: what waits goes the usual way
 * ```
 */
import { type AmqpError, PublishNackedError, PublishRefusedError, UnroutableError } from '../errors.js';
import type { ConfirmChannel } from './channel.js';
import type { PendingPublish } from './pending-publish.js';
import { isAboutTopic } from './refused-publishes.js';

/** The one that is sent ahead. */
interface Scout {
  readonly entry: PendingPublish;
  readonly sentAt: number;
}

/** What it needs of whoever keeps the publishes. */
interface Waiting {
  /** The oldest that waits for a suspect. */
  oldestHeld(): PendingPublish | undefined;
  send(entry: PendingPublish, channel: ConfirmChannel): void;
  /** There is no channel apart to be had. */
  cannotScout(): void;
}

/** As many are remembered; of a suspect that is forgotten the next publish is refused like the first. */
const MOST = 1_000;

export class SuspectExchanges {
  readonly #waiting: Waiting;
  readonly #opened: () => Promise<ConfirmChannel>;
  /** Exchanges, and topics in them; in the order in which they were refused. */
  readonly #names = new Set<string>();
  #scout: Scout | undefined;
  #channel: ConfirmChannel | undefined;
  #isOpening = false;

  /** `opened` opens the channel apart if there is none. */
  constructor(opened: () => Promise<ConfirmChannel>, waiting: Waiting) {
    this.#opened = opened;
    this.#waiting = waiting;
  }

  /** There is none, which is how it should be. */
  get areNone(): boolean {
    return this.#names.size === 0;
  }

  /** What goes to it waits. */
  has(entry: PendingPublish): boolean {
    return this.#names.has(entry.exchange) || this.#names.has(topicOf(entry));
  }

  add(entry: PendingPublish, { replyText = '' }: AmqpError): void {
    this.#names.add(isAboutTopic(replyText) ? topicOf(entry) : entry.exchange);
    const [oldest] = this.#names;
    if (oldest !== undefined && this.#names.size > MOST) this.#names.delete(oldest);
  }

  /** The broker takes what is published to it, or there is no way to find out. */
  clear(entry?: PendingPublish): void {
    if (entry === undefined) this.#names.clear();
    else {
      this.#names.delete(entry.exchange);
      this.#names.delete(topicOf(entry));
    }
    if (this.areNone) this.#leave();
  }

  /** Sends the oldest that waits over the channel apart, one at a time. */
  scout(): void {
    if (this.areNone || this.#isOpening || this.#scout !== undefined) return;
    if (this.#waiting.oldestHeld() === undefined) return;
    this.#isOpening = true;
    this.#opened().then(
      (channel) => {
        this.#isOpening = false;
        this.#channel = channel;
        // It may have been given up meanwhile.
        const entry = this.#waiting.oldestHeld();
        if (entry === undefined) this.#leave();
        else if (!channel.isBlocked) this.#send(entry, channel);
      },
      () => {
        this.#isOpening = false;
        this.clear();
        this.#waiting.cannotScout();
      },
    );
  }

  /** When the scout left, if that is it; it has its outcome. */
  back(entry: PendingPublish): number | undefined {
    if (this.#scout?.entry !== entry) return undefined;
    const { sentAt } = this.#scout;
    this.#scout = undefined;
    return sentAt;
  }

  #send(entry: PendingPublish, channel: ConfirmChannel): void {
    // Before the bytes that may be answered at once.
    this.#scout = { entry, sentAt: performance.now() };
    this.#waiting.send(entry, channel);
    if (entry.isInFlight || this.back(entry) === undefined) return;
    // It was too old to be sent again, or cannot be written.
    this.scout();
  }

  #leave(): void {
    void this.#channel?.close();
    this.#channel = undefined;
  }
}

/** No two exchanges and keys make the same text, unless with line breaks: then one too many is a suspect, which does no harm. */
function topicOf({ exchange, routingKey }: PendingPublish): string {
  return `${exchange}\n${routingKey}`;
}

/** The broker has taken a message, or could have, or refuses it for what it is: its exchange is there. */
export function isAnswer(error: AmqpError | undefined): boolean {
  const answers = [UnroutableError, PublishNackedError, PublishRefusedError];
  return error === undefined || answers.some((answer) => error instanceof answer);
}
