/** How what a handler has thrown is told: on the dead letter, in the log, to a requester. */
import { BadRequestException, UsePipes, ValidationPipe } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AmqpError, AmqpModule, AmqpRpcClient, Consume, RejectDelivery } from 'nest-amqp';
import { IsInt, IsString } from 'class-validator';
import { inspect } from 'node:util';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch, type StoredMessage } from '../support/scratch.js';
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
    ['nothing is told as undefined', undefined, 'undefined'],
  ])('%s', async (_what, thrown, text) => {
    const { log, letter } = await failedWith(thrown);
    const message = letter.properties.headers?.['x-nest-amqp-error-message'] as string;
    expect(message).toContain(text);
    expect(message.length).toBeLessThanOrEqual(2_000);
    expect(log).toContain(text.slice(0, 20));
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

describe('the log says', () => {
  const told = async (thrown: unknown): Promise<string> => (await failedWith(thrown)).log;

  test.each<[thrown: unknown, text: string]>([
    [undefined, 'The handler threw undefined, which is no error.'],
    [null, 'The handler threw null, which is no error.'],
    [5, 'The handler threw 5, which is no error.'],
    [() => 5, 'The handler threw a function, which is no error.'],
    ['out of stock', 'The handler threw text, which is no error: out of stock'],
    [{ status: 503 }, 'The handler threw an object, which is no error: {"status":503}'],
  ])('that %p is no error', async (thrown, text) => {
    expect(await told(thrown)).toContain(text);
  });

  test('that something has no text', async () => {
    const refuse = (): never => {
      throw new Error('not a word');
    };
    const mute = { toJSON: refuse, [inspect.custom]: refuse };
    expect(await told(mute)).toContain('The handler threw an object, which is no error: What was thrown has no text.');
  });

  test('what the errors of an AggregateError say, of the first of them', async () => {
    const errors = Array.from({ length: 7 }, (_, index) => new RangeError(`limit ${index} ${'x'.repeat(300)}`));
    const text = await told(new AggregateError([new TypeError('no card'), 'busy', ...errors], 'many'));
    expect(text).toMatch(/AggregateError: many: TypeError: no card; "busy"; RangeError: limit 0 x+/);
    const { letter } = await failedWith(new AggregateError([new TypeError('no card'), ...errors]));
    expect(letter.properties.headers?.['x-nest-amqp-error-message']).toMatch(
      /^TypeError: no card; RangeError: limit 0 x+…; .*limit 3 x+… \(and 3 more\)$/,
    );
  });

  test('what caused an error that was thrown on purpose, with where that was', async () => {
    const cause = new RangeError('limit is 5');
    expect(await told(new RejectDelivery('no card', { cause }))).toMatch(
      /RejectDelivery: no card\n {2}caused by: RangeError: limit is 5\n {4}at /,
    );
    expect(await told(new BadRequestException('no card', { cause }))).toMatch(
      /BadRequestException: no card\n {2}caused by: RangeError: limit is 5\n {4}at /,
    );
  });

  test('a cause that is no error', async () => {
    expect(await told(new Error('no card', { cause: 'limit is 5' }))).toMatch(/caused by: limit is 5/);
  });

  test('nothing of what caused a body not to be read, which may quote it', async () => {
    const quotes = new SyntaxError('secret is no JSON');
    const unreadable = new AmqpError('UNDECODABLE', 'The reply cannot be read.', { cause: quotes });
    const text = await told(new Error('no price', { cause: unreadable }));
    expect(text).toContain('caused by: AmqpError: The reply cannot be read.');
    expect(text).not.toContain('secret');
  });
});

/** What the log says of a handler that throws this, and the dead letter. */
async function failedWith(thrown: unknown): Promise<{ readonly log: string; readonly letter: StoredMessage }> {
  class Billing {
    @Consume(queue)
    charge(): void {
      throw thrown;
    }
  }
  await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Billing] });
  await scratch.sendJson(queue, 1);
  const letter = await scratch.take(dead);
  await app.close();
  return { log: app.log.text('error'), letter };
}
