/** When a heartbeat is due and when a peer is dead, on a line that is three fields and two functions. */
import { expect, test } from '@jest/globals';

import { Heartbeat, type HeartbeatLine } from '../../lib/time/heartbeat.js';
import { Inbox } from '../support/waits.js';

/** A line whose peer and client are silent until the test says otherwise. */
class Line implements HeartbeatLine {
  readAt = performance.now();
  wroteAt = performance.now();
  readonly sent = new Inbox<number>();
  readonly silent = new Inbox<number>();

  sendHeartbeat(): void {
    this.wroteAt = performance.now();
    this.sent.push(this.wroteAt);
  }

  peerIsSilent(seconds: number): void {
    this.silent.push(seconds);
  }
}

/** Keeps the event loop busy, as a long computation does. */
function stall(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

test('writes when nothing was written for half an interval, and at the latest after three quarters', async () => {
  const line = new Line();
  const begun = line.wroteAt;
  const heartbeat = new Heartbeat(line, 0.2);
  const first = await line.sent.next();
  heartbeat.stop();
  expect(first - begun).toBeGreaterThanOrEqual(100);
});

test('writes nothing while other things are written', async () => {
  const line = new Line();
  // Long beside the stalls of a machine under load.
  const heartbeat = new Heartbeat(line, 0.5);
  let lastWrite = line.wroteAt;
  let stalls = 0;
  const write = (): void => {
    line.wroteAt = performance.now();
    // A stall of the machine lets one become due.
    if (line.wroteAt - lastWrite >= 250) stalls += 1;
    lastWrite = line.wroteAt;
  };
  const writer = setInterval(write, 5);
  await line.silent.next('the end of the peer');
  heartbeat.stop();
  clearInterval(writer);
  write();
  expect(line.sent.all.length).toBeLessThanOrEqual(stalls);
});

test('holds the peer for dead after two intervals without a byte, not before', async () => {
  const line = new Line();
  const heartbeat = new Heartbeat(line, 0.1);
  expect(await line.silent.next()).toBe(0.2);
  heartbeat.stop();
  expect(performance.now() - line.readAt).toBeGreaterThanOrEqual(200);
});

test('does not take a stall of its own process for the death of the peer', async () => {
  const line = new Line();
  // Long beside the stalls of a machine under load: one more must not make those bytes old.
  const heartbeat = new Heartbeat(line, 0.5);
  const bytesRead = new Promise<void>((resolve) => {
    // Bytes that waited in the socket are read in the turn after the stall.
    setImmediate(() => {
      line.readAt = performance.now();
      resolve();
    });
  });
  stall(1_100);
  await bytesRead;
  await new Promise((resolve) => setImmediate(resolve));
  heartbeat.stop();
  expect(line.silent.all).toEqual([]);
});

test('an interval of 0 turns both off', async () => {
  const line = new Line();
  line.readAt = line.wroteAt = -1e9;
  const heartbeat = new Heartbeat(line, 0);
  const other = new Line();
  const running = new Heartbeat(other, 0.05);
  await other.silent.next();
  running.stop();
  heartbeat.stop();
  expect([line.sent.all, line.silent.all]).toEqual([[], []]);
});
