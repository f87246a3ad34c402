/** Replies that cannot be had, or that the broker does not take: how long their deliveries are held. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Test, type TestingModule } from '@nestjs/testing';
import {
  AmqpChannel,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  AmqpRpcClient,
  Consume,
  type Delivery,
  message,
} from 'nest-amqp';
import { EmbeddedBroker, bootOnBroker } from 'nest-amqp/testing';
import { once } from 'node:events';
import { lastValueFrom } from 'rxjs';
import { z } from 'zod';

import { CollectedLog } from '../support/collected-log.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

/** Time enough to write a reply before the broker's word arrives. */
const LATENCY = '300ms';

let broker: EmbeddedBroker;
let log: CollectedLog;
/** Calls of the handler; each test has its own. */
let calls: Inbox<Delivery>;
let app: TestingModule;

beforeEach(() => {
  broker = EmbeddedBroker.create();
  log = new CollectedLog();
  calls = new Inbox();
});

afterEach(async () => {
  broker.latency(0);
  broker.unblock();
  await app.close();
  await broker.close();
});

async function boot(provider: new () => object, options: AmqpModuleOptions = {}): Promise<void> {
  const topology = { queues: [{ name: 'prices' }, { name: 'plain' }, { name: 'replies' }] };
  const builder = Test.createTestingModule({
    imports: [AmqpModule.forRoot({ topology, consumers: { prefetch: 1 }, ...options })],
    providers: [provider],
  }).setLogger(log);
  ({ app } = await bootOnBroker<TestingModule>(builder, { broker }));
}

/** A request whose replies lie in a queue. */
async function ask(expiration?: string): Promise<void> {
  const options = { replyTo: 'replies', correlationId: 'c', expiration };
  await app.get(AmqpChannel).basicPublish('', 'prices', '', options);
}

/** What was replied, as its headers say it. */
async function replied(): Promise<unknown> {
  const channel = app.get(AmqpChannel);
  const reply = await eventually(
    'the reply',
    async () => (await channel.basicGet('replies', { noAck: true }))?.message,
  );
  return reply.properties.headers;
}

describe('a reply that the broker does not take', () => {
  /** The alarm begins while the second call runs: the broker does not read its reply, and has not said so when it is written. */
  class Prices {
    alarm: Promise<unknown> | undefined;

    @Consume('prices')
    async price(_payload: unknown, delivery: Delivery): Promise<number> {
      calls.push(delivery);
      if (calls.all.length > 1) await (this.alarm ??= blocked());
      return 3;
    }
  }

  async function blocked(): Promise<unknown> {
    broker.latency(LATENCY);
    broker.block();
    const last = app.get(AmqpPublisher).sendToQueue('replies', 'the last that it reads');
    last.catch(() => undefined);
    return await eventually('the block', () =>
      Promise.resolve(broker.connections.some(({ blocked }) => blocked) ? true : undefined),
    );
  }

  /** With both channels open that are published on. */
  async function bootAnswering(options?: AmqpModuleOptions): Promise<void> {
    await boot(Prices, options);
    await app.get(AmqpPublisher).sendToQueue('replies', 'the first');
    await replied();
    await ask();
    await replied();
    await calls.next();
    // What is asked next, and soon expires, is not to wait in the queue for this one's acknowledgement.
    await broker.settled();
  }

  test('is given up when its requester waits no longer: the request is done with', async () => {
    await bootAnswering();
    await ask('50');
    expect(await log.next('warn', 'could not reply')).toContain('could not be published within 1000 ms');
    await eventually('the acknowledgement', () =>
      Promise.resolve(broker.queue('prices').unacked === 0 ? true : undefined),
    );
    expect(broker.queue('prices').messages).toBe(0);
  });

  test('is not waited for when its channel is lost: the request is handled again', async () => {
    await bootAnswering();
    await ask();
    await calls.next();
    await log.next('warn', 'takes no publishes');
    broker.cancelConsumer('prices');
    expect(await calls.next('the second delivery')).toMatchObject({ redelivered: true });
    broker.unblock();
    await eventually('the acknowledgement', () =>
      Promise.resolve(broker.queue('prices').messages === 0 ? true : undefined),
    );
  });

  test('is told in one line with all others that its channel took with it', async () => {
    await bootAnswering({ consumers: { prefetch: 3 } });
    await Promise.all([ask(), ask(), ask()]);
    for (let count = 0; count < 3; count += 1) await calls.next();
    await log.next('warn', 'takes no publishes');
    broker.cancelConsumer('prices');
    expect(await log.next('warn', 'sent no reply')).toContain("'prices'");
    broker.unblock();
    await eventually('the acknowledgements', () =>
      Promise.resolve(broker.queue('prices').messages === 0 ? true : undefined),
    );
    expect(log.text('warn').match(/sent no reply to \d+ requests? that it had handled/g)).toEqual([
      'sent no reply to 3 requests that it had handled',
    ]);
    expect(log.text('warn')).not.toContain('could not reply');
  });

  test('is sent when the alarm is over, where it is of a stream: what the broker has not answered is no failure of handlers', async () => {
    const isOn = new Gate();
    class Streams {
      @Consume('prices')
      async *price(_payload: unknown, delivery: Delivery): AsyncGenerator<number> {
        calls.push(delivery);
        await isOn.opened;
        yield 3;
      }

      @Consume('plain')
      plain(): number {
        return 1;
      }
    }
    await boot(Streams, { connection: { requestTimeout: '1s' } });
    const rpc = app.get(AmqpRpcClient);
    const publisher = app.get(AmqpPublisher);
    await rpc.requestToQueue('plain', '');
    await publisher.sendToQueue('replies', 'the first');
    await replied();
    const first = lastValueFrom(rpc.request$('', 'prices', ''));
    await calls.next();
    await blocked();
    broker.latency(0);
    isOn.open();
    const opened = await publisher.connection.opened();
    await expect(opened.channel()).rejects.toMatchObject({ code: 'REQUEST_TIMEOUT' });
    broker.unblock();
    expect(await within('the first stream', first)).toBe(3);
    expect(await within('the next stream', lastValueFrom(rpc.request$('', 'prices', '')))).toBe(3);
  });

  test('holds up no shutdown longer than shutdownTimeout', async () => {
    await bootAnswering({ shutdownTimeout: 50, connection: { closeTimeout: 50 } });
    await ask();
    await calls.next();
    await within('the end of the application', app.close(), 5_000);
    expect(log.text('warn')).toContain('still ran after 50 ms (shutdownTimeout)');
    expect(broker.queue('prices')).toMatchObject({ ready: 1, unacked: 0 });
  });
});

test('a reply whose schema never settles is an error reply when its requester waits no longer', async () => {
  const PriceOf = message({
    exchange: '',
    routingKey: 'prices',
    schema: z.unknown(),
    reply: z.number().refine(() => new Promise<boolean>(() => undefined)),
  });
  class Prices {
    @Consume(PriceOf, { queue: 'prices' })
    price(): number {
      return 3;
    }
  }
  await boot(Prices);
  await ask('50');
  expect(await replied()).toMatchObject({ 'x-error-code': 'HANDLER_TIMEOUT' });
  await broker.settled();
  expect(broker.queue('prices').messages).toBe(0);
});

test('a reply whose schema never settles does not hold a delivery whose channel is lost', async () => {
  const PriceOf = message({
    exchange: '',
    routingKey: 'prices',
    schema: z.unknown(),
    reply: z.number().refine(() => calls.all.length > 1 || new Promise<boolean>(() => undefined)),
  });
  class Prices {
    @Consume(PriceOf, { queue: 'prices' })
    price(_payload: unknown, delivery: Delivery): number {
      calls.push(delivery);
      return 3;
    }
  }
  await boot(Prices);
  await ask();
  await calls.next();
  broker.cancelConsumer('prices');
  await calls.next('the second delivery');
  expect(await replied()).toBeUndefined();
});

test('a handler that ends because its channel is lost leaves the reply to whoever gets the request next', async () => {
  class Prices {
    @Consume('prices')
    async price(_payload: unknown, delivery: Delivery): Promise<number> {
      calls.push(delivery);
      if (!delivery.redelivered) {
        await once(delivery.signal, 'abort');
        delivery.signal.throwIfAborted();
      }
      return 3;
    }
  }
  await boot(Prices);
  const reply = app.get(AmqpRpcClient).requestToQueue('prices', 1);
  await calls.next();
  broker.cancelConsumer('prices');
  expect(await reply).toBe(3);
});
