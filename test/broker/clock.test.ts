/** The broker's clocks. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { ManualClock } from '../../lib/broker/clock.js';

describe('a manual clock', () => {
  test('stands still until it is told to move', () => {
    const clock = new ManualClock(1000);
    let rung = 0;
    clock.after(0, () => (rung += 1));
    expect([clock.now(), rung]).toEqual([1000, 0]);
    clock.advance(0);
    expect([clock.now(), rung]).toEqual([1000, 1]);
    clock.advance(5);
    expect([clock.now(), rung]).toEqual([1005, 1]);
  });

  test('rings in order of time and then of set-up, each at its own time', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(20), { maxLength: 30 }), fc.array(fc.nat(10), { maxLength: 6 }), (times, steps) => {
        const clock = new ManualClock(0);
        const rung: [number, number][] = [];
        times.forEach((time, index) => clock.after(time, () => rung.push([clock.now(), index])));
        for (const step of steps) clock.advance(step);
        const end = steps.reduce((sum, step) => sum + step, 0);
        const due = times.map((time, index): [number, number] => [time, index]).filter(([time]) => time <= end);
        // What is due at once rings with the first step.
        const expected = steps.length === 0 ? [] : due.sort(([a, i], [b, j]) => a - b || i - j);
        expect(rung).toEqual(expected);
      }),
    );
  });

  test('rings what is set up on the way, and not what is cancelled on the way', () => {
    const clock = new ManualClock(0);
    const rung: string[] = [];
    const late = clock.after(30, () => rung.push('cancelled'));
    clock.after(10, () => {
      rung.push(`first at ${clock.now()}`);
      clock.after(10, () => {
        rung.push(`second at ${clock.now()}`);
        late.cancel();
      });
    });
    clock.advance(100);
    expect(rung).toEqual(['first at 10', 'second at 20']);
    expect(clock.now()).toBe(100);
  });

  test('rings in order also after any timers were cancelled, those that have rung among them', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(20), { maxLength: 40 }), fc.infiniteStream(fc.boolean()), (times, coins) => {
        const clock = new ManualClock(0);
        const rung: number[] = [];
        const early = clock.after(0, () => undefined);
        clock.advance(0);
        const timers = times.map((time, index) => clock.after(time, () => rung.push(index)));
        const kept = timers.flatMap((timer, index) => {
          if (coins.next().value === true) return [index];
          timer.cancel();
          timer.cancel();
          return [];
        });
        early.cancel();
        clock.advance(20);
        expect(rung).toEqual(kept.sort((a, b) => (times[a] ?? 0) - (times[b] ?? 0) || a - b));
      }),
    );
  });

  test('cancels one of many timers about as fast as one of few', () => {
    const cost = (count: number): number => {
      const clock = new ManualClock(0);
      for (let n = 0; n < count; n += 1) clock.after(1000, () => undefined);
      // Of this process alone: others may keep the processors busy.
      const start = process.cpuUsage();
      for (let n = 0; n < 5000; n += 1) clock.after(1000, () => undefined).cancel();
      return process.cpuUsage(start).user / 1000;
    };
    cost(10);
    // Searching all of them takes hundreds of times as long, and some seconds.
    expect(cost(100_000)).toBeLessThan(20 * cost(10) + 100);
  });

  test('does not move back', () => {
    expect(() => new ManualClock().advance(-1)).toThrow('Time moves forward only');
    expect(() => new ManualClock().advance(Number.NaN)).toThrow('Time moves forward only');
  });
});
