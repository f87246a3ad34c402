/** The line without a network: bytes in their order, back-pressure, and ends as sockets have them. */
import { once } from 'node:events';
import { afterEach, expect, test } from '@jest/globals';

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

test('a reset is an error at the other end', async () => {
  const [near, far] = openLine();
  const failed = once(far, 'error');
  near.resetAndDestroy();
  expect(await within('the error', failed)).toMatchObject([{ code: 'ECONNRESET' }]);
});
