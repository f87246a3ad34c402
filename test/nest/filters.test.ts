/** What a filter makes of an error that a handler has failed with, and what then becomes of the message. */
import { setImmediate } from 'node:timers/promises';
import { Catch, type ExceptionFilter, Injectable, Scope, type Type } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpModule,
  AmqpRpcClient,
  Consume,
  type ConsumeHandlerOptions,
  type Delivery,
  PartialBatchError,
  RejectDelivery,
  RequeueDelivery,
  RetryDelivery,
} from 'nest-amqp';
import { EMPTY, type Observable, lastValueFrom, of, throwError, toArray } from 'rxjs';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Inbox } from '../support/waits.js';

let scratch: Scratch;
let queue: string;
let dead: string;
/** What the filter was given, in order; each test has its own. */
let caught: Inbox<string>;

beforeEach(async () => {
  scratch = await Scratch.open();
  queue = await scratch.queue();
  dead = scratch.owns(`${queue}.dead`);
  caught = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

/** A filter for the whole application that does this. */
function filter(does: (error: Error) => unknown): Type<ExceptionFilter> {
  @Catch()
  class Filter implements ExceptionFilter {
    catch(error: Error): unknown {
      caught.push(error.message);
      return does(error);
    }
  }
  return Filter;
}

/** A handler that fails, in one of the ways in which handlers are called. */
type Form = readonly [what: string, handler: (options?: ConsumeHandlerOptions) => Type];

const FORMS: readonly Form[] = [
  [
    'a handler',
    (options) => {
      class Billing {
        @Consume(queue, options)
        charge(): void {
          throw new Error('out of stock');
        }
      }
      return Billing;
    },
  ],
  [
    'a handler that returns a promise',
    (options) => {
      class Billing {
        @Consume(queue, options)
        async charge(): Promise<void> {
          await setImmediate();
          throw new Error('out of stock');
        }
      }
      return Billing;
    },
  ],
  [
    'a handler that returns an Observable',
    (options) => {
      class Billing {
        @Consume(queue, options)
        charge(): Observable<never> {
          return throwError(() => new Error('out of stock'));
        }
      }
      return Billing;
    },
  ],
  [
    'a request-scoped handler',
    (options) => {
      @Injectable({ scope: Scope.REQUEST })
      class Billing {
        @Consume(queue, options)
        charge(): void {
          throw new Error('out of stock');
        }
      }
      return Billing;
    },
  ],
  [
    'a handler of a class that cannot be made',
    (options) => {
      @Injectable({ scope: Scope.REQUEST })
      class Billing {
        constructor() {
          throw new Error('out of stock');
        }

        @Consume(queue, options)
        charge(): void {
          caught.push('called');
        }
      }
      return Billing;
    },
  ],
  [
    'a handler of batches',
    (options) => {
      class Billing {
        @Consume(queue, { ...options, batch: { size: 1 } })
        charge(): void {
          throw new Error('out of stock');
        }
      }
      return Billing;
    },
  ],
];

async function boot(handler: Type, useClass: Type<ExceptionFilter>): Promise<TestApp> {
  return await TestApp.boot({
    imports: [AmqpModule.forRoot({ url: brokerUrl })],
    providers: [handler, { provide: APP_FILTER, useClass }],
  });
}

/** A filter that takes its time and has nothing to say; what is nothing. */
const NOTHINGS: readonly (readonly [what: string, does: () => unknown])[] = [
  ['a promise of nothing', () => setImmediate(undefined)],
  ['a promise of null', () => setImmediate(null)],
  ['an Observable of nothing', () => EMPTY],
  ['a promise of an Observable of nothing', () => setImmediate(EMPTY)],
];

describe('a filter that returns nothing in the end has not handled the error', () => {
  test.each(FORMS)('of %s: the message is tried again, and dead-lettered', async (_what, handler) => {
    const Handler = handler({ retry: { attempts: 2, delays: [1] } });
    await using app = await boot(
      Handler,
      filter(() => setImmediate(undefined)),
    );
    await scratch.sendJson(queue, 1);
    const { properties } = await scratch.take(dead);
    expect(properties.headers).toMatchObject({
      'x-nest-amqp-attempts': 2,
      'x-nest-amqp-error-message': 'out of stock',
    });
    await app.close();
    expect(caught.all).toEqual(['out of stock', 'out of stock']);
    expect(app.log.text('error')).toContain('out of stock');
  });

  test.each(NOTHINGS)('where that is %s', async (_what, does) => {
    class Billing {
      @Consume(queue)
      charge(): void {
        throw new Error('out of stock');
      }
    }
    await using app = await boot(Billing, filter(does));
    await scratch.sendJson(queue, 1);
    expect((await scratch.take(dead)).body.toString()).toBe('1');
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test.each(NOTHINGS)('and a requester is told of that, where it is %s', async (_what, does) => {
    class Pricing {
      @Consume(queue)
      quote(): void {
        throw new Error('out of stock');
      }
    }
    await using app = await boot(Pricing, filter(does));
    const rpc = app.get(AmqpRpcClient);
    expect(await failure(rpc.requestToQueue(queue, 1))).toMatchObject({ remote: { message: 'out of stock' } });
    expect(await failure(lastValueFrom(rpc.request$('', queue, 1)))).toMatchObject({
      remote: { message: 'out of stock' },
    });
  });
});

describe('a filter that returns something in the end has handled the error', () => {
  test.each(FORMS)('of %s: the message is acknowledged', async (_what, handler) => {
    await using app = await boot(
      handler(),
      filter(() => setImmediate('handled')),
    );
    await scratch.sendJson(queue, 1);
    expect(await caught.next()).toBe('out of stock');
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(await scratch.state(dead)).toBeUndefined();
    expect(app.log.text('error')).toBe('');
  });

  test('and is the reply, of an Observable its last value, or all of them to who asks for all', async () => {
    class Pricing {
      @Consume(queue)
      quote(): void {
        throw new Error('out of stock');
      }
    }
    await using app = await boot(
      Pricing,
      filter(() => of('sorry', 'really')),
    );
    const rpc = app.get(AmqpRpcClient);
    expect(await rpc.requestToQueue(queue, 1)).toBe('really');
    expect(await lastValueFrom(rpc.request$('', queue, 1).pipe(toArray()))).toEqual(['sorry', 'really']);
  });
});

describe('a filter that fails in the end', () => {
  test.each(FORMS)('of %s is asked once for each failure, and its error is the outcome', async (_what, handler) => {
    const wraps = filter((error) => throwError(() => new Error(`from the filter: ${error.message}`)));
    await using app = await boot(handler(), wraps);
    await scratch.sendJson(queue, 1);
    const { properties } = await scratch.take(dead);
    expect(properties.headers).toMatchObject({ 'x-nest-amqp-error-message': 'from the filter: out of stock' });
    await app.close();
    expect(caught.all).toEqual(['out of stock']);
  });

  test('is asked once, also for a requester who wants all values', async () => {
    class Pricing {
      @Consume(queue)
      quote(): Observable<never> {
        return throwError(() => new Error('out of stock'));
      }
    }
    const wraps = filter((error) => throwError(() => new Error(`from the filter: ${error.message}`)));
    await using app = await boot(Pricing, wraps);
    const request = app.get(AmqpRpcClient).request$('', queue, 1);
    expect(await failure(lastValueFrom(request))).toMatchObject({
      remote: { message: 'from the filter: out of stock' },
    });
    expect(caught.all).toEqual(['out of stock']);
  });
});

describe('a filter that breaks', () => {
  /** As one that knows HTTP only. */
  const broken = (): Type<ExceptionFilter> =>
    filter(() => {
      throw new TypeError('response.status is not a function');
    });

  test('leaves RejectDelivery what it is', async () => {
    class Billing {
      @Consume(queue, { retry: { delays: ['1h'] } })
      charge(): void {
        throw new RejectDelivery('no such customer');
      }
    }
    await using app = await boot(Billing, broken());
    await scratch.sendJson(queue, 1);
    const { properties } = await scratch.take(dead);
    expect(properties.headers).toMatchObject({
      'x-nest-amqp-error-class': 'RejectDelivery',
      'x-nest-amqp-attempts': 1,
    });
    const told = await app.log.next('error', 'A filter of Billing.charge failed');
    expect(told).toContain('TypeError: response.status is not a function');
  });

  test.each<[what: string, thrown: () => Error]>([
    ['RequeueDelivery', () => new RequeueDelivery()],
    ['RetryDelivery', () => new RetryDelivery({ after: 1 })],
  ])('leaves %s what it is', async (_what, thrown) => {
    let calls = 0;
    class Billing {
      @Consume(queue)
      charge(): void {
        calls += 1;
        if (calls === 1) throw thrown();
        caught.push('again');
      }
    }
    await using app = await boot(Billing, broken());
    await scratch.sendJson(queue, 1);
    await caught.next('the next time', (what) => what === 'again');
    await app.close();
    expect(await scratch.state(dead)).toBeUndefined();
  });

  test('leaves PartialBatchError what it is', async () => {
    class Billing {
      @Consume(queue, { batch: { size: 2, maxWait: '10m' } })
      charge(_payloads: unknown, [first]: readonly Delivery[]): void {
        if (first !== undefined) throw new PartialBatchError(new Map([[first, new Error('out of stock')]]));
      }
    }
    await using app = await boot(Billing, broken());
    await scratch.sendJson(queue, 1);
    await scratch.sendJson(queue, 2);
    const { body, properties } = await scratch.take(dead);
    expect(body.toString()).toBe('1');
    expect(properties.headers).toMatchObject({ 'x-nest-amqp-error-message': 'out of stock' });
    await app.close();
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
  });

  test('may say another outcome', async () => {
    class Billing {
      @Consume(queue)
      charge(): void {
        throw new RequeueDelivery();
      }
    }
    const gives = filter(() => {
      throw new RejectDelivery('given up');
    });
    await using _app = await boot(Billing, gives);
    await scratch.sendJson(queue, 1);
    expect((await scratch.take(dead)).properties.headers).toMatchObject({ 'x-nest-amqp-error-message': 'given up' });
  });

  test('over any other error hides it neither from the log nor from the dead letter', async () => {
    class Billing {
      @Consume(queue)
      charge(): void {
        throw new RangeError('over the limit');
      }
    }
    await using app = await boot(Billing, broken());
    await scratch.sendJson(queue, 1);
    const { properties } = await scratch.take(dead);
    expect(properties.headers).toMatchObject({
      'x-nest-amqp-error-message': 'response.status is not a function',
      'x-nest-amqp-error-stack': expect.stringContaining('caused by: RangeError: over the limit'),
    });
    await app.close();
    expect(app.log.text('error')).toContain('caused by: RangeError: over the limit');
  });
});
