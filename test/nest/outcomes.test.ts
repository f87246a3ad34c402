/** Retries and dead letters of an application, on a broker whose clock the test moves. */
import { BadRequestException, Injectable, type Type } from '@nestjs/common';
import { Test } from '@nestjs/testing';
import { describe, expect, test } from '@jest/globals';

import {
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  Consume,
  type ConsumeHandlerOptions,
  type Delivery,
  RetryDelivery,
} from '../../lib/index.js';
import { EmbeddedBroker, bootOnBroker } from '../../lib/testing.js';
import { refusalOf } from '../support/client.js';
import { CollectedLog } from '../support/collected-log.js';

const TOPOLOGY = { queues: [{ name: 'billing' }] };

interface Shop extends AsyncDisposable {
  readonly broker: EmbeddedBroker;
  publish(payload: unknown): Promise<void>;
}

async function boot(provider: Type, options: AmqpModuleOptions = {}): Promise<Shop> {
  const broker = EmbeddedBroker.create({ clock: 'manual' });
  const builder = Test.createTestingModule({
    imports: [AmqpModule.forRoot({ topology: TOPOLOGY, ...options })],
    providers: [provider],
  }).setLogger(new CollectedLog());
  const booted = await bootOnBroker(builder, { broker });
  return {
    broker,
    publish: (payload) => booted.app.get(AmqpPublisher).sendToQueue('billing', payload),
    async [Symbol.asyncDispose]() {
      await booted.close();
      await broker.close();
    },
  };
}

/** A consumer of `billing` that notes each attempt, and what it does then. */
function failing(options: ConsumeHandlerOptions, does: (delivery: Delivery) => unknown): [Type, number[]] {
  const attempts: number[] = [];
  @Injectable()
  class Billing {
    @Consume('billing', options)
    async charge(_payload: unknown, delivery: Delivery): Promise<void> {
      attempts.push(delivery.attempt);
      await does(delivery);
    }
  }
  return [Billing, attempts];
}

const databaseIsDown = (): never => {
  throw new Error('the database is down');
};

describe('a handler with retry', () => {
  test('is called again after each delay, and no sooner', async () => {
    const [Billing, attempts] = failing({ retry: { attempts: 4, delays: ['1s', '10m'] } }, databaseIsDown);
    await using shop = await boot(Billing);
    const { broker } = shop;
    await shop.publish({ id: 7 });
    await broker.settled();
    expect(attempts).toEqual([1]);
    expect(broker.queue('billing.retry.1000').messages).toBe(1);
    broker.advance(999);
    await broker.settled();
    expect(attempts).toEqual([1]);
    for (const [step, so] of [
      [1, [1, 2]],
      ['10m', [1, 2, 3]],
      ['10m', [1, 2, 3, 4]],
    ] as const) {
      broker.advance(step);
      await broker.settled();
      expect(attempts).toEqual(so);
    }
    expect(broker.queue('billing').messages).toBe(0);
    expect(broker.queue('billing.dead').messages).toBe(1);
  });

  test('leaves wait queues that go away an hour after their last use, and not before their messages', async () => {
    const [Billing, attempts] = failing({ retry: { attempts: 3, delays: ['2h'] } }, databaseIsDown);
    await using shop = await boot(Billing);
    const { broker } = shop;
    const waitQueue = 'billing.retry.7200000';
    await shop.publish(1);
    await broker.settled();
    broker.advance('119m');
    await shop.publish(2);
    await broker.settled();
    expect(broker.queue(waitQueue).messages).toBe(2);
    broker.advance('2h');
    await broker.settled();
    expect(attempts).toEqual([1, 1, 2, 2]);
    broker.advance('2h');
    await broker.settled();
    expect(attempts).toEqual([1, 1, 2, 2, 3, 3]);
    broker.advance('61m');
    expect(broker.queues.map(({ name }) => name)).not.toContain(waitQueue);
  });

  test('is spared what no retry can help', async () => {
    const refuse = (): never => {
      throw new BadRequestException('no such item');
    };
    const [Billing, attempts] = failing({ retry: { attempts: 5 } }, refuse);
    await using shop = await boot(Billing);
    await shop.publish(1);
    await shop.broker.settled();
    expect(attempts).toEqual([1]);
    expect(shop.broker.queue('billing.dead').messages).toBe(1);
  });

  test('may say itself when it wants the delivery again', async () => {
    const [Billing, attempts] = failing({}, ({ attempt }) => {
      if (attempt === 1) throw new RetryDelivery({ after: '30s' });
    });
    await using shop = await boot(Billing);
    await shop.publish(1);
    await shop.broker.settled();
    shop.broker.advance('30s');
    await shop.broker.settled();
    expect(attempts).toEqual([1, 2]);
  });
});

describe('defaults of the module', () => {
  const consumers = { retry: { attempts: 2, delays: ['1s'] }, deadLetter: 'failed' } as const;

  test('hold for every handler', async () => {
    const [Billing, attempts] = failing({}, databaseIsDown);
    await using shop = await boot(Billing, { consumers });
    await shop.publish(1);
    await shop.broker.settled();
    shop.broker.advance('1s');
    await shop.broker.settled();
    expect(attempts).toEqual([1, 2]);
    expect(shop.broker.queue('failed').messages).toBe(1);
  });

  test('give way to what a handler says', async () => {
    const [Billing, attempts] = failing({ retry: { attempts: 1 }, deadLetter: 'billing.failed' }, databaseIsDown);
    await using shop = await boot(Billing, { consumers });
    await shop.publish(1);
    await shop.broker.settled();
    expect(attempts).toEqual([1]);
    expect(shop.broker.queue('billing.failed').messages).toBe(1);
  });
});

describe('options that cannot be', () => {
  test.each<[options: unknown, named: string]>([
    [{ ack: 'sometimes' }, 'ack'],
    [{ retry: { attempts: 0 } }, 'retry.attempts'],
    [{ retry: { delay: '1s' } }, 'retry'],
    [{ deadLetter: '' }, 'deadLetter'],
    [{ deadLetter: { by: 'hand' } }, 'deadLetter'],
    [{ timeout: 'soon' }, 'timeout'],
    [{ timeout: 0 }, 'timeout'],
  ])('%j are refused by name', (options, named) => {
    const error = refusalOf(Consume('billing', options as ConsumeHandlerOptions));
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
    expect(error.message).toContain(`${named} of Billing.charge`);
  });
});
