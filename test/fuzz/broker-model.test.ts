/** Random programs over the embedded broker and over a plain model of RabbitMQ's queues. */
import { test } from '@jest/globals';
import fc from 'fast-check';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import { connect } from '../../lib/client/connection.js';
import { brokerUrl } from '../support/broker.mjs';
import { unique } from '../support/client.js';
import { runs } from './hostile-peer.js';
import { QueueProgram, type QueueWorld, type Step, shapes, steps } from './queue-program.js';
import type { QueueShape } from './reference-queues.js';

async function programs(
  fallback: number,
  run: (queues: readonly QueueShape[], program: readonly Step[]) => Promise<void>,
): Promise<void> {
  const { iterations, seed } = runs(fallback);
  try {
    await fc.assert(fc.asyncProperty(shapes, steps, run), { numRuns: iterations, seed });
  } catch (cause) {
    throw new Error(`NEST_AMQP_FUZZ_SEED=${seed} NEST_AMQP_FUZZ_ITERATIONS=${iterations}`, { cause });
  }
}

async function embedded(queues: readonly QueueShape[], program: readonly Step[]): Promise<void> {
  await using broker = EmbeddedBroker.create({ clock: 'manual' });
  const world: QueueWorld = {
    connect: () => connect({ dial: () => broker.connect(), heartbeat: 0, closeTimeout: 1_000 }),
    drop: () => broker.dropConnections(),
    name: (queue) => queue,
    advance: (ms) => broker.advance(ms),
    contents: (queue) => {
      const info = broker.queue(queue);
      return { ready: info.peek(Infinity).map(({ text }) => text), unacked: info.unacked };
    },
    patience: 10_000,
  };
  await new QueueProgram(world, queues).run(program);
}

test('a program leaves the embedded broker as it leaves the model: each message in one place, in order', async () => {
  await programs(40, embedded);
}, 3_600_000);

/** What can be held against a broker whose time nobody moves, and whose quorum queues may be those of another version. */
function timeless(queue: QueueShape): QueueShape {
  return { ...queue, type: 'classic', ttl: undefined, deliveryLimit: undefined };
}

async function real(queues: readonly QueueShape[], program: readonly Step[]): Promise<void> {
  const prefix = unique('model');
  const world: QueueWorld = {
    connect: () => connect(brokerUrl),
    drop: undefined,
    name: (queue) => `${prefix}.${queue}`,
    advance: undefined,
    contents: () => undefined,
    patience: 10_000,
  };
  await new QueueProgram(world, queues.map(timeless)).run(program);
}

test('the model is right: a program leaves RabbitMQ as it leaves the model', async () => {
  await programs(5, real);
}, 3_600_000);
