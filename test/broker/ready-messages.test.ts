/** The messages of a queue that are ready, in the order of its type. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { ClassicMessages } from '../../lib/broker/classic-messages.js';
import { QuorumMessages } from '../../lib/broker/quorum-messages.js';
import type { ReadyMessages, StoredMessage } from '../../lib/broker/ready-messages.js';
import { Ring } from '../../lib/broker/ring.js';
import { message } from './engine.js';

const BODY = message('', '', 'four');

function stored(place: number, { priority = 0, expiresAt = Infinity } = {}): StoredMessage {
  return { message: BODY, place, priority, expiresAt, returns: 0, failures: 0, taker: undefined };
}

describe('a ring', () => {
  test('gives back what it got, first in first out, however it grows and shrinks', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -40, max: 60 }), { maxLength: 30 }), (moves) => {
        const ring = new Ring<number>();
        const model: number[] = [];
        let last = 0;
        for (const move of moves) {
          for (let times = 0; times < Math.abs(move); times += 1) {
            if (move > 0) {
              ring.push((last += 1));
              model.push(last);
            } else {
              expect(ring.shift()).toBe(model.shift());
            }
          }
          expect([ring.count, ring.peek()]).toEqual([model.length, model[0]]);
        }
      }),
    );
  });
});

describe('messages of a classic queue', () => {
  test('are taken by priority, then by place, whatever came back in between', () => {
    const moves = fc.array(fc.tuple(fc.constantFrom('push', 'take', 'putBack'), fc.nat(3), fc.nat(50)), {
      maxLength: 200,
    });
    fc.assert(
      fc.property(moves, (steps) => {
        const ready = new ClassicMessages(3);
        const model: StoredMessage[] = [];
        const out: StoredMessage[] = [];
        let place = 0;
        for (const [move, priority, choice] of steps) {
          if (move === 'push') {
            const next = stored((place += 1), { priority });
            ready.push(next);
            model.push(next);
          } else if (move === 'take') {
            model.sort((a, b) => b.priority - a.priority || a.place - b.place);
            const taken = ready.take();
            expect(taken).toBe(model.shift());
            if (taken !== undefined) out.push(taken);
          } else {
            const [back] = out.length === 0 ? [] : out.splice(choice % out.length, 1);
            if (back === undefined) continue;
            ready.putBack(back);
            model.push(back);
          }
          expect([ready.count, ready.bytes]).toEqual([model.length, model.length * 4]);
        }
      }),
    );
  });

  test('expire at the heads of their priorities only', () => {
    const ready = new ClassicMessages(1);
    const [waiting, behind, due] = [stored(1), stored(2, { expiresAt: 5 }), stored(3, { priority: 1, expiresAt: 5 })];
    for (const each of [waiting, behind, due]) ready.push(each);
    expect(ready.nextExpiry).toBe(5);
    expect(ready.takeExpired(4)).toBeUndefined();
    expect(ready.takeExpired(5)).toBe(due);
    expect(ready.takeExpired(5)).toBeUndefined();
    expect(ready.nextExpiry).toBe(Infinity);
    expect(ready.take()).toBe(waiting);
    expect(ready.takeExpired(5)).toBe(behind);
    expect(ready.count).toBe(0);
  });

  test('are counted when they are cleared', () => {
    const ready = new ClassicMessages(0);
    ready.push(stored(1));
    ready.putBack(stored(0));
    expect(ready.clear()).toBe(2);
    expect([ready.count, ready.bytes, ready.take()]).toEqual([0, 0, undefined]);
  });
});

describe('messages of a quorum queue', () => {
  /** Takes all, as their places. */
  const drained = (ready: ReadyMessages): number[] => {
    const places: number[] = [];
    for (let next = ready.take(); next !== undefined; next = ready.take()) places.push(next.place);
    return places;
  };
  /** Pushes a message for every priority, the first with place 1. */
  const pushed = (priorities: readonly number[], ready = new QuorumMessages()): QuorumMessages => {
    priorities.forEach((priority, index) => ready.push(stored(index + 1, { priority })));
    return ready;
  };

  // All of these were seen with RabbitMQ 4.0.5.
  test('are taken two of the high priority and one of the low, in order within each', () => {
    expect(drained(pushed([0, 0, 4, 5, 9, 255, 1, 6, 7, 8]))).toEqual([4, 5, 1, 6, 8, 2, 9, 10, 3, 7]);
  });

  test('of the low priority do not overtake older ones of the high', () => {
    expect(drained(pushed([5, 9, 255, 6, 7, 8, 0, 0]))).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(drained(pushed([0, 5, 5, 0, 5, 0, 5, 5, 5]))).toEqual([2, 3, 1, 5, 7, 4, 8, 9, 6]);
  });

  test('are counted on whatever was taken before', () => {
    const ready = pushed([0, 0]);
    expect(drained(ready)).toEqual([1, 2]);
    // Of the three, the third is of the low priority.
    expect(drained(pushed([0, 0, 5, 5, 5], ready))).toEqual([1, 3, 4, 2, 5]);
  });

  test('that came back go first, in the order in which they did', () => {
    const ready = pushed([9, 0, 0]);
    const out = [ready.take(), ready.take()] as StoredMessage[];
    for (const each of out.toReversed()) ready.putBack(each);
    expect(ready.count).toBe(3);
    expect(drained(ready)).toEqual([2, 1, 3]);
  });

  test('expire when they are the next, and nowhere else', () => {
    const ready = new QuorumMessages();
    ready.push(stored(1, { expiresAt: 5 }));
    ready.push(stored(2, { priority: 9 }));
    expect([ready.nextExpiry, ready.takeExpired(5)]).toEqual([Infinity, undefined]);
    expect(ready.take()?.place).toBe(2);
    expect([ready.nextExpiry, ready.takeExpired(4), ready.takeExpired(5)?.place]).toEqual([5, undefined, 1]);
    expect(ready.nextExpiry).toBe(Infinity);
  });

  test('are seen in the order in which they are taken, and counted', () => {
    const moves = fc.array(fc.tuple(fc.constantFrom('push', 'take', 'putBack'), fc.nat(9)), { maxLength: 60 });
    fc.assert(
      fc.property(moves, (steps) => {
        const ready = new QuorumMessages();
        const out: StoredMessage[] = [];
        let place = 0;
        for (const [move, priority] of steps) {
          if (move === 'push') ready.push(stored((place += 1), { priority }));
          const one = move === 'take' ? ready.take() : undefined;
          if (one !== undefined) out.push(one);
          const back = move === 'putBack' ? out.pop() : undefined;
          if (back !== undefined) ready.putBack(back);
        }
        const seen = Array.from(ready, (each) => each.place);
        expect([ready.count, ready.bytes]).toEqual([seen.length, seen.length * 4]);
        expect(drained(ready)).toEqual(seen);
        expect([ready.count, ready.bytes]).toEqual([0, 0]);
      }),
    );
  });

  test('are counted when they are cleared, and start from anew', () => {
    const ready = pushed([5, 5, 0]);
    ready.take();
    expect([ready.clear(), ready.count, ready.bytes]).toEqual([2, 0, 0]);
    expect(drained(pushed([0, 5, 5, 5], ready))).toEqual([2, 3, 1, 4]);
  });
});
