/**
 * A client of the broker under test by hand, the counterpart of `ScriptedPeer`: a test says what the client says, in the
 * protocol's own words, and awaits what the broker says. It follows no rule by itself, so that it can also break them.
 */
import { once } from 'node:events';
import { type Socket, connect as connectTcp } from 'node:net';

import { CommandAssembler } from '../../lib/protocol/command.js';
import {
  FRAME_HEARTBEAT,
  PROTOCOL_HEADER,
  writeBodyFrameHead,
  writeContentHead,
  writeFrameEnd,
  writeMethodFrame,
} from '../../lib/protocol/frame.js';
import { FrameDecoder } from '../../lib/protocol/frame-decoder.js';
import type { MethodArgs, MethodName } from '../../lib/protocol/methods.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { brokerUrl } from './broker.mjs';
import { Inbox, within } from './waits.js';

/** A method that the broker sent; with `properties` and `body` where it carries a message. */
export interface BrokerCommand<N extends MethodName = MethodName> {
  readonly channel: number;
  readonly name: N;
  readonly args: MethodArgs<N>;
  readonly properties: BasicProperties;
  readonly body: string;
}

/** What the client says in the handshake. */
export interface BareHandshake {
  readonly mechanism?: string;
  /** What it answers to connection.start, by default as the user guest. */
  readonly response?: string;
  readonly virtualHost?: string;
  /** @default that of connection.tune */
  readonly frameMax?: number;
  /** @default that of connection.tune */
  readonly channelMax?: number;
  /** @default consumer_cancel_notify and authentication_failure_close, as most clients have it */
  readonly capabilities?: Readonly<Record<string, boolean>>;
}

export class BareClient implements AsyncDisposable {
  /** Resolves when the broker has ended the connection. */
  readonly hungUp: Promise<unknown>;
  /** What came, in order. */
  readonly commands = new Inbox<BrokerCommand>();
  /** What the broker sent before its first frame: another protocol header, if anything. */
  readonly raw: Buffer[] = [];
  readonly #socket: Socket;
  readonly #writer = new WireWriter();
  readonly #assemblers = new Map<number, CommandAssembler>();

  /** A connection over which nothing was said. */
  static async dial(): Promise<BareClient> {
    const { hostname, port } = new URL(brokerUrl);
    const socket = connectTcp({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: port === '' ? 5672 : Number(port),
      noDelay: true,
    });
    const client = new BareClient(socket);
    await once(socket, 'connect');
    return client;
  }

  /** A connection after its handshake, with channel 1 open. */
  static async open(handshake?: BareHandshake): Promise<BareClient> {
    const client = await BareClient.dial();
    await client.startUntilTune(handshake);
    await client.openFrom(handshake);
    client.send(1, 'channel.open', {});
    await client.receive('channel.open-ok');
    return client;
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.hungUp = new Promise((resolve) => socket.once('close', resolve));
    const decoder = new FrameDecoder((type, channel, buffer, start, end) => {
      if (type !== FRAME_HEARTBEAT) this.#assemblerOf(channel).frame(type, buffer, start, end);
    });
    decoder.limit(0, 0);
    // A broker that has enough of a client may reset the connection.
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      if (chunk.toString('latin1', 0, 4) === 'AMQP') this.raw.push(chunk);
      else decoder.push(chunk);
    });
  }

  /** The first half of the handshake; resolves to what the broker said in start. */
  async startUntilTune(handshake: BareHandshake = {}): Promise<MethodArgs<'connection.start'>> {
    this.sendRaw(PROTOCOL_HEADER);
    const { args } = await this.receive('connection.start');
    const capabilities = handshake.capabilities ?? { consumer_cancel_notify: true, authentication_failure_close: true };
    this.send(0, 'connection.start-ok', {
      clientProperties: { product: 'by hand', capabilities },
      mechanism: handshake.mechanism ?? 'PLAIN',
      response: handshake.response ?? `\0${user.name}\0${user.password}`,
      locale: 'en_US',
    });
    return args;
  }

  /** The second half; the answer to connection.open is still to be received when it is not open-ok. */
  async openFrom({ virtualHost = '/', ...limits }: BareHandshake = {}): Promise<void> {
    const { args } = await this.receive('connection.tune');
    const { frameMax = args.frameMax, channelMax = args.channelMax } = limits;
    this.send(0, 'connection.tune-ok', { channelMax, frameMax, heartbeat: 0 });
    this.send(0, 'connection.open', { virtualHost });
    if (virtualHost === '/') await this.receive('connection.open-ok');
  }

  send<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): void {
    writeMethodFrame(this.#writer, 0, channel, name, args);
    this.#socket.write(this.#writer.take());
  }

  publish(
    channel: number,
    args: Partial<MethodArgs<'basic.publish'>>,
    properties: BasicProperties = {},
    body = '',
  ): void {
    const bytes = Buffer.from(body);
    const all = { exchange: '', routingKey: '', mandatory: false, immediate: false, ...args };
    writeContentHead(this.#writer, 0, channel, 'basic.publish', all, properties, bytes.length);
    if (bytes.length > 0) {
      writeBodyFrameHead(this.#writer, channel, bytes.length);
      this.#writer.bytes(bytes);
      writeFrameEnd(this.#writer);
    }
    this.#socket.write(this.#writer.take());
  }

  /** Any bytes. */
  sendRaw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  /** Ends its side of the connection. */
  end(): void {
    this.#socket.end();
  }

  /** The next command of the broker, which has to be this one. */
  async receive<N extends MethodName>(name: N): Promise<BrokerCommand<N>> {
    const command = await this.commands.next(name);
    if (command.name !== name) {
      throw new Error(`The broker sent ${command.name} (${JSON.stringify(command.args)}) instead of ${name}.`);
    }
    return command as BrokerCommand<N>;
  }

  /** How the broker ends channel 1; the close is answered. */
  async channelClosed(): Promise<MethodArgs<'channel.close'>> {
    const { args, channel } = await this.receive('channel.close');
    this.send(channel, 'channel.close-ok', {});
    return args;
  }

  /** How the broker ends the connection; the close is answered, and the broker hangs up. */
  async connectionClosed(): Promise<MethodArgs<'connection.close'>> {
    const { args } = await this.receive('connection.close');
    this.send(0, 'connection.close-ok', {});
    await within('the end of the connection', this.hungUp);
    return args;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    await within('the end of the connection', this.hungUp);
  }

  #assemblerOf(channel: number): CommandAssembler {
    const known = this.#assemblers.get(channel);
    if (known !== undefined) return known;
    const assembler = new CommandAssembler((method, content) => {
      const { name, args } = method;
      this.commands.push({
        channel,
        name,
        args,
        properties: content?.properties ?? {},
        body: content?.body.toString() ?? '',
      });
    }, Number.MAX_SAFE_INTEGER);
    this.#assemblers.set(channel, assembler);
    return assembler;
  }
}

const user = credentialsOf(new URL(brokerUrl));

function credentialsOf({ username, password }: URL): { readonly name: string; readonly password: string } {
  if (username === '') return { name: 'guest', password: 'guest' };
  return { name: decodeURIComponent(username), password: decodeURIComponent(password) };
}
