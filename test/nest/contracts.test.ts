/** Contracts at run time: what is published, bound, handled and replied by them, with the schemas of several libraries. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type } from 'arktype';
import {
  AmqpChannel,
  AmqpModule,
  AmqpPublisher,
  AmqpRpcClient,
  Consume,
  type Infer,
  InvalidPayloadError,
  type MessageDefinition,
  RemoteError,
  message,
} from 'nest-amqp';
import { type Observable, from, lastValueFrom, tap, toArray } from 'rxjs';
import * as v from 'valibot';
import { z } from 'zod';

import { AmqpError } from '../../lib/errors.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Inbox } from '../support/waits.js';

let scratch: Scratch;
let handled: Inbox<unknown>;

beforeEach(async () => {
  scratch = await Scratch.open();
  handled = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const amqp = (): ReturnType<typeof AmqpModule.forRoot> => AmqpModule.forRoot({ url: brokerUrl });

const toQueue = (routingKey: string) => message({ exchange: '', routingKey, schema: z.number() });

/** The same message in the words of each library: a number that travels as text. */
const SCHEMAS = {
  zod: z.object({ id: z.string().transform(Number), note: z.string().default('') }),
  'zod, in its own time': z.object({
    id: z.string().transform(async (id) => await Promise.resolve(Number(id))),
    note: z.string().default(''),
  }),
  valibot: v.object({ id: v.pipe(v.string(), v.transform(Number)), note: v.optional(v.string(), '') }),
  arktype: type({ id: 'string.numeric.parse', note: 'string = ""' }),
};

describe.each(Object.entries(SCHEMAS))('a contract by %s', (_library, schema) => {
  test('binds the queue, sends what it is given, and hands out what the schema makes of it', async () => {
    const exchange = await scratch.exchange('topic');
    const queue = scratch.queueName();
    const OrderPlaced = message({ exchange, routingKey: 'order.placed', schema });
    class Billing {
      @Consume(OrderPlaced, { queue })
      charge(order: unknown): void {
        handled.push(order);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const copy = await scratch.queue();
    await scratch.bind(copy, exchange, 'order.placed');
    await app.get(AmqpPublisher).publish(OrderPlaced, { id: '7' });
    expect(await handled.next()).toEqual({ id: 7, note: '' });
    expect((await scratch.take(copy)).body.toString()).toBe('{"id":"7"}');
  });

  test('does not send a payload that does not fit, and says what is wrong with it', async () => {
    const queue = await scratch.queue();
    const ToQueue = message({ exchange: '', routingKey: queue, schema });
    await using app = await TestApp.boot({ imports: [amqp()] });
    const publisher = app.get(AmqpPublisher);
    // Past the compiler.
    const error = await failure(publisher.publish(ToQueue, { id: 7 } as never));
    expect(error).toBeInstanceOf(InvalidPayloadError);
    expect(error.message).toContain(`The payload to queue '${queue}' is not what the schema says. id`);
    expect(publisher.connection.status.state).toBe('idle');
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });
});

test('what does not fit is a dead letter of its consumer', async () => {
  const queue = await scratch.queue();
  const dead = scratch.owns(`${queue}.dead`);
  const Counted = message({ exchange: '', routingKey: queue, schema: z.object({ id: z.number() }) });
  class Billing {
    @Consume(Counted, { queue })
    charge(counted: Infer<typeof Counted>): void {
      handled.push(counted.id);
    }
  }
  await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
  await scratch.sendJson(queue, { id: 'seven' });
  await scratch.hasMessages(dead, 1);
  const { properties } = await scratch.take(dead);
  expect(properties.headers).toMatchObject({ 'x-nest-amqp-error-class': 'InvalidPayloadError' });
  await app.get(AmqpPublisher).publish(Counted, { id: 8 }, { priority: 1 });
  expect(await handled.next()).toBe(8);
});

describe('a contract of the default exchange', () => {
  test('names its queue by its routing key, and declares it where nobody has', async () => {
    const names = [scratch.queueName(), scratch.queueName()] as const;
    const First = toQueue(names[0]);
    const Second = toQueue(names[1]);
    class Counting {
      @Consume(First)
      one(count: number): void {
        handled.push(['one', count]);
      }

      @Consume(Second, { prefetch: 3 })
      other(count: number): void {
        handled.push(['other', count]);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Counting] });
    await app.get(AmqpPublisher).publish(First, 1);
    expect(await handled.next()).toEqual(['one', 1]);
    await app.get(AmqpPublisher).publish(Second, 2);
    expect(await handled.next()).toEqual(['other', 2]);
    expect(app.log.text('log')).toContain(`Counting.other (queue '${names[1]}') runs (prefetch 3)`);
  });

  test('has one handler: two fail the boot, which names them', async () => {
    const Counted = toQueue(scratch.queueName());
    class Counting {
      @Consume(Counted)
      one(_count: number): void {
        // never runs
      }

      @Consume(Counted)
      other(_count: number): void {
        // never runs
      }
    }
    const booting = TestApp.boot({ imports: [amqp()], providers: [Counting] });
    const error = await failure(booting.then((app) => app.close()));
    expect(error).toMatchObject({ code: 'INVALID_DEFINITION' });
    expect(error.message).toMatch(/Counting\.one.*Counting\.other|Counting\.other.*Counting\.one/);
  });
});

test('a request is held to its contract on the way out, and its reply on the way back', async () => {
  const queue = await scratch.queue();
  const PriceOf = message({
    exchange: '',
    routingKey: queue,
    schema: z.object({ sku: z.string() }),
    reply: z.object({ price: z.string().transform(Number) }),
  });
  await using app = await TestApp.boot({ imports: [amqp()] });
  const channel = app.get(AmqpChannel);
  await channel.basicConsume(queue, async (request) => {
    const { sku } = JSON.parse(request.text) as { sku: string };
    const price = sku === 'odd' ? 5 : '12';
    await channel.reply(request, JSON.stringify({ price }), { contentType: 'application/json' });
    request.ack();
  });
  const rpc = app.get(AmqpRpcClient);
  expect(await failure(rpc.request(PriceOf, { sku: 1 } as never))).toMatchObject({ code: 'INVALID_PAYLOAD' });
  expect(await rpc.request(PriceOf, { sku: 'book' })).toEqual({ price: 12 });
  const error = await failure(rpc.request(PriceOf, { sku: 'odd' }));
  expect(error.code).toBe('INVALID_PAYLOAD');
  expect(error.message).toContain(`The reply of queue '${queue}'`);
});

test('a reply that does not fit is an error reply and a warning in the log of its server, and is not tried again', async () => {
  const queue = await scratch.queue();
  const PriceOf = message({
    exchange: '',
    routingKey: queue,
    schema: z.object({ sku: z.string() }),
    reply: z.object({ price: z.string().transform(Number) }),
  });
  class Pricing {
    @Consume(PriceOf, { queue, retry: { attempts: 3, delays: [1] } })
    price({ sku }: { sku: string }): { price: string } {
      handled.push(sku);
      // Past the compiler.
      return { price: sku === 'odd' ? (5 as never) : '12' };
    }
  }
  await using app = await TestApp.boot({ imports: [amqp()], providers: [Pricing] });
  const rpc = app.get(AmqpRpcClient);
  expect(await rpc.request(PriceOf, { sku: 'book' })).toEqual({ price: 12 });
  const error = await failure(rpc.request(PriceOf, { sku: 'odd' }));
  expect(error).toBeInstanceOf(RemoteError);
  expect(error).toMatchObject({ remote: { name: 'InvalidPayloadError', code: 'INVALID_PAYLOAD' } });
  expect(error.message).toContain('What the handler replies is not what the schema says. price');
  expect(await app.log.next('warn', 'Pricing.price')).toContain('What the handler replies');
  // Nobody awaits this one's result.
  await scratch.sendJson(queue, { sku: 'odd' });
  expect(await rpc.request(PriceOf, { sku: 'last' })).toEqual({ price: 12 });
  expect(handled.all).toEqual(['book', 'odd', 'odd', 'last']);
  await scratch.hasMessages(queue, 0);
});

test('request$ by a contract holds the payload and every value to it, on both sides', async () => {
  const queue = await scratch.queue();
  const Countdown = message({
    exchange: '',
    routingKey: queue,
    schema: z.object({ values: z.array(z.unknown()) }),
    reply: z.string().transform(Number),
  });
  class Counting {
    @Consume(Countdown, { queue })
    count({ values }: Infer<typeof Countdown>): Observable<string> {
      return from(values as string[]);
    }
  }
  await using app = await TestApp.boot({ imports: [amqp()], providers: [Counting] });
  const rpc = app.get(AmqpRpcClient);
  expect(await lastValueFrom(rpc.request$(Countdown, { values: ['3', '2', '1'] }).pipe(toArray()))).toEqual([3, 2, 1]);
  const got: number[] = [];
  const odd = rpc.request$(Countdown, { values: ['3', 2, '1'] }).pipe(tap((value) => got.push(value)));
  expect(await failure(lastValueFrom(odd))).toMatchObject({
    code: 'REMOTE_ERROR',
    remote: { code: 'INVALID_PAYLOAD' },
  });
  expect(got).toEqual([3]);
  const unsent = rpc.request$(Countdown, { values: 1 } as never);
  expect((await failure(lastValueFrom(unsent))).message).toContain(`The payload to queue '${queue}'`);
  // A server that knows nothing of the contract.
  const theirs = await scratch.queue();
  const channel = app.get(AmqpChannel);
  await channel.basicConsume(theirs, async (request) => {
    await channel.reply(request, '5', { contentType: 'application/json' });
    request.ack();
  });
  const foreign = message({ exchange: '', routingKey: theirs, schema: z.string(), reply: z.string() });
  expect((await failure(lastValueFrom(rpc.request$(foreign, 'x')))).message).toContain(
    `The reply of queue '${theirs}'`,
  );
});

test.each([
  ['no exchange', { routingKey: 'a', schema: z.string() }, 'exchange'],
  ['a routing key that is too long', { exchange: '', routingKey: 'a'.repeat(256), schema: z.string() }, '255 bytes'],
  ['no schema', { exchange: '', routingKey: 'a' }, 'schema'],
  ['a reply that is no schema', { exchange: '', routingKey: 'a', schema: z.string(), reply: {} }, 'reply'],
  ['an unknown field', { exchange: '', routingKey: 'a', schema: z.string(), shema: 1 }, 'shema'],
  ['nothing', undefined, 'an object'],
])('a contract with %s is refused', (_what, definition, said) => {
  let error: unknown;
  try {
    message(definition as unknown as MessageDefinition);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(AmqpError);
  expect((error as AmqpError).message).toContain(said);
});
