/** What handlers get of a body in an application: serializers, encodings, schemas and validating pipes. */
import 'reflect-metadata';
import { type CanActivate, ValidationPipe } from '@nestjs/common';
import { APP_GUARD, APP_PIPE } from '@nestjs/core';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Type } from 'class-transformer';
import { IsInt, IsString, ValidateNested } from 'class-validator';
import {
  AmqpModule,
  type AmqpModuleOptions,
  AmqpPublisher,
  Consume,
  type ConsumeHandlerOptions,
  Delivery,
  Payload,
  type Serializer,
} from 'nest-amqp';
import { gzipSync } from 'node:zlib';
import { z } from 'zod';

import { brokerUrl } from '../support/broker.mjs';
import { refusalOf } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Inbox } from '../support/waits.js';

let scratch: Scratch;
let queue: string;
let dead: string;
/** What handlers were called with; each test has its own. */
let got: Inbox<unknown>;

beforeEach(async () => {
  scratch = await Scratch.open();
  ({ queue, dead } = await scratch.queueWithDeadLetters());
  got = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

/** One handler that notes its payload. */
async function boot(options: ConsumeHandlerOptions = {}, module: AmqpModuleOptions = {}): Promise<TestApp> {
  class Billing {
    @Consume(queue, options)
    charge(payload: unknown, delivery: Delivery): void {
      got.push(payload);
      expect(delivery.payload).toBe(payload);
    }
  }
  return await TestApp.boot({
    imports: [AmqpModule.forRoot({ url: brokerUrl, consumers: { deadLetter: { by: 'broker' } }, ...module })],
    providers: [Billing],
  });
}

const pairs: Serializer = {
  contentType: 'application/x-pairs',
  serialize: (payload) => new URLSearchParams(payload as Record<string, string>).toString(),
  deserialize: (body) => Object.fromEntries(new URLSearchParams(body.toString())),
};

describe('a serializer of the module', () => {
  test('writes what is published with its content type, and reads it', async () => {
    await using app = await boot({}, { serializers: [pairs] });
    const publisher = app.get(AmqpPublisher);
    await publisher.sendToQueue(queue, { a: '1' }, { contentType: 'application/x-pairs' });
    expect(await got.next()).toEqual({ a: '1' });
    await publisher.sendToQueue(queue, { a: 1 });
    expect(await got.next()).toEqual({ a: 1 });
  });

  test('may be what everything is published with', async () => {
    await using app = await boot({}, { serializers: [pairs], publisher: { contentType: 'application/x-pairs' } });
    const publisher = app.get(AmqpPublisher);
    await publisher.sendToQueue(queue, { a: '1' });
    expect(await got.next()).toEqual({ a: '1' });
    await publisher.sendToQueue(queue, Buffer.from([1]));
    expect(await got.next()).toEqual(Buffer.from([1]));
  });

  test('that cannot read a body has the message dead-lettered', async () => {
    const deserialize = (): Promise<never> => Promise.reject(new Error('no'));
    await using app = await boot({}, { serializers: [{ ...pairs, deserialize }] });
    await scratch.send(queue, 'x', { contentType: 'application/x-pairs' });
    await scratch.take(dead);
    expect(await app.log.next('error', 'application/x-pairs')).toContain('Billing.charge');
  });

  test('that is none fails the boot', async () => {
    await expect(boot({}, { serializers: [{ ...pairs, contentType: 'pairs' }] })).rejects.toMatchObject({
      code: 'INVALID_OPTION',
    });
  });
});

describe('content encoding', () => {
  test.each(['gzip', 'deflate', 'br'])(
    '%s compresses what is published and is undone on the way in',
    async (coding) => {
      const text = 'order '.repeat(1000);
      await using app = await boot();
      const publisher = app.get(AmqpPublisher);
      await publisher.sendToQueue(dead, { text }, { contentEncoding: coding });
      const sent = await scratch.take(dead);
      expect(sent.body.length).toBeLessThan(200);
      expect(sent.properties).toMatchObject({ contentEncoding: coding, contentType: 'application/json' });
      await publisher.sendToQueue(queue, { text }, { contentEncoding: coding });
      expect(await got.next()).toEqual({ text });
    },
  );

  test('of bytes is left to the publisher: they are sent as they are', async () => {
    await using app = await boot();
    const message = { contentEncoding: 'gzip', contentType: 'application/json' };
    await app.get(AmqpPublisher).sendToQueue(queue, gzipSync('{"a":1}'), message);
    expect(await got.next()).toEqual({ a: 1 });
  });

  test('that blows up beyond maxMessageSize has the message dead-lettered; the consumer goes on', async () => {
    await using app = await boot({}, { connection: { maxMessageSize: 10_000 } });
    await scratch.send(queue, gzipSync(Buffer.alloc(10_001)), { contentEncoding: 'gzip' });
    await scratch.take(dead);
    expect(await app.log.next('error', 'maxMessageSize')).toContain('10000 bytes');
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toBe(1);
  });
});

test('contentType of @Consume reads bodies of publishers that say nothing of them', async () => {
  await using _app = await boot({ contentType: 'application/x-pairs' }, { serializers: [pairs] });
  await scratch.send(queue, 'a=1');
  expect(await got.next()).toEqual({ a: '1' });
});

describe('schema of @Consume', () => {
  const schema = z.object({ id: z.number(), note: z.string().default('none') });

  test('gives the handler what it makes of the payload', async () => {
    await using _app = await boot({ schema });
    await scratch.sendJson(queue, { id: 7 });
    expect(await got.next()).toEqual({ id: 7, note: 'none' });
  });

  test('has what does not fit dead-lettered before any guard, and says why', async () => {
    class Denies implements CanActivate {
      canActivate(): boolean {
        got.push('guard');
        return true;
      }
    }
    class Billing {
      @Consume(queue, { schema: schema.refine((order) => Promise.resolve(order.id > 0), 'no such order') })
      charge(payload: unknown): void {
        got.push(payload);
      }
    }
    await using app = await TestApp.boot({
      imports: [AmqpModule.forRoot({ url: brokerUrl, consumers: { deadLetter: { by: 'broker' } } })],
      providers: [Billing, { provide: APP_GUARD, useClass: Denies }],
    });
    await scratch.sendJson(queue, { id: 'seven' });
    await scratch.take(dead);
    expect(await app.log.next('error', 'InvalidPayloadError')).toContain('id: ');
    await scratch.sendJson(queue, { id: -1 });
    await scratch.take(dead);
    expect(await app.log.next('error', 'no such order')).toContain('InvalidPayloadError');
    expect(got.all).toEqual([]);
  });

  test('that is none is refused where it is written', () => {
    const options = { schema: { parse: () => 1 } } as unknown as ConsumeHandlerOptions;
    const error = refusalOf(Consume('billing', options));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain('Standard Schema');
  });
});

describe('a schema that never settles', () => {
  const stuck = z.object({ id: z.number().refine((id) => (id > 1 ? true : new Promise<boolean>(() => undefined))) });
  const ways: [string, ConsumeHandlerOptions][] = [
    ['one at a time', { prefetch: 1 }],
    ['in order', { orderBy: () => 'all' }],
    ['in batches', { batch: { size: 1, maxWait: '10m' } }],
  ];

  test.each(ways)('fails its delivery after the timeout, and lets others by, %s', async (_way, options) => {
    class Billing {
      @Consume(queue, { ...options, schema: stuck, timeout: 50 })
      charge(payload: unknown): void {
        got.push(payload);
      }
    }
    await using app = await TestApp.boot({
      imports: [AmqpModule.forRoot({ url: brokerUrl, consumers: { deadLetter: { by: 'broker' } } })],
      providers: [Billing],
    });
    await scratch.sendJson(queue, { id: 1 });
    await scratch.sendJson(queue, { id: 2 });
    expect((await scratch.take(dead)).body.toString()).toBe('{"id":1}');
    expect([await got.next()].flat()).toEqual([{ id: 2 }]);
    await app.log.next('error', 'could not be read within the timeout of 50 ms');
    await scratch.hasMessages(queue, 0);
  });

  test('is tried again as retry says', async () => {
    await using app = await boot({
      schema: stuck,
      timeout: 50,
      retry: { attempts: 2, delays: [1] },
    });
    await scratch.sendJson(queue, { id: 1 });
    await app.log.next('warn', 'for attempt 2');
    expect((await scratch.take(dead)).body.toString()).toBe('{"id":1}');
  });

  test.each(ways)('holds up no shutdown longer than shutdownTimeout, %s', async (_way, options) => {
    const begun = new Inbox<unknown>();
    const schema = z.number().refine((value) => {
      begun.push(value);
      return new Promise<boolean>(() => undefined);
    });
    const app = await boot({ ...options, schema }, { shutdownTimeout: 50 });
    await scratch.sendJson(queue, 1);
    await begun.next();
    await app.close();
    expect(await scratch.take(queue)).toMatchObject({ redelivered: true });
    expect(got.all).toEqual([]);
  });
});

describe('class-validator', () => {
  class Item {
    @IsString()
    name!: string;
  }
  class Order {
    @IsInt()
    id!: number;

    @ValidateNested({ each: true })
    @Type(() => Item)
    items!: Item[];
  }

  test.each(['for the whole application', 'on the parameter'])(
    'in Nest’s ValidationPipe %s makes instances, and refuses what does not fit',
    async (where) => {
      const pipe = new ValidationPipe({ transform: true, whitelist: true });
      class Everywhere {
        @Consume(queue)
        charge(@Payload() order: Order): void {
          got.push(order);
        }
      }
      class Once {
        @Consume(queue)
        charge(@Payload(pipe) order: Order): void {
          got.push(order);
        }
      }
      const everywhere = where === 'for the whole application';
      await using app = await TestApp.boot({
        imports: [AmqpModule.forRoot({ url: brokerUrl, consumers: { deadLetter: { by: 'broker' } } })],
        providers: everywhere ? [Everywhere, { provide: APP_PIPE, useValue: pipe }] : [Once],
      });
      await scratch.sendJson(queue, { id: 7, items: [{ name: 'book', price: 1 }], more: true });
      const order = await got.next();
      expect(order).toBeInstanceOf(Order);
      expect((order as Order).items[0]).toBeInstanceOf(Item);
      expect(order).toEqual({ id: 7, items: [{ name: 'book' }] });

      await scratch.sendJson(queue, { id: 'seven', items: [{}] });
      await scratch.take(dead);
      expect(app.log.text('error')).toContain('Bad Request');
      expect(got.all).toEqual([order]);
    },
  );
});
