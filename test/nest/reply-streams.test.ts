/** Requests for all values: Observables and async iterables of handlers, one reply a value, to a requester that may stop them. */
import { once } from 'node:events';
import {
  type CallHandler,
  type ExecutionContext,
  type NestInterceptor,
  type Type,
  UseInterceptors,
} from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpConnection,
  AmqpDelivery,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpRpcClient,
  Consume,
  Delivery,
  Payload,
} from 'nest-amqp';
import {
  NEVER,
  Observable,
  concat,
  config,
  finalize,
  from,
  interval,
  lastValueFrom,
  map,
  of,
  range,
  take,
  throwError,
  toArray,
} from 'rxjs';

import type { FieldTable } from '../../lib/protocol/field-table.js';
import { connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
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

type WithClient = TestApp & { readonly rpc: AmqpRpcClient };

async function boot(handlers?: Type, options: AmqpModuleOptions = {}): Promise<WithClient> {
  const app = await TestApp.boot({
    imports: [AmqpModule.forRoot({ url: brokerUrl, ...options })],
    providers: handlers === undefined ? [] : [handlers],
  });
  return Object.assign(app, { rpc: app.get(AmqpRpcClient) });
}

/** All values that come. */
async function all(values: Observable<unknown>): Promise<unknown[]> {
  return await within('the end of the values', lastValueFrom(values.pipe(toArray())));
}

/** What comes, and the error that ends it. */
async function untilError(values: Observable<unknown>): Promise<{ got: unknown[]; error: unknown }> {
  const got: unknown[] = [];
  const error = await failure(lastValueFrom(values.pipe(map((value) => got.push(value)))));
  return { got, error };
}

/** Observables of a handler: how many were subscribed, and unsubscribed. */
class Runs {
  begun = 0;
  #ended = 0;

  counted(values: Observable<number>): Observable<number> {
    return new Observable((subscriber) => {
      this.begun += 1;
      const inner = values.subscribe(subscriber);
      return () => {
        inner.unsubscribe();
        this.#ended += 1;
      };
    });
  }

  isOver(count: number): true | undefined {
    return this.begun === count && this.#ended === count ? true : undefined;
  }
}

describe('request$ emits', () => {
  test('every value of an Observable, in order, and completes', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      quotes(@Payload() count: number): Observable<{ price: number }> {
        return range(1, count).pipe(map((price) => ({ price })));
      }
    }
    await using app = await boot(Prices);
    expect(await all(app.rpc.request$('', queue, 500))).toEqual(
      Array.from({ length: 500 }, (_, index) => ({ price: index + 1 })),
    );
    expect(await all(app.rpc.request$('', queue, 0))).toEqual([]);
    // Who asks for one gets the last.
    expect(await app.rpc.requestToQueue(queue, 3)).toEqual({ price: 3 });
    await scratch.hasMessages(queue, 0);
    expect(app.rpc.pendingCount).toBe(0);
  });

  test('every value of an async generator, which is asked for no more than the broker takes', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      async *quotes(): AsyncGenerator<number> {
        for (let price = 1; price <= 200; price += 1) yield await Promise.resolve(price);
      }
    }
    await using app = await boot(Prices);
    expect(await all(app.rpc.request$('', queue, 1))).toEqual(Array.from({ length: 200 }, (_, index) => index + 1));
    expect(await app.rpc.requestToQueue(queue, 1)).toBe(200);
  });

  test('what interceptors make of each value', async () => {
    const queue = await scratch.queue();
    class Doubling implements NestInterceptor {
      intercept(_context: ExecutionContext, next: CallHandler<number>): Observable<number> {
        return next.handle().pipe(map((value) => value * 2));
      }
    }
    class Prices {
      @Consume(queue)
      @UseInterceptors(new Doubling())
      quotes(): Observable<number> {
        return of(1, 2, 3);
      }
    }
    await using app = await boot(Prices);
    expect(await all(app.rpc.request$('', queue, 1))).toEqual([2, 4, 6]);
  });

  test('the one value of a handler that has one, and of a server by others', async () => {
    const [ours, theirs] = [await scratch.queue(), await scratch.queue()];
    class Prices {
      @Consume(ours)
      quote(): number {
        return 3;
      }
    }
    await using app = await boot(Prices);
    await using connection = await connect(brokerUrl);
    const channel = await connection.channel({ confirm: true });
    await channel.basicConsume(theirs, (request) => channel.reply(request, '"theirs"'), { noAck: true });
    expect(await all(app.rpc.request$('', ours, 1))).toEqual([3]);
    expect(await all(app.rpc.request$('', theirs, 1))).toEqual(['theirs']);
  });

  test('the values before an error, and then the error of the server', async () => {
    const [late, early] = [await scratch.queue(), await scratch.queue()];
    class Prices {
      @Consume(late)
      late(): Observable<number> {
        return concat(
          of(1, 2),
          throwError(() => new Error('out of prices')),
        );
      }

      @Consume(early, { retry: { attempts: 2, delays: [1] } })
      early(@AmqpDelivery() { attempt }: Delivery): Observable<number> {
        return attempt === 1 ? throwError(() => new Error('not yet')) : of(attempt);
      }
    }
    await using app = await boot(Prices);
    scratch.owns(`${early}.retry.1`);
    expect(await untilError(app.rpc.request$('', late, 1))).toMatchObject({
      got: [1, 2],
      error: { code: 'REMOTE_ERROR', remote: { message: 'out of prices' } },
    });
    await app.log.next('warn', 'Its requester was told.');
    // Before its first value a handler is tried again as ever.
    expect(await all(app.rpc.request$('', early, 1))).toEqual([2]);
    await scratch.hasMessages(late, 0);
  });
});

describe('a stream of replies ends', () => {
  test('when its requester unsubscribes: the server’s Observable is unsubscribed, the signal fires, the request is done with', async () => {
    const queue = await scratch.queue();
    const ended = new Inbox<string>();
    class Prices {
      @Consume(queue)
      quotes(@AmqpDelivery() { signal }: Delivery): Observable<number> {
        signal.addEventListener('abort', () => {
          ended.push(`signal ${(signal.reason as { code: string }).code}`);
        });
        return new Observable<number>((subscriber) => {
          const inner = concat(of(1, 2), NEVER).subscribe(subscriber);
          return () => {
            inner.unsubscribe();
            ended.push('unsubscribed');
          };
        });
      }
    }
    await using app = await boot(Prices);
    expect(await all(app.rpc.request$('', queue, 1).pipe(take(2)))).toEqual([1, 2]);
    expect([await ended.next(), await ended.next()].sort()).toEqual(['signal ABORTED', 'unsubscribed']);
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('also when it unsubscribes before the first value', async () => {
    const queue = await scratch.queue();
    const begun = new Gate();
    const go = new Gate();
    const ended = new Gate();
    class Prices {
      @Consume(queue)
      async *quotes(): AsyncGenerator<number> {
        begun.open();
        await go.opened;
        try {
          for (let price = 1; ; price += 1) yield await Promise.resolve(price);
        } finally {
          ended.open();
        }
      }
    }
    await using app = await boot(Prices);
    const got: unknown[] = [];
    const subscription = app.rpc.request$('', queue, 1).subscribe((value) => got.push(value));
    await begun.opened;
    subscription.unsubscribe();
    go.open();
    await within('the end of the generator', ended.opened);
    expect(got).toEqual([]);
    // Its requester hears of the end, and awaits nothing more.
    await eventually('no request to be pending', () => Promise.resolve(app.rpc.pendingCount === 0 || undefined));
  });

  test('with its signal, which stops the server too, and with a value that does not come in time', async () => {
    const queue = await scratch.queue();
    const ended = new Gate();
    class Prices {
      @Consume(queue)
      quotes(@Payload() every: number): Observable<number> {
        return new Observable<number>((subscriber) => {
          const inner = (every === 0 ? NEVER : interval(every)).subscribe(subscriber);
          return () => {
            inner.unsubscribe();
            if (every !== 0) ended.open();
          };
        });
      }
    }
    await using app = await boot(Prices);
    const controller = new AbortController();
    const values = app.rpc.request$('', queue, 1, { signal: controller.signal });
    const aborting = values.pipe(
      map((value) => {
        if (value === 2) controller.abort();
        return value;
      }),
    );
    expect((await untilError(aborting)).error).toMatchObject({ code: 'ABORTED' });
    await within('the end of the interval', ended.opened);
    expect((await untilError(app.rpc.request$('', queue, 0, { timeout: 50 }))).error).toMatchObject({
      code: 'REPLY_TIMEOUT',
    });
    // Each value is waited for as long as the timeout says, and not all of them together, which take longer.
    const timeout = 2_000;
    const count = 1 + timeout / 20;
    const many = all(app.rpc.request$('', queue, 20, { timeout }).pipe(take(count)));
    expect(await many).toEqual(Array.from({ length: count }, (_, value) => value));
  });

  test('with the connection of its requester', async () => {
    const queue = await scratch.queue();
    const line = new CuttableLine();
    class Prices {
      @Consume(queue)
      quotes(): Observable<number> {
        return concat(of(1), NEVER);
      }
    }
    await using _server = await boot(Prices);
    await using client = await boot(undefined, { connection: { dial: line.dial } });
    const cutting = client.rpc.request$('', queue, 1).pipe(
      map((value) => {
        line.cut();
        return value;
      }),
    );
    expect(await untilError(cutting)).toMatchObject({ got: [1], error: { code: 'REPLY_LOST' } });
  });

  test('with the connection of its server, whose next one begins anew and is asked to stop', async () => {
    const queue = await scratch.queue();
    const line = new CuttableLine();
    const runs = new Runs();
    class Prices {
      @Consume(queue)
      quotes(): Observable<number> {
        return runs.counted(concat(of(1, 2), NEVER));
      }
    }
    await using _server = await boot(Prices, {
      connection: { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 5 } },
    });
    await using client = await boot();
    const cutting = client.rpc.request$<number>('', queue, 1).pipe(
      map((value) => {
        if (value === 2) line.cut();
        return value;
      }),
    );
    const { got, error } = await untilError(cutting);
    expect(got).toEqual([1, 2]);
    expect(['REPLY_LOST', 'REMOTE_ERROR']).toContain((error as { code: string }).code);
    await eventually('the second run to be over', () => Promise.resolve(runs.isOver(2)));
    await scratch.hasMessages(queue, 0);
  });

  test('when its requester has given up before the first value, so that others have their turn', async () => {
    const queue = await scratch.queue();
    const begun = new Inbox<boolean>();
    const go = new Gate();
    class Prices {
      @Consume(queue, { prefetch: 2 })
      async *quotes(@Payload() isEndless: boolean): AsyncGenerator<number> {
        begun.push(isEndless);
        if (isEndless) await go.opened;
        do yield await Promise.resolve(1);
        while (isEndless);
      }
    }
    await using app = await boot(Prices);
    // Time enough for both to begin.
    const given = app.rpc.request$('', queue, true, { timeout: 1_500 });
    const ends = Promise.all([untilError(given), untilError(given)]);
    for (let count = 0; count < 2; count += 1) await begun.next();
    const late = await ends;
    expect(late.map(({ error }) => (error as { code: string }).code)).toEqual(['REPLY_TIMEOUT', 'REPLY_TIMEOUT']);
    go.open();
    expect(await app.rpc.requestToQueue(queue, false)).toBe(1);
    // What comes of them until they have heard is no line in the log.
    expect(app.log.text('warn')).toBe('');
  });

  test('when its requester has given up and there is never a value', async () => {
    const queue = await scratch.queue();
    const runs = new Runs();
    class Prices {
      @Consume(queue)
      quotes(): Observable<number> {
        return runs.counted(NEVER);
      }
    }
    await using app = await boot(Prices);
    const subscription = app.rpc.request$('', queue, 1).subscribe();
    await eventually('the first run', () => Promise.resolve(runs.begun === 1 || undefined));
    subscription.unsubscribe();
    await eventually('no request to be pending', () => Promise.resolve(app.rpc.pendingCount === 0 || undefined));
    expect((await untilError(app.rpc.request$('', queue, 2, { timeout: 50 }))).error).toMatchObject({
      code: 'REPLY_TIMEOUT',
    });
    await eventually('both runs to be over', () => Promise.resolve(runs.isOver(2)));
    // It is known where to say so by then.
    const listening = app.rpc.request$('', queue, 3, { timeout: 2_000 });
    expect((await untilError(listening)).error).toMatchObject({ code: 'REPLY_TIMEOUT' });
    await eventually('the third run to be over', () => Promise.resolve(runs.isOver(3)));
    await scratch.hasMessages(queue, 0);
  });
});

describe('a stream of replies does not begin', () => {
  /** What is subscribed to. */
  let subscribed: Inbox<string>;

  beforeEach(() => {
    subscribed = new Inbox();
  });

  const values = (name: string): Observable<number> =>
    new Observable((subscriber) => {
      subscribed.push(name);
      subscriber.next(1);
      subscriber.complete();
    });

  test('after its handler has had its time', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue, { timeout: 50 })
      async quotes(@AmqpDelivery() { signal }: Delivery): Promise<Observable<number>> {
        await once(signal, 'abort');
        return values('late');
      }
    }
    await using app = await boot(Prices);
    expect((await untilError(app.rpc.request$('', queue, 1))).error).toMatchObject({
      code: 'REMOTE_ERROR',
      remote: { code: 'HANDLER_TIMEOUT' },
    });
    await app.close();
    expect(subscribed.all).toEqual([]);
  });

  test('after its handler has put the request back', async () => {
    const queue = await scratch.queue();
    class Prices {
      @Consume(queue)
      quotes(@AmqpDelivery() delivery: Delivery): Observable<number> {
        if (!delivery.redelivered) delivery.nack();
        return values(delivery.redelivered ? 'again' : 'put back');
      }
    }
    await using app = await boot(Prices);
    expect(await all(app.rpc.request$('', queue, 1))).toEqual([1]);
    expect(subscribed.all).toEqual(['again']);
  });
});

test('a handler that is asked for a stream by nobody is heard to its end all the same', async () => {
  const queue = await scratch.queue();
  const ended = new Gate();
  class Prices {
    @Consume(queue)
    quotes(): Observable<number> {
      return of(1, 2).pipe(
        finalize(() => {
          ended.open();
        }),
      );
    }
  }
  await using _app = await boot(Prices);
  await scratch.sendJson(queue, 1, { replyTo: '', headers: { 'x-reply-stream': true } });
  await within('the end of the values', ended.opened);
});

test('a subscriber that throws is told to nobody else: the stream goes on to its end', async () => {
  const queue = await scratch.queue();
  class Prices {
    @Consume(queue)
    values(@Payload() fails: boolean): Observable<number> {
      return fails ? throwError(() => new Error('no')) : of(1, 2);
    }
  }
  await using app = await boot(Prices);
  const unhandled = new Inbox<unknown>();
  config.onUnhandledError = unhandled.push;
  try {
    const does = (name: string) => (): void => {
      throw new Error(name);
    };
    const observer = { next: does('next'), error: does('error'), complete: does('complete') };
    for (const fails of [false, true]) app.rpc.request$('', queue, fails).subscribe(observer);
    const told = [await unhandled.next(), await unhandled.next(), await unhandled.next(), await unhandled.next()];
    expect(told.map((error) => (error as Error).message).sort()).toEqual(['complete', 'error', 'next', 'next']);
  } finally {
    config.onUnhandledError = null;
  }
  await eventually('the end of the requests', () => Promise.resolve(app.rpc.pendingCount === 0 ? true : undefined));
  await scratch.hasMessages(queue, 0);
});

describe('a server by others', () => {
  /** It replies with such headers, and then hears what it is told. */
  async function serving(
    replies: readonly FieldTable[],
  ): Promise<{ queue: string; told: Inbox<Message>; close: () => Promise<void> }> {
    const queue = await scratch.queue();
    const connection = await connect(brokerUrl);
    const channel = await connection.channel({ confirm: true });
    const told = new Inbox<Message>();
    await channel.basicConsume('amq.rabbitmq.reply-to', told.push, { noAck: true });
    await channel.basicConsume(
      queue,
      async (request) => {
        for (const headers of replies) {
          await channel.reply(request, JSON.stringify(headers['x-reply-number'] ?? null), {
            headers,
            replyTo: 'amq.rabbitmq.reply-to',
            contentType: 'application/json',
          });
        }
      },
      { noAck: true },
    );
    return { queue, told, close: () => connection.close() };
  }

  const at = (number: number, stream = 's'): FieldTable => ({ 'x-reply-stream': stream, 'x-reply-number': number });
  const end = (number: number, stream?: string): FieldTable => ({ ...at(number, stream), 'x-reply-end': true });

  test.each<[what: string, replies: readonly FieldTable[], got: readonly number[], error: object | undefined]>([
    ['that repeats a reply is heard once', [at(1), at(1), at(2), end(3)], [1, 2], undefined],
    ['that leaves one out breaks off', [at(1), at(3), end(4)], [1], { code: 'REPLY_LOST' }],
    ['that begins anew breaks off', [at(1), at(1, 't'), at(2, 't')], [1], { code: 'REPLY_LOST' }],
    ['that announces itself is heard', [at(0), at(1), at(0), end(2)], [1], undefined],
    ['that begins anew before its first value is heard', [at(0), at(0, 't'), at(1, 't'), end(2, 't')], [1], undefined],
    ['is heard no more when another has begun', [at(0), at(1, 't'), at(1), end(2), end(2, 't')], [1], undefined],
    [
      'that fails at the end is heard',
      [at(1), { ...end(2), 'x-error-message': 'no more' }],
      [1],
      { code: 'REMOTE_ERROR', remote: { message: 'no more' } },
    ],
  ])('%s', async (_what, replies, got, error) => {
    await using app = await boot();
    const server = await serving(replies);
    try {
      const values = app.rpc.request$('', server.queue, 1);
      if (error === undefined) expect(await all(values)).toEqual(got);
      else expect(await untilError(values)).toMatchObject({ got, error });
    } finally {
      await server.close();
    }
  });

  test('is asked to stop, in plain words', async () => {
    await using app = await boot();
    const server = await serving([at(1), at(2)]);
    try {
      expect(await all(app.rpc.request$('', server.queue, 1, { correlationId: 'c' }).pipe(take(1)))).toEqual([1]);
      const { properties } = await server.told.next();
      expect(properties).toMatchObject({
        correlationId: 'c',
        headers: { 'x-reply-stream': 's', 'x-reply-stop': true },
      });
    } finally {
      await server.close();
    }
  });
});

describe('a requester by others', () => {
  test('hears where to stop a stream that has no value yet', async () => {
    const queue = await scratch.queue();
    const runs = new Runs();
    class Prices {
      @Consume(queue)
      quotes(): Observable<number> {
        return runs.counted(NEVER);
      }
    }
    await using app = await boot(Prices);
    const replies = await scratch.queue();
    await scratch.sendJson(queue, 1, { replyTo: replies, correlationId: 'c', headers: { 'x-reply-stream': true } });
    const { body, properties } = await scratch.take(replies);
    const { 'x-reply-stream': stream, ...place } = properties.headers ?? {};
    expect([body.length, properties.correlationId, place]).toEqual([0, 'c', { 'x-reply-number': 0 }]);
    const headers = { 'x-reply-stream': stream ?? null, 'x-reply-stop': true };
    await scratch.sendJson(properties.replyTo ?? '', 0, { headers, mandatory: false });
    await eventually('the run to be over', () => Promise.resolve(runs.isOver(1)));
    expect((await scratch.take(replies)).properties.headers).toMatchObject({ 'x-reply-end': true });
    expect(app.log.text('error')).toBe('');
  });

  test('whose queue is gone has no stream that goes on without a value', async () => {
    const queue = await scratch.queue();
    const runs = new Runs();
    class Prices {
      @Consume(queue)
      quotes(): Observable<number> {
        return runs.counted(NEVER);
      }
    }
    await using _app = await boot(Prices);
    const headers = { 'x-reply-stream': true };
    await scratch.sendJson(queue, 1, { replyTo: scratch.queueName(), correlationId: 'c', headers });
    await eventually('the run to be over', () => Promise.resolve(runs.isOver(1)));
    await scratch.hasMessages(queue, 0);
  });
});

test('replies go to a queue of the requester too, and stop when it is gone', async () => {
  const queue = await scratch.queue();
  const replies = await scratch.queue();
  const ended = new Gate();
  class Prices {
    @Consume(queue)
    quotes(@Payload() isEndless: boolean): Observable<number> {
      if (!isEndless) return from([1, 2]);
      return new Observable<number>((subscriber) => {
        const inner = interval(5).subscribe(subscriber);
        return () => {
          inner.unsubscribe();
          ended.open();
        };
      });
    }
  }
  await using app = await boot(Prices);
  const headers = { 'x-reply-stream': true };
  await scratch.sendJson(queue, false, { replyTo: replies, correlationId: 'c', headers });
  const got = [await scratch.take(replies), await scratch.take(replies), await scratch.take(replies)];
  expect(got.map(({ body }) => body.toString())).toEqual(['1', '2', '']);
  expect(got.map(({ properties }) => properties.headers?.['x-reply-number'])).toEqual([1, 2, 3]);
  expect(got[2]?.properties.headers).toMatchObject({ 'x-reply-end': true });
  await scratch.sendJson(queue, true, { replyTo: scratch.queueName(), correlationId: 'd', headers });
  await within('the end of the interval', ended.opened);
  expect(app.get(AmqpConnection).status.state).toBe('open');
});
