/** What a channel takes from queues: its consumers, basic.get, prefetch, and the answers to what was delivered. */
import { randomBytes } from 'node:crypto';
import type { MethodArgs } from '../protocol/methods.js';
import type { FieldTable } from '../protocol/field-table.js';
import { fieldTypeOf, integerOf } from './argument-values.js';
import { BrokerError, notImplemented, preconditionFailed } from './broker-error.js';
import type { BrokerMessage } from './broker-message.js';
import { ChannelConsumer, type ConsumerChannel, Prefetch } from './channel-consumer.js';
import type { ChannelLine } from './channel-line.js';
import type { Timer } from './clock.js';
import { Ledger, type Unsettled } from './ledger.js';
import type { MessageQueue, QueueDelivery } from './message-queue.js';
import { REPLY_TO, replyAddress } from './reply-to.js';

type Entry = Unsettled<ChannelConsumer>;
/** What becomes of a delivery. */
type Verdict = 'ack' | 'reject' | 'requeue';

interface ReplyConsumer {
  readonly tag: string;
  readonly address: string;
  readonly registration: Timer;
}

export class ChannelDeliveries implements ConsumerChannel {
  readonly prefetch = new Prefetch(0);
  readonly #line: ChannelLine;
  readonly #consumers = new Map<string, ChannelConsumer>();
  readonly #ledger = new Ledger<ChannelConsumer>();
  #reply: ReplyConsumer | undefined;
  /** For consumers that are still to come. */
  #consumerPrefetch = 0;
  /** Answers that wait for tx.commit; undefined without tx.select. */
  #uncommitted: { readonly verdict: Verdict; readonly entries: readonly Entry[] }[] | undefined;

  constructor(line: ChannelLine) {
    this.#line = line;
  }

  get hasRoom(): boolean {
    return this.#line.connection.hasRoom;
  }

  get consumers(): Iterable<ChannelConsumer> {
    return this.#consumers.values();
  }

  get consumerCount(): number {
    return this.#consumers.size + (this.#reply === undefined ? 0 : 1);
  }

  get unsettledCount(): number {
    return this.#ledger.size;
  }

  /** Where replies come to this channel. */
  get replyAddress(): string | undefined {
    return this.#reply?.address;
  }

  qos({ prefetchSize, prefetchCount, global }: MethodArgs<'basic.qos'>): void {
    if (prefetchSize !== 0) throw notImplemented(`prefetch_size!=0 (${prefetchSize})`);
    if (!global) this.#consumerPrefetch = prefetchCount;
    // RabbitMQ has one of its own for consumers lift the one that they share.
    this.prefetch.limit = global ? prefetchCount : 0;
    this.#line.reply('basic.qos-ok', {});
    this.wakeAll();
  }

  consume(args: MethodArgs<'basic.consume'>, named: (queue: string) => MessageQueue): void {
    const { noAck, exclusive, noWait } = args;
    const tag = args.consumerTag === '' ? `amq.ctag-${randomBytes(16).toString('base64url')}` : args.consumerTag;
    if (args.queue === REPLY_TO) {
      this.#consumeReplies(tag, noAck, noWait);
      return;
    }
    if (this.#consumers.has(tag)) {
      throw new BrokerError('connection', 530, `NOT_ALLOWED - attempt to reuse consumer tag '${tag}'`);
    }
    const queue = named(args.queue);
    const { owner, virtualHost } = this.#line.connection;
    if (queue.type === 'quorum' && this.prefetch.limit > 0) {
      throw notImplemented(`queue '${queue.name}' in vhost '${virtualHost.name}' does not support global qos`);
    }
    const consumer = new ChannelConsumer(this, queue, {
      tag,
      noAck,
      exclusive,
      priority: priorityOf(args.arguments, queue, virtualHost.name),
      owner,
      prefetch: this.#consumerPrefetch,
    });
    queue.subscribe(consumer);
    this.#consumers.set(tag, consumer);
    if (!noWait) this.#line.reply('basic.consume-ok', { consumerTag: tag });
    consumer.start();
  }

  #consumeReplies(tag: string, noAck: boolean, noWait: boolean): void {
    if (this.#reply !== undefined) throw preconditionFailed('reply consumer already set');
    if (!noAck) throw preconditionFailed('reply consumer cannot acknowledge');
    const address = replyAddress();
    const registration = this.#line.connection.virtualHost.replyTo(address, (message) => {
      this.#deliver(tag, this.#ledger.nextTag(), false, message);
    });
    this.#reply = { tag, address, registration };
    if (!noWait) this.#line.reply('basic.consume-ok', { consumerTag: tag });
  }

  cancel({ consumerTag, noWait }: MethodArgs<'basic.cancel'>): void {
    const consumer = this.#consumers.get(consumerTag);
    this.#consumers.delete(consumerTag);
    if (this.#reply?.tag === consumerTag) this.#endReplies();
    consumer?.queue.unsubscribe(consumer);
    if (!noWait) this.#line.reply('basic.cancel-ok', { consumerTag });
  }

  cancelledByBroker(consumer: ChannelConsumer): void {
    if (this.#consumers.get(consumer.tag) !== consumer) return;
    this.#consumers.delete(consumer.tag);
    const { number, connection } = this.#line;
    if (!connection.notifiesOfCancel) return;
    connection.afterwards(() => {
      connection.outbox.method(number, 'basic.cancel', { consumerTag: consumer.tag, noWait: true });
    });
  }

  delivered(consumer: ChannelConsumer, delivery: QueueDelivery): void {
    const tag = this.#ledger.nextTag();
    if (!consumer.noAck) this.#ledger.add({ tag, delivery, holder: consumer });
    this.#deliver(consumer.tag, tag, delivery.redelivered, delivery.message);
  }

  #deliver(consumerTag: string, tag: number, redelivered: boolean, message: BrokerMessage): void {
    this.#line.connection.outbox.deliver(this.#line.number, consumerTag, tag, redelivered, message);
  }

  get(queue: MessageQueue, noAck: boolean): void {
    const { number, connection } = this.#line;
    const delivery = queue.get({ noAck });
    if (delivery === undefined) {
      connection.outbox.method(number, 'basic.get-empty', {});
      return;
    }
    const { message, redelivered, remaining } = delivery;
    const { exchange, routingKey } = message;
    const tag = this.#ledger.nextTag();
    if (!noAck) this.#ledger.add({ tag, delivery, holder: undefined });
    const args = { deliveryTag: tag, redelivered, exchange, routingKey, messageCount: remaining };
    connection.outbox.content(number, 'basic.get-ok', args, message);
  }

  /** basic.ack, nack and reject. Throws `BrokerError` (406) for a tag that is not outstanding. */
  settle(tag: number, multiple: boolean, verdict: Verdict): void {
    const entries = this.#ledger.take(tag, multiple);
    if (entries === undefined) throw preconditionFailed(`unknown delivery tag ${tag}`);
    if (this.#uncommitted === undefined) this.#carryOut(verdict, entries);
    else this.#uncommitted.push({ verdict, entries });
  }

  /** Everything outstanding goes back to its queue, to be delivered again, here too. */
  recover(): void {
    this.#carryOut('requeue', this.#ledger.takeAll());
  }

  #carryOut(verdict: Verdict, entries: readonly Entry[]): void {
    const { virtualHost } = this.#line.connection;
    const [only] = entries;
    // What comes back is for whoever had it, too: together with the room that it has left there.
    if (only !== undefined && entries.length === 1 && verdict === 'ack') this.#settleOne(verdict, only);
    else if (only !== undefined)
      virtualHost.together(() => entries.forEach((entry) => this.#settleOne(verdict, entry)));
  }

  #settleOne(verdict: Verdict, { delivery, holder }: Entry): void {
    const channelHasRoom = holder !== undefined && this.prefetch.release();
    const holderHasRoom = holder?.settled() === true;
    delivery[verdict]();
    if (channelHasRoom) this.wakeAll();
    else if (holderHasRoom) holder.queue.wake(holder);
  }

  /** There may be room again for whichever consumer. */
  wakeAll(): void {
    for (const consumer of [...this.#consumers.values()]) consumer.queue.wake(consumer);
  }

  selectTransactions(): void {
    this.#uncommitted ??= [];
  }

  /** Carries out the answers that were held back. */
  commit(): void {
    const uncommitted = this.#uncommitted ?? [];
    this.#uncommitted = [];
    for (const { verdict, entries } of uncommitted) this.#carryOut(verdict, entries);
  }

  /** What was answered is outstanding again. */
  rollback(): void {
    const uncommitted = this.#uncommitted ?? [];
    this.#uncommitted = [];
    this.#ledger.putBack(uncommitted.flatMap(({ entries }) => entries));
  }

  /** The channel is over: no more deliveries. */
  unsubscribeAll(): void {
    const consumers = [...this.#consumers.values()];
    this.#consumers.clear();
    this.#endReplies();
    for (const consumer of consumers) consumer.queue.unsubscribe(consumer);
  }

  /** The channel is over: what was not settled goes back. */
  requeueAll(): void {
    this.rollback();
    for (const { delivery } of this.#ledger.takeAll()) delivery.requeue(true);
  }

  #endReplies(): void {
    this.#reply?.registration.cancel();
    this.#reply = undefined;
  }
}

/** Throws on arguments that the queue does not take; those that it does not know do nothing. */
function priorityOf(args: FieldTable, queue: MessageQueue, virtualHost: string): number {
  if (args['x-stream-offset'] !== undefined) {
    throw preconditionFailed(
      `invalid arg 'x-stream-offset' for queue '${queue.name}' in vhost '${virtualHost}' of queue type rabbit_${queue.type}_queue`,
    );
  }
  const priority = args['x-priority'];
  if (priority === undefined) return 0;
  const value = integerOf(priority);
  if (value !== undefined) return value;
  throw preconditionFailed(
    `invalid arg 'x-priority' for queue '${queue.name}' in vhost '${virtualHost}': "expected integer, got ${fieldTypeOf(priority)}"`,
  );
}
