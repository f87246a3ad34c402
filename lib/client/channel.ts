/**
 * One channel: requests and their answers, consumers, publishing and its confirms. It lives once; what outlives it is
 * built above. Frames, sockets and channel numbers are the connection's.
 *
 * Requests are sent at once and answered in order (specification, section 2.2.2), except that RabbitMQ may answer
 * basic.consume after later requests, so that its answer is matched by consumer tag.
 */
import { EventEmitter } from 'node:events';
import { randomUUID } from 'node:crypto';
import { AmqpError, ProtocolError, factsOf, printable, quoted } from '../errors.js';
import { CommandAssembler, type Content } from '../protocol/command.js';
import type { FieldTable } from '../protocol/field-table.js';
import {
  type ContentMethodName,
  type Method,
  type MethodArgs,
  type MethodName,
  type Reply,
  type RequestName,
  methodName,
  repliesOf,
} from '../protocol/methods.js';
import type { BasicProperties } from '../protocol/properties.js';
import { tell } from './listeners.js';
import { Message, type Answer, type Settler } from './message.js';
import { PublisherConfirms } from './publisher-confirms.js';

/** What a channel needs of its connection. */
export interface ChannelLine {
  readonly maxMessageSize: number;
  send<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): void;
  /** Sends a method with content; says whether the sender may keep writing. */
  sendContent<N extends ContentMethodName>(
    channel: number,
    name: N,
    args: MethodArgs<N>,
    properties: BasicProperties,
    body: Uint8Array,
  ): boolean;
  drained(): Promise<void>;
  /** The channel has ended and its number is free. */
  channelEnded(channel: number): void;
  /** User code threw where nobody can catch it. */
  callbackFailed(error: unknown): void;
}

/** Options of `exchangeDeclare` (specification, exchange.declare). */
export interface ExchangeDeclareOptions {
  /** Only check that it exists. @default false */
  readonly passive?: boolean | undefined;
  /** Survives a restart of the broker. @default true */
  readonly durable?: boolean | undefined;
  /** Deleted when its last binding goes. @default false */
  readonly autoDelete?: boolean | undefined;
  /** Takes messages from other exchanges only. @default false */
  readonly internal?: boolean | undefined;
  readonly arguments?: FieldTable | undefined;
}

/** Options of `queueDeclare` (specification, queue.declare). */
export interface QueueDeclareOptions {
  /** Only check that it exists. @default false */
  readonly passive?: boolean | undefined;
  /** Survives a restart of the broker. @default true, for an unnamed queue false */
  readonly durable?: boolean | undefined;
  /** For this connection alone, and deleted with it. @default false, for an unnamed queue true */
  readonly exclusive?: boolean | undefined;
  /** Deleted when its last consumer goes. @default false, for an unnamed queue true */
  readonly autoDelete?: boolean | undefined;
  readonly arguments?: FieldTable | undefined;
}

/** Options of `basicConsume` (specification, basic.consume). */
export interface ConsumeOptions {
  /** Name of the consumer, unique on its channel. @default a random one */
  readonly consumerTag?: string | undefined;
  /** The broker forgets messages as it sends them; nothing is to be acknowledged. @default false */
  readonly noAck?: boolean | undefined;
  /** Nobody else may consume from the queue. @default false */
  readonly exclusive?: boolean | undefined;
  /** Not messages published on this connection. RabbitMQ ignores it. @default false */
  readonly noLocal?: boolean | undefined;
  readonly arguments?: FieldTable | undefined;
}

/** What is done with a consumer's messages. Both functions are called synchronously, in order of arrival. */
export interface ConsumerCallbacks {
  readonly onMessage: (message: Message) => void;
  /** The broker cancelled the consumer: its queue was deleted or failed over. Nothing more comes. */
  readonly onCancel?: ((consumerTag: string) => void) | undefined;
}

/** Options of `basicPublish`: the message's properties, and whether it has to reach a queue. */
export interface PublishOptions extends BasicProperties {
  /** The broker returns the message when no queue takes it. @default false */
  readonly mandatory?: boolean | undefined;
}

/** A message that came back with `basic.return`. */
export interface ReturnedMessage {
  readonly replyCode: number;
  readonly replyText: string;
  readonly exchange: string;
  readonly routingKey: string;
  readonly properties: BasicProperties;
  readonly body: Buffer;
}

/** A channel on which `confirmSelect` was called: every publish is a promise of its confirm. */
export interface ConfirmChannel extends Channel {
  /**
   * Publishes; resolves when the broker has taken charge of the message. Rejects with `UnroutableError` (mandatory, and no
   * queue took it), `PublishNackedError`, `PublishOutcomeUnknownError`, or `INVALID_ARGUMENT` before anything is sent.
   */
  basicPublish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options?: PublishOptions,
  ): Promise<void>;
}

interface ChannelEvents {
  /** Ended; with the error, unless `close()` was called. Emitted once. */
  close: [error: AmqpError | undefined];
  /** A mandatory message that no queue took, published without confirms. */
  return: [message: ReturnedMessage];
}

interface PendingRequest {
  readonly name: RequestName;
  readonly replies: readonly MethodName[];
  /** For basic.consume: its answer is matched by this. */
  readonly consumerTag: string | undefined;
  readonly resolve: (answer: Answered) => void;
  readonly reject: (error: AmqpError) => void;
}

interface Answered {
  readonly method: Method;
  readonly content: Content | undefined;
}

interface ConsumerRecord {
  readonly callbacks: ConsumerCallbacks;
  readonly noAck: boolean;
}

type State =
  { readonly name: 'open' } | { readonly name: 'closing' } | { readonly name: 'closed'; readonly error: AmqpError };

/**
 * One channel of a connection, made by `connection.channel()`. Its methods have the specification's names. What the broker
 * refuses (403, 404, 405, 406) ends the channel, not the connection; the rejected promise says why.
 */
export class Channel extends EventEmitter<ChannelEvents> implements AsyncDisposable {
  /** Its number on the connection. */
  readonly number: number;
  readonly #line: ChannelLine;
  readonly #assembler: CommandAssembler;
  readonly #pending: PendingRequest[] = [];
  readonly #consumers = new Map<string, ConsumerRecord>();
  #confirms: PublisherConfirms | undefined;
  readonly #settler: Settler = { settle: (answer, deliveryTag) => this.#settle(answer, deliveryTag) };
  #state: State = { name: 'open' };
  #closing: Promise<void> | undefined;

  /** @internal Made by `Connection.channel()`. */
  constructor(number: number, line: ChannelLine) {
    super();
    this.number = number;
    this.#line = line;
    this.#assembler = new CommandAssembler((method, content) => {
      this.#command(method, content);
    }, line.maxMessageSize);
  }

  /** False as soon as either side closes it. */
  get isOpen(): boolean {
    return this.#state.name === 'open';
  }

  /** How many publishes await their confirm. */
  get unconfirmedCount(): number {
    return this.#confirms?.outstanding ?? 0;
  }

  // ── exchanges ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Declares an exchange, or with `passive` checks it. Rejects with 406 when it exists with other properties. */
  async exchangeDeclare(exchange: string, type: string, options: ExchangeDeclareOptions = {}): Promise<void> {
    await this.#request('exchange.declare', {
      exchange,
      type,
      passive: options.passive ?? false,
      durable: options.durable ?? true,
      autoDelete: options.autoDelete ?? false,
      internal: options.internal ?? false,
      noWait: false,
      arguments: options.arguments ?? {},
    });
  }

  /** Deletes an exchange; deleting one that does not exist is no error. With `ifUnused` only one without bindings. */
  async exchangeDelete(exchange: string, { ifUnused = false }: { ifUnused?: boolean } = {}): Promise<void> {
    await this.#request('exchange.delete', { exchange, ifUnused, noWait: false });
  }

  /** Has `destination` receive what `source` routes under the key (https://www.rabbitmq.com/docs/e2e). */
  async exchangeBind(destination: string, source: string, routingKey = '', args: FieldTable = {}): Promise<void> {
    await this.#request('exchange.bind', { destination, source, routingKey, noWait: false, arguments: args });
  }

  /** Undoes `exchangeBind`, with the same key and arguments. */
  async exchangeUnbind(destination: string, source: string, routingKey = '', args: FieldTable = {}): Promise<void> {
    await this.#request('exchange.unbind', { destination, source, routingKey, noWait: false, arguments: args });
  }

  // ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Declares a queue, or with `passive` checks it. Without a name the broker makes one up: it is in the result. */
  async queueDeclare(
    queue = '',
    options: QueueDeclareOptions = {},
  ): Promise<{ readonly queue: string; readonly messageCount: number; readonly consumerCount: number }> {
    const unnamed = queue === '';
    return await this.#request('queue.declare', {
      queue,
      passive: options.passive ?? false,
      durable: options.durable ?? !unnamed,
      exclusive: options.exclusive ?? unnamed,
      autoDelete: options.autoDelete ?? unnamed,
      noWait: false,
      arguments: options.arguments ?? {},
    });
  }

  /** Has the queue receive what the exchange routes under the key. */
  async queueBind(queue: string, exchange: string, routingKey = '', args: FieldTable = {}): Promise<void> {
    await this.#request('queue.bind', { queue, exchange, routingKey, noWait: false, arguments: args });
  }

  /** Undoes `queueBind`, with the same key and arguments. */
  async queueUnbind(queue: string, exchange: string, routingKey = '', args: FieldTable = {}): Promise<void> {
    await this.#request('queue.unbind', { queue, exchange, routingKey, arguments: args });
  }

  /** Drops the messages that wait in a queue; resolves to how many there were. */
  async queuePurge(queue: string): Promise<number> {
    return (await this.#request('queue.purge', { queue, noWait: false })).messageCount;
  }

  /** Deletes a queue; resolves to how many messages went with it. Deleting one that does not exist is no error. */
  async queueDelete(
    queue: string,
    { ifUnused = false, ifEmpty = false }: { ifUnused?: boolean; ifEmpty?: boolean } = {},
  ): Promise<number> {
    return (await this.#request('queue.delete', { queue, ifUnused, ifEmpty, noWait: false })).messageCount;
  }

  // ── consuming ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * How many unacknowledged messages each consumer started after this may hold, 0 for any number; with `global` all
   * consumers of the channel together, which RabbitMQ 4.3 no longer offers.
   */
  async basicQos(prefetchCount: number, { global = false }: { global?: boolean } = {}): Promise<void> {
    await this.#request('basic.qos', { prefetchSize: 0, prefetchCount, global });
  }

  /** Starts a consumer; resolves to its tag. Messages may arrive before that. */
  async basicConsume(
    queue: string,
    consumer: ConsumerCallbacks | ((message: Message) => void),
    options: ConsumeOptions = {},
  ): Promise<string> {
    const consumerTag = options.consumerTag ?? `nest-amqp.${randomUUID()}`;
    if (consumerTag === '' || this.#consumers.has(consumerTag)) {
      // The broker would close the whole connection over a tag used twice (530).
      throw new AmqpError(
        'INVALID_ARGUMENT',
        consumerTag === ''
          ? 'A consumer tag cannot be empty. Leave it out to have one made up.'
          : `The channel already has a consumer tagged ${quoted(consumerTag)}. Choose another tag.`,
      );
    }
    const callbacks = typeof consumer === 'function' ? { onMessage: consumer } : consumer;
    // Found out at the first delivery, it would be too late.
    if (typeof (callbacks as Partial<ConsumerCallbacks> | undefined)?.onMessage !== 'function') {
      throw new AmqpError('INVALID_ARGUMENT', 'A consumer has to be a function, or an object with onMessage.');
    }
    const noAck = options.noAck ?? false;
    // Registered first: deliveries may come in the same chunk as consume-ok.
    this.#consumers.set(consumerTag, { callbacks, noAck });
    try {
      await this.#request(
        'basic.consume',
        {
          queue,
          consumerTag,
          noLocal: options.noLocal ?? false,
          noAck,
          exclusive: options.exclusive ?? false,
          noWait: false,
          arguments: options.arguments ?? {},
        },
        consumerTag,
      );
    } catch (error) {
      this.#consumers.delete(consumerTag);
      throw error;
    }
    return consumerTag;
  }

  /** Ends a consumer. Messages that are on their way still arrive until this resolves. */
  async basicCancel(consumerTag: string): Promise<void> {
    await this.#request('basic.cancel', { consumerTag, noWait: false });
    this.#consumers.delete(consumerTag);
  }

  /** Fetches one message; undefined when the queue is empty. `messageCount` is how many are left behind it. */
  async basicGet(
    queue: string,
    { noAck = false }: { noAck?: boolean } = {},
  ): Promise<{ readonly message: Message; readonly messageCount: number } | undefined> {
    const { method, content } = await this.#call('basic.get', { queue, noAck });
    if (method.name !== 'basic.get-ok' || content === undefined) return undefined;
    return {
      message: new Message(method.args, content, this.#settler, { consumerTag: undefined, noAck }),
      messageCount: method.args.messageCount,
    };
  }

  /** Acknowledges a delivery, or with `multiple` all up to it. A tag that is not outstanding closes the channel (406). */
  basicAck(deliveryTag: number, { multiple = false }: { multiple?: boolean } = {}): void {
    this.#send('basic.ack', { deliveryTag, multiple });
  }

  /** Gives a delivery (with `multiple` all up to it) back, or with `requeue: false` has it dead-lettered or dropped. */
  basicNack(
    deliveryTag: number,
    { multiple = false, requeue = true }: { multiple?: boolean; requeue?: boolean } = {},
  ): void {
    this.#send('basic.nack', { deliveryTag, multiple, requeue });
  }

  /** Like `basicNack` for one delivery; it counts towards the delivery limit of quorum queues on every RabbitMQ. */
  basicReject(deliveryTag: number, { requeue = true }: { requeue?: boolean } = {}): void {
    this.#send('basic.reject', { deliveryTag, requeue });
  }

  /** Answers a message of this channel; what a channel that has ended delivered, the broker has taken back already. */
  #settle(answer: Answer, deliveryTag: number): boolean {
    if (!this.isOpen) return false;
    if (answer === 'ack') this.#send('basic.ack', { deliveryTag, multiple: false });
    else this.#send('basic.reject', { deliveryTag, requeue: answer === 'requeue' });
    return true;
  }

  /** Has the broker deliver again everything that is unacknowledged on this channel. */
  async basicRecover(): Promise<void> {
    // Without requeue RabbitMQ closes the connection (540).
    await this.#request('basic.recover', { requeue: true });
  }

  // ── publishing ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Turns publisher confirms on, for good. The same channel comes back, typed so that publishing is a promise. */
  async confirmSelect(): Promise<ConfirmChannel> {
    if (this.#confirms === undefined) {
      await this.#request('confirm.select', { noWait: false });
      this.#confirms ??= new PublisherConfirms();
    }
    return this as ConfirmChannel;
  }

  /**
   * Publishes. With confirms it returns a promise, see `ConfirmChannel`; without it returns whether to keep writing: after
   * `false` wait for `drained()`. The body must not change before it has left.
   */
  basicPublish(
    exchange: string,
    routingKey: string,
    body: string | Uint8Array,
    options: PublishOptions = {},
  ): boolean | Promise<void> {
    const confirms = this.#confirms;
    if (confirms === undefined) return this.#publish(exchange, routingKey, body, options);
    return new Promise<void>((resolve, reject) => {
      this.#assertOpen('basic.publish');
      confirms.add({
        exchange,
        routingKey,
        messageId: options.messageId,
        mandatory: options.mandatory ?? false,
        resolve,
        reject,
      });
      try {
        this.#publish(exchange, routingKey, body, options);
      } catch (error) {
        confirms.removeLast();
        throw error;
      }
    });
  }

  /** Resolves when the connection has taken what was written and it is time to go on. */
  async drained(): Promise<void> {
    await this.#line.drained();
  }

  #publish(exchange: string, routingKey: string, body: string | Uint8Array, options: PublishOptions): boolean {
    this.#assertOpen('basic.publish');
    const bytes = typeof body === 'string' ? Buffer.from(body) : body;
    if (!(bytes instanceof Uint8Array)) {
      throw new AmqpError(
        'INVALID_ARGUMENT',
        'The body of a message has to be a string or a Uint8Array. Serialise it first.',
      );
    }
    return this.#line.sendContent(
      this.number,
      'basic.publish',
      { exchange, routingKey, mandatory: options.mandatory ?? false, immediate: false },
      options,
      bytes,
    );
  }

  // ── transactions ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Starts transactions on this channel; it cannot have confirms as well. */
  async txSelect(): Promise<void> {
    await this.#request('tx.select', {});
  }

  /** Makes what was published and acknowledged since the last commit count. */
  async txCommit(): Promise<void> {
    await this.#request('tx.commit', {});
  }

  /** Forgets what was published and acknowledged since the last commit. */
  async txRollback(): Promise<void> {
    await this.#request('tx.rollback', {});
  }

  // ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal */
  async open(): Promise<this> {
    await this.#request('channel.open', {});
    return this;
  }

  /** Closes the channel; what is unacknowledged goes back to its queue. Closing twice, or after an error, is no error. */
  async close(): Promise<void> {
    if (this.#state.name === 'closed') return;
    this.#closing ??= this.#close();
    await this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    const closed = this.#request('channel.close', { replyCode: 200, replyText: 'Goodbye', classId: 0, methodId: 0 });
    this.#state = { name: 'closing' };
    try {
      await closed;
    } catch {
      // The connection ended, or the broker closed the channel first. Closed it is.
    }
    this.#end(
      new AmqpError('CHANNEL_CLOSED', 'The channel was closed with close().', { closedBy: 'client' }),
      undefined,
    );
  }

  /** @internal The connection under this channel has said goodbye: what is sent after that nobody reads. */
  connectionClosing(): void {
    if (this.#state.name === 'open') this.#state = { name: 'closing' };
  }

  /** @internal The connection under this channel has ended, with its error or in order. */
  connectionEnded(error: AmqpError, orderly: boolean): void {
    this.#end(error, orderly ? undefined : error);
  }

  /** @internal A frame of this channel. */
  frame(type: number, buffer: Buffer, start: number, end: number): void {
    if (this.#state.name !== 'closed') this.#assembler.frame(type, buffer, start, end);
  }

  #end(reason: AmqpError, eventError: AmqpError | undefined): void {
    if (this.#state.name === 'closed') return;
    this.#state = { name: 'closed', error: reason };
    this.#line.channelEnded(this.number);
    const pending = this.#pending.splice(0);
    // Answers come in order, so the first unanswered request of the method that the broker blames is the culprit.
    const culprit = pending.find(({ name }) => name === reason.method);
    for (const request of pending) request.reject(request === culprit ? reason : unanswered(request.name, reason));
    this.#confirms?.abandon(reason);
    this.#consumers.clear();
    this.#tell('close', eventError);
  }

  // ── requests and answers ──────────────────────────────────────────────────────────────────────────────────────────

  async #request<N extends RequestName>(name: N, args: MethodArgs<N>, consumerTag?: string): Promise<Reply<N>['args']> {
    try {
      return (await this.#call(name, args, consumerTag)).method.args;
    } catch (error) {
      // The error was made where the bytes came in; the stack that helps is the caller's.
      if (error instanceof AmqpError) Error.captureStackTrace(error);
      throw error;
    }
  }

  #call<N extends RequestName>(
    name: N,
    args: MethodArgs<N>,
    consumerTag?: string,
  ): Promise<{ method: Reply<N>; content: Content | undefined }> {
    return new Promise((resolve, reject) => {
      this.#assertOpen(name);
      this.#pending.push({
        name,
        replies: repliesOf(name),
        consumerTag,
        // `#answer` has compared the method's name with `replies`.
        resolve: resolve as (answer: Answered) => void,
        reject,
      });
      try {
        this.#line.send(this.number, name, args);
      } catch (error) {
        this.#pending.pop();
        throw error;
      }
    });
  }

  #send<N extends MethodName>(name: N, args: MethodArgs<N>): void {
    this.#assertOpen(name);
    this.#line.send(this.number, name, args);
  }

  #assertOpen(method: MethodName): void {
    switch (this.#state.name) {
      case 'open':
        return;
      case 'closing':
        throw new AmqpError('CHANNEL_CLOSED', `${method} cannot be sent: the channel is being closed.`, { method });
      case 'closed': {
        const { error } = this.#state;
        throw new AmqpError(error.code, `${method} cannot be sent: the channel has ended. ${error.message}`, {
          ...factsOf(error),
          cause: error,
        });
      }
    }
  }

  #command(method: Method, content: Content | undefined): void {
    switch (method.name) {
      case 'basic.deliver':
        this.#deliver(method.args, content as Content);
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
        this.#cancelledByServer(method.args);
        return;
      case 'channel.flow':
        // RabbitMQ has not sent it since 2.0, but whoever sends it is owed the answer.
        this.#line.send(this.number, 'channel.flow-ok', { active: method.args.active });
        return;
      case 'channel.close':
        this.#closedByServer(method.args);
        return;
      default:
        this.#answer(method, content);
    }
  }

  #answer(method: Method, content: Content | undefined): void {
    const index = this.#pending.findIndex(({ name, consumerTag }) =>
      method.name === 'basic.consume-ok' ? consumerTag === method.args.consumerTag : name !== 'basic.consume',
    );
    const request = this.#pending[index];
    if (request === undefined || !request.replies.includes(method.name)) {
      const asked = request === undefined ? 'nothing was asked' : `${request.name} was asked`;
      throw new ProtocolError(505, `The peer answered with ${method.name} where ${asked}.`, { method: method.name });
    }
    this.#pending.splice(index, 1);
    request.resolve({ method, content });
  }

  #deliver(args: MethodArgs<'basic.deliver'>, content: Content): void {
    const consumer = this.#consumers.get(args.consumerTag);
    // A delivery that crossed our cancel: the broker takes it back when the channel closes.
    if (consumer === undefined) return;
    const message = new Message(args, content, this.#settler, { consumerTag: args.consumerTag, noAck: consumer.noAck });
    this.#guarded(() => {
      consumer.callbacks.onMessage(message);
    });
  }

  #returned(args: MethodArgs<'basic.return'>, content: Content): void {
    const messageId = messageIdOf(content);
    if (this.#confirms?.returned({ ...args, messageId }) === true) return;
    this.#tell('return', {
      ...args,
      body: content.body,
      get properties() {
        return content.properties;
      },
    });
  }

  #cancelledByServer({ consumerTag, noWait }: MethodArgs<'basic.cancel'>): void {
    const consumer = this.#consumers.get(consumerTag);
    this.#consumers.delete(consumerTag);
    if (!noWait) this.#line.send(this.number, 'basic.cancel-ok', { consumerTag });
    this.#guarded(() => consumer?.callbacks.onCancel?.(consumerTag));
  }

  #closedByServer(args: MethodArgs<'channel.close'>): void {
    this.#line.send(this.number, 'channel.close-ok', {});
    // Both sides close at once: the broker answers our close as well, and the number is not free before that.
    if (this.#state.name === 'closing') return;
    const method = methodName(args.classId, args.methodId);
    const error = new AmqpError(
      'CHANNEL_CLOSED',
      `The broker closed the channel: ${closeReason(args.replyCode, args.replyText, method)}`,
      { replyCode: args.replyCode, replyText: args.replyText, method, closedBy: 'server' },
    );
    this.#end(error, error);
  }

  #tell<E extends keyof ChannelEvents>(event: E, ...args: ChannelEvents[E]): void {
    tell(this, event, args, (error) => {
      this.#line.callbackFailed(error);
    });
  }

  /** Runs the user's code so that what it throws ends neither the channel nor the process. */
  #guarded(run: () => unknown): void {
    try {
      run();
    } catch (error) {
      this.#line.callbackFailed(error);
    }
  }
}

/** What to do about the reply codes that a user can do something about. */
const CLOSE_ADVICE: Readonly<Record<number, string>> = {
  403: 'Grant the user the permission, wait for the exclusive user to end, or use another name.',
  404: 'Declare it first, or correct the name.',
  405: 'Another connection holds it exclusively: wait for that to end, or use another name.',
  406: 'See the reply text: it names what does not fit.',
};

/** The broker's reply as a sentence or two: `404 'NOT_FOUND - no queue …' (queue.bind). Declare it first, …`. */
export function closeReason(replyCode: number, replyText: string, method: MethodName | undefined): string {
  const advice = CLOSE_ADVICE[replyCode];
  return (
    `${replyCode} ${printable(replyText.replace(/\.$/, ''))}${method === undefined ? '' : ` (${method})`}.` +
    (advice === undefined ? '' : ` ${advice}`)
  );
}

/** The error for a request that the end of its channel leaves unanswered. */
function unanswered(name: RequestName, reason: AmqpError): AmqpError {
  return new AmqpError(reason.code, `${name} was not answered. ${reason.message}`, {
    ...factsOf(reason),
    cause: reason,
  });
}

/** The message id of a returned message; a message whose properties cannot be decoded has none. */
function messageIdOf(content: Content): string | undefined {
  try {
    return content.properties.messageId;
  } catch {
    return undefined;
  }
}
