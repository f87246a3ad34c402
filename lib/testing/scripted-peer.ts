/**
 * The other end of an AMQP connection, in memory and by hand: a test says what the broker says, and awaits what the client
 * says, in the protocol's own words. It follows no rule by itself, so that it can also break them.
 */
import { type Duplex, duplexPair } from 'node:stream';
import { CommandAssembler } from '../protocol/command.js';
import type { FieldTable } from '../protocol/field-table.js';
import {
  FRAME_HEARTBEAT,
  PROTOCOL_HEADER,
  payloadLimit,
  writeBodyFrameHead,
  writeContentHead,
  writeFrameEnd,
  writeHeartbeat,
  writeMethodFrame,
} from '../protocol/frame.js';
import { FrameDecoder } from '../protocol/frame-decoder.js';
import type { ContentMethodName, Method, MethodArgs, MethodName } from '../protocol/methods.js';
import type { BasicProperties } from '../protocol/properties.js';
import { WireWriter } from '../protocol/wire.js';

/** A method that the client sent; with `properties` and `body` where it carries a message. */
export interface ReceivedCommand<N extends MethodName = MethodName> {
  readonly channel: number;
  readonly name: N;
  readonly args: MethodArgs<N>;
  readonly properties: BasicProperties;
  readonly body: Buffer;
}

/** What the peer announces in the handshake. */
export interface ScriptedHandshake {
  /** @default 2047 */
  readonly channelMax?: number;
  /** @default 131072 */
  readonly frameMax?: number;
  /** Seconds. @default 0 */
  readonly heartbeat?: number;
  /** Space-separated. @default 'PLAIN AMQPLAIN' */
  readonly mechanisms?: string;
  readonly serverProperties?: FieldTable;
}

/** How long a `receive` waits before it fails, in milliseconds: longer than a busy machine is late, and shorter than Jest's 5 s. */
const PATIENCE = 4_000;

/**
 * The broker's end of one connection. It says only what it is told to, and keeps what the client says until it is received.
 *
 * @example
 * ```ts
 * const peer = new ScriptedPeer();
 * const connecting = connect({ dial: () => peer.transport });
 * await peer.handshake();
 * const connection = await connecting;
 * const opening = connection.channel();
 * await peer.openChannel();
 * const channel = await opening;
 * ```
 */
export class ScriptedPeer {
  /** The client's end: what `ConnectionOptions.dial` returns. */
  readonly transport: Duplex;
  /** Resolves when the client has ended its side. */
  readonly hungUp: Promise<void>;
  /** How many heartbeats came. */
  heartbeats = 0;
  readonly #socket: Duplex;
  readonly #writer = new WireWriter();
  readonly #decoder: FrameDecoder;
  readonly #assemblers = new Map<number, CommandAssembler>();
  readonly #received: ReceivedCommand[] = [];
  #header: Buffer | undefined = Buffer.alloc(0);
  #arrived: (() => void) | undefined;
  #frameMax = 0;
  #failure: unknown;

  constructor() {
    [this.#socket, this.transport] = duplexPair();
    this.#decoder = new FrameDecoder((type, channel, buffer, start, end) => {
      if (type === FRAME_HEARTBEAT) this.heartbeats += 1;
      else this.#assemblerOf(channel).frame(type, buffer, start, end);
    });
    this.#decoder.limit(0, 0);
    this.#socket.on('data', (chunk: Buffer) => {
      this.#data(chunk);
    });
    // A client that destroys its end is one way to hang up.
    this.#socket.on('error', () => undefined);
    this.hungUp = new Promise((resolve) => {
      this.#socket.once('end', resolve);
      this.#socket.once('close', resolve);
    });
  }

  /** Plays the broker's part of the handshake up to open-ok; resolves to what the client sent in start-ok. */
  async handshake(options: ScriptedHandshake = {}): Promise<MethodArgs<'connection.start-ok'>> {
    const startOk = await this.handshakeUntilTune(options);
    await this.receive('connection.tune-ok');
    await this.receive('connection.open');
    this.send(0, 'connection.open-ok', {});
    return startOk;
  }

  /** The first half of the handshake: start and tune are sent, the client's tune-ok is still to be received. */
  async handshakeUntilTune(options: ScriptedHandshake = {}): Promise<MethodArgs<'connection.start-ok'>> {
    const {
      channelMax = 2047,
      frameMax = 131_072,
      heartbeat = 0,
      mechanisms = 'PLAIN AMQPLAIN',
      serverProperties = {},
    } = options;
    await this.protocolHeader();
    this.send(0, 'connection.start', {
      versionMajor: 0,
      versionMinor: 9,
      serverProperties,
      mechanisms,
      locales: 'en_US',
    });
    const { args } = await this.receive('connection.start-ok');
    this.send(0, 'connection.tune', { channelMax, frameMax, heartbeat });
    this.#frameMax = frameMax;
    return args;
  }

  /** Resolves when the client has sent the protocol header of AMQP 0-9-1. */
  async protocolHeader(): Promise<void> {
    await this.#until('the protocol header', () => this.#header === undefined);
  }

  /** Receives channel.open and answers it; resolves to the channel's number. */
  async openChannel(): Promise<number> {
    const { channel } = await this.receive('channel.open');
    this.send(channel, 'channel.open-ok', {});
    return channel;
  }

  /** The next command of the client, which has to be this one. Rejects after 4 s. */
  async receive<N extends MethodName>(name: N): Promise<ReceivedCommand<N>> {
    await this.#until(name, () => this.#received.length > 0);
    const command = this.#received.shift() as ReceivedCommand;
    if (command.name !== name) throw new Error(`The client sent ${command.name} where ${name} was expected.`);
    return command as ReceivedCommand<N>;
  }

  /** Sends a method. */
  send<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): void {
    writeMethodFrame(this.#writer, 0, channel, name, args);
    this.#socket.write(this.#writer.take());
  }

  /** Sends a method with a message. */
  sendContent<N extends ContentMethodName>(
    channel: number,
    name: N,
    args: MethodArgs<N>,
    properties: BasicProperties,
    body: string | Uint8Array,
  ): void {
    const bytes = Buffer.from(body);
    writeContentHead(this.#writer, 0, channel, name, args, properties, bytes.length);
    const limit = payloadLimit(this.#frameMax);
    for (let start = 0; start < bytes.length; start += limit) {
      const part = bytes.subarray(start, start + limit);
      writeBodyFrameHead(this.#writer, channel, part.length);
      this.#writer.bytes(part);
      writeFrameEnd(this.#writer);
    }
    this.#socket.write(this.#writer.take());
  }

  sendHeartbeat(): void {
    writeHeartbeat(this.#writer);
    this.#socket.write(this.#writer.take());
  }

  /** Sends any bytes. */
  sendRaw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  /** Answers the next request of the client, whatever its name, and resolves to it. */
  async answer<N extends MethodName>(name: N, args: MethodArgs<N>): Promise<ReceivedCommand> {
    await this.#until(`a request to answer with ${name}`, () => this.#received.length > 0);
    const command = this.#received.shift() as ReceivedCommand;
    this.send(command.channel, name, args);
    return command;
  }

  /** Ends the connection as an orderly network would: the client reads its end. */
  hangUp(): void {
    this.#socket.end();
  }

  /** Stops reading, as a broker under a resource alarm does. */
  pauseReading(): void {
    this.#socket.pause();
  }

  resumeReading(): void {
    this.#socket.resume();
  }

  #data(chunk: Buffer): void {
    try {
      this.#decoder.push(this.#header === undefined ? chunk : this.#afterHeader(Buffer.concat([this.#header, chunk])));
    } catch (error) {
      this.#failure = error;
    }
    this.#arrived?.();
  }

  /** Takes the protocol header off the first bytes. */
  #afterHeader(bytes: Buffer): Buffer {
    if (bytes.length < PROTOCOL_HEADER.length) {
      this.#header = bytes;
      return Buffer.alloc(0);
    }
    this.#header = undefined;
    if (!bytes.subarray(0, PROTOCOL_HEADER.length).equals(PROTOCOL_HEADER))
      throw new Error('The client did not send AMQP 0-9-1.');
    return bytes.subarray(PROTOCOL_HEADER.length);
  }

  #assemblerOf(channel: number): CommandAssembler {
    const known = this.#assemblers.get(channel);
    if (known !== undefined) return known;
    const assembler = new CommandAssembler((method: Method, content) => {
      this.#received.push({
        channel,
        name: method.name,
        args: method.args,
        properties: content?.properties ?? {},
        body: content?.body ?? Buffer.alloc(0),
      });
    }, Number.MAX_SAFE_INTEGER);
    this.#assemblers.set(channel, assembler);
    return assembler;
  }

  async #until(what: string, arrived: () => boolean): Promise<void> {
    const deadline = performance.now() + PATIENCE;
    while (!arrived()) {
      if (this.#failure !== undefined)
        throw new Error('The client sent bytes that are no AMQP.', { cause: this.#failure });
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`The client did not send ${what} within ${PATIENCE} ms.`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#arrived = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
