/**
 * What the tests of this folder share: a channel on the broker under test with queues of its own, and frames by hand for
 * what no broker can be made to send. It expects nothing of its own accord, but for the shape of a protocol error.
 */
import { expect } from '@jest/globals';
import { once } from 'node:events';

import { AmqpConnection, type AmqpConnectionOptions } from '../../lib/client/amqp-connection.js';
import type { Channel, ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { ConnectionOptions } from '../../lib/client/connection-options.js';
import type { Message } from '../../lib/client/message.js';
import type { AmqpError } from '../../lib/errors.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import type { MethodArgs } from '../../lib/protocol/methods.js';
import { type ScriptedHandshake, ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, isRabbitMq3, isRabbitMq43, scriptedChannel } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { Inbox, eventually, within } from '../support/waits.js';

/** One connection and channel on the broker under test; all that it makes is gone at its end. */
export class Bench implements AsyncDisposable {
  readonly scratch: Scratch;
  readonly connection: Connection;
  readonly channel: Channel;

  static async open(options?: ConnectionOptions): Promise<Bench> {
    const scratch = await Scratch.open();
    const connection = await connect(brokerUrl, options);
    return new Bench(scratch, connection, await connection.channel());
  }

  private constructor(scratch: Scratch, connection: Connection, channel: Channel) {
    this.scratch = scratch;
    this.connection = connection;
    this.channel = channel;
  }

  /** A server-named queue of this connection, with these messages ready. */
  async queueWith(...bodies: (string | Buffer)[]): Promise<string> {
    const { queue } = await this.channel.queueDeclare();
    const confirming = await this.confirming();
    await Promise.all(bodies.map((body) => confirming.basicPublish('', queue, body)));
    await confirming.close();
    return queue;
  }

  /** A server-named queue of this connection, which stays when its consumers go. */
  async queue(args: FieldTable = {}): Promise<string> {
    return (await this.channel.queueDeclare('', { autoDelete: false, arguments: args })).queue;
  }

  async confirming(): Promise<ConfirmChannel> {
    return await this.connection.channel({ confirm: true });
  }

  /** Whether the broker is a RabbitMQ below 4.0, where that and the later ones differ. The embedded one does as 4.0. */
  get isRabbitMq3(): boolean {
    return isRabbitMq3(this.connection);
  }

  /** Whether the broker is RabbitMQ 4.3 or later, where those and 4.0 differ. */
  get isRabbitMq43(): boolean {
    return isRabbitMq43(this.connection);
  }

  /** The next message of a queue, taken out of it. */
  async take(queue: string): Promise<Message | undefined> {
    return (await this.channel.basicGet(queue, { noAck: true }))?.message;
  }

  async text(queue: string): Promise<string | undefined> {
    return (await this.take(queue))?.body.toString();
  }

  /** Resolves when so many messages are ready; the broker may count before it has taken in what was sent before. */
  async ready(queue: string, count: number): Promise<void> {
    await eventually(`${count} messages in ${queue}`, async () =>
      (await this.channel.queueDeclare(queue, { passive: true })).messageCount === count ? true : undefined,
    );
  }

  /** What comes to a queue, as it comes, taken out of it. */
  async arrivals(queue: string): Promise<Inbox<Message>> {
    const arrivals = new Inbox<Message>();
    await this.channel.basicConsume(queue, arrivals.push, { noAck: true });
    return arrivals;
  }

  /** All that is ready in a queue, taken out of it. */
  async drain(queue: string): Promise<string[]> {
    const bodies: string[] = [];
    for (let body = await this.text(queue); body !== undefined; body = await this.text(queue)) bodies.push(body);
    return bodies;
  }

  /** The error with which the broker ends a channel of its own for this. */
  async refusal(work: (channel: Channel) => Promise<unknown>): Promise<AmqpError> {
    return await failure(work(await this.connection.channel()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection.close();
    await this.scratch[Symbol.asyncDispose]();
  }
}

export const text = (message: Message): string => message.body.toString();

/** The fields of a delivery to consumer `c`. */
export function deliver(deliveryTag: number): MethodArgs<'basic.deliver'> {
  return { consumerTag: 'c', deliveryTag, redelivered: false, exchange: '', routingKey: 'q' };
}

/** Any frame as bytes. */
export function rawFrame(type: number, channel: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(7);
  head.writeUInt8(type, 0);
  head.writeUInt16BE(channel, 1);
  head.writeUInt32BE(payload.length, 3);
  return Buffer.concat([head, payload, Buffer.from([0xce])]);
}

/** The frame of a content header without properties. */
export function headerFrame(channel: number, bodySize: bigint): Buffer {
  const payload = Buffer.alloc(14);
  payload.writeUInt16BE(60, 0);
  payload.writeBigUInt64BE(bodySize, 4);
  return rawFrame(2, channel, payload);
}

/** A recovering connection, and a scripted peer for each of its dials. */
export class Peers {
  readonly amqp: AmqpConnection;
  readonly #dialled = new Inbox<ScriptedPeer>();

  constructor(options: AmqpConnectionOptions = {}) {
    const dial = (): ScriptedPeer['transport'] => {
      const peer = new ScriptedPeer();
      this.#dialled.push(peer);
      return peer.transport;
    };
    this.amqp = new AmqpConnection(undefined, { dial, closeTimeout: 0, ...QUICK, ...options });
    this.amqp.openInBackground();
  }

  get count(): number {
    return this.#dialled.all.length;
  }

  /** The peer of the next dial, which has said nothing. */
  async next(): Promise<ScriptedPeer> {
    return await this.#dialled.next('the next dial');
  }

  /** The peer of the next dial, after its handshake. */
  async opened(): Promise<ScriptedPeer> {
    const peer = await this.next();
    await peer.handshake();
    return peer;
  }
}

/** A recovery that does not make a test wait. */
export const QUICK = { recovery: { initialDelay: 1, maxDelay: 5 } };

/** A channel of the scripted peer with consumer `c`, whose messages go to `onMessage`. */
export async function consuming(
  onMessage: (message: Message) => unknown,
  options: ConnectionOptions = {},
  handshake: ScriptedHandshake = {},
): Promise<{ readonly peer: ScriptedPeer; readonly connection: Connection; readonly channel: Channel }> {
  const all = await scriptedChannel({ closeTimeout: 0, ...options }, handshake);
  const started = all.channel.basicConsume('q', onMessage, { consumerTag: 'c' });
  await all.peer.answer('basic.consume-ok', { consumerTag: 'c' });
  await started;
  return all;
}

/** The reply code with which the client closes the connection when the peer sends these bytes on an open channel 1. */
export async function verdictOn(bytes: Buffer, handshake: ScriptedHandshake = {}): Promise<number> {
  const { peer, connection } = await scriptedChannel({}, handshake);
  const ended = once(connection, 'close') as Promise<[AmqpError]>;
  peer.sendRaw(bytes);
  const [error] = await within('the end of the connection', ended);
  const { replyCode } = (await peer.receive('connection.close')).args;
  expect(error).toMatchObject({ code: 'PROTOCOL_ERROR', replyCode });
  await within('the end of the transport', peer.hungUp);
  return replyCode;
}
