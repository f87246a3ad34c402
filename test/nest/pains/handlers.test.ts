/** Which handlers there are, on which instance and connection, and which message is whose. */
import { Injectable, Scope, type Type } from '@nestjs/common';
import { REQUEST } from '@nestjs/core';
import { Inject } from '@nestjs/common';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AmqpConnection, AmqpModule, AmqpPublisher, Consume, Delivery, getConnectionToken } from 'nest-amqp';

import { brokerUrl } from '../../support/broker.mjs';
import { failure } from '../../support/client.js';
import { TestApp } from '../../support/nest-app.js';
import { Scratch } from '../../support/scratch.js';
import { Inbox } from '../../support/waits.js';

let scratch: Scratch;
/** What handlers were called with; each test has its own. */
let got: Inbox<unknown>;

beforeEach(async () => {
  scratch = await Scratch.open();
  got = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

const boot = (...providers: Type[]): Promise<TestApp> =>
  TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers });

test('e10: request-scoped and transient classes consume, with their dependencies, and REQUEST is the delivery (golevelup: skipped, or undefined)', async () => {
  const [scoped, transient, needing] = [await scratch.queue(), await scratch.queue(), await scratch.queue()];
  let made = 0;
  @Injectable({ scope: Scope.REQUEST })
  class Tenant {
    readonly number = ++made;
    constructor(@Inject(REQUEST) readonly delivery: Delivery) {}
  }
  @Injectable({ scope: Scope.TRANSIENT })
  class Notes {
    readonly name = 'notes';
  }
  @Injectable({ scope: Scope.REQUEST })
  class Scoped {
    constructor(readonly notes: Notes) {}
    @Consume(scoped)
    handle(payload: unknown): void {
      got.push([payload, this.notes.name]);
    }
  }
  @Injectable({ scope: Scope.TRANSIENT })
  class Transient {
    constructor(readonly notes: Notes) {}
    @Consume(transient)
    handle(payload: unknown): void {
      got.push([payload, this.notes.name]);
    }
  }
  @Injectable()
  class Needing {
    constructor(readonly tenant: Tenant) {}
    @Consume(needing)
    handle(payload: unknown, delivery: Delivery): void {
      got.push([payload, this.tenant.number, this.tenant.delivery === delivery]);
    }
  }
  await using _app = await boot(Tenant, Notes, Scoped, Transient, Needing);
  for (const queue of [scoped, transient]) {
    await scratch.sendJson(queue, queue);
    expect(await got.next()).toEqual([queue, 'notes']);
  }
  for (const number of [1, 2]) {
    await scratch.sendJson(needing, 'order');
    expect(await got.next()).toEqual(['order', number, true]);
  }
});

test.each([
  ['first', ['default', 'audit']],
  ['last', ['audit', 'default']],
])(
  'e11: with two brokers the default one is what is injected, imported %s, and every handler runs on one (golevelup: the second, and on both)',
  async (_place, names) => {
    const [orders, audited] = [await scratch.queue(), await scratch.queue()];
    class Handlers {
      @Consume(orders)
      order(payload: unknown): void {
        got.push(['order', payload]);
      }

      @Consume(audited, { connection: 'audit' })
      audit(payload: unknown): void {
        got.push(['audit', payload]);
      }
    }
    const imports = names.map((name) => AmqpModule.forRoot({ name, url: brokerUrl }));
    await using app = await TestApp.boot({ imports, providers: [Handlers] });
    expect(app.get(AmqpConnection)).toBe(app.get(getConnectionToken('default') as typeof AmqpConnection));
    expect(app.get(AmqpConnection)).not.toBe(app.get(getConnectionToken('audit') as string));
    for (const queue of [orders, audited]) expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
    // Where one is closed, the handlers of the other go on.
    await (app.get(getConnectionToken('audit') as string) as AmqpConnection).close();
    await app.get(AmqpPublisher).sendToQueue(orders, 7);
    expect(await got.next()).toEqual(['order', 7]);
  },
);

test('e13: two applications in one process have their own handlers, and closing one leaves the other (golevelup: no handlers in the second)', async () => {
  const queues = [await scratch.queue(), await scratch.queue()] as const;
  const handlerOf = (queue: string): Type => {
    class Billing {
      @Consume(queue)
      charge(payload: unknown): void {
        got.push([queue, payload]);
      }
    }
    return Billing;
  };
  const first = await boot(handlerOf(queues[0]));
  await using _second = await boot(handlerOf(queues[1]));
  for (const queue of queues) {
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toEqual([queue, 1]);
  }
  await first.close();
  await scratch.sendJson(queues[1], 2);
  expect(await got.next()).toEqual([queues[1], 2]);
});

test('e22: every decorator of a method makes a consumer (golevelup: the last one wins)', async () => {
  const queues = [await scratch.queue(), await scratch.queue(), await scratch.queue()] as const;
  class Billing {
    @Consume(queues[0])
    @Consume(queues[1])
    @Consume(queues[2])
    charge(_payload: unknown, { queue }: Delivery): void {
      got.push(queue);
    }
  }
  await using _app = await boot(Billing);
  for (const queue of queues) {
    await scratch.sendJson(queue, 1);
    expect(await got.next()).toBe(queue);
  }
});

test('e18: a pattern with # in it matches what a topic exchange would, and no more (golevelup: a.#.z has a.x.c)', async () => {
  const [queue, exchange] = [await scratch.queue(), await scratch.exchange('topic')];
  await scratch.bind(queue, exchange, '#');
  class Billing {
    @Consume(queue, { when: 'a.#.z' })
    matched(_payload: unknown, { routingKey }: Delivery): void {
      got.push(['matched', routingKey]);
    }

    @Consume(queue)
    rest(_payload: unknown, { routingKey }: Delivery): void {
      got.push(['rest', routingKey]);
    }
  }
  await using _app = await boot(Billing);
  for (const [routingKey, handler] of [
    ['a.x.c', 'rest'],
    ['a.x.z', 'matched'],
    ['a.z', 'matched'],
    ['a.z.c', 'rest'],
  ] as const) {
    await scratch.publish(exchange, routingKey, '1');
    expect(await got.next()).toEqual([handler, routingKey]);
  }
});

test('e21: handlers that share a queue have each its own messages (golevelup: round-robin, to the wrong handler)', async () => {
  const [queue, exchange] = [await scratch.queue(), await scratch.exchange('topic')];
  await scratch.bind(queue, exchange, '#');
  class Billing {
    @Consume(queue, { when: 'order.placed' })
    placed(_payload: unknown, { routingKey }: Delivery): void {
      got.push(['placed', routingKey]);
    }

    @Consume(queue, { when: 'order.cancelled' })
    cancelled(_payload: unknown, { routingKey }: Delivery): void {
      got.push(['cancelled', routingKey]);
    }
  }
  await using _app = await boot(Billing);
  for (const what of ['placed', 'cancelled', 'cancelled', 'placed', 'placed']) {
    await scratch.publish(exchange, `order.${what}`, '1');
    expect(await got.next()).toEqual([what, `order.${what}`]);
  }

  class Careless {
    @Consume(queue)
    placed(): void {
      // never runs
    }

    @Consume(queue)
    cancelled(): void {
      // never runs
    }
  }
  const { message } = await failure(boot(Careless));
  expect(message).toContain('Careless.placed');
  expect(message).toContain('Careless.cancelled');
});

test('e19: a batch of 50 has 50 messages, with the prefetch raised to fit (golevelup: batches of 10)', async () => {
  const queue = await scratch.queue();
  class Orders {
    @Consume(queue, { prefetch: 10, batch: { size: 50, maxWait: '1h' } })
    insert(payloads: unknown[]): void {
      got.push(payloads.length);
    }
  }
  await using _app = await boot(Orders);
  await scratch.sendAllJson(
    queue,
    Array.from({ length: 100 }, (_, id) => id),
  );
  expect(await got.next()).toBe(50);
  expect(await got.next()).toBe(50);
});
