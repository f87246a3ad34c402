/**
 * What is delivered on one channel: its consumers, what they and basic.get receive, and the one answer to each message. Which
 * of the answers can be said together is the ledger's; how a request is sent and how the channel ends are the channel's.
 */
import { types } from 'node:util';
import { AmqpError, printable } from '../errors.js';
import type { Content } from '../protocol/content.js';
import type { MethodArgs, MethodName, Reply, RequestName } from '../protocol/methods.js';
import { STREAM_OFFSET } from '../protocol/stream-offset.js';
import type { ChannelLine } from './channel-line.js';
import type { ConsumerCallbacks, NoWaitOptions, RequestOptions } from './channel-options.js';
import { DeliveryLedger } from './delivery-ledger.js';
import { type Answer, Message, type Settler } from './message.js';
import type { LateWriter } from './outbox.js';
import type { Answered } from './pending-requests.js';
import { bounded, isEndedWait } from './request-bounds.js';
import { orAborted } from './wait.js';

/** What the deliveries need of their channel. */
export interface DeliveringChannel {
  readonly isOpen: boolean;
  readonly hasEnded: boolean;
  send<N extends MethodName>(name: N, args: MethodArgs<N>): void;
  call<N extends RequestName>(
    name: N,
    args: MethodArgs<N>,
    consumerTag?: string,
    noted?: (answer: Answered<N>) => void,
  ): Promise<Answered<N>>;
  request<N extends RequestName>(
    name: N,
    args: MethodArgs<N>,
    options: RequestOptions | undefined,
  ): Promise<Reply<N>['args']>;
}

interface ConsumerRecord {
  callbacks: ConsumerCallbacks;
  readonly noAck: boolean;
  /** Nothing of a stream can be put back or rejected: RabbitMQ before 4.0 closes the connection over it (540). */
  readonly isStream: boolean;
  /** Settles with the answer to basic.consume; undefined when that has come. */
  started: Promise<unknown> | undefined;
  /** Cancelled without an answer: what still comes goes back. */
  isEnded: boolean;
}

/** What `get` resolves to. */
interface Gotten {
  readonly message: Message;
  readonly messageCount: number;
}

export class ChannelDeliveries implements Settler, LateWriter {
  /** The number of the channel. */
  readonly #number: number;
  readonly #line: ChannelLine;
  readonly #channel: DeliveringChannel;
  readonly #consumers = new Map<string, ConsumerRecord>();
  readonly #ledger = new DeliveryLedger();
  /** Tells the broker of every answer that it may send more. */
  readonly #streamSettler: Settler = {
    settle: (_answer, deliveryTag) => this.settle('ack', deliveryTag),
    pauseReading: () => this.pauseReading(),
  };
  #onSettled: (() => void)[] = [];

  constructor(number: number, line: ChannelLine, channel: DeliveringChannel) {
    this.#number = number;
    this.#line = line;
    this.#channel = channel;
  }

  /** Resolves when every message is answered, or the channel has ended. */
  async allSettled(signal?: AbortSignal): Promise<void> {
    if (this.#ledger.outstanding === 0 || this.#channel.hasEnded) return;
    const settled = new Promise<void>((resolve) => {
      this.#onSettled.push(resolve);
    });
    await orAborted(settled, signal);
  }

  #tellSettled(): void {
    for (const resolve of this.#onSettled.splice(0)) resolve();
  }

  /** The channel has ended, and the broker has taken everything back. */
  ended(): void {
    this.#consumers.clear();
    this.#tellSettled();
  }

  // ── consumers ─────────────────────────────────────────────────────────────────────────────────────────────────────

  hasConsumer(consumerTag: string): boolean {
    return this.#consumers.get(consumerTag)?.isEnded === false;
  }

  async consume(
    callbacks: ConsumerCallbacks,
    args: MethodArgs<'basic.consume'>,
    options?: RequestOptions,
  ): Promise<void> {
    const { consumerTag, noAck, noWait } = args;
    let started: Promise<unknown> | undefined;
    const start = (): Promise<unknown> => {
      // Registered first: deliveries may come in the same chunk as consume-ok.
      const isStream = args.arguments[STREAM_OFFSET] !== undefined;
      const record: ConsumerRecord = { callbacks, noAck, isStream, started: undefined, isEnded: false };
      this.#consumers.set(consumerTag, record);
      started = noWait ? this.#sent('basic.consume', args) : this.#channel.call('basic.consume', args, consumerTag);
      const answered = (): void => {
        record.started = undefined;
      };
      record.started = started.then(answered, answered);
      return started;
    };
    try {
      await this.#within('basic.consume', options, start);
    } catch (error) {
      if (started !== undefined && isEndedWait(error)) this.#endWhenStarted(consumerTag, started);
      else this.#consumers.delete(consumerTag);
      throw error;
    }
  }

  /** Nobody waits for this consumer any more: what it gets goes back, and it is cancelled as soon as it has started. */
  #endWhenStarted(consumerTag: string, started: Promise<unknown>): void {
    const record = this.#consumers.get(consumerTag);
    if (record !== undefined) record.callbacks = GIVE_BACK;
    started.then(
      () => {
        this.cancel(consumerTag, { noWait: true }).catch(() => undefined);
      },
      () => this.#consumers.delete(consumerTag),
    );
  }

  async #sent<N extends MethodName>(name: N, args: MethodArgs<N>): Promise<void> {
    this.#channel.send(name, args);
    return Promise.resolve();
  }

  async cancel(consumerTag: string, { noWait = false, ...options }: NoWaitOptions): Promise<void> {
    await this.#within('basic.cancel', options, async () => {
      // RabbitMQ closes the connection (541) over the cancel of a consumer that it has not confirmed. One that runs is cancelled at
      // once: what is given back after the call would be delivered to it again.
      const started = this.#consumers.get(consumerTag)?.started;
      if (started !== undefined) await started;
      if (noWait) this.#channel.send('basic.cancel', { consumerTag, noWait });
      else await this.#channel.call('basic.cancel', { consumerTag, noWait }, consumerTag);
      const record = this.#consumers.get(consumerTag);
      if (!noWait || record === undefined) this.#consumers.delete(consumerTag);
      else this.#consumers.set(consumerTag, { ...record, isEnded: true, callbacks: GIVE_BACK });
    });
  }

  /** basic.cancel of the broker. */
  cancelledByServer({ consumerTag, noWait }: MethodArgs<'basic.cancel'>): void {
    const consumer = this.#consumers.get(consumerTag);
    this.#consumers.delete(consumerTag);
    if (!noWait) this.#line.send(this.#number, 'basic.cancel-ok', { consumerTag });
    try {
      this.#watch(consumer?.callbacks.onCancel?.(consumerTag));
    } catch (error) {
      this.#line.callbackFailed(error);
    }
  }

  /** An answer within its bounds, see `bounded`. */
  async #within<T>(name: MethodName, options: RequestOptions | undefined, ask: () => Promise<T>): Promise<T> {
    return await bounded(name, this.#line.requestTimeout, options, ask);
  }

  // ── what comes ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** basic.deliver. */
  deliver(args: MethodArgs<'basic.deliver'>, content: Content): void {
    const consumer = this.#consumers.get(args.consumerTag);
    if (consumer === undefined) {
      // Nobody knows whether it wants an answer: the broker takes it back when the channel closes.
      this.#ledger.sayAlone();
      return;
    }
    const { consumerTag, deliveryTag } = args;
    const { callbacks, noAck, isStream } = consumer;
    const settler = isStream ? this.#streamSettler : this;
    this.#line.metrics.delivered += 1;
    if (!noAck) this.#ledger.delivered(deliveryTag);
    if (content.isTooLarge) {
      // The publisher's fault, and one message's: put back, it would come again for ever.
      if (!noAck) settler.settle('discard', deliveryTag);
      const error = this.#tooLarge(content, args.routingKey);
      if (callbacks.onTooLarge === undefined) this.#line.callbackFailed(error);
      else callbacks.onTooLarge(new Message(args, content, this, consumerTag, true), error);
      return;
    }
    const message = new Message(args, content, settler, consumerTag, noAck);
    // Without a function around it: this is run for every message.
    try {
      this.#watch(callbacks.onMessage(message));
    } catch (error) {
      this.#line.callbackFailed(error);
    }
    // Whoever has not answered keeps it, for how long nobody knows: then not with the chunk that it came in.
    if (!message.settled || noAck) content.keep();
  }

  /** A callback is often an async function: what it rejects with would end the process. */
  #watch(returned: unknown): void {
    if (typeof returned === 'object' && types.isPromise(returned)) returned.catch(this.#line.callbackFailed);
  }

  async get(queue: string, noAck: boolean, options?: RequestOptions): Promise<Gotten | undefined> {
    let got: Promise<Gotten | undefined> | undefined;
    const note = ({ method }: Answered<'basic.get'>): void => {
      if (!noAck && method.name === 'basic.get-ok') this.#ledger.delivered(method.args.deliveryTag);
    };
    const get = async (): Promise<Gotten | undefined> => {
      const answered = this.#channel.call('basic.get', { queue, noAck }, undefined, note);
      got = answered.then((answer) => this.#gotten(answer, noAck));
      return await got;
    };
    try {
      return await this.#within('basic.get', options, get);
    } catch (error) {
      // A message that comes when nobody waits for it any more goes back.
      if (isEndedWait(error)) {
        got?.then(
          (late) => late?.message.nack(),
          () => undefined,
        );
      }
      throw error;
    }
  }

  #gotten({ method, content }: Answered<'basic.get'>, noAck: boolean): Gotten | undefined {
    if (method.name !== 'basic.get-ok' || content === undefined) return undefined;
    this.#line.metrics.delivered += 1;
    if (content.isTooLarge) {
      if (!noAck) this.settle('discard', method.args.deliveryTag);
      throw this.#tooLarge(content, method.args.routingKey);
    }
    content.keep();
    return {
      message: new Message(method.args, content, this, undefined, noAck),
      messageCount: method.args.messageCount,
    };
  }

  #tooLarge({ size }: Content, routingKey: string): AmqpError {
    return new AmqpError(
      'MESSAGE_TOO_LARGE',
      `A message of ${size} bytes with routing key '${printable(routingKey)}' was rejected: the limit is ` +
        `${this.#line.maxMessageSize} (maxMessageSize). Raise it, or send less in one message.`,
    );
  }

  // ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The one answer of a `Message`. */
  settle(answer: Answer, deliveryTag: number, method: 'basic.nack' | 'basic.reject' = 'basic.reject'): boolean {
    if (!this.#channel.isOpen || !this.#ledger.isAwaiting(deliveryTag)) return false;
    this.#line.metrics[COUNTED_AS[answer]] += 1;
    if (answer === 'ack') {
      const isFirst = !this.#ledger.hasAcks;
      if (!this.#ledger.ack(deliveryTag)) this.#line.ack(this.#number, deliveryTag, false);
      else if (isFirst) this.#line.writeLate(this);
    } else {
      this.#ledger.settle(deliveryTag);
      const requeue = answer === 'requeue';
      if (method === 'basic.reject') this.#line.send(this.#number, method, { deliveryTag, requeue });
      else this.#line.send(this.#number, method, { deliveryTag, multiple: false, requeue });
    }
    if (this.#ledger.outstanding === 0) this.#tellSettled();
    return true;
  }

  pauseReading(): () => void {
    return this.#line.pauseReading();
  }

  /** Says the acknowledgements of this turn. */
  writeLate(): void {
    // Of a channel that has ended the broker has taken everything back.
    if (this.#ledger.hasAcks && this.#channel.isOpen) this.#ledger.sayAcks(this.#sayAck);
  }

  readonly #sayAck = (deliveryTag: number, multiple: boolean): void => {
    this.#line.ack(this.#number, deliveryTag, multiple);
  };

  /** basic.ack, basic.nack and basic.reject by tag, as the specification has them. */
  answer(answer: Answer, deliveryTag: number, how: { readonly multiple: boolean; readonly reject?: boolean }): void {
    const { multiple, reject = false } = how;
    const requeue = answer === 'requeue';
    if (answer === 'ack') this.#channel.send('basic.ack', { deliveryTag, multiple });
    else if (reject) this.#channel.send('basic.reject', { deliveryTag, requeue });
    else this.#channel.send('basic.nack', { deliveryTag, multiple, requeue });
    this.#line.metrics[COUNTED_AS[answer]] += this.#ledger.settle(deliveryTag, multiple);
    if (this.#ledger.outstanding === 0) this.#tellSettled();
  }

  /** Has the broker deliver again everything that is unanswered. */
  async recover(options?: RequestOptions): Promise<void> {
    // Without requeue RabbitMQ closes the connection (540).
    await this.#channel.request('basic.recover', { requeue: true }, options);
  }

  /** basic.recover-ok: all that was delivered is delivered again. */
  recovered(): void {
    this.#ledger.forgetAll();
    this.#tellSettled();
  }

  /** `recover` without an answer: what is delivered again cannot be told from what was on its way. */
  recoverAsync(): void {
    this.#channel.send('basic.recover-async', { requeue: true });
    this.recovered();
    this.#ledger.sayAlone();
  }

  async startTransactions(options?: RequestOptions): Promise<void> {
    // A rollback makes unanswered again what was acknowledged, so that no acknowledgement after it may be for more than one.
    this.#ledger.sayAlone();
    await this.#channel.request('tx.select', {}, options);
  }
}

const COUNTED_AS = { ack: 'acknowledged', requeue: 'requeued', discard: 'rejected' } as const;

const GIVE_BACK: ConsumerCallbacks = { onMessage: (message) => message.nack() };
