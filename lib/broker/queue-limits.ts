/** How much a queue holds, and whether it is the oldest messages that have to go when it is more, or the newest that may not come. */
import type { BrokerMessage } from './broker-message.js';
import type { QueueSettings } from './queue-arguments.js';
import type { ReadyMessages } from './ready-messages.js';

/** A quorum queue that has refused messages takes them again when it is down to this part of its limits. */
const RELIEF = 0.8;

export class QueueLimits {
  readonly #settings: QueueSettings;
  readonly #ready: ReadyMessages;
  /** Of a quorum queue. */
  #isRefusing = false;

  constructor(settings: QueueSettings, ready: ReadyMessages) {
    this.#settings = settings;
    this.#ready = ready;
  }

  /** Whether the message may not come in. */
  refuse(message: BrokerMessage): boolean {
    const { overflow, type, maxLength, maxLengthBytes } = this.#settings;
    if (overflow === 'drop-head') return false;
    // RabbitMQ asks publishers to stop, which dead letters do not hear.
    if (type === 'quorum') return this.#isRefusing && message.notes.deaths.length === 0;
    return this.#ready.count + 1 > maxLength || this.#ready.bytes + message.body.length > maxLengthBytes;
  }

  /** Whether the next message has to go. What refuses messages drops none, not even when one that comes back is too much. */
  get haveSurplus(): boolean {
    return this.#settings.overflow === 'drop-head' && this.#isOver(1);
  }

  /** Messages have come or gone. A quorum queue notices that it is over its limit when it is. */
  review(): void {
    if (this.#settings.type === 'classic' || this.#settings.overflow === 'drop-head') return;
    if (this.#isOver(1)) this.#isRefusing = true;
    else if (!this.#isOver(RELIEF)) this.#isRefusing = false;
  }

  #isOver(part: number): boolean {
    const { maxLength, maxLengthBytes } = this.#settings;
    return this.#ready.count > Math.trunc(maxLength * part) || this.#ready.bytes > Math.trunc(maxLengthBytes * part);
  }
}
