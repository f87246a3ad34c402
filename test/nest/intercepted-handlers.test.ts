/** Handlers beneath interceptors, whose Observable can be dropped while the method runs on: it is known of until it ends. */
import { type CallHandler, type ExecutionContext, type NestInterceptor, UseInterceptors } from '@nestjs/common';
import type { Observable } from 'rxjs';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AmqpModule, type AmqpModuleOptions, Consume, type Delivery } from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
let queue: string;
let events: Inbox<string>;
let gate: Gate;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  queue = await scratch.queue();
  events = new Inbox();
  gate = new Gate();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const amqp = (options: AmqpModuleOptions = {}): ReturnType<typeof AmqpModule.forRoot> =>
  AmqpModule.forRoot({
    url: brokerUrl,
    connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } },
    ...options,
  });

class Passing implements NestInterceptor {
  intercept(_context: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle();
  }
}

test('one whose channel is lost keeps its key until it ends, and has not failed', async () => {
  class Jobs {
    @Consume(queue, { orderBy: ({ payload }) => payload })
    @UseInterceptors(Passing)
    async work(payload: string, { redelivered }: Delivery): Promise<void> {
      events.push(`${payload} begins${redelivered ? ' again' : ''}`);
      if (payload === 'first' && !redelivered) await gate.opened;
      events.push(`${payload} ends`);
    }
  }
  await using app = await TestApp.boot({ imports: [amqp()], providers: [Jobs] });
  await scratch.sendJson(queue, 'first');
  expect(await events.next()).toBe('first begins');
  line.isDown = true;
  line.cut();
  await scratch.hasMessages(queue, 1);
  line.isDown = false;
  await scratch.hasMessages(queue, 0);
  // It comes after what is delivered again, which waits for the one that runs.
  await scratch.sendJson(queue, 'second');
  await events.next('the end of the second', (event) => event === 'second ends');
  expect(events.all).toEqual(['first begins', 'second begins', 'second ends']);
  gate.open();
  await events.next('the next delivery of the first', (event) => event === 'first begins again');
  expect(events.all.slice(3, 5)).toEqual(['first ends', 'first begins again']);
  await app.close();
  expect(app.log.text()).not.toContain('failed');
});

test('one that fails after its channel was lost is told of', async () => {
  class Jobs {
    @Consume(queue)
    @UseInterceptors(Passing)
    async work(_payload: unknown, { redelivered, signal }: Delivery): Promise<void> {
      if (redelivered) return;
      events.push('begun');
      signal.addEventListener('abort', () => {
        events.push('lost');
      });
      await gate.opened;
      throw new Error('no such card');
    }
  }
  await using app = await TestApp.boot({ imports: [amqp()], providers: [Jobs] });
  await scratch.sendJson(queue, 1);
  expect(await events.next()).toBe('begun');
  line.cut();
  expect(await events.next()).toBe('lost');
  gate.open();
  expect(await app.log.next('warn', 'no such card')).toContain('the broker delivers it again');
});

test('one that takes longer than its timeout is waited for when the application ends', async () => {
  class Jobs {
    @Consume(queue, { timeout: 20 })
    @UseInterceptors(Passing)
    async work(): Promise<void> {
      events.push('begun');
      await gate.opened;
      events.push('ended');
    }

    onModuleDestroy(): void {
      events.push('destroyed');
    }
  }
  const dead = scratch.owns(`${queue}.dead`);
  const app = await TestApp.boot({ imports: [amqp()], providers: [Jobs] });
  await scratch.sendJson(queue, 1);
  expect(await events.next()).toBe('begun');
  await scratch.hasMessages(dead, 1);
  const closing = app.close();
  await scratch.hasConsumers(queue, 0);
  gate.open();
  await closing;
  expect(events.all).toEqual(['begun', 'ended', 'destroyed']);
});
