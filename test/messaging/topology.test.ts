/** What definitions become on the wire, and what is told when they cannot be. */
import { describe, expect, test } from '@jest/globals';

import { connect } from '../../lib/client/connection.js';
import type { AmqpError } from '../../lib/errors.js';
import { checkTopology } from '../../lib/messaging/definition-checks.js';
import {
  type BindingDefinition,
  type QueueDefinition,
  type Topology,
  binding,
  exchange,
  queue,
} from '../../lib/messaging/definitions.js';
import { applyTopology } from '../../lib/messaging/topology.js';
import type { ReceivedCommand, ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, scripted, thrown } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { eventually } from '../support/waits.js';

async function queueDeclared(peer: ScriptedPeer): Promise<ReceivedCommand<'queue.declare'>> {
  const declared = await peer.receive('queue.declare');
  peer.send(declared.channel, 'queue.declare-ok', { queue: declared.args.queue, messageCount: 0, consumerCount: 0 });
  return declared;
}

/** What is declared for one queue definition. */
async function declarationOf(definition: QueueDefinition): Promise<ReceivedCommand<'queue.declare'>['args']> {
  const { peer, connection } = await scripted();
  const applied = applyTopology(connection, { queues: [definition] });
  await peer.openChannel();
  const { args } = await queueDeclared(peer);
  await peer.answer('channel.close-ok', {});
  await applied;
  peer.hangUp();
  return args;
}

/** The error that applying it to the test broker ends in. */
async function refusalOf(topology: Topology): Promise<AmqpError> {
  await using connection = await connect(brokerUrl);
  return await failure(applyTopology(connection, topology));
}

function flawOf(topology: object): AmqpError {
  return thrown(() => {
    checkTopology(topology);
  });
}

describe('applying a topology', () => {
  test('declares exchanges, then queues, then bindings, each stage after the answers to the one before', async () => {
    const { peer, connection } = await scripted();
    const applied = applyTopology(connection, {
      bindings: [
        { source: 'orders', queue: 'billing', routingKey: 'order.*' },
        { source: 'orders', exchange: 'audit', routingKey: '#', arguments: { level: 'all' } },
      ],
      queues: [{ name: 'billing' }, { name: 'billing.dead' }],
      exchanges: [
        { name: 'orders', type: 'topic', alternateExchange: 'lost' },
        { name: 'audit', type: 'fanout', durable: false, autoDelete: true, internal: true, arguments: { 'x-a': 1 } },
      ],
    });

    const channel = await peer.openChannel();
    const orders = await peer.receive('exchange.declare');
    const audit = await peer.receive('exchange.declare');
    expect(orders.args).toMatchObject({
      exchange: 'orders',
      type: 'topic',
      durable: true,
      autoDelete: false,
      internal: false,
      passive: false,
      arguments: { 'alternate-exchange': 'lost' },
    });
    expect(audit.args).toMatchObject({
      exchange: 'audit',
      type: 'fanout',
      durable: false,
      autoDelete: true,
      internal: true,
      arguments: { 'x-a': 1 },
    });
    // `receive` would find a queue.declare that did not wait for these.
    peer.send(channel, 'exchange.declare-ok', {});
    peer.send(channel, 'exchange.declare-ok', {});

    expect((await queueDeclared(peer)).args.queue).toBe('billing');
    expect((await queueDeclared(peer)).args.queue).toBe('billing.dead');

    const bound = await peer.receive('queue.bind');
    expect(bound.args).toMatchObject({ queue: 'billing', exchange: 'orders', routingKey: 'order.*', arguments: {} });
    const exchangeBound = await peer.receive('exchange.bind');
    expect(exchangeBound.args).toMatchObject({
      destination: 'audit',
      source: 'orders',
      routingKey: '#',
      arguments: { level: 'all' },
    });
    peer.send(channel, 'queue.bind-ok', {});
    peer.send(channel, 'exchange.bind-ok', {});

    expect((await peer.answer('channel.close-ok', {})).name).toBe('channel.close');
    await applied;
    peer.hangUp();
  });

  test('turns every field of a queue definition into the argument of the same meaning', async () => {
    const args = await declarationOf({
      name: 'billing',
      type: 'quorum',
      durable: true,
      exclusive: false,
      autoDelete: false,
      expires: '30m',
      messageTtl: '10s',
      maxLength: 1_000,
      maxLengthBytes: 1_048_576,
      overflow: 'reject-publish',
      deadLetter: { exchange: 'orders.dead', routingKey: 'billing' },
      maxPriority: 5,
      deliveryLimit: 3,
      singleActiveConsumer: true,
      arguments: { 'x-quorum-initial-group-size': 3 },
    });
    expect(args).toMatchObject({ queue: 'billing', durable: true, exclusive: false, autoDelete: false });
    expect({ ...args.arguments }).toEqual({
      'x-queue-type': 'quorum',
      'x-expires': 1_800_000,
      'x-message-ttl': 10_000,
      'x-max-length': 1_000,
      'x-max-length-bytes': 1_048_576,
      'x-overflow': 'reject-publish',
      'x-dead-letter-exchange': 'orders.dead',
      'x-dead-letter-routing-key': 'billing',
      'x-max-priority': 5,
      'x-delivery-limit': 3,
      'x-single-active-consumer': true,
      'x-quorum-initial-group-size': 3,
    });
  });

  test.each<[what: string, definition: QueueDefinition, flags: object]>([
    ['a named queue is durable and shared', { name: 'q' }, { durable: true, exclusive: false, autoDelete: false }],
    ['an unnamed queue is exclusive and goes by itself', {}, { durable: false, exclusive: true, autoDelete: true }],
    ['flags win over both', { name: 'q', durable: false, exclusive: true }, { durable: false, exclusive: true }],
  ])('%s', async (_what, definition, flags) => {
    const args = await declarationOf(definition);
    expect(args).toMatchObject({ queue: definition.name ?? '', ...flags });
    expect({ ...args.arguments }).toEqual({});
  });

  test('has the dead-letter exchange without a routing key where none is given', async () => {
    const args = await declarationOf({ name: 'q', deadLetter: { exchange: 'dead' } });
    expect({ ...args.arguments }).toEqual({ 'x-dead-letter-exchange': 'dead' });
  });

  test('has whole milliseconds for any length of time that the broker knows', async () => {
    const args = await declarationOf({ name: 'q', messageTtl: '30d', expires: 1_000.4 });
    expect({ ...args.arguments }).toEqual({ 'x-message-ttl': 2_592_000_000, 'x-expires': 1_000 });
  });

  test('can be applied again, and messages flow the way it says', async () => {
    await using scratch = await Scratch.open();
    await using connection = await connect(brokerUrl);
    const [source, middle, target] = [scratch.exchangeName(), scratch.exchangeName(), scratch.queueName()];
    const topology: Topology = {
      exchanges: [
        exchange({ name: source, type: 'topic' }),
        exchange({ name: middle, type: 'fanout', internal: true }),
      ],
      queues: [queue({ name: target, maxLength: 10 })],
      bindings: [
        binding({ source, exchange: middle, routingKey: 'order.*' }),
        binding({ source: middle, queue: target }),
      ],
    };
    await applyTopology(connection, topology);
    await applyTopology(connection, topology);

    const channel = await connection.channel({ confirm: true });
    await channel.basicPublish(source, 'order.placed', 'through both', { mandatory: true });
    expect((await scratch.take(target)).body.toString()).toBe('through both');
  });

  test.each([
    [2, 2],
    [2047, 8],
  ])('a large one goes over several channels: a limit of %d leaves it %d', async (channelMax, channels) => {
    const { peer, connection } = await scripted({}, { channelMax });
    const exchanges = Array.from({ length: 60 }, (_, index) => ({ name: `e${index}`, type: 'direct' }) as const);
    const applied = failure(applyTopology(connection, { exchanges }));
    for (let count = 0; count < channels; count += 1) await peer.openChannel();
    // `receive` would find a further channel.open.
    const said = new Set<number>();
    for (let count = 0; count < exchanges.length; count += 1)
      said.add((await peer.receive('exchange.declare')).channel);
    expect(said.size).toBe(channels);
    peer.hangUp();
    await applied;
  });

  test('goes over the channels that there are when one of them cannot be opened, and closes them', async () => {
    const { peer, connection } = await scripted();
    const exchanges = Array.from({ length: 16 }, (_, index) => ({ name: `e${index}`, type: 'direct' }) as const);
    const applied = applyTopology(connection, { exchanges });
    const { channel } = await peer.receive('channel.open');
    peer.send(channel, 'channel.close', { replyCode: 541, replyText: 'INTERNAL_ERROR', classId: 20, methodId: 10 });
    const opened = await peer.openChannel();
    await peer.receive('channel.close-ok');
    for (let count = 0; count < exchanges.length; count += 1) {
      expect((await peer.receive('exchange.declare')).channel).toBe(opened);
      peer.send(opened, 'exchange.declare-ok', {});
    }
    await peer.answer('channel.close-ok', {});
    await applied;
    peer.hangUp();
  });

  test.each([2, undefined])(
    'a large one is applied, whether a limit of %s leaves it few channels or many',
    async (channelMax) => {
      await using scratch = await Scratch.open();
      await using connection = await connect(brokerUrl, { channelMax });
      const source = scratch.exchangeName();
      const names = Array.from({ length: 60 }, () => scratch.queueName());
      await applyTopology(connection, {
        exchanges: [{ name: source, type: 'direct' }],
        queues: names.map((name) => ({ name })),
        bindings: names.map((name) => ({ source, queue: name, routingKey: name })),
      });
      const channel = await connection.channel({ confirm: true });
      await Promise.all(names.map((name) => channel.basicPublish(source, name, 'to each', { mandatory: true })));
    },
  );

  test('of a large one that cannot be declared all channels are closed, and the one at fault is named', async () => {
    await using scratch = await Scratch.open();
    await using connection = await connect(brokerUrl, { channelMax: 3 });
    const name = await scratch.queue({ durable: true });
    const names = Array.from({ length: 60 }, () => scratch.queueName());
    const queues: QueueDefinition[] = names.map((other) => ({ name: other }));
    queues[33] = { name, messageTtl: '1m' };
    const error = await failure(applyTopology(connection, { queues }));
    expect(error.code).toBe('TOPOLOGY_CONFLICT');
    expect(error.message).toContain(`queue '${name}'`);
    await eventually('that the three channels are free', async () => {
      const opened = await Promise.allSettled([connection.channel(), connection.channel(), connection.channel()]);
      const channels = opened.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
      await Promise.all(channels.map((channel) => channel.close()));
      return channels.length === 3 || undefined;
    });
  });

  test('leaves no channel open', async () => {
    await using connection = await connect(brokerUrl, { channelMax: 1 });
    await applyTopology(connection, {});
    await applyTopology(connection, {});
    await (await connection.channel()).close();
  });
});

describe('what the broker refuses', () => {
  test('a queue that is there with another flag is a conflict: which one, what is declared, what the broker has', async () => {
    await using scratch = await Scratch.open();
    const name = await scratch.queue({ durable: true });
    const error = await refusalOf({ queues: [{ name, durable: false, exclusive: false, autoDelete: false }] });
    expect(error).toMatchObject({ code: 'TOPOLOGY_CONFLICT', replyCode: 406, method: 'queue.declare' });
    expect(error.message).toContain(`queue '${name}'`);
    expect(error.message).toContain("has queue '" + name + "' with durable 'true'");
    expect(error.message).toContain("declares 'false'");
  });

  test('a queue that is there with another argument is a conflict, and its neighbours are not blamed', async () => {
    await using scratch = await Scratch.open();
    const name = await scratch.queue({ arguments: { 'x-message-ttl': 5_000 } });
    const error = await refusalOf({
      queues: [{ name: scratch.queueName() }, { name, messageTtl: '1m' }, { name: scratch.queueName() }],
    });
    expect(error.code).toBe('TOPOLOGY_CONFLICT');
    expect(error.message).toContain(`queue '${name}'`);
    expect(error.message).toContain('x-message-ttl');
    expect(error.message).toContain("'5000'");
    expect(error.message).toContain("'60000'");
  });

  test('an exchange that is there with another type is a conflict', async () => {
    await using scratch = await Scratch.open();
    const name = await scratch.exchange('topic');
    const error = await refusalOf({ exchanges: [{ name, type: 'fanout' }] });
    expect(error.code).toBe('TOPOLOGY_CONFLICT');
    expect(error.message).toMatch(/exchange '.*' with type 'topic'; this module declares 'fanout'/);
  });

  test('a binding to a queue that is not there fails, naming both ends', async () => {
    await using scratch = await Scratch.open();
    const source = await scratch.exchange('topic');
    const error = await refusalOf({ bindings: [{ source, queue: 'test.nobody-declared-this' }] });
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 404, method: 'queue.bind' });
    expect(error.message).toContain(`binding from exchange '${source}' to queue 'test.nobody-declared-this'`);
    expect((error.cause as AmqpError).code).toBe('CHANNEL_CLOSED');
  });

  test('a binding between exchanges of which one is not there fails', async () => {
    await using scratch = await Scratch.open();
    const source = await scratch.exchange('topic');
    const error = await refusalOf({ bindings: [{ source, exchange: 'test.no-such-exchange' }] });
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 404, method: 'exchange.bind' });
    expect(error.message).toContain("to exchange 'test.no-such-exchange'");
  });

  test('a name that the broker keeps for itself fails as a topology, with the broker’s words', async () => {
    const error = await refusalOf({ queues: [{ name: 'amq.test' }] });
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 403 });
    expect(error.message).toContain("queue 'amq.test'");
    expect(error.message).toContain('ACCESS_REFUSED');
  });

  test('an exchange type that the broker does not have, which may end the whole connection, still names the exchange', async () => {
    await using scratch = await Scratch.open();
    const name = scratch.exchangeName();
    const error = await refusalOf({ exchanges: [{ name, type: 'x-no-such-type' }] });
    expect(error.code).toBe('TOPOLOGY_FAILED');
    // Up to RabbitMQ 3 it is 503, which ends the connection; RabbitMQ 4 ends the channel alone.
    const ends = { 503: 'CONNECTION_CLOSED', 406: 'CHANNEL_CLOSED' }[error.replyCode ?? 0];
    expect((error.cause as AmqpError).code).toBe(ends);
    expect(error.message).toContain(`exchange '${name}'`);
    expect(error.message).toContain('Without plugins a broker has direct, fanout, topic and headers');
  });

  test('the exchange type of a plugin that is not enabled names the plugin', async () => {
    await using scratch = await Scratch.open();
    const delayed = await refusalOf({ exchanges: [{ name: scratch.exchangeName(), type: 'x-delayed-message' }] });
    expect(delayed.code).toBe('TOPOLOGY_FAILED');
    expect(delayed.message).toMatch(/Enable the plugin rabbitmq_delayed_message_exchange .* or publish with delay/);
  });

  test('a connection that is lost meanwhile is not taken for a refusal', async () => {
    const { peer, connection } = await scripted();
    const applied = applyTopology(connection, { queues: [{ name: 'q' }] });
    await peer.openChannel();
    await peer.receive('queue.declare');
    peer.hangUp();
    await expect(applied).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  });

  test('what cannot be written to the wire is not taken for a refusal', async () => {
    await using connection = await connect(brokerUrl);
    const applied = applyTopology(connection, { queues: [{ name: 'x'.repeat(256) }] });
    await expect(applied).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('a definition that cannot work is refused without a broker', () => {
  const messages: readonly (readonly [what: string, topology: object, told: string])[] = [
    ['an unknown part of the topology', { queue: [] }, "The topology has the unknown field 'queue'"],
    [
      'an unknown field of an exchange',
      { exchanges: [{ name: 'orders', type: 'topic', durble: true }] },
      "Exchange 'orders' has the unknown field 'durble'",
    ],
    [
      'what is an argument of a queue',
      { queues: [{ name: 'billing', 'x-message-ttl': 1 }] },
      "unknown field 'x-message-ttl'. Say arguments: { 'x-…': value }.",
    ],
    [
      'what amqplib calls otherwise',
      { queues: [{ name: 'billing', deadLetterExchange: 'dead' }] },
      "unknown field 'deadLetterExchange'. Say deadLetter: { exchange, routingKey }.",
    ],
    [
      'an unknown field of a queue',
      { queues: [{ name: 'billing', ttl: 5 }] },
      "Queue 'billing' has the unknown field 'ttl'",
    ],
    [
      'an unknown field of a binding',
      { bindings: [{ source: 'orders', queue: 'billing', key: 'a' }] },
      "A binding has the unknown field 'key'",
    ],
    ['an exchange without a name', { exchanges: [{ type: 'topic' }] }, 'An exchange has no name'],
    ['the default exchange', { exchanges: [{ name: '', type: 'direct' }] }, 'An exchange has no name'],
    ['an exchange without a type', { exchanges: [{ name: 'orders' }] }, "Exchange 'orders' has no type"],
    ['a binding without a source', { bindings: [{ queue: 'billing' }] }, 'A binding has no source exchange'],
    [
      'a binding of the default exchange',
      { bindings: [{ source: '', queue: 'billing' }] },
      'The default exchange cannot be bound',
    ],
    [
      'a binding with both a queue and an exchange',
      { bindings: [{ source: 'orders', queue: 'billing', exchange: 'audit' }] },
      "The binding of 'orders' has queue 'billing' and exchange 'audit', and needs one of them",
    ],
    [
      'a binding with both, of which one is empty',
      { bindings: [{ source: 'orders', queue: '', exchange: 'audit' }] },
      "The binding of 'orders' has queue '' and exchange 'audit', and needs one of them",
    ],
    [
      'a binding with both, of which the other is empty',
      { bindings: [{ source: 'orders', queue: 'billing', exchange: '' }] },
      "The binding of 'orders' has queue 'billing' and exchange '', and needs one of them",
    ],
    [
      'a binding with neither',
      { bindings: [{ source: 'orders' }] },
      "The binding of 'orders' needs either a queue or an exchange",
    ],
  ];
  test.each(messages)('%s', (_what, topology, told) => {
    const error = flawOf(topology);
    expect(error.code).toBe('INVALID_DEFINITION');
    expect(error.message).toContain(told);
  });

  test('a length of time that is none names the field and the queue', () => {
    const error = flawOf({ queues: [{ name: 'billing', messageTtl: 'soon' }] });
    expect(error.message).toContain("messageTtl of queue 'billing' is 'soon'");
  });

  test('an unknown field lists those that are known', () => {
    expect(flawOf({ queues: [{ name: 'q', deadletter: {} }] }).message).toContain('deadLetter');
  });

  test('a name with control characters is told escaped', () => {
    expect(flawOf({ queues: [{ name: 'a\u001b[31m', x: 1 }] }).message).toContain('a\\u001b[31m');
  });

  test('what can work is taken', () => {
    const bindings: BindingDefinition[] = [
      { source: 'orders', queue: 'billing' },
      { source: 'orders', exchange: 'audit', routingKey: '#' },
    ];
    expect(() => {
      checkTopology({ exchanges: [{ name: 'orders', type: 'x-consistent-hash' }], queues: [{}], bindings });
      checkTopology({});
    }).not.toThrow();
  });
});
