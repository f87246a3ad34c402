/** The helper of `nest-amqp/testing` that boots an application on an embedded broker of its own. */
import { describe, expect, test } from '@jest/globals';
import { Injectable, Module } from '@nestjs/common';
import type { INestApplication } from '@nestjs/common';
import { Test, type TestingModuleBuilder } from '@nestjs/testing';

import { AmqpConnection, AmqpModule, AmqpPublisher, Consume, getPublisherToken } from '../../lib/index.js';
import { EmbeddedBroker, bootOnBroker } from '../../lib/testing.js';
import { CollectedLog } from '../support/collected-log.js';

interface Order {
  readonly id: number;
}

@Injectable()
class Billing {
  readonly billed: number[] = [];

  @Consume('billing')
  charge({ id }: Order): void {
    if (id === 13) throw new Error('The card is refused.');
    this.billed.push(id);
  }
}

/** As an application is in production: its own broker is not there, and nothing of the way to it fits another one. */
@Module({
  imports: [
    AmqpModule.forRoot({
      url: 'amqps://user:password@nowhere.invalid/shop',
      connection: { vhost: 'shop', credentials: { username: 'user', password: 'password' }, tls: { servername: 'x' } },
      startupTimeout: '5s',
      topology: {
        exchanges: [{ name: 'orders', type: 'topic' }],
        queues: [
          { name: 'billing', deadLetter: { exchange: '', routingKey: 'billing.dead' } },
          { name: 'billing.dead' },
        ],
        bindings: [{ source: 'orders', queue: 'billing', routingKey: 'order.*' }],
      },
    }),
  ],
  providers: [Billing],
})
class ShopModule {}

const shop = (): TestingModuleBuilder =>
  Test.createTestingModule({ imports: [ShopModule] }).setLogger(new CollectedLog());

describe('bootOnBroker', () => {
  test('runs an application on a broker of its own, which can be looked into', async () => {
    await using booted = await bootOnBroker(shop());
    const publisher = booted.app.get(AmqpPublisher);
    await Promise.all([7, 13].map((id) => publisher.publish('orders', 'order.placed', { id })));
    await booted.broker.settled();
    expect(booted.app.get(Billing).billed).toEqual([7]);
    expect(booted.broker.queue('billing').messages).toBe(0);
    expect(booted.broker.queue('billing.dead').messages).toBe(1);
  });

  test('gives each application another broker, and takes both down at the end', async () => {
    const [one, other] = await Promise.all([bootOnBroker(shop()), bootOnBroker(shop())]);
    expect(one.broker).not.toBe(other.broker);
    await one.app.get(AmqpPublisher).sendToQueue('billing.dead', { id: 1 });
    expect([one, other].map(({ broker }) => broker.queue('billing.dead').messages)).toEqual([1, 0]);
    await Promise.all([one.close(), other.close()]);
    expect(one.app.get(AmqpConnection).status.state).toBe('closed');
    expect(() => one.broker.connect()).toThrow('is closed');
  });

  test('survives what the broker does to it', async () => {
    await using booted = await bootOnBroker(shop());
    expect(booted.broker.dropConnections()).toBeGreaterThan(0);
    await booted.app.get(AmqpPublisher).publish('orders', 'order.placed', { id: 8 });
    await booted.broker.settled();
    expect(booted.app.get(Billing).billed).toEqual([8]);
  });

  test('makes an HTTP application where that is wanted', async () => {
    await using booted = await bootOnBroker(shop(), {
      createApp: (module): INestApplication => module.createNestApplication(),
    });
    await booted.app.listen(0);
    expect((await fetch(await booted.app.getUrl())).status).toBe(404);
  });

  test('takes a broker that is given, for connections by name, and leaves it open', async () => {
    await using broker = EmbeddedBroker.create({ clock: 'manual' });
    const builder = Test.createTestingModule({
      imports: [AmqpModule.forRoot({ name: 'audit', url: 'amqp://nowhere.invalid' })],
    });
    const booted = await bootOnBroker(builder.setLogger(new CollectedLog()), { broker, connections: ['audit'] });
    const publisher = booted.app.get<AmqpPublisher>(getPublisherToken('audit'));
    await expect(publisher.sendToQueue('missing', {})).rejects.toMatchObject({ code: 'UNROUTABLE' });
    await booted.close();
    expect(() => broker.connect().destroy()).not.toThrow();
  });

  test('takes a broker with users and virtual hosts of its own', async () => {
    await using broker = EmbeddedBroker.create({ users: { amy: 's3cret' }, virtualHosts: ['shop'] });
    await using booted = await bootOnBroker(shop(), { broker });
    expect(booted.broker.connections).toMatchObject([{ user: 'amy', virtualHost: 'shop' }]);
  });

  test('moves every connection, and says which name it does not find', async () => {
    const two = (): TestingModuleBuilder =>
      Test.createTestingModule({
        imports: [
          AmqpModule.forRoot({ url: 'amqp://nowhere.invalid', startupTimeout: '5s' }),
          AmqpModule.forRoot({ name: 'audit', url: 'amqp://nowhere.invalid', startupTimeout: '5s' }),
        ],
      }).setLogger(new CollectedLog());
    await using booted = await bootOnBroker(two());
    expect(booted.broker.connections).toHaveLength(2);
    for (const options of [{ connections: ['defualt'] }, { conections: ['audit'] }]) {
      await expect(bootOnBroker(two(), options)).rejects.toMatchObject({ code: 'INVALID_OPTION' });
    }
    const without = Test.createTestingModule({}).setLogger(new CollectedLog());
    await expect(bootOnBroker(without)).rejects.toThrow('no AmqpModule');
  });

  test('a boot that fails leaves no broker behind', async () => {
    @Module({
      imports: [AmqpModule.forRoot({ topology: { queues: [{ name: 'q', type: 'stream' }] } })],
    })
    class StreamModule {}
    const builder = Test.createTestingModule({ imports: [StreamModule] }).setLogger(new CollectedLog());
    await expect(bootOnBroker(builder)).rejects.toMatchObject({ replyCode: 540 });
  });
});
