/** Random programs over a recovering connection, on a line that is hurt at random: a broker in memory, and the real one. */
import { expect, test } from '@jest/globals';
import { setTimeout as delay } from 'node:timers/promises';

import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { Scratch } from '../support/scratch.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { eventually } from '../support/waits.js';
import { Application, type World } from './application.js';
import { type Random, sessions } from './hostile-peer.js';
import { ModelBroker } from './model-broker.js';

const QUICK = { recovery: { initialDelay: 1, maxDelay: 4 } };

/** Timers that keep the process alive; connections that were closed keep none. */
function timers(): number {
  return process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

// ── a broker in memory ──────────────────────────────────────────────────────────────────────────────────────────────

const REPLIES = [
  { replyCode: 320, replyText: "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'" },
  { replyCode: 541, replyText: 'INTERNAL_ERROR' },
  { replyCode: 501, replyText: 'FRAME_ERROR' },
];

/** Hurts a broker in memory in one way or another. */
function hurtModel(broker: ModelBroker, random: Random): void {
  if (broker.lines.length === 0 || random.chance(8)) {
    broker.refusals = 1 + random.below(2);
    broker.isFragile = random.chance(2);
    return;
  }
  const line = random.pick(broker.lines);
  switch (random.below(9)) {
    case 0:
      line.drop(random.chance(2));
      return;
    case 1:
      line.dropAfter(random.below(300));
      return;
    case 2:
      line.inject(random.bytes(1 + random.below(30)));
      return;
    case 3:
      line.closeConnection(random.pick(REPLIES));
      return;
    case 4:
      line.closeChannel({ replyCode: 406, replyText: 'PRECONDITION_FAILED - delivery acknowledgement timed out' });
      return;
    case 5:
      line.cancelConsumer();
      return;
    case 6:
      line.block();
      line.stall();
      return;
    case 7:
      line.stall();
      return;
    default:
      // A stall of a while, with or without an end of the line.
      line.stall();
      setImmediate(() => {
        if (random.chance(2)) line.resume();
        else line.drop(random.chance(2));
      });
  }
}

function healModel(broker: ModelBroker, random: Random): void {
  broker.refusals = 0;
  broker.isFragile = false;
  for (const line of broker.lines) {
    if (line.isPoisoned) {
      line.drop(true);
    } else if (!line.isStalled && !line.isBlocked) {
      continue;
    } else if (random.chance(2)) {
      line.unblock();
      line.resume();
    } else {
      line.drop(true);
    }
  }
}

async function modelSession(random: Random): Promise<void> {
  const queues = { quiet: 'quiet', busy: 'busy' };
  const broker = new ModelBroker(random, Object.values(queues));
  const world: World = {
    amqp: new AmqpConnection('amqp://broker', {
      dial: broker.dial,
      connectTimeout: 20,
      handshakeTimeout: 50,
      closeTimeout: 20,
      ...QUICK,
    }),
    queues,
    deadline: 10_000,
    keepsOrder: true,
    hurt: () => {
      hurtModel(broker, random);
    },
    heal: () => {
      healModel(broker, random);
    },
    pass: () => turns(random.below(6)),
    consumerCount: () => Promise.resolve(broker.consumerCount(queues.busy)),
    contents: (queue) => Promise.resolve((broker.queues.get(queue) ?? []).map(({ body }) => body)),
  };
  const application = new Application(world, random);
  await application.run(10 + random.below(40));
  expect(broker.faults).toEqual([]);
  await turns(10);
  await eventually('the end of every line', () => Promise.resolve(broker.lines.length === 0 || undefined));
  // Each answer that came is the one that was given to that very delivery; what crosses a cancel the client gives back itself.
  for (const [serial, answer] of broker.answers) {
    expect([serial, application.answers.get(serial) ?? 'requeue']).toEqual([serial, answer]);
  }
}

test('a program over a broker that is hurt at random loses nothing, answers nothing wrongly, and ends', async () => {
  const before = timers();
  await sessions(300, modelSession);
  await eventually('the end of every timer', () => Promise.resolve(timers() <= before + 1 ? true : undefined));
}, 3_600_000);

// ── the real broker, through a proxy ────────────────────────────────────────────────────────────────────────────────

/** Hurts the lines of a proxy in one way or another. */
function hurtLine(proxy: TcpProxy, random: Random): void {
  if (proxy.lines.length === 0) return;
  const line = random.pick(proxy.lines);
  const direction = random.pick(['upstream', 'downstream'] as const);
  switch (random.below(8)) {
    case 0:
      line.reset();
      return;
    case 1:
      line.end();
      return;
    case 2:
    case 3:
      line.resetAfter(random.below(3_000), direction);
      return;
    case 4:
      line.inject(random.bytes(1 + random.below(30)), direction);
      // The peer may take them for the head of a frame, and wait for the rest of it.
      line.resetAfter(random.below(200), direction === 'upstream' ? 'downstream' : 'upstream');
      return;
    case 5:
      proxy.latency = random.below(5);
      return;
    case 6:
      proxy.isRefusing = true;
      line.reset();
      return;
    default:
      line.stall(...random.pick([['upstream'], ['downstream'], ['upstream', 'downstream']] as const));
  }
}

async function proxiedSession(random: Random): Promise<void> {
  await using scratch = await Scratch.open();
  await using proxy = await TcpProxy.open();
  const queues = { quiet: await scratch.queue(), busy: await scratch.queue() };
  // One in a few is left to the heartbeats, which take two seconds to notice.
  const isLeftToHeartbeats = random.chance(8);
  let keepsOrder = true;
  const world: World = {
    amqp: new AmqpConnection(proxy.urlFor(), {
      heartbeat: '1s',
      connectTimeout: 200,
      handshakeTimeout: 200,
      closeTimeout: 200,
      ...QUICK,
    }),
    queues,
    deadline: 30_000,
    get keepsOrder() {
      return keepsOrder;
    },
    hurt: () => {
      hurtLine(proxy, random);
      keepsOrder = false;
    },
    heal: () => {
      proxy.isRefusing = false;
      proxy.latency = 0;
      for (const line of proxy.lines) {
        if (line.isStalled && isLeftToHeartbeats) continue;
        if (random.chance(2)) line.flow();
        else line.reset();
      }
    },
    pass: () => delay(random.below(4)),
    consumerCount: async () => (await scratch.state(queues.busy))?.consumerCount ?? 0,
    contents: async (queue, wanted) => {
      for (const line of proxy.lines) line.reset();
      const bodies: string[] = [];
      // The broker gives back what was unanswered once it has noticed that nobody is there.
      const look = async () => {
        bodies.push(...(await scratch.drain(queue)));
        return wanted.every((body) => bodies.includes(body)) ? true : undefined;
      };
      await eventually('the return of every message', look).catch(() => undefined);
      return bodies;
    },
  };
  await new Application(world, random).run(10 + random.below(30));
}

test('a program over the real broker through a line that is hurt at random loses nothing, and ends', async () => {
  await sessions(25, proxiedSession);
}, 3_600_000);
