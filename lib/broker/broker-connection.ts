/**
 * One connection to the embedded broker, from its protocol header to its last byte. What a channel does is the channels', what
 * leaves and when is the outbox's, and the handshake is the opening's.
 *
 * ```
 *   header ──► opening ──open-ok──► running ──error──► closing ──close-ok──► gone
 *      │          │                    │  connection.close, or the peer is gone ▲
 *      └──────────┴────────────────────┴────────────────────────────────────────┘
 * ```
 *
 * Nothing that a peer sends ends more than its own connection.
 */
import { ProtocolError } from '../errors.js';
import { CommandAssembler } from '../protocol/command.js';
import { FRAME_HEARTBEAT, FRAME_METHOD, PROTOCOL_HEADER } from '../protocol/frame.js';
import { FrameDecoder } from '../protocol/frame-decoder.js';
import type { Method, MethodArgs } from '../protocol/methods.js';
import { Heartbeat, type HeartbeatLine } from '../time/heartbeat.js';
import type { BrokerChannel } from './broker-channel.js';
import { BrokerError } from './broker-error.js';
import { BrokerOutbox, type OutboxOwner } from './broker-outbox.js';
import type { ConfirmingChannel, ConnectionLine } from './channel-line.js';
import { ChannelTable } from './channel-table.js';
import { BlamedError, closeFor, shortText } from './closing.js';
import type { Faults } from './faults.js';
import type { Transport } from './memory-line.js';
import { Opening, type Opened, OpeningRefused, hasCapability } from './opening.js';
import type { Users } from './users.js';
import type { VirtualHost } from './virtual-host.js';

/** RabbitMQ's handshake_timeout, in milliseconds. */
const HANDSHAKE_TIMEOUT = 10_000;
/** How long a peer may take to answer connection.close, in milliseconds. */
const CLOSING_TIMEOUT = 10_000;

/** What a connection needs of the broker. */
export interface ConnectionHost {
  readonly users: Users;
  readonly virtualHosts: ReadonlyMap<string, VirtualHost>;
  readonly maxMessageSize: number;
  readonly faults: Pick<Faults, 'blockedFor' | 'isPaused' | 'latency' | 'takesNack'>;
  /** Something was read, written or done. */
  moved(): void;
  ended(connection: BrokerConnection): void;
}

/** Why it is not read from: a blocked publisher, a client that does not read itself, a test that says so. */
type Hold = 'blocked' | 'congested' | 'paused';

export class BrokerConnection implements ConnectionLine, HeartbeatLine, OutboxOwner {
  readonly outbox: BrokerOutbox;
  readonly #host: ConnectionHost;
  readonly #transport: Transport;
  readonly #decoder: FrameDecoder;
  readonly #opening: Opening;
  readonly #channelZero: CommandAssembler;
  readonly #holds = new Set<Hold>();
  readonly #confirming = new Set<ConfirmingChannel>();
  #state: 'header' | 'opening' | 'running' | 'closing' | 'gone' = 'header';
  #header: Buffer = Buffer.alloc(0);
  #opened: Opened | undefined;
  #table: ChannelTable | undefined;
  #heartbeat: Heartbeat | undefined;
  #timer: NodeJS.Timeout | undefined;
  #readAt = performance.now();
  #isHandling = false;
  #afterwards: (() => void)[] = [];
  /** What comes is no AMQP any more, and not looked at. */
  #isDeaf = false;

  constructor(transport: Transport, host: ConnectionHost) {
    this.#host = host;
    this.#transport = transport;
    this.outbox = new BrokerOutbox(transport, this);
    this.outbox.latency = () => host.faults.latency;
    this.#opening = new Opening(this.outbox, host.users, host.virtualHosts);
    this.#decoder = new FrameDecoder((type, channel, buffer, start, end) => {
      this.#frame(type, channel, buffer, start, end);
    });
    this.#channelZero = new CommandAssembler((method) => this.#connectionMethod(method), 0);
    this.#endWithin(HANDSHAKE_TIMEOUT);
    transport.on('data', (chunk: Buffer) => this.#data(chunk));
    // An error is followed by the close.
    transport.on('error', () => undefined);
    transport.once('end', () => {
      // What was said last is still to leave.
      if (this.#state !== 'closing') this.#gone();
    });
    transport.once('close', () => this.#gone());
    if (host.faults.isPaused) this.#hold('paused');
  }

  // What the broker and its inspection ask.

  /** What was agreed on; undefined before the handshake is through, and when the connection is on its way out. */
  get opened(): Opened | undefined {
    return this.#state === 'running' ? this.#opened : undefined;
  }

  get channels(): BrokerChannel[] {
    return this.#table?.channels ?? [];
  }

  get isBlocked(): boolean {
    return this.#holds.has('blocked');
  }

  /** How many channels have confirms to say with the next batch. */
  get confirmingCount(): number {
    return this.#confirming.size;
  }

  /** Ends it as a crash of the broker does. Node never lets go of a socket that is reset while it is saying its end. */
  drop(): void {
    this.#transport[this.#transport.writableEnded ? 'destroy' : 'resetAndDestroy']();
    this.#gone();
  }

  /** Ends it in an orderly way, as a broker does that is shut down. */
  close(replyCode: number, replyText: string): void {
    if (this.#state !== 'running') {
      this.#transport.destroy();
      return;
    }
    this.#sayGoodbye('connection.close', { replyCode, replyText: shortText(replyText), classId: 0, methodId: 0 });
    this.outbox.hurry();
    // Publishes that wait behind it are not carried out any more, and close-ok has to be read.
    this.#release('blocked');
    this.#release('paused');
  }

  block(reason: string): void {
    if (this.#understandsBlocked) this.outbox.method(0, 'connection.blocked', { reason: shortText(reason) });
  }

  unblock(): void {
    this.#release('blocked');
    if (this.#understandsBlocked) this.outbox.method(0, 'connection.unblocked', {});
  }

  get #understandsBlocked(): boolean {
    return this.opened !== undefined && hasCapability(this.opened.clientProperties, 'connection.blocked');
  }

  pauseReading(): void {
    this.#hold('paused');
  }

  resumeReading(): void {
    this.#release('paused');
  }

  // What the channels ask.

  get #agreed(): Opened {
    if (this.#opened === undefined) throw new Error('nest-amqp: a channel was opened before its connection');
    return this.#opened;
  }

  get virtualHost(): VirtualHost {
    return this.#agreed.virtualHost;
  }

  get user(): string {
    return this.#agreed.user;
  }

  get owner(): object {
    return this;
  }

  get maxMessageSize(): number {
    return this.#host.maxMessageSize;
  }

  get notifiesOfCancel(): boolean {
    return hasCapability(this.#agreed.clientProperties, 'consumer_cancel_notify');
  }

  get hasRoom(): boolean {
    return !this.outbox.isCongested && this.#state === 'running';
  }

  afterwards(run: () => void): void {
    if (this.#isHandling) this.#afterwards.push(run);
    else run();
  }

  confirmLater(channel: ConfirmingChannel): void {
    this.#confirming.add(channel);
    this.outbox.schedule();
  }

  takesNack(): boolean {
    return this.#host.faults.takesNack();
  }

  // What the outbox says.

  beforeFlush(): void {
    if (this.#confirming.size === 0) return;
    const confirming = [...this.#confirming];
    this.#confirming.clear();
    for (const channel of confirming) channel.sayConfirms();
  }

  moved(): void {
    this.#host.moved();
  }

  congested(): void {
    this.#hold('congested');
  }

  drained(): void {
    this.#release('congested');
    for (const channel of this.channels) channel.deliveries.wakeAll();
  }

  overflowed(): void {
    this.#transport.destroy();
  }

  // What the heartbeat asks.

  /** Whoever is not read from is not silent. */
  get readAt(): number {
    return this.#holds.size > 0 ? performance.now() : this.#readAt;
  }

  get wroteAt(): number {
    return this.outbox.wroteAt;
  }

  sendHeartbeat(): void {
    this.outbox.heartbeat();
  }

  peerIsSilent(): void {
    this.#transport.destroy();
  }

  // Reading.

  #hold(reason: Hold): void {
    this.#holds.add(reason);
    this.#transport.pause();
  }

  #release(reason: Hold): void {
    if (!this.#holds.delete(reason) || this.#holds.size > 0) return;
    this.#readAt = performance.now();
    this.#transport.resume();
  }

  #data(chunk: Buffer): void {
    if (this.#isDeaf) return;
    this.#readAt = performance.now();
    this.#host.moved();
    try {
      if (this.#state === 'header') this.#protocolHeader(chunk);
      else this.#decoder.push(chunk);
    } catch (error) {
      // Where the next frame begins is unknown.
      this.#isDeaf = true;
      this.#failed(error, 0);
      this.outbox.endAfterwards();
    }
    this.#host.moved();
  }

  /** Another version, or another protocol, is answered with the header of this one (specification, section 4.2.2). */
  #protocolHeader(chunk: Buffer): void {
    this.#header = Buffer.concat([this.#header, chunk]);
    if (this.#header.length < PROTOCOL_HEADER.length) return;
    const header = this.#header.subarray(0, PROTOCOL_HEADER.length);
    const rest = this.#header.subarray(PROTOCOL_HEADER.length);
    this.#header = Buffer.alloc(0);
    if (!header.equals(PROTOCOL_HEADER)) {
      this.#isDeaf = true;
      this.outbox.raw(PROTOCOL_HEADER);
      this.outbox.endAfterwards();
      return;
    }
    this.#state = 'opening';
    this.#opening.start();
    this.#decoder.push(rest);
  }

  #frame(type: number, channel: number, buffer: Buffer, start: number, end: number): void {
    if (this.#isDeaf || this.#state === 'gone') return;
    this.#isHandling = true;
    try {
      if (type === FRAME_HEARTBEAT) checkHeartbeat(channel, end - start);
      else if (channel === 0) this.#channelZero.frame(type, buffer, start, end);
      else if (this.#state === 'opening') throw new OpeningRefused();
      else if (this.#state === 'running') this.#table?.frame(type, channel, buffer, start, end);
    } catch (error) {
      const hasId = type === FRAME_METHOD && end - start >= 4;
      this.#failed(error, hasId ? buffer.readUInt32BE(start) : 0);
    }
    this.#isHandling = false;
    while (this.#afterwards.length > 0) this.#afterwards.shift()?.();
  }

  #connectionMethod(method: Method): void {
    if (this.#state === 'opening') {
      this.#continueOpening(method);
    } else if (method.name === 'connection.close') {
      this.#closedByClient();
    } else if (this.#state === 'closing') {
      if (method.name === 'connection.close-ok') this.outbox.endAfterwards();
    } else if (method.name === 'connection.update-secret') {
      // RabbitMQ's own users have no secret that ends: it takes any.
      this.outbox.method(0, 'connection.update-secret-ok', {});
    } else {
      throw new BrokerError('connection', 504, `CHANNEL_ERROR - unexpected method in connection state ${this.#state}`);
    }
  }

  #continueOpening(method: Method): void {
    const opened = this.#opening.receive(method);
    if (opened === undefined) return;
    clearTimeout(this.#timer);
    this.#opened = opened;
    this.#table = new ChannelTable(this, opened.channelMax, () => {
      if (this.#host.faults.blockedFor !== undefined) this.#hold('blocked');
    });
    this.#state = 'running';
    this.outbox.frameMax = opened.frameMax;
    this.#decoder.limit(opened.frameMax, opened.frameMax);
    this.#heartbeat = new Heartbeat(this, opened.heartbeat);
    if (this.#host.faults.blockedFor !== undefined) this.block(this.#host.faults.blockedFor);
  }

  // Ending.

  #closedByClient(): void {
    this.#sayGoodbye('connection.close-ok', {});
    this.outbox.endAfterwards();
  }

  /** @param id - class and method of the frame in hand, in one number; 0 for none */
  #failed(error: unknown, id: number): void {
    if (this.#state === 'gone') return;
    if (this.#state === 'closing') {
      // Nothing more is to be expected of it.
      this.outbox.endAfterwards();
      return;
    }
    const isTold = error instanceof BrokerError || error instanceof BlamedError;
    if (this.#state === 'running' || isTold) {
      this.#sayGoodbye('connection.close', closeFor(error, id));
      return;
    }
    this.#isDeaf = true;
    this.outbox.endAfterwards();
    this.#endWithin(CLOSING_TIMEOUT);
  }

  #sayGoodbye<N extends 'connection.close' | 'connection.close-ok'>(name: N, args: MethodArgs<N>): void {
    this.beforeFlush();
    this.#endChannels();
    this.#state = 'closing';
    this.outbox.method(0, name, args);
    this.#endWithin(CLOSING_TIMEOUT);
  }

  #endChannels(): void {
    this.#table?.end();
    this.#opened?.virtualHost.release(this);
  }

  #endWithin(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#transport.destroy(), ms);
    this.#timer.unref();
  }

  #gone(): void {
    if (this.#state === 'gone') return;
    this.#state = 'gone';
    clearTimeout(this.#timer);
    this.#heartbeat?.stop();
    this.outbox.end();
    this.#confirming.clear();
    this.#endChannels();
    if (!this.#transport.destroyed) this.#transport.destroy();
    this.#host.ended(this);
    this.#host.moved();
  }
}

function checkHeartbeat(channel: number, length: number): void {
  if (channel !== 0) throw new ProtocolError(505, `The peer sent a heartbeat on channel ${channel}.`);
  if (length !== 0) throw new ProtocolError(501, `The peer sent a heartbeat with ${length} bytes in it.`);
}
