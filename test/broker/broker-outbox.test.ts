/** What waits to be written to a client that reads slowly, late or not at all. */
import { Writable } from 'node:stream';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';

import { BrokerOutbox, type OutboxOwner } from '../../lib/broker/broker-outbox.js';

const MEGABYTE = 1024 * 1024;

/** A socket whose peer takes one chunk when the test says so. */
class SlowPeer extends Writable {
  #taken: (() => void) | undefined;

  override _write(_chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#taken = done;
  }

  /** Takes one chunk; false when there is none. */
  take(): boolean {
    const taken = this.#taken;
    this.#taken = undefined;
    taken?.();
    return taken !== undefined;
  }
}

let said: string[];
let peer: SlowPeer;
let outbox: BrokerOutbox;

beforeEach(() => {
  jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate'] });
  said = [];
  peer = new SlowPeer();
  const owner: OutboxOwner = {
    beforeFlush: () => undefined,
    moved: () => undefined,
    congested: () => said.push('congested'),
    drained: () => said.push('drained'),
    overflowed: () => said.push('overflowed'),
  };
  outbox = new BrokerOutbox(peer, owner);
});

afterEach(() => {
  outbox.end();
  jest.useRealTimers();
});

/** Says this many bytes, in frames. */
function say(bytes: number): void {
  const method = { replyCode: 200, replyText: 'x'.repeat(200), exchange: '', routingKey: '' };
  const message = { propertyBytes: Buffer.alloc(2), body: Buffer.alloc(bytes) };
  outbox.content(1, 'basic.return', method, message as unknown as Parameters<BrokerOutbox['content']>[3]);
}

async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

test('congestion ends when all has left, also where latency lets the last of it leave after the rest was taken', async () => {
  outbox.latency = () => 50;
  say(2 * MEGABYTE);
  expect(said).toEqual(['congested']);
  jest.advanceTimersByTime(25);
  outbox.heartbeat();
  jest.advanceTimersByTime(25);
  while (peer.take()) await turn();
  jest.advanceTimersByTime(50);
  while (peer.take()) await turn();
  expect(said).toEqual(['congested', 'drained']);
});

test('who reads slowly but steadily is not cut off', async () => {
  say(8 * MEGABYTE);
  await turn();
  for (let count = 0; count < 5; count += 1) {
    expect(peer.take()).toBe(true);
    await turn();
    jest.advanceTimersByTime(30_000);
  }
  expect(said).toEqual(['congested']);
});

test('who takes nothing for 30 seconds is cut off', async () => {
  say(8 * MEGABYTE);
  await turn();
  peer.take();
  await turn();
  jest.advanceTimersByTime(59_999);
  expect(said).toEqual(['congested']);
  jest.advanceTimersByTime(1);
  expect(said).toEqual(['congested', 'overflowed']);
});

test('what latency holds back for longer than that is nobody’s silence', () => {
  outbox.latency = () => 120_000;
  say(2 * MEGABYTE);
  jest.advanceTimersByTime(119_000);
  expect(said).toEqual(['congested']);
});
