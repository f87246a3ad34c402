/** Handlers of dead letters that fail themselves: what they fail on comes to rest, once, and somebody is told where. */
import { Injectable } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpChannel,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  Consume,
  type ConsumeHandlerOptions,
  type Delivery,
} from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Inbox } from '../support/waits.js';

let scratch: Scratch;
/** What the handler of dead letters got: payload, attempt, and what the other handler failed with. */
let buried: Inbox<[unknown, number, unknown]>;

beforeEach(async () => {
  scratch = await Scratch.open();
  buried = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

/** An application with a handler of the queue, and one of its dead letters, which both fail. */
async function boot(
  queue: string,
  dead: string,
  options: ConsumeHandlerOptions = {},
  module: AmqpModuleOptions = {},
): Promise<TestApp> {
  class Billing {
    @Consume(queue)
    charge(): void {
      throw new RangeError('over the limit');
    }
  }
  class Graveyard {
    @Consume(dead, options)
    bury(payload: unknown, { attempt, headers }: Delivery): void {
      buried.push([payload, attempt, headers['x-nest-amqp-error-message']]);
      throw new TypeError('no grave is free');
    }
  }
  return await TestApp.boot({
    imports: [AmqpModule.forRoot({ url: brokerUrl, ...module })],
    providers: [Billing, Graveyard],
  });
}

/** A name for a queue, and for those beside it. */
function names(): { queue: string; dead: string; parked: string } {
  const queue = scratch.queueName();
  return { queue, dead: scratch.owns(`${queue}.dead`), parked: scratch.owns(`${queue}.dead.dead`) };
}

describe('what a handler of dead letters fails on', () => {
  test('is parked in a queue beside theirs, once, of which the boot warns', async () => {
    const { queue, dead, parked } = names();
    await using app = await boot(queue, dead);
    const told = await app.log.next('warn', 'dead-letters-consumed');
    expect(told).toContain('@Consume of Graveyard.bury');
    expect(told).toContain(`'${parked}'`);
    await app.get(AmqpPublisher).sendToQueue(queue, 7);
    const { body, properties } = await scratch.take(parked);
    expect(body.toString()).toBe('7');
    expect(properties.headers).toMatchObject({
      'x-nest-amqp-queue': queue,
      'x-nest-amqp-error-message': 'over the limit',
      'x-nest-amqp-dead-queue': dead,
      'x-nest-amqp-dead-error-message': 'no grave is free',
    });
    expect(buried.all).toEqual([[7, 1, 'over the limit']]);
    await scratch.hasMessages(dead, 0);
  });

  test('goes where deadLetter says, of which nothing is said', async () => {
    const { queue, dead } = names();
    const lost = scratch.queueName();
    await using app = await boot(queue, dead, { deadLetter: lost });
    await app.get(AmqpPublisher).sendToQueue(queue, 7);
    await scratch.take(lost);
    expect(app.log.text('warn')).not.toContain('dead-letter');
    expect(await scratch.state(`${dead}.dead`)).toBeUndefined();
  });

  test('does not come back to them where all of the module send theirs to their queue', async () => {
    const queue = scratch.queueName();
    const dead = scratch.queueName();
    const parked = scratch.owns(`${dead}.dead`);
    await using app = await boot(queue, dead, {}, { consumers: { deadLetter: dead } });
    await app.log.next('warn', 'dead-letters-consumed');
    await app.get(AmqpPublisher).sendToQueue(queue, 7);
    await scratch.take(parked);
    expect(buried.all).toHaveLength(1);
  });
});

describe('the boot fails', () => {
  test.each<
    [what: string, code: string, dead: (queue: string) => string, deadLetter: (queue: string) => string | undefined]
  >([
    ['over dead letters that come back', 'dead-letter-cycle', (queue) => `${queue}.dead`, (queue) => queue],
    ['over a deadLetter that is its own queue', 'dead-letter-cycle', (queue) => `${queue}.x`, (queue) => `${queue}.x`],
    ['over ever longer names', 'dead-letter-chain', (queue) => `${queue}.dead.dead`, () => undefined],
  ])('%s', async (_what, code, dead, deadLetter) => {
    const queue = scratch.queueName();
    const to = deadLetter(queue);
    const error = await failure(
      boot(queue, dead(queue), to === undefined ? {} : { deadLetter: to }).then((app) => app.close()),
    );
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toContain(code);
    expect(error.message).toContain('@Consume of Graveyard.bury');
    expect(await scratch.state(queue)).toBeUndefined();
  });
});

describe('a dead letter that is put back into its queue, as docs/consuming.md shows', () => {
  @Injectable()
  class DeadLetters {
    constructor(private readonly channel: AmqpChannel) {}

    async redrive(queue: string, dead: string): Promise<number> {
      let count = 0;
      const { messageCount } = await this.channel.queueDeclare(dead, { passive: true });
      for (; count < messageCount; count += 1) {
        const { message } = (await this.channel.basicGet(dead)) ?? {};
        if (message === undefined) break;
        await this.channel.basicPublish('', queue, message.body, { ...message.properties, mandatory: true });
        message.ack();
      }
      return count;
    }
  }

  test.each(['published by the module', 'made by the broker'])(
    '%s, begins anew with attempt 1, and comes to the handler of its key',
    async (maker) => {
      const exchange = await scratch.exchange('topic');
      const byBroker = await scratch.queueWithDeadLetters();
      const ours = names();
      const { queue, dead } = maker === 'made by the broker' ? byBroker : ours;
      const seen = new Inbox<[attempt: number, exchange: string, routingKey: string]>();
      let isMended = false;
      class Billing {
        @Consume(queue, {
          when: 'order.*',
          bind: { exchange, routingKey: '#' },
          retry: { attempts: 2, delays: [1] },
          ...(maker === 'made by the broker' ? { deadLetter: { by: 'broker' } } : {}),
        })
        charge(_order: unknown, delivery: Delivery): void {
          seen.push([delivery.attempt, delivery.exchange, delivery.routingKey]);
          if (!isMended || delivery.attempt === 1) throw new RangeError('over the limit');
        }

        @Consume(queue)
        other(): void {
          seen.push([-1, '', '']);
        }
      }
      await using app = await TestApp.boot({
        imports: [AmqpModule.forRoot({ url: brokerUrl })],
        providers: [Billing, DeadLetters],
      });
      scratch.owns(`${queue}.retry.1`);
      await app.get(AmqpPublisher).publish(exchange, 'order.placed', { id: 7 });
      await scratch.hasMessages(dead, 1);
      const twice = [1, 2].map((attempt) => [attempt, exchange, 'order.placed']);
      expect(seen.all).toEqual(twice);
      const letters = app.get(DeadLetters);
      expect(await letters.redrive(queue, dead)).toBe(1);
      // It fails again, both times.
      await scratch.hasMessages(dead, 1);
      expect(seen.all).toEqual([...twice, ...twice]);
      isMended = true;
      expect(await letters.redrive(queue, dead)).toBe(1);
      for (let count = 0; count < 6; count += 1) await seen.next();
      expect(seen.all).toEqual([...twice, ...twice, ...twice]);
      expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
    },
  );
});
