/**
 * One hostile session: a client that uses everything, and a peer that sends given bytes whatever the client says. It judges
 * the client: nothing escapes, everything handed out settles, and the connection is ended or works. What is sent is the
 * caller's.
 */
import { type Duplex, duplexPair } from 'node:stream';
import { runInThisContext } from 'node:vm';

import { type Connection, connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { AmqpError } from '../../lib/errors.js';
import { PROTOCOL_HEADER } from '../../lib/protocol/frame.js';
import { FrameDecoder } from '../../lib/protocol/frame-decoder.js';
import { frameOf } from '../support/client.js';
import { collectGarbage } from '../support/garbage.js';
import { within } from '../support/waits.js';

/** Random numbers that a seed repeats (mulberry32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** An integer from 0 to `bound` - 1. */
  below(bound: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000) * bound);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  chance(oneIn: number): boolean {
    return this.below(oneIn) === 0;
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)));
  }
}

/** How often a test of this folder runs, and the seed of its first run. */
export function runs(fallback: number): { readonly iterations: number; readonly seed: number } {
  const { NEST_AMQP_FUZZ_ITERATIONS: iterations, NEST_AMQP_FUZZ_SEED: seed } = process.env;
  return { iterations: Number(iterations ?? fallback), seed: Number(seed ?? 1) };
}

/** Runs hostile sessions, each with the bytes that `segmentsOf` makes. */
export async function fuzz(fallback: number, segmentsOf: (random: Random) => readonly Buffer[]): Promise<void> {
  await sessions(fallback, (random) => hostileSession(segmentsOf(random), random));
}

/** Runs sessions one after the other; the error of one names the seed that repeats it. */
export async function sessions(fallback: number, session: (random: Random) => Promise<void>): Promise<void> {
  const { iterations, seed } = runs(fallback);
  const escaped: unknown[] = [];
  const note = (error: unknown): void => {
    escaped.push(error);
  };
  REAL_PROCESS.on('uncaughtException', note);
  REAL_PROCESS.on('unhandledRejection', note);
  let memory = 0;
  try {
    for (let run = 0; run < iterations; run += 1) {
      const random = new Random(seed + run);
      try {
        await session(random);
        if (escaped.length > 0) throw new Error('an exception escaped', { cause: escaped[0] });
        // From the second look on: the first is when everything has been loaded.
        if (run % 200 === 199) {
          memory ||= memoryInUse();
          const hasGrown = (): boolean => memoryInUse() > memory + MEMORY_LIMIT;
          if (hasGrown()) collectGarbage();
          if (hasGrown()) throw new Error('memory has grown by 300 MB');
        }
      } catch (cause) {
        throw new Error(`NEST_AMQP_FUZZ_SEED=${seed + run} NEST_AMQP_FUZZ_ITERATIONS=1`, { cause });
      }
    }
  } finally {
    REAL_PROCESS.off('uncaughtException', note);
    REAL_PROCESS.off('unhandledRejection', note);
  }
}

function memoryInUse(): number {
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** The one that hears of what nobody caught: Jest gives its tests a copy. */
const REAL_PROCESS = runInThisContext('process') as NodeJS.Process;
/** A closed connection lingers for half a second, with its buffers. */
const MEMORY_LIMIT = 300_000_000;
const DEADLINE = 10_000;

/** Everything that the client was asked for, so that it can be waited for. */
class Ledger {
  readonly #settled: Promise<unknown>[] = [];

  /** Follows a promise of the client: it may reject, but with an `AmqpError` alone. Resolves to undefined when it does. */
  async follow<T>(promise: Promise<T>): Promise<T | undefined> {
    const settled = promise.catch((error: unknown) => {
      if (error instanceof AmqpError) return undefined;
      throw error;
    });
    this.#settled.push(settled);
    // It is awaited at the end; until then its failure is not unhandled.
    settled.catch(() => undefined);
    return await settled;
  }

  async allSettled(): Promise<void> {
    for (let done = 0; done < this.#settled.length; done += 1) {
      await within(`the end of promise ${done}`, this.#settled[done] as Promise<unknown>, DEADLINE);
    }
  }
}

/** What the client does with every message: look at all of it, and answer. */
function use(message: Message): void {
  try {
    if (Object.keys(message.properties).length > 3) message.nack();
    else message.ack();
  } catch (error) {
    if (!(error instanceof AmqpError)) throw error;
    message.reject();
  }
}

/** Uses the connection as applications do, a request after the other. */
async function useEverything(connection: Connection, ledger: Ledger, faults: unknown[]): Promise<void> {
  connection.on('callbackError', (error) => {
    if (!(error instanceof AmqpError)) faults.push(error);
  });
  const channel = await ledger.follow(connection.channel());
  if (channel === undefined) return;
  const confirming = await ledger.follow(channel.confirmSelect());
  const attempt = (ask: () => Promise<unknown>): Promise<unknown> => ledger.follow((async () => await ask())());
  for (const body of ['one', 'two', 'three']) {
    void attempt(async () => confirming?.basicPublish('', 'q', body, { mandatory: true }));
  }
  await attempt(() => channel.queueDeclare('q'));
  await attempt(() => channel.basicConsume('q', use, { consumerTag: 'c' }));
  const got = await attempt(() => channel.basicGet('q'));
  if (got !== undefined) use((got as { message: Message }).message);
  void attempt(() => channel.allSettled());
  const second = await ledger.follow(connection.channel());
  void attempt(async () => second?.queueDeclare('missing', { passive: true }));
}

async function hostileSession(segments: readonly Buffer[], random: Random): Promise<void> {
  const [server, client] = duplexPair();
  server.on('error', () => undefined);
  const heard: Buffer[] = [];
  server.on('data', (chunk: Buffer) => heard.push(chunk));
  const ledger = new Ledger();
  const faults: unknown[] = [];
  const connecting = ledger.follow(connect({ dial: () => client, closeTimeout: 0, maxMessageSize: 1_000_000 }));
  let connection: Connection | undefined;
  void connecting.then((opened) => {
    connection = opened;
    if (opened !== undefined) void ledger.follow(useEverything(opened, ledger, faults));
  });
  await turns(4);
  for (const segment of segments) {
    writeCut(server, segment, random);
    // So many turns after an answer the client has asked for the next thing.
    await turns(3);
  }
  if (connection?.isOpen === true && endsWithWholeFrame(Buffer.concat(segments))) {
    await pingOrEnd(connection, server, heard, ledger);
  }
  server.end();
  await ledger.allSettled();
  if (connection !== undefined)
    await within('the end of a connection without a transport', ended(connection), DEADLINE);
  if (faults.length > 0) throw new Error('a callback failed with what is no AmqpError', { cause: faults[0] });
  server.destroy();
}

export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Writes bytes in up to four chunks, cut anywhere. */
export function writeCut(server: Duplex, bytes: Buffer, random: Random): void {
  let at = 0;
  for (let chunk = random.below(4); chunk > 0 && at < bytes.length; chunk -= 1) {
    const end = at + random.below(bytes.length - at + 1);
    if (end > at && server.writable) server.write(bytes.subarray(at, end));
    at = end;
  }
  if (at < bytes.length && server.writable) server.write(bytes.subarray(at));
}

/** Whether a reader of these frames now awaits the head of another one. */
export function endsWithWholeFrame(stream: Buffer): boolean {
  let at = 0;
  while (at + 7 <= stream.length) at += 8 + stream.readUInt32BE(at + 3);
  return at === stream.length;
}

/** A connection that says it is open has to open a channel when the peer agrees, or to end. */
async function pingOrEnd(
  connection: Connection,
  server: Duplex,
  heard: readonly Buffer[],
  ledger: Ledger,
): Promise<void> {
  const before = channelsOpened(heard).length;
  const ping = ledger.follow(connection.channel());
  await turns(2);
  for (const number of channelsOpened(heard).slice(before)) server.write(frameOf(number, 'channel.open-ok', {}));
  await within('an answered ping, or the end', Promise.race([ping, ended(connection)]), DEADLINE);
}

/** The numbers of the channels that the client has asked for. */
function channelsOpened(heard: readonly Buffer[]): number[] {
  const numbers: number[] = [];
  const decoder = new FrameDecoder((_type, channel, buffer, start, end) => {
    if (end - start >= 4 && buffer.readUInt32BE(start) === CHANNEL_OPEN) numbers.push(channel);
  });
  decoder.limit(0, 0);
  decoder.push(Buffer.concat(heard).subarray(PROTOCOL_HEADER.length));
  return numbers;
}

/** Class 20, method 10. */
const CHANNEL_OPEN = 0x0014_000a;

async function ended(connection: Connection): Promise<void> {
  await new Promise<void>((resolve) => {
    if (!connection.isOpen) resolve();
    connection.once('close', () => {
      resolve();
    });
  });
}
