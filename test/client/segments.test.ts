/** Memory that is written into again, and never while somebody may still read what was written before. */
import { expect, test } from '@jest/globals';
import { once } from 'node:events';
import { type AddressInfo, type Socket, connect, createServer } from 'node:net';

import { Metrics } from '../../lib/client/metrics.js';
import { Outbox } from '../../lib/client/outbox.js';
import { Segments } from '../../lib/client/segments.js';
import { FrameDecoder } from '../../lib/protocol/frame-decoder.js';
import { SEGMENT_SIZE } from '../../lib/protocol/wire.js';
import { within } from '../support/waits.js';

test('a segment comes back when everything is taken, and not before', () => {
  const segments = new Segments();
  const [first, second] = [segments.next(), segments.next()];
  segments.retired(first);
  expect(segments.next()).not.toBe(first);
  segments.allTaken();
  expect(segments.next()).toBe(first);
  segments.retired(Buffer.alloc(SEGMENT_SIZE + 1));
  segments.retired(second);
  segments.allTaken();
  expect([segments.next(), segments.next()].includes(second)).toBe(true);
});

test('what is published arrives unchanged, however slowly the other end reads and whatever is written meanwhile', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const arrived = once(server, 'connection') as Promise<[Socket]>;
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [reader] = await arrived;
  const outbox = new Outbox(socket, new Metrics(), true);
  outbox.frameMax = 131_072;
  const count = 30_000;
  const bodies: string[] = [];
  let last = '';
  const decoder = new FrameDecoder((type, channel, buffer, start, end) => {
    if (type === 3 && channel === 1) bodies.push((last = buffer.toString('utf8', start, end)));
  });
  const done = new Promise<void>((resolve) => {
    reader.on('data', (chunk: Buffer) => {
      decoder.push(chunk);
      if (last.startsWith(`${count - 1} `)) resolve();
      // Stops and goes, so that the writer is now ahead and now behind.
      reader.pause();
      setImmediate(() => reader.resume());
    });
  });
  const large = Buffer.alloc(20_000, 'large');
  for (let number = 0; number < count; number += 1) {
    const text = `${number} ${'x'.repeat(number % 700)}`;
    const goOn = outbox.publish(1, 'e', `key ${number}`, false, {}, number % 2 === 0 ? text : Buffer.from(text));
    if (number % 97 === 0) outbox.publish(2, 'e', 'large', false, {}, large);
    if (!goOn) await outbox.drained();
  }
  await within('all of it', done);
  expect(bodies).toHaveLength(count);
  expect(bodies.findIndex((body, number) => body !== `${number} ${'x'.repeat(number % 700)}`)).toBe(-1);
  socket.destroy();
  reader.destroy();
  server.close();
});
