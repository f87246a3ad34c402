/** Messages that are larger than the broker, or whoever gets them, takes: who is told, and what is not hurt. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Test, type TestingModule } from '@nestjs/testing';
import { AmqpModule, AmqpPublisher, AmqpRpcClient, Consume } from 'nest-amqp';
import { EmbeddedBroker, bootOnBroker } from 'nest-amqp/testing';
import { from } from 'rxjs';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { CollectedLog } from '../support/collected-log.js';
import { TestApp } from '../support/nest-app.js';
import { findRabbitMq } from '../support/rabbitmq-install.mjs';
import { RabbitMqServer } from '../support/rabbitmq-server.mjs';
import { Scratch } from '../support/scratch.js';
import { Inbox, within } from '../support/waits.js';

/** Bytes that a message may have. */
const LIMIT = 10_000;
const tooLarge = 'x'.repeat(LIMIT + 1);

describe('what is larger than the broker takes', () => {
  let broker: EmbeddedBroker;
  let app: TestingModule;
  let calls: Inbox<unknown>;

  class Prices {
    @Consume('prices', { retry: { attempts: 3, delays: [1] } })
    price(payload: unknown): unknown {
      calls.push(payload);
      return payload === 'large' ? tooLarge : payload;
    }

    @Consume('values')
    values(): unknown {
      return from([1, tooLarge]);
    }
  }

  beforeEach(async () => {
    calls = new Inbox();
    broker = EmbeddedBroker.create({ maxMessageSize: LIMIT });
    const topology = { queues: [{ name: 'prices' }, { name: 'values' }, { name: 'notes' }] };
    const builder = Test.createTestingModule({ imports: [AmqpModule.forRoot({ topology })], providers: [Prices] });
    ({ app } = await bootOnBroker<TestingModule>(builder.setLogger(new CollectedLog()), { broker }));
  });

  afterEach(async () => {
    await app.close();
    await broker.close();
  });

  test('as a reply is an error reply at once; the request is done with, and other replies arrive', async () => {
    const rpc = app.get(AmqpRpcClient);
    const requests = [1, 'large', 2, 'large', 3].map((payload) => rpc.requestToQueue('prices', payload));
    const settled = await within('the replies', Promise.allSettled(requests));
    expect(settled.map((end) => (end.status === 'fulfilled' ? end.value : (end.reason as unknown)))).toEqual([
      1,
      expect.objectContaining({ code: 'REMOTE_ERROR', remote: expect.objectContaining({ code: 'MESSAGE_TOO_LARGE' }) }),
      2,
      expect.objectContaining({ code: 'REMOTE_ERROR', remote: expect.objectContaining({ code: 'MESSAGE_TOO_LARGE' }) }),
      3,
    ]);
    expect(calls.all).toHaveLength(5);
    await broker.settled();
    expect(broker.queue('prices').messages).toBe(0);
    expect(broker.queues.map(({ name }) => name)).not.toContain('prices.dead');
  });

  test('as one reply of many ends them with an error', async () => {
    const got: unknown[] = [];
    const error = await within(
      'the end',
      new Promise((resolve, reject) => {
        app
          .get(AmqpRpcClient)
          .request$('', 'values', 1)
          .subscribe({ next: (value) => got.push(value), error: resolve, complete: reject });
      }),
    );
    expect(got.length).toBeLessThan(2);
    expect(error).toMatchObject({ code: 'REMOTE_ERROR' });
    expect((error as Error).message).toContain('larger than');
  });

  test('as a publish rejects that one, and the others are confirmed', async () => {
    const publisher = app.get(AmqpPublisher);
    const payloads = Array.from({ length: 50 }, (_, index) => (index % 20 === 7 ? tooLarge : index));
    const settled = await within(
      'the confirms',
      Promise.allSettled(payloads.map((payload) => publisher.sendToQueue('notes', payload))),
    );
    const codes = settled.map((end) =>
      end.status === 'fulfilled' ? 'confirmed' : (end.reason as { code: string }).code,
    );
    expect(codes).toEqual(payloads.map((payload) => (payload === tooLarge ? 'MESSAGE_TOO_LARGE' : 'confirmed')));
    const stored = broker
      .queue('notes')
      .peek()
      .map(({ body }) => Number(body.toString()));
    expect([...new Set(stored)]).toEqual(payloads.filter((payload) => payload !== tooLarge));
  });
});

(findRabbitMq() === undefined ? test.skip : test)(
  'a message that is larger than RabbitMQ takes rejects that publish, and no other',
  async () => {
    await using server = await RabbitMqServer.start();
    // RabbitMQ 3 looks into the one, RabbitMQ 4 into the other.
    await server.ctl(
      'eval',
      `application:set_env(rabbit, max_message_size, ${LIMIT}), persistent_term:put(max_message_size, ${LIMIT}).`,
    );
    const topology = { queues: [{ name: 'notes' }] };
    await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: server.url, topology })] });
    const publisher = app.get(AmqpPublisher);
    const publishes = [1, tooLarge, 2].map((payload) => publisher.sendToQueue('notes', payload));
    const [, error] = await within('the confirms', Promise.allSettled(publishes));
    expect(error).toMatchObject({ reason: { code: 'MESSAGE_TOO_LARGE', replyCode: 406 } });
    expect(await publishes[0]).toBeUndefined();
    expect(await publishes[2]).toBeUndefined();
  },
  180_000,
);

describe('a reply that is larger than the maxMessageSize of its requester', () => {
  let scratch: Scratch;

  beforeEach(async () => {
    scratch = await Scratch.open();
  });

  afterEach(async () => {
    await scratch[Symbol.asyncDispose]();
  });

  test('rejects its request at once, and no other', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(payload: unknown): unknown {
        return payload === 'many' ? from([1, tooLarge, 2]) : payload === 'large' ? tooLarge : payload;
      }
    }
    const imports = [AmqpModule.forRoot({ url: brokerUrl })];
    await using _server = await TestApp.boot({ imports, providers: [Prices] });
    await using client = await TestApp.boot({
      imports: [AmqpModule.forRoot({ url: brokerUrl, connection: { maxMessageSize: LIMIT } })],
    });
    const rpc = client.get(AmqpRpcClient);
    const [error, value] = await Promise.all([
      failure(rpc.requestToQueue(queue, 'large')),
      rpc.requestToQueue(queue, 1),
    ]);
    expect(error).toMatchObject({ code: 'MESSAGE_TOO_LARGE' });
    expect(error.message).toContain(`maxMessageSize`);
    expect(value).toBe(1);
    const many = new Inbox<unknown>();
    rpc.request$('', queue, 'many').subscribe({ next: many.push, error: many.push });
    expect(await many.next()).toBe(1);
    expect(await many.next()).toMatchObject({ code: 'MESSAGE_TOO_LARGE' });
    expect(rpc.pendingCount).toBe(0);
    await scratch.hasMessages(queue, 0);
  });
});
