/** How many handlers run at once, and which wait for which. */
import type { Type } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpModule,
  type AmqpModuleOptions,
  Consume,
  type ConsumeHandlerOptions,
  type Delivery,
  RequeueDelivery,
} from 'nest-amqp';
import { gzipSync } from 'node:zlib';

import { brokerUrl } from '../support/broker.mjs';
import { failure, refusalOf } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Gate, Inbox } from '../support/waits.js';

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

interface Job {
  readonly key?: string;
  readonly n: number;
}

/** A handler that notes what begins, and returns when the test says so. */
class Held {
  readonly begun = new Inbox<Delivery<Job>>();
  readonly #gates = new Map<number, Gate>();
  readonly #errors = new Map<number, Error>();
  readonly provider: Type;

  constructor(queue: string, options: ConsumeHandlerOptions) {
    const begin = (delivery: Delivery<Job>): Promise<void> => this.#begin(delivery);
    class Jobs {
      @Consume(queue, options)
      async work(_job: Job, delivery: Delivery<Job>): Promise<void> {
        await begin(delivery);
      }
    }
    this.provider = Jobs;
  }

  /** What was begun, in that order. */
  get order(): number[] {
    return this.begun.all.map(({ payload }) => payload.n);
  }

  finish(n: number, error?: Error): void {
    if (error !== undefined) this.#errors.set(n, error);
    this.#gate(n).open();
  }

  async #begin(delivery: Delivery<Job>): Promise<void> {
    const { n } = delivery.payload;
    this.begun.push(delivery);
    await this.#gate(n).opened;
    const error = this.#errors.get(n);
    this.#errors.delete(n);
    if (error !== undefined) throw error;
  }

  #gate(n: number): Gate {
    const gate = this.#gates.get(n) ?? new Gate();
    this.#gates.set(n, gate);
    return gate;
  }
}

async function sendAll(queue: string, jobs: readonly Job[]): Promise<void> {
  for (const job of jobs) await scratch.sendJson(queue, job);
}

const byKey: ConsumeHandlerOptions['orderBy'] = ({ payload }) => (payload as Job).key;

describe('concurrency', () => {
  test('is how many run at once; the rest of the prefetched waits, and goes back when the application ends', async () => {
    const queue = await scratch.queue();
    const held = new Held(queue, { prefetch: 5, concurrency: 2 });
    const app = await boot(held.provider);
    await sendAll(
      queue,
      [1, 2, 3, 4, 5, 6].map((n) => ({ n })),
    );
    await held.begun.next();
    await held.begun.next();
    // Five are here, and the broker has the sixth.
    await scratch.hasMessages(queue, 1);
    expect(held.order).toEqual([1, 2]);
    held.finish(2);
    await held.begun.next();
    expect(held.order).toEqual([1, 2, 3]);
    const closing = app.close();
    await scratch.hasMessages(queue, 3);
    held.finish(1);
    held.finish(3);
    await closing;
    expect(held.order).toEqual([1, 2, 3]);
    expect((await scratch.drain(queue)).map((body) => (JSON.parse(body) as Job).n)).toEqual([4, 5, 6]);
  });

  test('has a default in the options of the module, which a lower prefetch bounds', async () => {
    const [queue, other] = [await scratch.queue(), await scratch.queue()];
    const held = new Held(queue, {});
    const low = new Held(other, { prefetch: 1 });
    await using _app = await TestApp.boot({
      imports: [amqp({ consumers: { concurrency: 2 } })],
      providers: [held.provider, low.provider],
    });
    await sendAll(
      queue,
      [1, 2, 3].map((n) => ({ n })),
    );
    await sendAll(
      other,
      [1, 2].map((n) => ({ n })),
    );
    await held.begun.next();
    await held.begun.next();
    await low.begun.next();
    await scratch.hasMessages(queue, 0);
    await scratch.hasMessages(other, 1);
    expect([held.order, low.order]).toEqual([[1, 2], [1]]);
    for (const n of [1, 2, 3]) held.finish(n);
    for (const n of [1, 2]) low.finish(n);
    await held.begun.next();
    await low.begun.next();
  });

  test('of more than the prefetch fails the boot', async () => {
    const error = await failure(boot(new Held(await scratch.queue(), { prefetch: 5, concurrency: 6 }).provider));
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
    expect(error.message).toContain('concurrency of Jobs.work (6) is more than its prefetch (5)');
  });

  test.each<ConsumeHandlerOptions>([
    { concurrency: 0 },
    { concurrency: 1.5 },
    { concurrency: '2' as never },
    { orderBy: 'key' as never },
    { when: 7 as never },
    { when: 'x'.repeat(256) },
    { competing: 'yes' as never },
    { competing: true, when: 'a' },
  ])('and options like it that cannot be are refused: %j', (options) => {
    const [name] = Object.keys(options);
    const error = refusalOf(Consume('jobs', options));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(name);
  });
});

describe('orderBy', () => {
  test('handles one at a time per key, in order of arrival, and different keys side by side', async () => {
    const queue = await scratch.queue();
    const held = new Held(queue, { orderBy: byKey });
    await using _app = await boot(held.provider);
    await sendAll(queue, [
      { key: 'a', n: 1 },
      { key: 'a', n: 2 },
      { key: 'b', n: 3 },
      { n: 4 },
      { n: 5 },
      { key: 'a', n: 6 },
    ]);
    for (let count = 0; count < 4; count += 1) await held.begun.next();
    expect(held.order).toEqual([1, 3, 4, 5]);
    held.finish(1);
    await held.begun.next();
    expect(held.order).toEqual([1, 3, 4, 5, 2]);
    held.finish(2);
    await held.begun.next();
    expect(held.order).toEqual([1, 3, 4, 5, 2, 6]);
    for (const n of [3, 4, 5, 6]) held.finish(n);
    await scratch.hasMessages(queue, 0);
  });

  test('does not let a key that waits hold up the others: concurrency counts what runs', async () => {
    const queue = await scratch.queue();
    const held = new Held(queue, { orderBy: byKey, prefetch: 20, concurrency: 2 });
    await using _app = await boot(held.provider);
    await sendAll(queue, [...[1, 2, 3, 4, 5].map((n) => ({ key: 'a', n })), { key: 'b', n: 6 }, { key: 'c', n: 7 }]);
    await held.begun.next();
    await held.begun.next();
    expect(held.order).toEqual([1, 6]);
    held.finish(6);
    await held.begun.next();
    expect(held.order).toEqual([1, 6, 7]);
    for (let n = 1; n <= 7; n += 1) held.finish(n);
    for (let count = 0; count < 4; count += 1) await held.begun.next();
    expect(held.order.filter((n) => n <= 5)).toEqual([1, 2, 3, 4, 5]);
  });

  test('has the next of a key wait until a failed one is settled; one that waits for its retry is overtaken', async () => {
    const queue = await scratch.queue();
    scratch.owns(`${queue}.retry.200`);
    const dead = scratch.owns(`${queue}.dead`);
    const held = new Held(queue, { orderBy: byKey, retry: { attempts: 2, delays: [200] } });
    await using app = await boot(held.provider);
    await sendAll(
      queue,
      [1, 2, 3].map((n) => ({ key: 'a', n })),
    );
    await held.begun.next();
    held.finish(1, new Error('not yet'));
    expect((await held.begun.next()).payload.n).toBe(2);
    expect(app.log.text('warn')).toContain('It waits 200 ms');
    held.finish(2);
    expect((await held.begun.next()).payload.n).toBe(3);
    held.finish(3, Object.assign(new Error('no'), { getStatus: () => 400 }));
    const again = await held.begun.next('the second attempt');
    expect(again).toMatchObject({ payload: { n: 1 }, attempt: 2 });
    await scratch.hasMessages(dead, 1);
  });

  test('holds the key while a message that came back before is put back again', async () => {
    const queue = await scratch.queue();
    const held = new Held(queue, { orderBy: byKey });
    await using _app = await boot(held.provider);
    await sendAll(queue, [{ key: 'a', n: 1 }]);
    await held.begun.next();
    held.finish(1, new RequeueDelivery());
    const again = await held.begun.next();
    expect(again).toMatchObject({ payload: { n: 1 }, redelivered: true });
    await scratch.hasMessages(queue, 0);
  });

  test('keeps the order of arrival also when decoding takes its time', async () => {
    const queue = await scratch.queue();
    const held = new Held(queue, { orderBy: byKey, concurrency: 1 });
    for (let n = 1; n <= 6; n += 1) {
      held.finish(n);
      const body = JSON.stringify({ key: 'a', n });
      const options = { contentType: 'application/json' };
      // Decompressing is asynchronous, plain JSON is not.
      if (n % 2 === 1) await scratch.send(queue, gzipSync(body), { ...options, contentEncoding: 'gzip' });
      else await scratch.send(queue, body, options);
    }
    await using _app = await boot(held.provider);
    for (let n = 1; n <= 6; n += 1) await held.begun.next();
    expect(held.order).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test.each<[what: string, orderBy: ConsumeHandlerOptions['orderBy'], told: string]>([
    [
      'throws',
      () => {
        throw new Error('no customer');
      },
      'no customer',
    ],
    ['returns an object', ({ payload }) => payload, 'orderBy returned an object'],
    ['returns a promise', () => Promise.resolve('a'), 'or a promise'],
    ['returns a promise that rejects', () => Promise.reject(new Error('no customer')), 'or a promise'],
  ])('that %s fails that delivery alone', async (_what, orderBy, told) => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    const held = new Held(queue, {
      orderBy: (delivery) => ((delivery.payload as Job).n === 1 ? orderBy?.(delivery) : 'fine'),
    });
    await using app = await boot(held.provider);
    await sendAll(queue, [{ n: 1 }, { n: 2 }]);
    expect((await held.begun.next()).payload.n).toBe(2);
    expect((await scratch.take(dead)).body.toString()).toBe('{"n":1}');
    await app.log.next('error', told);
    held.finish(2);
  });

  test('begins nothing after the application was told to end, and loses nothing', async () => {
    const queue = await scratch.queue();
    const held = new Held(queue, { orderBy: byKey });
    const app = await boot(held.provider);
    await sendAll(
      queue,
      [1, 2, 3].map((n) => ({ key: 'a', n })),
    );
    await held.begun.next();
    await scratch.hasMessages(queue, 0);
    const closing = app.close();
    await scratch.hasMessages(queue, 2);
    held.finish(1);
    await closing;
    expect(held.order).toEqual([1]);
    expect(await scratch.drain(queue)).toHaveLength(2);
  });
});
