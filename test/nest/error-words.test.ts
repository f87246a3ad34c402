/** How what a handler has thrown is told: on the dead letter, in the log, to a requester. */
import { UsePipes, ValidationPipe } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AmqpModule, AmqpRpcClient, Consume } from 'nest-amqp';
import { IsInt, IsString } from 'class-validator';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Inbox } from '../support/waits.js';

let scratch: Scratch;
let queue: string;
let dead: string;

beforeEach(async () => {
  scratch = await Scratch.open();
  queue = await scratch.queue();
  dead = scratch.owns(`${queue}.dead`);
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

class Order {
  @IsInt()
  id!: number;

  @IsString()
  note!: string;
}

test('what class-validator finds wrong is in the log, on the dead letter and in the error reply', async () => {
  class Billing {
    @Consume(queue)
    @UsePipes(new ValidationPipe())
    charge(_order: Order): void {
      throw new Error('not reached');
    }
  }
  await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Billing] });
  const wrong = 'id must be an integer number; note must be a string';
  await scratch.sendJson(queue, { id: 'seven' });
  const { properties } = await scratch.take(dead);
  expect(properties.headers?.['x-nest-amqp-error-message']).toContain(wrong);
  const asked = failure(app.get(AmqpRpcClient).requestToQueue(queue, { id: 'seven' }));
  expect((await asked).message).toContain(wrong);
  await app.close();
  expect(app.log.text('error')).toContain(wrong);
});

describe('what is thrown and is no error', () => {
  const round: Record<string, unknown> = { code: 7 };
  round['itself'] = round;

  test.each<[what: string, thrown: unknown, text: string]>([
    ['an object is told as its JSON', { status: 503, why: ['no', 'stock'] }, '{"status":503,"why":["no","stock"]}'],
    ['an object that JSON cannot say is told as Node.js shows it', round, 'code: 7'],
    ['an object without end is cut', { list: Array.from({ length: 10_000 }, (_, index) => index) }, 'more items'],
    ['text is told as it is', 'out of stock', 'out of stock'],
  ])('%s', async (_what, thrown, text) => {
    class Billing {
      @Consume(queue)
      charge(): void {
        throw thrown;
      }
    }
    await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    const message = (await scratch.take(dead)).properties.headers?.['x-nest-amqp-error-message'] as string;
    expect(message).toContain(text);
    expect(message.length).toBeLessThanOrEqual(2_000);
    await app.close();
    expect(app.log.text('error')).toContain(text.slice(0, 20));
  });
});

test('a dead letter that the broker makes after a retry says nothing of the attempt before', async () => {
  ({ queue, dead } = await scratch.queueWithDeadLetters());
  const attempts = new Inbox<number>();
  class Billing {
    @Consume(queue, { retry: { attempts: 2, delays: [1] }, deadLetter: { by: 'broker' } })
    charge(): void {
      attempts.push(1);
      throw new Error(`failure ${attempts.all.length}`);
    }
  }
  await using _app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Billing] });
  await scratch.sendJson(queue, 1);
  const { headers = {} } = (await scratch.take(dead)).properties;
  expect(headers).toMatchObject({ 'x-nest-amqp-attempt': 2, 'x-nest-amqp-queue': queue });
  expect(Object.keys(headers).filter((name) => /error|failed-at/.test(name))).toEqual([]);
});
