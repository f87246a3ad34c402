/** What is found wrong with declarations, by broker and version; and that brokers do what is said of them. */
import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';

import { connect } from '../../lib/client/connection.js';
import type { CheckedConsumer } from '../../lib/messaging/check-facts.js';
import type { QueueDefinition, Topology } from '../../lib/messaging/definitions.js';
import { applyTopology } from '../../lib/messaging/topology.js';
import {
  CHECK_CODES,
  type CheckCode,
  type CheckLevels,
  type Finding,
  brokerOf,
  checkLevels,
  findingsOf,
  missingOf,
} from '../../lib/messaging/topology-checks.js';
import { TopologyPlan } from '../../lib/messaging/topology-plan.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, thrown } from '../support/client.js';
import { Scratch } from '../support/scratch.js';

const RABBITMQ = { product: 'RabbitMQ', version: '4.0.5' };

interface Case {
  readonly topology: Topology;
  readonly consumer?: Partial<CheckedConsumer>;
  readonly others?: readonly Partial<CheckedConsumer>[];
  readonly version?: string;
  readonly product?: string;
  readonly missing?: readonly string[];
  readonly levels?: CheckLevels;
}

function findingsIn({
  topology,
  consumer,
  others = [],
  version = '4.0.5',
  product = 'RabbitMQ',
  missing = [],
  levels = {},
}: Case): Finding[] {
  const plan = new TopologyPlan();
  plan.add(topology, 'AmqpModule.forRoot');
  const consumers = [...(consumer === undefined ? [] : [consumer]), ...others].map((given): CheckedConsumer => ({
    name: 'Billing.charge',
    queue: 'q',
    exclusive: false,
    arguments: {},
    retries: false,
    prefetch: undefined,
    batchSize: undefined,
    deadLetter: undefined,
    ...given,
  }));
  return findingsOf(
    {
      topology: plan.topology,
      consumers,
      broker: brokerOf({ product, version }),
      placeOf: (queue) => plan.placeOf('queue', queue),
      isMissing: (kind, name) => missing.includes(`${kind} ${name}`),
    },
    levels,
  );
}

/** `code level` of each finding. */
const toldOf = (example: Case): string[] => findingsIn(example).map(({ code, level }) => `${code} ${level}`);

const boundBy = (routingKey: string): Topology => ({
  exchanges: [{ name: 'a', type: 'topic' }],
  bindings: [{ source: 'a', queue: 'q', routingKey }],
});

const queueOf = (definition: QueueDefinition): Topology => ({ queues: [{ name: 'q', ...definition }] });
/** With a dead-letter exchange that is somebody else's, so that nothing else is found. */
const quorum = (more: QueueDefinition = {}): Topology =>
  queueOf({ type: 'quorum', deadLetter: { exchange: 'dead' }, ...more });

const EXAMPLES: readonly (readonly [code: CheckCode, level: string, wrong: Case, right: Case])[] = [
  [
    'transient-shared-queue',
    'warn',
    { topology: queueOf({ durable: false }), version: '4.3.0' },
    { topology: queueOf({ durable: false, exclusive: true }), version: '4.3.0' },
  ],
  [
    'transient-shared-queue',
    'warn',
    { topology: queueOf({ durable: false }), version: '3.10.8' },
    { topology: queueOf({}) },
  ],
  [
    'queue-master-locator',
    'error',
    { topology: queueOf({ arguments: { 'x-queue-master-locator': 'min-masters' } }), version: '4.3.1' },
    { topology: queueOf({ arguments: { 'x-queue-master-locator': 'min-masters' } }), version: '3.10.8' },
  ],
  [
    'queue-mode',
    'warn',
    { topology: queueOf({ arguments: { 'x-queue-mode': 'lazy' } }) },
    { topology: queueOf({ arguments: { 'x-queue-mode': 'lazy' } }), version: '3.10.8' },
  ],
  [
    'queue-version',
    'warn',
    { topology: queueOf({ arguments: { 'x-queue-version': 1 } }) },
    { topology: queueOf({ arguments: { 'x-queue-version': 2 } }) },
  ],
  [
    'queue-version',
    'error',
    { topology: queueOf({ arguments: { 'x-queue-version': 1 } }), version: '4.3.0' },
    { topology: queueOf({ arguments: { 'x-queue-version': 1 } }), version: '3.10.8' },
  ],
  ['queue-type-flags', 'error', { topology: quorum({ exclusive: true }) }, { topology: quorum() }],
  ['queue-type-flags', 'error', { topology: quorum({ durable: false, exclusive: true }) }, { topology: quorum() }],
  [
    'queue-type-flags',
    'error',
    { topology: queueOf({ type: 'stream', autoDelete: true }) },
    { topology: queueOf({ type: 'stream' }) },
  ],
  [
    'queue-type-flags',
    'error',
    { topology: { queues: [{ type: 'quorum', deadLetter: { exchange: 'dead' } }] } },
    { topology: { queues: [{}] } },
  ],
  [
    'queue-type-arguments',
    'error',
    { topology: queueOf({ type: 'stream', messageTtl: '1m' }) },
    { topology: queueOf({ messageTtl: '1m' }) },
  ],
  [
    'queue-type-arguments',
    'error',
    { topology: queueOf({ type: 'classic', deliveryLimit: 5 }) },
    { topology: quorum({ deliveryLimit: 5 }) },
  ],
  [
    'queue-type-missing',
    'warn',
    { topology: queueOf({ deliveryLimit: 5 }) },
    { topology: quorum({ deliveryLimit: 5 }) },
  ],
  ['quorum-priority', 'error', { topology: quorum({ maxPriority: 5 }) }, { topology: queueOf({ maxPriority: 5 }) }],
  ['quorum-priority', 'error', { topology: quorum({ maxPriority: 5 }), version: '4.3.0' }, { topology: quorum() }],
  [
    'quorum-overflow',
    'warn',
    { topology: quorum({ overflow: 'reject-publish-dlx' }) },
    { topology: quorum({ overflow: 'reject-publish' }) },
  ],
  [
    'at-least-once-overflow',
    'warn',
    { topology: quorum({ arguments: { 'x-dead-letter-strategy': 'at-least-once' } }) },
    { topology: quorum({ overflow: 'reject-publish', arguments: { 'x-dead-letter-strategy': 'at-least-once' } }) },
  ],
  [
    'delivery-limit-drops',
    'warn',
    { topology: queueOf({ type: 'quorum' }) },
    { topology: queueOf({ type: 'quorum' }), version: '3.10.8' },
  ],
  [
    'delivery-limit-drops',
    'warn',
    { topology: queueOf({ type: 'quorum', deliveryLimit: 3 }), version: '3.10.8' },
    { topology: queueOf({ type: 'quorum', deliveryLimit: -1 }) },
  ],
  [
    'dead-letter-missing',
    'warn',
    { topology: queueOf({ deadLetter: { exchange: 'dead' } }), missing: ['exchange dead'] },
    { topology: queueOf({ deadLetter: { exchange: 'dead' } }) },
  ],
  [
    'dead-letter-missing',
    'warn',
    { topology: queueOf({ deadLetter: { exchange: '', routingKey: 'dead' } }), missing: ['queue dead'] },
    { topology: queueOf({ deadLetter: { exchange: '', routingKey: 'dead' } }) },
  ],
  [
    'dead-letter-unbound',
    'warn',
    { topology: { ...queueOf({ deadLetter: { exchange: 'dead' } }), exchanges: [{ name: 'dead', type: 'fanout' }] } },
    {
      topology: {
        ...queueOf({ deadLetter: { exchange: 'dead' } }),
        exchanges: [{ name: 'dead', type: 'fanout' }],
        bindings: [{ source: 'dead', queue: 'graveyard' }],
      },
    },
  ],
  [
    'alternate-exchange-missing',
    'warn',
    { topology: { exchanges: [{ name: 'a', type: 'topic', alternateExchange: 'lost' }] }, missing: ['exchange lost'] },
    { topology: { exchanges: [{ name: 'a', type: 'topic', alternateExchange: 'lost' }] } },
  ],
  [
    'topic-binding-without-key',
    'warn',
    { topology: { exchanges: [{ name: 'a', type: 'topic' }], bindings: [{ source: 'a', queue: 'q' }] } },
    {
      topology: { exchanges: [{ name: 'a', type: 'topic' }], bindings: [{ source: 'a', queue: 'q', routingKey: '' }] },
    },
  ],
  ['topic-wildcard-in-word', 'warn', { topology: boundBy('order*') }, { topology: boundBy('order.*.#.placed') }],
  [
    'topic-wildcard-in-word',
    'warn',
    { topology: { bindings: [{ source: 'amq.topic', queue: 'q', routingKey: '##' }] } },
    {
      topology: {
        exchanges: [{ name: 'a', type: 'direct' }],
        bindings: [{ source: 'a', queue: 'q', routingKey: 'a*' }],
      },
    },
  ],
  [
    'dead-letter-cycle',
    'error',
    { topology: {}, consumer: { deadLetter: 'q' } },
    { topology: {}, consumer: { deadLetter: 'q.failed' } },
  ],
  [
    'dead-letter-cycle',
    'error',
    { topology: {}, consumer: {}, others: [{ name: 'Graveyard.bury', queue: 'q.dead', deadLetter: 'q' }] },
    { topology: {}, consumer: { deadLetter: { by: 'broker' } }, others: [{ queue: 'q.dead', deadLetter: 'q' }] },
  ],
  [
    'dead-letter-chain',
    'error',
    { topology: {}, consumer: { queue: 'q.dead.dead' } },
    { topology: {}, consumer: { queue: 'q.dead.dead', deadLetter: 'q.lost' } },
  ],
  [
    'dead-letters-consumed',
    'warn',
    { topology: {}, consumer: { queue: 'q.dead' } },
    { topology: {}, consumer: { queue: 'q.dead', deadLetter: 'q.dead.dead' } },
  ],
  [
    'dead-letters-consumed',
    'warn',
    { topology: {}, consumer: { deadLetter: 'graves' }, others: [{ queue: 'graves' }] },
    { topology: {}, consumer: { deadLetter: 'graves' }, others: [{ queue: 'graves', deadLetter: { by: 'broker' } }] },
  ],
  [
    'dead-letters-consumed',
    'warn',
    { topology: { queues: [{ name: 'q.dead' }] }, consumer: { queue: 'q.dead' } },
    {
      topology: { queues: [{ name: 'q.dead', arguments: { 'x-dead-letter-exchange': 'amq.fanout' } }] },
      consumer: { queue: 'q.dead' },
    },
  ],
  [
    'exclusive-and-single-active',
    'error',
    { topology: queueOf({ singleActiveConsumer: true }), consumer: { exclusive: true } },
    { topology: queueOf({ singleActiveConsumer: true }), consumer: {} },
  ],
  [
    'exclusive-on-quorum',
    'warn',
    { topology: quorum(), consumer: { exclusive: true } },
    { topology: queueOf({}), consumer: { exclusive: true } },
  ],
  [
    'priority-on-stream',
    'error',
    { topology: queueOf({ type: 'stream' }), consumer: { arguments: { 'x-priority': 1 } } },
    { topology: quorum(), consumer: { arguments: { 'x-priority': 1 } } },
  ],
  [
    'offset-without-stream',
    'error',
    { topology: quorum(), consumer: { arguments: { 'x-stream-offset': 'first' } } },
    { topology: queueOf({ type: 'stream' }), consumer: { arguments: { 'x-stream-offset': 'first' } } },
  ],
  [
    'offset-without-stream',
    'error',
    { topology: queueOf({}), consumer: { arguments: { 'x-stream-offset': 'first' } } },
    // Nobody here knows of what type it is.
    { topology: {}, consumer: { arguments: { 'x-stream-offset': 'first' } } },
  ],
  [
    'retry-on-stream',
    'warn',
    { topology: queueOf({ type: 'stream' }), consumer: { retries: true } },
    { topology: quorum(), consumer: { retries: true } },
  ],
  [
    'prefetch-below-batch',
    'warn',
    { topology: queueOf({}), consumer: { prefetch: 5, batchSize: 10 } },
    { topology: queueOf({}), consumer: { batchSize: 10 } },
  ],
];

describe('every check', () => {
  test.each(EXAMPLES)('%s (%s) finds what is wrong, and nothing in what is right', (code, level, wrong, right) => {
    expect(toldOf(wrong)).toEqual([`${code} ${level}`]);
    expect(toldOf(right)).toEqual([]);
  });

  test('has an example here', () => {
    expect([...new Set(EXAMPLES.map(([code]) => code))].sort()).toEqual([...CHECK_CODES].sort());
  });

  test('is in the documentation', () => {
    const text = readFileSync(new URL('../../docs/topology.md', import.meta.url), 'utf8');
    const codes = [...text.matchAll(/^\| `([a-z-]+)` +\|/gm)].map(([, code]) => code);
    expect(codes.sort()).toEqual([...CHECK_CODES].sort());
  });

  test('says what is so and where, what comes of it, what to do, and where to read on', () => {
    const [finding] = findingsIn({ topology: queueOf({ durable: false }), version: '4.3.0' });
    expect(finding?.message).toBe(
      "Queue 'q' (AmqpModule.forRoot) is neither durable nor exclusive, which RabbitMQ deprecates: where that is not permitted, it closes the connection (541). " +
        'Make it durable, with expires where it is to go by itself; or exclusive. ' +
        '(transient-shared-queue: https://www.rabbitmq.com/release-information/deprecated-features-list)',
    );
  });

  test('says of a wildcard within a word how it is written', () => {
    const [finding] = findingsIn({ topology: boundBy('order*.#x') });
    expect(finding?.message).toContain("'order*.#x'");
    expect(finding?.message).toContain("'order.*.#.x'");
  });

  test.each(EXAMPLES)('%s (%s) can be turned off, and made an error', (code, _level, wrong) => {
    expect(toldOf({ ...wrong, levels: { [code]: 'off' } })).toEqual([]);
    expect(toldOf({ ...wrong, levels: { [code]: 'error' } })).toEqual([`${code} error`]);
  });

  test('calls nothing an error that a broker does of which nothing is known', () => {
    const levels = EXAMPLES.flatMap(([, , wrong]) => findingsIn({ ...wrong, product: 'LavinMQ', version: '2.4.0' }));
    expect(levels.filter(({ level }) => level === 'error')).toEqual([]);
    expect(levels.length).toBeGreaterThan(10);
  });
});

test.each([
  [{ 'no-such-check': 'warn' }, 'no check no-such-check. Known are transient-shared-queue'],
  [{ 'queue-mode': 'fatal' }, "queue-mode in topologyChecks of AmqpModule has to be 'error', 'warn' or 'off'"],
])('levels that there are not are refused: %j', (levels, told) => {
  const error = thrown(() => {
    checkLevels(levels as CheckLevels);
  });
  expect(error.code).toBe('INVALID_OPTION');
  expect(error.message).toContain(told);
});

test.each([
  [RABBITMQ, { name: 'RabbitMQ 4.0.5', isKnown: true, version: [4, 0] }],
  [
    { product: 'RabbitMQ', version: '4.3.0-rc.1' },
    { name: 'RabbitMQ 4.3.0-rc.1', version: [4, 3] },
  ],
  [
    { product: 'LavinMQ', version: '2.4.0' },
    { isKnown: false, version: [2, 4] },
  ],
  [
    { product: 'nest-amqp embedded broker', version: '0.1.0' },
    { name: 'nest-amqp embedded broker 0.1.0', isKnown: true, version: [4, 0] },
  ],
  [{}, { name: '', isKnown: false, version: undefined }],
])('a broker is known by what it says of itself: %j', (properties, broker) => {
  expect(brokerOf(properties)).toMatchObject(broker);
});

test('what is missing is asked of the broker, for what a topology names and does not declare', async () => {
  await using scratch = await Scratch.open();
  const [exchange, queue] = [await scratch.exchange('fanout'), await scratch.queue()];
  const plan = new TopologyPlan();
  plan.add(
    {
      exchanges: [
        { name: 'one', type: 'topic', alternateExchange: 'test.no-such-exchange' },
        { name: 'two', type: 'topic', alternateExchange: exchange },
      ],
      queues: [
        { name: 'a', deadLetter: { exchange: 'one' } },
        { name: 'b', deadLetter: { exchange: '', routingKey: 'test.no-such-queue' } },
        { name: 'c', deadLetter: { exchange: '', routingKey: queue } },
        { name: 'd', deadLetter: { exchange: 'test.nor-such-exchange' } },
      ],
    },
    'here',
  );
  await using connection = await connect(brokerUrl, { channelMax: 1 });
  const isMissing = await missingOf(connection, plan.topology);
  expect(isMissing('exchange', 'test.no-such-exchange')).toBe(true);
  expect(isMissing('exchange', 'test.nor-such-exchange')).toBe(true);
  expect(isMissing('queue', 'test.no-such-queue')).toBe(true);
  expect(isMissing('exchange', exchange)).toBe(false);
  expect(isMissing('exchange', 'one')).toBe(false);
  expect(isMissing('queue', queue)).toBe(false);
});

describe('what is called an error for every version', () => {
  const isEmbedded = process.env['NEST_AMQP_TEST_BROKER'] === 'embedded';
  const refusedDeclarations = EXAMPLES.filter(
    ([code, level, { topology, version }]) =>
      level === 'error' &&
      version === undefined &&
      ['queue-type-flags', 'queue-type-arguments', 'quorum-priority'].includes(code) &&
      // The embedded broker has no streams.
      !(isEmbedded && topology.queues?.[0]?.type === 'stream'),
  );

  test.each(refusedDeclarations)('%s is refused by the broker', async (_code, _level, { topology }) => {
    await using scratch = await Scratch.open();
    const queues = (topology.queues ?? []).map((queue) =>
      queue.name === undefined ? queue : { ...queue, name: scratch.queueName() },
    );
    await using connection = await connect(brokerUrl);
    expect(await failure(applyTopology(connection, { queues }))).toMatchObject({ replyCode: 406 });
  });
});

describe('what the broker does without a word', () => {
  test('a quorum queue with overflow reject-publish-dlx drops its oldest messages', async () => {
    await using scratch = await Scratch.open();
    const args = { 'x-queue-type': 'quorum', 'x-max-length': 1, 'x-overflow': 'reject-publish-dlx' };
    const name = await scratch.queue({ arguments: args });
    for (const body of ['1', '2', '3']) await scratch.send(name, body);
    await scratch.hasMessages(name, 1);
    expect(await scratch.drain(name)).toEqual(['3']);
  });

  test('a quorum queue takes a second exclusive consumer', async () => {
    await using scratch = await Scratch.open();
    const name = await scratch.queue({ arguments: { 'x-queue-type': 'quorum' } });
    await using connection = await connect(brokerUrl);
    for (let count = 1; count <= 2; count += 1) {
      const channel = await connection.channel();
      await channel.basicConsume(name, () => undefined, { exclusive: true });
    }
    await scratch.hasConsumers(name, 2);
  });
});
