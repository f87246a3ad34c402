/**
 * A queue: its messages in order, who takes them, and what was handed out and is not settled. Its declaration is checked
 * before, and what leaves it as a dead letter is routed by its virtual host.
 *
 * A message goes to a consumer within the call that makes it ready. What a consumer does from within `deliver` (publish,
 * settle, cancel) is noted, and acted on by the loop that is running.
 */
import type { FieldTable } from '../protocol/field-table.js';
import { accessRefused, resourceLocked } from './broker-error.js';
import { type BrokerMessage, counted } from './broker-message.js';
import type { Clock, Timer } from './clock.js';
import type { DeathReason } from './dead-letter.js';
import type { QueueSettings, QueueType } from './queue-arguments.js';
import { Delivery, type Answer } from './queue-delivery.js';
import type { QueueConsumer, QueueDelivery } from './queue-consumer.js';
import { QueueConsumers } from './queue-consumers.js';
import { ReadyMessages, type StoredMessage } from './ready-messages.js';

export type { QueueConsumer, QueueDelivery } from './queue-consumer.js';

/** What a queue asks of its virtual host. */
export interface QueueHost {
  readonly clock: Clock;
  /** `queue 'x' in vhost '/'` */
  nameOf(kind: 'queue', name: string): string;
  /** The queue has done with a message: it is routed to where its dead letters go, if anywhere. */
  deadLetter(queue: MessageQueue, message: BrokerMessage, reason: DeathReason): void;
  /** The queue is to go, for want of consumers or of use. */
  drop(queue: MessageQueue): void;
  /** True while nothing is to be delivered; the queue is told `run` when that has ended. */
  postpones(queue: MessageQueue): boolean;
  changed(): void;
}

interface QueueIdentity {
  readonly name: string;
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly autoDelete: boolean;
  readonly arguments: FieldTable;
}

export class MessageQueue {
  readonly name: string;
  readonly durable: boolean;
  readonly exclusive: boolean;
  /** It goes with its last consumer. */
  readonly autoDelete: boolean;
  readonly arguments: FieldTable;
  /** @internal What its arguments mean. */
  readonly settings: QueueSettings;
  /** @internal Whose it is, when it is exclusive. */
  readonly owner: object | undefined;
  readonly #host: QueueHost;
  readonly #ready: ReadyMessages;
  readonly #consumers: QueueConsumers;
  #unacked = 0;
  /** The place of the message that came last, and of the one that was put before all others last. */
  #last = 0;
  #first = Number.MIN_SAFE_INTEGER;
  #isRunning = false;
  /** There was something to do while it was running. */
  #isToRunAgain = false;
  #isGone = false;
  /** Some message here had a time to live. */
  #hasTimes = false;
  #expiry: { readonly at: number; readonly timer: Timer } | undefined;
  #disuse: Timer | undefined;

  /** @internal Made by `VirtualHost.declareQueue`. */
  constructor(host: QueueHost, identity: QueueIdentity, settings: QueueSettings, owner: object) {
    this.#host = host;
    this.name = identity.name;
    this.durable = identity.durable;
    this.exclusive = identity.exclusive;
    this.autoDelete = identity.autoDelete;
    this.arguments = identity.arguments;
    this.settings = settings;
    this.owner = identity.exclusive ? owner : undefined;
    this.#ready = new ReadyMessages(settings.maxPriority);
    this.#consumers = new QueueConsumers(settings.singleActiveConsumer);
    this.touch();
  }

  get type(): QueueType {
    return this.settings.type;
  }

  /** Messages that are ready to be taken. */
  get messageCount(): number {
    return this.#ready.count;
  }

  /** Messages that were handed out and are not settled. */
  get unackedCount(): number {
    return this.#unacked;
  }

  get consumerCount(): number {
    return this.#consumers.count;
  }

  // ── taking ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Throws `BrokerError` (403) for the sake of an exclusive consumer. May deliver before it returns. */
  subscribe(consumer: QueueConsumer): void {
    // RabbitMQ's quorum queues take no notice of exclusive consumers.
    const wantsAlone = consumer.exclusive && (this.#consumers.count > 0 || this.settings.singleActiveConsumer);
    if (this.type === 'classic' && (wantsAlone || this.#consumers.hasExclusive)) {
      throw accessRefused(`${this.#host.nameOf('queue', this.name)} in exclusive use`);
    }
    this.#consumers.add(consumer);
    this.#disuse?.cancel();
    this.run();
  }

  /** What it holds stays unsettled. An auto-delete queue goes with its last consumer. */
  unsubscribe(consumer: QueueConsumer): void {
    if (!this.#consumers.remove(consumer)) return;
    if (this.#consumers.count === 0) {
      if (this.autoDelete) {
        this.#host.drop(this);
        return;
      }
      this.touch();
    }
    // The single active consumer has a successor.
    this.run();
  }

  /** A consumer has room again: this one, or, when it is not said which, any. */
  wake(consumer?: QueueConsumer): void {
    this.#consumers.wake(consumer);
    this.run();
  }

  /** The next message; undefined when none is ready. Throws `BrokerError` (405) where consumers alone may take. */
  get({ noAck }: { readonly noAck: boolean }): QueueDelivery | undefined {
    if (this.type === 'quorum' && this.settings.singleActiveConsumer) {
      throw resourceLocked(
        `cannot obtain access to locked ${this.#host.nameOf('queue', this.name)}. ` +
          'basic.get operations are not supported by quorum queues with single active consumer',
      );
    }
    this.touch();
    this.#dropExpired();
    const stored = this.#ready.take();
    if (stored === undefined) return undefined;
    // What stood behind it may have waited too long.
    this.#dropExpired();
    const delivery = this.#delivery(stored, noAck, true);
    this.#settle();
    return delivery;
  }

  /** The messages that are ready, in order, at most `limit` of them; they stay where they are. */
  peek(limit: number): readonly BrokerMessage[] {
    const found: BrokerMessage[] = [];
    for (const { message } of this.#ready) {
      if (found.length >= limit) break;
      found.push(message);
    }
    return found;
  }

  /** Drops the messages that are ready; returns how many they were. */
  purge(): number {
    this.#dropExpired();
    const count = this.#ready.clear();
    this.#host.changed();
    return count;
  }

  // ── for the virtual host ──────────────────────────────────────────────────────────────────────────────────────────

  /** @internal A message that was routed here; false when the queue is full and refuses it. */
  accept(message: BrokerMessage): boolean {
    if (this.#isFull(message)) return false;
    const stored = this.#stored(message);
    const isNext = this.#ready.count === 0 && !this.#isRunning && !this.#host.postpones(this);
    const consumer = isNext ? this.#consumers.next() : undefined;
    if (consumer === undefined) {
      this.#ready.push(stored);
    } else {
      // Not stored at all: a message that may not wait, nor take room, still goes to who is waiting for it.
      this.#hand(stored, consumer);
    }
    this.run();
    return true;
  }

  /** @internal Hands out what is ready to whoever has room, and does what limits and times ask for. */
  run(): void {
    this.#isToRunAgain = true;
    if (this.#isRunning || this.#isGone || this.#host.postpones(this)) return;
    this.#isRunning = true;
    try {
      while (this.#isToRunAgain) {
        this.#isToRunAgain = false;
        this.#dropExpired();
        for (let consumer = this.#next(); consumer !== undefined; consumer = this.#next()) {
          this.#hand(this.#ready.take() as StoredMessage, consumer);
          this.#dropExpired();
        }
        this.#dropSurplus();
      }
    } finally {
      this.#isRunning = false;
    }
    this.#settle();
  }

  /** @internal It was declared again, or asked for: it is in use. */
  touch(): void {
    this.#disuse?.cancel();
    const { expires } = this.settings;
    if (expires === Infinity || this.#consumers.count > 0 || this.#isGone) return;
    this.#disuse = this.#host.clock.after(expires, () => this.#host.drop(this));
  }

  /** @internal It is gone; returns how many messages were ready. Its consumers are told. */
  end(): number {
    this.stop();
    const consumers = this.#consumers.all;
    this.#consumers.clear();
    const count = this.#ready.clear();
    this.#unacked = 0;
    for (const consumer of consumers) consumer.cancelled();
    return count;
  }

  /** @internal Nothing happens here any more. */
  stop(): void {
    this.#isGone = true;
    this.#expiry?.timer.cancel();
    this.#disuse?.cancel();
  }

  /** @internal A delivery has been answered. */
  settled(stored: StoredMessage, how: Answer, isTakerGone: boolean): void {
    if (this.#isGone) return;
    this.#unacked -= 1;
    if (how === 'reject') this.#host.deadLetter(this, stored.message, 'rejected');
    if (how === 'requeue') this.#putBack(stored, isTakerGone);
    else this.#host.changed();
  }

  // ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #next(): QueueConsumer | undefined {
    return this.#ready.count === 0 || this.#isGone ? undefined : this.#consumers.next();
  }

  #hand(stored: StoredMessage, consumer: QueueConsumer): void {
    const wasRunning = this.#isRunning;
    this.#isRunning = true;
    try {
      consumer.deliver(this.#delivery(stored, consumer.noAck, false));
    } finally {
      this.#isRunning = wasRunning;
    }
  }

  #delivery(stored: StoredMessage, noAck: boolean, isGet: boolean): QueueDelivery {
    if (!noAck) this.#unacked += 1;
    // RabbitMQ 3.10 tells of the first time, too, when a message is asked for.
    const isCounted = this.type === 'quorum' && (stored.returns > 0 || isGet);
    const message = isCounted ? counted(stored.message, stored.returns) : stored.message;
    return new Delivery(this, stored, message, this.#ready.count, noAck);
  }

  /** What is left to be done when something has moved. */
  #settle(): void {
    this.#watchExpiry();
    this.#host.changed();
  }

  // ── places ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #stored(message: BrokerMessage): StoredMessage {
    const { maxPriority, messageTtl } = this.settings;
    const { expiration } = message;
    const ttl = expiration === undefined ? messageTtl : Math.min(messageTtl, Number(expiration));
    if (ttl !== Infinity) this.#hasTimes = true;
    return {
      message,
      place: (this.#last += 1),
      priority: maxPriority === 0 ? 0 : Math.min(message.priority, maxPriority),
      expiresAt: ttl === Infinity ? Infinity : this.#host.clock.now() + ttl,
      returns: 0,
    };
  }

  /**
   * A classic queue puts a message back where it was. A quorum queue with a delivery limit puts it before all others, in the
   * order in which they come back; without a limit behind all others, unless its taker is gone. So does RabbitMQ 3.10.
   */
  #putBack(stored: StoredMessage, isTakerGone: boolean): void {
    stored.returns += 1;
    const { type, deliveryLimit } = this.settings;
    if (type === 'classic') {
      this.#ready.insert(stored);
    } else if (stored.returns > deliveryLimit) {
      this.#host.deadLetter(this, stored.message, 'delivery_limit');
    } else if (deliveryLimit === Infinity && !isTakerGone) {
      stored.place = this.#last += 1;
      this.#ready.push(stored);
    } else {
      stored.place = this.#first += 1;
      this.#ready.insert(stored);
    }
    this.run();
  }

  // ── limits and times ──────────────────────────────────────────────────────────────────────────────────────────────

  #isFull(message: BrokerMessage): boolean {
    const { overflow, maxLength, maxLengthBytes, deadLetterExchange, type } = this.settings;
    if (overflow === 'drop-head') return false;
    if (type === 'quorum') {
      // A quorum queue notices that it is over its limit when it is, and knows nothing of reject-publish-dlx.
      return overflow === 'reject-publish' && this.#isOver(maxLength, maxLengthBytes);
    }
    if (this.#ready.count + 1 <= maxLength && this.#ready.bytes + message.body.length <= maxLengthBytes) return false;
    if (overflow === 'reject-publish-dlx' && deadLetterExchange !== undefined) {
      this.#host.deadLetter(this, message, 'maxlen');
    }
    return true;
  }

  #isOver(maxLength: number, maxLengthBytes: number): boolean {
    return this.#ready.count > maxLength || this.#ready.bytes > maxLengthBytes;
  }

  #dropSurplus(): void {
    const { maxLength, maxLengthBytes, overflow, type } = this.settings;
    // What refuses messages drops none, not even when one that comes back is too much.
    if (overflow === 'reject-publish' || (overflow === 'reject-publish-dlx' && type === 'classic')) return;
    while (this.#isOver(maxLength, maxLengthBytes)) this.#bury(this.#ready.take(), 'maxlen');
  }

  #dropExpired(): void {
    if (!this.#hasTimes || this.#ready.count === 0) return;
    const now = this.#host.clock.now();
    for (let stored = this.#ready.takeExpired(now); stored !== undefined; stored = this.#ready.takeExpired(now)) {
      this.#bury(stored, 'expired');
    }
  }

  #bury(stored: StoredMessage | undefined, reason: DeathReason): void {
    if (stored !== undefined) this.#host.deadLetter(this, stored.message, reason);
  }

  /** A timer that is early is left to ring: setting one anew for every message that is taken costs more. */
  #watchExpiry(): void {
    if (!this.#hasTimes || this.#isGone) return;
    const at = this.#ready.nextExpiry;
    if (at >= (this.#expiry?.at ?? Infinity)) return;
    this.#expiry?.timer.cancel();
    const { clock } = this.#host;
    const timer = clock.after(Math.max(0, at - clock.now()), () => {
      this.#expiry = undefined;
      this.run();
    });
    this.#expiry = { at, timer };
  }
}
