/**
 * A publisher and a consumer under load on a broker of their own, whose connections are closed, which is restarted, and which
 * is killed. The load goes on until the faults are over, so that all of them come under load. NEST_AMQP_RESTARTS=100 restarts it
 * more often.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';

import { connect } from '../../lib/client/connection.js';
import { findRabbitMq } from '../support/rabbitmq-install.mjs';
import { RabbitMqServer } from '../support/rabbitmq-server.mjs';
import { type Load, PATIENCE, TOTAL, underLoad } from './load.js';

const RESTARTS = Number(process.env['NEST_AMQP_RESTARTS'] ?? 2);

// With a broker given by its URL, RabbitMQ need not be installed here.
const faultTest = findRabbitMq() === undefined ? test.skip : test;
let server: RabbitMqServer;

beforeAll(async () => {
  if (findRabbitMq() !== undefined) server = await RabbitMqServer.start();
}, PATIENCE);

afterAll(async () => {
  if (findRabbitMq() !== undefined) await server.stop();
}, PATIENCE);

async function onServer(name: string, hurt: (load: Load) => Promise<void>): Promise<void> {
  const figures = await underLoad({ brokers: [server.url], queue: `under load: ${name}` }, hurt);
  expect(figures).toMatchObject({ nacked: 0, outOfOrder: 0 });
}

faultTest(
  'no confirmed message is lost and none comes out of order when the broker closes all connections, again and again',
  async () => {
    await onServer('all connections closed five times', async ({ confirmed, consumed, losses }) => {
      for (let round = 1; round <= 5; round += 1) {
        await confirmed.reaches(`the confirms before round ${round}`, confirmed.count + 200);
        // Both connections are there to be lost.
        await consumed.reaches(`a delivery before round ${round}`, consumed.count + 1);
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
    await onServer('restarted', async ({ confirmed, losses }) => {
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
    await onServer('killed', async ({ confirmed, losses }) => {
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
    await onServer(`restarted ${RESTARTS} times`, async ({ confirmed, consumed, losses }) => {
      for (let round = 1; round <= RESTARTS; round += 1) {
        await confirmed.reaches(`the confirms before restart ${round}`, confirmed.count + 200);
        await consumed.reaches(`a delivery before restart ${round}`, consumed.count + 1);
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
