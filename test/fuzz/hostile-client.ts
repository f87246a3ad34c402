/**
 * One hostile session with the embedded broker: a client that sends given bytes whatever the broker says, beside an honest one.
 * It judges the broker: nothing escapes, nobody else notices, the offender is ended or works, and nothing of it is left. What
 * is sent is the caller's.
 */
import type { Duplex } from 'node:stream';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import type { ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { METHODS, type MethodName } from '../../lib/protocol/methods.js';
import { frameOf } from '../support/client.js';
import { type Random, endsWithWholeFrame, sessions, turns, writeCut } from './hostile-peer.js';

/** Within so many turns of the event loop everything in this process has come to its end. */
const PATIENCE = 200;
const GOODBYE = frameOf(0, 'connection.close', { replyCode: 200, replyText: 'bye', classId: 0, methodId: 0 });

/** Runs hostile sessions, each with the bytes that `segmentsOf` makes. */
export async function fuzzBroker(fallback: number, segmentsOf: (random: Random) => readonly Buffer[]): Promise<void> {
  await sessions(fallback, (random) => hostileSession(segmentsOf(random), random));
}

async function hostileSession(segments: readonly Buffer[], random: Random): Promise<void> {
  const broker = EmbeddedBroker.create({ clock: 'manual', maxMessageSize: 1_000_000 });
  const honest = await HonestClient.open(broker);
  const hostile = new HostileClient(broker.connect());
  const readsNothing = random.chance(20);
  if (readsNothing) hostile.transport.pause();
  for (const segment of segments) {
    if (!hostile.hasEnded) writeCut(hostile.transport, segment, random);
    await turns(1 + random.below(3));
    if (random.chance(6)) await honest.ping();
    // What has a time to live dies while somebody listens.
    if (random.chance(10)) broker.advance('1m');
  }
  await honest.ping();
  if (!readsNothing && !hostile.hasEnded && endsWithWholeFrame(Buffer.concat(segments).subarray(8)))
    await hostile.leave();
  hostile.hangUp(random);
  await eventuallyIn('the end of the hostile connection', () => broker.connections.length === 1);
  await honest.ping();
  await honest.answered();
  check(broker, honest);
  broker.advance('1d');
  await honest.ping();
  await honest.answered();
  check(broker, honest);
  await honest.close();
  await eventuallyIn('the end of the honest connection', () => broker.connections.length === 0);
  await broker.close();
}

async function eventuallyIn(what: string, look: () => boolean): Promise<void> {
  for (let turn = 0; !look(); turn += 1) {
    if (turn > PATIENCE) throw new Error(`${what} was not there in ${PATIENCE} turns`);
    await turns(1);
  }
}

/** What has to be so once the hostile client is gone. */
function check(broker: EmbeddedBroker, honest: HonestClient): void {
  const [connection] = broker.connections;
  const unacked = connection?.channels.reduce((sum, channel) => sum + channel.unacked, 0);
  const names = new Set<string>();
  let held = 0;
  for (const queue of broker.queues) {
    names.add(queue.name);
    held += queue.unacked;
    const what = `queue ${JSON.stringify(queue.name)}`;
    if (queue.exclusive && queue.name !== honest.queue) throw new Error(`${what} has outlived its connection`);
    if (queue.messages !== queue.ready + queue.unacked) throw new Error(`${what} miscounts its messages`);
    const waiting = queue.peek(Infinity).length;
    if (waiting !== queue.ready) throw new Error(`${what} says that ${queue.ready} are ready; ${waiting} are`);
    const consumers = honest.consumersOf(queue.name);
    if (queue.consumers !== consumers)
      throw new Error(`${what} has ${queue.consumers} consumers, of ${consumers} that live`);
    if (consumers > 0 && queue.ready > 0) throw new Error(`${what} keeps ${queue.ready} from the consumer that it has`);
  }
  if (held !== unacked) throw new Error(`${held} are unacked in queues, and ${unacked} on channels`);
  const exchanges = new Set(broker.exchanges.map(({ name }) => name));
  for (const { source, destination, destinationType } of broker.bindings) {
    const ends = destinationType === 'queue' ? names : exchanges;
    if (!exchanges.has(source) || !ends.has(destination))
      throw new Error(`a binding hangs from '${source}' to '${destination}'`);
  }
}

class HostileClient {
  readonly transport: Duplex;
  hasEnded = false;
  #tail: Buffer = Buffer.alloc(0);

  constructor(transport: Duplex) {
    this.transport = transport;
    transport.on('error', () => undefined);
    transport.on('data', (chunk: Buffer) => {
      this.#tail = Buffer.concat([this.#tail.subarray(-64), chunk]);
    });
    const end = (): void => {
      this.hasEnded = true;
    };
    transport.once('end', end);
    transport.once('close', end);
  }

  /** Closes in an orderly way; whoever is still connected has to be answered. */
  async leave(): Promise<void> {
    this.transport.write(GOODBYE);
    await eventuallyIn('an answered close, or the end', () => this.hasEnded || this.#tail.includes(CLOSE_OK));
  }

  hangUp(random: Random): void {
    if (this.transport.isPaused() || random.chance(2)) this.transport.destroy();
    else this.transport.end();
  }
}

const CLOSE_OK = frameOf(0, 'connection.close-ok', {});

/** The queues that both clients know. To `rejected` goes what the honest one rejects, all of it dead letters. */
export const SHARED = ['shared', 'rejected', 'dead', 'fleeting', 'short'] as const;

/** A client that minds its own business: it gets what it publishes to its own queue, whatever happens beside it. */
class HonestClient {
  readonly queue = 'honest';
  readonly #connection: Connection;
  readonly #channel: ConfirmChannel;
  readonly #heard = new Set<string>();
  readonly #consumed = new Map<string, number>();
  #count = 0;

  private constructor(connection: Connection, channel: ConfirmChannel) {
    this.#connection = connection;
    this.#channel = channel;
  }

  static async open(broker: EmbeddedBroker): Promise<HonestClient> {
    const connection = await connect({ dial: () => broker.connect(), heartbeat: 0, closeTimeout: 1_000 });
    const channel = await (await connection.channel()).confirmSelect();
    const client = new HonestClient(connection, channel);
    await client.#settle();
    return client;
  }

  async #settle(): Promise<void> {
    const channel = this.#channel;
    const dead = { 'x-dead-letter-exchange': 'amq.headers' };
    const anyOf = { 'x-match': 'any', a: 1, 'x-first-death-queue': 'rejected' };
    await Promise.all([
      channel.queueDeclare(this.queue, { exclusive: true }),
      channel.queueDeclare('shared', { durable: false }),
      channel.queueDeclare('rejected', { arguments: dead }),
      channel.queueDeclare('dead', {}),
      channel.queueDeclare('fleeting', { arguments: { ...dead, 'x-message-ttl': 1000 } }),
      channel.queueDeclare('short', { arguments: { ...dead, 'x-max-length': 2, 'x-max-priority': 3 } }),
      channel.queueBind('dead', 'amq.headers', '', { arguments: anyOf }),
      ...['shared', 'fleeting', 'short'].map((queue) => channel.queueBind(queue, 'amq.topic', '#')),
    ]);
    await Promise.all([
      this.#consume(this.queue, (message) => {
        this.#heard.add(message.text);
        message.ack();
      }),
      this.#consume('shared', (message) => message.ack()),
      this.#consume('rejected', (message) => message.reject()),
    ]);
  }

  async #consume(queue: string, take: (message: Message) => void): Promise<void> {
    const ended = (): void => {
      this.#consumed.set(queue, (this.#consumed.get(queue) ?? 0) - 1);
    };
    await this.#channel.basicConsume(queue, { onMessage: take, onCancel: ended });
    this.#consumed.set(queue, (this.#consumed.get(queue) ?? 0) + 1);
  }

  consumersOf(queue: string): number {
    return this.#consumed.get(queue) ?? 0;
  }

  /** Publishes to its own queue, has that confirmed and gets it. */
  async ping(): Promise<void> {
    this.#count += 1;
    const body = `ping ${this.#count}`;
    let isConfirmed = false;
    const confirmed = this.#channel.basicPublish('', this.queue, body);
    confirmed.then(
      () => {
        isConfirmed = true;
      },
      // The connection's own error says more.
      () => undefined,
    );
    await eventuallyIn('the honest client’s own message', () => {
      if (!this.#connection.isOpen)
        throw new Error('the honest connection has ended', { cause: this.#connection.endError });
      if (!this.#channel.isOpen) throw new Error('the honest channel has ended', { cause: this.#channel.endError });
      return isConfirmed && this.#heard.delete(body);
    });
  }

  /** Everything that it was delivered has been answered, and the broker has heard it. */
  async answered(): Promise<void> {
    await this.#channel.basicQos(0);
  }

  async close(): Promise<void> {
    await this.#connection.close();
  }
}

/** The methods that a client may send on a channel. */
export const CLIENT_METHODS: readonly MethodName[] = (Object.keys(METHODS) as MethodName[]).filter(
  (name) => !/^connection\.|-ok$|-empty$|^basic\.(return|deliver)$|^channel\.close$/.test(name),
);
