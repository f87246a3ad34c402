/**
 * One AMQP connection: it opens once and dies once, and never reconnects. It moves frames between the transport and its
 * channels; opening is the handshake's, recovery is built above.
 *
 * ```
 *   handshake ──open-ok──► open ──close()──► closing ──close-ok, timeout──► closed
 *       │                   └──── connection.close, lost, broken protocol ────►┘
 *       └── refused, timeout, not AMQP: `connect` rejects
 * ```
 */
import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import { AmqpError, ProtocolError } from '../errors.js';
import { CommandAssembler } from '../protocol/command.js';
import { ContentMemory } from '../protocol/content.js';
import type { FieldTable } from '../protocol/field-table.js';
import { FRAME_HEARTBEAT } from '../protocol/frame.js';
import { FrameDecoder } from '../protocol/frame-decoder.js';
import { type Method, type MethodArgs, methodName } from '../protocol/methods.js';
import { Channel, type ConfirmChannel } from './channel.js';
import { ChannelCore } from './channel-core.js';
import type { ChannelLine } from './channel-line.js';
import { ChannelNumbers } from './channel-numbers.js';
import type { CloseOptions, RequestOptions } from './channel-options.js';
import {
  type ConnectionOptions,
  type ResolvedConnectionOptions,
  addressOf,
  resolveConnectionOptions,
} from './connection-options.js';
import { askWithin } from './credentials.js';
import { keepFresh } from './credentials-refresh.js';
import { aborted, dial } from './dial.js';
import { embeddedLogin } from './embedded.js';
import {
  type HandshakeLine,
  type HandshakeProgress,
  type Negotiated,
  handshakeEnded,
  shakeHands,
  strangeGreeting,
} from './handshake.js';
import { Heartbeat, type HeartbeatLine } from '../time/heartbeat.js';
import { tell, warnOf } from './listeners.js';
import { type ConnectionMetrics, Metrics } from './metrics.js';
import { Outbox } from './outbox.js';
import { PendingRequests } from './pending-requests.js';
import { closeReason, shortText } from './reply-text.js';
import { bounded } from './request-bounds.js';
import { whenFired } from './signals.js';

/** Events of a `Connection`. */
export interface ConnectionEvents {
  /** Ended; with the error, unless `close()` was called. Emitted once. */
  close: [error: AmqpError | undefined];
  /** The broker takes no more publishes for now: memory or disk run low (https://www.rabbitmq.com/docs/connection-blocked). */
  blocked: [reason: string];
  unblocked: [];
  /** A callback of yours threw. Without a listener it becomes a process warning. */
  callbackError: [error: unknown];
}

type State =
  | { readonly name: 'handshake' }
  | { readonly name: 'open' }
  | { readonly name: 'closing'; readonly closed: Promise<void> }
  | { readonly name: 'closed'; readonly reason: AmqpError; readonly error: AmqpError | undefined };

/** Options of `connect`. */
export interface ConnectOptions extends ConnectionOptions {
  /** Ends the attempt to connect: it rejects with `ABORTED`. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens a connection. Rejects with an `AmqpError`: `INVALID_URL`, `INVALID_OPTION`, `CONNECT_FAILED`, `CONNECT_TIMEOUT`,
 * `HANDSHAKE_TIMEOUT`, `NOT_AMQP`, `VERSION_MISMATCH`, `AUTHENTICATION_FAILED`, `CREDENTIALS_FAILED`, `VHOST_REFUSED`, `CONNECTION_CLOSED`, `ABORTED`.
 *
 * @example
 * ```ts
 * await using connection = await connect('amqp://guest:guest@localhost:5672/');
 * const channel = await connection.channel();
 * ```
 */
export async function connect(url?: string | ConnectOptions, options: ConnectOptions = {}): Promise<Connection> {
  // Null is what a variable that is not set often comes to, past the compiler; it is told below.
  const isObject = typeof url === 'object' && (url as unknown) !== null;
  const { signal: first, ...alone } = isObject ? url : {};
  const { signal = first, ...more } = options;
  return await openConnection(resolveConnectionOptions(isObject ? alone : url, more), signal);
}

/** `connect` for options that are checked already. */
export async function openConnection(
  resolved: ResolvedConnectionOptions,
  signal?: AbortSignal,
  metrics = new Metrics(),
): Promise<Connection> {
  const { embedded } = resolved;
  const options = embedded === undefined ? resolved : { ...resolved, ...(await embeddedLogin(embedded, resolved)) };
  const { credentialsProvider: provider } = options;
  if (provider === undefined) return await new Connection(await dial(options, signal), options, metrics).open(signal);
  // Asked before dialling: a broker gives a client ten seconds for the handshake.
  const credentials = await askWithin(options.connectTimeout, provider, signal);
  const connection = await new Connection(await dial(options, signal), { ...options, credentials }, metrics).open(
    signal,
  );
  keepFresh(connection, provider, credentials);
  return connection;
}

/**
 * One connection to a broker, made by `connect()`. When it ends it stays ended; `AmqpConnection` is the one that comes back.
 * All its waits end at the latest when it does.
 */
export class Connection extends EventEmitter<ConnectionEvents> implements AsyncDisposable {
  readonly #socket: Duplex;
  readonly #options: ResolvedConnectionOptions;
  readonly #metrics: Metrics;
  readonly #outbox: Outbox;
  readonly #decoder: FrameDecoder;
  /** Channel 0 carries the connection's own methods. */
  readonly #control: CommandAssembler;
  readonly #handshake: MethodQueue;
  readonly #channels = new Map<number, ChannelCore>();
  readonly #channelLine: ChannelLine;
  /** Requests on channel 0. */
  readonly #pending = new PendingRequests();
  #numbers = new ChannelNumbers(0);
  #negotiated: Negotiated | undefined;
  #heartbeat: Heartbeat | undefined;
  #state: State = { name: 'handshake' };
  #progress: HandshakeProgress = { step: 'start' };
  /** What came before the first frame was recognised. */
  #greeting: Buffer | undefined = Buffer.alloc(0);
  #readAt = performance.now();
  /** How many have asked that nothing be read for now. */
  #pauses = 0;
  #blocked: string | undefined;
  #closeAnswered: (() => void) | undefined;

  /** @internal Made by `connect`. */
  constructor(socket: Duplex, options: ResolvedConnectionOptions, metrics: Metrics) {
    super();
    // As many wait for its end, or for the end of a block, as there are consumers and requesters.
    this.setMaxListeners(0);
    this.#socket = socket;
    this.#options = options;
    this.#metrics = metrics;
    this.#outbox = new Outbox(socket, metrics, options.dial === undefined);
    this.#handshake = new MethodQueue();
    this.#control = new CommandAssembler((method) => {
      this.#controlMethod(method);
    }, 0);
    this.#decoder = new FrameDecoder((type, channel, buffer, start, end) => {
      this.#frame(type, channel, buffer, start, end);
    });
    this.#channelLine = this.#lineForChannels();
    socket.on('data', (chunk: Buffer) => {
      this.#data(chunk);
    });
    socket.on('error', (cause: Error) => {
      this.#lost('the transport failed', cause);
    });
    socket.on('end', () => {
      this.#lost('the broker hung up');
    });
    socket.on('close', () => {
      this.#lost('the transport closed');
    });
  }

  /** What the broker says of itself: product, version, capabilities. */
  get serverProperties(): FieldTable {
    return this.#agreed.serverProperties;
  }

  /** Most channels at a time. */
  get channelMax(): number {
    return this.#agreed.channelMax;
  }

  /** Largest frame in bytes; 0 for no limit. */
  get frameMax(): number {
    return this.#agreed.frameMax;
  }

  /** Milliseconds between signs of life; 0 for none. */
  get heartbeat(): number {
    return this.#agreed.heartbeat * 1000;
  }

  /** False as soon as either side closes it. */
  get isOpen(): boolean {
    return this.#state.name === 'open';
  }

  /** True once it is closed, by whomever; not yet while `close()` awaits the broker's answer. */
  get hasEnded(): boolean {
    return this.#state.name === 'closed';
  }

  /** Why it ended; undefined while it is open, and when it was closed on purpose. */
  get endError(): AmqpError | undefined {
    return this.#state.name === 'closed' ? this.#state.error : undefined;
  }

  /** Why the broker takes no publishes at present; undefined while it does. */
  get blockedReason(): string | undefined {
    return this.#blocked;
  }

  /** What went over it. The object is live: its numbers go on counting. */
  get metrics(): ConnectionMetrics {
    return this.#metrics;
  }

  /** Bytes that were said and that the operating system has not taken yet. */
  get bufferedBytes(): number {
    return this.#outbox.backlog;
  }

  /** @internal Longest wait for an answer when closing, in milliseconds. */
  get closeTimeout(): number {
    return this.#options.closeTimeout;
  }

  /** Opens a channel, with `confirm` one that confirms publishes. Rejects with `CHANNEL_LIMIT` when all are in use. */
  channel(options: RequestOptions & { readonly confirm: true }): Promise<ConfirmChannel>;
  channel(options?: RequestOptions & { readonly confirm?: boolean | undefined }): Promise<Channel>;
  async channel({
    confirm = false,
    ...options
  }: RequestOptions & { readonly confirm?: boolean } = {}): Promise<Channel> {
    this.#assertOpen('channel.open');
    const number = this.#numbers.take();
    const core = new ChannelCore(number, this.#channelLine);
    this.#channels.set(number, core);
    const channel = new Channel(core);
    await core.open(options);
    if (!confirm) return channel;
    try {
      return await channel.confirmSelect(options);
    } catch (error) {
      // Nobody has the handle.
      void core.close();
      throw error;
    }
  }

  /**
   * Closes the connection and all its channels; what was published before leaves first. Resolves when it is closed, at the
   * latest after `closeTimeout`, also while the broker blocks it. Closing twice, or after an error, is no error.
   */
  async close(options: CloseOptions = {}): Promise<void> {
    switch (this.#state.name) {
      case 'closed':
        return;
      case 'closing':
        await this.#state.closed;
        return;
      case 'handshake':
      case 'open': {
        // The state first: a transport in memory may answer before this turn is over.
        let started: () => void = () => undefined;
        const closed = new Promise<void>((resolve) => {
          started = resolve;
        }).then(() => this.#close(options));
        this.#state = { name: 'closing', closed };
        started();
        await closed;
        return;
      }
      default:
        this.#state satisfies never;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Gives the broker a new password or token before the present one expires (https://www.rabbitmq.com/docs/oauth2). */
  async updateSecret(newSecret: string, reason = '', options?: RequestOptions): Promise<void> {
    await bounded('connection.update-secret', this.#options.requestTimeout, options, () => {
      return new Promise((resolve, reject) => {
        this.#assertOpen('connection.update-secret');
        const request = { name: 'connection.update-secret', consumerTag: undefined, resolve, reject } as const;
        const withdraw = this.#pending.add(request);
        try {
          this.#outbox.method(0, 'connection.update-secret', { newSecret, reason });
        } catch (error) {
          withdraw();
          throw error;
        }
      });
    });
  }

  /** @internal */
  async open(signal?: AbortSignal): Promise<this> {
    const onAbort = (): void => {
      this.#end(aborted(signal?.reason));
    };
    if (signal?.aborted === true) onAbort();
    const unlisten = signal && whenFired(signal, onAbort);
    const timer = setTimeout(() => {
      this.#handshakeTimedOut();
    }, this.#options.handshakeTimeout);
    try {
      const shaking = shakeHands(this.#handshakeLine(), this.#options, (progress) => {
        this.#progress = progress;
      });
      // A mechanism of the user's own may not answer at all.
      this.#negotiated = await Promise.race([shaking, this.#handshake.ended]);
    } catch (error) {
      this.#end(asAmqpError(error));
      throw error;
    } finally {
      clearTimeout(timer);
      unlisten?.();
    }
    // open-ok and a close may have come in one chunk.
    if (this.#state.name === 'closed') throw this.#state.reason;
    this.#numbers = new ChannelNumbers(this.#agreed.channelMax);
    this.#outbox.frameMax = this.#agreed.frameMax;
    this.#decoder.limit(this.#agreed.frameMax, this.#agreed.proposedFrameMax);
    this.#heartbeat = new Heartbeat(this.#heartbeatLine(), this.#agreed.heartbeat);
    this.#state = { name: 'open' };
    this.#metrics.connections += 1;
    // connection.blocked may have come in the same chunk as open-ok.
    for (const method of this.#handshake.rest()) this.#controlMethod(method);
    return this;
  }

  get #agreed(): Negotiated {
    if (this.#negotiated === undefined) throw new Error('nest-amqp: a connection was handed out before its handshake');
    return this.#negotiated;
  }

  // ── what others need of a connection ──────────────────────────────────────────────────────────────────────────────

  #lineForChannels(): ChannelLine {
    const outbox = this.#outbox;
    return {
      metrics: this.#metrics,
      memory: new ContentMemory(),
      maxMessageSize: this.#options.maxMessageSize,
      closeTimeout: this.#options.closeTimeout,
      requestTimeout: this.#options.requestTimeout,
      send: (channel, name, args) => {
        outbox.method(channel, name, args);
      },
      publish: (channel, exchange, routingKey, mandatory, properties, body) =>
        outbox.publish(channel, exchange, routingKey, mandatory, properties, body),
      ack: (channel, deliveryTag, multiple) => {
        outbox.ack(channel, deliveryTag, multiple);
      },
      writeLate: (late) => {
        outbox.writeLate(late);
      },
      pauseReading: () => this.#pauseReading(),
      isBlocked: () => this.#blocked !== undefined,
      drained: () => outbox.drained(),
      release: (channel) => {
        this.#channels.delete(channel);
        this.#numbers.release(channel);
      },
      callbackFailed: (error) => {
        this.#callbackFailed(error);
      },
    };
  }

  #handshakeLine(): HandshakeLine {
    return {
      sendRaw: (bytes) => {
        this.#outbox.raw(bytes);
      },
      send: (name, args) => {
        this.#outbox.method(0, name, args);
      },
      receive: () => this.#handshake.next(),
    };
  }

  #heartbeatLine(): HeartbeatLine {
    // What nobody reads proves nothing about the peer.
    const readAt = (): number => (this.#pauses > 0 ? performance.now() : this.#readAt);
    const wroteAt = (): number => this.#outbox.wroteAt;
    return {
      get readAt() {
        return readAt();
      },
      get wroteAt() {
        return wroteAt();
      },
      sendHeartbeat: () => {
        this.#outbox.heartbeat();
      },
      peerIsSilent: (seconds) => {
        this.#lost(`nothing came for ${seconds} s, not even heartbeats`);
      },
    };
  }

  // ── bytes in ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Stops reading until each that asked for it has called the function that it got. */
  #pauseReading(): () => void {
    let isPaused = true;
    this.#pauses += 1;
    this.#socket.pause();
    return () => {
      if (!isPaused) return;
      isPaused = false;
      this.#pauses -= 1;
      if (this.#pauses > 0) return;
      this.#readAt = performance.now();
      this.#socket.resume();
    };
  }

  /** The one place where bytes from the peer enter, and where whatever they break is caught. */
  #data(chunk: Buffer): void {
    if (this.#state.name === 'closed') return;
    this.#readAt = performance.now();
    this.#metrics.bytesReceived += chunk.length;
    try {
      const bytes = this.#greeting === undefined ? chunk : this.#greet(Buffer.concat([this.#greeting, chunk]));
      if (bytes !== undefined) this.#decoder.push(bytes);
    } catch (error) {
      this.#broken(asAmqpError(error));
    }
  }

  /** Looks at the first bytes for peers that do not speak AMQP 0-9-1; returns them once they are known to be frames. */
  #greet(bytes: Buffer): Buffer | undefined {
    const strange = strangeGreeting(bytes, this.#options);
    if (strange !== undefined) throw strange;
    this.#greeting = bytes[0] === 1 ? undefined : bytes;
    return this.#greeting === undefined ? bytes : undefined;
  }

  #frame(type: number, number: number, buffer: Buffer, start: number, end: number): void {
    if (this.#state.name === 'closed') return;
    if (type === FRAME_HEARTBEAT) {
      if (number !== 0) throw new ProtocolError(501, `The peer sent a heartbeat on channel ${number}.`);
    } else if (number === 0) {
      this.#control.frame(type, buffer, start, end);
    } else {
      const channel = this.#channels.get(number);
      if (channel !== undefined) channel.frame(type, buffer, start, end);
      // A late frame of a channel that has ended is no error; one of a number that was never opened is.
      else if (number > this.#numbers.highest) {
        throw new ProtocolError(504, `The peer sent a frame on channel ${number}, which was never opened.`);
      }
    }
  }

  #controlMethod(method: Method): void {
    if (method.name === 'connection.close') {
      this.#closedByServer(method.args);
      return;
    }
    if (this.#state.name === 'handshake') {
      this.#handshake.push(method);
      return;
    }
    switch (method.name) {
      case 'connection.close-ok':
        this.#closeAnswered?.();
        return;
      case 'connection.blocked': {
        const { reason } = method.args;
        this.#blocked = reason;
        this.#tell('blocked', reason);
        return;
      }
      case 'connection.unblocked':
        this.#blocked = undefined;
        this.#tell('unblocked');
        return;
      case 'connection.update-secret-ok':
        this.#pending.answer(method, undefined);
        return;
      default:
        throw new ProtocolError(503, `The peer sent ${method.name} on channel 0.`, { method: method.name });
    }
  }

  // ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async #close({ replyCode = 200, replyText = 'Goodbye' }: CloseOptions): Promise<void> {
    const answered = new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#options.closeTimeout);
      this.#closeAnswered = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#sendClose(replyCode, replyText);
    // The answer has to be read, whoever has asked to wait.
    this.#socket.resume();
    for (const channel of this.#channels.values()) channel.connectionClosing();
    await answered;
    this.#end(
      new AmqpError('CONNECTION_CLOSED', 'The connection was closed with close().', { closedBy: 'client' }),
      true,
    );
  }

  #closedByServer(args: MethodArgs<'connection.close'>): void {
    const method = methodName(args.classId, args.methodId);
    const error = new AmqpError(
      'CONNECTION_CLOSED',
      `The broker closed the connection to ${addressOf(this.#options)}: ${closeReason(args.replyCode, args.replyText, method)}`,
      { replyCode: args.replyCode, replyText: args.replyText, method, closedBy: 'server' },
    );
    this.#outbox.method(0, 'connection.close-ok', {});
    this.#outbox.flush();
    this.#end(error);
  }

  /** The peer broke the protocol: it is told why, and the connection ends. */
  #broken(error: AmqpError): void {
    // Whoever does not speak AMQP would not understand the goodbye.
    if (error instanceof ProtocolError && this.#progress.step !== 'start')
      this.#sendClose(error.replyCode, error.message);
    this.#end(error);
  }

  #lost(what: string, cause?: Error): void {
    if (this.#state.name === 'closed') return;
    this.#end(
      new AmqpError('CONNECTION_LOST', `The connection to ${addressOf(this.#options)} was lost: ${what}.`, {
        cause,
        closedBy: 'network',
      }),
    );
  }

  #handshakeTimedOut(): void {
    this.#end(
      new AmqpError(
        'HANDSHAKE_TIMEOUT',
        `${addressOf(this.#options)} accepted the connection and did not finish the AMQP handshake within ` +
          `${this.#options.handshakeTimeout} ms. Check that it is a broker that speaks AMQP 0-9-1, or raise handshakeTimeout.`,
      ),
    );
  }

  #sendClose(replyCode: number, text: string): void {
    // What was acknowledged in this turn is said before the goodbye.
    this.#outbox.flush();
    this.#outbox.method(0, 'connection.close', { replyCode, replyText: shortText(text), classId: 0, methodId: 0 });
    this.#outbox.flush();
  }

  /** The one way into `closed`. `orderly` when the user asked for it. */
  #end(reason: AmqpError, orderly = false): void {
    const state = this.#state.name;
    if (state === 'closed') return;
    const asked = orderly || state === 'closing';
    const error = asked ? undefined : reason;
    this.#state = { name: 'closed', reason, error };
    this.#heartbeat?.stop();
    this.#blocked = undefined;
    this.#handshake.fail(handshakeEnded(this.#progress, this.#options, reason));
    for (const channel of [...this.#channels.values()]) channel.connectionEnded(reason, asked);
    this.#pending.fail(reason);
    this.#outbox.end(reason);
    this.#closeAnswered?.();
    // What is written (close-ok, the reason of a close) still leaves; then both directions end. `destroySoon` of a socket.
    this.#socket.end(() => this.#socket.destroy());
    setTimeout(() => this.#socket.destroy(), LINGER).unref();
    if (state !== 'handshake') this.#tell('close', error);
  }

  #assertOpen(what: string): void {
    if (this.#state.name === 'open') return;
    const reason = this.#state.name === 'closed' ? this.#state.reason : undefined;
    throw new AmqpError(
      reason?.code ?? 'CONNECTION_CLOSED',
      `${what} cannot be sent: the connection ${reason === undefined ? 'is being closed.' : `has ended. ${reason.message}`}`,
      { cause: reason, replyCode: reason?.replyCode, replyText: reason?.replyText, closedBy: reason?.closedBy },
    );
  }

  #tell<E extends keyof ConnectionEvents>(event: E, ...args: ConnectionEvents[E]): void {
    tell(this, event, args, (error) => {
      this.#callbackFailed(error);
    });
  }

  #callbackFailed(error: unknown): void {
    if (this.listenerCount('callbackError') === 0) warnOf(error);
    else tell(this, 'callbackError', [error], warnOf);
  }
}

/** How long a closed transport may take to send what is left, in milliseconds. */
const LINGER = 500;

/** Methods that arrived before the handshake asked for them. */
class MethodQueue {
  /** Rejects when no more comes. */
  readonly ended: Promise<never>;
  readonly #methods: Method[] = [];
  #end: (error: AmqpError) => void = () => undefined;
  #waiting: { resolve: (method: Method) => void; reject: (error: AmqpError) => void } | undefined;
  #failed: AmqpError | undefined;

  constructor() {
    this.ended = new Promise<never>((_, reject) => {
      this.#end = reject;
    });
    this.ended.catch(() => undefined);
  }

  push(method: Method): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting === undefined) this.#methods.push(method);
    else waiting.resolve(method);
  }

  async next(): Promise<Method> {
    const method = this.#methods.shift();
    if (method !== undefined) return method;
    if (this.#failed !== undefined) throw this.#failed;
    return await new Promise<Method>((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  fail(error: AmqpError): void {
    this.#failed ??= error;
    this.#end(error);
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }

  rest(): readonly Method[] {
    return this.#methods.splice(0);
  }
}

/** What a bug or the peer threw, as this family's error. */
function asAmqpError(error: unknown): AmqpError {
  if (error instanceof AmqpError) return error;
  return new AmqpError('PROTOCOL_ERROR', 'The connection failed on bytes from the peer.', { cause: error });
}
