/** The broker's clocks. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { ManualClock, SystemClock } from '../../lib/broker/clock.js';

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

  test('does not move back', () => {
    expect(() => new ManualClock().advance(-1)).toThrow('Time moves forward only');
    expect(() => new ManualClock().advance(Number.NaN)).toThrow('Time moves forward only');
  });
});

test('the system clock rings, unless it is cancelled, also after longer than setTimeout can wait', async () => {
  const clock = new SystemClock();
  let rung = '';
  clock.after(2 ** 33, () => (rung += 'far '));
  clock.after(1, () => (rung += 'cancelled ')).cancel();
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => undefined, 10_000);
    clock.after(5, () => {
      clearTimeout(timer);
      rung += 'near ';
      resolve();
    });
  });
  expect(rung).toBe('near ');
});
