/** Guards, pipes, interceptors and filters around a handler, and what the broker hears when one of them says no. */
import { once } from 'node:events';
import {
  type ArgumentMetadata,
  type ArgumentsHost,
  BadRequestException,
  type CallHandler,
  type CanActivate,
  Catch,
  Controller,
  type ExceptionFilter,
  type ExecutionContext,
  Injectable,
  type NestInterceptor,
  type PipeTransform,
  UseFilters,
  UseGuards,
  UseInterceptors,
  UsePipes,
} from '@nestjs/common';
import { APP_FILTER, APP_GUARD, APP_INTERCEPTOR, APP_PIPE } from '@nestjs/core';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AMQP_CONTEXT_TYPE,
  AmqpConnection,
  AmqpModule,
  Consume,
  type ConsumeHandlerOptions,
  type ConsumerDefaults,
  Delivery,
  Payload,
  RejectDelivery,
} from 'nest-amqp';
import { EMPTY, Observable, concat, map, of, throwError } from 'rxjs';

import { brokerUrl } from '../support/broker.mjs';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox } from '../support/waits.js';

let scratch: Scratch;
let queue: string;
let dead: string;
/** What happened, in order; each test has its own. */
let events: Inbox<unknown>;

beforeEach(async () => {
  scratch = await Scratch.open();
  ({ queue, dead } = await scratch.queueWithDeadLetters());
  events = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

/** The queues here have a dead-letter exchange, and are in no topology. */
const amqp = (): ReturnType<typeof AmqpModule.forRoot> =>
  AmqpModule.forRoot({ url: brokerUrl, consumers: { deadLetter: { by: 'broker' } } });

class Order {
  id!: number;
}

@Injectable()
class Denies implements CanActivate {
  canActivate(): boolean {
    events.push('guard');
    return false;
  }
}

@Injectable()
class Notes implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const [payload, delivery] = context.getArgs<[unknown, Delivery]>();
    events.push({
      type: context.getType<string>(),
      class: context.getClass().name,
      handler: context.getHandler().name,
      payload,
      isDelivery: delivery instanceof Delivery,
    });
    return next.handle().pipe(
      map((result: unknown) => {
        events.push('after');
        return result;
      }),
    );
  }
}

/** Like Nest's ValidationPipe: told the class of the parameter, it makes one of it or refuses. */
@Injectable()
class ValidatesOrders implements PipeTransform {
  transform(value: unknown, { type, metatype }: ArgumentMetadata): unknown {
    if (metatype !== Order) return value;
    events.push(type);
    if (typeof (value as { id?: unknown }).id !== 'number') throw new BadRequestException('id has to be a number');
    return Object.assign(new Order(), value);
  }
}

@Catch()
class Swallows implements ExceptionFilter {
  catch(error: unknown, host: ArgumentsHost): string {
    events.push(`${host.getType<string>()} ${(error as Error).message}`);
    return 'handled';
  }
}

@Catch()
class OnlyLooks implements ExceptionFilter {
  catch(): void {
    events.push('filter');
  }
}

@Catch(BadRequestException)
class Rethrows implements ExceptionFilter {
  catch(error: BadRequestException): never {
    events.push('filter');
    throw new Error(`refused: ${error.message}`);
  }
}

/** It was rejected, once: it lies in the dead-letter queue, and the queue has a consumer and no message. */
async function isDeadLettered(): Promise<void> {
  await scratch.take(dead);
  expect(await scratch.state(queue)).toMatchObject({ messageCount: 0, consumerCount: 1 });
  expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
}

describe('a guard that denies', () => {
  const forms: readonly (readonly [where: string, boot: () => Promise<TestApp>])[] = [
    [
      'on the method',
      async () => {
        class Billing {
          @Consume(queue)
          @UseGuards(Denies)
          charge(): void {
            events.push('handler');
          }
        }
        return await TestApp.boot({ imports: [amqp()], providers: [Billing] });
      },
    ],
    [
      'on the class',
      async () => {
        @UseGuards(Denies)
        class Billing {
          @Consume(queue)
          charge(): void {
            events.push('handler');
          }
        }
        return await TestApp.boot({ imports: [amqp()], providers: [Billing] });
      },
    ],
    [
      'as an instance',
      async () => {
        class Billing {
          @Consume(queue)
          @UseGuards(new Denies())
          charge(): void {
            events.push('handler');
          }
        }
        return await TestApp.boot({ imports: [amqp()], providers: [Billing] });
      },
    ],
    [
      'on a controller',
      async () => {
        @Controller('orders')
        @UseGuards(Denies)
        class Orders {
          @Consume(queue)
          charge(): void {
            events.push('handler');
          }
        }
        return await TestApp.boot({ imports: [amqp()], controllers: [Orders] });
      },
    ],
    [
      'on a method of a controller',
      async () => {
        @Controller('orders')
        class Orders {
          @Consume(queue)
          @UseGuards(Denies)
          charge(): void {
            events.push('handler');
          }
        }
        return await TestApp.boot({ imports: [amqp()], controllers: [Orders] });
      },
    ],
    [
      // Of what a factory provides, Nest does not know the class, and does not make its guards.
      'as an instance, on what a factory provides',
      async () => {
        class Billing {
          @Consume(queue)
          @UseGuards(new Denies())
          charge(): void {
            events.push('handler');
          }
        }
        return await TestApp.boot({
          imports: [amqp()],
          providers: [{ provide: 'BILLING', useFactory: () => new Billing() }],
        });
      },
    ],
    [
      'for the whole application',
      async () => {
        class Billing {
          @Consume(queue)
          charge(): void {
            events.push('handler');
          }
        }
        return await TestApp.boot({
          imports: [amqp()],
          providers: [Billing, { provide: APP_GUARD, useClass: Denies }],
        });
      },
    ],
  ];
  test.each(forms)('%s has the message dead-lettered, once, and the handler does not run', async (_where, boot) => {
    await using app = await boot();
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    expect(events.all).toEqual(['guard']);
    expect(app.log.text('error')).toContain('Forbidden');
  });
});

describe('a pipe', () => {
  test('for the whole application gets the payload as a body, with the class of the parameter', async () => {
    class Billing {
      @Consume(queue)
      charge(@Payload() order: Order): void {
        events.push(order);
      }
    }
    await using _app = await TestApp.boot({
      imports: [amqp()],
      providers: [Billing, { provide: APP_PIPE, useClass: ValidatesOrders }],
    });
    await scratch.sendJson(queue, { id: 7 });
    expect(await events.next()).toBe('body');
    const order = await events.next();
    expect(order).toBeInstanceOf(Order);
    expect(order).toEqual({ id: 7 });
  });

  test('applies to the payload of a method without parameter decorators too, and to nothing else', async () => {
    class Billing {
      @Consume(queue)
      @UsePipes(ValidatesOrders)
      charge(order: Order, delivery: Delivery): void {
        events.push([order instanceof Order, delivery instanceof Delivery]);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, { id: 7 });
    expect([await events.next(), await events.next()]).toEqual(['body', [true, true]]);
    await scratch.sendJson(queue, { id: 'seven' });
    await isDeadLettered();
    expect(app.log.text('error')).toContain('id has to be a number');
  });

  test('that refuses has the message dead-lettered', async () => {
    class Billing {
      @Consume(queue)
      @UsePipes(ValidatesOrders)
      charge(@Payload() order: Order): void {
        events.push(order);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, { id: 'seven' });
    await isDeadLettered();
    expect(events.all).toEqual(['body']);
    expect(app.log.text('error')).toContain('id has to be a number');
  });

  test('given as a class to @Payload is injected what it asks for', async () => {
    @Injectable()
    class Rate {
      readonly factor = 3;
    }
    @Injectable()
    class Converted implements PipeTransform<number, number> {
      constructor(readonly rate: Rate) {}

      transform(value: number): number {
        return value * this.rate.factor;
      }
    }
    class Billing {
      @Consume(queue)
      charge(@Payload('price', Converted) price: number): void {
        events.push(price);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Rate, Billing] });
    await scratch.sendJson(queue, { price: 7 });
    expect(await events.next()).toBe(21);
  });
});

describe('an interceptor', () => {
  test.each([
    ['on the class', false],
    ['for the whole application', true],
  ])('%s sees the context of a delivery and what the handler returns', async (_where, everywhere) => {
    class Plain {
      @Consume(queue)
      charge(): string {
        events.push('handler');
        return 'charged';
      }
    }
    @UseInterceptors(Notes)
    class Billing {
      @Consume(queue)
      charge(): string {
        events.push('handler');
        return 'charged';
      }
    }
    await using app = await TestApp.boot({
      imports: [amqp()],
      providers: everywhere ? [Plain, { provide: APP_INTERCEPTOR, useClass: Notes }] : [Billing],
    });
    await scratch.sendJson(queue, { id: 7 });
    expect(await events.next()).toEqual({
      type: AMQP_CONTEXT_TYPE,
      class: everywhere ? 'Plain' : 'Billing',
      handler: 'charge',
      payload: { id: 7 },
      isDelivery: true,
    });
    expect(await events.next()).toBe('handler');
    expect(await events.next()).toBe('after');
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
  });
});

describe('an error', () => {
  test.each<[what: string, thrown: () => Error, hasFrames: boolean]>([
    ['that nobody expects is logged once, with where it was thrown', () => new Error('out of stock'), true],
    [
      'that says what is to become of the message is logged once, in a line',
      () => new RejectDelivery('out of stock'),
      false,
    ],
    ['of HTTP is logged once, in a line', () => new BadRequestException('out of stock'), false],
  ])('%s', async (_what, thrown, hasFrames) => {
    class Billing {
      @Consume(queue)
      charge(): void {
        throw thrown();
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    await app.close();
    const lines = app.log.lines.all.filter(({ text }) => text.includes('out of stock'));
    expect(lines).toHaveLength(1);
    expect(lines[0]?.text).toContain('Billing.charge');
    expect(/\n {4}at .*pipeline\.test\.ts/.test(lines[0]?.text ?? '')).toBe(hasFrames);
  });
});

describe('a filter', () => {
  test.each([
    ['on the method', false],
    ['for the whole application', true],
  ])('%s that returns something has handled the error: the message is acknowledged', async (_where, everywhere) => {
    class Plain {
      @Consume(queue)
      charge(): void {
        throw new Error('out of stock');
      }
    }
    class Billing {
      @Consume(queue)
      @UseFilters(Swallows)
      charge(): void {
        throw new Error('out of stock');
      }
    }
    await using app = await TestApp.boot({
      imports: [amqp()],
      providers: everywhere ? [Plain, { provide: APP_FILTER, useClass: Swallows }] : [Billing],
    });
    await scratch.sendJson(queue, 1);
    expect(await events.next()).toBe('amqp out of stock');
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
    expect(app.log.text('error')).toBe('');
  });

  test('that throws has the message rejected, and its error told', async () => {
    class Billing {
      @Consume(queue)
      @UseFilters(Rethrows)
      charge(): void {
        throw new BadRequestException('no such item');
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    expect(app.log.text('error')).toContain('refused: no such item');
  });

  test('that returns nothing has not: the message is rejected, as Nest has it for all but HTTP', async () => {
    class Billing {
      @Consume(queue)
      @UseFilters(OnlyLooks)
      charge(): void {
        throw new RangeError('over the limit');
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    expect(events.all).toEqual(['filter']);
    expect(app.log.text('error')).toContain('over the limit');
  });

  test('for another kind of error leaves the outcome as it is', async () => {
    class Billing {
      @Consume(queue)
      @UseFilters(Rethrows)
      charge(): void {
        throw new RangeError('over the limit');
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    expect(events.all).toEqual([]);
    expect(app.log.text('error')).toContain('RangeError: over the limit');
  });
});

describe('a handler that returns an Observable', () => {
  test('is done when the Observable is: completing acknowledges', async () => {
    class Billing {
      @Consume(queue)
      charge(payload: unknown): Observable<unknown> {
        events.push(payload);
        return payload === 'nothing' ? EMPTY : of(1, 2);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 'two values');
    await scratch.sendJson(queue, 'nothing');
    await events.next();
    await events.next();
    await app.close();
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
  });

  test('that fails has the message rejected', async () => {
    class Billing {
      @Consume(queue)
      charge(): Observable<unknown> {
        return concat(
          of(1),
          throwError(() => new Error('halfway')),
        );
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    expect(app.log.text('error')).toContain('halfway');
  });

  /** It has one value and no end; tells when it is subscribed to, and when it is not any more. */
  const endless = (): Observable<unknown> =>
    new Observable((subscriber) => {
      events.push('subscribed');
      subscriber.next(1);
      return () => {
        events.push('unsubscribed');
      };
    });

  test('that takes longer than the timeout is unsubscribed from, and its filters hear nothing', async () => {
    class Billing {
      @Consume(queue, { timeout: 50 })
      @UseFilters(Swallows)
      charge(): Observable<unknown> {
        return endless();
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    expect(app.log.text('error')).toContain('longer than its timeout of 50 ms');
    expect(await events.next()).toBe('subscribed');
    expect(await events.next()).toBe('unsubscribed');
    await app.close();
    expect(events.all).toHaveLength(2);
  });

  test('after its time was up does not begin', async () => {
    class Billing {
      @Consume(queue, { timeout: 50 })
      async charge(_payload: unknown, { signal }: Delivery): Promise<Observable<unknown>> {
        await once(signal, 'abort');
        events.push('late');
        return endless();
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    await app.close();
    expect(events.all).toEqual(['late']);
  });

  test('that runs when the shutdown waits no longer is unsubscribed from', async () => {
    class Billing {
      @Consume(queue)
      charge(): Observable<unknown> {
        return endless();
      }
    }
    const imports = [AmqpModule.forRoot({ url: brokerUrl, shutdownTimeout: 50 })];
    await using app = await TestApp.boot({ imports, providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await events.next();
    await app.close();
    expect(events.all).toEqual(['subscribed', 'unsubscribed']);
    expect(await scratch.drain(queue)).toEqual(['1']);
  });

  test.each([
    ['is unsubscribed from, and begins again with the next delivery', false],
    ['goes on where the message was acknowledged before, because nobody else does its work', true],
  ])('that runs when the channel is lost %s', async (_what, isAcknowledged) => {
    const line = new CuttableLine();
    class Billing {
      @Consume(queue)
      charge(_payload: unknown, delivery: Delivery): Observable<unknown> {
        if (isAcknowledged) delivery.ack();
        delivery.signal.addEventListener('abort', () => {
          events.push('signal');
        });
        return endless();
      }
    }
    const connection = { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 5 } };
    const imports = [AmqpModule.forRoot({ url: brokerUrl, connection, shutdownTimeout: 50 })];
    await using app = await TestApp.boot({ imports, providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await events.next();
    // With its answer the broker has read the acknowledgement too.
    await (await app.get(AmqpConnection).opened()).channel();
    line.cut();
    expect(await events.next()).toBe('signal');
    await scratch.sendJson(queue, 2);
    await events.next('the next one', (event) => event === 'subscribed');
    expect(events.all.slice(0, 4)).toEqual(
      isAcknowledged ? ['subscribed', 'signal', 'subscribed'] : ['subscribed', 'signal', 'unsubscribed', 'subscribed'],
    );
    await app.close();
    await scratch.drain(queue);
  });

  test('or an async iterable: that is returned when its time is up', async () => {
    class Billing {
      @Consume(queue, { timeout: 50 })
      charge(): AsyncIterable<unknown> {
        return {
          [Symbol.asyncIterator]: () => ({
            next: () => new Promise(() => undefined),
            return: () => {
              events.push('returned');
              return Promise.resolve({ done: true, value: undefined });
            },
          }),
        };
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    expect(await events.next()).toBe('returned');
    await app.close();
  });
});

describe('global guards, pipes, interceptors and filters that know HTTP only', () => {
  /** As many applications have one: it reads what only an HTTP request has. */
  @Injectable()
  class NeedsHttp implements CanActivate, PipeTransform {
    canActivate(context: ExecutionContext): boolean {
      return context.switchToHttp().getResponse<{ locals: { user?: string } }>().locals.user !== undefined;
    }

    transform(): never {
      throw new BadRequestException('no query');
    }
  }
  class Billing {
    charge(@Payload() payload: unknown): void {
      events.push(payload);
    }
  }
  const http = [
    { provide: APP_GUARD, useClass: NeedsHttp },
    { provide: APP_PIPE, useClass: NeedsHttp },
    { provide: APP_INTERCEPTOR, useClass: Notes },
    { provide: APP_FILTER, useClass: Swallows },
  ];

  /** One handler, with these options and module defaults, on an application with all of them. */
  async function boot(options: ConsumeHandlerOptions, consumers: ConsumerDefaults = {}): Promise<TestApp> {
    class Orders extends Billing {
      @Consume(queue, options)
      override charge(@Payload() payload: unknown): void {
        super.charge(payload);
      }
    }
    return await TestApp.boot({
      imports: [AmqpModule.forRoot({ url: brokerUrl, consumers })],
      providers: [Orders, ...http],
    });
  }

  test('apply unless they are kept away', async () => {
    await using _app = await boot({});
    await scratch.sendJson(queue, 1);
    // The guard, which finds no response, and the filter.
    expect(await events.next()).toMatch(/^amqp /);
  });

  test.each<[where: string, options: ConsumeHandlerOptions, consumers: ConsumerDefaults]>([
    ['the handler', { globalEnhancers: false }, {}],
    ['the defaults of the module', {}, { globalEnhancers: false }],
    ['the handler, kind by kind', { globalEnhancers: { guards: false, pipes: false, interceptors: false } }, {}],
  ])('are kept away by the options of %s', async (_where, options, consumers) => {
    await using _app = await boot(options, consumers);
    await scratch.sendJson(queue, { id: 7 });
    expect(await events.next()).toEqual({ id: 7 });
  });

  test('a handler may ask for them where the module keeps them away, and for some of them only', async () => {
    const globalEnhancers = { guards: false, pipes: false };
    await using _app = await boot({ globalEnhancers }, { globalEnhancers: false });
    await scratch.sendJson(queue, { id: 7 });
    expect(await events.next()).toMatchObject({ class: 'Orders', payload: { id: 7 } });
    expect(await events.next()).toEqual({ id: 7 });
    expect(await events.next()).toBe('after');
  });

  test('what the handler carries itself applies all the same', async () => {
    @UseGuards(Denies)
    class Guarded {
      @Consume(queue, { globalEnhancers: false })
      charge(): void {
        events.push('handler');
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Guarded, ...http] });
    await scratch.sendJson(queue, 1);
    await isDeadLettered();
    expect(events.all).toEqual(['guard']);
  });
});
