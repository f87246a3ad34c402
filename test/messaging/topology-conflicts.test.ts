/** What a broker has against a topology: collected into one error, or used as it is, or only checked. */
import { describe, expect, test } from '@jest/globals';

import { connect } from '../../lib/client/connection.js';
import type { Topology } from '../../lib/messaging/definitions.js';
import { type ApplyOptions, applyTopology } from '../../lib/messaging/topology.js';
import { type TopologyConflict, TopologyError } from '../../lib/messaging/topology-error.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, scripted } from '../support/client.js';
import { Scratch } from '../support/scratch.js';

/** The error that applying it to the test broker ends in. */
async function refusalOf(topology: Topology, options?: ApplyOptions): Promise<TopologyError> {
  await using connection = await connect(brokerUrl);
  const error = await failure(applyTopology(connection, topology, options));
  if (error instanceof TopologyError) return error;
  throw error;
}

describe('all that the broker refuses', () => {
  test('is one error: exchanges, queues, bindings, each with what is declared, what is there, and what to do', async () => {
    await using scratch = await Scratch.open();
    const [exchange, other] = [await scratch.exchange('topic'), scratch.exchangeName()];
    const queues = [await scratch.queue(), await scratch.queue({ arguments: { 'x-message-ttl': 5_000 } })].sort();
    const [one, two] = queues as [string, string];
    const fine = scratch.queueName();
    const error = await refusalOf(
      {
        exchanges: [
          { name: exchange, type: 'fanout' },
          { name: other, type: 'direct' },
        ],
        queues: [{ name: two, maxLength: 5 }, { name: fine }, { name: one, messageTtl: '1m', durable: true }],
        bindings: [
          { source: other, queue: 'test.no-such-queue', routingKey: 'a' },
          { source: exchange, queue: fine },
          { source: other, queue: fine, routingKey: 'b' },
        ],
      },
      { placeOf: (entity) => (entity.kind === 'queue' ? 'AmqpModule.forRoot' : undefined) },
    );
    expect(error).toMatchObject({ code: 'TOPOLOGY_CONFLICT', name: 'TopologyError', replyCode: 406 });
    expect(
      error.conflicts.map(({ entity, replyCode }) => [entity.kind, 'name' in entity ? entity.name : '', replyCode]),
    ).toEqual([
      ['exchange', exchange, 406],
      ['queue', one, 406],
      ['queue', two, 406],
      ['binding', '', 404],
    ]);
    expect(error.conflicts[0]).toMatchObject({
      declaredIn: undefined,
      difference: { property: 'type', declared: 'fanout', existing: 'topic' },
    });
    expect(error.conflicts[1]?.declaredIn).toBe('AmqpModule.forRoot');
    expect(error.message).toMatch(
      /^4 declarations do not fit the broker. Of what differs a broker tells the first property only.\n/,
    );
    expect(error.message.split('\n')).toHaveLength(5);
    expect(error.message).toContain(
      `- The broker has exchange '${exchange}' with type 'topic'; this module declares 'fanout'.`,
    );
    expect(error.message).toContain('AmqpModule.forRoot declares');
    expect(error.message).toContain(
      `- The binding from exchange '${other}' to queue 'test.no-such-queue' with key 'a' cannot be declared. ` +
        'The broker says: 404 ',
    );
    expect(error.message).not.toContain('Declare it first');
    // The rest of it is declared.
    await scratch.publish(other, 'b', 'through');
    expect((await scratch.take(fine)).body.toString()).toBe('through');
  });

  test('is told of a large topology too, over several channels', async () => {
    await using scratch = await Scratch.open();
    const names = Array.from({ length: 60 }, () => scratch.queueName());
    const there = await Promise.all([7, 8, 24, 40, 59].map((index) => scratch.queue({ name: names[index] ?? '' })));
    const error = await refusalOf({ queues: names.map((name) => ({ name, maxLength: 9 })) });
    expect(error.conflicts.map(({ entity }) => 'name' in entity && entity.name)).toEqual([...there].sort());
    for (const name of names) expect(await scratch.state(name)).toBeDefined();
  });

  test.each<
    [
      what: string,
      has: Topology,
      declares: Topology,
      property: string,
      words: string,
      declared: string | undefined,
      ...existing: (string | undefined)[],
    ]
  >([
    [
      'a flag',
      { queues: [{ name: 'Q' }] },
      { queues: [{ name: 'Q', durable: false }] },
      'durable',
      'durable',
      'false',
      'true',
    ],
    [
      'a flag that brokers write otherwise',
      { exchanges: [{ name: 'Q', type: 'topic' }] },
      { exchanges: [{ name: 'Q', type: 'topic', autoDelete: true }] },
      'auto_delete',
      'autoDelete (auto_delete)',
      'true',
      'false',
    ],
    [
      'an argument that it lacks',
      { queues: [{ name: 'Q' }] },
      { queues: [{ name: 'Q', maxLength: 5 }] },
      'x-max-length',
      'maxLength (x-max-length)',
      '5',
      undefined,
    ],
    [
      'an argument that it has',
      { queues: [{ name: 'Q', expires: '1h' }] },
      { queues: [{ name: 'Q' }] },
      'x-expires',
      'expires (x-expires)',
      undefined,
      '3600000',
    ],
    [
      'text',
      { queues: [{ name: 'Q', deadLetter: { exchange: 'one' } }] },
      { queues: [{ name: 'Q', deadLetter: { exchange: 'two' } }] },
      'x-dead-letter-exchange',
      'deadLetter.exchange (x-dead-letter-exchange)',
      'two',
      'one',
    ],
    [
      'the type of a queue',
      { queues: [{ name: 'Q' }] },
      { queues: [{ name: 'Q', type: 'quorum' }] },
      'x-queue-type',
      'type (x-queue-type)',
      'quorum',
      // RabbitMQ 4 says it.
      'classic',
      undefined,
    ],
    [
      'an argument of an exchange',
      { exchanges: [{ name: 'Q', type: 'topic' }] },
      { exchanges: [{ name: 'Q', type: 'topic', alternateExchange: 'lost' }] },
      'alternate-exchange',
      'alternateExchange (alternate-exchange)',
      'lost',
      undefined,
    ],
  ])('names what differs: %s', async (_what, has, declares, property, words, declared, ...existing) => {
    await using scratch = await Scratch.open();
    const [queue, exchange] = [scratch.queueName(), scratch.exchangeName()];
    const named = ({ queues = [], exchanges = [] }: Topology): Topology => ({
      queues: queues.map((definition) => ({ ...definition, name: queue })),
      exchanges: exchanges.map((definition) => ({ ...definition, name: exchange })),
    });
    await using connection = await connect(brokerUrl);
    await applyTopology(connection, named(has));
    const { conflicts, message } = await refusalOf(named(declares));
    expect(message).toContain(` with ${words} `);
    expect(conflicts).toMatchObject([{ difference: { property, declared } }]);
    expect(existing).toContain(conflicts[0]?.difference?.existing);
  });

  test('a queue that another connection holds is told so, as something that passes', async () => {
    await using scratch = await Scratch.open();
    const name = await scratch.queue({ exclusive: true });
    const error = await refusalOf({ queues: [{ name, exclusive: true }] });
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 405 });
    expect(error.message).toContain('Another connection holds it');
  });

  test('an argument that cannot be is no conflict', async () => {
    const error = await refusalOf({ queues: [{ name: 'test.q', arguments: { 'x-max-length': -1 } }] });
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 406 });
    expect(error.conflicts[0]?.difference).toBeUndefined();
  });

  test('when it ends the connection, what may be to blame is named', async () => {
    const { peer, connection } = await scripted();
    const applied = failure(
      applyTopology(connection, { queues: [{ name: 'tmp', durable: false }, { name: 'other' }] }),
    );
    await peer.openChannel();
    const first = await peer.receive('queue.declare');
    peer.send(first.channel, 'queue.declare-ok', { queue: 'tmp', messageCount: 0, consumerCount: 0 });
    await peer.receive('queue.declare');
    peer.send(0, 'connection.close', { replyCode: 541, replyText: 'INTERNAL_ERROR', classId: 50, methodId: 10 });
    const error = await applied;
    expect(error).toBeInstanceOf(TopologyError);
    expect(error).toMatchObject({
      code: 'TOPOLOGY_FAILED',
      replyCode: 541,
      conflicts: [{ entity: { kind: 'queue', name: 'other' } }],
    });
    peer.hangUp();
  });
});

describe("onConflict 'warn'", () => {
  test('tells what differs, uses what is there, and binds it', async () => {
    await using scratch = await Scratch.open();
    const [source, queue] = [scratch.exchangeName(), await scratch.queue()];
    const told: TopologyConflict[] = [];
    await using connection = await connect(brokerUrl);
    await applyTopology(
      connection,
      {
        exchanges: [{ name: source, type: 'fanout' }],
        queues: [{ name: queue, maxLength: 5 }],
        bindings: [{ source, queue }],
      },
      { onConflict: 'warn', differs: (conflict) => told.push(conflict) },
    );
    expect(told).toMatchObject([{ entity: { kind: 'queue', name: queue }, difference: { property: 'x-max-length' } }]);
    await scratch.publish(source, '', 'through');
    expect((await scratch.take(queue)).body.toString()).toBe('through');
  });

  test('does not help what is missing', async () => {
    await using scratch = await Scratch.open();
    const source = await scratch.exchange('fanout');
    const error = await refusalOf({ bindings: [{ source, queue: 'test.no-such-queue' }] }, { onConflict: 'warn' });
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 404 });
  });
});

describe("mode 'check'", () => {
  test('declares nothing, and lists every exchange and queue that is missing', async () => {
    await using scratch = await Scratch.open();
    const [exchange, queue] = [await scratch.exchange('topic'), await scratch.queue()];
    const missing = [scratch.queueName(), scratch.queueName()].sort();
    const noExchange = scratch.exchangeName();
    const error = await refusalOf(
      {
        exchanges: [
          { name: noExchange, type: 'topic' },
          { name: exchange, type: 'topic' },
        ],
        queues: [...missing, queue].map((name) => ({ name })),
        bindings: [{ source: exchange, queue, routingKey: 'a' }],
      },
      { mode: 'check' },
    );
    expect(error).toMatchObject({ code: 'TOPOLOGY_FAILED', replyCode: 404 });
    expect(error.conflicts.map(({ entity }) => 'name' in entity && entity.name)).toEqual([noExchange, ...missing]);
    const [first, second] = missing;
    expect(error.message).toBe(
      '3 declarations do not fit the broker.\n' +
        [`exchange '${noExchange}'`, `queue '${first}'`, `queue '${second}'`]
          .map(
            (what) =>
              `- The broker has no ${what}, and topologyMode is 'check': it is not declared. Have it declared, or correct the name.`,
          )
          .join('\n'),
    );
    for (const name of missing) expect(await scratch.state(name)).toBeUndefined();
    await expect(scratch.publish(exchange, 'a', 'nowhere')).rejects.toMatchObject({ code: 'UNROUTABLE' });
  });

  test('asks of what is there nothing more: its properties cannot be seen', async () => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue({ arguments: { 'x-max-length': 5 } });
    await using connection = await connect(brokerUrl);
    await applyTopology(connection, { queues: [{ name: queue, maxLength: 7 }] }, { mode: 'check' });
  });

  test('declares and binds what is of the connection alone', async () => {
    await using scratch = await Scratch.open();
    const source = await scratch.exchange('fanout');
    const own = {};
    const name = scratch.queueName();
    await using connection = await connect(brokerUrl);
    await applyTopology(
      connection,
      {
        queues: [own, { name, exclusive: true, durable: false }],
        bindings: [
          { source, queue: own },
          { source, queue: name },
        ],
      },
      { mode: 'check' },
    );
    await scratch.publish(source, '', 'to both');
    expect((await (await connection.channel()).basicGet(name, { noAck: true }))?.message.text).toBe('to both');
  });
});

test('alternate and dead-letter exchanges may be declared after what names them, or not at all', async () => {
  await using scratch = await Scratch.open();
  const [first, last, queue] = [scratch.exchangeName(), scratch.exchangeName(), scratch.queueName()];
  await using connection = await connect(brokerUrl);
  await applyTopology(connection, {
    exchanges: [
      { name: first, type: 'topic', alternateExchange: last },
      { name: last, type: 'fanout', alternateExchange: 'test.no-such-exchange' },
    ],
    queues: [{ name: queue, deadLetter: { exchange: 'test.no-such-exchange' } }],
    bindings: [{ source: last, queue }],
  });
  await scratch.publish(first, 'nobody', 'by the alternate');
  expect((await scratch.take(queue)).body.toString()).toBe('by the alternate');
});
