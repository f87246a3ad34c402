/** Which host is next, without any. */
import { afterEach, describe, expect, jest, test } from '@jest/globals';

import { HostFailures, shuffled } from '../../lib/client/host-order.js';

describe('shuffled()', () => {
  test('gives every order as often as any other, and leaves the list alone', () => {
    const list = ['a', 'b', 'c'];
    const counts = new Map<string, number>();
    for (let count = 0; count < 6_000; count += 1) {
      const order = shuffled(list).join('');
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual(['abc', 'acb', 'bac', 'bca', 'cab', 'cba']);
    // 1000 are expected with a standard deviation of 29; 200 are seven of them.
    for (const count of counts.values()) expect(Math.abs(count - 1_000)).toBeLessThan(200);
    expect(list).toEqual(['a', 'b', 'c']);
  });

  test('takes a list of one, and of none', () => {
    expect([shuffled(['a']), shuffled([])]).toEqual([['a'], []]);
  });
});

describe('a host that failed', () => {
  const hosts = ['a', 'b', 'c'];

  afterEach(() => {
    jest.useRealTimers();
  });

  /** The hosts that are tried, when all of them fail. */
  function tried(failures: HostFailures<string>, times: number, list = hosts): string[] {
    return Array.from({ length: times }, () => {
      const host = failures.first(list) ?? '';
      failures.failed(host);
      return host;
    });
  }

  test('comes behind the others, so that all have their turn while all fail', () => {
    expect(tried(new HostFailures(), 7)).toEqual(['a', 'b', 'c', 'a', 'b', 'c', 'a']);
  });

  test('comes behind one that failed longer ago', () => {
    const failures = new HostFailures<string>();
    tried(failures, 3);
    failures.failed('a');
    expect(failures.first(hosts)).toBe('b');
  });

  test('has its place back when its connection was stable', () => {
    const failures = new HostFailures<string>();
    failures.failed('a');
    failures.wasStable('a');
    expect(failures.first(hosts)).toBe('a');
  });

  test('has its place back when another was stable and the failure is a minute old, not before', () => {
    jest.useFakeTimers();
    const failures = new HostFailures<string>();
    failures.failed('a');
    jest.advanceTimersByTime(59_000);
    failures.wasStable('b');
    expect(failures.first(hosts)).toBe('b');
    jest.advanceTimersByTime(2_000);
    expect(failures.first(hosts)).toBe('b');
    failures.wasStable('b');
    expect(failures.first(hosts)).toBe('a');
  });

  test('and is no longer named is forgotten', () => {
    const failures = new HostFailures<string>();
    failures.failed('a');
    expect(failures.first(['b'])).toBe('b');
    expect(failures.first(hosts)).toBe('a');
    expect(failures.first([])).toBeUndefined();
  });
});
