/** Waits between attempts. */
import { expect, test } from '@jest/globals';

import { Backoff } from '../../lib/client/backoff.js';
import { thrown } from '../support/client.js';

/** The longest of many first waits, after so many failures: near the upper end of its range. */
function range(failures: number, prepare: (backoff: Backoff) => void = () => undefined): number {
  const waits = Array.from({ length: 400 }, () => {
    const backoff = new Backoff({ initialDelay: 100, maxDelay: 1000, stableAfter: 0 });
    for (let count = 0; count < failures; count += 1) backoff.next();
    prepare(backoff);
    return backoff.next();
  });
  expect(Math.min(...waits)).toBeGreaterThanOrEqual(0);
  return Math.max(...waits);
}

test.each([
  [0, 100],
  [1, 200],
  [2, 400],
  [3, 800],
  [4, 1000],
  [1000, 1000],
])('after %i failures a wait is random, up to %i ms', (failures, end) => {
  const longest = range(failures);
  expect(longest).toBeLessThanOrEqual(end);
  // That 400 waits all miss the upper tenth has a chance of 0.9 ** 400, which is 5e-19.
  expect(longest).toBeGreaterThan(end * 0.9);
});

test('a success that lasted begins anew; one that broke at once does not', () => {
  expect(
    range(3, (backoff) => {
      backoff.succeeded();
    }),
  ).toBeLessThanOrEqual(100);
  const backoff = new Backoff({ initialDelay: 100, maxDelay: 100_000, stableAfter: '1h' });
  const waits = Array.from({ length: 10 }, () => {
    backoff.succeeded();
    return backoff.next();
  });
  // Ten ranges of up to 100, 200, … 51200 ms: the last five stay below 100 ms with a chance of 1 in 10 ** 10.
  expect(Math.max(...waits.slice(5))).toBeGreaterThan(100);
});

test('a failure that time will hardly mend goes to the full range at once', () => {
  const options = { initialDelay: 100, maxDelay: 1000 };
  const waits = Array.from({ length: 400 }, () => new Backoff(options).next({ slowly: true }));
  expect(Math.max(...waits)).toBeGreaterThan(900);
});

test('a success is stable when it has lasted, until the next failure', () => {
  const backoff = new Backoff({ stableAfter: 0 });
  expect(backoff.isStable).toBe(false);
  backoff.succeeded();
  expect(backoff.isStable).toBe(true);
  backoff.next();
  expect(backoff.isStable).toBe(false);
  const patient = new Backoff({ stableAfter: '1h' });
  patient.succeeded();
  expect(patient.isStable).toBe(false);
});

test.each(['initialDelay', 'maxDelay', 'stableAfter'])('%s has to be a length of time', (name) => {
  const error = thrown(() => new Backoff({ [name]: -1 }));
  expect(error.code).toBe('INVALID_OPTION');
  expect(error.message).toContain(`recovery.${name}`);
});
