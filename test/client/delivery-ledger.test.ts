/** Which acknowledgements are said together, against a model that knows every delivery. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { DeliveryLedger } from '../../lib/client/delivery-ledger.js';

type Said = readonly [deliveryTag: number, multiple: boolean];

function deliveredUpTo(count: number): DeliveryLedger {
  const ledger = new DeliveryLedger();
  for (let tag = 1; tag <= count; tag += 1) ledger.delivered(tag);
  return ledger;
}

function said(ledger: DeliveryLedger): Said[] {
  const all: Said[] = [];
  ledger.sayAcks((tag, multiple) => all.push([tag, multiple]));
  return all;
}

describe('acknowledgements of one turn', () => {
  test.each<[what: string, acked: number[], Said[]]>([
    ['of all are one', [1, 2, 3], [[3, true]]],
    ['of one is that one', [1], [[1, false]]],
    ['given in another order are one all the same', [3, 1, 2], [[3, true]]],
    [
      'behind one that waits are said alone',
      [2, 3],
      [
        [2, false],
        [3, false],
      ],
    ],
    [
      'before and behind one that waits are told apart',
      [1, 2, 4],
      [
        [2, true],
        [4, false],
      ],
    ],
    ['of none are none', [], []],
  ])('%s', (_what, acked, expected) => {
    const ledger = deliveredUpTo(4);
    for (const tag of acked) expect(ledger.ack(tag)).toBe(true);
    expect(said(ledger)).toEqual(expected);
    expect([ledger.outstanding, said(ledger)]).toEqual([4 - acked.length, []]);
  });

  test('run across deliveries that were rejected, or wanted no answer', () => {
    const ledger = new DeliveryLedger();
    for (const tag of [1, 2, 5, 6]) ledger.delivered(tag);
    expect(ledger.settle(2)).toBe(1);
    for (const tag of [1, 5]) ledger.ack(tag);
    expect(said(ledger)).toEqual([[5, true]]);
    ledger.ack(6);
    expect(said(ledger)).toEqual([[6, false]]);
  });

  test('are said alone where tags do not follow each other, until all are answered', () => {
    const ledger = new DeliveryLedger();
    for (const tag of [5, 3]) ledger.delivered(tag);
    expect([ledger.ack(5), ledger.ack(3)]).toEqual([false, false]);
    for (const tag of [10, 11]) ledger.delivered(tag);
    expect([ledger.ack(10), ledger.ack(11), said(ledger)]).toEqual([true, true, [[11, true]]]);
  });

  test('cost no memory for tags that lie far apart', () => {
    const ledger = new DeliveryLedger();
    for (const tag of [1, 2 ** 40, Number.MAX_SAFE_INTEGER]) ledger.delivered(tag);
    expect([ledger.ack(2 ** 40), ledger.outstanding]).toEqual([false, 2]);
  });

  test('are never said together over a delivery that nobody will answer', () => {
    const ledger = deliveredUpTo(1);
    ledger.sayAlone();
    ledger.delivered(3);
    ledger.delivered(4);
    expect([ledger.ack(1), ledger.ack(3), ledger.ack(4)]).toEqual([false, false, false]);
    for (const tag of [5, 6]) ledger.delivered(tag);
    expect([ledger.ack(5), ledger.ack(6)]).toEqual([false, false]);
  });
});

test('an answer by tag settles what it says, with multiple and 0 everything', () => {
  const ledger = deliveredUpTo(5);
  expect([ledger.settle(2, true), ledger.isAwaiting(1), ledger.isAwaiting(3)]).toEqual([2, false, true]);
  expect([ledger.settle(2, true), ledger.settle(3), ledger.settle(0, true), ledger.outstanding]).toEqual([0, 1, 2, 0]);
});

/** What may happen to a channel. `which` chooses among the deliveries that are unanswered. */
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('deliver' as const), noAck: fc.boolean() }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('ack' as const), which: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('reject' as const), which: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('turn' as const) }) },
);

test('whatever is delivered and answered in whatever order, the broker hears of exactly what was acknowledged', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
      const ledger = new DeliveryLedger();
      /** What the broker awaits an answer for, and what the application has acknowledged. */
      const [unanswered, acked] = [new Set<number>(), new Set<number>()];
      const hear = (tag: number, multiple: boolean): void => {
        for (const each of multiple ? [...unanswered].filter((other) => other <= tag) : [tag]) {
          expect([each, unanswered.delete(each), acked.delete(each)]).toEqual([each, true, true]);
        }
      };
      let tag = 0;
      for (const at of steps) {
        const open = [...unanswered].filter((each) => !acked.has(each));
        const chosen = 'which' in at ? open[at.which % open.length] : undefined;
        if (at.kind === 'deliver') {
          tag += 1;
          if (at.noAck) continue;
          unanswered.add(tag);
          ledger.delivered(tag);
        } else if (at.kind === 'turn') {
          ledger.sayAcks(hear);
          expect(acked.size).toBe(0);
        } else if (chosen !== undefined && at.kind === 'ack') {
          acked.add(chosen);
          if (!ledger.ack(chosen)) hear(chosen, false);
        } else if (chosen !== undefined) {
          expect(ledger.settle(chosen)).toBe(1);
          unanswered.delete(chosen);
        }
        expect(ledger.outstanding).toBe(unanswered.size - acked.size);
      }
      ledger.sayAcks(hear);
      expect([acked.size, ledger.outstanding]).toEqual([0, unanswered.size]);
    }),
  );
});
