/** The connection that an application publishes over: when it opens, what it keeps from the consumers, and when it ends. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Test, type TestingModule } from '@nestjs/testing';
import { randomUUID } from 'node:crypto';
import { AmqpChannel, AmqpConnection, AmqpModule, type AmqpModuleOptions, AmqpPublisher, Consume } from 'nest-amqp';
import { EmbeddedBroker, bootOnBroker } from 'nest-amqp/testing';

import { brokerUrl, ctl, ctlAvailable } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { CollectedLog } from '../support/collected-log.js';
import { TestApp } from '../support/nest-app.js';
import { findRabbitMq } from '../support/rabbitmq-install.mjs';
import { RabbitMqServer } from '../support/rabbitmq-server.mjs';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
let events: Inbox<string>;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  events = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const FAST = { initialDelay: 1, maxDelay: 20 };

function amqp(options: AmqpModuleOptions = {}): ReturnType<typeof AmqpModule.forRoot> {
  return AmqpModule.forRoot({ url: brokerUrl, connection: { dial: line.dial, recovery: FAST }, ...options });
}

async function onEmbedded(
  broker: EmbeddedBroker,
  options: AmqpModuleOptions,
  providers: (new () => object)[],
): Promise<AsyncDisposable & { readonly app: TestingModule; readonly log: CollectedLog }> {
  const log = new CollectedLog();
  const builder = Test.createTestingModule({ imports: [AmqpModule.forRoot(options)], providers }).setLogger(log);
  const booted = await bootOnBroker<TestingModule>(builder, { broker });
  return { app: booted.app, log, [Symbol.asyncDispose]: () => booted.close() };
}

describe('the publishing connection', () => {
  test('opens with the first publish, and no sooner', async () => {
    const queue = await scratch.queue();
    await using app = await TestApp.boot({ imports: [amqp()] });
    expect(line.dialled).toBe(1);
    const publisher = app.get(AmqpPublisher);
    expect(publisher.connection.status.state).toBe('idle');
    await Promise.all([publisher.sendToQueue(queue, 1), publisher.sendToQueue(queue, 2)]);
    await publisher.sendToQueue(queue, 3);
    expect(line.dialled).toBe(2);
    expect(publisher.connection.metrics.confirmed).toBe(3);
    expect(app.get(AmqpConnection).metrics.published).toBe(0);
    expect(await scratch.drain(queue)).toEqual(['1', '2', '3']);
  });

  test('is told from the other one by its name', async () => {
    await using broker = EmbeddedBroker.create();
    await using shop = await onEmbedded(broker, { connection: { connectionName: 'shop' } }, []);
    await using plain = await onEmbedded(broker, {}, []);
    for (const { app } of [shop, plain]) await failure(app.get(AmqpPublisher).sendToQueue('missing', 1));
    expect(broker.connections.map(({ name }) => name).sort()).toEqual([
      'nest-amqp',
      'nest-amqp (publishing)',
      'shop',
      'shop (publishing)',
    ]);
  });

  (ctlAvailable ? test : test.skip)('is told from the other one by its name on RabbitMQ', async () => {
    const queue = await scratch.queue();
    const connectionName = `test-${randomUUID()}`;
    await using app = await TestApp.boot({ imports: [amqp({ connection: { connectionName } })] });
    await app.get(AmqpPublisher).sendToQueue(queue, 1);
    const rows = await ctl('list_connections', '--no-table-headers', 'client_properties');
    expect(rows).toContain(`"${connectionName}"`);
    expect(rows).toContain(`"${connectionName} (publishing)"`);
  });

  test('carries also what consumers publish: what is tried again, and dead letters', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    class Billing {
      @Consume(queue)
      charge(): void {
        throw new Error('no');
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await scratch.hasMessages(dead, 1);
    expect(app.get(AmqpPublisher).connection.metrics.published).toBe(1);
    expect(app.get(AmqpConnection).metrics.published).toBe(0);
  });

  test('knows the queues that the broker has named, also after their names have changed', async () => {
    await using app = await TestApp.boot({ imports: [amqp()] });
    const channel = app.get(AmqpChannel);
    const { queue } = await channel.queueDeclare();
    await channel.basicConsume(queue, (message) => {
      events.push(message.text);
      message.ack();
    });
    const publisher = app.get(AmqpPublisher);
    await publisher.sendToQueue(queue, 'before');
    expect(await events.next()).toBe('"before"');
    line.cut();
    await publisher.sendToQueue(queue, 'after');
    expect(await events.next()).toBe('"after"');
  });

  test('waits, when both were lost, until the topology is declared again', async () => {
    await using broker = EmbeddedBroker.create();
    // Goes with the connection that declared it.
    const topology = { queues: [{ name: 'mine', exclusive: true }] };
    await using shop = await onEmbedded(broker, { topology, connection: { recovery: FAST } }, []);
    const publisher = shop.app.get(AmqpPublisher);
    await publisher.sendToQueue('mine', 'first');
    for (let round = 0; round < 20; round += 1) {
      broker.dropConnections();
      await within('the publish', publisher.sendToQueue('mine', round));
      expect(broker.queue('mine').messages).toBe(1);
    }
    expect(shop.log.text('error')).toBe('');
  });

  test('is told of in the log when it alone is lost, and not beside the other one', async () => {
    const queue = await scratch.queue();
    await using app = await TestApp.boot({ imports: [amqp()] });
    const publisher = app.get(AmqpPublisher);
    await publisher.sendToQueue(queue, 1);
    line.socket.destroy();
    await app.log.next('warn', "The publishing connection of 'default' was lost, and is open again.");
    expect(app.log.text('warn').split('\n')).toHaveLength(1);
    line.cut();
    await publisher.sendToQueue(queue, 2);
    await app.log.next('warn', "Connection 'default' is down");
    expect(
      app.log
        .text('warn')
        .split('\n')
        .filter((text) => text.includes('publishing')),
    ).toHaveLength(1);
  });

  test('ends with the application: what is under way is confirmed first', async () => {
    const queue = await scratch.queue();
    // Their connection opens meanwhile, and nothing of it is to be cut short.
    const app = await TestApp.boot({ imports: [amqp({ connection: { dial: line.dial, closeTimeout: '10s' } })] });
    const publisher = app.get(AmqpPublisher);
    const published = Array.from({ length: 50 }, (_, index) => publisher.sendToQueue(queue, index));
    const outcomes = Promise.allSettled(published);
    await app.close();
    expect((await outcomes).every(({ status }) => status === 'fulfilled')).toBe(true);
    expect(publisher.connection.status.state).toBe('closed');
    expect(await failure(publisher.sendToQueue(queue, 1))).toMatchObject({ code: 'CONNECTION_CLOSED' });
  });

  test('ends, and rejects what waits for it, when a boot fails', async () => {
    const url = 'amqp://127.0.0.1:1';
    const app = await TestApp.compile({ imports: [AmqpModule.forRoot({ url, startupTimeout: 50 })] });
    const published = failure(app.get(AmqpPublisher).sendToQueue('billing', 1));
    expect(await failure(app.module.init())).toMatchObject({ code: 'CONNECT_FAILED' });
    expect(await within('the publish', published)).toMatchObject({ code: 'CONNECT_FAILED' });
    await app.close();
  });
});

describe('a resource alarm', () => {
  interface Alarm {
    /** Has the broker stop reading what is published, and publishes. */
    raise(publish: () => Promise<void>): Promise<{ readonly published: Promise<void> }>;
    clear(): unknown;
  }

  /** A consumer that acknowledges while a publish waits for the alarm to end. */
  async function acknowledgesMeanwhile(
    { app, log }: { readonly app: TestingModule; readonly log: CollectedLog },
    alarm: Alarm,
    unacknowledged: () => number | Promise<number>,
    gate: Gate,
  ): Promise<void> {
    const publisher = app.get(AmqpPublisher);
    // Has both connections open, and a delivery under way.
    await publisher.sendToQueue('billing', 'order');
    expect(await events.next('the order')).toBe('order');
    let isPublished = false;
    const publish = (): Promise<void> =>
      publisher.sendToQueue('notes', 'waits').then(() => {
        isPublished = true;
      });
    const { published } = await alarm.raise(publish);
    expect(await unacknowledged()).toBe(1);
    gate.open();
    await eventually('the acknowledgement', async () => ((await unacknowledged()) === 0 ? true : undefined));
    expect(isPublished).toBe(false);
    await alarm.clear();
    await within('the publish', published);
    await log.next('log', 'takes publishes');
  }

  const topology = { queues: [{ name: 'billing' }, { name: 'notes' }] };

  function billing(gate: Gate): new () => object {
    class Billing {
      @Consume('billing')
      async charge(order: string): Promise<void> {
        events.push(order);
        await gate.opened;
      }
    }
    return Billing;
  }

  test('that has publishes wait does not stop acknowledgements', async () => {
    await using broker = EmbeddedBroker.create();
    const gate = new Gate();
    await using shop = await onEmbedded(broker, { topology }, [billing(gate)]);
    const alarm = {
      raise: async (publish: () => Promise<void>) => {
        broker.block();
        await shop.log.next('warn', 'takes no publishes');
        return { published: publish() };
      },
      clear: () => {
        broker.unblock();
      },
    };
    await acknowledgesMeanwhile(shop, alarm, () => broker.queue('billing').unacked, gate);
  });

  (findRabbitMq() === undefined ? test.skip : test)(
    'that has publishes wait does not stop acknowledgements on RabbitMQ',
    async () => {
      await using server = await RabbitMqServer.start();
      const gate = new Gate();
      await using app = await TestApp.boot({
        imports: [AmqpModule.forRoot({ url: server.url, topology })],
        providers: [billing(gate)],
      });
      const alarm = {
        raise: async (publish: () => Promise<void>) => {
          await server.ctl('set_vm_memory_high_watermark', '0.0000001');
          const published = publish();
          // RabbitMQ says it to those who publish, and reads nothing of what they do.
          await app.log.next('warn', 'takes no publishes');
          return { published };
        },
        clear: async () => {
          await server.ctl('set_vm_memory_high_watermark', '0.9');
        },
      };
      const unacknowledged = async (): Promise<number> => {
        const rows = await server.ctl('list_queues', '--no-table-headers', 'name', 'messages_unacknowledged');
        return Number(/^billing\t(\d+)$/m.exec(rows)?.[1]);
      };
      await acknowledgesMeanwhile({ app: app.module, log: app.log }, alarm, unacknowledged, gate);
    },
    180_000,
  );
});
