/** What an application's handlers get of messages that were published with a delay, on a broker whose clock the test moves. */
import { Injectable } from '@nestjs/common';
import { Test } from '@nestjs/testing';
import { describe, expect, test } from '@jest/globals';

import { AmqpModule, AmqpPublisher, Consume, type Delivery } from '../../lib/index.js';
import { EmbeddedBroker, bootOnBroker } from '../../lib/testing.js';
import { CollectedLog } from '../support/collected-log.js';

const TOPOLOGY = {
  exchanges: [{ name: 'orders', type: 'topic' as const }],
  queues: [{ name: 'reminders' }],
  bindings: [{ source: 'orders', queue: 'reminders', routingKey: 'order.*' }],
};

describe('a message that was published with a delay', () => {
  test('is handled after it, as first attempt, and again like any other', async () => {
    const seen: unknown[] = [];
    @Injectable()
    class Reminders {
      @Consume('reminders', { retry: { attempts: 3, delays: ['1m'] } })
      remind(payload: unknown, { exchange, routingKey, attempt }: Delivery): void {
        seen.push([payload, exchange, routingKey, attempt]);
        if (attempt < 3) throw new Error('the mail server is down');
      }
    }
    await using broker = EmbeddedBroker.create({ clock: 'manual' });
    const builder = Test.createTestingModule({
      imports: [AmqpModule.forRoot({ topology: TOPOLOGY })],
      providers: [Reminders],
    }).setLogger(new CollectedLog());
    await using booted = await bootOnBroker(builder, { broker });
    const publisher = booted.app.get(AmqpPublisher);

    await publisher.publish('orders', 'order.placed', { id: 7 }, { delay: '10m' });
    await broker.settled();
    expect(broker.queue('nest-amqp.delay.600000.orders').messages).toBe(1);
    broker.advance('9m');
    await broker.settled();
    expect(seen).toEqual([]);
    broker.advance('1m');
    await broker.settled();
    expect(seen).toEqual([[{ id: 7 }, 'orders', 'order.placed', 1]]);
    broker.advance('1m');
    await broker.settled();
    broker.advance('1m');
    await broker.settled();
    expect(seen.slice(1)).toEqual([
      [{ id: 7 }, 'orders', 'order.placed', 2],
      [{ id: 7 }, 'orders', 'order.placed', 3],
    ]);
    expect(broker.queue('reminders').messages).toBe(0);
  });

  test('leaves a wait queue that goes an hour after its last use, and not before its messages', async () => {
    const seen: unknown[] = [];
    @Injectable()
    class Reminders {
      @Consume('reminders')
      remind(payload: unknown): void {
        seen.push(payload);
      }
    }
    await using broker = EmbeddedBroker.create({ clock: 'manual' });
    const builder = Test.createTestingModule({
      imports: [AmqpModule.forRoot({ topology: TOPOLOGY })],
      providers: [Reminders],
    }).setLogger(new CollectedLog());
    await using booted = await bootOnBroker(builder, { broker });
    const orders = booted.app.get(AmqpPublisher).to('orders');

    await orders.publish('order.placed', 1, { delay: '10m' });
    broker.advance('65m');
    await orders.publish('order.placed', 2, { delay: '10m' });
    broker.advance('69m');
    await broker.settled();
    expect(seen).toEqual([1, 2]);
    broker.advance('2m');
    expect(broker.queues.map(({ name }) => name)).toEqual(['reminders']);
    await orders.publish('order.placed', 3, { delay: '10m' });
    broker.advance('10m');
    await broker.settled();
    expect(seen).toEqual([1, 2, 3]);
  });
});
