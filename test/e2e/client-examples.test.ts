/** The examples of the client, run as they stand. */
import { expect, jest, test } from '@jest/globals';

import { connect } from '../../lib/client/connection.js';
import { consumeUntil } from '../../sample-app/client/consuming-messages.js';
import { publishHello } from '../../sample-app/client/publishing-messages.js';
import { answerPrices, askPrice } from '../../sample-app/client/requests-and-replies.js';
import { startConnection } from '../../sample-app/client/starting-a-connection.js';
import { sendToOneself } from '../../sample-app/client/surviving-reconnects.js';
import { publishThroughExchange } from '../../sample-app/client/using-exchanges.js';
import { brokerUrl } from '../support/broker.mjs';
import { within } from '../support/waits.js';

test('starting a connection tells who the broker is', async () => {
  expect(await startConnection(brokerUrl)).toMatch(/^RabbitMQ \d+\.\d+/);
});

test('what is published to a queue and through an exchange is consumed, in order', async () => {
  const log = jest.spyOn(console, 'log').mockImplementation(() => undefined);
  const names = { exchange: `examples.${process.pid}.exchange`, queue: `examples.${process.pid}.queue` };
  await publishHello(brokerUrl, names.queue);
  await publishThroughExchange(brokerUrl, names);
  const consumed = await within('the messages', consumeUntil(brokerUrl, 'hello, everybody', names.queue));
  expect(consumed).toEqual(['hello', 'hello, everybody']);
  expect(log).toHaveBeenCalledTimes(2);
  log.mockRestore();

  await using connection = await connect(brokerUrl);
  const channel = await connection.channel();
  // Everything was acknowledged.
  expect(await channel.queueDelete(names.queue)).toBe(0);
  await channel.exchangeDelete(names.exchange);
});

test('what is asked is answered', async () => {
  const queue = `examples.${process.pid}.prices`;
  await using connection = await connect(brokerUrl);
  const channel = await connection.channel();
  await answerPrices(connection, queue);
  expect(await within('the reply', askPrice(brokerUrl, 'apples', queue))).toBe('apples cost 3');
  // Everything was acknowledged.
  expect(await channel.queueDelete(queue)).toBe(0);
});

test('what goes over the connection that comes back arrives, and its status is told', async () => {
  const log = jest.spyOn(console, 'log').mockImplementation(() => undefined);
  expect(await within('the messages', sendToOneself(brokerUrl, ['a', 'b']))).toEqual(['a', 'b']);
  const said = log.mock.calls.flat();
  log.mockRestore();
  expect(said).toEqual(['connecting', 'open', 'closed'].map((state) => `the connection is ${state}`));
});
