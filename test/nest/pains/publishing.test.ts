/** Publishes whose outcome is known, and what they say of themselves. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AmqpModule, AmqpPublisher, PublisherBufferFullError, UnroutableError } from 'nest-amqp';

import { brokerUrl } from '../../support/broker.mjs';
import { failure } from '../../support/client.js';
import { TestApp } from '../../support/nest-app.js';
import { CuttableLine, Scratch } from '../../support/scratch.js';

let scratch: Scratch;

beforeEach(async () => {
  scratch = await Scratch.open();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

test('e12: a message that no queue takes is an error (golevelup: resolves)', async () => {
  const exchange = await scratch.exchange('topic');
  await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })] });
  const error = await failure(app.get(AmqpPublisher).publish(exchange, 'nobody.home', 1));
  expect(error).toBeInstanceOf(UnroutableError);
  expect(error.message).toContain(exchange);
});

test('e12: a message is persistent and says its content type, its id and when it was published (golevelup: nothing of it)', async () => {
  const queue = await scratch.queue();
  await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })] });
  const before = Math.floor(Date.now() / 1000);
  await app.get(AmqpPublisher).sendToQueue(queue, { id: 7 });
  const { properties, body } = await scratch.take(queue);
  expect(body.toString()).toBe('{"id":7}');
  expect(properties).toMatchObject({ deliveryMode: 2, contentType: 'application/json' });
  expect(properties.messageId).toMatch(/^[0-9a-f-]{36}$/);
  expect(properties.timestamp).toBeGreaterThanOrEqual(before);
});

test('e16: while the broker is away publishes wait within a bound and for so long, and each has an outcome (golevelup: without either)', async () => {
  const queue = await scratch.queue();
  const line = new CuttableLine();
  line.isDown = true;
  const module = AmqpModule.forRoot({
    url: brokerUrl,
    startup: 'background',
    publisher: { maxBuffered: 3 },
    connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } },
  });
  await using app = await TestApp.boot({ imports: [module] });
  const publisher = app.get(AmqpPublisher);
  const waiting = [1, 2].map((id) => publisher.sendToQueue(queue, id));
  const impatient = failure(publisher.sendToQueue(queue, 'impatient', { timeout: 1 }));
  const over = await failure(publisher.sendToQueue(queue, 'one too many'));
  expect(over).toBeInstanceOf(PublisherBufferFullError);
  expect(await impatient).toMatchObject({ code: 'ABORTED' });
  line.isDown = false;
  await Promise.all(waiting);
  expect(await scratch.drain(queue)).toEqual(['1', '2']);
});
