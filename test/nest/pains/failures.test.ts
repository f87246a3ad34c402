/** What comes of messages whose handler, guard, pipe or decoding fails: an end, each of them. */
import {
  BadRequestException,
  type CanActivate,
  Injectable,
  type PipeTransform,
  type Type,
  UseGuards,
  UsePipes,
} from '@nestjs/common';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AmqpModule, Consume, type Delivery } from 'nest-amqp';

import { brokerUrl } from '../../support/broker.mjs';
import { TestApp } from '../../support/nest-app.js';
import { Scratch } from '../../support/scratch.js';

let scratch: Scratch;
let queue: string;
let dead: string;
/** How often the handler, the guard or the pipe was called; each test has its own. */
let calls: number;

beforeEach(async () => {
  scratch = await Scratch.open();
  queue = await scratch.queue();
  dead = scratch.owns(`${queue}.dead`);
  calls = 0;
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

/** Runs the application until the message is a dead letter, and shuts it down: then nothing of it can be under way. */
async function deadLetterOf(provider: Type, body = '{"id":7}'): Promise<Record<string, unknown>> {
  const app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [provider] });
  try {
    await scratch.send(queue, body, { contentType: 'application/json', messageId: 'seven' });
    await app.log.next('error', 'seven');
  } finally {
    await app.close();
  }
  expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  expect(await scratch.state(dead)).toMatchObject({ messageCount: 1 });
  const { properties, body: kept } = await scratch.take(dead);
  expect(kept.toString()).toBe(body);
  return properties.headers ?? {};
}

test('e7: a handler that throws is called once, and its message dead-lettered with the error (golevelup: 15,520 calls a second)', async () => {
  class Billing {
    @Consume(queue)
    charge(): never {
      calls += 1;
      throw new Error('the database is down');
    }
  }
  expect(await deadLetterOf(Billing)).toMatchObject({ 'x-nest-amqp-error-message': 'the database is down' });
  expect(calls).toBe(1);
});

test('e7: a handler with retry is called as often as there are attempts, and no more', async () => {
  scratch.owns(`${queue}.retry.20`);
  const attempts: number[] = [];
  class Billing {
    @Consume(queue, { retry: { attempts: 3, delays: [20] } })
    charge(_payload: unknown, { attempt }: Delivery): never {
      attempts.push(attempt);
      throw new Error('the database is down');
    }
  }
  expect(await deadLetterOf(Billing)).toMatchObject({ 'x-nest-amqp-attempts': 3 });
  expect(attempts).toEqual([1, 2, 3]);
});

test('e15: a body that nobody can decode is dead-lettered, and the handler does not run (golevelup: 3,451 rounds a second)', async () => {
  class Billing {
    @Consume(queue)
    charge(): void {
      calls += 1;
    }
  }
  expect(await deadLetterOf(Billing, 'no JSON')).toMatchObject({ 'x-nest-amqp-error-class': 'AmqpError' });
  expect(calls).toBe(0);
});

test('e15: what a guard denies is dead-lettered (golevelup: 4,463 calls a second)', async () => {
  @Injectable()
  class Denies implements CanActivate {
    canActivate(): boolean {
      calls += 1;
      return false;
    }
  }
  class Billing {
    @Consume(queue)
    @UseGuards(Denies)
    charge(): void {
      calls += 100;
    }
  }
  expect(await deadLetterOf(Billing)).toMatchObject({ 'x-nest-amqp-error-class': 'ForbiddenException' });
  expect(calls).toBe(1);
});

test('e15: a pipe sees the payload of a method without parameter decorators, and what it refuses is dead-lettered (golevelup: neither)', async () => {
  @Injectable()
  class Refuses implements PipeTransform {
    transform(): never {
      calls += 1;
      throw new BadRequestException('id has to be a string');
    }
  }
  class Billing {
    @Consume(queue, { retry: { attempts: 5 } })
    @UsePipes(Refuses)
    charge(_payload: unknown): void {
      calls += 100;
    }
  }
  expect(await deadLetterOf(Billing)).toMatchObject({ 'x-nest-amqp-error-message': 'id has to be a string' });
  expect(calls).toBe(1);
});
