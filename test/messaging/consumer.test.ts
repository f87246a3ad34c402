/** A consumer's life on a real broker, and what the broker hears of each message. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { AmqpError } from '../../lib/errors.js';
import type { Consumer } from '../../lib/messaging/consumer.js';
import type { Delivery } from '../../lib/messaging/delivery.js';
import type { DeliveryHandler } from '../../lib/messaging/handled-deliveries.js';
import { RequeueDelivery } from '../../lib/messaging/outcome.js';
import { AmqpPublisher } from '../../lib/messaging/publisher.js';
import type { Topology } from '../../lib/messaging/definitions.js';
import { applyTopology } from '../../lib/messaging/topology.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { CollectedLog } from '../support/collected-log.js';
import { type LoneHandlerOptions, loneHandler } from '../support/lone-handler.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

const DEFAULTS: Omit<LoneHandlerOptions, 'queue' | 'channel'> = {
  name: 'BillingConsumer.charge',
  prefetch: 50,
  exclusive: false,
  consumerTag: undefined,
  arguments: {},
  topology: {},
  // The queues here are not in a topology, and some have a dead-letter exchange.
  deadLetter: { by: 'broker' },
};

let scratch: Scratch;
let line: CuttableLine;
let connection: AmqpConnection;
let channel: AmqpChannel;
let log: CollectedLog;
let consumers: Consumer[];

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  connection = new AmqpConnection(brokerUrl, { dial: line.dial });
  await connection.open();
  channel = new AmqpChannel(connection);
  log = new CollectedLog();
  consumers = [];
});

afterEach(async () => {
  await Promise.all(consumers.map((consumer) => consumer.stop(0)));
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

function consumerOf(queue: string, handler: DeliveryHandler, options: Partial<LoneHandlerOptions> = {}): Consumer {
  const consumer = loneHandler(connection, { ...DEFAULTS, channel, ...options, queue }, handler, log);
  consumers.push(consumer);
  return consumer;
}

/** A handler that only notes what it gets. */
function noted(inbox: Inbox<Delivery>): DeliveryHandler {
  return (delivery) => {
    inbox.push(delivery);
    return Promise.resolve();
  };
}

/** A decoder that takes until its gate is opened. */
function gated(gates: Inbox<Gate>): () => Promise<string> {
  return async () => {
    const gate = new Gate();
    gates.push(gate);
    await gate.opened;
    return 'read';
  };
}

/** A running consumer that notes what it gets. */
async function collecting(queue: string, options?: Partial<LoneHandlerOptions>): Promise<Inbox<Delivery>> {
  const inbox = new Inbox<Delivery>();
  await consumerOf(queue, noted(inbox), options).start();
  return inbox;
}

describe('a consumer that starts', () => {
  test('consumes when start() resolves, and hands on what the message says', async () => {
    const queue = await scratch.queue();
    const inbox = await collecting(queue, { consumerTag: 'billing-1' });
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
    expect(consumers[0]).toMatchObject({ state: 'running', queue });

    await scratch.sendJson(queue, { id: 7 }, { messageId: 'm-1', headers: { tenant: 'a' } });
    const delivery = await inbox.next();
    expect(delivery).toMatchObject({
      payload: { id: 7 },
      body: Buffer.from('{"id":7}'),
      queue,
      exchange: '',
      routingKey: queue,
      redelivered: false,
      deliveryTag: 1,
      consumerTag: 'billing-1',
    });
    expect(delivery.properties.messageId).toBe('m-1');
    expect(delivery.headers['tenant']).toBe('a');
  });

  test('sees empty headers where a message has none', async () => {
    const queue = await scratch.queue();
    const inbox = await collecting(queue);
    await scratch.sendJson(queue, 1);
    expect(Object.keys((await inbox.next()).headers)).toEqual([]);
  });

  test('declares a queue that is not there as a durable one, and uses one that is there as it is', async () => {
    const missing = scratch.queueName();
    await collecting(missing);
    expect(await scratch.state(missing)).toMatchObject({ consumerCount: 1 });

    const present = await scratch.queue({ durable: true, autoDelete: true, arguments: { 'x-max-length': 3 } });
    await collecting(present);
    expect(await scratch.state(present)).toMatchObject({ consumerCount: 1 });
    expect(log.text('warn') + log.text('error')).toBe('');
  });

  test('rejects when the broker refuses it, and does not try again', async () => {
    const queue = await scratch.queue();
    await collecting(queue, { exclusive: true });
    const second = consumerOf(queue, () => Promise.resolve());
    await expect(within('the refusal', second.start())).rejects.toMatchObject({
      replyCode: 403,
      message: expect.stringContaining(`(queue '${queue}') cannot consume. `) as unknown,
    });
    expect(second.state).toBe('stopped');
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 1 });
  });

  test('in the background keeps trying what the broker refuses, and says so', async () => {
    const queue = await scratch.queue();
    await collecting(queue, { exclusive: true });
    const second = consumerOf(queue, () => Promise.resolve());
    second.startInBackground();
    expect(await log.next('error', 'cannot start')).toContain(`'${queue}'`);
    await consumers[0]?.stop(0);
    await eventually('the second one to run', () => Promise.resolve(second.state === 'running' || undefined));
    await scratch.hasConsumers(queue, 1);
    await second.stop(0);
    await scratch.hasConsumers(queue, 0);
  });

  test('never has more messages under way than its prefetch', async () => {
    const queue = await scratch.queue();
    const started = new Inbox<Delivery>();
    const gates = [new Gate(), new Gate(), new Gate()];
    const consumer = consumerOf(
      queue,
      async (delivery) => {
        started.push(delivery);
        await gates[(delivery.payload as number) - 1]?.opened;
      },
      { prefetch: 2 },
    );
    for (const id of [1, 2, 3]) await scratch.sendJson(queue, id);
    await consumer.start();
    await started.next();
    await started.next();
    // The third stays on the broker, where it can be counted.
    await scratch.hasMessages(queue, 1);
    expect(consumer.underWay).toBe(2);
    gates[0]?.open();
    expect((await started.next()).payload).toBe(3);
    gates[1]?.open();
    gates[2]?.open();
  });
});

describe('what a handler does', () => {
  test('returning acknowledges', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    const inbox = await collecting(queue);
    await scratch.sendJson(queue, 1);
    await inbox.next();
    await consumers[0]?.stop(1_000);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
  });

  test('throwing rejects the message once, without putting it back, and tells the queue and the message id', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    let calls = 0;
    await consumerOf(queue, () => {
      calls += 1;
      return Promise.reject(new RangeError('over the limit'));
    }).start();
    await scratch.sendJson(queue, { id: 7 }, { messageId: 'm-7' });

    const rejected = await scratch.take(dead);
    expect(rejected.body.toString()).toBe('{"id":7}');
    const told = await log.next('error');
    expect(told).toContain(`'${queue}'`);
    expect(told).toContain("message id 'm-7'");
    expect(told).toContain('RangeError: over the limit');
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0, consumerCount: 1 });
    expect(calls).toBe(1);
  });

  test.each<[what: string, handler: DeliveryHandler]>([
    [
      'that throws before its first await',
      () => {
        throw new Error('at once');
      },
    ],
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- users do
    ['that rejects with text', () => Promise.reject('just text')],
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- users do
    ['that rejects with nothing', () => Promise.reject()],
    [
      'that rejects with an error whose message is no text',
      () => Promise.reject(Object.assign(new Error(), { message: {} })),
    ],
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- users do
    ['that rejects with an object without a prototype', () => Promise.reject(Object.create(null) as object)],
  ])('a handler %s ends neither the consumer nor the process', async (_what, handler) => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    let fails = true;
    const done = new Gate();
    await consumerOf(queue, async (delivery) => {
      if (fails) await handler(delivery);
      done.open();
    }).start();
    await scratch.sendJson(queue, 1);
    await scratch.take(dead);
    fails = false;
    await scratch.sendJson(queue, 2);
    await within('the next message', done.opened);
  });

  test('control characters in what it throws do not reach the log line', async () => {
    const queue = await scratch.queue();
    await consumerOf(queue, () => Promise.reject(new Error('red \u001b[31m'))).start();
    await scratch.sendJson(queue, 1);
    const [first] = (await log.next('error')).split(' Error: red');
    expect(first).not.toContain('\u001b');
  });

  test('answering itself counts; returning or throwing afterwards changes nothing', async () => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    const answers = new Inbox<boolean>();
    await consumerOf(queue, (delivery) => {
      if (delivery.payload === 'ack') {
        answers.push(delivery.ack());
        return Promise.reject(new Error('too late'));
      }
      answers.push(delivery.reject());
      return Promise.resolve();
    }).start();
    await scratch.sendJson(queue, 'ack');
    expect(await answers.next()).toBe(true);
    expect(await log.next('error')).toContain('not answered again');
    await scratch.sendJson(queue, 'reject');
    expect(await answers.next()).toBe(true);
    expect((await scratch.take(dead)).body.toString()).toBe('"reject"');
    expect(await scratch.state(dead)).toMatchObject({ messageCount: 0 });
  });

  test('putting it back has it delivered again, marked as such', async () => {
    const queue = await scratch.queue();
    const deliveries = new Inbox<boolean>();
    await consumerOf(queue, (delivery) => {
      deliveries.push(delivery.redelivered);
      if (!delivery.redelivered) delivery.nack();
      return Promise.resolve();
    }).start();
    await scratch.sendJson(queue, 1);
    expect(await deliveries.next()).toBe(false);
    expect(await deliveries.next()).toBe(true);
  });
});

describe('a message that nobody can read', () => {
  test.each<[what: string, body: string, properties: { contentType: string; contentEncoding?: string }]>([
    ['broken JSON', '{"secret":', { contentType: 'application/json' }],
    ['a compressed body', 'x', { contentType: 'application/json', contentEncoding: 'gzip' }],
  ])('%s is rejected once and told, the handler does not run, the next message does', async (_what, body, more) => {
    const { queue, dead } = await scratch.queueWithDeadLetters();
    const inbox = await collecting(queue);
    await scratch.send(queue, body, { ...more, messageId: 'm-1' });
    expect((await scratch.take(dead)).body.toString()).toBe(body);
    const told = await log.next('error');
    expect(told).toContain("message id 'm-1'");
    expect(told).not.toContain('secret');
    await scratch.sendJson(queue, 'fine');
    expect((await inbox.next()).payload).toBe('fine');
    expect(inbox.all).toHaveLength(1);
  });

  test('with properties that make no sense it is rejected once and told, and the next one is delivered', async () => {
    const peer = new ScriptedPeer();
    await using scripted = new AmqpConnection('amqp://127.0.0.1', { dial: () => peer.transport, closeTimeout: 1 });
    const opened = scripted.open();
    await peer.handshake();
    await opened;
    const inbox = new Inbox<Delivery>();
    const consumer = loneHandler(
      scripted,
      { ...DEFAULTS, channel: new AmqpChannel(scripted), queue: 'billing', consumerTag: 't' },
      noted(inbox),
      log,
    );
    const started = consumer.start();
    await peer.openChannel();
    expect((await peer.receive('queue.declare')).args).toMatchObject({ queue: 'billing', passive: true });
    peer.send(1, 'queue.declare-ok', { queue: 'billing', messageCount: 0, consumerCount: 0 });
    await peer.answer('channel.close-ok', {});
    const channel = await peer.openChannel();
    await peer.answer('basic.qos-ok', {});
    await peer.answer('basic.consume-ok', { consumerTag: 't' });
    await started;

    const deliver = { consumerTag: 't', redelivered: false, exchange: '', routingKey: 'billing' };
    peer.send(channel, 'basic.deliver', { ...deliver, deliveryTag: 1 });
    // A content header of class 60 for 2 bytes, whose only property is a content type of 200 bytes that are not there.
    const header = Buffer.from('003c0000 0000000000000002 8000 c8'.replaceAll(' ', ''), 'hex');
    peer.sendRaw(frame(2, channel, header));
    peer.sendRaw(frame(3, channel, Buffer.from('{}')));
    peer.sendContent(channel, 'basic.deliver', { ...deliver, deliveryTag: 2 }, {}, '"fine"');

    expect((await peer.receive('basic.reject')).args).toEqual({ deliveryTag: 1, requeue: false });
    expect((await peer.receive('basic.ack')).args).toEqual({ deliveryTag: 2, multiple: false });
    expect(inbox.all.map(({ payload }) => payload)).toEqual(['fine']);
    expect(await log.next('error')).toContain('delivery tag 1');
  });

  test('gives back what has not begun with basic.nack, and what its handler puts back with basic.reject', async () => {
    // Quorum queues of RabbitMQ 4.3 count the second towards their delivery limit.
    const log = new CollectedLog();
    const peer = new ScriptedPeer();
    await using scripted = new AmqpConnection('amqp://127.0.0.1', { dial: () => peer.transport, closeTimeout: 1 });
    const opened = scripted.open();
    await peer.handshake();
    await opened;
    const consumer = loneHandler(
      scripted,
      { ...DEFAULTS, prefetch: 1, channel: new AmqpChannel(scripted), queue: 'billing', consumerTag: 't' },
      (delivery) => {
        if (delivery.payload === 'again') throw new RequeueDelivery();
        return new Promise<void>(() => undefined);
      },
      log,
    );
    const started = consumer.start();
    await peer.openChannel();
    await peer.answer('queue.declare-ok', { queue: 'billing', messageCount: 0, consumerCount: 0 });
    await peer.answer('channel.close-ok', {});
    const channel = await peer.openChannel();
    await peer.answer('basic.qos-ok', {});
    await peer.answer('basic.consume-ok', { consumerTag: 't' });
    await started;
    const deliver = { consumerTag: 't', redelivered: false, exchange: '', routingKey: 'billing' };
    for (const [deliveryTag, body] of [
      [1, '"again"'],
      [2, '"runs"'],
      [3, '"waits"'],
    ] as const) {
      peer.sendContent(channel, 'basic.deliver', { ...deliver, deliveryTag }, {}, body);
    }
    expect((await peer.receive('basic.reject')).args).toEqual({ deliveryTag: 1, requeue: true });
    const stopped = consumer.stop(1);
    // First, or the broker would deliver it here again.
    await peer.receive('basic.cancel');
    expect((await peer.receive('basic.nack')).args).toEqual({ deliveryTag: 3, multiple: false, requeue: true });
    await stopped;
  });
});

/** A frame as the specification draws it (4.2.3): type, channel, size, payload, frame-end. */
function frame(type: number, channel: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(7);
  head.writeUInt8(type, 0);
  head.writeUInt16BE(channel, 1);
  head.writeUInt32BE(payload.length, 3);
  return Buffer.concat([head, payload, Buffer.from([0xce])]);
}

describe('a consumer that loses', () => {
  test('its connection comes back on the next one, while a handler runs; its message is delivered again', async () => {
    const queue = await scratch.queue();
    const deliveries = new Inbox<Delivery>();
    const gate = new Gate();
    await consumerOf(queue, async (delivery) => {
      deliveries.push(delivery);
      if (!delivery.redelivered) await gate.opened;
    }).start();
    await scratch.sendJson(queue, 1);
    const first = await deliveries.next();
    line.cut();
    const again = await deliveries.next('the second delivery');
    expect(again).toMatchObject({ payload: 1, redelivered: true });
    // Its channel is gone, and with it the delivery tag.
    expect(first.ack()).toBe(false);
    gate.open();
    await scratch.sendJson(queue, 2);
    expect((await deliveries.next()).payload).toBe(2);
    await consumers[0]?.stop(1_000);
    // The loss is the connection's, whose owner says it once for all of its consumers.
    expect(log.text()).not.toContain(') stopped');
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('its connection while it reads a message begins no handler for that one, which is delivered again', async () => {
    const queue = await scratch.queue();
    const reading = new Inbox<Gate>();
    const inbox = new Inbox<Delivery>();
    const consumer = consumerOf(queue, noted(inbox), { decode: gated(reading) });
    await consumer.start();
    await scratch.send(queue, 'slow');
    const lost = await reading.next();
    line.cut();
    const again = await reading.next();
    lost.open();
    again.open();
    expect((await inbox.next()).redelivered).toBe(true);
    await consumer.drain();
    expect(inbox.all).toHaveLength(1);
    expect(consumer.underWay).toBe(0);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('its queue declares it again and goes on', async () => {
    const queue = await scratch.queue();
    const inbox = await collecting(queue);
    await scratch.delete(queue);
    expect(await log.next('warn')).toContain('the broker cancelled it');
    await scratch.hasConsumers(queue, 1);
    await scratch.sendJson(queue, 'after');
    expect((await inbox.next()).payload).toBe('after');
  });

  test('its queue to somebody else comes back when it can be had', async () => {
    const queue = await scratch.queue();
    const inbox = await collecting(queue);
    await using other = new AmqpConnection(brokerUrl);
    await other.open();
    const { connection: taker } = other.status as { connection: Awaited<ReturnType<AmqpConnection['opened']>> };
    const channel = await taker.channel();
    // Pipelined: between the two, the consumer cannot declare it.
    await Promise.all([channel.queueDelete(queue), channel.queueDeclare(queue, { exclusive: true })]);
    expect(await log.next('error', 'cannot start')).toContain('RESOURCE_LOCKED');
    await other.close();
    // Until then nobody else may as much as look at it.
    await log.next('log', 'runs');
    await scratch.hasConsumers(queue, 1);
    await scratch.sendJson(queue, 'after');
    expect((await inbox.next()).payload).toBe('after');
  });

  test('its connection while all its handlers run starts no further ones than its prefetch says', async () => {
    const queue = await scratch.queue();
    const started = new Inbox<Delivery>();
    const gate = new Gate();
    const consumer = consumerOf(
      queue,
      async (delivery) => {
        started.push(delivery);
        await gate.opened;
      },
      { prefetch: 1 },
    );
    await scratch.sendJson(queue, 1);
    await consumer.start();
    await started.next();
    await log.next('log', 'runs');
    line.cut();
    await log.next('log', 'runs');
    // It is delivered again, and nobody else gets it; its handler waits for the first one's.
    await scratch.hasMessages(queue, 0);
    expect(consumer.underWay).toBe(1);
    gate.open();
    expect(await started.next()).toMatchObject({ payload: 1, redelivered: true });
    await consumer.stop(1_000);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('its queue, which a topology declares, declares it as the topology says, bindings and all', async () => {
    const [queue, exchange, dead] = [scratch.queueName(), scratch.exchangeName(), await scratch.queue()];
    const topology: Topology = {
      exchanges: [{ name: exchange, type: 'fanout' }],
      queues: [{ name: queue, deadLetter: { exchange: '', routingKey: dead } }],
      bindings: [{ source: exchange, queue }],
    };
    await applyTopology(await connection.opened(), topology);
    await consumerOf(queue, () => Promise.reject(new Error('no')), { topology }).start();
    await scratch.delete(queue);
    await log.next('warn', 'the broker cancelled it');
    await scratch.hasConsumers(queue, 1);
    await new AmqpPublisher(new AmqpChannel(connection)).publish(exchange, '', 'after');
    expect((await scratch.take(dead)).body.toString()).toBe('"after"');
    // What was declared fits what every next connection declares.
    await applyTopology(await connection.opened(), topology);
  });
});

describe('stop()', () => {
  test('waits for the handlers that run, and their acknowledgements arrive', async () => {
    const queue = await scratch.queue();
    const started = new Inbox<Delivery>();
    const gate = new Gate();
    const consumer = consumerOf(queue, async (delivery) => {
      started.push(delivery);
      await gate.opened;
    });
    await consumer.start();
    await scratch.sendJson(queue, 1);
    await scratch.sendJson(queue, 2);
    await started.next();
    await started.next();

    let stopped = false;
    const stopping = consumer.stop(10_000).then(() => {
      stopped = true;
    });
    expect(consumer.state).toBe('stopping');
    await scratch.hasConsumers(queue, 0);
    expect(stopped).toBe(false);
    expect(consumer.underWay).toBe(2);
    gate.open();
    await within('the stop', stopping);
    expect(consumer).toMatchObject({ state: 'stopped', underWay: 0 });
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(log.text('warn')).toBe('');
  });

  test('gives back what crosses the cancel: no handler starts, and nothing is lost', async () => {
    const queue = await scratch.queue();
    const total = 2_000;
    await scratch.sendAllJson(
      queue,
      Array.from({ length: total }, (_, index) => index),
    );
    let stopping: Promise<void> | undefined;
    let handled = 0;
    const consumer = consumerOf(
      queue,
      () => {
        // A handler that starts after stop() fails here, and its message is missing in the end.
        expect(stopping).toBeUndefined();
        handled += 1;
        if (handled >= 20 && consumer.state === 'running') stopping = consumer.stop(5_000);
        return Promise.resolve();
      },
      { prefetch: 500 },
    );
    await consumer.start();
    await scratch.hasConsumers(queue, 0);
    await within('the stop', Promise.resolve(stopping));
    await scratch.hasMessages(queue, total - handled);
    expect(log.text('error')).toBe('');
  });

  test('does not wait for a handler longer than its timeout; the message goes back when the connection ends', async () => {
    const queue = await scratch.queue();
    const started = new Gate();
    const consumer = consumerOf(queue, async () => {
      started.open();
      await new Promise(() => undefined);
    });
    await consumer.start();
    await scratch.sendJson(queue, 1);
    await within('the handler', started.opened);
    await within('the stop', consumer.stop(30));
    expect(await log.next('warn')).toContain('1 handler of');
    expect(consumer.state).toBe('stopped');
    await connection.close();
    await scratch.hasMessages(queue, 1);
    expect((await scratch.take(queue)).redelivered).toBe(true);
  });

  test('waits for the handlers also while the connection is gone', async () => {
    const queue = await scratch.queue();
    const started = new Gate();
    const gate = new Gate();
    const consumer = consumerOf(queue, async () => {
      started.open();
      await gate.opened;
    });
    await consumer.start();
    await scratch.sendJson(queue, 1);
    await within('the handler', started.opened);
    const lost = new Promise<void>((resolve) => {
      connection.on('status', ({ state }) => {
        if (state === 'connecting') resolve();
      });
    });
    line.cut();
    await within('the loss', lost);
    let stopped = false;
    const stopping = consumer.stop(10_000).then(() => {
      stopped = true;
    });
    await scratch.hasConsumers(queue, 0);
    expect(stopped).toBe(false);
    gate.open();
    await within('the stop', stopping);
    expect(consumer.underWay).toBe(0);
  });

  test('leaves no timers of handlers that keep the process alive', async () => {
    const queue = await scratch.queue();
    const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const begun = new Inbox<Delivery>();
    const forEver: DeliveryHandler = (delivery) => {
      begun.push(delivery);
      return new Promise(() => undefined);
    };
    const consumer = consumerOf(queue, forEver, { timeout: 24 * 60 * 60 * 1000 });
    await consumer.start();
    const before = timers();
    // More than there are timers of anything else.
    const count = 20;
    for (let n = 0; n < count; n += 1) await scratch.send(queue, 'never done');
    for (let n = 0; n < count; n += 1) await begun.next();
    await consumer.stop(0);
    expect(timers()).toBeLessThan(before + count / 2);
  });

  test('ends a consumer that is still starting', async () => {
    const queue = await scratch.queue();
    const consumer = consumerOf(queue, () => Promise.resolve());
    consumer.startInBackground();
    await within('the stop', consumer.stop(1_000));
    expect(consumer.state).toBe('stopped');
    await scratch.hasConsumers(queue, 0);
  });

  test.each([1, 2, 3, 4, 5, 6, 7])(
    'ends a consumer after any answer of the broker to its start, here number %i, and start() with it',
    async (answers) => {
      const queue = await scratch.queue();
      const consumer = consumerOf(queue, () => Promise.resolve());
      let seen = 0;
      const answered = new Gate();
      line.socket.on('data', () => {
        seen += 1;
        if (seen === answers) answered.open();
      });
      const started = consumer.start().then(
        () => 'running',
        (error: unknown) => (error as AmqpError).code,
      );
      await within('the answer', Promise.race([answered.opened, started]));
      await within('the stop', consumer.stop(1_000));
      expect(consumer.state).toBe('stopped');
      expect(await within('the start', started)).toMatch(/^(running|ABORTED)$/);
      await scratch.hasConsumers(queue, 0);
    },
  );

  test('ends a consumer that waits for a connection, and start() with it', async () => {
    const idle = new AmqpConnection(brokerUrl);
    const consumer = loneHandler(idle, { ...DEFAULTS, channel, queue: 'billing' }, () => Promise.resolve(), log);
    const started = expect(consumer.start()).rejects.toMatchObject({ code: 'ABORTED' });
    await within('the stop', consumer.stop(1_000));
    await within('the start', started);
  });

  test('has no handler begin after it, for a message that was still being read', async () => {
    const queue = await scratch.queue();
    const reading = new Inbox<Gate>();
    const inbox = new Inbox<Delivery>();
    const consumer = consumerOf(queue, noted(inbox), { decode: gated(reading) });
    await consumer.start();
    await scratch.send(queue, 'slow');
    const gate = await reading.next();
    await consumer.stop(0);
    gate.open();
    await scratch.hasMessages(queue, 1);
    await new Promise((resolve) => setImmediate(resolve));
    expect(inbox.all).toEqual([]);
    expect(consumer.underWay).toBe(0);
  });

  test('twice, or before the start, is no error', async () => {
    const queue = await scratch.queue();
    const idle = consumerOf(queue, () => Promise.resolve());
    await idle.stop(0);
    expect(idle.state).toBe('stopped');
    const running = consumerOf(queue, () => Promise.resolve());
    await running.start();
    await within('both stops', Promise.all([running.stop(100), running.stop(100)]));
    expect(running.state).toBe('stopped');
  });

  test('ends a consumer whose connection was closed for good', async () => {
    const queue = await scratch.queue();
    const consumer = consumerOf(queue, () => Promise.resolve());
    await consumer.start();
    await connection.close();
    await within('the stop', consumer.stop(1_000));
    expect(consumer.state).toBe('stopped');
  });
});
