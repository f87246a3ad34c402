/** What an error shows of itself. What each means is tested where it is thrown. */
import { expect, test } from '@jest/globals';
import { inspect } from 'node:util';

import { AmqpError, ProtocolError, PublisherBufferFullError, UnroutableError } from '../lib/errors.js';

test('an error that is printed shows what the wire said, and nothing that it did not say', () => {
  const plain = new AmqpError('INVALID_OPTION', 'prefetch has to be an integer.');
  expect(inspect(plain)).not.toContain('undefined');
  expect(Object.keys(plain)).toEqual(['name', 'code']);
  const refused = new AmqpError('CHANNEL_CLOSED', 'The broker closed the channel.', {
    replyCode: 404,
    method: 'queue.declare',
  });
  expect(inspect(refused)).toMatch(/replyCode: 404,\n {2}method: 'queue.declare'\n}/);
  expect(inspect(new ProtocolError(501, 'no frame'))).toMatch(/replyCode: 501\n}/);
  expect(inspect(new UnroutableError('orders', 'a'))).not.toContain('undefined');
});

test('what the wire did not say reads as undefined', () => {
  const { replyCode, replyText, method, closedBy } = new AmqpError('INVALID_OPTION', 'prefetch has to be an integer.');
  expect([replyCode, replyText, method, closedBy]).toEqual([undefined, undefined, undefined, undefined]);
});

test.each([true, false])('a full buffer says what to do, connected %s', (isConnected) => {
  const { message } = new PublisherBufferFullError(10, 20, isConnected);
  expect(message).toContain('Await some of them before you publish more, as publishAll does');
  expect(message).toContain("onOverflow: 'wait'");
});
