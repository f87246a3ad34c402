/** The messages of a queue that are ready, in order. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { ReadyMessages, Ring, type StoredMessage } from '../../lib/broker/ready-messages.js';
import { message } from './engine.js';

const BODY = message('', '', 'four');

function stored(place: number, { priority = 0, expiresAt = Infinity } = {}): StoredMessage {
  return { message: BODY, place, priority, expiresAt, returns: 0 };
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

describe('ready messages', () => {
  test('are taken by priority, then by place, whatever came back in between', () => {
    const moves = fc.array(fc.tuple(fc.constantFrom('push', 'take', 'putBack'), fc.nat(3), fc.nat(50)), {
      maxLength: 200,
    });
    fc.assert(
      fc.property(moves, (steps) => {
        const ready = new ReadyMessages(3);
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
            ready.insert(back);
            model.push(back);
          }
          expect([ready.count, ready.bytes]).toEqual([model.length, model.length * 4]);
        }
      }),
    );
  });

  test('expire at the heads of their priorities only', () => {
    const ready = new ReadyMessages(1);
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
    const ready = new ReadyMessages(0);
    ready.push(stored(1));
    ready.insert(stored(0));
    expect(ready.clear()).toBe(2);
    expect([ready.count, ready.bytes, ready.take()]).toEqual([0, 0, undefined]);
  });
});
