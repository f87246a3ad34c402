/** Which channel numbers are in use. */
import { expect, test } from '@jest/globals';

import { ChannelNumbers } from '../../lib/client/channel-numbers.js';
import { thrown } from '../support/client.js';

test('are given out from 1 up, and again after they are returned', () => {
  const numbers = new ChannelNumbers(4);
  expect([numbers.take(), numbers.take(), numbers.take()]).toEqual([1, 2, 3]);
  numbers.release(2);
  expect([numbers.take(), numbers.take()]).toEqual([2, 4]);
  expect(numbers.highest).toBe(4);
});

test('beyond the limit are a CHANNEL_LIMIT, as often as asked, and do not use any up', () => {
  const numbers = new ChannelNumbers(2);
  numbers.take();
  numbers.take();
  for (let count = 0; count < 3; count += 1) expect(thrown(() => numbers.take()).code).toBe('CHANNEL_LIMIT');
  expect(numbers.highest).toBe(2);
  numbers.release(1);
  expect(numbers.take()).toBe(1);
});

test('of the whole range are each given out once', () => {
  const numbers = new ChannelNumbers(65_535);
  const all = new Set(Array.from({ length: 65_535 }, () => numbers.take()));
  expect(all.size).toBe(65_535);
  expect(thrown(() => numbers.take()).code).toBe('CHANNEL_LIMIT');
});
