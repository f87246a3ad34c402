/** The line without a network: bytes in their order, back-pressure, and ends as sockets have them. */
import { once } from 'node:events';
import { afterEach, describe, expect, test } from '@jest/globals';

import { type Transport, memoryLine } from '../../lib/broker/memory-line.js';
import { Inbox, within } from '../support/waits.js';

const opened: Transport[] = [];

/** A line that ends with its test: as long as it is open, it keeps the process alive. */
function openLine(): ReturnType<typeof memoryLine> {
  const line = memoryLine();
  opened.push(...line);
  return line;
}

afterEach(() => {
  for (const end of opened.splice(0)) end.destroy();
});

test('what is written to one end is read from the other, and nobody is called back from within write()', async () => {
  const [near, far] = openLine();
  const inbox = new Inbox<string>();
  far.on('data', (chunk: Buffer) => inbox.push(chunk.toString()));
  for (const text of ['a', 'b', 'c']) near.write(text);
  expect(inbox.all).toEqual([]);
  expect([await inbox.next(), await inbox.next(), await inbox.next()]).toEqual(['a', 'b', 'c']);
});

test('a reader who does not read holds the writer back', async () => {
  const [near, far] = openLine();
  for (let count = 0; count < 100; count += 1) near.write(Buffer.alloc(65_536));
  await new Promise((resolve) => setImmediate(resolve));
  expect(near.writableLength).toBeGreaterThan(90 * 65_536);
  far.resume();
  await within('room', once(near, 'drain'));
  expect(near.writableLength).toBe(0);
});

test('the end of one end is the end of the other, after what was written before', async () => {
  const [near, far] = openLine();
  const inbox = new Inbox<string>();
  far.on('data', (chunk: Buffer) => inbox.push(chunk.toString()));
  near.resume();
  near.end('last words');
  await within('both ends', Promise.all([once(near, 'close'), once(far, 'close')]));
  expect(inbox.all).toEqual(['last words']);
});

test('who destroys one end is noticed at the other, and what is written there goes nowhere', async () => {
  const [near, far] = openLine();
  far.resume();
  near.destroy();
  await within('the end', once(far, 'end'));
  const [other, gone] = openLine();
  const failed = once(other, 'error');
  gone.destroy();
  other.write('x');
  expect(await within('the error', failed)).toMatchObject([{ code: 'EPIPE' }]);
});

test('who destroys one end is noticed at the other also while that is paused', async () => {
  const [near, far] = openLine();
  near.pause();
  far.write('not read');
  far.destroy();
  await within('the close', once(near, 'close'));
});

test('a reset is an error at the other end', async () => {
  const [near, far] = openLine();
  const failed = once(far, 'error');
  near.resetAndDestroy();
  expect(await within('the error', failed)).toMatchObject([{ code: 'ECONNRESET' }]);
});

describe('two ends that answer each other at once', () => {
  /** More than is said before any timer is due; a line that gives timers no turn comes to its end. */
  const LONG_TALK = 50_000;

  /** Says these words whenever the last of them is heard; returns how often that was when a timer came to its turn. */
  async function talkUntilTimer(words: readonly string[]): Promise<number> {
    let count = 0;
    const say = (end: Transport): void => {
      end.cork();
      for (const word of words) end.write(word);
      end.uncork();
    };
    const [near, far] = openLine();
    for (const end of [near, far]) {
      end.on('data', (chunk: Buffer) => {
        if (chunk.toString() !== words.at(-1)) return;
        count += 1;
        if (count < LONG_TALK) say(end);
      });
    }
    say(near);
    await new Promise((resolve) => setTimeout(resolve, 1));
    return count;
  }

  test.each([
    { what: 'one chunk at a time', words: ['x'] },
    { what: 'several chunks at a time', words: ['a', 'b', 'x'] },
  ])('leave room for timers, with $what', async ({ words }) => {
    expect(await talkUntilTimer(words)).toBeLessThan(LONG_TALK);
  });
});
