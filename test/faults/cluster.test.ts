/**
 * A load on a quorum queue of a three-node cluster, of whose nodes one after the other is killed: NEST_AMQP_CLUSTER_KILLS says
 * how often. Order is not among what is claimed: RabbitMQ gives back what it had handed out through the lost node only after it
 * has handed out more through another.
 */
import { afterAll, beforeAll, test } from '@jest/globals';

import { RabbitMqCluster } from '../support/rabbitmq-cluster.mjs';
import { findRabbitMq } from '../support/rabbitmq-install.mjs';
import { eventually } from '../support/waits.js';
import { PATIENCE, underLoad } from './load.js';

const KILLS = Number(process.env['NEST_AMQP_CLUSTER_KILLS'] ?? 0);

// Three nodes beside those of other tests are too much for a small machine; and RabbitMQ need not be installed here.
const isAsked = KILLS > 0 && findRabbitMq() !== undefined;
const faultTest = isAsked ? test : test.skip;
let cluster: RabbitMqCluster;

beforeAll(async () => {
  if (isAsked) cluster = await RabbitMqCluster.start(3);
}, PATIENCE);

afterAll(async () => {
  if (isAsked) await cluster.stop();
}, PATIENCE);

faultTest(
  `no confirmed message is lost when the leader of a quorum queue is killed, ${KILLS} times`,
  async () => {
    const queue = 'under load: quorum';
    const options = { durable: true, arguments: { 'x-queue-type': 'quorum' } };
    await underLoad({ brokers: cluster.urls, queue, options }, async ({ confirmed }) => {
      for (let round = 1; round <= KILLS; round += 1) {
        await confirmed.reaches(`the confirms before kill ${round}`, confirmed.count + 200);
        // Of two members one that is killed would take the quorum along: the queue would have to stand still.
        const leader = await eventually('a queue on all three nodes', () => leaderOfAll(queue), PATIENCE);
        await leader.kill();
        // The two that are left go on.
        await confirmed.reaches(`confirms without the node of kill ${round}`, confirmed.count + 200);
        await leader.restart();
      }
    });
  },
  PATIENCE * (KILLS + 2),
);

/** The node that leads the queue, once every node has a member of it that is online. */
async function leaderOfAll(queue: string): Promise<RabbitMqCluster['nodes'][number] | undefined> {
  const [asked] = cluster.nodes;
  const rows = (await asked?.ctl('list_queues', 'name', 'leader', 'online', '--no-table-headers')) ?? '';
  const [, name, online = ''] =
    rows
      .split('\n')
      .map((row) => row.split('\t'))
      .find(([named]) => named === queue) ?? [];
  if (!cluster.nodes.every(({ nodeName }) => online.includes(nodeName))) return undefined;
  return cluster.nodes.find(({ nodeName }) => nodeName === name);
}
