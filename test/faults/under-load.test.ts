/**
 * A publisher and a consumer under load on a broker of their own, whose connections are closed, which is restarted, and which
 * is killed. The load goes on until the faults are over, so that all of them come under load. NEST_AMQP_LOAD=20000 sends more
 * messages than it takes for that, NEST_AMQP_RESTARTS=100 restarts it more often; the figures are printed.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { once } from 'node:events';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import { AmqpPublisher } from '../../lib/messaging/publisher.js';
import { findRabbitMq } from '../support/rabbitmq-install.mjs';
import { RabbitMqServer } from '../support/rabbitmq-server.mjs';
import { Scratch } from '../support/scratch.js';
import { eventually, within } from '../support/waits.js';

/** Fewest messages. */
const TOTAL = Number(process.env['NEST_AMQP_LOAD'] ?? 4_000);
const RESTARTS = Number(process.env['NEST_AMQP_RESTARTS'] ?? 2);
/** Publishes that await their confirm at a time. */
const WINDOW = 200;
const PATIENCE = 120_000;

// With a broker given by its URL, RabbitMQ need not be installed here.
const faultTest = findRabbitMq() === undefined ? test.skip : test;
let server: RabbitMqServer;

beforeAll(async () => {
  if (findRabbitMq() !== undefined) server = await RabbitMqServer.start();
}, PATIENCE);

afterAll(async () => {
  if (findRabbitMq() !== undefined) await server.stop();
}, PATIENCE);

/** Counts up, and lets a test wait until it has come far enough. */
class Progress extends EventTarget {
  count = 0;

  advance(): void {
    this.count += 1;
    this.dispatchEvent(new Event('advance'));
  }

  async reaches(what: string, count: number): Promise<void> {
    const reached = (async () => {
      while (this.count < count) await once(this, 'advance');
    })();
    await within(what, reached, PATIENCE);
  }
}

/** What came in at the consumer. */
class Received {
  readonly progress = new Progress();
  readonly #seen = new Set<number>();
  duplicated = 0;
  outOfOrder = 0;
  #newest = -1;

  get distinct(): number {
    return this.#seen.size;
  }

  readonly take = (number: number): void => {
    if (this.#seen.has(number)) {
      this.duplicated += 1;
      return;
    }
    this.#seen.add(number);
    if (number < this.#newest) this.outOfOrder += 1;
    this.#newest = Math.max(this.#newest, number);
    this.progress.advance();
  };

  lost(confirmed: ReadonlySet<number>): number {
    return [...confirmed].filter((number) => !this.#seen.has(number)).length;
  }
}

interface Load {
  /** Confirms so far. */
  readonly confirmed: Progress;
  /** How often the two connections were lost. */
  readonly losses: Progress;
}

/** Publishes and consumes all messages while `hurt` runs, and judges what came of it. */
async function underLoad(name: string, hurt: (load: Load) => Promise<void>): Promise<void> {
  const options = { recovery: { initialDelay: 10, maxDelay: 200 } };
  await using publishing = new AmqpConnection(server.url, options);
  await using consuming = new AmqpConnection(server.url, options);
  await Promise.all([publishing.open(), consuming.open()]);
  const losses = new Progress();
  for (const connection of [publishing, consuming]) {
    connection.on('status', (status) => {
      if (status.state === 'connecting' && status.attempt === 1) losses.advance();
    });
  }
  const queue = `under load: ${name}`;
  await using consumer = new AmqpChannel(consuming);
  await consumer.queueDeclare(queue, { durable: true });
  await consumer.basicQos(100);
  const received = new Received();
  await consumer.basicConsume(queue, (message) => {
    received.take(Number(JSON.parse(message.body.toString())));
    message.ack();
  });

  await using channel = new AmqpChannel(publishing);
  const publisher = new AmqpPublisher(channel, { timeout: PATIENCE });
  const confirmed = new Set<number>();
  const rejected: unknown[] = [];
  const progress = new Progress();
  let next = 0;
  let isOver = false;
  const send = async (): Promise<void> => {
    while (next < TOTAL || !isOver) {
      const number = next;
      next += 1;
      try {
        await publisher.sendToQueue(queue, number);
        confirmed.add(number);
      } catch (error) {
        rejected.push(error);
      }
      progress.advance();
    }
  };
  const senders = Promise.all(Array.from({ length: WINDOW }, send));
  try {
    await hurt({ confirmed: progress, losses });
  } finally {
    isOver = true;
  }
  await within('the end of every publish', senders, PATIENCE);
  await received.progress.reaches('the delivery of every message', confirmed.size);

  // The consumer runs again, and the queue is empty once the duplicates are through.
  await publisher.sendToQueue(queue, next);
  confirmed.add(next);
  await received.progress.reaches('the delivery of one more message', confirmed.size);
  await using scratch = await Scratch.open(server.url);
  await eventually('an empty queue with its one consumer', async () => {
    const state = await scratch.state(queue);
    return state?.messageCount === 0 && state.consumerCount === 1 ? true : undefined;
  });
  const figures = {
    published: next + 1,
    confirmed: confirmed.size,
    consumed: received.distinct,
    lost: received.lost(confirmed),
    duplicated: received.duplicated,
    outOfOrder: received.outOfOrder,
    rejected: rejected.length,
    losses: losses.count,
  };
  process.stderr.write(`${name}: ${JSON.stringify(figures)}\n`);
  expect(rejected).toEqual([]);
  expect(figures).toMatchObject({ confirmed: next + 1, lost: 0, outOfOrder: 0 });
}

faultTest(
  'no confirmed message is lost and none comes out of order when the broker closes all connections, again and again',
  async () => {
    await underLoad('all connections closed five times', async ({ confirmed, losses }) => {
      for (let round = 1; round <= 5; round += 1) {
        await confirmed.reaches(`the confirms before round ${round}`, confirmed.count + 200);
        const before = losses.count;
        await server.ctl('close_all_connections', `round ${round}`);
        await losses.reaches('the loss of both connections', before + 2);
      }
    });
  },
  PATIENCE * 2,
);

faultTest(
  'no confirmed message is lost and none comes out of order when the broker is restarted',
  async () => {
    await underLoad('restarted', async ({ confirmed, losses }) => {
      await confirmed.reaches('the confirms before the restart', TOTAL / 3);
      await server.restart();
      await losses.reaches('the loss of both connections', 2);
    });
  },
  PATIENCE * 2,
);

faultTest(
  'no confirmed message is lost and none comes out of order when the broker is killed and started again',
  async () => {
    // RabbitMQ writes what is declared to disk a few seconds later; an orderly end does so at once.
    await using connection = await connect(server.url);
    await (await connection.channel()).queueDeclare('under load: killed');
    await server.restart();
    await underLoad('killed', async ({ confirmed, losses }) => {
      await confirmed.reaches('the confirms before the kill', TOTAL / 3);
      await server.kill();
      await server.restart();
      await losses.reaches('the loss of both connections', 2);
    });
  },
  PATIENCE * 2,
);

faultTest(
  `no confirmed message is lost and none comes out of order in ${RESTARTS} restarts, one of ten after a kill`,
  async () => {
    await underLoad(`restarted ${RESTARTS} times`, async ({ confirmed, losses }) => {
      for (let round = 1; round <= RESTARTS; round += 1) {
        await confirmed.reaches(`the confirms before restart ${round}`, confirmed.count + 200);
        const before = losses.count;
        if (round % 10 === 2) {
          await server.kill();
          await server.restart();
        } else {
          // Quicker than the whole node, Erlang and all.
          await server.ctl('stop_app');
          await server.ctl('start_app');
        }
        await losses.reaches('the loss of both connections', before + 2);
      }
    });
  },
  PATIENCE * 2 + RESTARTS * PATIENCE,
);
