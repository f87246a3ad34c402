/**
 * A client of a broker in the protocol's own words: a test says each method and awaits each answer. It follows no rule by
 * itself, so that it can also break them. `ScriptedPeer` is the same from the other end.
 */
import type { Duplex } from 'node:stream';

import { CommandAssembler } from '../../lib/protocol/command.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import {
  FRAME_HEARTBEAT,
  PROTOCOL_HEADER,
  payloadLimit,
  writeBodyFrameHead,
  writeContentHead,
  writeFrameEnd,
  writeHeartbeat,
  writeMethodFrame,
} from '../../lib/protocol/frame.js';
import { FrameDecoder } from '../../lib/protocol/frame-decoder.js';
import type { Method, MethodArgs, MethodName } from '../../lib/protocol/methods.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { Inbox, within } from './waits.js';

/** What the broker sent. */
export interface Command<N extends MethodName = MethodName> {
  readonly channel: number;
  readonly name: N;
  readonly args: MethodArgs<N>;
  readonly properties: BasicProperties;
  readonly body: Buffer;
}

/** How a raw client opens its connection. */
export interface RawHandshake {
  readonly username?: string;
  readonly password?: string;
  readonly virtualHost?: string;
  readonly capabilities?: FieldTable;
  readonly channelMax?: number;
  readonly frameMax?: number;
  /** Seconds. @default 0 */
  readonly heartbeat?: number;
}

const CAPABILITIES: FieldTable = {
  publisher_confirms: true,
  'basic.nack': true,
  consumer_cancel_notify: true,
  'connection.blocked': true,
  authentication_failure_close: true,
};

export class RawClient {
  readonly transport: Duplex;
  readonly received = new Inbox<Command>();
  /** Resolves when the broker has ended its side. */
  readonly hungUp: Promise<void>;
  heartbeats = 0;
  /** The first bytes, where they are no frame: the header with which a broker refuses another version. */
  readonly greeting: Promise<Buffer>;
  readonly #writer = new WireWriter();
  readonly #assemblers = new Map<number, CommandAssembler>();
  readonly #decoder = new FrameDecoder((type, channel, buffer, start, end) => {
    if (type === FRAME_HEARTBEAT) this.heartbeats += 1;
    else this.#assemblerOf(channel).frame(type, buffer, start, end);
  });
  #frameMax = 131_072;

  constructor(transport: Duplex) {
    this.transport = transport;
    this.#decoder.limit(0, 0);
    let greeted: (bytes: Buffer) => void = () => undefined;
    this.greeting = new Promise((resolve) => {
      greeted = resolve;
    });
    transport.on('data', (chunk: Buffer) => {
      if (chunk[0] === PROTOCOL_HEADER[0] && this.received.all.length === 0) greeted(chunk);
      else this.#decoder.push(chunk);
    });
    // A broker that destroys its end is one way to hang up.
    transport.on('error', () => undefined);
    this.hungUp = new Promise((resolve) => {
      transport.once('end', resolve);
      transport.once('close', resolve);
    });
  }

  /** A client that has come as far as open-ok. */
  static async open(transport: Duplex, options: RawHandshake = {}): Promise<RawClient> {
    const client = new RawClient(transport);
    await client.handshake(options);
    return client;
  }

  async handshake(options: RawHandshake = {}): Promise<MethodArgs<'connection.start'>> {
    const { virtualHost = '/' } = options;
    const start = await this.handshakeUntilTune(options);
    this.send(0, 'connection.open', { virtualHost });
    await this.receive('connection.open-ok');
    return start;
  }

  /** Up to the client's tune-ok. */
  async handshakeUntilTune(options: RawHandshake = {}): Promise<MethodArgs<'connection.start'>> {
    const { channelMax = 2047, frameMax = 131_072, heartbeat = 0 } = options;
    const start = await this.login(options);
    await this.receive('connection.tune');
    this.#frameMax = frameMax;
    this.send(0, 'connection.tune-ok', { channelMax, frameMax, heartbeat });
    return start;
  }

  /** Up to the client's start-ok. */
  async login(options: RawHandshake = {}): Promise<MethodArgs<'connection.start'>> {
    const { username = 'guest', password = 'guest', capabilities = CAPABILITIES } = options;
    this.sendRaw(PROTOCOL_HEADER);
    const { args } = await this.receive('connection.start');
    this.send(0, 'connection.start-ok', {
      clientProperties: { product: 'raw', capabilities },
      mechanism: 'PLAIN',
      response: `\0${username}\0${password}`,
      locale: 'en_US',
    });
    return args;
  }

  async openChannel(channel: number): Promise<void> {
    this.send(channel, 'channel.open', {});
    await this.receive('channel.open-ok');
  }

  /** The next command, which has to be this one. */
  async receive<N extends MethodName>(name: N): Promise<Command<N>> {
    const command = await this.received.next(name);
    if (command.name !== name) {
      throw new Error(`The broker sent ${command.name} where ${name} was expected: ${JSON.stringify(command.args)}`);
    }
    return command as Command<N>;
  }

  /** The answer to a request. */
  async call<N extends MethodName, R extends MethodName>(
    channel: number,
    name: N,
    args: MethodArgs<N>,
    reply: R,
  ): Promise<Command<R>> {
    this.send(channel, name, args);
    return await this.receive(reply);
  }

  send<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): void {
    writeMethodFrame(this.#writer, 0, channel, name, args);
    this.transport.write(this.#writer.take());
  }

  publish(
    channel: number,
    args: Partial<MethodArgs<'basic.publish'>>,
    properties: BasicProperties = {},
    body: string | Uint8Array = '',
  ): void {
    const bytes = Buffer.from(body);
    const publish = { exchange: '', routingKey: '', mandatory: false, immediate: false, ...args };
    writeContentHead(this.#writer, 0, channel, 'basic.publish', publish, properties, bytes.length);
    const limit = payloadLimit(this.#frameMax);
    for (let start = 0; start < bytes.length; start += limit) {
      const part = bytes.subarray(start, start + limit);
      writeBodyFrameHead(this.#writer, channel, part.length);
      this.#writer.bytes(part);
      writeFrameEnd(this.#writer);
    }
    this.transport.write(this.#writer.take());
  }

  sendHeartbeat(): void {
    writeHeartbeat(this.#writer);
    this.transport.write(this.#writer.take());
  }

  sendRaw(bytes: Uint8Array): void {
    this.transport.write(bytes);
  }

  /** Resolves when the broker has hung up. */
  async end(): Promise<void> {
    await within('the end of the connection', this.hungUp);
  }

  #assemblerOf(channel: number): CommandAssembler {
    const known = this.#assemblers.get(channel);
    if (known !== undefined) return known;
    const assembler = new CommandAssembler((method: Method, content) => {
      this.received.push({
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
}
