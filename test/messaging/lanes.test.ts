/** What waits for its turn, without a broker. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { Lanes } from '../../lib/messaging/lanes.js';

describe('lanes', () => {
  test('begin items of one key one at a time, in order, and those of others beside them', () => {
    const begun: string[] = [];
    const lanes = new Lanes<string, string>(10, (item) => begun.push(item));
    for (const [key, item] of [
      ['a', 'a1'],
      ['a', 'a2'],
      ['b', 'b1'],
      ['a', 'a3'],
    ] as const)
      lanes.add(key, item, item);
    expect(begun).toEqual(['a1', 'b1']);
    lanes.ended('a1');
    expect(begun).toEqual(['a1', 'b1', 'a2']);
    lanes.ended('b1');
    lanes.ended('a2');
    expect(begun).toEqual(['a1', 'b1', 'a2', 'a3']);
    lanes.ended('a3');
    expect(lanes.size).toBe(0);
  });

  test('compare keys as a Map does, and let an item without one wait for nobody', () => {
    const begun: number[] = [];
    const lanes = new Lanes<number, number>(10, (item) => begun.push(item));
    [NaN, NaN, undefined, undefined, null, null, '1', 1].forEach((key, index) => {
      lanes.add(key, index, index);
    });
    expect(begun).toEqual([0, 2, 3, 4, 6, 7]);
    expect(lanes.size).toBe(4);
  });

  test('give back what has not begun, and keep the key of what runs busy', () => {
    const begun: string[] = [];
    const lanes = new Lanes<string, string>(2, (item) => begun.push(item));
    for (const item of ['a1', 'a2', 'b1', 'c1', 'd1']) lanes.add(item.charAt(0), item, item);
    expect(lanes.clear().sort()).toEqual(['a2', 'c1', 'd1']);
    expect(lanes.size).toBe(2);
    lanes.ended('b1');
    lanes.add('a', 'a2 again', 'a2 again');
    expect(begun).toEqual(['a1', 'b1']);
    lanes.ended('a1');
    expect(begun).toEqual(['a1', 'b1', 'a2 again']);
  });

  test('do not nest what ends at once', () => {
    const lanes: Lanes<number, number> = new Lanes(1, (item) => {
      lanes.ended(item);
    });
    const first = new Lanes<number, number>(1, () => undefined);
    for (let item = 0; item < 50_000; item += 1) first.add('a', item, item);
    for (let item = 0; item < 50_000; item += 1) lanes.add('a', item, item);
    expect(lanes.size).toBe(0);
    expect(first.size).toBe(1);
  });

  test('keep order per key and the bound, whatever ends when', () => {
    const key = fc.constantFrom<string | undefined>('a', 'b', 'c', undefined);
    fc.assert(
      fc.property(
        fc.array(key, { maxLength: 30 }),
        fc.infiniteStream(fc.nat(100)),
        fc.integer({ min: 1, max: 4 }),
        (keys, picks, most) => {
          const running: number[] = [];
          const begun: number[] = [];
          const lanes = new Lanes<number, number>(most, (item) => {
            running.push(item);
            begun.push(item);
          });
          const sane = (): void => {
            expect(running.length).toBeLessThanOrEqual(most);
            const busy = running.map((item) => keys[item]).filter((one) => one !== undefined);
            expect(new Set(busy).size).toBe(busy.length);
          };
          keys.forEach((one, item) => {
            lanes.add(one, item, item);
            sane();
          });
          while (running.length > 0) {
            const [pick = 0] = [...picks.take(1)];
            lanes.ended(running.splice(pick % running.length, 1)[0] as number);
            sane();
          }
          expect([...begun].sort((a, b) => a - b)).toEqual(keys.map((_, item) => item));
          for (const one of ['a', 'b', 'c']) {
            const order = begun.filter((item) => keys[item] === one);
            expect(order).toEqual([...order].sort((a, b) => a - b));
          }
          expect(lanes.size).toBe(0);
        },
      ),
    );
  });
});
