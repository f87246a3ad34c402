/** Each step from one state of a consumer to another, on a broker: what brings it about, what it says, and how it goes on. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { ConsumerState, ConsumerStatus } from '../../lib/client/consumer-status.js';
import { ConnectionTopology } from '../../lib/messaging/connection-topology.js';
import type { Consumer } from '../../lib/messaging/consumer.js';
import type { Delivery } from '../../lib/messaging/delivery.js';
import type { DeliveryHandler } from '../../lib/messaging/handled-deliveries.js';
import { Peers } from '../conformance/bench.js';
import { brokerUrl } from '../support/broker.mjs';
import { frameOf } from '../support/client.js';
import { CollectedLog } from '../support/collected-log.js';
import { type LoneHandlerOptions, loneHandler } from '../support/lone-handler.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Gate, Inbox, eventually, within } from '../support/waits.js';

/** Waits between attempts that a test can await, and waits that no test lives to see the end of. */
const FAST = { initialDelay: 1, maxDelay: 20 };
const NEVER = { initialDelay: '7d', maxDelay: '7d' } as const;

let scratch: Scratch;
let line: CuttableLine;
let connection: AmqpConnection;
let channel: AmqpChannel;
let log: CollectedLog;
let consumers: Consumer[];
let statuses: Inbox<ConsumerStatus>;
let inbox: Inbox<Delivery>;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  log = new CollectedLog();
  consumers = [];
  statuses = new Inbox();
  inbox = new Inbox();
  await connect(FAST);
});

afterEach(async () => {
  await Promise.all(consumers.map((consumer) => consumer.stop(0)));
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

async function connect(recovery: { initialDelay: number | '7d'; maxDelay: number | '7d' }): Promise<void> {
  connection = new AmqpConnection(brokerUrl, { dial: line.dial, recovery });
  await connection.open();
  channel = new AmqpChannel(connection);
}

const note: DeliveryHandler = (delivery) => {
  inbox.push(delivery);
};

function consumerOf(queue: string, options: Partial<LoneHandlerOptions> = {}, handler = note): Consumer {
  const defaults = { name: 'Billing.charge', prefetch: 5, exclusive: false, consumerTag: undefined, arguments: {} };
  const own = { topology: {}, deadLetter: { by: 'broker' } as const, channel, queue, changed: statuses.push };
  const consumer = loneHandler(connection, { ...defaults, ...own, ...options }, handler, log);
  consumers.push(consumer);
  return consumer;
}

/** A handler that waits. */
function held(gate: Gate): DeliveryHandler {
  return async (delivery) => {
    inbox.push(delivery);
    await gate.opened;
  };
}

/** A consumer whose handler has a message and waits. */
async function whileHandling(): Promise<{ queue: string; gate: Gate; consumer: Consumer }> {
  const queue = await scratch.queue();
  const gate = new Gate();
  const consumer = consumerOf(queue, {}, held(gate));
  await consumer.start();
  await scratch.sendJson(queue, 1);
  await inbox.next();
  return { queue, gate, consumer };
}

async function becomes<S extends ConsumerState>(state: S): Promise<Extract<ConsumerStatus, { state: S }>> {
  const isIt = (status: ConsumerStatus): status is Extract<ConsumerStatus, { state: S }> => status.state === state;
  const status = await statuses.next(`the state ${state}`, isIt);
  if (!isIt(status)) throw new Error(`it is ${status.state}`);
  return status;
}

function seen(): ConsumerState[] {
  return statuses.all.map(({ state }) => state);
}

/** Channel numbers on which something has been consumed over this line, noted from the bytes that leave. */
function consumingChannels(): number[] {
  const found: number[] = [];
  const { socket } = line;
  const write: (chunk: Buffer) => boolean = socket.write.bind(socket);
  // Frames leave whole: type, channel, size, payload that begins with class and method, frame-end.
  socket.write = (chunk: unknown): boolean => {
    for (let at = 0, bytes = chunk as Buffer; at + 11 <= bytes.length; at += 8 + bytes.readUInt32BE(at + 3)) {
      if (bytes[at] === 1 && bytes.readUInt32BE(at + 7) === 0x003c_0014) found.push(bytes.readUInt16BE(at + 1));
    }
    return write(chunk as Buffer);
  };
  return found;
}

test('a consumer goes from idle over starting to running, and says since when', async () => {
  const consumer = consumerOf(await scratch.queue());
  expect(consumer.status.state).toBe('idle');
  const before = Date.now();
  await consumer.start();
  expect(seen()).toEqual(['starting', 'running']);
  expect(consumer.status.since.getTime()).toBeGreaterThanOrEqual(before - 1);
  expect(log.text('log')).toContain('Billing.charge');
  await consumer.stop(1_000);
  expect(seen()).toEqual(['starting', 'running', 'stopping', 'stopped']);
});

test('a consumer that is never started goes from idle to stopped', async () => {
  const consumer = consumerOf(await scratch.queue());
  await consumer.stop(0);
  expect(seen()).toEqual(['stopped']);
});

describe('a consumer recovers', () => {
  test('when its queue is deleted: the broker cancels it', async () => {
    const queue = await scratch.queue();
    await consumerOf(queue).start();
    await scratch.delete(queue);
    const recovering = await becomes('recovering');
    expect(recovering).toMatchObject({ attempts: 0, error: undefined });
    expect(recovering.why).toContain('the broker cancelled it');
    expect(recovering.nextAttempt).toBeInstanceOf(Date);
    expect(await log.next('warn')).toContain('the broker cancelled it');
    await becomes('running');
    await scratch.hasConsumers(queue, 1);
  });

  test('when the broker closes its channel', async () => {
    const queue = await scratch.queue();
    const channels = consumingChannels();
    await consumerOf(queue).start();
    // An acknowledgement of what was never delivered is the channel's end (406).
    line.socket.write(frameOf(channels[0] ?? 0, 'basic.ack', { deliveryTag: 99, multiple: false }));
    const { error, why } = await becomes('recovering');
    expect(error).toMatchObject({ code: 'CHANNEL_CLOSED', replyCode: 406 });
    expect(await log.next('warn')).toContain(why);
    await becomes('running');
    await scratch.sendJson(queue, 'after');
    expect((await inbox.next()).payload).toBe('after');
  });

  test('when its connection is lost: the next attempt waits for the next one', async () => {
    const queue = await scratch.queue();
    await consumerOf(queue).start();
    line.cut();
    const recovering = await becomes('recovering');
    expect(recovering).toMatchObject({ error: { code: 'CONNECTION_LOST' }, nextAttempt: undefined });
    await becomes('running');
  });

  test('when somebody else has the queue for himself, as soon as he lets go', async () => {
    const queue = await scratch.queue();
    await consumerOf(queue, { exclusive: true }).start();
    await becomes('running');
    const second = consumerOf(queue);
    second.startInBackground();
    expect(await becomes('recovering')).toMatchObject({ error: { replyCode: 403 } });
    expect(second.status).toMatchObject({ state: 'recovering' });
    expect(await log.next('error')).toContain('cannot start');
    await consumers[0]?.stop(0);
    await becomes('running');
    expect(seen()).not.toContain('failed');
  });
});

describe('a consumer whose queue cannot be set up', () => {
  async function broken(): Promise<{ consumer: Consumer; queue: string; exchange: string }> {
    const exchange = await scratch.exchange('fanout');
    const queue = scratch.queueName();
    const topology = new ConnectionTopology(connection, { mode: 'declare', onConflict: 'fail', checks: {}, log });
    topology.add({ queues: [{ name: queue }], bindings: [{ source: exchange, queue }] }, 'here');
    const consumer = consumerOf(queue, { ensureQueue: topology.preparation(queue, { late: true }) });
    await consumer.start();
    await channel.exchangeDelete(exchange);
    await scratch.delete(queue);
    return { consumer, queue, exchange };
  }

  test('has failed, with its error, and goes on trying until it runs, bindings and all', async () => {
    const { queue, exchange } = await broken();
    const failed = await becomes('failed');
    expect(failed).toMatchObject({ attempts: 1, error: { code: 'TOPOLOGY_FAILED', replyCode: 404 } });
    expect(failed.why).toContain(exchange);
    expect(await log.next('error', 'cannot start')).toContain(exchange);
    const again = await becomes('failed');
    expect(again.attempts).toBe(2);
    expect(again.since).toBe(failed.since);
    await channel.exchangeDeclare(exchange, 'fanout');
    await becomes('running');
    await channel.basicPublish(exchange, '', '"bound"', { contentType: 'application/json', mandatory: true });
    expect((await inbox.next()).payload).toBe('bound');
    await scratch.hasConsumers(queue, 1);
  });

  test('is tried at once when it is resumed', async () => {
    await connection.close();
    await connect(NEVER);
    const { consumer, exchange } = await broken();
    await becomes('recovering');
    consumer.resume();
    await becomes('failed');
    await channel.exchangeDeclare(exchange, 'fanout');
    consumer.resume();
    await becomes('running');
  });

  test('is stopped while it has failed', async () => {
    await connection.close();
    await connect(NEVER);
    const { consumer } = await broken();
    await becomes('recovering');
    consumer.resume();
    await becomes('failed');
    await within('the stop', consumer.stop(10_000));
    expect(consumer.status.state).toBe('stopped');
  });
});

test('a consumer whose first attempt is refused has stopped, with the error', async () => {
  const queue = await scratch.queue();
  await consumerOf(queue, { exclusive: true }).start();
  const second = consumerOf(queue);
  await expect(second.start()).rejects.toMatchObject({ replyCode: 403 });
  expect(second.status).toMatchObject({ state: 'stopped', error: { replyCode: 403 } });
});

test('a consumer whose connection is closed for good has stopped, with the error', async () => {
  await consumerOf(await scratch.queue()).start();
  await connection.close();
  expect(await becomes('stopped')).toMatchObject({ error: { code: 'CONNECTION_CLOSED' } });
});

test('stopping one that its connection has ended waits for what still runs', async () => {
  const { gate, consumer } = await whileHandling();
  await connection.close();
  await becomes('stopped');
  let isStopped = false;
  const stopped = consumer.stop(10_000).then(() => {
    isStopped = true;
  });
  await new Promise((resolve) => setImmediate(resolve));
  expect(isStopped).toBe(false);
  gate.open();
  await within('the stop', stopped);
  expect(consumer.underWay).toBe(0);
});

describe('a paused consumer', () => {
  test('is cancelled on the broker, while what runs goes on and is acknowledged; resumed, it consumes again', async () => {
    const queue = await scratch.queue();
    const gate = new Gate();
    const consumer = consumerOf(queue, {}, held(gate));
    await consumer.start();
    await becomes('running');
    await scratch.sendJson(queue, 1);
    await inbox.next();
    await consumer.pause();
    expect(consumer.status.state).toBe('paused');
    expect(await scratch.state(queue)).toEqual(expect.objectContaining({ consumerCount: 0 }));
    await scratch.sendJson(queue, 2);
    gate.open();
    await within('the drain', consumer.drain());
    expect(inbox.all).toHaveLength(1);
    consumer.resume();
    await becomes('running');
    expect((await inbox.next()).payload).toBe(2);
    await consumer.stop(1_000);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(seen()).toEqual(['starting', 'running', 'paused', 'starting', 'running', 'stopping', 'stopped']);
    expect(log.text('warn')).toBe('');
  });

  test('stays paused when its connection is lost, and runs when it is resumed', async () => {
    const queue = await scratch.queue();
    const consumer = consumerOf(queue);
    await consumer.start();
    await consumer.pause();
    const opened = new Promise<void>((resolve) => {
      connection.on('status', ({ state }) => {
        if (state === 'open') resolve();
      });
    });
    line.cut();
    await within('the next connection', opened);
    await scratch.sendJson(queue, 1);
    await scratch.hasMessages(queue, 1);
    expect(await scratch.state(queue)).toMatchObject({ consumerCount: 0 });
    expect(consumer.status.state).toBe('paused');
    consumer.resume();
    expect((await inbox.next()).payload).toBe(1);
  });

  test('declares its queue again when that was deleted meanwhile', async () => {
    const queue = await scratch.queue();
    const consumer = consumerOf(queue);
    await consumer.start();
    await consumer.pause();
    await scratch.delete(queue);
    consumer.resume();
    await scratch.hasConsumers(queue, 1);
    expect(seen()).not.toContain('recovering');
  });

  test('tells a handler that still runs when the channel is lost', async () => {
    const queue = await scratch.queue();
    const aborted = new Gate();
    const consumer = consumerOf(queue, {}, async (delivery) => {
      inbox.push(delivery);
      delivery.signal.addEventListener('abort', () => {
        aborted.open();
      });
      await aborted.opened;
    });
    await consumer.start();
    await scratch.sendJson(queue, 1);
    await inbox.next();
    await consumer.pause();
    line.cut();
    await within('the abort', aborted.opened);
    expect(consumer.status.state).toBe('paused');
  });

  test('may be paused in any state: while it starts, twice, and before it recovers', async () => {
    const queue = await scratch.queue();
    const consumer = consumerOf(queue);
    await consumer.pause();
    expect(consumer.status.state).toBe('idle');
    const started = consumer.start();
    await Promise.all([consumer.pause(), consumer.pause()]);
    await within('the start', started);
    await scratch.hasConsumers(queue, 0);
    expect(consumer.status.state).toBe('paused');
    consumer.resume();
    await becomes('running');
    await scratch.delete(queue);
    await becomes('recovering');
    await consumer.pause();
    expect(consumer.status.state).toBe('paused');
    consumer.resume();
    await becomes('running');
    await scratch.hasConsumers(queue, 1);
  });

  test('resumed before the broker has answered consumes', async () => {
    const queue = await scratch.queue();
    const consumer = consumerOf(queue);
    await consumer.start();
    for (let round = 0; round < 5; round += 1) {
      const paused = consumer.pause();
      consumer.resume();
      await paused;
    }
    await scratch.sendJson(queue, 1);
    expect((await inbox.next()).payload).toBe(1);
    await consumer.stop(1_000);
    await scratch.hasConsumers(queue, 0);
    await scratch.hasMessages(queue, 0);
  });

  test('is stopped, which waits for what still runs', async () => {
    const { queue, gate, consumer } = await whileHandling();
    await consumer.pause();
    const stopping = consumer.stop(10_000);
    gate.open();
    await within('the stop', stopping);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
    expect(() => {
      consumer.resume();
    }).toThrow(expect.objectContaining({ code: 'ABORTED' }));
  });

  test('consumes no more when it is stopped while a handler still runs', async () => {
    const channels = consumingChannels();
    const { queue, gate, consumer } = await whileHandling();
    await consumer.pause();
    const stopping = consumer.stop(10_000);
    // So many answers of the broker are more than a start takes.
    for (let round = 0; round < 5; round += 1) await scratch.state(queue);
    expect(channels).toHaveLength(1);
    gate.open();
    await within('the stop', stopping);
    expect(channels).toHaveLength(1);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('resumed, and stopped while it starts, is cancelled while its handler still runs', async () => {
    const channels = consumingChannels();
    const { queue, gate, consumer } = await whileHandling();
    await consumer.pause();
    consumer.resume();
    await eventually('the second start', () => Promise.resolve(channels.length === 2 ? true : undefined));
    const stopping = consumer.stop(10_000);
    await scratch.hasConsumers(queue, 0);
    gate.open();
    await within('the stop', stopping);
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('may be resumed by who is told that it is paused', async () => {
    const queue = await scratch.queue();
    const changed = (status: ConsumerStatus): void => {
      statuses.push(status);
      if (status.state === 'paused') consumer.resume();
    };
    const consumer = consumerOf(queue, { changed });
    await consumer.start();
    await becomes('running');
    await consumer.pause();
    await becomes('running');
    expect(seen()).toEqual(['starting', 'running', 'paused', 'starting', 'running']);
  });
});

describe.each(['classic', 'quorum'] as const)('what a consumer of a %s queue gives back', (type) => {
  test.each(['paused', 'stopped'] as const)('when it is %s is not delivered to it again', async (how) => {
    const queue = await scratch.queue({ arguments: { 'x-queue-type': type } });
    const gate = new Gate();
    const consumer = consumerOf(queue, { concurrency: 1 }, held(gate));
    for (let count = 0; count < 5; count += 1) await scratch.sendJson(queue, count);
    await consumer.start();
    await inbox.next();
    await eventually('the deliveries', () => Promise.resolve(connection.metrics.delivered === 5 ? true : undefined));
    const over = how === 'paused' ? consumer.pause() : consumer.stop(10_000);
    await scratch.hasMessages(queue, 4);
    gate.open();
    await over;
    await consumer.stop(10_000);
    expect(connection.metrics.delivered).toBe(5);
    const { properties } = await scratch.take(queue);
    // Of RabbitMQ 4.3 only what was rejected is counted.
    if (type === 'quorum') expect(properties.headers?.['x-delivery-count'] ?? 1).toBe(1);
  });
});

describe('drain()', () => {
  test('pauses, and resolves when nothing is under way', async () => {
    const { queue, gate, consumer } = await whileHandling();
    let isDrained = false;
    const drained = consumer.drain().then(() => {
      isDrained = true;
    });
    await becomes('paused');
    await scratch.hasConsumers(queue, 0);
    expect(isDrained).toBe(false);
    gate.open();
    await within('the drain', drained);
    expect(consumer.underWay).toBe(0);
  });

  test('ends by its timeout and by its signal, says how much is under way, and leaves it paused', async () => {
    const { gate, consumer } = await whileHandling();
    await expect(consumer.drain({ timeout: 1 })).rejects.toMatchObject({
      code: 'ABORTED',
      message: expect.stringContaining('1 delivery of Billing.charge') as unknown,
    });
    const reason = new Error('enough');
    await expect(consumer.drain({ signal: AbortSignal.abort(reason) })).rejects.toMatchObject({
      code: 'ABORTED',
      cause: reason,
    });
    expect(consumer.status.state).toBe('paused');
    gate.open();
  });
});

test('a consumer over whose start the broker closes the connection again and again is named, with what the broker says', async () => {
  const peers = new Peers();
  await using amqp = peers.amqp;
  const consumer = loneHandler(
    amqp,
    {
      ...{ name: 'Audit.note', queue: 'events', prefetch: 5, exclusive: false, consumerTag: undefined, arguments: {} },
      ...{ topology: {}, channel: new AmqpChannel(amqp), ensureQueue: () => Promise.resolve() },
    },
    note,
    log,
  );
  consumers.push(consumer);
  consumer.startInBackground();
  for (let round = 0; round < 3; round += 1) {
    const peer = await peers.opened();
    await peer.openChannel();
    await peer.answer('basic.qos-ok', {});
    await peer.receive('basic.consume');
    // Once may be chance: another of the connection has broken something.
    expect(log.text('error').split('\n').filter(Boolean)).toHaveLength(Math.max(0, round - 1));
    peer.send(0, 'connection.close', { replyCode: 541, replyText: 'INTERNAL_ERROR', classId: 0, methodId: 0 });
    await peer.receive('connection.close-ok');
  }
  const told = await log.next('error', 'failed to start 3 times');
  expect(told).toContain("Audit.note (queue 'events') was starting when the broker closed the connection");
  expect(told).toContain('541 INTERNAL_ERROR');
});
