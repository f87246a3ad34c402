/** Handlers whose delivery has ended before they have, or before they were called. */
import { once } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import {
  type CanActivate,
  Catch,
  type ExceptionFilter,
  Injectable,
  type OnModuleDestroy,
  type PipeTransform,
  type Provider,
  Scope,
  type Type,
  UseFilters,
  UseGuards,
  UsePipes,
} from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpConnection,
  AmqpDelivery,
  AmqpModule,
  type AmqpModuleOptions,
  AmqpSignal,
  Consume,
  ConsumerRegistry,
  type Delivery,
} from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox } from '../support/waits.js';

let scratch: Scratch;
let queue: string;
let dead: string;
/** What happened, in order; each test has its own. */
let events: Inbox<unknown>;
/** What is slow goes on when it is opened. */
let gate: Gate;

beforeEach(async () => {
  scratch = await Scratch.open();
  queue = await scratch.queue();
  dead = scratch.owns(`${queue}.dead`);
  events = new Inbox();
  gate = new Gate();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

async function boot(options: AmqpModuleOptions, ...providers: Provider[]): Promise<TestApp> {
  return await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl, ...options })], providers });
}

@Injectable()
class SlowGuard implements CanActivate {
  async canActivate(): Promise<boolean> {
    events.push('guard');
    await gate.opened;
    events.push('guarded');
    return true;
  }
}

@Injectable()
class SlowPipe implements PipeTransform {
  async transform(value: unknown): Promise<unknown> {
    events.push('guard');
    await gate.opened;
    events.push('guarded');
    return value;
  }
}

@Catch()
class Swallows implements ExceptionFilter {
  catch(error: Error): string {
    events.push(error.message);
    return 'handled';
  }
}

/** Handlers around which something is slow: they are called when `gate` is opened. */
const SLOW: readonly (readonly [what: string, handler: (timeout?: number) => Provider[]])[] = [
  [
    'a guard',
    (timeout) => {
      class Billing {
        @Consume(queue, timeout === undefined ? {} : { timeout })
        @UseGuards(SlowGuard)
        @UseFilters(Swallows)
        charge(): void {
          events.push('called');
        }
      }
      return [Billing];
    },
  ],
  [
    'a pipe',
    (timeout) => {
      class Billing {
        @Consume(queue, timeout === undefined ? {} : { timeout })
        @UsePipes(SlowPipe)
        @UseFilters(Swallows)
        charge(_payload: unknown): void {
          events.push('called');
        }
      }
      return [Billing];
    },
  ],
  [
    'a guard of batches',
    (timeout) => {
      class Billing {
        @Consume(queue, { batch: { size: 1 }, ...(timeout === undefined ? {} : { timeout }) })
        @UseGuards(SlowGuard)
        @UseFilters(Swallows)
        charge(): void {
          events.push('called');
        }
      }
      return [Billing];
    },
  ],
  [
    'a request-scoped dependency',
    (timeout) => {
      class Session {
        readonly id = 1;
      }
      @Injectable({ scope: Scope.REQUEST })
      class Billing {
        constructor(readonly session: Session) {}

        @Consume(queue, timeout === undefined ? {} : { timeout })
        @UseFilters(Swallows)
        charge(): void {
          events.push('called');
        }
      }
      Reflect.defineMetadata('design:paramtypes', [Session], Billing);
      const slow = {
        provide: Session,
        scope: Scope.REQUEST,
        useFactory: async () => {
          events.push('guard');
          await gate.opened;
          events.push('guarded');
          return new Session();
        },
      };
      return [Billing, slow];
    },
  ],
];

describe('a handler is not called, and its filters hear nothing, where its delivery has ended over', () => {
  test.each(SLOW)('%s: by its timeout', async (_what, handler) => {
    await using app = await boot({}, ...handler(30));
    await scratch.sendJson(queue, 1);
    const { properties } = await scratch.take(dead);
    expect(properties.headers).toMatchObject({ 'x-nest-amqp-error-code': 'HANDLER_TIMEOUT' });
    gate.open();
    await events.next('the end of it', (event) => event === 'guarded');
    await app.close();
    expect(events.all).toEqual(['guard', 'guarded']);
  });

  test.each(SLOW)('%s: by the end of the application', async (_what, handler) => {
    await using app = await boot({ shutdownTimeout: 30 }, ...handler());
    await scratch.sendJson(queue, 1);
    await events.next();
    await app.close();
    gate.open();
    await events.next('the end of it', (event) => event === 'guarded');
    await setImmediate();
    expect(events.all).toEqual(['guard', 'guarded']);
    expect(await scratch.drain(queue)).toEqual(['1']);
    expect(app.log.text('error')).toBe('');
  });
});

test('a handler is called over a lost channel where its delivery was answered before: nobody else does its work', async () => {
  const line = new CuttableLine();
  @Injectable()
  class Acks implements CanActivate {
    async canActivate(context: { getArgByIndex(index: number): Delivery }): Promise<boolean> {
      const delivery = context.getArgByIndex(1);
      delivery.ack();
      events.push(delivery.signal);
      await gate.opened;
      return true;
    }
  }
  class Billing {
    @Consume(queue)
    @UseGuards(Acks)
    charge(): void {
      events.push('called');
    }
  }
  await using app = await boot({ connection: { dial: line.dial, recovery: { initialDelay: 1 } } }, Billing);
  await scratch.sendJson(queue, 1);
  const fired = once((await events.next()) as AbortSignal, 'abort');
  // With its answer the broker has read the acknowledgement too.
  await (await app.get(AmqpConnection).opened()).channel();
  line.cut();
  await fired;
  gate.open();
  expect(await events.next()).toBe('called');
});

describe('a handler that runs on after its timeout', () => {
  /** It uses the database until the gate is opened. */
  const handlers = (isBatch: boolean): Type[] => {
    class Billing implements OnModuleDestroy {
      @Consume(queue, { timeout: 30, ...(isBatch ? { batch: { size: 1 } } : {}) })
      async charge(): Promise<void> {
        events.push('called');
        await gate.opened;
        events.push('done');
      }

      onModuleDestroy(): void {
        events.push('database closed');
      }
    }
    return [Billing];
  };

  test.each([
    ['', false],
    [' with a batch', true],
  ])('is waited for when the application closes%s', async (_what, isBatch) => {
    await using app = await boot({}, ...handlers(isBatch));
    await scratch.sendJson(queue, 1);
    await scratch.take(dead);
    const closed = app.close();
    await scratch.hasConsumers(queue, 0);
    gate.open();
    await closed;
    expect(events.all).toEqual(['called', 'done', 'database closed']);
  });

  test('is waited for no longer than shutdownTimeout, and told of', async () => {
    await using app = await boot({ shutdownTimeout: 30 }, ...handlers(false));
    await scratch.sendJson(queue, 1);
    await scratch.take(dead);
    await app.log.next('error', 'It is in queue');
    await app.close();
    expect(events.all).toEqual(['called', 'database closed']);
    expect(app.log.text('warn')).toMatch(/1 handler of .* longer than their timeout still ran after 30 ms/);
    gate.open();
  });

  test('is waited for by drain(), and makes room for the next', async () => {
    await using app = await boot({ consumers: { concurrency: 1 } }, ...handlers(false));
    await scratch.sendJson(queue, 1);
    await scratch.sendJson(queue, 2);
    for (let count = 0; count < 2; count += 1) await app.log.next('error', 'It is in queue');
    expect(events.all).toEqual(['called', 'called']);
    const registry = app.get(ConsumerRegistry);
    expect((await failure(registry.drain({ timeout: 20 }))).message).toContain('longer than their timeout still run');
    const drained = registry.drain();
    gate.open();
    await drained;
    expect(events.all).toEqual(['called', 'called', 'done', 'done']);
  });
});

test('a handler that fails after the shutdown has waited for it is told of as what it is: nothing is lost', async () => {
  class Billing {
    @Consume(queue, { retry: {} })
    async charge(_payload: unknown, { signal }: Delivery): Promise<void> {
      events.push('called');
      await once(signal, 'abort');
      throw new Error('rolled back');
    }
  }
  await using app = await boot({ shutdownTimeout: 30 }, Billing);
  await scratch.sendJson(queue, 1);
  await events.next();
  await app.close();
  expect(await scratch.drain(queue)).toEqual(['1']);
  expect(app.log.text('warn')).toMatch(/the broker delivers it again\. Error: rolled back/);
  expect(app.log.text('error')).toBe('');
});

test('the signal of a batch fires when all of its deliveries’ signals have', async () => {
  class Billing {
    @Consume(queue, { timeout: 30, batch: { size: 3, maxWait: '10m' } })
    async charge(@AmqpDelivery() deliveries: Delivery[], @AmqpSignal() signal: AbortSignal): Promise<void> {
      deliveries[1]?.ack();
      await new Promise<void>((resolve) => {
        signal.addEventListener('abort', () => {
          events.push(deliveries.map((delivery) => delivery.signal.aborted));
          events.push((signal.reason as { code: string }).code);
          resolve();
        });
      });
    }
  }
  await using _app = await boot({}, Billing);
  for (const id of [1, 2, 3]) await scratch.sendJson(queue, id);
  expect(await events.next()).toEqual([true, true, true]);
  expect(await events.next()).toBe('HANDLER_TIMEOUT');
  await scratch.hasMessages(dead, 2);
});
