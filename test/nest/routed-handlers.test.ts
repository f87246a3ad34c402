/** Several handlers on one queue: `when` picks one, and what cannot be picked fails the boot. */
import type { Type } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpModule,
  type AmqpModuleOptions,
  Consume,
  type ConsumeHandlerOptions,
  type Delivery,
  type Infer,
  message,
} from 'nest-amqp';
import { z } from 'zod';

import type { QueueDeclareOptions } from '../../lib/client/channel-options.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
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

/** A queue that gets everything from a topic exchange. */
async function everything(options: QueueDeclareOptions = {}): Promise<{ queue: string; exchange: string }> {
  const [queue, exchange] = [await scratch.queue(options), await scratch.exchange('topic')];
  await scratch.bind(queue, exchange, '#');
  return { queue, exchange };
}

/** A provider with one handler for each of the options, and what they got: `[index of the handler, routing key]`. */
function handlers(
  queue: string,
  options: readonly ConsumeHandlerOptions[],
  does: (delivery: Delivery, index: number) => void = () => undefined,
): [Type, Inbox<[number, string]>] {
  const got = new Inbox<[number, string]>();
  // eslint-disable-next-line @typescript-eslint/no-extraneous-class -- its methods follow
  class Billing {}
  for (const [index, option] of options.entries()) {
    const descriptor = {
      value(_payload: unknown, delivery: Delivery): void {
        got.push([index, delivery.routingKey]);
        does(delivery, index);
      },
    };
    Object.defineProperty(Billing.prototype, `handler${index}`, descriptor);
    Consume(queue, option)(Billing.prototype, `handler${index}`, descriptor);
  }
  return [Billing, got];
}

describe('handlers of one queue', () => {
  test('get what their pattern matches, over one consumer; one without when gets the rest', async () => {
    const { queue, exchange } = await everything();
    const [Billing, got] = handlers(queue, [{ when: 'order.*' }, { when: 'a.#.z' }, {}]);
    await using _app = await boot(Billing);
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
    const expected = [
      ['order.placed', 0],
      ['order.placed.twice', 2],
      ['a.z', 1],
      ['a.b.c.z', 1],
      ['a.x.c', 2],
      ['', 2],
    ] as const;
    for (const [key, index] of expected) {
      await scratch.publish(exchange, key, '1');
      expect(await got.next()).toEqual([index, key]);
    }
  });

  test('get a message back that they retry: its first routing key counts', async () => {
    const { queue, exchange } = await everything();
    scratch.owns(`${queue}.retry.50`);
    const [Billing, got] = handlers(
      queue,
      [{ when: 'order.placed', retry: { attempts: 2, delays: [50] } }, { when: 'order.refunded' }, {}],
      ({ attempt }) => {
        if (attempt === 1) throw new Error('not yet');
      },
    );
    await using _app = await boot(Billing);
    await scratch.publish(exchange, 'order.placed', '1');
    expect(await got.next()).toEqual([0, 'order.placed']);
    expect(await got.next()).toEqual([0, 'order.placed']);
  });

  test('are held to one time that the broker waits for answers, whoever of them says it', async () => {
    // RabbitMQ 4.3 knows it of these only, and refuses it on others.
    const { queue, exchange } = await everything({ arguments: { 'x-queue-type': 'quorum' } });
    const done = new Gate();
    class Billing {
      @Consume(queue, { when: 'a', arguments: { 'x-consumer-timeout': 100 } })
      async first(): Promise<void> {
        await done.opened;
      }

      @Consume(queue)
      async rest(): Promise<void> {
        await done.opened;
      }
    }
    await using app = await boot(Billing, { shutdownTimeout: 50 });
    // After that time RabbitMQ 4.3 takes a message back and delivers it again: one key may be warned of twice.
    await scratch.publish(exchange, 'a', '1');
    expect(await app.log.next('warn', "routing key 'a'")).toContain('without an answer');
    await scratch.publish(exchange, 'b', '1');
    expect(await app.log.next('warn', "routing key 'b'")).toContain('without an answer');
    done.open();
  });

  test('have options of their own, and one prefetch', async () => {
    const { queue, exchange } = await everything();
    const dead = scratch.queueName();
    const [Billing] = handlers(
      queue,
      [
        { when: 'a', prefetch: 7 },
        { when: 'b', deadLetter: dead },
      ],
      (_delivery, index) => {
        if (index === 1) throw new Error('no');
      },
    );
    await using app = await boot(Billing);
    expect(await app.log.next('log', 'runs')).toContain('Billing.handler0, Billing.handler1');
    expect(app.log.text('log')).toContain('prefetch 7');
    await scratch.publish(exchange, 'b', '"b"');
    expect((await scratch.take(dead)).body.toString()).toBe('"b"');
    expect(await app.log.next('error', 'Billing.handler1')).toContain("'b'");
  });

  test('leave a message that none of them takes among the dead letters, and it is named in the log', async () => {
    const { queue, exchange } = await everything();
    const dead = scratch.owns(`${queue}.dead`);
    const [Billing, got] = handlers(queue, [{ when: 'order.*' }, { when: 'a.#' }]);
    await using app = await boot(Billing);
    await scratch.publish(exchange, 'refund.made', '7');
    const letter = await scratch.take(dead);
    expect(letter.body.toString()).toBe('7');
    expect(letter.properties.headers).toMatchObject({
      'x-nest-amqp-routing-key': 'refund.made',
      'x-nest-amqp-exchange': exchange,
      'x-nest-amqp-error-message': expect.stringContaining("takes the routing key 'refund.made'"),
    });
    const told = await app.log.next('error', 'refund.made');
    expect(told).toContain(queue);
    expect(told).toContain("'order.*', 'a.#'");
    await scratch.publish(exchange, 'a', '1');
    await got.next();
    expect(got.all).toEqual([[1, 'a']]);
  });

  test('send what none of them takes where all of them would send it; one with when alone does too', async () => {
    const { queue, exchange } = await everything();
    const dead = scratch.queueName();
    const [Billing] = handlers(queue, [{ when: 'order.*', deadLetter: dead }]);
    await using _app = await boot(Billing);
    await scratch.publish(exchange, 'other', '7');
    expect((await scratch.take(dead)).body.toString()).toBe('7');
  });

  test.each<[what: string, options: ConsumeHandlerOptions[], told: string[]]>([
    ['neither says when', [{}, {}], ['Billing.handler0 and Billing.handler1', 'every message', 'competing: true']],
    [
      'both take a key',
      [{ when: 'order.*' }, { when: '*.refunded' }],
      ["'order.refunded'", 'Billing.handler0', 'Billing.handler1'],
    ],
    ['they say the same', [{}, { when: 'a' }, { when: 'a' }], ["'a'", 'Billing.handler1', 'Billing.handler2']],
    ['one competes', [{ competing: true }, { when: 'a' }], ['Billing.handler0', 'competing']],
    [
      'they disagree on prefetch',
      [
        { when: 'a', prefetch: 1 },
        { when: 'b', prefetch: 2 },
      ],
      ['prefetch', 'handler0'],
    ],
    ['they disagree on arguments', [{ when: 'a', arguments: { x: 1 } }, { arguments: { x: 2 } }], ['arguments']],
    ['they disagree on priority', [{ when: 'a', priority: 1 }, { priority: 2 }], ['priority']],
  ])('fail the boot when %s', async (_what, options, told) => {
    const queue = await scratch.queue();
    const [Billing] = handlers(queue, options);
    const error = await failure(boot(Billing).then((app) => app.close()));
    expect(error.code).toBe('INVALID_DEFINITION');
    for (const part of [...told, queue]) expect(error.message).toContain(part);
    await scratch.hasConsumers(queue, 0);
  });

  test.each([
    ['order*', '*', 'order.*'],
    ['order.#placed', '#', 'order.#.placed'],
    ['a.**', '*', 'a.*.*'],
  ])('fail the boot when one says %s, which is no wildcard there', async (when, wildcard, mended) => {
    const queue = await scratch.queue();
    const [Billing] = handlers(queue, [{}, { when }]);
    const error = await failure(boot(Billing).then((app) => app.close()));
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toBe(
      `Billing.handler1 has when '${when}', which takes only messages with that very routing key: ` +
        `a ${wildcard} is a word of its own, '${mended}'.`,
    );
    await scratch.hasConsumers(queue, 0);
  });

  test('may say the same about their consumer', async () => {
    const queue = await scratch.queue();
    const same: ConsumeHandlerOptions = { prefetch: 3, arguments: { 'x-priority': 2 }, consumerTag: 'billing' };
    const [Billing] = handlers(queue, [
      { ...same, when: 'a' },
      { ...same, arguments: { 'x-priority': 2 } },
    ]);
    await using _app = await boot(Billing);
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
  });

  test('by contracts are picked by the routing keys of those', async () => {
    const { queue, exchange } = await everything();
    const got = new Inbox<unknown>();
    const Placed = message({ exchange, routingKey: 'order.placed', schema: z.object({ id: z.number() }) });
    const Paid = message({ exchange, routingKey: 'order.paid', schema: z.object({ sum: z.number() }) });
    class Billing {
      @Consume(Placed, { queue })
      placed({ id }: Infer<typeof Placed>): void {
        got.push({ id });
      }

      @Consume(Paid, { queue, batch: { size: 2, maxWait: '10m' } })
      paid(payments: readonly Infer<typeof Paid>[]): void {
        got.push(payments);
      }
    }
    await using _app = await boot(Billing);
    await scratch.publish(exchange, 'order.paid', '{"sum":1}');
    await scratch.publish(exchange, 'order.placed', '{"id":7}');
    await scratch.publish(exchange, 'order.paid', '{"sum":2}');
    expect(await got.next()).toEqual({ id: 7 });
    expect(await got.next()).toEqual([{ sum: 1 }, { sum: 2 }]);
  });

  test('that compete have a consumer each', async () => {
    const queue = await scratch.queue();
    const [Billing] = handlers(queue, [
      { competing: true, prefetch: 1 },
      { competing: true, prefetch: 2 },
    ]);
    await using _app = await boot(Billing);
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 2 });
  });

  test('all let the application end, and finish what they began', async () => {
    const { queue, exchange } = await everything();
    const [Billing, got] = handlers(queue, [{ when: 'a' }, { when: 'b' }]);
    const app = await boot(Billing);
    for (const key of ['a', 'b', 'a']) await scratch.publish(exchange, key, '1');
    for (let count = 0; count < 3; count += 1) await got.next();
    await app.close();
    await scratch.hasConsumers(queue, 0);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });
});
