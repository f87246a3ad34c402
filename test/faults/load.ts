/**
 * A load on a queue that goes on while somebody hurts the brokers, and what came of it: every publish confirmed, every message
 * delivered, and in which order. NEST_AMQP_LOAD=20000 sends more messages than it takes for that; the figures are printed. What hurts is
 * left to the tests.
 */
import { expect } from '@jest/globals';
import { once, setMaxListeners } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { QueueDeclareOptions } from '../../lib/client/channel-options.js';
import { PublishNackedError } from '../../lib/errors.js';
import { AmqpPublisher } from '../../lib/messaging/publisher.js';
import { eventually, within } from '../support/waits.js';

/** Fewest messages. */
export const TOTAL = Number(process.env['NEST_AMQP_LOAD'] ?? 4_000);
/** Milliseconds for whatever is waited for. */
export const PATIENCE = 120_000;
/** Publishes that await their confirm at a time. */
const WINDOW = 200;
/** Most messages that are confirmed and not consumed: what waits at the end has to be consumed in time. */
const BACKLOG = 5_000;
/** Milliseconds before what was refused is published again. */
const NACK_PAUSE = 100;

/** Counts up, and lets a test wait until it has come far enough. */
export class Progress extends EventTarget {
  count = 0;

  constructor() {
    super();
    // As many wait as there are publishers.
    setMaxListeners(0, this);
  }

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

export interface Load {
  /** Confirms so far. */
  readonly confirmed: Progress;
  /** Deliveries so far, of messages that had not come before. */
  readonly consumed: Progress;
  /** How often the two connections were lost. */
  readonly losses: Progress;
}

/** The brokers that the load is on, any of which has the queue, and how that is declared. */
export interface LoadedQueue {
  readonly brokers: readonly string[];
  readonly queue: string;
  readonly options?: QueueDeclareOptions;
}

/** What came of it. */
export interface LoadFigures {
  /** Publishes that the broker refused, and that were made again. */
  readonly nacked: number;
  /** Messages that came first after a later one had. */
  readonly outOfOrder: number;
}

/** Publishes and consumes all messages while `hurt` runs; expects that each was confirmed, and none that was is lost. */
export async function underLoad(
  { brokers, queue, options = { durable: true } }: LoadedQueue,
  hurt: (load: Load) => Promise<void>,
): Promise<LoadFigures> {
  const recovery = { initialDelay: 10, maxDelay: 200 };
  await using publishing = new AmqpConnection(brokers, { recovery });
  await using consuming = new AmqpConnection(brokers, { recovery });
  await Promise.all([publishing.open(), consuming.open()]);
  const losses = new Progress();
  for (const connection of [publishing, consuming]) {
    connection.on('status', (status) => {
      if (status.state === 'connecting' && status.attempt === 1) losses.advance();
    });
  }
  await using consumer = new AmqpChannel(consuming);
  await consumer.queueDeclare(queue, options);
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
  let nacked = 0;
  let isOver = false;
  const send = async (): Promise<void> => {
    while (next < TOTAL || !isOver) {
      const number = next;
      next += 1;
      await sendOne(number).catch((error: unknown) => rejected.push(error));
      progress.advance();
      const least = confirmed.size - BACKLOG;
      if (received.distinct < least) await received.progress.reaches('the deliveries of a full queue', least);
    }
  };
  /** A broker that says it has not stored the message is asked again, as a user would. */
  const sendOne = async (number: number): Promise<void> => {
    for (;;) {
      try {
        await publisher.sendToQueue(queue, number);
        confirmed.add(number);
        return;
      } catch (error) {
        if (!(error instanceof PublishNackedError)) throw error;
        nacked += 1;
        await delay(NACK_PAUSE);
      }
    }
  };
  const senders = Promise.all(Array.from({ length: WINDOW }, send));
  try {
    await hurt({ confirmed: progress, consumed: received.progress, losses });
  } finally {
    isOver = true;
  }
  await within('the end of every publish', senders, PATIENCE);
  await received.progress.reaches('the delivery of every message', confirmed.size);

  // The consumer runs again, and the queue is empty once the duplicates are through.
  await publisher.sendToQueue(queue, next);
  confirmed.add(next);
  await received.progress.reaches('the delivery of one more message', confirmed.size);
  await eventually('an empty queue with its one consumer', async () => {
    const { messageCount, consumerCount } = await consumer.queueDeclare(queue, { passive: true });
    return messageCount === 0 && consumerCount === 1 ? true : undefined;
  });
  const figures = {
    published: next + 1,
    confirmed: confirmed.size,
    consumed: received.distinct,
    lost: received.lost(confirmed),
    duplicated: received.duplicated,
    outOfOrder: received.outOfOrder,
    nacked,
    rejected: rejected.length,
    losses: losses.count,
  };
  process.stderr.write(`${queue}: ${JSON.stringify(figures)}\n`);
  expect(rejected).toEqual([]);
  expect(figures).toMatchObject({ confirmed: next + 1, lost: 0 });
  return figures;
}
