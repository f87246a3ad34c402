/** What an application can say of all that it publishes: interceptors, and what is carried from deliveries. */
import { Injectable, Module } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpModule,
  type AmqpModulePublisherOptions,
  AmqpPublisher,
  AmqpRpcClient,
  Consume,
  type OutgoingMessage,
  type PublishInterceptor,
  type PublishMessageOptions,
  type PublishNext,
} from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Gate, Inbox } from '../support/waits.js';

let scratch: Scratch;
let events: Inbox<string>;

beforeEach(async () => {
  scratch = await Scratch.open();
  events = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const amqp = (publisher: AmqpModulePublisherOptions): ReturnType<typeof AmqpModule.forRoot> =>
  AmqpModule.forRoot({ url: brokerUrl, publisher });

function withHeader(message: OutgoingMessage, name: string, value: string): OutgoingMessage {
  return { ...message, options: { ...message.options, headers: { ...message.options.headers, [name]: value } } };
}

describe('publish interceptors', () => {
  @Injectable()
  class TenantService {
    readonly tenant = 'acme';
  }

  @Injectable()
  class TenantInterceptor implements PublishInterceptor {
    constructor(readonly tenants: TenantService) {}

    async intercept(message: OutgoingMessage, next: PublishNext): Promise<void> {
      events.push('tenant');
      await next(withHeader(message, 'x-tenant', this.tenants.tenant));
      events.push('sent');
    }
  }

  @Module({ providers: [TenantService, TenantInterceptor] })
  class TenantModule {}

  const second: PublishInterceptor = {
    intercept: (message, next) => {
      events.push(`second sees ${JSON.stringify(message.options.headers?.['x-tenant'])}`);
      return next(message);
    },
  };

  test('run in their order around every publish, as the instances of the application', async () => {
    const queue = await scratch.queue();
    await using app = await TestApp.boot({
      imports: [amqp({ interceptors: [TenantInterceptor, second] }), TenantModule],
    });
    await app.get(AmqpPublisher).sendToQueue(queue, 1, { headers: { mine: 'too' } });
    expect(events.all).toEqual(['tenant', 'second sees "acme"', 'sent']);
    expect((await scratch.take(queue)).properties.headers).toEqual({ mine: 'too', 'x-tenant': 'acme' });
    await app.get(AmqpPublisher).to('').publish(queue, 2);
    expect((await scratch.take(queue)).properties.headers).toEqual({ 'x-tenant': 'acme' });
  });

  test('that throw reject that publish, and nothing is sent', async () => {
    const queue = await scratch.queue();
    const refusing: PublishInterceptor = {
      intercept: (message, next) => {
        if (message.payload === 'bad') throw new Error('refused');
        return next(message);
      },
    };
    await using app = await TestApp.boot({ imports: [amqp({ interceptors: [refusing] })] });
    const publisher = app.get(AmqpPublisher);
    await expect(publisher.sendToQueue(queue, 'bad')).rejects.toThrow('refused');
    await publisher.sendToQueue(queue, 'good');
    expect(await scratch.drain(queue)).toEqual(['"good"']);
  });

  test.each<[what: string, given: unknown, told: string]>([
    ['a class and no list', TenantInterceptor, 'interceptors of publisher has to be a list'],
    ['null', null, 'interceptors of publisher has to be a list'],
    ['what intercepts nothing', [{}], 'which has no method intercept'],
  ])('that are %s fail the boot', async (_what, given, told) => {
    const interceptors = given as AmqpModulePublisherOptions['interceptors'];
    const error = await failure(TestApp.boot({ imports: [amqp({ interceptors }), TenantModule] }));
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
    expect(error.message).toContain(told);
  });

  test.each<[what: string, bounds: () => PublishMessageOptions]>([
    ['timeout', () => ({ timeout: 50 })],
    ['signal', () => ({ signal: AbortSignal.timeout(50) })],
  ])('end with the %s of a publish, and what comes later is not sent', async (_what, bounds) => {
    const queue = await scratch.queue();
    const gate = new Gate();
    const slow: PublishInterceptor = {
      intercept: async (message, next) => {
        await gate.opened;
        await next(message).catch((error: unknown) => events.push((error as Error).message));
      },
    };
    await using app = await TestApp.boot({ imports: [amqp({ interceptors: [slow] })] });
    const publisher = app.get(AmqpPublisher);
    const error = await failure(publisher.sendToQueue(queue, 1, bounds()));
    expect(error).toMatchObject({ code: 'ABORTED' });
    expect(error.message).toContain('The message was not sent.');
    gate.open();
    expect(await events.next()).toContain('was over before an interceptor called next');
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('that do not end after the message was sent are told apart', async () => {
    const queue = await scratch.queue();
    const controller = new AbortController();
    const endless: PublishInterceptor = {
      intercept: async (message, next) => {
        await next(message);
        controller.abort();
        await new Promise(() => undefined);
      },
    };
    await using app = await TestApp.boot({ imports: [amqp({ interceptors: [endless] })] });
    const error = await failure(app.get(AmqpPublisher).sendToQueue(queue, 1, { signal: controller.signal }));
    expect(error.message).toContain('The broker has the message; an interceptor did not end.');
    expect(await scratch.drain(queue)).toEqual(['1']);
  });

  test('that neither hand on nor throw do not pass for the broker', async () => {
    const forgetful: PublishInterceptor = { intercept: () => Promise.resolve() };
    await using app = await TestApp.boot({ imports: [amqp({ interceptors: [forgetful] })] });
    const error = await failure(app.get(AmqpPublisher).sendToQueue(await scratch.queue(), 1));
    expect(error).toMatchObject({ code: 'NOT_PUBLISHED' });
  });

  test('that hand on nothing are told what next takes', async () => {
    const empty: PublishInterceptor = { intercept: (_message, next) => next(undefined as never) };
    await using app = await TestApp.boot({ imports: [amqp({ interceptors: [empty] })] });
    const error = await failure(app.get(AmqpPublisher).sendToQueue(await scratch.queue(), 1));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(error.message).toContain('called next without a message');
  });

  test('that await nothing have the outcome awaited for them', async () => {
    const hasty: PublishInterceptor = {
      intercept: (message, next) => {
        void next(message);
        return Promise.resolve();
      },
    };
    await using app = await TestApp.boot({ imports: [amqp({ interceptors: [hasty] })] });
    const error = await failure(app.get(AmqpPublisher).sendToQueue('test.no-such-queue', 1));
    expect(error).toMatchObject({ code: 'UNROUTABLE' });
  });

  test('are made where no module provides them', async () => {
    const queue = await scratch.queue();
    class Plain implements PublishInterceptor {
      intercept(message: OutgoingMessage, next: PublishNext): Promise<void> {
        return next(withHeader(message, 'x-plain', 'yes'));
      }
    }
    await using app = await TestApp.boot({ imports: [amqp({ interceptors: [Plain] })] });
    await app.get(AmqpPublisher).sendToQueue(queue, 1);
    expect((await scratch.take(queue)).properties.headers).toEqual({ 'x-plain': 'yes' });
  });

  test('that are none fail the boot', async () => {
    const boot = TestApp.boot({ imports: [amqp({ interceptors: [TenantService as never] })] });
    expect(await failure(boot)).toMatchObject({ code: 'INVALID_OPTION' });
  });
});

describe('what is carried from a delivery', () => {
  async function published(
    carry: AmqpModulePublisherOptions['carry'],
    options: PublishMessageOptions = {},
  ): Promise<{ correlationId: unknown; headers: unknown }> {
    const [queue, next] = [await scratch.queue(), await scratch.queue()];
    @Injectable()
    class Billing {
      constructor(readonly publisher: AmqpPublisher) {}

      @Consume(queue)
      async charge(): Promise<void> {
        await Promise.resolve();
        await this.publisher.sendToQueue(next, 1, options);
      }
    }
    await using app = await TestApp.boot({
      imports: [amqp(carry === undefined ? {} : { carry })],
      providers: [Billing],
    });
    const headers = { 'x-correlation-id': 'h-1', 'x-tenant': 'acme', other: 1 };
    await scratch.sendJson(queue, 1, { correlationId: 'c-1', headers });
    const { properties } = await scratch.take(next);
    // Outside of a handler there is nothing to carry.
    await app.get(AmqpPublisher).sendToQueue(next, 2);
    expect((await scratch.take(next)).properties.correlationId).toBeUndefined();
    return { correlationId: properties.correlationId, headers: properties.headers };
  }

  test('is the correlation id, as property and as header, where it is asked for', async () => {
    expect(await published(true)).toEqual({ correlationId: 'c-1', headers: { 'x-correlation-id': 'h-1' } });
  });

  test('are the headers that are named too', async () => {
    expect(await published(['x-tenant', 'missing'])).toEqual({
      correlationId: 'c-1',
      headers: { 'x-correlation-id': 'h-1', 'x-tenant': 'acme' },
    });
  });

  test('is less than what the publish says itself', async () => {
    const said = { correlationId: 'mine', headers: { 'x-correlation-id': 'h-2', more: 1 } };
    expect(await published(true, said)).toEqual(said);
  });

  test('is nothing where nothing is asked for', async () => {
    expect(await published(false)).toEqual({ correlationId: undefined, headers: undefined });
  });

  test('goes with requests as headers, whose correlation id is their own', async () => {
    const [queue, pricing] = [await scratch.queue(), await scratch.queue()];
    @Injectable()
    class Billing {
      constructor(readonly rpc: AmqpRpcClient) {}

      @Consume(queue)
      async charge(): Promise<void> {
        await this.rpc.requestToQueue(pricing, 1);
      }
    }
    await using app = await TestApp.boot({ imports: [amqp({ carry: true })], providers: [Billing] });
    await scratch.sendJson(queue, 1, { correlationId: 'c-1', headers: { 'x-correlation-id': 'h-1' } });
    const { properties } = await scratch.take(pricing);
    expect(properties.headers).toEqual({ 'x-correlation-id': 'h-1' });
    const { correlationId, replyTo = '' } = properties;
    expect(correlationId).not.toBe('c-1');
    await scratch.sendJson(replyTo, 2, { correlationId, mandatory: false });
    await app.close();
    expect(app.log.text('error')).toBe('');
  });

  test('is refused where it is neither of them', async () => {
    expect(await failure(TestApp.boot({ imports: [amqp({ carry: 'x-tenant' as never })] }))).toMatchObject({
      code: 'INVALID_OPTION',
    });
  });
});
