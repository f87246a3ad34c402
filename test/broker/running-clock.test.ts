/** Real time that is pushed forward: timers run in their order, each at its own time, and once. */
import { expect, test } from '@jest/globals';

import { RunningClock } from '../../lib/broker/running-clock.js';
import { Inbox } from '../support/waits.js';

test('what falls due on the way happens within advance(), in order, each at its own time', () => {
  const clock = new RunningClock();
  const start = clock.now();
  const seen: [what: string, at: number][] = [];
  const note = (what: string) => (): void => void seen.push([what, Math.round((clock.now() - start) / 1000)]);
  clock.after(60_000, note('minute'));
  clock.after(10_000, () => {
    note('ten')();
    clock.after(5_000, note('fifteen'));
  });
  clock.after(30_000, note('never')).cancel();
  clock.advance(59_000);
  expect(seen).toEqual([
    ['ten', 10],
    ['fifteen', 15],
  ]);
  clock.advance(1_000);
  expect(seen.at(-1)).toEqual(['minute', 60]);
  expect(clock.now() - start).toBeGreaterThanOrEqual(60_000);
});

test('time passes by itself as well', async () => {
  const clock = new RunningClock();
  const inbox = new Inbox<number>();
  const start = clock.now();
  for (const wait of [20, 1]) clock.after(wait, () => inbox.push(wait));
  expect([await inbox.next(), await inbox.next()]).toEqual([1, 20]);
  expect(clock.now() - start).toBeGreaterThanOrEqual(20);
});

test('what waits while time is pushed waits so much less', async () => {
  const clock = new RunningClock();
  const inbox = new Inbox<string>();
  clock.after(3_600_020, () => inbox.push('due'));
  clock.advance(3_600_000);
  expect(inbox.all).toEqual([]);
  expect(await inbox.next()).toBe('due');
});

test('what is set up after time was pushed by a fraction of a millisecond is due like any other', async () => {
  const clock = new RunningClock();
  const inbox = new Inbox<number>();
  for (let count = 0; count < 50; count += 1) {
    clock.advance(0.7);
    clock.after(0, () => inbox.push(count));
    expect(await inbox.next()).toBe(count);
  }
});
