/** What a message costs, counted and not timed: calls that reach the socket, bytes, and memory of the JavaScript heap. */
import { expect, test } from '@jest/globals';
import { Duplex } from 'node:stream';

import type { Channel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import { writeContentHead } from '../../lib/protocol/frame.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { frameOf } from '../support/client.js';
import { collectGarbage } from '../support/garbage.js';

/** A transport that passes everything on and counts what reaches it, until the test takes over the other end. */
class CountedTransport extends Duplex {
  writes = 0;
  bytes = 0;
  /** The memory of each piece that was written. */
  readonly memories: ArrayBufferLike[] = [];
  /** The test plays the broker from now on: what is written goes nowhere. */
  isCut = false;
  readonly #inner: Duplex;

  constructor(inner: Duplex) {
    super();
    this.#inner = inner;
    inner.on('data', (chunk: Buffer) => this.push(chunk));
  }

  override _read(): void {
    // Pushed as it comes.
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#count([chunk]);
    done();
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    this.#count(chunks.map(({ chunk }) => chunk));
    done();
  }

  #count(chunks: readonly Buffer[]): void {
    this.writes += 1;
    for (const chunk of chunks) {
      this.bytes += chunk.length;
      this.memories.push(chunk.buffer);
      if (!this.isCut) this.#inner.write(chunk);
    }
  }
}

interface Counted {
  readonly transport: CountedTransport;
  readonly connection: Connection;
  readonly channel: Channel;
}

/** A channel whose transport is counted, with consumer `c`, and with confirms unless told otherwise. */
async function counted({ confirm = true } = {}): Promise<Counted> {
  const peer = new ScriptedPeer();
  const transport = new CountedTransport(peer.transport);
  const [connection] = await Promise.all([connect({ dial: () => transport, closeTimeout: 0 }), peer.handshake()]);
  const [channel] = await Promise.all([connection.channel(), peer.openChannel()]);
  if (confirm) await Promise.all([channel.confirmSelect(), peer.answer('confirm.select-ok', {})]);
  const consuming = channel.basicConsume('q', consumer.receive, { consumerTag: 'c' });
  await peer.answer('basic.consume-ok', { consumerTag: 'c' });
  await consuming;
  Object.assign(transport, { writes: 0, bytes: 0, isCut: true });
  return { transport, connection, channel };
}

/** What the consumer of a test does with a message. */
const consumer = {
  receive: (message: { ack: () => void }): void => {
    message.ack();
  },
};

/** Publishes, with or without confirms; nobody confirms here, so that what it comes to is of no interest. */
function publish(channel: Channel, body: Buffer = BODY): void {
  const published = channel.basicPublish('orders', 'order.placed', body, PROPERTIES);
  if (typeof published === 'object') published.catch(() => undefined);
}

const endOfTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const BODY = Buffer.alloc(100, 'x');
const PROPERTIES = { contentType: 'application/json', deliveryMode: 2 } as const;

/** Deliveries of `count` messages with the tags from `first` on, in chunks of about 64 KiB as a socket gives them. */
function deliveries(first: number, count: number): Buffer[] {
  const chunks: Buffer[] = [];
  let parts: Buffer[] = [];
  let size = 0;
  const writer = new WireWriter();
  for (let deliveryTag = first; deliveryTag < first + count; deliveryTag += 1) {
    const args = { consumerTag: 'c', deliveryTag, redelivered: false, exchange: 'orders', routingKey: 'order.placed' };
    writeContentHead(writer, 0, 1, 'basic.deliver', args, PROPERTIES, BODY.length);
    const body = Buffer.from([3, 0, 1, 0, 0, 0, BODY.length, ...BODY, 0xce]);
    parts.push(Buffer.from(writer.take()), body);
    size += (parts.at(-2)?.length ?? 0) + body.length;
    if (size >= 65_536 || deliveryTag === first + count - 1) {
      chunks.push(Buffer.concat(parts));
      [parts, size] = [[], 0];
    }
  }
  return chunks;
}

test('publishes of one turn reach the socket once in 64 KiB, and those of many turns once a turn', async () => {
  const { transport, connection, channel } = await counted();
  const count = 5_000;
  for (let index = 0; index < count; index += 1) publish(channel);
  await endOfTurn();
  expect(transport.bytes).toBeGreaterThan(count * BODY.length);
  expect(transport.writes).toBeLessThanOrEqual(Math.ceil(transport.bytes / 65_536) + 1);

  transport.writes = 0;
  const turns = 10;
  for (let turn = 0; turn < turns; turn += 1) {
    for (let index = 0; index < 5; index += 1) publish(channel);
    await endOfTurn();
  }
  expect(transport.writes).toBe(turns);
  await connection.close();
});

test('acknowledgements of one chunk of deliveries are one frame and one write', async () => {
  const { transport, connection } = await counted();
  const chunks = deliveries(1, 1_000);
  for (const chunk of chunks) {
    transport.push(chunk);
    await endOfTurn();
  }
  const ack = frameOf(1, 'basic.ack', { deliveryTag: 1, multiple: true }).length;
  expect([transport.writes, transport.bytes]).toEqual([chunks.length, chunks.length * ack]);
  await connection.close();
});

test('a large body is handed to the socket as it is', async () => {
  const { transport, connection, channel } = await counted();
  const body = Buffer.alloc(1_000_000);
  publish(channel, body);
  await endOfTurn();
  expect(transport.memories.filter((memory) => memory === body.buffer)).toHaveLength(
    Math.ceil(body.length / (131_072 - 8)),
  );
  await connection.close();
});

const ROUNDS = 8;

/**
 * Bytes of JavaScript heap that `work` takes a time, in `times` runs: the least of some rounds, the first of which the
 * compiler has not seen before, and into any of which something else in the process may come.
 */
async function heapPer(times: number, work: (times: number) => void): Promise<number> {
  let least = Infinity;
  for (let round = 0; round < ROUNDS; round += 1) {
    // The young generation only: what other suites left in this process would make a whole collection take seconds.
    collectGarbage({ type: 'minor' });
    const before = process.memoryUsage().heapUsed;
    work(times);
    const used = (process.memoryUsage().heapUsed - before) / times;
    // Less than nothing was used where a collection came in between.
    if (used > 0) least = Math.min(least, used);
    await endOfTurn();
  }
  return least;
}

test('a publish takes little heap, and so do its confirm and a delivery', async () => {
  const { transport, connection, channel } = await counted();
  const publishAll = (times: number, on: Channel): void => {
    for (let index = 0; index < times; index += 1) publish(on);
  };
  const plain = await counted({ confirm: false });
  const pending: object[] = [];
  const runs = 2_000;
  const published = await heapPer(runs, (times) => {
    publishAll(times, plain.channel);
  });
  const confirmed = await heapPer(runs, (times) => {
    publishAll(times, channel);
  });
  const rounds = Array.from({ length: ROUNDS }, (_, round) => deliveries(round * runs + 1, runs));
  const delivered = await heapPer(runs, () => {
    for (const chunk of rounds.shift() ?? []) transport.emit('data', chunk);
  });
  // What a promise and its catch take, which differs with what else watches promises in this process.
  const promised = await heapPer(runs, (times) => {
    for (let index = 0; index < times; index += 1) {
      new Promise<void>((resolve, reject) => pending.push({ resolve, reject })).catch(() => undefined);
    }
  });
  expect(published).toBeLessThan(300);
  expect(confirmed).toBeLessThan(promised * 2 + 800);
  expect(delivered).toBeLessThan(1_500);
  await Promise.all([connection.close(), plain.connection.close()]);
  // Forty collections beside other processes, which is not what is counted.
});
