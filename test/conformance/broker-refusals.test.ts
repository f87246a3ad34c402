/** What a broker refuses of declarations, bindings and deletions: the reply code, and the text word by word. */
import { expect, test } from '@jest/globals';

import type { Channel } from '../../lib/client/channel.js';
import type { ExchangeDeclareOptions, QueueDeclareOptions } from '../../lib/client/channel-options.js';
import { connect } from '../../lib/client/connection.js';
import { type FieldTable, field } from '../../lib/protocol/field-table.js';
import { BareClient } from '../support/bare-client.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, unique } from '../support/client.js';
import { Bench } from './bench.js';

/** With what code and text the broker ends a channel over this. */
async function refusal(bench: Bench, work: (channel: Channel) => Promise<unknown>): Promise<unknown[]> {
  const { replyCode, replyText, method, closedBy } = await bench.refusal(work);
  expect(closedBy).toBe('server');
  return [replyCode, replyText, method];
}

/** A reply text has 255 bytes at most. */
const shortened = (replyText: string): string => (replyText.length > 255 ? `${replyText.slice(0, 252)}...` : replyText);

/** What the broker says of a queue that is locked. */
const locked = (queue: string): string =>
  shortened(
    `RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '${queue}' in vhost '/'. It could be originally ` +
      'declared on another connection or the exclusive property value does not match that of the original declaration.',
  );

test('a queue that is there with another property or argument is refused, which and how is told', async () => {
  await using bench = await Bench.open();
  const { scratch } = bench;
  const cases: readonly [was: QueueDeclareOptions, is: QueueDeclareOptions, difference: string][] = [
    [{}, { durable: false }, "'durable' for Q: received 'false' but current is 'true'"],
    [{}, { autoDelete: true }, "'auto_delete' for Q: received 'true' but current is 'false'"],
    ...(
      [
        [
          {},
          { 'x-message-ttl': 1000 },
          "'x-message-ttl' for Q: received the value '1000' of type 'signedint' but current is none",
        ],
        [
          { 'x-message-ttl': 1000 },
          {},
          "'x-message-ttl' for Q: received none but current is the value '1000' of type 'signedint'",
        ],
        [
          { 'x-message-ttl': 1000 },
          { 'x-message-ttl': 2000 },
          "'x-message-ttl' for Q: received '2000' but current is '1000'",
        ],
        [
          {},
          { 'x-dead-letter-exchange': 'dlx' },
          "'x-dead-letter-exchange' for Q: received the value 'dlx' of type 'longstr' but current is none",
        ],
        [
          { 'x-single-active-consumer': true },
          {},
          "'x-single-active-consumer' for Q: received none but current is the value 'true' of type 'bool'",
        ],
        [
          { 'x-overflow': 'drop-head' },
          { 'x-overflow': 'reject-publish' },
          "'x-overflow' for Q: received 'reject-publish' but current is 'drop-head'",
        ],
        [{ 'x-max-priority': 5 }, { 'x-max-priority': 6 }, "'x-max-priority' for Q: received '6' but current is '5'"],
        [{ 'x-max-length': 5 }, { 'x-max-length': 6 }, "'x-max-length' for Q: received '6' but current is '5'"],
        [
          {},
          { 'x-queue-type': 'quorum' },
          bench.isRabbitMq3
            ? "'x-queue-type' for Q: received the value 'quorum' of type 'longstr' but current is none"
            : "'x-queue-type' for Q: received 'quorum' but current is 'classic'",
        ],
      ] satisfies [FieldTable, FieldTable, string][]
    ).map(([was, is, difference]): [QueueDeclareOptions, QueueDeclareOptions, string] => [
      { arguments: was },
      { arguments: is },
      difference,
    ]),
  ];
  for (const [was, is, difference] of cases) {
    const queue = await scratch.queue(was);
    expect(await refusal(bench, (channel) => channel.queueDeclare(queue, is))).toEqual([
      406,
      `PRECONDITION_FAILED - inequivalent arg ${difference.replace('Q', `queue '${queue}' in vhost '/'`)}`,
      'queue.declare',
    ]);
    await scratch.delete(queue);
  }
});

test('a queue is the same with its numbers in another width, the default type by its name, and unknown arguments', async () => {
  await using bench = await Bench.open();
  const queue = await bench.scratch.queue({ arguments: { 'x-message-ttl': 60_000, 'x-of-mine': 1 } });
  const same: readonly FieldTable[] = [
    { 'x-message-ttl': field.int64(60_000) },
    { 'x-message-ttl': 60_000, 'x-queue-type': 'classic' },
    { 'x-message-ttl': 60_000, 'x-of-mine': 2, other: 'x' },
  ];
  for (const args of same) await bench.channel.queueDeclare(queue, { arguments: args });
});

test('an exclusive queue is refused to others, and a shared one to those who want it alone; a long text ends in dots', async () => {
  await using bench = await Bench.open();
  const [own, shared] = [await bench.queue(), await bench.scratch.queue()];
  await using stranger = await connect(brokerUrl);
  const asks: readonly Promise<unknown>[] = [
    failure((await stranger.channel()).queueDeclare(own, { passive: true })),
    failure((await stranger.channel()).queueDeclare(shared, { exclusive: true })),
  ];
  for (const [index, queue] of [own, shared].entries()) {
    expect(await asks[index]).toMatchObject({
      replyCode: 405,
      replyText: locked(queue),
      method: 'queue.declare',
    });
  }
});

test('an argument of a queue that makes no sense is refused, and why is told', async () => {
  await using bench = await Bench.open();
  const queue = bench.scratch.queueName();
  const invalid = (name: string, why: string): string => `invalid arg '${name}' for Q: ${why}`;
  const integer = '"expected integer, got longstr"';
  const classic: [FieldTable, string][] = [
    [{ 'x-message-ttl': 'a' }, invalid('x-message-ttl', integer)],
    [{ 'x-message-ttl': -1 }, invalid('x-message-ttl', '{value_negative,-1}')],
    [{ 'x-expires': 0 }, invalid('x-expires', '{value_zero,0}')],
    [{ 'x-expires': -1 }, invalid('x-expires', '{value_negative,-1}')],
    [{ 'x-max-length': -1 }, invalid('x-max-length', '{value_negative,-1}')],
    [{ 'x-max-length-bytes': '1' }, invalid('x-max-length-bytes', integer)],
    [{ 'x-overflow': 'foo' }, invalid('x-overflow', 'invalid_overflow')],
    [{ 'x-max-priority': 256 }, invalid('x-max-priority', '{max_value_exceeded,256}')],
    [{ 'x-max-priority': -1 }, invalid('x-max-priority', '{value_negative,-1}')],
    [{ 'x-max-priority': 'a' }, invalid('x-max-priority', integer)],
    [{ 'x-single-active-consumer': 'a' }, invalid('x-single-active-consumer', '{unacceptable_type,longstr}')],
    [{ 'x-dead-letter-exchange': 1 }, "invalid type 'signedint' for arg 'x-dead-letter-exchange' in Q"],
    [{ 'x-dead-letter-routing-key': 'a' }, invalid('x-dead-letter-routing-key', 'routing_key_but_no_dlx_defined')],
    [{ 'x-queue-type': 'foo' }, invalid('x-queue-type', '"unsupported queue type \'foo\'"')],
    [{ 'x-queue-type': 1 }, invalid('x-queue-type', '{unacceptable_type,signedint}')],
    [{ 'x-delivery-limit': 5 }, "invalid arg 'x-delivery-limit' for Q of queue type rabbit_classic_queue"],
  ];
  // 4.3 has one mode, and takes any word for it.
  if (!bench.isRabbitMq43)
    classic.push([{ 'x-queue-mode': 'foo' }, invalid('x-queue-mode', '"unsupported queue mode \'foo\'"')]);
  const quorum: readonly [QueueDeclareOptions, string][] = [
    [{ durable: false }, "invalid property 'non-durable' for Q"],
    [{ exclusive: true }, "invalid property 'exclusive-owner' for Q"],
    [{ autoDelete: true }, "invalid property 'auto-delete' for Q"],
    [{ arguments: { 'x-max-priority': 5 } }, "invalid arg 'x-max-priority' for Q of queue type rabbit_quorum_queue"],
    [{ arguments: { 'x-queue-mode': 'lazy' } }, "invalid arg 'x-queue-mode' for Q of queue type rabbit_quorum_queue"],
  ];
  const all: readonly [QueueDeclareOptions, string][] = [
    ...classic.map(([args, why]): [QueueDeclareOptions, string] => [{ arguments: args }, why]),
    ...quorum.map(([options, why]): [QueueDeclareOptions, string] => [
      { ...options, arguments: { 'x-queue-type': 'quorum', ...options.arguments } },
      why,
    ]),
  ];
  for (const [options, why] of all) {
    expect(await refusal(bench, (channel) => channel.queueDeclare(queue, options))).toEqual([
      406,
      `PRECONDITION_FAILED - ${why.replace('Q', `queue '${queue}' in vhost '/'`)}`,
      'queue.declare',
    ]);
  }
});

test.each(['classic', 'quorum'])('an argument of a consumer that a %s queue does not take is refused', async (type) => {
  await using bench = await Bench.open();
  const queue = await bench.scratch.queue({ arguments: { 'x-queue-type': type } });
  const consume = (args: FieldTable) => (channel: Channel) =>
    channel.basicConsume(queue, () => undefined, { arguments: args });
  expect(await refusal(bench, consume({ 'x-stream-offset': 'first' }))).toEqual([
    406,
    `PRECONDITION_FAILED - invalid arg 'x-stream-offset' for queue '${queue}' in vhost '/' of queue type rabbit_${type}_queue`,
    'basic.consume',
  ]);
  expect(await refusal(bench, consume({ 'x-priority': 'high' }))).toEqual([
    406,
    `PRECONDITION_FAILED - invalid arg 'x-priority' for queue '${queue}' in vhost '/': "expected integer, got longstr"`,
    'basic.consume',
  ]);
});

test('an exchange that is there with another type, property or alternate is refused; other arguments do not count', async () => {
  await using bench = await Bench.open();
  const exchange = await bench.scratch.exchange('direct', { durable: false });
  const cases: readonly [type: string, options: ExchangeDeclareOptions, difference: string][] = [
    ['fanout', {}, "'type' for X: received 'fanout' but current is 'direct'"],
    ['direct', { durable: true }, "'durable' for X: received 'true' but current is 'false'"],
    ['direct', { autoDelete: true }, "'auto_delete' for X: received 'true' but current is 'false'"],
    ['direct', { internal: true }, "'internal' for X: received 'true' but current is 'false'"],
    [
      'direct',
      { arguments: { 'alternate-exchange': 'a' } },
      "'alternate-exchange' for X: received the value 'a' of type 'longstr' but current is none",
    ],
  ];
  for (const [type, options, difference] of cases) {
    const declare = (channel: Channel): Promise<void> =>
      channel.exchangeDeclare(exchange, type, { durable: false, ...options });
    expect(await refusal(bench, declare)).toEqual([
      406,
      `PRECONDITION_FAILED - inequivalent arg ${difference.replace('X', `exchange '${exchange}' in vhost '/'`)}`,
      'exchange.declare',
    ]);
  }
  await bench.channel.exchangeDeclare(exchange, 'direct', { durable: false, arguments: { 'x-of-mine': 1 } });
  await bench.channel.exchangeDeclare(exchange, 'no such type', { passive: true, durable: true });
});

test('names, types and the predeclared: what may not be declared, bound, published to or deleted', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue();
  const [missing, other, own] = [unique('queue'), unique('exchange'), unique('exchange')];
  const reserved = "contains reserved prefix 'amq.*'";
  const predeclared = 'ACCESS_REFUSED - operation not permitted on the default exchange';
  const cases: readonly [(channel: Channel) => Promise<unknown>, number, string][] = [
    [(channel) => channel.queueDeclare('amq.mine'), 403, `ACCESS_REFUSED - queue name 'amq.mine' ${reserved}`],
    [
      (channel) => channel.exchangeDeclare('amq.mine', 'direct'),
      403,
      `ACCESS_REFUSED - exchange name 'amq.mine' ${reserved}`,
    ],
    [
      (channel) => channel.exchangeDeclare('amq.direct', 'direct', { durable: false }),
      406,
      "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'amq.direct' in vhost '/': received 'false' but current is 'true'",
    ],
    [
      (channel) => channel.exchangeDelete('amq.topic'),
      403,
      "ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost '/' not allowed",
    ],
    [
      (channel) => channel.exchangeDelete('amq.nothing'),
      403,
      "ACCESS_REFUSED - deletion of system exchange 'amq.nothing' in vhost '/' not allowed",
    ],
    [
      (channel) => channel.exchangeDeclare(own, 'direct', { arguments: { 'alternate-exchange': 1 } }),
      406,
      `PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange '${own}' in vhost '/'`,
    ],
    [(channel) => channel.exchangeDeclare('', 'direct'), 403, predeclared],
    [(channel) => channel.exchangeDeclare('', 'direct', { passive: true }), 403, predeclared],
    [(channel) => channel.exchangeDelete(''), 403, predeclared],
    [(channel) => channel.queueBind(queue, '', 'k'), 403, predeclared],
    [(channel) => channel.queueUnbind(queue, '', 'k'), 403, predeclared],
    [(channel) => channel.exchangeBind('', 'amq.direct', 'k'), 403, predeclared],
    [(channel) => channel.exchangeBind('amq.direct', '', 'k'), 403, predeclared],
    [
      (channel) => channel.queueDeclare(missing, { passive: true }),
      404,
      `NOT_FOUND - no queue '${missing}' in vhost '/'`,
    ],
    [(channel) => channel.queuePurge(missing), 404, `NOT_FOUND - no queue '${missing}' in vhost '/'`],
    [(channel) => channel.basicGet(missing), 404, `NOT_FOUND - no queue '${missing}' in vhost '/'`],
    [
      (channel) => channel.basicConsume(missing, () => undefined),
      404,
      `NOT_FOUND - no queue '${missing}' in vhost '/'`,
    ],
    [
      (channel) => channel.exchangeDeclare(other, 'direct', { passive: true }),
      404,
      `NOT_FOUND - no exchange '${other}' in vhost '/'`,
    ],
    [(channel) => channel.queueBind(missing, 'amq.direct', 'k'), 404, `NOT_FOUND - no queue '${missing}' in vhost '/'`],
    // The exchange is looked for first, and of two exchanges the source.
    [(channel) => channel.queueBind(missing, other, 'k'), 404, `NOT_FOUND - no exchange '${other}' in vhost '/'`],
    [(channel) => channel.exchangeBind(own, other, 'k'), 404, `NOT_FOUND - no exchange '${other}' in vhost '/'`],
    [(channel) => channel.exchangeBind(own, 'amq.topic', 'k'), 404, `NOT_FOUND - no exchange '${own}' in vhost '/'`],
    // An empty name means the last queue that the channel declared.
    [(channel) => channel.queueDeclare('', { passive: true }), 404, "NOT_FOUND - no queue '' in vhost '/'"],
    [(channel) => channel.queueBind('', 'amq.direct', 'k'), 404, 'NOT_FOUND - no previously declared queue'],
    [(channel) => channel.queueDelete(''), 404, 'NOT_FOUND - no previously declared queue'],
    [(channel) => channel.basicConsume('', () => undefined), 404, 'NOT_FOUND - no previously declared queue'],
    [(channel) => channel.basicGet(''), 404, 'NOT_FOUND - no previously declared queue'],
  ];
  for (const [work, code, replyText] of cases) {
    expect((await refusal(bench, work)).slice(0, 2)).toEqual([code, replyText]);
  }
});

test('an unknown type of exchange ends the channel with 406, on 3.10 the connection with 503', async () => {
  await using bench = await Bench.open();
  await using client = await BareClient.open();
  client.send(1, 'exchange.declare', {
    ...{ exchange: unique('exchange'), type: 'foo', passive: false, durable: false, autoDelete: false },
    ...{ internal: false, noWait: false, arguments: {} },
  });
  if (bench.isRabbitMq3) {
    const replyText = "COMMAND_INVALID - invalid exchange type 'foo'";
    expect(await client.connectionClosed()).toEqual({ replyCode: 503, replyText, classId: 40, methodId: 10 });
  } else {
    const replyText = "PRECONDITION_FAILED - invalid exchange type 'foo'";
    expect(await client.channelClosed()).toEqual({ replyCode: 406, replyText, classId: 40, methodId: 10 });
  }
});

test('what is in use, or not empty, is not deleted by those who ask it not to be', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('direct');
  const [bound, full] = [await bench.queue(), await bench.queueWith('x')];
  await channel.queueBind(bound, exchange, 'k');
  await channel.basicConsume(bound, () => undefined);
  const cases: readonly [(other: Channel) => Promise<unknown>, string][] = [
    [(other) => other.exchangeDelete(exchange, { ifUnused: true }), `exchange '${exchange}' in vhost '/' in use`],
    [(other) => other.queueDelete(bound, { ifUnused: true }), `queue '${bound}' in vhost '/' in use`],
    [(other) => other.queueDelete(full, { ifEmpty: true }), `queue '${full}' in vhost '/' not empty`],
  ];
  for (const [work, text] of cases) {
    expect((await refusal(bench, work)).slice(0, 2)).toEqual([406, `PRECONDITION_FAILED - ${text}`]);
  }
});

test('undoing what was never done is no error: unbinding, deleting, cancelling', async () => {
  await using bench = await Bench.open();
  const { channel } = bench;
  const [queue, missing, exchange] = [await bench.queue(), unique('queue'), unique('exchange')];
  await channel.queueUnbind(queue, exchange, 'k');
  await channel.queueUnbind(missing, 'amq.direct', 'k');
  await channel.queueUnbind(queue, 'amq.direct', 'k');
  await channel.exchangeUnbind(exchange, unique('exchange'), 'k');
  await channel.exchangeDelete(exchange, { ifUnused: true });
  expect(await channel.queueDelete(missing, { ifUnused: true, ifEmpty: true })).toBe(0);
  await channel.basicCancel('unknown');
});
