/** What a consumer tells the broker: priority, exclusiveness, where a stream is read from. */
import type { Type } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AmqpModule, type AmqpModuleOptions, Consume, type ConsumeHandlerOptions, type Delivery } from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Inbox } from '../support/waits.js';

let scratch: Scratch;

beforeEach(async () => {
  scratch = await Scratch.open();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const amqp = (options: AmqpModuleOptions = {}): ReturnType<typeof AmqpModule.forRoot> =>
  AmqpModule.forRoot({ url: brokerUrl, ...options });

async function boot(provider: Type, options?: AmqpModuleOptions): Promise<TestApp> {
  return await TestApp.boot({ imports: [amqp(options)], providers: [provider] });
}

function noting(queue: string, options: ConsumeHandlerOptions): [Type, Inbox<unknown>] {
  const got = new Inbox<unknown>();
  class Billing {
    @Consume(queue, options)
    charge(payload: unknown, delivery: Delivery): void {
      got.push([payload, delivery.headers['x-stream-offset']]);
    }
  }
  return [Billing, got];
}

test('priority has the consumer get messages before others', async () => {
  const queue = await scratch.queue();
  const [Low, low] = noting(queue, {});
  const [High, high] = noting(queue, { priority: 10 });
  await using _one = await boot(Low);
  await using _other = await boot(High);
  for (const n of [1, 2, 3]) {
    await scratch.sendJson(queue, n);
    await high.next();
  }
  expect(low.all).toEqual([]);
});

test('exclusive keeps others away, and them from it', async () => {
  const queue = await scratch.queue();
  await using _app = await boot(noting(queue, { exclusive: true })[0]);
  const error = await failure(boot(noting(queue, {})[0]));
  expect(error.replyCode).toBe(403);
  const shared = await scratch.queue();
  await using _first = await boot(noting(shared, {})[0]);
  expect((await failure(boot(noting(shared, { exclusive: true })[0]))).replyCode).toBe(403);
});

// The embedded broker has no streams, and says so.
const describeWithStreams = process.env['NEST_AMQP_TEST_BROKER'] === 'embedded' ? describe.skip : describe;

describeWithStreams('a stream', () => {
  test.each<[offset: string | number, expected: unknown[]]>([
    ['first', [0, 1, 2, 3, 4]],
    [2, [2, 3, 4]],
    ['next', []],
  ])('is read from x-stream-offset %j', async (offset, expected) => {
    const queue = await scratch.queue({ durable: true, arguments: { 'x-queue-type': 'stream' } });
    for (let n = 0; n < 5; n += 1) await scratch.sendJson(queue, n);
    const [Billing, got] = noting(queue, { arguments: { 'x-stream-offset': offset } });
    await using _app = await boot(Billing);
    for (const n of expected) expect(await got.next()).toEqual([n, n]);
    await scratch.sendJson(queue, 'after');
    expect(await got.next()).toEqual(['after', 5]);
    expect(got.all).toHaveLength(expected.length + 1);
  });
});
