/** What is measured: a list to read and to add to. */

const CLIENTS = ['ours', 'amqplib', 'rabbitmq-client', 'amqp-client'];
const WITH_FLOOR = ['floor', ...CLIENTS];
const CONFIRMING = ['floor', 'ours', 'ours-recovering', 'amqplib', 'rabbitmq-client', 'amqp-client'];
const NEST = ['ours-nest', 'golevelup', 'microservices'];

/** @typedef {'publish' | 'confirm' | 'consume' | 'rpc' | 'nestPublish' | 'nestConsume' | 'boot'} Operation */

/**
 * @typedef {object} Scenario
 * @property {string} name
 * @property {string} title
 * @property {Operation} operation What every driver is asked for.
 * @property {readonly string[]} peers
 * @property {import('./messages.mjs').MessageSpec} message
 * @property {number} [channels] To publish over, or to consume from, one consumer each.
 * @property {number} [inFlight] Most promises pending.
 * @property {number} [prefetch]
 * @property {boolean} [noAck]
 * @property {boolean} [latency] Latencies mean something: how long one call takes when nothing waits before it, or in a
 * window of known size.
 * @property {number} [rabbitmq] How many messages to measure on RabbitMQ, after half of that to warm up; left out, the
 * scenario runs on the sink only.
 * @property {boolean} [sink] False for what only a broker can answer.
 * @property {boolean} [quick] Part of the smoke run.
 */

/**
 * @param {number} size
 * @returns {import('./messages.mjs').MessageSpec}
 */
const plain = (size) => ({ size, kind: 'plain' });
/** @type {import('./messages.mjs').MessageSpec} */
const RICH = { size: 1024, kind: 'rich' };
/** @type {import('./messages.mjs').MessageSpec} */
const JSON_PAYLOAD = { size: 0, kind: 'json' };

/** @type {readonly Scenario[]} */
export const SCENARIOS = [
  // ── publish ──────────────────────────────────────────────────────────────────────────────────────────────────────
  { name: 'publish-12b', title: 'Publish, 12 B', operation: 'publish', peers: WITH_FLOOR, message: plain(12) },
  {
    name: 'publish-100b',
    title: 'Publish, 100 B',
    operation: 'publish',
    peers: WITH_FLOOR,
    message: plain(100),
    rabbitmq: 40_000,
    quick: true,
  },
  { name: 'publish-1k', title: 'Publish, 1 KiB', operation: 'publish', peers: WITH_FLOOR, message: plain(1024) },
  {
    name: 'publish-1k-rich',
    title: 'Publish, 1 KiB, 6 properties and 2 headers',
    operation: 'publish',
    peers: WITH_FLOOR,
    message: RICH,
  },
  { name: 'publish-16k', title: 'Publish, 16 KiB', operation: 'publish', peers: WITH_FLOOR, message: plain(16_384) },
  {
    name: 'publish-1m',
    title: 'Publish, 1 MiB',
    operation: 'publish',
    peers: WITH_FLOOR,
    message: plain(1_048_576),
    inFlight: 8,
    rabbitmq: 100,
  },
  ...[100, 1_000].map((channels) => ({
    name: `publish-${channels}-channels`,
    title: `Publish, 100 B, over ${channels} channels`,
    operation: /** @type {const} */ ('publish'),
    peers: CLIENTS,
    message: plain(100),
    channels,
  })),

  // ── publish confirmed ────────────────────────────────────────────────────────────────────────────────────────────
  {
    name: 'confirm-100b',
    title: 'Publish confirmed, 100 B, 500 in flight',
    operation: 'confirm',
    peers: CONFIRMING,
    message: plain(100),
    latency: true,
    rabbitmq: 30_000,
    quick: true,
  },
  {
    name: 'confirm-1k-rich',
    title: 'Publish confirmed, 1 KiB, 6 properties and 2 headers, 500 in flight',
    operation: 'confirm',
    peers: CONFIRMING,
    message: RICH,
    latency: true,
  },
  {
    name: 'confirm-awaited',
    title: 'Publish confirmed, 100 B, each awaited',
    operation: 'confirm',
    peers: CONFIRMING,
    message: plain(100),
    inFlight: 1,
    latency: true,
    rabbitmq: 2_000,
  },

  // ── consume ──────────────────────────────────────────────────────────────────────────────────────────────────────
  {
    name: 'consume-12b',
    title: 'Consume and ack, 12 B, prefetch 500',
    operation: 'consume',
    peers: WITH_FLOOR,
    message: plain(12),
  },
  {
    name: 'consume-100b',
    title: 'Consume and ack, 100 B, prefetch 500',
    operation: 'consume',
    peers: ['floor', 'ours', 'ours-recovering', 'amqplib', 'rabbitmq-client', 'amqp-client'],
    message: plain(100),
    rabbitmq: 50_000,
    quick: true,
  },
  {
    name: 'consume-1k',
    title: 'Consume and ack, 1 KiB, prefetch 500',
    operation: 'consume',
    peers: WITH_FLOOR,
    message: plain(1024),
  },
  {
    name: 'consume-1k-rich',
    title: 'Consume and ack, 1 KiB, 6 properties and 2 headers',
    operation: 'consume',
    peers: WITH_FLOOR,
    message: RICH,
  },
  {
    name: 'consume-16k',
    title: 'Consume and ack, 16 KiB, prefetch 500',
    operation: 'consume',
    peers: WITH_FLOOR,
    message: plain(16_384),
  },
  {
    name: 'consume-1m',
    title: 'Consume and ack, 1 MiB, prefetch 10',
    operation: 'consume',
    peers: WITH_FLOOR,
    message: plain(1_048_576),
    prefetch: 10,
    rabbitmq: 100,
  },
  {
    name: 'consume-no-ack',
    title: 'Consume without ack, 100 B',
    operation: 'consume',
    peers: WITH_FLOOR,
    message: plain(100),
    noAck: true,
    rabbitmq: 60_000,
    quick: true,
  },
  ...[100, 1_000].map((channels) => ({
    name: `consume-${channels}-consumers`,
    title: `Consume and ack, 100 B, ${channels} consumers`,
    operation: /** @type {const} */ ('consume'),
    peers: CLIENTS,
    message: plain(100),
    channels,
    // As many messages under way as with one consumer, where that can be.
    prefetch: Math.max(1, 500 / channels),
  })),

  // ── RPC ──────────────────────────────────────────────────────────────────────────────────────────────────────────
  {
    name: 'rpc-100b',
    title: 'RPC over direct reply-to, 100 B, 100 in flight',
    operation: 'rpc',
    peers: CLIENTS,
    message: plain(100),
    inFlight: 100,
    latency: true,
    rabbitmq: 10_000,
    quick: true,
  },
  {
    name: 'rpc-awaited',
    title: 'RPC over direct reply-to, 100 B, each awaited',
    operation: 'rpc',
    peers: CLIENTS,
    message: plain(100),
    inFlight: 1,
    latency: true,
    rabbitmq: 1_000,
  },

  // ── through Nest ─────────────────────────────────────────────────────────────────────────────────────────────────
  {
    name: 'nest-publish',
    title: 'Nest: publish an object as JSON, confirmed, 500 in flight',
    operation: 'nestPublish',
    peers: NEST,
    message: JSON_PAYLOAD,
    latency: true,
    rabbitmq: 20_000,
    quick: true,
  },
  {
    name: 'nest-consume',
    title: 'Nest: consume JSON in a handler, acked, prefetch 500',
    operation: 'nestConsume',
    peers: NEST,
    message: JSON_PAYLOAD,
    rabbitmq: 30_000,
    quick: true,
  },
  {
    name: 'nest-boot',
    title: 'Nest: boot with 1,000 queues and 1,000 bindings, per queue',
    operation: 'boot',
    peers: ['ours-nest', 'golevelup'],
    message: JSON_PAYLOAD,
    channels: 1_000,
    rabbitmq: 1_000,
    sink: false,
  },
];
