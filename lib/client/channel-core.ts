/**
 * The life of one channel beneath its methods: requests and their answers, publishing and its confirms, and every way to end.
 * It lives once. What is delivered on it is `channel-deliveries`'; frames, sockets and channel numbers are the connection's.
 *
 * ```
 *   open ──close()──► closing ──close-ok──► closed (number free)
 *    │                   └──no answer in time──► closed ──close-ok──► number free
 *    └──── channel.close, connection ended ────► closed (number free)
 * ```
 */
import { types } from 'node:util';
import { AmqpError, factsOf } from '../errors.js';
import { checkPublish } from './publish-checks.js';
import { CommandAssembler } from '../protocol/command.js';
import type { Content } from '../protocol/content.js';
import {
  type Method,
  type MethodArgs,
  type MethodName,
  type NoWaitRequestName,
  type Reply,
  type RequestName,
  methodName,
  ofType,
  wrongField,
} from '../protocol/methods.js';
import type { BasicProperties, EchoingProperties } from '../protocol/properties.js';
import { ChannelDeliveries, type DeliveringChannel } from './channel-deliveries.js';
import type { ChannelLine, ChannelListener } from './channel-line.js';
import type { CloseOptions, PublishOptions, RequestOptions } from './channel-options.js';
import { type Answered, PendingRequests } from './pending-requests.js';
import { closeReason, shortText } from './reply-text.js';
import { bounded, confirmsWithin, hasFired, requestAborted } from './request-bounds.js';
import { PublisherConfirms, type UnconfirmedPublish } from './publisher-confirms.js';
import { orAborted, within } from './wait.js';

/** Options of a publish that echoes properties of another message. */
type EchoingOptions = EchoingProperties & Pick<PublishOptions, 'mandatory' | 'immediate' | 'signal'>;

type State =
  | { readonly name: 'open' }
  | { readonly name: 'closing' }
  | {
      readonly name: 'closed';
      /** Why, for whoever uses it still. */
      readonly reason: AmqpError;
      /** Undefined when it was closed on purpose. */
      readonly error: AmqpError | undefined;
      /** The peer has not answered our close, and the number is not free before it does. */
      readonly isOwedCloseOk: boolean;
    };

export class ChannelCore implements DeliveringChannel {
  readonly number: number;
  /** What is delivered on it, and how that is answered. */
  readonly deliveries: ChannelDeliveries;
  readonly #line: ChannelLine;
  readonly #assembler: CommandAssembler;
  readonly #pending = new PendingRequests();
  #listener: ChannelListener | undefined;
  #confirms: PublisherConfirms | undefined;
  #confirming: Promise<void> | undefined;
  #state: State = { name: 'open' };
  #closing: Promise<void> | undefined;

  constructor(number: number, line: ChannelLine) {
    this.number = number;
    this.#line = line;
    this.deliveries = new ChannelDeliveries(number, line, this);
    this.#assembler = new CommandAssembler(
      (method, content) => {
        this.#command(method, content);
      },
      line.maxMessageSize,
      line.memory,
    );
  }

  set listener(listener: ChannelListener) {
    this.#listener = listener;
  }

  /** Where what the user's code throws goes. */
  get callbackFailed(): (error: unknown) => void {
    return this.#line.callbackFailed;
  }

  get isOpen(): boolean {
    return this.#state.name === 'open';
  }

  get hasEnded(): boolean {
    return this.#state.name === 'closed';
  }

  get endError(): AmqpError | undefined {
    return this.#state.name === 'closed' ? this.#state.error : undefined;
  }

  /** The broker takes no publishes for now. */
  get isBlocked(): boolean {
    return this.#line.isBlocked();
  }

  get unconfirmedCount(): number {
    return this.#confirms?.outstanding ?? 0;
  }

  // ── what is said ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Opens it; a channel that nobody waits for any more is closed again. Rejects like `request`. */
  async open(options?: RequestOptions): Promise<void> {
    let sent: Promise<unknown> | undefined;
    try {
      await this.#within('channel.open', options, () => (sent = this.call('channel.open', {})));
    } catch (error) {
      // RabbitMQ closes the connection (504) over the close of a channel that was not opened.
      if (sent === undefined) this.#line.release(this.number);
      else void this.close();
      throw error;
    }
  }

  /** Sends a request; resolves to the fields of its answer. Rejects with `REQUEST_TIMEOUT`, `ABORTED`, or why the channel ended. */
  async request<N extends RequestName>(
    name: N,
    args: MethodArgs<N>,
    options?: RequestOptions,
  ): Promise<Reply<N>['args']> {
    return (await this.#within(name, options, () => this.call(name, args))).method.args;
  }

  /** Like `request`, for methods that may be sent with no-wait: then it resolves to undefined, without an answer. */
  async ask<N extends NoWaitRequestName>(
    name: N,
    args: MethodArgs<N>,
    options?: RequestOptions,
  ): Promise<Reply<N>['args'] | undefined> {
    // Every method of this kind has the bit; the compiler does not carry that through the table.
    if (!(args as { readonly noWait: boolean }).noWait) return await this.request(name, args, options);
    this.send(name, args);
    return undefined;
  }

  /** An answer within its bounds, see `bounded`. */
  async #within<T>(name: MethodName, options: RequestOptions | undefined, ask: () => Promise<T>): Promise<T> {
    return await bounded(name, this.#line.requestTimeout, options, ask);
  }

  /**
   * Sends a request; resolves to its answer, with a message where it carries one. `noted` is called with it at once, before
   * what follows it in the same chunk.
   */
  call<N extends RequestName>(
    name: N,
    args: MethodArgs<N>,
    consumerTag?: string,
    noted?: (answer: Answered<N>) => void,
  ): Promise<Answered<N>> {
    return new Promise((resolve, reject) => {
      this.#assertOpen(name);
      refuseUnnamed(name, args);
      const answered = (answer: Answered<N>): void => {
        noted?.(answer);
        resolve(answer);
      };
      // Before the bytes that may be answered at once.
      const withdraw = this.#pending.add({ name, consumerTag, resolve: answered, reject });
      try {
        this.deliveries.writeLate();
        this.#line.send(this.number, name, args);
      } catch (error) {
        withdraw();
        throw error;
      }
    });
  }

  /** Sends a method that nobody answers. */
  send<N extends MethodName>(name: N, args: MethodArgs<N>): void {
    this.#assertOpen(name);
    refuseUnnamed(name, args);
    this.deliveries.writeLate();
    this.#line.send(this.number, name, args);
  }

  async drained(signal?: AbortSignal): Promise<void> {
    await orAborted(this.#line.drained(), signal);
  }

  // ── publishing ────────────────────────────────────────────────────────────────────────────────────────────────────

  async startConfirms(options?: RequestOptions): Promise<void> {
    await this.#within('confirm.select', options, () => (this.#confirming ??= this.#selectConfirms()));
  }

  async #selectConfirms(): Promise<void> {
    const selected = this.call('confirm.select', { noWait: false });
    // Not only after the answer: the broker counts publishes from the request on.
    this.#confirms = new PublisherConfirms(this.#line.metrics);
    await selected;
  }

  async waitForConfirms(options?: RequestOptions): Promise<void> {
    const confirms = this.#confirms;
    if (confirms === undefined) {
      throw new AmqpError('INVALID_ARGUMENT', 'The channel has no confirms to wait for. Call confirmSelect() first.');
    }
    await confirmsWithin(confirms, this.#line.requestTimeout, options);
  }

  /** Publishes as the channel does: with confirms the promise of the confirm, without whether to keep writing. */
  publish(
    exchange: string,
    routingKey: string | Uint8Array,
    body: string | Uint8Array,
    options: EchoingOptions,
  ): boolean | Promise<void> {
    if (this.#confirms === undefined) return this.#publish(exchange, routingKey, body, options);
    if (options.signal !== undefined) return this.#publishUntil(options.signal, exchange, routingKey, body, options);
    return new Promise<void>((resolve, reject) => {
      // A key that is echoed stands in a return as the text that its bytes make.
      const key = typeof routingKey === 'string' ? routingKey : textOf(routingKey);
      const { messageId, mandatory = false } = options;
      const publish = { exchange, routingKey: key, messageId, mandatory, body, returned: undefined, resolve, reject };
      this.publishFor(publish, body, options, routingKey);
    });
  }

  /** `publish` with a signal, which ends the wait for the confirm and no more. */
  async #publishUntil(
    signal: AbortSignal,
    exchange: string,
    routingKey: string | Uint8Array,
    body: string | Uint8Array,
    options: EchoingOptions,
  ): Promise<void> {
    if (hasFired(signal)) throw requestAborted('basic.publish', 'It was not sent.', signal.reason);
    try {
      await orAborted(
        this.publish(exchange, routingKey, body, { ...options, signal: undefined }) as Promise<void>,
        signal,
      );
    } catch (error) {
      if (!hasFired(signal) || error !== signal.reason) throw error;
      throw requestAborted('basic.publish', 'Whether the broker has the message is unknown.', error);
    }
  }

  /** Publishes with the confirm told to `publish`. Throws with nothing sent and nobody told. */
  publishFor(
    publish: UnconfirmedPublish,
    body: string | Uint8Array,
    options: EchoingOptions,
    routingKey: string | Uint8Array = publish.routingKey,
  ): void {
    if (this.#state.name !== 'open') this.#assertOpen('basic.publish');
    // Before the bytes that may be confirmed at once.
    this.#confirms?.add(publish);
    try {
      this.#publish(publish.exchange, routingKey, body, options);
    } catch (error) {
      this.#confirms?.removeLast();
      throw error;
    }
  }

  #publish(
    exchange: string,
    routingKey: string | Uint8Array,
    body: string | Uint8Array,
    options: EchoingOptions,
  ): boolean {
    if (this.#state.name !== 'open') this.#assertOpen('basic.publish');
    checkPublish(body, options);
    const mandatory = options.mandatory ?? false;
    const goOn = this.#line.publish(this.number, exchange, routingKey, mandatory, options, body);
    this.#line.metrics.published += 1;
    return goOn;
  }

  // ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async close(options: CloseOptions = {}): Promise<void> {
    if (this.#state.name === 'closed') return;
    this.#closing ??= this.#close(options);
    await this.#closing;
  }

  async #close({ replyCode = 200, replyText = 'Goodbye' }: CloseOptions): Promise<void> {
    const goodbye = { replyCode, replyText: shortText(replyText), classId: 0, methodId: 0 };
    const answered = this.call('channel.close', goodbye);
    // A transport in memory may have answered, or ended, within the write.
    if (this.isOpen) this.#state = { name: 'closing' };
    let isOwedCloseOk = true;
    const settled = answered.then(
      () => (isOwedCloseOk = false),
      // The connection has ended, and this with it.
      () => undefined,
    );
    await within(this.#line.closeTimeout, settled);
    const reason = new AmqpError('CHANNEL_CLOSED', 'The channel was closed with close().', { closedBy: 'client' });
    this.#end({ name: 'closed', reason, error: undefined, isOwedCloseOk });
  }

  /** The connection has said goodbye: what is sent after that nobody reads. */
  connectionClosing(): void {
    if (this.#state.name === 'open') this.#state = { name: 'closing' };
  }

  /** The connection has ended, with its error or in order. */
  connectionEnded(reason: AmqpError, orderly: boolean): void {
    this.#end({ name: 'closed', reason, error: orderly ? undefined : reason, isOwedCloseOk: false });
  }

  #closedByServer(args: MethodArgs<'channel.close'>): void {
    this.#line.send(this.number, 'channel.close-ok', {});
    const method = methodName(args.classId, args.methodId);
    const error = new AmqpError(
      'CHANNEL_CLOSED',
      `The broker closed the channel: ${closeReason(args.replyCode, args.replyText, method)}`,
      { replyCode: args.replyCode, replyText: args.replyText, method, closedBy: 'server' },
    );
    if (this.#state.name === 'closing') {
      // Both sides close at once: the broker still answers our close, and nothing else that is pending.
      this.#pending.fail(error, 'channel.close');
      this.#confirms?.abandon(error);
    } else {
      this.#end({ name: 'closed', reason: error, error, isOwedCloseOk: false });
    }
  }

  #end(state: Extract<State, { name: 'closed' }>): void {
    if (this.#state.name === 'closed') return;
    this.#state = state;
    if (!state.isOwedCloseOk) this.#line.release(this.number);
    this.#pending.fail(state.reason);
    this.#confirms?.abandon(state.reason);
    this.deliveries.ended();
    this.#listener?.closed(state.error);
  }

  #assertOpen(method: MethodName): void {
    switch (this.#state.name) {
      case 'open':
        return;
      case 'closing':
        throw new AmqpError('CHANNEL_CLOSED', `${method} cannot be sent: the channel is being closed.`, { method });
      case 'closed': {
        const { reason } = this.#state;
        throw new AmqpError(reason.code, `${method} cannot be sent: the channel has ended. ${reason.message}`, {
          ...factsOf(reason),
          cause: reason,
        });
      }
    }
  }

  // ── what comes ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** A frame of this channel. */
  frame(type: number, buffer: Buffer, start: number, end: number): void {
    this.#assembler.frame(type, buffer, start, end);
  }

  #command(method: Method, content: Content | undefined): void {
    if (this.#state.name === 'closed') {
      this.#late(method, this.#state);
      return;
    }
    switch (method.name) {
      case 'basic.deliver':
        this.deliveries.deliver(method.args, content as Content);
        return;
      case 'basic.ack':
        this.#confirms?.settle(method.args.deliveryTag, method.args.multiple, true);
        return;
      case 'basic.nack':
        this.#confirms?.settle(method.args.deliveryTag, method.args.multiple, false);
        return;
      case 'basic.return':
        this.#returned(method.args, content as Content);
        return;
      case 'basic.cancel':
        this.deliveries.cancelledByServer(method.args);
        return;
      case 'channel.flow':
        // RabbitMQ has not sent it since 2.0, but whoever sends it is owed the answer.
        this.#line.send(this.number, 'channel.flow-ok', { active: method.args.active });
        return;
      case 'channel.close':
        this.#closedByServer(method.args);
        return;
      case 'basic.recover-ok':
        // Before what is delivered again, which may come in the same chunk.
        this.deliveries.recovered();
        this.#pending.answer(method, content);
        return;
      default:
        this.#pending.answer(method, content);
    }
  }

  /** What comes after the end: only the goodbye matters. */
  #late(method: Method, { isOwedCloseOk }: Extract<State, { name: 'closed' }>): void {
    if (method.name === 'channel.close') this.#line.send(this.number, 'channel.close-ok', {});
    else if (method.name === 'channel.close-ok' && isOwedCloseOk) this.#line.release(this.number);
  }

  #returned(args: MethodArgs<'basic.return'>, content: Content): void {
    this.#line.metrics.returned += 1;
    const messageId = messageIdOf(content);
    if (this.#confirms?.returned({ ...args, messageId }) === true) return;
    this.#listener?.returned({
      ...args,
      body: content.body,
      get properties(): BasicProperties {
        return content.properties;
      },
    });
  }
}

const NAMES = ['queue', 'exchange', 'source', 'destination'] as const;

/** RabbitMQ takes a name that is left out for the queue that the channel declared last, and deletes that. */
function refuseUnnamed(method: MethodName, args: object): void {
  for (const name of NAMES) {
    if (!(name in args)) continue;
    const value: unknown = (args as Record<string, unknown>)[name];
    if (typeof value !== 'string') throw wrongField(method, name, 'a string', ofType(value));
  }
}

function textOf(bytes: unknown): string {
  return types.isUint8Array(bytes) ? Buffer.from(bytes).toString() : String(bytes);
}

/** The message id of a returned message; a message whose properties cannot be decoded has none. */
function messageIdOf(content: Content): string | undefined {
  try {
    return content.properties.messageId;
  } catch {
    return undefined;
  }
}
