/**
 * A virtual host: exchanges, queues and bindings by name, and the way of a message from a publish to its queues. What the
 * queues do with it, and who may declare what, have files of their own.
 */
import { Bindings } from './bindings.js';
import { accessRefused, notImplemented, preconditionFailed, unlessRefused } from './broker-error.js';
import { type BrokerMessage, distributed } from './broker-message.js';
import { Burials, type DeadLetter } from './burials.js';
import type { Clock, Timer } from './clock.js';
import { deadLettered, isCycle } from './dead-letter.js';
import {
  type ExchangeBinding,
  type ExchangeDeclaration,
  type QueueBinding,
  type QueueDeclaration,
  withoutLineEnds,
} from './declarations.js';
import type { Binding, Exchange } from './exchange.js';
import { checkBindingArguments } from './exchange-routers.js';
import { Exchanges } from './exchanges.js';
import type { DeathReason } from './message-notes.js';
import { MessageQueue, type QueueHost } from './message-queue.js';
import { Queues } from './queues.js';

export type { ExchangeBinding, ExchangeDeclaration, QueueBinding, QueueDeclaration } from './declarations.js';

/** What became of a publish. `rejected`: a queue that is full refuses it, which the publisher hears as basic.nack. */
export type PublishOutcome = 'routed' | 'unroutable' | 'rejected';

/** A message and the names of the queues that it was routed to, each once; they may be gone, or not be there yet. */
export interface RoutedMessage {
  readonly message: BrokerMessage;
  readonly queues: ReadonlySet<string>;
}

/** `owner` is everywhere the connection that asks. What is refused is thrown as `BrokerError`. */
export class VirtualHost implements QueueHost {
  readonly name: string;
  readonly clock: Clock;
  /** Called after messages have moved or been settled, or consumers have changed. */
  onChange: (() => void) | undefined;
  readonly #exchanges: Exchanges;
  readonly #queues = new Queues(this);
  readonly #bindings = new Bindings((exchange) => this.#deleteExchange(exchange));
  readonly #replies = new Map<string, (message: BrokerMessage) => void>();
  readonly #burials: Burials;
  /** How many `together` are running, and the queues that have something to do after the last of them. */
  #held = 0;
  #postponed = new Set<MessageQueue>();

  constructor(name: string, clock: Clock) {
    this.name = name;
    this.clock = clock;
    this.#exchanges = new Exchanges(name);
    this.#burials = new Burials(
      clock,
      (letter) => this.#buryOrDrop(letter),
      () => this.changed(),
    );
  }

  // ── exchanges ─────────────────────────────────────────────────────────────────────────────────────────────────────

  declareExchange(declaration: ExchangeDeclaration): void {
    this.#exchanges.declare({ ...declaration, name: withoutLineEnds(declaration.name) });
  }

  /** Harmless when there is no such exchange. */
  deleteExchange(name: string, { ifUnused }: { readonly ifUnused: boolean }): void {
    const exchange = this.#exchanges.deletable(withoutLineEnds(name));
    if (exchange === undefined) return;
    if (ifUnused && this.#bindings.isUsed(exchange)) {
      throw preconditionFailed(`${this.nameOf('exchange', exchange.name)} in use`);
    }
    this.#deleteExchange(exchange);
  }

  bindExchange({ destination, source, routingKey, arguments: args }: ExchangeBinding): void {
    this.#exchanges.refuseDefault(source);
    this.#exchanges.refuseDefault(destination);
    const from = this.#exchanges.require(source);
    const to = this.#exchanges.require(destination);
    checkBindingArguments(from.type, args);
    this.#bindings.add({ source: from, destination: to, routingKey, arguments: args });
  }

  /** Harmless when there is no such binding. */
  unbindExchange({ destination, source, routingKey, arguments: args }: ExchangeBinding): void {
    this.#exchanges.refuseDefault(source);
    this.#exchanges.refuseDefault(destination);
    const from = this.#exchanges.get(source);
    const to = this.#exchanges.get(destination);
    if (from === undefined || to === undefined) return;
    this.#bindings.remove({ source: from, destination: to, routingKey, arguments: args });
  }

  // ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The queue as it is after the declaration. */
  declareQueue(declaration: QueueDeclaration, owner: object): MessageQueue {
    return this.#queues.declare({ ...declaration, name: withoutLineEnds(declaration.name) }, owner);
  }

  /** Returns how many messages were ready in it; 0 when there is no such queue. */
  deleteQueue(
    name: string,
    { ifUnused, ifEmpty }: { readonly ifUnused: boolean; readonly ifEmpty: boolean },
    owner: object,
  ): number {
    const queue = this.#queues.get(withoutLineEnds(name));
    if (queue === undefined) return 0;
    this.#queues.checkOwner(queue, owner);
    const of = this.nameOf('queue', queue.name);
    if (queue.type === 'quorum' && (ifUnused || ifEmpty)) {
      throw notImplemented(
        `cannot delete ${of}. queue.delete operations with ${ifUnused ? 'if-unused' : 'if-empty'} flag set are not ` +
          'supported by quorum queues',
      );
    }
    if (ifUnused && queue.consumerCount > 0) throw preconditionFailed(`${of} in use`);
    if (ifEmpty && queue.messageCount > 0) throw preconditionFailed(`${of} not empty`);
    return this.#deleteQueue(queue);
  }

  bindQueue({ queue, exchange, routingKey, arguments: args }: QueueBinding, owner: object): void {
    this.#exchanges.refuseDefault(exchange);
    const source = this.#exchanges.require(exchange);
    const destination = this.#queues.require(queue, owner);
    checkBindingArguments(source.type, args);
    this.#bindings.add({ source, destination, routingKey, arguments: args });
  }

  /** Harmless when there is no such binding. */
  unbindQueue({ queue, exchange, routingKey, arguments: args }: QueueBinding, owner: object): void {
    this.#exchanges.refuseDefault(exchange);
    const source = this.#exchanges.get(exchange);
    const destination = this.#queues.get(queue);
    if (source === undefined || destination === undefined) return;
    const binding = { source, destination, routingKey, arguments: args };
    // Whose the queue is counts only where there is something to undo, as with RabbitMQ.
    if (this.#bindings.has(binding)) this.#queues.checkOwner(destination, owner);
    this.#bindings.remove(binding);
  }

  /** The queue of that name. Throws 404 when there is none, 405 when it is another connection's own. */
  queue(name: string, owner: object): MessageQueue {
    return this.#queues.require(name, owner);
  }

  /** The connection is gone: so are its exclusive queues. */
  release(owner: object): void {
    for (const queue of this.#queues.ownedBy(owner)) this.#deleteQueue(queue);
  }

  // ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Throws what `publish` would throw for the sake of the exchange: 404 when it is not there, 403 when it is internal. */
  checkPublish(exchange: string): void {
    this.#publishable(exchange);
  }

  /** Hands a message to the queues that it is routed to, and those hand it to who is ready. */
  publish(message: BrokerMessage): PublishOutcome {
    const { exchange, sent } = this.#admitted(message);
    if (exchange.name === '' && sent.routingKeys.length === 1) return this.#sendTo(sent, sent.routingKey);
    return this.deliver({ message: sent, queues: this.#route(exchange, sent) });
  }

  /**
   * The first half of `publish`, for what is delivered later: bindings count as they are now, and the exchange may go. Replies
   * without a queue leave at once, as they do with RabbitMQ.
   */
  route(message: BrokerMessage): RoutedMessage {
    const { exchange, sent } = this.#admitted(message);
    return { message: sent, queues: this.#route(exchange, sent) };
  }

  /** The second half: those of its queues that are there by now get the message. */
  deliver({ message, queues }: RoutedMessage): PublishOutcome {
    let outcome: PublishOutcome = 'unroutable';
    this.#burials.after(() => {
      for (const name of queues) {
        const queue = this.#queues.get(name);
        if (queue === undefined) continue;
        if (!queue.accept(message)) outcome = 'rejected';
        else if (outcome === 'unroutable') outcome = 'routed';
      }
    });
    return outcome;
  }

  /**
   * Direct reply-to: from now on the default exchange knows this routing key (`amq.rabbitmq.reply-to.…`). What is sent there
   * counts as unroutable all the same, as it does with RabbitMQ.
   */
  replyTo(name: string, deliver: (message: BrokerMessage) => void): Timer {
    this.#replies.set(name, deliver);
    return {
      cancel: () => {
        if (this.#replies.get(name) === deliver) this.#replies.delete(name);
      },
    };
  }

  /** True while somebody awaits replies under that name. */
  hasReplyTo(name: string): boolean {
    return this.#replies.has(name);
  }

  /**
   * Does several things before any queue delivers again: `nack` of many, the end of a channel with its consumers and unsettled
   * messages. So requeued messages are all back before the first of them is handed out, and before dead letters arrive.
   */
  together(run: () => void): void {
    this.#held += 1;
    try {
      run();
    } finally {
      this.#held -= 1;
      if (this.#held === 0) this.#burials.after(() => this.#runPostponed());
    }
  }

  /** Ends what waits for the clock, without telling anybody. */
  close(): void {
    this.onChange = undefined;
    this.#burials.clear();
    for (const queue of this.#queues) queue.stop();
  }

  // ── inspection ────────────────────────────────────────────────────────────────────────────────────────────────────

  get exchanges(): Iterable<Exchange> {
    return this.#exchanges;
  }

  get queues(): Iterable<MessageQueue> {
    return this.#queues;
  }

  /** Those of the default exchange, one for every queue, are not among them. */
  get bindings(): Iterable<Binding> {
    return this.#bindings;
  }

  // ── for the queues ────────────────────────────────────────────────────────────────────────────────────────────────

  nameOf(kind: 'queue' | 'exchange', name: string): string {
    return `${kind} '${name}' in vhost '${this.name}'`;
  }

  deadLetter(queue: MessageQueue, message: BrokerMessage, reason: DeathReason): void {
    if (queue.settings.deadLetterExchange === undefined) return;
    this.#burials.add({ queue, message, reason });
    if (this.#held === 0) this.#burials.after(() => undefined);
  }

  drop(queue: MessageQueue): void {
    this.#deleteQueue(queue);
  }

  postpones(queue: MessageQueue): boolean {
    if (this.#held === 0) return false;
    this.#postponed.add(queue);
    return true;
  }

  changed(): void {
    this.onChange?.();
  }

  // ── routing ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #publishable(name: string): Exchange {
    const exchange = this.#exchanges.require(name);
    if (exchange.internal) throw accessRefused(`cannot publish to internal ${this.nameOf('exchange', name)}`);
    return exchange;
  }

  /** What of a message is routed, and from where. Throws for what may not go there; its properties are the publisher's to check. */
  #admitted(message: BrokerMessage): { readonly exchange: Exchange; readonly sent: BrokerMessage } {
    const exchange = this.#publishable(message.exchange);
    return { exchange, sent: distributed(message) };
  }

  /** The way of most messages: to one queue by its name. */
  #sendTo(message: BrokerMessage, key: string): PublishOutcome {
    const queue = this.#queues.get(key);
    if (queue !== undefined) return queue.accept(message) ? 'routed' : 'rejected';
    this.#replies.get(key)?.(message);
    return 'unroutable';
  }

  /** Every queue once, whatever ways lead there; exchanges are passed once, so that circles of them end. */
  #route(start: Exchange, message: BrokerMessage): Set<string> {
    const queues = new Set<string>();
    const seen = new Set([start]);
    // A set is walked through what is added on the way, too.
    for (const exchange of seen) {
      const isFollowed = exchange.name === '' ? this.#byName(message, queues) : follow(exchange, message, queues, seen);
      const { alternate } = exchange;
      const next = isFollowed || alternate === undefined ? undefined : this.#exchanges.get(alternate);
      if (next !== undefined) seen.add(next);
    }
    return queues;
  }

  /** Whether there is such a queue is asked when it is to get the message. */
  #byName(message: BrokerMessage, queues: Set<string>): boolean {
    for (const key of message.routingKeys) {
      const reply = this.#replies.get(key);
      if (reply === undefined) queues.add(key);
      else reply(message);
    }
    return true;
  }

  /**
   * Nobody who could be told is waiting for a dead letter: what goes wrong on its way, often within a timer, costs that letter,
   * and not the process.
   */
  #buryOrDrop(letter: DeadLetter): void {
    try {
      this.#bury(letter);
    } catch (error) {
      const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
      process.emitWarning(
        `A dead letter of ${this.nameOf('queue', letter.queue.name)} was dropped on its way. ${what}`,
        {
          code: 'DEAD_LETTER_DROPPED',
        },
      );
    }
  }

  #bury({ queue, message, reason }: DeadLetter): void {
    const { deadLetterExchange, deadLetterRoutingKey } = queue.settings;
    const exchange = deadLetterExchange === undefined ? undefined : this.#exchanges.get(deadLetterExchange);
    if (exchange === undefined) return;
    const letter = deadLettered(message, {
      reason,
      queue: queue.name,
      time: this.clock.now(),
      exchange: exchange.name,
      routingKey: deadLetterRoutingKey,
    });
    // Headers that cannot be read are nothing that whoever is at work just now could be blamed for.
    for (const name of unlessRefused(() => this.#route(exchange, letter)) ?? []) {
      if (reason === 'rejected' || !isCycle(letter, name)) this.#queues.get(name)?.accept(letter);
    }
  }

  // ── the end of things ─────────────────────────────────────────────────────────────────────────────────────────────

  #deleteExchange(exchange: Exchange): void {
    this.#exchanges.delete(exchange);
    this.#bindings.removeEnd(exchange);
  }

  #deleteQueue(queue: MessageQueue): number {
    this.#queues.delete(queue);
    this.#bindings.removeEnd(queue);
    const count = queue.end();
    this.changed();
    return count;
  }

  #runPostponed(): void {
    const queues = this.#postponed;
    this.#postponed = new Set();
    for (const queue of queues) queue.run();
  }
}

/** Adds where the message goes from here; false when no binding leads there. */
function follow(exchange: Exchange, message: BrokerMessage, queues: Set<string>, exchanges: Set<Exchange>): boolean {
  let isFollowed = false;
  const keys = exchange.heedsKeys ? message.routingKeys : [message.routingKey];
  for (const key of keys) {
    for (const { destination } of exchange.follow(key, message)) {
      isFollowed = true;
      if (destination instanceof MessageQueue) queues.add(destination.name);
      else exchanges.add(destination);
    }
  }
  return isFollowed;
}
