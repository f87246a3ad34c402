/** What a handler can do with a delivery beside returning: answer by hand, heed its signal, take too long. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { Consumer } from '../../lib/messaging/consumer.js';
import type { Delivery } from '../../lib/messaging/delivery.js';
import type { DeliveryHandler } from '../../lib/messaging/handled-deliveries.js';
import { brokerUrl } from '../support/broker.mjs';
import { CollectedLog } from '../support/collected-log.js';
import { type LoneHandlerOptions, loneHandler } from '../support/lone-handler.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
let connection: AmqpConnection;
let log: CollectedLog;
let consumers: Consumer[];
let got: Inbox<Delivery>;
let queue: string;
let dead: string;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  connection = new AmqpConnection(brokerUrl, { dial: line.dial });
  await connection.open();
  log = new CollectedLog();
  consumers = [];
  got = new Inbox();
  ({ queue, dead } = await scratch.queueWithDeadLetters());
});

afterEach(async () => {
  await Promise.all(consumers.map((consumer) => consumer.stop(0)));
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

/** A consumer that runs, and notes what it gets before the handler does. Dead letters go by way of the broker. */
async function consume(handler: DeliveryHandler, options: Partial<LoneHandlerOptions> = {}): Promise<Consumer> {
  const consumer = loneHandler(
    connection,
    {
      name: 'BillingConsumer.charge',
      queue,
      topology: {},
      prefetch: 50,
      exclusive: false,
      consumerTag: undefined,
      arguments: {},
      deadLetter: { by: 'broker' },
      channel: new AmqpChannel(connection),
      ...options,
    },
    (delivery) => {
      got.push(delivery);
      return handler(delivery);
    },
    log,
  );
  consumers.push(consumer);
  await consumer.start();
  return consumer;
}

/** Resolves to why it fired. */
async function fired(signal: AbortSignal): Promise<unknown> {
  const aborted = new Promise((resolve) => {
    signal.addEventListener('abort', () => {
      resolve(signal.reason);
    });
  });
  return signal.aborted ? signal.reason : await within('the signal', aborted);
}

describe("ack: 'manual'", () => {
  test('leaves a message unacknowledged when the handler returns, until the handler says so', async () => {
    const consumer = await consume(() => undefined, { ack: 'manual', prefetch: 1 });
    await scratch.sendJson(queue, 1);
    await scratch.sendJson(queue, 2);
    const first = await got.next();
    await scratch.hasMessages(queue, 1);
    expect(consumer.underWay).toBe(1);
    expect(first.ack()).toBe(true);
    const second = await got.next();
    expect(second.payload).toBe(2);
    second.reject();
    expect((await scratch.take(dead)).body.toString()).toBe('2');
    expect(consumer.underWay).toBe(0);
    expect(log.text('error')).toBe('');
  });

  test('has stop() wait for the answer', async () => {
    const consumer = await consume(() => Promise.resolve(), { ack: 'manual' });
    await scratch.sendJson(queue, 1);
    const delivery = await got.next();
    const stopped = consumer.stop(10_000);
    await scratch.hasConsumers(queue, 0);
    delivery.ack();
    await within('the stop', stopped);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('has the log say what had no answer when stop() waits no longer, apart from handlers that run', async () => {
    const consumer = await consume(({ payload }) => (payload === 1 ? undefined : new Promise(() => undefined)), {
      ack: 'manual',
    });
    await scratch.sendJson(queue, 1);
    await scratch.sendJson(queue, 2);
    await got.next();
    await got.next();
    await consumer.stop(20);
    expect(log.text('warn')).toMatch(/1 handler of .* still ran after 20 ms/);
    expect(log.text('warn')).toMatch(/1 delivery of .*, whose handlers have returned, had no answer after 20 ms/);
  });

  test('dead-letters what a handler throws on', async () => {
    await consume(() => Promise.reject(new Error('no')), { ack: 'manual' });
    await scratch.sendJson(queue, 1);
    await scratch.take(dead);
  });

  test('delivers again what nobody had answered when the connection was lost, and goes on', async () => {
    const consumer = await consume(() => undefined, { ack: 'manual', prefetch: 1 });
    await scratch.sendJson(queue, 1);
    const lost = await got.next();
    line.cut();
    const again = await got.next('the second delivery');
    expect(lost.ack()).toBe(false);
    expect(again.ack()).toBe(true);
    await eventually('an idle consumer', () => Promise.resolve(consumer.underWay === 0 ? true : undefined));
  });
});

describe("ack: 'none'", () => {
  test('is done with a message before its handler runs', async () => {
    const gate = new Gate();
    await consume(() => gate.opened, { ack: 'none' });
    await scratch.sendJson(queue, 1);
    const delivery = await got.next();
    expect(delivery.ack()).toBe(false);
    // With its answer the broker has read the acknowledgement too, which left with the turn.
    await (await connection.opened()).channel();
    line.cut();
    await log.next('log', 'runs');
    await log.next('log', 'runs');
    gate.open();
    // Behind whatever is delivered again.
    await scratch.sendJson(queue, 2);
    await got.next('the next message', ({ payload }) => payload === 2);
    expect(got.all.map(({ payload }) => payload)).toEqual([1, 2]);
    expect(log.text('warn')).toContain("ack: 'none'");
  });

  test('dead-letters what fails by publishing it: there is nothing left to reject', async () => {
    const own = scratch.owns(`${queue}.dead`);
    await consume(() => Promise.reject(new Error('no')), { ack: 'none' });
    await scratch.sendJson(queue, 1);
    await eventually('the queue', () => scratch.state(own));
    expect((await scratch.take(own)).properties.headers).toMatchObject({ 'x-nest-amqp-error-message': 'no' });
  });
});

describe('a handler that takes longer than its timeout', () => {
  test('has failed, sees its signal fire, and changes nothing by what it does later', async () => {
    const gate = new Gate();
    const consumer = await consume(() => gate.opened, { timeout: 50 });
    await scratch.sendJson(queue, 1);
    const delivery = await got.next();
    expect(await fired(delivery.signal)).toMatchObject({ code: 'HANDLER_TIMEOUT' });
    await scratch.take(dead);
    expect(await log.next('error')).toContain('timeout of 50 ms');
    expect(consumer.underWay).toBe(0);
    expect(delivery.ack()).toBe(false);
    gate.open();
    await within('the stop', consumer.stop(1_000));
    expect(consumer.underWay).toBe(0);
  });

  test('is another than one that returns, or throws, in time', async () => {
    await consume((delivery) => (delivery.payload === 1 ? Promise.resolve() : Promise.reject(new Error('no'))), {
      timeout: 10_000,
    });
    await scratch.sendJson(queue, 1);
    await scratch.sendJson(queue, 2);
    expect((await scratch.take(dead)).body.toString()).toBe('2');
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(log.text('error')).not.toContain('longer than its timeout');
  });
});

describe('the signal of a delivery', () => {
  test('fires when its channel is lost, and not when another delivery fails', async () => {
    const gate = new Gate();
    await consume(async ({ payload }) => {
      if (payload === 'bad') throw new Error('no');
      await gate.opened;
    });
    await scratch.sendJson(queue, 'good');
    const { signal } = await got.next();
    await scratch.sendJson(queue, 'bad');
    await scratch.take(dead);
    expect(signal.aborted).toBe(false);
    line.cut();
    expect(await fired(signal)).toMatchObject({ code: 'CHANNEL_CLOSED' });
    const again = await got.next('the second delivery', ({ redelivered }) => redelivered);
    expect(again.signal.aborted).toBe(false);
    gate.open();
  });

  test('fires when the consumer has waited for its handler long enough', async () => {
    const consumer = await consume(({ signal }) => fired(signal));
    await scratch.sendJson(queue, 1);
    const { signal } = await got.next();
    await consumer.stop(20);
    expect(await fired(signal)).toMatchObject({ code: 'ABORTED' });
    await scratch.hasMessages(queue, 1);
  });

  test('does not fire when the handler has ended', async () => {
    const signals: AbortSignal[] = [];
    const consumer = await consume(({ signal }) => {
      signals.push(signal);
    });
    await scratch.sendJson(queue, 1);
    await got.next();
    await consumer.stop(1_000);
    expect(signals[0]?.aborted).toBe(false);
  });

  test('does not fire when it is asked for after the handler has ended, either', async () => {
    const consumer = await consume(() => undefined);
    await scratch.sendJson(queue, 1);
    const delivery = await got.next();
    await eventually('its end', () => Promise.resolve(consumer.underWay === 0 || undefined));
    const { signal } = delivery;
    line.cut();
    // The next channel is there only when the end of the last has been told.
    await scratch.sendJson(queue, 2);
    await got.next('a delivery of the next channel', ({ payload }) => payload === 2);
    expect(signal.aborted).toBe(false);
  });
});

describe('answering in vain', () => {
  test('twice is harmless, and told once for all', async () => {
    await consume((delivery) => {
      delivery.ack();
      delivery.nack();
    });
    for (const id of [1, 2, 3]) await scratch.sendJson(queue, id);
    await got.next('the last', ({ payload }) => payload === 3);
    expect(await log.next('warn')).toContain('answered before');
    await scratch.hasMessages(queue, 0);
    expect(log.text('warn').split('\n')).toHaveLength(1);
  });
});

describe('a delivery that goes on', () => {
  test('is known, the oldest first, until it is answered; one that is done at once never is', async () => {
    const gate = new Gate();
    const consumer = await consume(({ payload }) => (payload === 'quick' ? undefined : gate.opened));
    for (const payload of ['quick', 'first', 'second']) {
      await scratch.sendJson(queue, payload);
      await got.next();
    }
    const { oldest } = consumer;
    expect(oldest).toMatchObject({ routingKey: queue, deliveryTag: 2 });
    expect(oldest?.since).toBeInstanceOf(Date);
    gate.open();
    await eventually('nothing under way', () => Promise.resolve(consumer.underWay === 0 || undefined));
    expect(consumer.oldest).toBeUndefined();
  });

  test('is warned of once when it has had half the time for which the broker waits, manual answers too', async () => {
    const consumer = await consume(() => undefined, { ack: 'manual', consumerTimeout: 60 });
    await scratch.sendJson(queue, 'slow');
    const delivery = await got.next();
    const told = await log.next('warn', 'without an answer');
    expect(told).toContain('waits 60 ms (consumer_timeout)');
    // By the time that the next one is warned of the first would be for the second time.
    await scratch.sendJson(queue, 'slow, too');
    const next = await got.next();
    await log.next('warn', 'without an answer');
    expect(log.text('warn').split('without an answer')).toHaveLength(3);
    expect(next.ack()).toBe(true);
    expect(delivery.ack()).toBe(true);
    expect(consumer.oldest).toBeUndefined();
  });

  test('is not warned of when nobody waits for its answer', async () => {
    const gate = new Gate();
    const consumer = await consume(() => gate.opened, { ack: 'none', consumerTimeout: 20 });
    await scratch.sendJson(queue, 'slow');
    await got.next();
    const awaited = await scratch.queue();
    await consume(() => gate.opened, { name: 'Awaited', queue: awaited, consumerTimeout: 20 });
    await scratch.sendJson(awaited, 'slower');
    await log.next('warn', 'Awaited');
    expect(consumer.oldest).toMatchObject({ deliveryTag: 1 });
    expect(log.text('warn')).not.toContain('BillingConsumer.charge');
    gate.open();
  });
});

describe('refusing by hand', () => {
  const dropped = 'which the broker drops';
  const refuse = (delivery: Delivery): void => {
    delivery.reject();
  };

  async function refusing(handler: DeliveryHandler, options: Partial<LoneHandlerOptions>): Promise<void> {
    await consume(handler, options);
    for (const id of [1, 2, 3]) await scratch.sendJson(queue, id);
    await got.next('the last', ({ payload }) => payload === 3);
    await scratch.hasMessages(queue, 0);
  }

  test.each<[string, DeliveryHandler]>([
    ['reject()', refuse],
    ['nack({ requeue: false })', (delivery) => void delivery.nack({ requeue: false })],
  ])('by %s is told once for all where nobody knows of a dead-letter exchange', async (_how, handler) => {
    await refusing(handler, { deadLetter: undefined });
    const told = log.text('warn').split('\n');
    expect(told).toHaveLength(1);
    expect(told[0]).toContain(`rejected delivery 1, ${dropped}`);
    expect(told[0]).toContain(`'${queue}'`);
    expect(told[0]).toContain('Throw RejectDelivery');
  });

  test('is told where the dead letters of what is thrown go to a queue, which rejecting does not know', async () => {
    await refusing(refuse, { deadLetter: `${queue}.elsewhere` });
    expect(log.text('warn')).toContain(dropped);
  });

  test.each<[string, () => Partial<LoneHandlerOptions>]>([
    ['is left to the broker', () => ({ deadLetter: { by: 'broker' } })],
    [
      'has an exchange in the definition',
      () => ({ deadLetter: undefined, topology: { queues: [{ name: queue, deadLetter: { exchange: '' } }] } }),
    ],
    [
      'has an exchange in the arguments',
      () => ({
        deadLetter: undefined,
        topology: { queues: [{ name: queue, arguments: { 'x-dead-letter-exchange': '' } }] },
      }),
    ],
  ])('is nothing to tell where dead-lettering %s', async (_where, options) => {
    await refusing(refuse, options());
    expect(log.text('warn')).not.toContain(dropped);
  });

  test('is nothing to tell when it puts the delivery back', async () => {
    await refusing(
      (delivery) => {
        if (delivery.redelivered) delivery.ack();
        else if (delivery.payload === 1) delivery.reject({ requeue: true });
        else delivery.nack();
      },
      { deadLetter: undefined },
    );
    expect(log.text('warn')).not.toContain(dropped);
  });
});
