/** The two servers that are measured against: what a measurement needs there, and whether the work was really done. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { findRabbitMq } from '../test/support/rabbitmq-install.mjs';
import { RabbitMqServer } from '../test/support/rabbitmq-server.mjs';
import { PATTERN, messageOf } from './messages.mjs';

/** @typedef {import('./scenarios.mjs').Scenario} Scenario */
/** @typedef {import('./cell.mjs').CellResult} CellResult */

/**
 * @typedef {object} Stage A server that is ready for one measurement.
 * @property {string} url
 * @property {{ warmUp: number, measure: number } | undefined} counts
 * @property {(result: CellResult) => Promise<void>} verify Rejects when the server has not seen all the work.
 * @property {() => Promise<void>} close
 */

/**
 * @typedef {object} Server
 * @property {'sink' | 'rabbitmq'} name
 * @property {string} title
 * @property {(scenario: Scenario) => boolean} offers
 * @property {(scenario: Scenario, peer: string) => Promise<Stage>} stage
 * @property {() => Promise<void>} stop
 */

/** What the body of a message is that this client's handlers can read. @param {Scenario} scenario @param {string} peer */
function messageFor({ message }, peer) {
  return peer === 'microservices' && message.kind === 'json'
    ? { ...message, kind: /** @type {const} */ ('nest') }
    : message;
}

// ── the sink ────────────────────────────────────────────────────────────────────────────────────────────────────────

const SINK = fileURLToPath(new URL('./sink/sink.mjs', import.meta.url));
const RESPONDER = fileURLToPath(new URL('./responder.mjs', import.meta.url));

/** @type {Server} */
export const sink = {
  name: 'sink',
  title: 'sink',
  offers: (scenario) => scenario.sink !== false,
  async stage(scenario, peer) {
    const message = messageFor(scenario, peer);
    const child = fork(SINK, [JSON.stringify(message)]);
    const [{ port }] = await once(child, 'message');
    return {
      url: `amqp://guest:guest@127.0.0.1:${port}`,
      counts: undefined,
      async verify(result) {
        child.send('counts');
        const [{ counts }] = await once(child, 'message');
        compare(scenario, counts, result, messageOf(message).body.length);
      },
      async close() {
        child.disconnect();
        await once(child, 'exit');
      },
    };
  },
  stop: async () => undefined,
};

/**
 * @param {Scenario} scenario
 * @param {import('./sink/connection.mjs').Counts} counts
 * @param {CellResult} result
 * @param {number} bodySize
 */
function compare({ operation, noAck = false, message }, counts, { total }, bodySize) {
  const wrong = [...counts.faults];
  /** @type {(what: string, saw: number, expected: number) => void} */
  const expect = (what, saw, expected) => {
    if (saw !== expected) wrong.push(`${saw} ${what}, and not ${expected}`);
  };
  if (operation === 'consume' || operation === 'nestConsume') {
    expect('deliveries', counts.delivered, total);
    expect('acknowledged deliveries', counts.acked, noAck ? 0 : total);
  } else {
    expect('publishes', counts.publishes, total);
    if (operation === 'rpc') expect('replies', counts.delivered, total);
    if (message.kind !== 'json') expect('body bytes', counts.bodyBytes, total * bodySize);
  }
  if (wrong.length > 0) throw new Error(`the sink saw ${wrong.join('; ')}`);
}

// ── RabbitMQ ────────────────────────────────────────────────────────────────────────────────────────────────────────

const EXCHANGE = 'bench';
const PUBLISHED = 'bench.published';
const REQUESTS = 'bench.rpc';
const WARM_UP_SHARE = 2;
const FILLED_AT_ONCE = 1_000;
const SETTLE_ATTEMPTS = 50;
const SETTLE_INTERVAL = 100;
/** What a smoke run measures of a scenario's messages. */
const QUICK_SHARE = 10;

/**
 * The broker at AMQP_URL, else a private node; undefined where there is neither.
 *
 * @param {{ quick: boolean }} options
 * @returns {Promise<Server | undefined>}
 */
export async function rabbitmq({ quick }) {
  const given = process.env['AMQP_URL'];
  if ((given === undefined || given === '') && findRabbitMq() === undefined) return undefined;
  const node = given === undefined || given === '' ? await RabbitMqServer.start() : undefined;
  const url = node?.url ?? /** @type {string} */ (given);
  // Built by now, which it was not when this file was loaded.
  const { connect } = await import('nest-amqp/client');
  const connection = await connect(url);
  return {
    name: 'rabbitmq',
    title: `RabbitMQ ${String(connection.serverProperties['version'])}`,
    offers: (scenario) => scenario.rabbitmq !== undefined,
    stage: (scenario, peer) => stageOnRabbitMq(connection, url, scenario, peer, quick ? QUICK_SHARE : 1),
    async stop() {
      await connection.close();
      await node?.stop();
    },
  };
}

/**
 * @param {import('nest-amqp/client').Connection} connection
 * @param {string} url
 * @param {Scenario} scenario
 * @param {string} peer
 * @param {number} share Of the scenario's messages one in so many.
 * @returns {Promise<Stage>}
 */
async function stageOnRabbitMq(connection, url, scenario, peer, share) {
  const measure = Math.ceil((scenario.rabbitmq ?? 0) / share);
  const counts = { warmUp: Math.ceil(measure / WARM_UP_SHARE), measure };
  const channel = await connection.channel({ confirm: true });
  /** @type {import('node:child_process').ChildProcess | undefined} */
  let responder;
  /** Queues to delete at the end, and how many messages have to be in them by then. @type {Map<string, number>} */
  const queues = new Map();
  switch (scenario.operation) {
    case 'publish':
    case 'confirm':
    case 'nestPublish':
      queues.set(PUBLISHED, counts.warmUp + counts.measure);
      await channel.queueDeclare(PUBLISHED);
      await channel.exchangeDeclare(EXCHANGE, 'topic');
      await channel.queueBind(PUBLISHED, EXCHANGE, PATTERN);
      break;
    case 'consume':
    case 'nestConsume':
      for (const [part, count] of [counts.warmUp, counts.measure].entries()) {
        const queue = `bench.${part}.1.${count}`;
        queues.set(queue, 0);
        await channel.queueDeclare(queue);
        await fill(channel, queue, count, messageOf(messageFor(scenario, peer)));
      }
      break;
    case 'rpc':
      queues.set(REQUESTS, 0);
      await channel.queueDeclare(REQUESTS);
      responder = fork(RESPONDER, [url, REQUESTS]);
      await once(responder, 'message');
      break;
    case 'boot':
      for (let index = 0; index < (scenario.channels ?? 1); index += 1) queues.set(`bench.boot.${index}`, 0);
      break;
  }
  return {
    url,
    counts: scenario.operation === 'boot' ? undefined : counts,
    async verify() {
      for (const [queue, expected] of queues) {
        const saw = await settledCount(channel, queue, expected);
        if (saw !== expected) throw new Error(`${queue} holds ${saw} messages, and not ${expected}`);
      }
    },
    async close() {
      if (responder !== undefined) {
        responder.disconnect();
        await once(responder, 'exit');
      }
      // Another channel: a failed check has closed the first.
      const last = await connection.channel();
      await Promise.all([...queues.keys()].map((queue) => last.queueDelete(queue)));
      await last.exchangeDelete(EXCHANGE);
      await last.close();
      await channel.close();
    },
  };
}

/**
 * How many messages a queue holds. RabbitMQ tells that ahead of publishes that are still on their way into the queue. A queue
 * that the client should have declared and has not is an error of its own.
 *
 * @param {import('nest-amqp/client').Channel} channel
 * @param {string} queue
 * @param {number} expected
 */
async function settledCount(channel, queue, expected) {
  for (let left = SETTLE_ATTEMPTS; ; left -= 1) {
    const { messageCount } = await channel.queueDeclare(queue, { passive: true });
    if (messageCount === expected || left === 0) return messageCount;
    await delay(SETTLE_INTERVAL);
  }
}

/**
 * @param {import('nest-amqp/client').ConfirmChannel} channel
 * @param {string} queue
 * @param {number} count
 * @param {{ properties: import('./sink/wire.mjs').Properties, body: Uint8Array }} message
 */
async function fill(channel, queue, count, { properties, body }) {
  const atOnce = Math.max(1, Math.min(FILLED_AT_ONCE, Math.floor(2e7 / body.length)));
  for (let left = count; left > 0; left -= atOnce) {
    await Promise.all(
      // Not written to disk, whatever the client under test says of its own: the queue is only to be read.
      Array.from({ length: Math.min(left, atOnce) }, () =>
        channel.basicPublish('', queue, body, { ...properties, deliveryMode: 1 }),
      ),
    );
  }
}
