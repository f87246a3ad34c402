/** Publishing all that a source has: how far it is asked, and how it ends. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { z } from 'zod';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { PublishAllError } from '../../lib/errors.js';
import { message } from '../../lib/messaging/message.js';
import { type PublishProgress, PublishRun } from '../../lib/messaging/publish-run.js';
import { AmqpPublisher } from '../../lib/messaging/publisher.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { Gate, within } from '../support/waits.js';

let scratch: Scratch;
let connection: AmqpConnection;
let publisher: AmqpPublisher;
let queue: string;

beforeEach(async () => {
  scratch = await Scratch.open();
  queue = await scratch.queue();
  connection = new AmqpConnection(brokerUrl);
  publisher = new AmqpPublisher(new AmqpChannel(connection));
  await connection.open();
});

afterEach(async () => {
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

/** Counts from 0, and notes how far it was asked and whether it was closed. */
class Numbers implements AsyncIterable<number> {
  asked = 0;
  isClosed = false;

  constructor(
    private readonly end = Infinity,
    private readonly before: (n: number) => Promise<void> | void = () => undefined,
  ) {}

  async *[Symbol.asyncIterator](): AsyncGenerator<number> {
    try {
      while (this.asked < this.end) {
        await this.before(this.asked);
        yield this.asked++;
      }
    } finally {
      this.isClosed = true;
    }
  }
}

async function failed(run: Promise<unknown>): Promise<PublishAllError> {
  const error = await failure(run);
  if (error instanceof PublishAllError) return error;
  throw error;
}

const numbers = (count: number): string[] => Array.from({ length: count }, (_, n) => String(n));

describe('publishAll', () => {
  test('publishes what an async source has, in order, and resolves to how many the broker confirmed', async () => {
    const source = new Numbers(2_500);
    expect(await publisher.publishAll('', queue, source)).toBe(2_500);
    expect(await scratch.drain(queue)).toEqual(numbers(2_500));
    expect(source.isClosed).toBe(true);
  });

  test('takes arrays, and awaits promises in them', async () => {
    expect(await publisher.publishAll('', queue, [0, Promise.resolve(1), 2])).toBe(3);
    expect(await scratch.drain(queue)).toEqual(numbers(3));
    expect(await publisher.publishAll('', queue, [])).toBe(0);
  });

  test('gives each message the routing key that its payload asks for, and the options of all', async () => {
    const exchange = await scratch.exchange('direct');
    const other = await scratch.queue();
    await scratch.bind(queue, exchange, 'even');
    await scratch.bind(other, exchange, 'odd');
    const keyOf = (n: number): string => (n % 2 === 0 ? 'even' : 'odd');
    await publisher.publishAll(exchange, keyOf, new Numbers(4), { priority: 3, headers: { tenant: 'a' } });
    const first = await scratch.take(queue);
    expect(first.properties).toMatchObject({ priority: 3, headers: { tenant: 'a' } });
    const second = await scratch.take(queue);
    expect([first.body, second.body].map(String)).toEqual(['0', '2']);
    expect(second.properties.messageId).not.toBe(first.properties.messageId);
    expect(await scratch.drain(other)).toEqual(['1', '3']);
  });

  test('publishes by a contract, and ends at the first payload that does not fit', async () => {
    const Order = message({ exchange: '', routingKey: queue, schema: z.object({ id: z.number() }) });
    expect(await publisher.publishAll(Order, [{ id: 0 }, { id: 1 }])).toBe(2);
    const unfit = [{ id: 2 }, { id: 'three' as unknown as number }, { id: 4 }];
    const error = await failed(publisher.publishAll(Order, unfit, { maxInFlight: 1 }));
    expect(error).toMatchObject({ code: 'PUBLISH_ALL_FAILED', index: 1, confirmed: 1, taken: 2 });
    expect(error.cause).toMatchObject({ code: 'INVALID_PAYLOAD' });
    expect(await scratch.drain(queue)).toEqual(['{"id":0}', '{"id":1}', '{"id":2}']);
  });

  test('asks for no more than may be under way until the broker confirms', async () => {
    // A queue of its own messages only: nothing leaves while the connection is not open.
    await connection.close();
    const closed = new AmqpConnection(brokerUrl);
    const source = new Numbers(20);
    const run = new AmqpPublisher(new AmqpChannel(closed)).publishAll('', queue, source, { maxInFlight: 5 });
    // Whatever it does at once it has done by then.
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    expect(source.asked).toBe(5);
    await closed.open();
    expect(await run).toBe(20);
    await closed.close();
  });

  test('tells how far it is, at the end that it is there', async () => {
    const told: PublishProgress[] = [];
    const progress = (at: PublishProgress): void => {
      told.push(at);
    };
    await publisher.publishAll('', queue, new Numbers(300), { maxInFlight: 10, progress });
    expect(told.at(-1)).toEqual({ confirmed: 300, taken: 300 });
    expect(told.length).toBeGreaterThan(1);
    const counts = told.map(({ confirmed }) => confirmed);
    expect(counts).toEqual(counts.toSorted((a, b) => a - b));
  });

  test('stops at the first failure, closes the source, and says how many are confirmed', async () => {
    const exchange = await scratch.exchange('direct');
    await scratch.bind(queue, exchange, 'known');
    const source = new Numbers();
    const keyOf = (n: number): string => (n === 30 ? 'unknown' : 'known');
    const error = await failed(publisher.publishAll(exchange, keyOf, source, { maxInFlight: 4 }));
    expect(error).toMatchObject({ code: 'PUBLISH_ALL_FAILED', index: 30, cause: { code: 'UNROUTABLE' } });
    expect(error.message).toContain('message 30 failed');
    expect(source.isClosed).toBe(true);
    expect(error.taken).toBeLessThanOrEqual(34);
    expect(error.confirmed).toBe(error.taken - 1);
    expect(await scratch.drain(queue)).toHaveLength(error.confirmed);
  });

  test('has a failure of the source, of the routing key or of progress end it with what was confirmed', async () => {
    const boom = new Error('boom');
    const breaking = new Numbers(9, (n) => {
      if (n === 3) throw boom;
    });
    expect(await failed(publisher.publishAll('', queue, breaking))).toMatchObject({
      cause: boom,
      confirmed: 3,
      taken: 3,
    });
    const throwing = (): never => {
      throw boom;
    };
    expect(await failed(publisher.publishAll('', throwing, [7]))).toMatchObject({
      cause: boom,
      index: 0,
      confirmed: 0,
    });
    for (const progress of [throwing, () => Promise.reject(boom)]) {
      const endless = failed(publisher.publishAll('', queue, new Numbers(), { maxInFlight: 2, progress }));
      expect(await endless).toMatchObject({ cause: boom, index: undefined });
    }
  });

  test('ends when its signal fires, also when the source has nothing to say', async () => {
    const silent = new Gate();
    const reached = new Gate();
    const abort = new AbortController();
    const source = new Numbers(9, async (n) => {
      if (n < 2) return;
      reached.open();
      await silent.opened;
    });
    const run = failed(publisher.publishAll('', queue, source, { signal: abort.signal }));
    await reached.opened;
    abort.abort(new Error('enough'));
    expect(await within('the end', run)).toMatchObject({ code: 'ABORTED', taken: 2, cause: { message: 'enough' } });
    silent.open();
    const fired = failed(publisher.publishAll('', queue, new Numbers(), { signal: AbortSignal.abort() }));
    expect(await fired).toMatchObject({ code: 'ABORTED', taken: 0, confirmed: 0 });
  });

  test('tells progress nothing more once it has ended', async () => {
    const abort = new AbortController();
    const told: PublishProgress[] = [];
    const confirmed: unknown[] = [];
    // Confirmed by hand: one before the abort, in the same turn of the event loop, and one after it.
    const confirms: (() => void)[] = [];
    const publish = async (): Promise<void> => {
      await new Promise<void>((resolve) => confirms.push(resolve));
      confirmed.push(true);
    };
    const progress = (at: PublishProgress): void => {
      told.push(at);
    };
    const run = new PublishRun<number>(publish, { maxInFlight: 2, progress, signal: abort.signal });
    const ended = failed(run.of(new Numbers(3)));
    while (confirms.length < 2) await new Promise((resolve) => setImmediate(resolve));
    confirms.shift()?.();
    while (confirmed.length < 1) await Promise.resolve();
    abort.abort();
    await ended;
    const atEnd = told.length;
    await new Promise((resolve) => setImmediate(resolve));
    confirms.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    expect(told).toHaveLength(atEnd);
  });

  test('refuses what makes no sense before it asks for anything', async () => {
    const source = new Numbers();
    const run = (options: object, payloads: unknown = source): Promise<Error> =>
      failure(publisher.publishAll('', queue, payloads as Numbers, options));
    expect(await run({ maxInFlight: 0 })).toMatchObject({ code: 'INVALID_OPTION' });
    expect(await run({ progress: 7 })).toMatchObject({ code: 'INVALID_OPTION' });
    expect(await run({ messageId: 'same' })).toMatchObject({ code: 'INVALID_OPTION' });
    for (const source of [{ id: 7 }, 'abc', Buffer.from('abc')]) {
      expect(await run({}, source)).toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
    expect(await run({ priorty: 1 }, [1])).toMatchObject({ cause: { code: 'INVALID_OPTION' } });
    expect(source.asked).toBe(0);
    // Given as undefined is not given.
    expect(await publisher.publishAll('', queue, [7], { messageId: undefined } as object)).toBe(1);
  });
});
