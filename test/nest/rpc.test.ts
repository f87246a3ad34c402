/** Requests and replies in an application: who is injected, what handlers' replies are, and what both make of peers by others. */
import {
  type ArgumentsHost,
  BadRequestException,
  type CallHandler,
  Catch,
  type ExceptionFilter,
  type ExecutionContext,
  ForbiddenException,
  Injectable,
  type NestInterceptor,
  Scope,
  type Type,
  UseFilters,
  UseGuards,
  UseInterceptors,
} from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpDelivery,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpRpcClient,
  Consume,
  Delivery,
  InjectRpcClient,
  Payload,
  RejectDelivery,
  RequeueDelivery,
  RetryDelivery,
  getRpcClientToken,
} from 'nest-amqp';
import * as amqplib from 'amqplib';
import { once } from 'node:events';
import { Connection as RabbitConnection } from 'rabbitmq-client';
import { type Observable, map, of, throwError } from 'rxjs';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

let scratch: Scratch;

beforeEach(async () => {
  scratch = await Scratch.open();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

describe('AmqpRpcClient', () => {
  test('is injected by its class, and by the name of its connection', async () => {
    @Injectable()
    class Both {
      constructor(
        readonly rpc: AmqpRpcClient,
        @InjectRpcClient('audit') readonly audit: AmqpRpcClient,
        @InjectRpcClient() readonly again: AmqpRpcClient,
      ) {}
    }
    await using app = await TestApp.boot({
      imports: [AmqpModule.forRoot({ url: brokerUrl }), AmqpModule.forRoot({ name: 'audit', url: brokerUrl })],
      providers: [Both],
    });
    const { rpc, audit, again } = app.get(Both);
    expect(again).toBe(rpc);
    expect(audit).not.toBe(rpc);
    expect(audit).toBe(app.get(getRpcClientToken('audit') as string));
    for (const client of [rpc, audit]) {
      expect(await failure(client.requestToQueue(scratch.queueName(), 1))).toMatchObject({ code: 'UNROUTABLE' });
    }
  });

  test('waits as long as the module says, and rejects what is pending when the application ends', async () => {
    const [deaf, queue] = [await scratch.queue(), await scratch.queue()];
    const app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl, rpc: { timeout: 30 } })] });
    const rpc = app.get(AmqpRpcClient);
    expect(await failure(rpc.requestToQueue(deaf, 1))).toMatchObject({ code: 'REPLY_TIMEOUT' });
    const pending = failure(rpc.requestToQueue(queue, 1, { timeout: '1m' }));
    await scratch.hasMessages(queue, 1);
    await app.close();
    expect(await pending).toMatchObject({ code: 'CHANNEL_CLOSED' });
  });

  test.each<[what: string, rpc: object]>([
    ['an unknown field', { retries: 1 }],
    ['a timeout that is none', { timeout: 'soon' }],
    ['room for nothing', { maxPending: 0 }],
  ])('with %s fails the boot', async (_what, rpc) => {
    const options: AmqpModuleOptions = { url: brokerUrl, rpc };
    expect(await failure(TestApp.compile({ imports: [AmqpModule.forRoot(options)] }))).toMatchObject({
      code: 'INVALID_OPTION',
    });
  });
});

/** An application with these handlers, and its own client. */
async function boot(
  handlers: Type,
  options: AmqpModuleOptions = {},
): Promise<TestApp & { readonly rpc: AmqpRpcClient }> {
  const app = await TestApp.boot({
    imports: [AmqpModule.forRoot({ url: brokerUrl, ...options })],
    providers: [handlers],
  });
  return Object.assign(app, { rpc: app.get(AmqpRpcClient) });
}

describe('the reply to a request', () => {
  test('is what the handler returns: a value, a promise, or the last value of an Observable', async () => {
    const queues = [
      await scratch.queue(),
      await scratch.queue(),
      await scratch.queue(),
      await scratch.queue(),
    ] as const;
    class Prices {
      @Consume(queues[0])
      value(@Payload('sku') sku: number): unknown {
        return { sku, price: 3 };
      }

      @Consume(queues[1])
      async promise(): Promise<string> {
        return await Promise.resolve('promised');
      }

      @Consume(queues[2])
      observable(): Observable<number> {
        return of(1, 2, 3);
      }

      @Consume(queues[3])
      nothing(): void {
        // has nothing to say
      }
    }
    await using app = await boot(Prices);
    const replies = queues.map((queue) => app.rpc.requestToQueue(queue, { sku: 7 }));
    expect(await Promise.all(replies)).toEqual([{ sku: 7, price: 3 }, 'promised', 3, undefined]);
    for (const queue of queues) await scratch.hasMessages(queue, 0);
  });

  test('goes to the queue that the request names, with its correlation id and a plain body, before the request is acknowledged', async () => {
    const queue = await scratch.queue();
    const replies = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(): unknown {
        return { price: 3 };
      }
    }
    await using _app = await boot(Prices, { publisher: { appId: 'pricing' } });
    await scratch.sendJson(queue, 7, { replyTo: replies, correlationId: 'c-7', headers: { tenant: 'a' } });
    const { body, properties } = await scratch.take(replies);
    expect(body.toString()).toBe('{"price":3}');
    expect(properties).toMatchObject({
      correlationId: 'c-7',
      contentType: 'application/json',
      appId: 'pricing',
      deliveryMode: 1,
    });
    expect(properties).not.toHaveProperty('headers');
  });

  test('is what interceptors make of it', async () => {
    const queue = await scratch.queue();
    class Doubling implements NestInterceptor {
      intercept(_context: ExecutionContext, next: CallHandler<number>): Observable<number> {
        return next.handle().pipe(map((value) => value * 2));
      }
    }
    class Prices {
      @Consume(queue)
      @UseInterceptors(new Doubling())
      price(@Payload() sku: number): number {
        return sku;
      }
    }
    await using app = await boot(Prices);
    expect(await app.rpc.requestToQueue(queue, 21)).toBe(42);
  });

  test('of a request-scoped handler is its own', async () => {
    const queue = await scratch.queue();
    @Injectable({ scope: Scope.REQUEST })
    class Prices {
      @Consume(queue)
      price(@Payload() sku: number): number {
        return sku + 1;
      }
    }
    await using app = await boot(Prices);
    expect(await Promise.all([1, 2, 3].map((sku) => app.rpc.requestToQueue(queue, sku)))).toEqual([2, 3, 4]);
  });

  test('is sent for many requests at a time, each to its own requester', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue, { prefetch: 500 })
      async price(@Payload() sku: number): Promise<number> {
        return await Promise.resolve(sku);
      }
    }
    await using app = await boot(Prices);
    const count = 2_000;
    const replies = Array.from({ length: count }, (_, sku) => app.rpc.requestToQueue(queue, sku));
    expect(await within('the replies', Promise.all(replies))).toEqual(Array.from({ length: count }, (_, sku) => sku));
  });

  test('to a requester that is gone is told to the log, and the request is done with', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(): number {
        return 3;
      }
    }
    await using app = await boot(Prices);
    await scratch.sendJson(queue, 7, { replyTo: scratch.queueName(), correlationId: 'c' });
    const line = await app.log.next('warn', 'could not reply');
    expect(line).toContain(
      `Prices.price (queue '${queue}') could not reply to the message with routing key '${queue}'`,
    );
    await scratch.hasMessages(queue, 0);
    // Direct reply-to: the broker confirms what it cannot deliver.
    await scratch.sendJson(queue, 7, { replyTo: 'amq.rabbitmq.reply-to.gone' });
    await scratch.sendJson(queue, 7, { replyTo: '' });
    expect(await app.rpc.requestToQueue(queue, 7)).toBe(3);
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  const cycle: { self?: unknown } = {};
  cycle.self = cycle;

  test.each<[what: string, value: unknown]>([
    ['a BigInt', 1n],
    ['a cycle', cycle],
    ['a function', () => 1],
  ])('that cannot be written, as %s cannot, is the handler’s error', async (_what, value) => {
    const queue = await scratch.queue();
    let calls = 0;
    class Prices {
      @Consume(queue, { retry: { attempts: 3, delays: [1] } })
      price(): unknown {
        calls += 1;
        return value;
      }
    }
    await using app = await boot(Prices);
    expect(await failure(app.rpc.requestToQueue(queue, 7))).toMatchObject({
      code: 'REMOTE_ERROR',
      remote: { name: 'AmqpError', code: 'UNSERIALIZABLE' },
    });
    await app.close();
    expect(calls).toBe(1);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(await scratch.state(`${queue}.dead`)).toBeUndefined();
  });

  test('of a handler that answers by hand is sent all the same, unless it put the request back', async () => {
    const [manual, early, back] = [await scratch.queue(), await scratch.queue(), await scratch.queue()];
    const gate = new Gate();
    const got = new Inbox<Delivery>();
    class Prices {
      @Consume(manual, { ack: 'manual' })
      later(@AmqpDelivery() delivery: Delivery): string {
        got.push(delivery);
        return 'later';
      }

      @Consume(early)
      early(@AmqpDelivery() delivery: Delivery): string {
        delivery.ack();
        return 'early';
      }

      @Consume(back)
      back(@AmqpDelivery() delivery: Delivery): string {
        if (delivery.redelivered) return 'again';
        delivery.nack();
        return 'never';
      }
    }
    await using app = await boot(Prices);
    expect(await app.rpc.requestToQueue(manual, 1)).toBe('later');
    expect((await got.next()).ack()).toBe(true);
    expect(await app.rpc.requestToQueue(early, 1)).toBe('early');
    expect(await app.rpc.requestToQueue(back, 1)).toBe('again');
    gate.open();
  });

  test('is sent with ack none too', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue, { ack: 'none' })
      price(@Payload() sku: number): number {
        if (sku === 0) throw new Error('no such thing');
        return sku;
      }
    }
    await using app = await boot(Prices);
    expect(await app.rpc.requestToQueue(queue, 5)).toBe(5);
    expect(await failure(app.rpc.requestToQueue(queue, 0))).toMatchObject({ remote: { message: 'no such thing' } });
    await app.close();
    expect(await scratch.state(`${queue}.dead`)).toBeUndefined();
  });
});

class OutOfStock extends Error {
  readonly code = 'OUT_OF_STOCK';
}

describe('an error reply', () => {
  test('tells the requester class, code and message of what the handler threw, and the request is done with', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(): never {
        throw new OutOfStock('there are no apples');
      }
    }
    await using app = await boot(Prices, { publisher: { appId: 'pricing' } });
    expect(await failure(app.rpc.requestToQueue(queue, 7))).toMatchObject({
      name: 'RemoteError',
      code: 'REMOTE_ERROR',
      remote: {
        name: 'OutOfStock',
        code: 'OUT_OF_STOCK',
        message: 'there are no apples',
        server: 'pricing/Prices.price',
      },
    });
    await app.log.next('warn', 'Its requester was told. Error: there are no apples');
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(await scratch.state(`${queue}.dead`)).toBeUndefined();
  });

  test('is sent and logged also for an error that cannot be asked for its message', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(): never {
        throw Object.defineProperty(new Error(), 'message', {
          get() {
            throw new Error('evil');
          },
        });
      }
    }
    await using app = await boot(Prices);
    expect(await failure(app.rpc.requestToQueue(queue, 7))).toMatchObject({ code: 'REMOTE_ERROR' });
    expect(await app.log.next('warn', 'Its requester was told.')).toContain('What was thrown has no text.');
  });

  test('is plain AMQP: bounded headers, a body of JSON, and no stack', async () => {
    const queue = await scratch.queue();
    const replies = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(): never {
        throw new Error('x'.repeat(100_000));
      }
    }
    await using _app = await boot(Prices);
    await scratch.sendJson(queue, 7, { replyTo: replies, correlationId: 'c' });
    const { properties, body } = await scratch.take(replies);
    expect(properties).toMatchObject({ correlationId: 'c', contentType: 'application/json' });
    const { headers = {} } = properties;
    // Brokers may sort them.
    expect(Object.keys(headers).toSorted()).toEqual(['x-error-message', 'x-error-name', 'x-error-server']);
    expect(headers['x-error-message']).toHaveLength(2_000);
    expect(JSON.parse(body.toString())).toEqual({ name: 'Error', message: headers['x-error-message'] });
    expect(JSON.stringify(properties) + body.toString()).not.toContain('rpc.test');
  });

  test.each<[what: string, thrown: () => unknown, remote: object]>([
    [
      'an HttpException',
      () => new BadRequestException('no'),
      { name: 'BadRequestException', code: '400', message: 'no' },
    ],
    ['RejectDelivery', () => new RejectDelivery('never'), { name: 'RejectDelivery', message: 'never' }],
    ['text', () => 'just text', { name: 'string', code: undefined, message: 'just text' }],
    ['nothing', () => undefined, { name: 'undefined', code: undefined }],
    ['an Observable that fails', () => throwError(() => new Error('late')), { name: 'Error', message: 'late' }],
  ])('tells of %s', async (_what, thrown, remote) => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(): unknown {
        const what = thrown();
        if (typeof what === 'object' && what !== null && 'subscribe' in what) return what;
        throw what;
      }
    }
    await using app = await boot(Prices);
    expect(await failure(app.rpc.requestToQueue(queue, 7))).toMatchObject({ remote });
  });

  test('comes from guards, from bodies that cannot be read, and from handlers that take too long', async () => {
    const [guarded, slow] = [await scratch.queue(), await scratch.queue()];
    class Prices {
      @Consume(guarded)
      @UseGuards({ canActivate: () => false })
      guarded(): number {
        return 3;
      }

      @Consume(slow, { timeout: 20 })
      async slow(@AmqpDelivery() { signal }: Delivery): Promise<void> {
        await once(signal, 'abort');
      }
    }
    await using app = await boot(Prices);
    const remote = async (queue: string, payload: unknown, contentType?: string): Promise<unknown> =>
      await failure(app.rpc.requestToQueue(queue, payload, { contentType }));
    expect(await remote(guarded, 1)).toMatchObject({ remote: { name: ForbiddenException.name, code: '403' } });
    expect(await remote(guarded, Buffer.from('{'), 'application/json')).toMatchObject({
      remote: { code: 'UNDECODABLE' },
    });
    expect(await remote(slow, 1)).toMatchObject({ remote: { code: 'HANDLER_TIMEOUT' } });
  });

  test('is not sent for an attempt that is followed by another one', async () => {
    const [retried, used, put] = [await scratch.queue(), await scratch.queue(), await scratch.queue()];
    class Prices {
      @Consume(retried, { retry: { attempts: 3, delays: [1] } })
      retried(@AmqpDelivery() { attempt }: Delivery): number {
        if (attempt < 3) throw new Error('not yet');
        return attempt;
      }

      @Consume(used, { retry: { attempts: 2, delays: [1] } })
      used(@AmqpDelivery() { attempt }: Delivery): never {
        throw attempt === 1 ? new RetryDelivery({ after: 1 }) : new Error(`attempt ${attempt}`);
      }

      @Consume(put)
      put(@AmqpDelivery() { redelivered }: Delivery): string {
        if (!redelivered) throw new RequeueDelivery();
        return 'done';
      }
    }
    await using app = await boot(Prices);
    const ends = [
      app.rpc.requestToQueue(retried, 1),
      failure(app.rpc.requestToQueue(used, 1)),
      app.rpc.requestToQueue(put, 1),
    ];
    for (const queue of [retried, used]) for (const suffix of ['.retry.1']) scratch.owns(`${queue}${suffix}`);
    expect(await Promise.all(ends)).toEqual([3, expect.objectContaining({ code: 'REMOTE_ERROR' }), 'done']);
    expect(await ends[1]).toMatchObject({ remote: { message: 'attempt 2' } });
  });

  test('is its error at once where another attempt would begin when nobody waits any more', async () => {
    const queue = await scratch.queue();
    const dead = scratch.owns(`${queue}.dead`);
    scratch.owns(`${queue}.retry.50`);
    const attempts = new Inbox<number>();
    class Prices {
      // Ten seconds, of which the first wait takes the second one's share.
      @Consume(queue, { retry: { attempts: 9, delays: [50, 9_980] } })
      price(_payload: unknown, { attempt }: Delivery): never {
        attempts.push(attempt);
        throw new Error(`attempt ${attempt}`);
      }
    }
    await using app = await boot(Prices);
    const error = await failure(app.rpc.requestToQueue(queue, 1, { timeout: '10s' }));
    expect(error).toMatchObject({ code: 'REMOTE_ERROR', remote: { message: 'attempt 2' } });
    expect(attempts.all).toEqual([1, 2]);
    await scratch.sendJson(queue, 2, { replyTo: scratch.queueName(), expiration: '9980' });
    const { headers = {} } = (await scratch.take(dead)).properties;
    expect(headers['x-nest-amqp-attempts']).toBe(2);
    expect(Number(headers['x-nest-amqp-expiration'])).toBeLessThanOrEqual(9_930);
  });

  test('whose requester is gone leaves the request to the dead letters', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(): never {
        throw new Error('nobody hears it');
      }
    }
    await using app = await boot(Prices);
    scratch.owns(`${queue}.dead`);
    await scratch.sendJson(queue, 7, { replyTo: scratch.queueName() });
    await app.log.next('error', 'nobody hears it');
    await scratch.hasMessages(`${queue}.dead`, 1);
  });

  test('is what a filter returns, where one does', async () => {
    const queue = await scratch.queue();
    @Catch(OutOfStock)
    class Softly implements ExceptionFilter<OutOfStock> {
      catch(error: OutOfStock, _host: ArgumentsHost): unknown {
        return { left: 0, why: error.code };
      }
    }
    @Catch(TypeError)
    class Loudly implements ExceptionFilter<TypeError> {
      catch(error: TypeError): Observable<never> {
        return throwError(() => new BadRequestException(error.message));
      }
    }
    class Prices {
      @Consume(queue)
      @UseFilters(new Softly(), new Loudly())
      price(@Payload() sku: number): never {
        throw sku === 1 ? new OutOfStock('none') : new TypeError('not a sku');
      }
    }
    await using app = await boot(Prices);
    expect(await app.rpc.requestToQueue(queue, 1)).toEqual({ left: 0, why: 'OUT_OF_STOCK' });
    expect(await failure(app.rpc.requestToQueue(queue, 2))).toMatchObject({
      remote: { name: 'BadRequestException', message: 'not a sku' },
    });
  });
});

/** How often a connection is killed with requests in flight; more on demand. */
const kills = Number(process.env['NEST_AMQP_RPC_KILLS'] ?? 5);

describe('when connections end', () => {
  test('a request whose server dies is answered by the next one', async () => {
    const queue = await scratch.queue();
    const line = new CuttableLine();
    const calls = new Inbox<number>();
    const gate = new Gate();
    class Prices {
      @Consume(queue)
      async price(): Promise<string> {
        calls.push(calls.all.length + 1);
        if (calls.all.length === 1) await gate.opened;
        return `call ${calls.all.length}`;
      }
    }
    await using client = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })] });
    await using _server = await boot(Prices, {
      connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 5 } },
    });
    const reply = client.get(AmqpRpcClient).requestToQueue(queue, 1);
    await calls.next();
    line.cut();
    expect(await reply).toBe('call 2');
    gate.open();
  });

  test(
    'every request ends, however often its connection is killed',
    async () => {
      const queue = await scratch.queue();
      const line = new CuttableLine();
      class Prices {
        @Consume(queue, { prefetch: 200 })
        async price(@Payload() sku: number): Promise<number> {
          return await Promise.resolve(sku);
        }
      }
      await using _server = await boot(Prices);
      await using client = await TestApp.boot({
        imports: [
          AmqpModule.forRoot({
            url: brokerUrl,
            connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 5 } },
          }),
        ],
      });
      const rpc = client.get(AmqpRpcClient);
      const ends = { replied: 0, rejected: 0 };
      const codes = new Set<unknown>();
      for (let kill = 0; kill < kills; kill += 1) {
        const requests = Array.from({ length: 100 }, (_, sku) => rpc.requestToQueue<number>(queue, sku));
        const settled = Promise.allSettled(requests);
        // Some of them are replied to, some are on their way, some not yet sent.
        await Promise.race([requests[kill % 100]?.catch(() => undefined), settled]);
        line.cut();
        for (const [sku, end] of (await within('the end of every request', settled)).entries()) {
          if (end.status === 'fulfilled') {
            expect(end.value).toBe(sku);
            ends.replied += 1;
          } else {
            codes.add((end.reason as { code?: unknown }).code);
            ends.rejected += 1;
          }
        }
        expect(rpc.pendingCount).toBe(0);
      }
      if (process.env['NEST_AMQP_RPC_KILLS'] !== undefined) console.log(JSON.stringify({ kills, ...ends }));
      expect(ends.replied + ends.rejected).toBe(kills * 100);
      expect([...codes].filter((code) => code !== 'REPLY_LOST')).toEqual([]);
      // The last kill may not have been noticed yet.
      const again = await eventually('a request after the last kill', () =>
        rpc.requestToQueue(queue, 'a').catch(() => undefined),
      );
      expect(again).toBe('a');
    },
    20_000 + kills * 2_000,
  );
});

describe('peers by others', () => {
  test('amqplib is answered, and told of errors', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      price(@Payload() { sku }: { sku: number }): unknown {
        if (sku === 0) throw new OutOfStock('none');
        return { sku, price: 3 };
      }
    }
    await using _app = await boot(Prices);
    const connection = await amqplib.connect(brokerUrl);
    try {
      const channel = await connection.createChannel();
      const replies = new Inbox<amqplib.ConsumeMessage | null>();
      await channel.consume('amq.rabbitmq.reply-to', replies.push, { noAck: true });
      for (const sku of [7, 0]) {
        channel.sendToQueue(queue, Buffer.from(JSON.stringify({ sku })), {
          replyTo: 'amq.rabbitmq.reply-to',
          correlationId: `sku ${sku}`,
          contentType: 'application/json',
        });
      }
      const got = [await replies.next(), await replies.next()];
      const of = (id: string): amqplib.ConsumeMessage | null | undefined =>
        got.find((reply) => reply?.properties.correlationId === id);
      expect(JSON.parse(String(of('sku 7')?.content))).toEqual({ sku: 7, price: 3 });
      expect(of('sku 7')?.properties.headers).toBeUndefined();
      expect(of('sku 0')?.properties.headers).toMatchObject({
        'x-error-name': 'OutOfStock',
        'x-error-code': 'OUT_OF_STOCK',
        'x-error-message': 'none',
      });
    } finally {
      await connection.close();
    }
  });

  test('amqplib answers, with errors too', async () => {
    const connection = await amqplib.connect(brokerUrl);
    try {
      const channel = await connection.createChannel();
      const { queue } = await channel.assertQueue('', { exclusive: true });
      await channel.consume(
        queue,
        (request) => {
          const { replyTo, correlationId } = request?.properties as { replyTo: string; correlationId: string };
          const sku = JSON.parse(String(request?.content)) as number;
          channel.sendToQueue(replyTo, Buffer.from(sku === 0 ? '' : String(sku * 2)), {
            correlationId,
            headers: sku === 0 ? { 'x-error-code': 404, 'x-error-message': 'none' } : {},
          });
        },
        { noAck: true },
      );
      await using app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })] });
      const rpc = app.get(AmqpRpcClient);
      expect(await rpc.requestToQueue(queue, 21)).toBe(42);
      expect(await failure(rpc.requestToQueue(queue, 0))).toMatchObject({ remote: { code: '404', message: 'none' } });
    } finally {
      await connection.close();
    }
  });

  test('rabbitmq-client is answered, and answers', async () => {
    const [ours, theirs] = [await scratch.queue(), await scratch.queue()];
    class Prices {
      @Consume(ours)
      price(@Payload() sku: number): unknown {
        return { sku, price: 3 };
      }
    }
    await using app = await boot(Prices);
    const connection = new RabbitConnection(brokerUrl);
    const server = connection.createConsumer(
      { queue: theirs, queueOptions: { passive: true } },
      async (request, reply) => {
        await reply({ doubled: (request.body as number) * 2 });
      },
    );
    const client = connection.createRPCClient({});
    try {
      const reply = await client.send(ours, 7);
      expect(reply.body).toEqual({ sku: 7, price: 3 });
      expect(await app.rpc.requestToQueue(theirs, 21)).toEqual({ doubled: 42 });
    } finally {
      await client.close();
      await server.close();
      await connection.close();
    }
  });
});
