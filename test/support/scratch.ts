/**
 * Queues and exchanges of one test on the test broker: under names that nobody else has, looked into through a connection of
 * its own, and deleted at the end.
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { type Socket, connect as connectTcp } from 'node:net';

import type { Channel } from '../../lib/client/channel.js';
import type { ExchangeDeclareOptions, PublishOptions, QueueDeclareOptions } from '../../lib/client/channel-options.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { brokerUrl } from './broker.mjs';
import { eventually } from './waits.js';

/** A message as it lay in a queue. */
export interface StoredMessage {
  readonly body: Buffer;
  readonly properties: BasicProperties;
  readonly exchange: string;
  readonly routingKey: string;
  readonly redelivered: boolean;
}

export class Scratch implements AsyncDisposable {
  readonly #connection: Connection;
  readonly #queues: string[] = [];
  readonly #exchanges: string[] = [];

  static async open(url = brokerUrl): Promise<Scratch> {
    return new Scratch(await connect(url));
  }

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** A name for a queue, which is not declared. */
  queueName(): string {
    const name = `test.queue.${randomUUID()}`;
    this.#queues.push(name);
    return name;
  }

  /** A queue that somebody else declares, and that is deleted at the end; returns its name. */
  owns(name: string): string {
    this.#queues.push(name);
    return name;
  }

  /** A name for an exchange, which is not declared. */
  exchangeName(): string {
    const name = `test.exchange.${randomUUID()}`;
    this.#exchanges.push(name);
    return name;
  }

  async queue({ name = this.queueName(), ...options }: QueueDeclareOptions & { name?: string } = {}): Promise<string> {
    await this.#with((channel) => channel.queueDeclare(name, options));
    return name;
  }

  async exchange(
    type: string,
    { name = this.exchangeName(), ...options }: ExchangeDeclareOptions & { name?: string } = {},
  ): Promise<string> {
    await this.#with((channel) => channel.exchangeDeclare(name, type, options));
    return name;
  }

  async bind(queue: string, exchange: string, routingKey?: string): Promise<void> {
    await this.#with((channel) => channel.queueBind(queue, exchange, routingKey));
  }

  async unbind(queue: string, exchange: string, routingKey?: string): Promise<void> {
    await this.#with((channel) => channel.queueUnbind(queue, exchange, routingKey));
  }

  /** Declares a queue that is there: the broker compares, and refuses what is not so. */
  async declared(queue: string, options: QueueDeclareOptions): Promise<void> {
    await this.#with((channel) => channel.queueDeclare(queue, options));
  }

  /** A queue, and the queue that its rejected messages go to. */
  async queueWithDeadLetters(): Promise<{ queue: string; dead: string }> {
    const dead = await this.queue();
    const queue = await this.queue({
      arguments: { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': dead },
    });
    return { queue, dead };
  }

  async deleteExchange(exchange: string): Promise<void> {
    await this.#with((channel) => channel.exchangeDelete(exchange));
  }

  async delete(queue: string): Promise<void> {
    await this.#with((channel) => channel.queueDelete(queue));
  }

  /** Resolves when the broker has it; rejects with `UnroutableError` when no queue does. */
  async publish(exchange: string, routingKey: string, body: string): Promise<void> {
    const channel = await this.#connection.channel({ confirm: true });
    try {
      await channel.basicPublish(exchange, routingKey, body, { mandatory: true });
    } finally {
      await channel.close();
    }
  }

  /** Resolves when the broker has it. */
  async send(queue: string, body: string | Uint8Array, options?: PublishOptions): Promise<void> {
    const channel = await this.#connection.channel({ confirm: true });
    await channel.basicPublish('', queue, body, { mandatory: true, ...options });
    await channel.close();
  }

  async sendJson(queue: string, payload: unknown, options?: PublishOptions): Promise<void> {
    await this.send(queue, JSON.stringify(payload), { contentType: 'application/json', ...options });
  }

  /** In order, over one channel: as many as there are take no longer than one. */
  async sendAllJson(queue: string, payloads: readonly unknown[]): Promise<void> {
    const channel = await this.#connection.channel({ confirm: true });
    const options = { mandatory: true, contentType: 'application/json' };
    await Promise.all(payloads.map((payload) => channel.basicPublish('', queue, JSON.stringify(payload), options)));
    await channel.close();
  }

  /** Messages that are ready, and consumers; undefined when there is no such queue. */
  async state(queue: string): Promise<{ messageCount: number; consumerCount: number } | undefined> {
    try {
      return await this.#with((channel) => channel.queueDeclare(queue, { passive: true }));
    } catch (error) {
      if ((error as { replyCode?: number }).replyCode === 404) return undefined;
      throw error;
    }
  }

  /** Resolves when so many messages are ready in the queue. */
  async hasMessages(queue: string, count: number): Promise<void> {
    await eventually(`${count} messages in ${queue}`, async () =>
      (await this.state(queue))?.messageCount === count ? true : undefined,
    );
  }

  /** Resolves when there is no such queue. RabbitMQ 4.3 may hold an exclusive one (405) for a moment after its connection was closed. */
  async isGone(queue: string): Promise<void> {
    await eventually(`the end of ${queue}`, async () => {
      try {
        return (await this.state(queue)) === undefined ? true : undefined;
      } catch (error) {
        if ((error as { replyCode?: number }).replyCode === 405) return undefined;
        throw error;
      }
    });
  }

  /** Resolves when so many consumers are on the queue. */
  async hasConsumers(queue: string, count: number): Promise<void> {
    await eventually(`${count} consumers of ${queue}`, async () =>
      (await this.state(queue))?.consumerCount === count ? true : undefined,
    );
  }

  /** Takes the next message out, waiting until there is one. */
  async take(queue: string): Promise<StoredMessage> {
    await eventually(`the queue ${queue}`, () => this.state(queue));
    return await this.#with((channel) =>
      eventually(`a message in ${queue}`, async () => (await channel.basicGet(queue, { noAck: true }))?.message),
    );
  }

  /** Takes everything out that is ready; resolves to the bodies, in order. */
  async drain(queue: string): Promise<string[]> {
    return await this.#with(async (channel) => {
      const bodies: string[] = [];
      for (;;) {
        // All at once: thousands, one after the other, would take a busy broker too long.
        const { messageCount } = await channel.queueDeclare(queue, { passive: true });
        const asked = Array.from({ length: messageCount + 1 }, () => channel.basicGet(queue, { noAck: true }));
        const got = (await Promise.all(asked)).filter((one) => one !== undefined);
        bodies.push(...got.map(({ message }) => message.body.toString()));
        if (got.length < asked.length) return bodies;
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const connection = this.#connection.isOpen ? this.#connection : await connect(brokerUrl);
    for (const name of this.#queues) {
      // RabbitMQ 4.3 may hold an exclusive queue for a moment after it has said that its connection is closed.
      await eventually(`the end of ${name}`, () => deleted(connection, name));
    }
    const channel = await connection.channel();
    for (const name of this.#exchanges) await channel.exchangeDelete(name);
    await connection.close();
  }

  /** On a channel of its own: what the broker refuses there hurts nothing else. */
  async #with<T>(work: (channel: Channel) => Promise<T>): Promise<T> {
    const channel = await this.#connection.channel();
    try {
      return await work(channel);
    } finally {
      await channel.close();
    }
  }
}

/** Undefined when another connection holds the queue exclusively. */
async function deleted(connection: Connection, queue: string): Promise<true | undefined> {
  const channel = await connection.channel();
  try {
    await channel.queueDelete(queue);
    await channel.close();
    return true;
  } catch (error) {
    if ((error as { replyCode?: number }).replyCode === 405) return undefined;
    throw error;
  }
}

/** Dials the test broker so that a test can cut the line, or have it down: what `ConnectionOptions.dial` takes. */
export class CuttableLine {
  /** While it is down, dialling fails as it does where nothing listens. */
  isDown = false;
  readonly #sockets: Socket[] = [];
  readonly #address: { readonly host: string; readonly port: number };

  constructor(url = brokerUrl) {
    const { hostname, port } = new URL(url);
    this.#address = { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? 5672 : Number(port) };
  }

  /** How often it was dialled. */
  get dialled(): number {
    return this.#sockets.length;
  }

  /** The socket that was dialled last. */
  get socket(): Socket {
    const socket = this.#sockets.at(-1);
    if (socket === undefined) throw new Error('it was not dialled');
    return socket;
  }

  readonly dial = async (): Promise<Socket> => {
    if (this.isDown) throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    const socket = connectTcp({ ...this.#address, noDelay: true });
    this.#sockets.push(socket);
    await once(socket, 'connect');
    return socket;
  };

  /** Cuts it like a network does: without a word to either side. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}
