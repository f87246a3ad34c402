/** Consumers of streams on a broker: each event is handled once by a process, however often its consumer starts over. */
import type { Type } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  AmqpModule,
  type AmqpModuleOptions,
  Consume,
  type ConsumeHandlerOptions,
  ConsumerRegistry,
  type Delivery,
  queue as definition,
} from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

const STREAM = { durable: true, arguments: { 'x-queue-type': 'stream' } };
const EVENTS = Array.from({ length: 20 }, (_, n) => n);

let scratch: Scratch;
let line: CuttableLine;
let got: Inbox<number>;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  got = new Inbox();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

type Handler = (event: number, delivery: Delivery<number>) => unknown;

const noted: Handler = (event) => {
  got.push(event);
};

function handling(queue: string, options: ConsumeHandlerOptions, handler: Handler = noted): Type {
  class Audit {
    @Consume(definition({ name: queue, type: 'stream' }), options)
    note(event: number, delivery: Delivery<number>): unknown {
      return handler(event, delivery);
    }
  }
  return Audit;
}

async function boot(provider: Type, options: AmqpModuleOptions = {}): Promise<TestApp> {
  const connection = { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } };
  return await TestApp.boot({
    imports: [AmqpModule.forRoot({ url: brokerUrl, connection, ...options })],
    providers: [provider],
  });
}

const from = (offset: string | number): ConsumeHandlerOptions => ({ arguments: { 'x-stream-offset': offset } });

/** Resolves when that many events have come, and the one that is published then was the next. */
async function come(queue: string, count: number): Promise<void> {
  await eventually(`${count} events`, () => Promise.resolve(got.all.length >= count ? true : undefined));
  await scratch.sendJson(queue, -1);
  await got.next('the last event', (event) => event === -1);
}

/** Has the connection lost while these are published. */
async function published(app: TestApp, queue: string, events: readonly number[]): Promise<void> {
  const consumer = app.get(ConsumerRegistry).get('Audit.note');
  line.isDown = true;
  line.cut();
  await eventually('the loss', () => Promise.resolve(consumer.state === 'running' ? undefined : true));
  await scratch.sendAllJson(queue, events);
  line.isDown = false;
  await running(app);
}

async function running(app: TestApp): Promise<void> {
  const consumer = app.get(ConsumerRegistry).get('Audit.note');
  await eventually('the recovery', () => Promise.resolve(consumer.state === 'running' ? true : undefined));
}

const isEmbedded = process.env['NEST_AMQP_TEST_BROKER'] === 'embedded';
// The embedded broker has no streams, and says so.
const describeWithStreams = isEmbedded ? describe.skip : describe;
// RabbitMQ has them.
const testWithoutStreams = isEmbedded ? test : test.skip;

testWithoutStreams('the boot fails where the broker has no streams, and says why', async () => {
  const error = await failure(boot(handling(scratch.queueName(), from('first')), { startupTimeout: '2s' }));
  expect(error.message).toContain('is a stream, and the embedded broker has none');
});

describeWithStreams('a consumer of a stream', () => {
  test.each(['first', 'next', 'last', '1h', 0])(
    'that reads from %j has each event once, also those of an outage',
    async (offset) => {
      const queue = await scratch.queue(STREAM);
      await using app = await boot(handling(queue, from(offset)));
      await scratch.sendAllJson(queue, EVENTS.slice(0, 10));
      await eventually('ten events', () => Promise.resolve(got.all.length === 10 ? true : undefined));
      await published(app, queue, EVENTS.slice(10));
      await come(queue, 20);
      expect(got.all).toEqual([...EVENTS, -1]);
    },
  );

  test.each(['next', 'last', undefined])(
    'that reads from %j has the events of an outage also where it had none before',
    async (offset) => {
      const queue = await scratch.queue(STREAM);
      await using app = await boot(handling(queue, offset === undefined ? {} : from(offset)));
      await published(app, queue, EVENTS);
      await come(queue, 20);
      expect(got.all).toEqual([...EVENTS, -1]);
    },
  );

  test('goes on behind thousands that it had', async () => {
    const queue = await scratch.queue(STREAM);
    const events = Array.from({ length: 2000 }, (_, n) => n);
    await scratch.sendAllJson(queue, events);
    let isCut = false;
    const handler: Handler = async (event) => {
      got.push(event);
      if (event === 1000 && !isCut) {
        isCut = true;
        line.cut();
      }
      await Promise.resolve();
    };
    await using _app = await boot(handling(queue, { ...from('first'), prefetch: 100 }, handler));
    await come(queue, 2000);
    // What was under way at the cut comes again, as from any queue.
    expect(got.all.length).toBeLessThanOrEqual(2001 + 100);
    expect([...new Set(got.all)]).toEqual([...events, -1]);
  });

  test('has again what was not answered, and not what was answered out of order', async () => {
    const queue = await scratch.queue(STREAM);
    const gates = new Map([
      [2, new Gate()],
      [4, new Gate()],
    ]);
    const handler: Handler = async (event) => {
      got.push(event);
      await gates.get(event)?.opened;
    };
    await using app = await boot(handling(queue, { ...from('first'), concurrency: 8 }, handler));
    await scratch.sendAllJson(queue, EVENTS.slice(0, 8));
    await eventually('eight events', () => Promise.resolve(got.all.length === 8 ? true : undefined));
    await published(app, queue, [8]);
    await eventually('those again', () => Promise.resolve(got.all.length === 11 ? true : undefined));
    expect(got.all.slice(8)).toEqual([2, 4, 8]);
    for (const gate of gates.values()) gate.open();
    await come(queue, 11);
    await published(app, queue, [9]);
    await come(queue, 13);
    expect(got.all.slice(11)).toEqual([-1, 9, -1]);
  });

  test('keeps its place while it is paused: what runs goes on, what had not begun comes once', async () => {
    const queue = await scratch.queue(STREAM);
    const gate = new Gate();
    const handler: Handler = async (event) => {
      got.push(event);
      if (event === 1) await gate.opened;
    };
    const app = await boot(handling(queue, { ...from('first'), concurrency: 1, prefetch: 5 }, handler));
    await using _ = app;
    await scratch.sendAllJson(queue, EVENTS.slice(0, 10));
    await got.next('the second event', (event) => event === 1);
    const consumer = app.get(ConsumerRegistry).get('Audit.note');
    await consumer.pause();
    expect(consumer.underWay).toBe(1);
    consumer.resume();
    await running(app);
    gate.open();
    await eventually('ten events', () => Promise.resolve(got.all.length === 10 ? true : undefined));
    await consumer.drain();
    await scratch.sendAllJson(queue, EVENTS.slice(10));
    consumer.resume();
    await come(queue, 20);
    expect(got.all).toEqual([...EVENTS, -1]);
    // RabbitMQ 3.10 closes the connection over what is put back to a stream (540).
    expect(app.log.text('warn')).toBe('');
  });

  test('gives a failing event one dead letter, and handles it no more', async () => {
    const queue = await scratch.queue(STREAM);
    const dead = scratch.owns(`${queue}.dead`);
    const handler: Handler = (event) => {
      got.push(event);
      if (event === 3) throw new Error('cannot be noted');
    };
    await using app = await boot(handling(queue, from('first'), handler));
    await scratch.sendAllJson(queue, EVENTS.slice(0, 5));
    await scratch.hasMessages(dead, 1);
    await published(app, queue, EVENTS.slice(5));
    await come(queue, 20);
    expect(got.all).toEqual([...EVENTS, -1]);
    expect(await scratch.drain(dead)).toEqual(['3']);
  });

  test.each([['first'], ['next'], [0]])(
    'that reads from %j reads a stream that was deleted under it as a new one',
    async (offset) => {
      const queue = await scratch.queue(STREAM);
      await using app = await boot(handling(queue, from(offset)));
      await scratch.sendAllJson(queue, EVENTS);
      await eventually('the events', () => Promise.resolve(got.all.length === 20 ? true : undefined));
      await scratch.delete(queue);
      await app.log.next('warn', 'stopped: the broker cancelled it');
      await app.log.next('log', 'runs');
      await running(app);
      await scratch.sendAllJson(queue, [100, 101]);
      await come(queue, 22);
      expect(got.all).toEqual([...EVENTS, 100, 101, -1]);
    },
  );

  test('notices that its stream was deleted and declared anew while it was away', async () => {
    const queue = await scratch.queue(STREAM);
    await using app = await boot(handling(queue, from('next')));
    await scratch.sendAllJson(queue, EVENTS);
    await eventually('the events', () => Promise.resolve(got.all.length === 20 ? true : undefined));
    const consumer = app.get(ConsumerRegistry).get('Audit.note');
    line.isDown = true;
    line.cut();
    await eventually('the loss', () => Promise.resolve(consumer.state === 'running' ? undefined : true));
    await scratch.delete(queue);
    await scratch.queue({ ...STREAM, name: queue });
    await scratch.sendAllJson(queue, [100, 101]);
    line.isDown = false;
    expect(await within('the news', app.log.next('warn', 'declared anew'), 15_000)).toContain("Audit.note (queue '");
    await got.next('an event of the new stream', (event) => event === 101);
    expect(got.all).toEqual([...EVENTS, 100, 101]);
  }, 30_000);
});
