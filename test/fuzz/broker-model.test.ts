/** Random programs over the embedded broker and over a plain model of RabbitMQ's queues. */
import { test } from '@jest/globals';
import fc from 'fast-check';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import { connect } from '../../lib/client/connection.js';
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
    drop: () => {
      broker.dropConnections();
      return Promise.resolve();
    },
    name: (queue) => queue,
    advance: (ms) => broker.advance(ms),
    contents: (queue) => {
      const info = broker.queue(queue);
      return { ready: info.peek(Infinity).map(({ text }) => text), unacked: info.unacked };
    },
    patience: 1_000,
  };
  await new QueueProgram(world, queues).run(program);
}

test('a program leaves the embedded broker as it leaves the model: each message in one place, in order', async () => {
  await programs(60, embedded);
}, 3_600_000);
