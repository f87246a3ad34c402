/** Handlers, dependencies and enhancers that are request-scoped, transient or durable: made for each delivery. */
import {
  type ArgumentsHost,
  type CallHandler,
  type CanActivate,
  Catch,
  Controller,
  type ExceptionFilter,
  type ExecutionContext,
  Inject,
  Injectable,
  Module,
  type NestInterceptor,
  type PipeTransform,
  Scope,
  UseFilters,
  UseGuards,
  UseInterceptors,
  UsePipes,
} from '@nestjs/common';
import {
  APP_GUARD,
  APP_INTERCEPTOR,
  type ContextId,
  ContextIdFactory,
  type ContextIdStrategy,
  type HostComponentInfo,
  ModuleRef,
  REQUEST,
} from '@nestjs/core';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AmqpDelivery, AmqpModule, type AmqpModuleOptions, Consume, Delivery, Payload } from 'nest-amqp';
import type { Observable } from 'rxjs';

import { brokerUrl } from '../support/broker.mjs';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
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
  PerRequest.made = 0;
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const amqp = (options: AmqpModuleOptions = {}): ReturnType<typeof AmqpModule.forRoot> =>
  AmqpModule.forRoot({ url: brokerUrl, consumers: { deadLetter: { by: 'broker' } }, ...options });

/** Numbered as it is made. */
@Injectable({ scope: Scope.REQUEST })
class PerRequest {
  static made = 0;
  readonly number = (PerRequest.made += 1);

  constructor(@Inject(REQUEST) readonly request: Delivery<{ id: number }>) {}
}

/** Sends two, and takes what happens for each; in order, because the prefetch of the handler is 1. */
async function two(): Promise<unknown[]> {
  await scratch.sendJson(queue, { id: 1 });
  await scratch.sendJson(queue, { id: 2 });
  return [await events.next(), await events.next()];
}

describe('for each delivery there is an instance of its own', () => {
  test('of a request-scoped class, injected with what is request-scoped, of which REQUEST is the delivery', async () => {
    @Injectable({ scope: Scope.REQUEST })
    class Billing {
      constructor(
        readonly perRequest: PerRequest,
        @Inject(REQUEST) readonly request: unknown,
      ) {}

      @Consume(queue, { prefetch: 1 })
      charge(@AmqpDelivery() delivery: Delivery, @Payload('id') id: number): void {
        const { number, request } = this.perRequest;
        events.push([id, number, request.payload.id, request === delivery, this.request === delivery]);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing, PerRequest] });
    expect(await two()).toEqual([
      [1, 1, 1, true, true],
      [2, 2, 2, true, true],
    ]);
    expect(PerRequest.made).toBe(2);
  });

  test('of a class that depends, however deep, on what is request-scoped', async () => {
    @Injectable()
    class Middle {
      constructor(readonly perRequest: PerRequest) {}
    }
    @Injectable()
    class Billing {
      @Inject() readonly middle!: Middle;

      @Consume(queue, { prefetch: 1 })
      charge(): void {
        events.push([this.middle.perRequest.number, this.middle.perRequest.request.payload.id]);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing, Middle, PerRequest] });
    expect(await two()).toEqual([
      [1, 1],
      [2, 2],
    ]);
  });

  test('of a request-scoped controller', async () => {
    @Controller({ path: 'orders', scope: Scope.REQUEST })
    class Orders {
      constructor(readonly perRequest: PerRequest) {}

      @Consume(queue, { prefetch: 1 })
      charge(payload: { id: number }): void {
        events.push([payload.id, this.perRequest.number]);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], controllers: [Orders], providers: [PerRequest] });
    expect(await two()).toEqual([
      [1, 1],
      [2, 2],
    ]);
  });

  test('of a transient class', async () => {
    let made = 0;
    @Injectable({ scope: Scope.TRANSIENT })
    class Billing {
      readonly number = (made += 1);

      @Consume(queue, { prefetch: 1 })
      charge(): void {
        events.push(this.number);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing] });
    const [first, second] = await two();
    expect(second).not.toBe(first);
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
  });

  test('of a class under another token, in a module of its own', async () => {
    @Injectable({ scope: Scope.REQUEST })
    class Billing {
      constructor(readonly perRequest: PerRequest) {}

      @Consume(queue, { prefetch: 1 })
      charge(): void {
        events.push(this.perRequest.number);
      }
    }
    @Module({ providers: [PerRequest, { provide: 'BILLING', useClass: Billing }] })
    class FeatureModule {}
    await using _app = await TestApp.boot({ imports: [amqp(), FeatureModule] });
    expect(await two()).toEqual([1, 2]);
  });

  test('and what is resolved by hand in its context is the same', async () => {
    @Injectable({ scope: Scope.REQUEST })
    class Billing {
      constructor(
        readonly perRequest: PerRequest,
        readonly moduleRef: ModuleRef,
      ) {}

      @Consume(queue)
      async charge(@AmqpDelivery() delivery: Delivery): Promise<void> {
        const contextId = ContextIdFactory.getByRequest(delivery);
        events.push((await this.moduleRef.resolve(PerRequest, contextId)) === this.perRequest);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing, PerRequest] });
    await scratch.sendJson(queue, { id: 1 });
    expect(await events.next()).toBe(true);
  });

  test('and deliveries that are handled side by side do not share it', async () => {
    @Injectable({ scope: Scope.REQUEST })
    class Billing {
      constructor(readonly perRequest: PerRequest) {}

      @Consume(queue)
      async charge(@AmqpDelivery() delivery: Delivery): Promise<void> {
        await Promise.resolve();
        events.push(this.perRequest.request === delivery);
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing, PerRequest] });
    for (let id = 0; id < 20; id += 1) await scratch.sendJson(queue, { id });
    for (let id = 0; id < 20; id += 1) expect(await events.next()).toBe(true);
    expect(PerRequest.made).toBe(20);
  });
});

test('a class whose dependencies exist once is made once', async () => {
  let made = 0;
  @Injectable()
  class Billing {
    constructor() {
      made += 1;
    }

    @Consume(queue)
    charge(): void {
      events.push(made);
    }
  }
  await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing, PerRequest] });
  expect(await two()).toEqual([1, 1]);
});

describe('a dependency that cannot be made', () => {
  @Injectable({ scope: Scope.REQUEST })
  class Breaks {
    constructor() {
      throw new Error('no tenant');
    }
  }

  test('has the message rejected and its error told', async () => {
    @Injectable()
    class Billing {
      constructor(readonly breaks: Breaks) {}

      @Consume(queue)
      charge(): void {
        events.push('handler');
      }
    }
    await using app = await TestApp.boot({ imports: [amqp()], providers: [Billing, Breaks] });
    await scratch.sendJson(queue, 1);
    await scratch.take(dead);
    expect(await app.log.next('error', 'Billing.charge')).toContain('no tenant');
    expect(events.all).toEqual([]);
  });

  test('is told to the filters of the handler', async () => {
    @Catch()
    class Swallows implements ExceptionFilter {
      catch(error: Error, host: ArgumentsHost): string {
        events.push([error.message, host.getType<string>(), host.getArgs<unknown[]>()[0]]);
        return 'handled';
      }
    }
    @Injectable()
    @UseFilters(Swallows)
    class Billing {
      constructor(readonly breaks: Breaks) {}

      @Consume(queue)
      charge(): void {
        events.push('handler');
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing, Breaks] });
    await scratch.sendJson(queue, 1);
    expect(await events.next()).toEqual(['no tenant', 'amqp', 1]);
  });
});

describe('guards, pipes, interceptors and filters that are request-scoped', () => {
  @Injectable({ scope: Scope.REQUEST })
  class ScopedGuard implements CanActivate {
    constructor(readonly perRequest: PerRequest) {}

    canActivate(context: ExecutionContext): boolean {
      const [, delivery] = context.getArgs<[unknown, Delivery]>();
      events.push(['guard', this.perRequest.request === delivery]);
      return this.perRequest.request.payload.id > 0;
    }
  }
  @Injectable({ scope: Scope.REQUEST })
  class ScopedInterceptor implements NestInterceptor {
    constructor(readonly perRequest: PerRequest) {}

    intercept(_context: ExecutionContext, next: CallHandler): Observable<unknown> {
      events.push(['interceptor', this.perRequest.request.payload.id]);
      return next.handle();
    }
  }
  @Injectable({ scope: Scope.REQUEST })
  class ScopedPipe implements PipeTransform {
    constructor(readonly perRequest: PerRequest) {}

    transform(value: unknown): unknown {
      events.push(['pipe', this.perRequest.request.payload.id]);
      return value;
    }
  }
  @Catch()
  @Injectable({ scope: Scope.REQUEST })
  class ScopedFilter implements ExceptionFilter {
    constructor(readonly perRequest: PerRequest) {}

    catch(error: Error): string {
      events.push(['filter', error.message, this.perRequest.request.payload.id]);
      return 'handled';
    }
  }

  test('on the class and the method see the delivery, the same dependencies as the handler', async () => {
    @UseGuards(ScopedGuard)
    @UseInterceptors(ScopedInterceptor)
    class Billing {
      @Consume(queue)
      @UseFilters(ScopedFilter)
      @UsePipes(ScopedPipe)
      charge(@Payload() _payload: unknown): void {
        throw new Error('out of stock');
      }
    }
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing, PerRequest] });
    await scratch.sendJson(queue, { id: 7 });
    const seen = [];
    for (let count = 0; count < 4; count += 1) seen.push(await events.next());
    expect(seen).toEqual([
      ['guard', true],
      ['interceptor', 7],
      ['pipe', 7],
      ['filter', 'out of stock', 7],
    ]);
    expect(PerRequest.made).toBe(1);
  });

  test('for the whole application run for what exists once too, which is not made anew', async () => {
    let made = 0;
    @Injectable()
    class Billing {
      constructor() {
        made += 1;
      }

      @Consume(queue, { prefetch: 1 })
      charge(payload: { id: number }): void {
        events.push(['handler', payload.id]);
      }
    }
    await using _app = await TestApp.boot({
      imports: [amqp()],
      providers: [
        Billing,
        PerRequest,
        { provide: APP_GUARD, useClass: ScopedGuard, scope: Scope.REQUEST },
        { provide: APP_INTERCEPTOR, useClass: ScopedInterceptor, scope: Scope.REQUEST },
      ],
    });
    await scratch.sendJson(queue, { id: 0 });
    await scratch.take(dead);
    await scratch.sendJson(queue, { id: 2 });
    const seen = [];
    for (let count = 0; count < 4; count += 1) seen.push(await events.next());
    expect(seen).toEqual([
      ['guard', true],
      ['guard', true],
      ['interceptor', 2],
      ['handler', 2],
    ]);
    expect(made).toBe(1);
  });

  test.each(['a factory', 'a value', 'a module'])('for the whole application run for %s', async (kind) => {
    class Billing {
      @Consume(queue)
      charge(): void {
        events.push('handler');
      }
    }
    @Module({})
    class FeatureModule {
      @Consume(queue)
      charge(): void {
        events.push('handler');
      }
    }
    const guard = { provide: APP_GUARD, useClass: ScopedGuard, scope: Scope.REQUEST };
    const handler = {
      'a factory': { provide: Billing, useFactory: () => new Billing() },
      'a value': { provide: Billing, useValue: new Billing() },
    }[kind];
    await using _app = await TestApp.boot({
      imports: [amqp(), ...(handler === undefined ? [FeatureModule] : [])],
      providers: [PerRequest, guard, ...(handler === undefined ? [] : [handler])],
    });
    await scratch.sendJson(queue, { id: 0 });
    await scratch.take(dead);
    expect(events.all).toEqual([['guard', true]]);
  });

  test('for the whole application are kept away by globalEnhancers: false', async () => {
    class Billing {
      @Consume(queue)
      charge(): void {
        events.push('handler');
      }
    }
    await using _app = await TestApp.boot({
      imports: [amqp({ consumers: { globalEnhancers: false } })],
      providers: [Billing, PerRequest, { provide: APP_GUARD, useClass: ScopedGuard, scope: Scope.REQUEST }],
    });
    await scratch.sendJson(queue, { id: 0 });
    expect(await events.next()).toBe('handler');
    expect(PerRequest.made).toBe(0);
  });

  test('a transient guard has its dependencies, on the method and for the whole application', async () => {
    @Injectable()
    class Rules {
      readonly name = 'rules';
    }
    @Injectable({ scope: Scope.TRANSIENT })
    class TransientGuard implements CanActivate {
      constructor(readonly rules: Rules) {}

      canActivate(): boolean {
        events.push(this.rules.name);
        return true;
      }
    }
    class Billing {
      @Consume(queue)
      @UseGuards(TransientGuard)
      charge(): void {
        events.push('handler');
      }
    }
    await using _app = await TestApp.boot({
      imports: [amqp()],
      providers: [Billing, Rules, { provide: APP_GUARD, useClass: TransientGuard, scope: Scope.TRANSIENT }],
    });
    await scratch.sendJson(queue, 1);
    expect([await events.next(), await events.next(), await events.next()]).toEqual(['rules', 'rules', 'handler']);
  });
});

test('durable providers are shared by the deliveries of one tenant', async () => {
  class ByTenant implements ContextIdStrategy {
    readonly #tenants = new Map<unknown, ContextId>();

    attach(
      contextId: ContextId,
      request: Delivery,
    ): { resolve: (info: HostComponentInfo) => ContextId; payload: object } {
      const tenant = request.headers['x-tenant'];
      const shared = this.#tenants.get(tenant) ?? ContextIdFactory.create();
      this.#tenants.set(tenant, shared);
      return { resolve: (info) => (info.isTreeDurable ? shared : contextId), payload: { tenant } };
    }
  }
  @Injectable({ scope: Scope.REQUEST, durable: true })
  class Database {
    static made = 0;
    readonly number = (Database.made += 1);

    constructor(@Inject(REQUEST) readonly context: { tenant: string }) {}
  }
  @Injectable()
  class Billing {
    constructor(readonly database: Database) {}

    @Consume(queue, { prefetch: 1 })
    charge(): void {
      events.push([this.database.context.tenant, this.database.number]);
    }
  }
  ContextIdFactory.apply(new ByTenant());
  try {
    await using _app = await TestApp.boot({ imports: [amqp()], providers: [Billing, Database] });
    for (const tenant of ['a', 'b', 'a']) await scratch.send(queue, '1', { headers: { 'x-tenant': tenant } });
    expect([await events.next(), await events.next(), await events.next()]).toEqual([
      ['a', 1],
      ['b', 2],
      ['a', 1],
    ]);
  } finally {
    ContextIdFactory.apply(undefined as unknown as ContextIdStrategy);
  }
});
