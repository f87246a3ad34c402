/**
 * A queue: its messages in order, who takes them, and what was handed out and is not settled. Its declaration is checked
 * before, and what leaves it as a dead letter is routed by its virtual host.
 *
 * A message goes to a consumer within the call that makes it ready. What a consumer does from within `deliver` (publish,
 * settle, cancel) is noted, and acted on by the loop that is running.
 */
import type { FieldTable } from '../protocol/field-table.js';
import { accessRefused, resourceLocked } from './broker-error.js';
import { type BrokerMessage, changed, counted } from './broker-message.js';
import { ClassicMessages } from './classic-messages.js';
import type { Clock, Timer } from './clock.js';
import type { DeathReason } from './message-notes.js';
import type { QueueSettings, QueueType } from './queue-arguments.js';
import { Delivery, type Answer } from './queue-delivery.js';
import type { QueueConsumer, QueueDelivery } from './queue-consumer.js';
import { QueueConsumers } from './queue-consumers.js';
import { QueueLimits } from './queue-limits.js';
import { QuorumMessages } from './quorum-messages.js';
import type { ReadyMessages, StoredMessage } from './ready-messages.js';

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
  readonly #limits: QueueLimits;
  readonly #consumers: QueueConsumers;
  #unacked = 0;
  /** The place of the message that came last. */
  #last = 0;
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
    const isQuorum = settings.type === 'quorum';
    this.#ready = isQuorum ? new QuorumMessages() : new ClassicMessages(settings.maxPriority);
    this.#limits = new QueueLimits(settings, this.#ready);
    this.#consumers = new QueueConsumers(settings.singleActiveConsumer, isQuorum);
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
    const delivery = this.#delivery(stored, noAck);
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
    this.#settle();
    return count;
  }

  // ── for the virtual host ──────────────────────────────────────────────────────────────────────────────────────────

  /** @internal A message that was routed here; false when the queue is full and refuses it. */
  accept(message: BrokerMessage): boolean {
    if (this.#limits.refuse(message)) {
      if (this.settings.overflow === 'reject-publish-dlx') this.#host.deadLetter(this, message, 'maxlen');
      return false;
    }
    const stored = this.#stored(message);
    // A message that may not wait does not wait for what is done together with it, either.
    const isIdle = !this.#isRunning && (!this.#host.postpones(this) || this.#isExpired(stored));
    const consumer = isIdle && this.#ready.count === 0 ? this.#consumers.next() : undefined;
    if (consumer === undefined) {
      this.#ready.push(stored);
      // What is too much goes as such, also where it has come too late.
      if (isIdle) this.#dropSurplus();
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
        // Who is first now may have waited too long.
        this.#dropExpired();
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
    const { taker } = stored;
    stored.taker = undefined;
    const hasSuccessor = taker !== undefined && this.#consumers.settled(taker);
    if (how === 'reject' || isTakerGone) stored.failures += 1;
    if (how === 'reject') this.#bury(stored, 'rejected');
    if (how === 'requeue') this.#putBack(stored, isTakerGone);
    else this.#host.changed();
    if (hasSuccessor) this.run();
  }

  // ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #next(): QueueConsumer | undefined {
    return this.#ready.count === 0 || this.#isGone ? undefined : this.#consumers.next();
  }

  #hand(stored: StoredMessage, consumer: QueueConsumer): void {
    const wasRunning = this.#isRunning;
    this.#isRunning = true;
    try {
      if (!consumer.noAck) {
        stored.taker = consumer;
        this.#consumers.took(consumer);
      }
      consumer.deliver(this.#delivery(stored, consumer.noAck));
    } finally {
      this.#isRunning = wasRunning;
    }
  }

  #delivery(stored: StoredMessage, noAck: boolean): QueueDelivery {
    if (!noAck) this.#unacked += 1;
    // RabbitMQ 4.0 tells of failures in other queues, until the message has come back to this one.
    const deliveries = stored.returns > 0 ? stored.returns : stored.failures;
    const isTold = this.type === 'quorum' && deliveries > 0;
    const message = isTold ? counted(stored.message, deliveries) : stored.message;
    return new Delivery(this, stored, message, deliveries > 0, this.#ready.count, noAck);
  }

  /** What is left to be done when something has moved. */
  #settle(): void {
    this.#limits.review();
    this.#watchExpiry();
    this.#host.changed();
  }

  // ── places ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #stored(message: BrokerMessage): StoredMessage {
    const { type, maxPriority, messageTtl } = this.settings;
    const { expiration, priority, notes } = message;
    const ttl = expiration === undefined ? messageTtl : Math.min(messageTtl, Number(expiration));
    if (ttl !== Infinity) this.#hasTimes = true;
    return {
      message,
      place: (this.#last += 1),
      priority: type === 'quorum' ? priority : Math.min(priority, maxPriority),
      expiresAt: ttl === Infinity ? Infinity : this.#host.clock.now() + ttl,
      returns: 0,
      failures: type === 'quorum' ? notes.failures : 0,
      taker: undefined,
    };
  }

  #putBack(stored: StoredMessage, isTakerGone: boolean): void {
    stored.returns += 1;
    const { type, deliveryLimit } = this.settings;
    if (type === 'quorum' && stored.returns > deliveryLimit) {
      this.#bury(stored, 'delivery_limit');
    } else if (type === 'quorum' && deliveryLimit === Infinity && !isTakerGone) {
      // Without a limit, RabbitMQ makes a new message of it, of low priority.
      stored.place = this.#last += 1;
      stored.priority = 0;
      this.#ready.push(stored);
    } else {
      this.#ready.putBack(stored);
      // A classic queue looks at its limits before it hands out what came back, a quorum queue after that.
      if (type === 'classic') this.#dropSurplus();
    }
    this.run();
  }

  // ── limits and times ──────────────────────────────────────────────────────────────────────────────────────────────

  #dropSurplus(): void {
    while (this.#limits.haveSurplus) this.#bury(this.#ready.take(), 'maxlen');
  }

  #isExpired({ expiresAt }: StoredMessage): boolean {
    return expiresAt <= this.#host.clock.now();
  }

  #dropExpired(): void {
    if (!this.#hasTimes || this.#ready.count === 0) return;
    const now = this.#host.clock.now();
    for (let stored = this.#ready.takeExpired(now); stored !== undefined; stored = this.#ready.takeExpired(now)) {
      this.#bury(stored, 'expired');
    }
  }

  #bury(stored: StoredMessage | undefined, reason: DeathReason): void {
    if (stored === undefined) return;
    const { message, failures } = stored;
    // A classic queue does not count them, and keeps the note that is there.
    const isNoted = this.type === 'classic' || failures === message.notes.failures;
    this.#host.deadLetter(this, isNoted ? message : changed(message, { notes: { failures } }), reason);
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
