/** Handlers that take many deliveries at once. */
import { setTimeout as delay } from 'node:timers/promises';

import { BadRequestException, Inject, Injectable, ParseArrayPipe, Scope, type Type, UseGuards } from '@nestjs/common';
import type { CanActivate, ExecutionContext } from '@nestjs/common';
import { REQUEST } from '@nestjs/core';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpConnection,
  AmqpDelivery,
  AmqpHeader,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpProperties,
  AmqpSignal,
  Consume,
  type ConsumeHandlerOptions,
  type Delivery,
  PartialBatchError,
  Payload,
  RejectDelivery,
} from 'nest-amqp';
import { z } from 'zod';

import { brokerUrl } from '../support/broker.mjs';
import { refusalOf, thrown } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually } from '../support/waits.js';

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

type Batch = readonly Delivery<number>[];

/** Longer than any test: such a batch is handed over because it is full. */
const FOR_EVER = '10m';

/** A handler that notes its batches, and does something with them. */
function batching(
  queue: string,
  options: ConsumeHandlerOptions,
  does: (deliveries: Batch) => unknown = () => undefined,
): [Type, Inbox<Batch>] {
  const got = new Inbox<Batch>();
  class Orders {
    @Consume(queue, options)
    async insert(payloads: readonly number[], deliveries: Batch): Promise<void> {
      expect(payloads).toEqual(deliveries.map(({ payload }) => payload));
      got.push(deliveries);
      await does(deliveries);
    }
  }
  return [Orders, got];
}

async function sendAll(queue: string, payloads: readonly unknown[]): Promise<void> {
  await scratch.sendAllJson(queue, payloads);
}

/** Resolves when so many messages have come to the application: what the broker has sent may still be on its way. */
async function hasArrived(app: TestApp, count: number): Promise<void> {
  const { metrics } = app.get(AmqpConnection);
  await eventually(`${count} deliveries`, () => Promise.resolve(metrics.delivered === count || undefined));
}

const numbers = (deliveries: Batch): number[] => deliveries.map(({ payload }) => payload);

/** What is in a queue, sorted; waits for so many. */
async function taken(queue: string, count: number): Promise<string[]> {
  const bodies: string[] = [];
  for (let index = 0; index < count; index += 1) bodies.push((await scratch.take(queue)).body.toString());
  return bodies.sort();
}

describe('a batch', () => {
  test('is handed over when it is full, in order of arrival, and acknowledged', async () => {
    const queue = await scratch.queue();
    const [Orders, got] = batching(queue, { batch: { size: 3, maxWait: FOR_EVER } });
    const app = await boot(Orders);
    await sendAll(queue, [1, 2, 3, 4, 5, 6, 7]);
    expect(numbers(await got.next())).toEqual([1, 2, 3]);
    expect(numbers(await got.next())).toEqual([4, 5, 6]);
    await scratch.hasMessages(queue, 0);
    await app.close();
    // The seventh was not begun.
    expect(await scratch.drain(queue)).toEqual(['7']);
    expect(got.all).toHaveLength(2);
  });

  test('is handed over when its first message has waited long enough, however many come meanwhile', async () => {
    const queue = await scratch.queue();
    const [Orders, got] = batching(queue, { batch: { size: 10_000, maxWait: 300 } });
    await using _app = await boot(Orders);
    // If each message started the wait anew, it would not end while they come.
    let isSending = true;
    const sending = (async () => {
      // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- it changes while it waits
      for (let n = 0; isSending; n += 1) await scratch.sendJson(queue, n);
    })();
    const batch = await got.next();
    isSending = false;
    await sending;
    expect(batch.length).toBeGreaterThan(0);
    expect(batch[0]?.payload).toBe(0);
  });

  test('raises the prefetch to its size, and says so where the handler said less', async () => {
    const queue = await scratch.queue();
    const [Orders, got] = batching(queue, { prefetch: 2, batch: { size: 120, maxWait: FOR_EVER } });
    await using app = await boot(Orders);
    expect(await app.log.next('log', 'too low')).toContain(
      'Orders.insert (2) is too low to fill its batches, and raised to 120',
    );
    await sendAll(
      queue,
      Array.from({ length: 120 }, (_, n) => n),
    );
    expect(await got.next()).toHaveLength(120);
  });

  test('raises the default prefetch without a word, to as many batches as run at once', async () => {
    const queue = await scratch.queue();
    const gate = new Gate();
    const [Orders, got] = batching(
      queue,
      { concurrency: 2, batch: { size: 60, maxWait: FOR_EVER } },
      () => gate.opened,
    );
    await using app = await boot(Orders);
    expect(await app.log.next('log', 'runs')).toContain('prefetch 120');
    expect(app.log.text('warn')).toBe('');
    await sendAll(
      queue,
      Array.from({ length: 120 }, (_, n) => n),
    );
    await got.next();
    await got.next();
    gate.open();
  });

  test('waits while as many run as may, and takes more until it is full', async () => {
    const queue = await scratch.queue();
    const gates = [new Gate(), new Gate()];
    let calls = 0;
    const [Orders, got] = batching(
      queue,
      { prefetch: 100, concurrency: 1, batch: { size: 5, maxWait: 50 } },
      () => gates[calls++]?.opened,
    );
    await using app = await boot(Orders);
    await sendAll(queue, [1]);
    expect(numbers(await got.next())).toEqual([1]);
    await sendAll(queue, [2]);
    await hasArrived(app, 2);
    // A timer that is set later, and for longer, fires later: the second has waited long enough when the rest comes.
    await delay(100);
    await sendAll(queue, [3, 4, 5, 6, 7]);
    await hasArrived(app, 7);
    expect(got.all).toHaveLength(1);
    gates[0]?.open();
    expect(numbers(await got.next())).toEqual([2, 3, 4, 5, 6]);
    gates[1]?.open();
    expect(numbers(await got.next())).toEqual([7]);
  });

  test('leaves out what cannot be read or is invalid, which fails by itself', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    const [Orders, got] = batching(queue, { schema: z.number(), batch: { size: 2, maxWait: FOR_EVER } });
    await using _app = await boot(Orders);
    await scratch.sendJson(queue, 1);
    await scratch.send(queue, '{broken', { contentType: 'application/json' });
    await scratch.sendJson(queue, 'text');
    await scratch.sendJson(queue, 2);
    expect(numbers(await got.next())).toEqual([1, 2]);
    expect(await taken(dead, 2)).toEqual(['"text"', '{broken']);
    await scratch.hasMessages(queue, 0);
  });

  test('that waits when its channel is lost is forgotten: the broker delivers it again', async () => {
    const queue = await scratch.queue();
    const [Orders, got] = batching(queue, { batch: { size: 2, maxWait: FOR_EVER } });
    await using app = await boot(Orders);
    await sendAll(queue, [1]);
    await scratch.hasMessages(queue, 0);
    await scratch.delete(queue);
    await app.log.next('warn', 'stopped');
    await scratch.hasConsumers(queue, 1);
    await sendAll(queue, [2, 3]);
    expect(numbers(await got.next())).toEqual([2, 3]);
  });

  test.each<[ConsumeHandlerOptions, string]>([
    [{ batch: { size: 0 } }, 'size'],
    [{ batch: { size: 1.5 } }, 'size'],
    [{ batch: { size: 40_000 }, concurrency: 2 }, '65535'],
    [{ batch: { size: 2, maxWait: '-1s' } }, 'maxWait'],
    [{ batch: { size: 2, maxWait: 0 } }, 'maxWait'],
    [{ batch: { size: 2, max: 3 } as never }, 'max'],
    [{ batch: 5 as never }, 'object'],
    [{ batch: { size: 2 }, orderBy: () => 1 }, 'orderBy'],
  ])('that cannot be is refused: %j', (options, told) => {
    const error = refusalOf(Consume('orders', options));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(told);
  });
});

describe('a batch that fails', () => {
  test('has each of its messages retried or dead-lettered by itself', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    scratch.owns(`${queue}.retry.50`);
    const [Orders, got] = batching(
      queue,
      { batch: { size: 3, maxWait: FOR_EVER }, retry: { attempts: 2, delays: [50] } },
      () => Promise.reject(new Error('the database is down')),
    );
    await using _app = await boot(Orders);
    await sendAll(queue, [1, 2, 3]);
    expect(numbers(await got.next())).toEqual([1, 2, 3]);
    expect(await taken(dead, 3)).toEqual(['1', '2', '3']);
    expect(
      got.all
        .flat()
        .map(({ attempt }) => attempt)
        .sort(),
    ).toEqual([1, 1, 1, 2, 2, 2]);
    await scratch.hasMessages(queue, 0);
  });

  test('in part says which of its messages failed, each with its error', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    scratch.owns(`${queue}.retry.50`);
    let calls = 0;
    const [Orders, got] = batching(
      queue,
      { batch: { size: 4, maxWait: FOR_EVER }, retry: { attempts: 3, delays: [50] } },
      ([, second, third]) => {
        calls += 1;
        if (calls > 1 || second === undefined || third === undefined) return;
        throw new PartialBatchError(
          new Map<Delivery, unknown>([
            [second, new RejectDelivery('never')],
            [third, new Error('not yet')],
          ]),
        );
      },
    );
    await using app = await boot(Orders);
    await sendAll(queue, [1, 2, 3, 4]);
    await got.next();
    expect(await taken(dead, 1)).toEqual(['2']);
    // What fills the batch of the retry, before and behind it.
    await sendAll(queue, [5, 6, 7]);
    const again = await got.next('the retry');
    expect(numbers(again).sort()).toEqual([3, 5, 6, 7]);
    expect(again.find(({ payload }) => payload === 3)).toMatchObject({ attempt: 2 });
    await app.log.next('error', 'RejectDelivery: never');
    await scratch.hasMessages(queue, 0);
  });

  test('in part with deliveries of another batch fails as a whole', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    let before: Delivery | undefined;
    const [Orders] = batching(queue, { batch: { size: 2, maxWait: FOR_EVER } }, ([first]) => {
      if (before !== undefined) throw new PartialBatchError(new Map([[before, new Error('no')]]));
      before = first;
    });
    await using app = await boot(Orders);
    await sendAll(queue, [1, 2, 3, 4]);
    expect(await taken(dead, 2)).toEqual(['3', '4']);
    await app.log.next('error', 'not of the batch');
  });

  test('leaves as it is what the handler has answered by itself', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    const [Orders] = batching(queue, { batch: { size: 3, maxWait: FOR_EVER } }, ([first, second]) => {
      first?.ack();
      second?.ack();
      throw new Error('no');
    });
    await using app = await boot(Orders);
    await sendAll(queue, [1, 2, 3]);
    expect(await taken(dead, 1)).toEqual(['3']);
    await app.log.next('error', 'It is in queue');
    await scratch.hasMessages(queue, 0);
    expect(app.log.text('error')).not.toContain('not answered again');
  });

  test('by taking too long fires every signal, and is retried or dead-lettered', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    const fired = new Inbox<unknown>();
    const [Orders] = batching(queue, { batch: { size: 2, maxWait: FOR_EVER }, timeout: 50 }, (deliveries) => {
      for (const { signal } of deliveries) {
        signal.addEventListener('abort', () => {
          fired.push((signal.reason as { code: string }).code);
        });
      }
      return new Promise(() => undefined);
    });
    await using _app = await boot(Orders, { shutdownTimeout: 50 });
    await sendAll(queue, [1, 2]);
    expect(await fired.next()).toBe('HANDLER_TIMEOUT');
    expect(await fired.next()).toBe('HANDLER_TIMEOUT');
    expect(await taken(dead, 2)).toEqual(['1', '2']);
  });

  test('with manual acknowledgement counts until all of it is answered', async () => {
    const queue = await scratch.queue();
    const [Orders, got] = batching(queue, {
      ack: 'manual',
      concurrency: 1,
      prefetch: 10,
      batch: { size: 2, maxWait: FOR_EVER },
    });
    await using app = await boot(Orders);
    await sendAll(queue, [1, 2, 3, 4]);
    const [first, second] = await got.next();
    await hasArrived(app, 4);
    expect(first?.ack()).toBe(true);
    const { metrics } = app.get(AmqpConnection);
    await eventually('the first acknowledgement', () => Promise.resolve(metrics.acknowledged === 1 || undefined));
    expect(got.all).toHaveLength(1);
    expect(second?.ack()).toBe(true);
    const rest = await got.next();
    expect(numbers(rest)).toEqual([3, 4]);
    for (const delivery of rest) delivery.ack();
  });

  test('without acknowledgement leaves the only copy among the dead letters', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    const [Orders] = batching(queue, { ack: 'none', batch: { size: 2, maxWait: FOR_EVER } }, () =>
      Promise.reject(new Error('no')),
    );
    await using _app = await boot(Orders);
    await sendAll(queue, [1, 2]);
    expect(await taken(dead, 2)).toEqual(['1', '2']);
  });
});

test('PartialBatchError takes deliveries, and nothing else', () => {
  expect(thrown(() => new PartialBatchError(new Map([[1 as never, new Error()]]))).code).toBe('INVALID_ARGUMENT');
  expect(thrown(() => new PartialBatchError([] as never)).code).toBe('INVALID_ARGUMENT');
});

describe('a handler of batches in Nest', () => {
  test('gets lists in its decorated parameters, in the same order', async () => {
    const queue = await scratch.queue();
    const got = new Inbox<unknown[]>();
    class Orders {
      @Consume(queue, { batch: { size: 2, maxWait: FOR_EVER } })
      insert(
        @Payload() payloads: unknown,
        @Payload('id') ids: unknown,
        @AmqpDelivery() deliveries: Batch,
        @AmqpHeader('tenant') tenants: unknown,
        @AmqpProperties('messageId') messageIds: unknown,
        @AmqpSignal() signal: AbortSignal,
      ): void {
        got.push([
          payloads,
          ids,
          deliveries.map(({ deliveryTag }) => deliveryTag),
          tenants,
          messageIds,
          signal.aborted,
        ]);
      }
    }
    await using _app = await boot(Orders);
    await scratch.sendJson(queue, { id: 1 }, { messageId: 'm-1', headers: { tenant: 'a' } });
    await scratch.sendJson(queue, { id: 2 }, { messageId: 'm-2' });
    expect(await got.next()).toEqual([[{ id: 1 }, { id: 2 }], [1, 2], [1, 2], ['a', undefined], ['m-1', 'm-2'], false]);
  });

  test('may take single messages of another queue with the same parameters', async () => {
    const [single, gathered] = [await scratch.queue(), await scratch.queue()];
    const got = new Inbox<unknown[]>();
    class Orders {
      @Consume(single)
      @Consume(gathered, { batch: { size: 2, maxWait: FOR_EVER } })
      insert(@Payload('id') ids: unknown, @AmqpHeader('tenant') tenants: unknown): void {
        got.push([ids, tenants]);
      }
    }
    await using _app = await boot(Orders);
    for (const id of [1, 2]) await scratch.sendJson(gathered, { id }, { headers: { tenant: 'a' } });
    expect(await got.next()).toEqual([
      [1, 2],
      ['a', 'a'],
    ]);
    await scratch.sendJson(single, { id: 3 }, { headers: { tenant: 'b' } });
    expect(await got.next()).toEqual([3, 'b']);
  });

  test('has its guards see the lists, and a pipe that refuses fails all of it', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    const seen = new Inbox<unknown[]>();
    class Guard implements CanActivate {
      canActivate(context: ExecutionContext): boolean {
        const [payloads, deliveries] = context.getArgs<[unknown[], Batch]>();
        seen.push([payloads, deliveries.length]);
        return true;
      }
    }
    class Orders {
      @Consume(queue, { batch: { size: 2, maxWait: FOR_EVER } })
      @UseGuards(new Guard())
      insert(
        @Payload(new ParseArrayPipe({ items: Number, exceptionFactory: (error) => new BadRequestException(error) }))
        payloads: number[],
      ): void {
        expect(payloads).toEqual([1, 2]);
      }
    }
    await using _app = await boot(Orders);
    await sendAll(queue, [1, 2]);
    expect(await seen.next()).toEqual([[1, 2], 2]);
    await scratch.hasMessages(queue, 0);
    await sendAll(queue, [3, 'text']);
    expect(await taken(dead, 2)).toEqual(['"text"', '3']);
  });

  test('of a request-scoped class has an instance for each batch, whose REQUEST are the deliveries', async () => {
    const queue = await scratch.queue();
    const got = new Inbox<[object, unknown]>();
    @Injectable({ scope: Scope.REQUEST })
    class Orders {
      constructor(@Inject(REQUEST) private readonly request: Batch) {}

      @Consume(queue, { batch: { size: 2, maxWait: FOR_EVER } })
      insert(_payloads: unknown, deliveries: Batch): void {
        got.push([this, this.request === deliveries ? numbers(deliveries) : 'another']);
      }
    }
    await using _app = await boot(Orders);
    await sendAll(queue, [1, 2, 3, 4]);
    const [one, first] = await got.next();
    const [other, second] = await got.next();
    expect([first, second]).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(one).not.toBe(other);
  });

  test('may share its queue with others', async () => {
    const [queue, exchange] = [await scratch.queue(), await scratch.exchange('topic')];
    await scratch.bind(queue, exchange, '#');
    const got = new Inbox<unknown>();
    class Orders {
      @Consume(queue, { when: 'order.*', batch: { size: 2, maxWait: FOR_EVER } })
      insert(payloads: unknown): void {
        got.push(payloads);
      }

      @Consume(queue)
      rest(payload: unknown): void {
        got.push(payload);
      }
    }
    await using _app = await boot(Orders);
    await scratch.publish(exchange, 'order.placed', '1');
    await scratch.publish(exchange, 'refund', '2');
    expect(await got.next()).toBe(2);
    await scratch.publish(exchange, 'order.paid', '3');
    expect(await got.next()).toEqual([1, 3]);
  });
});
