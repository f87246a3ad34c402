/**
 * Publishes with a delay on a broker of their own that is restarted, and killed, while they go on: what waits, what becomes due
 * while there is no broker, and what is published meanwhile.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import { AmqpPublisher } from '../../lib/messaging/publisher.js';
import { findRabbitMq } from '../support/rabbitmq-install.mjs';
import { RabbitMqServer } from '../support/rabbitmq-server.mjs';
import { eventually, within } from '../support/waits.js';
import { PATIENCE, Progress } from './load.js';

const faultTest = findRabbitMq() === undefined ? test.skip : test;
let server: RabbitMqServer;

/** Due while the broker is away, most of it; due when it is there again. */
const DELAYS = [300, 10_000];

beforeAll(async () => {
  if (findRabbitMq() === undefined) return;
  server = await RabbitMqServer.start();
  await using connection = await connect(server.url);
  const channel = await connection.channel();
  await channel.exchangeDeclare('reminders', 'topic');
}, PATIENCE);

afterAll(async () => {
  if (findRabbitMq() !== undefined) await server.stop();
}, PATIENCE);

/**
 * Returns from when on what becomes due has to arrive: RabbitMQ moves it from a classic queue to the next without confirms, and a
 * node that is killed has not written everything to disk that it moved in the seconds before.
 */
faultTest.each<[what: string, fault: () => Promise<number>]>([
  [
    'restarted',
    async () => {
      await server.restart();
      return 0;
    },
  ],
  [
    'killed and started again',
    async () => {
      await server.kill();
      const killedAt = Date.now();
      await server.restart();
      return killedAt;
    },
  ],
])(
  'what was published with a delay arrives when it is due, and not before, when the broker is %s',
  async (what, fault) => {
    await using connection = new AmqpConnection(server.url, { recovery: { initialDelay: 10, maxDelay: 200 } });
    await connection.open();
    await using channel = new AmqpChannel(connection);
    await channel.queueDeclare(what);
    await channel.queueBind(what, 'reminders', what);
    const publisher = new AmqpPublisher(channel, { timeout: PATIENCE });
    const send = (payload: unknown, delay: number): Promise<void> =>
      publisher.publish('reminders', what, payload, { delay });
    // RabbitMQ writes what is declared to disk a few seconds later; an orderly end does so at once.
    for (const delay of DELAYS) await send('declares the wait queue', delay);
    await server.restart();
    await channel.queuePurge(what);

    const sent = new Map<string, { readonly at: number; readonly delay: number }>();
    const confirmed = new Progress();
    let isOver = false;
    const senders = DELAYS.map(async (delay) => {
      for (let number = 0; !isOver || number < 100; number += 1) {
        const id = `${delay}.${number}`;
        sent.set(id, { at: Date.now(), delay });
        await send(id, delay);
        confirmed.advance();
      }
    });
    await confirmed.reaches('the confirms before the fault', 100);
    const dueFrom = await fault();
    await confirmed.reaches('the confirms after the fault', confirmed.count + 20);
    isOver = true;
    await within('the end of every publish', Promise.all(senders), PATIENCE);

    const early: string[] = [];
    const arrived = new Set<string>();
    await channel.basicConsume(what, (message) => {
      const id = JSON.parse(message.text) as string;
      const { at, delay } = sent.get(id) ?? { at: 0, delay: 0 };
      // The clocks of broker and test run in one machine, and tick in milliseconds.
      if (Date.now() - at < delay - 5) early.push(id);
      arrived.add(id);
      message.ack();
    });
    const missing = (): string[] =>
      [...sent].flatMap(([id, { at, delay }]) => (at + delay > dueFrom && !arrived.has(id) ? [id] : []));
    await eventually(
      'the arrival of every message',
      () => Promise.resolve(missing().length === 0 || undefined),
      PATIENCE,
    );
    expect(early).toEqual([]);
  },
  PATIENCE * 3,
);
