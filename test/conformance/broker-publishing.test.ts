/** What a broker makes of publishes: confirms, returns, copies, properties, transactions, and replies without a queue. */
import { expect, test } from '@jest/globals';

import type { BasicProperties } from '../../lib/protocol/properties.js';
import { BareClient, type BrokerCommand } from '../support/bare-client.js';
import { brokerUrl } from '../support/broker.mjs';
import { unique } from '../support/client.js';
import { Bench, text } from './bench.js';

const REPLY_TO = 'amq.rabbitmq.reply-to';
const QUEUE = { passive: false, durable: false, exclusive: true, autoDelete: false, noWait: false, arguments: {} };

/** A client by hand with a queue of its own. */
async function clientWithQueue(): Promise<{ client: BareClient; queue: string }> {
  const client = await BareClient.open();
  client.send(1, 'queue.declare', { queue: '', ...QUEUE });
  return { client, queue: (await client.receive('queue.declare-ok')).args.queue };
}

async function confirming(client: BareClient): Promise<void> {
  client.send(1, 'confirm.select', { noWait: false });
  await client.receive('confirm.select-ok');
}

function consume(client: BareClient, queue: string, noAck = true): void {
  const flags = { noLocal: false, noAck, exclusive: false, noWait: false, arguments: {} };
  client.send(1, 'basic.consume', { queue, consumerTag: 'c', ...flags });
}

test('a mandatory message that goes nowhere comes back as it was, and is confirmed after that', async () => {
  const { client } = await clientWithQueue();
  await using _ = client;
  await confirming(client);
  const properties = { messageId: 'm', headers: { a: 1 } };
  client.publish(1, { exchange: 'amq.direct', routingKey: 'nowhere', mandatory: true }, properties, 'x');
  const returned = await client.receive('basic.return');
  expect(returned).toMatchObject({
    args: { replyCode: 312, replyText: 'NO_ROUTE', exchange: 'amq.direct', routingKey: 'nowhere' },
    properties,
    body: 'x',
  });
  expect((await client.receive('basic.ack')).args).toEqual({ deliveryTag: 1, multiple: false });
});

test('confirms number the publishes of a channel from 1 since confirm.select, one after the other or several at once', async () => {
  const { client, queue } = await clientWithQueue();
  await using _ = client;
  client.publish(1, { routingKey: queue });
  await confirming(client);
  for (let count = 0; count < 50; count += 1) client.publish(1, { routingKey: count % 2 === 0 ? queue : 'nowhere' });
  const confirmed = new Set<number>();
  while (confirmed.size < 50) {
    const { deliveryTag, multiple } = (await client.receive('basic.ack')).args;
    for (let tag = multiple ? 1 : deliveryTag; tag <= deliveryTag; tag += 1) confirmed.add(tag);
  }
  expect(Math.max(...confirmed)).toBe(50);
  // Selecting it again changes nothing, the numbers neither.
  await confirming(client);
  client.publish(1, { routingKey: queue });
  expect((await client.receive('basic.ack')).args.deliveryTag).toBe(51);
});

test('copies go to every key of CC and BCC, once to each queue, through the exchange of the message', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('topic');
  const [to, copies, blind] = [await bench.queue(), await bench.queue(), await bench.queue()];
  await channel.queueBind(to, exchange, 'to');
  await channel.queueBind(copies, exchange, 'cc.*');
  await channel.queueBind(blind, exchange, 'bcc');
  const publisher = await bench.confirming();
  const headers = { CC: ['cc.1', 'cc.2', 'to'], BCC: ['bcc'], other: 1 };
  await publisher.basicPublish(exchange, 'to', 'x', { headers });
  for (const queue of [to, copies, blind]) {
    const message = await bench.take(queue);
    expect([message?.routingKey, message?.properties.headers]).toEqual(['to', { CC: headers.CC, other: 1 }]);
    expect(await bench.take(queue)).toBeUndefined();
  }
  // A copy is enough to be routed.
  await publisher.basicPublish(exchange, 'nowhere', 'y', { mandatory: true, headers: { BCC: ['bcc'] } });
  expect(await bench.text(blind)).toBe('y');
  // By hand: the client refuses it before it leaves.
  for (const header of ['CC', 'BCC']) {
    await using client = await BareClient.open();
    client.publish(1, { routingKey: to }, { headers: { [header]: 'to' } }, 'x');
    const { replyCode, replyText } = await client.channelClosed();
    expect([replyCode, replyText]).toEqual([
      406,
      `PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"${header}",longstr}`,
    ]);
  }
});

test('what a publish may not say ends its channel, and what an exchange may not be asked, too', async () => {
  await using bench = await Bench.open();
  const internal = await bench.scratch.exchange('fanout', { internal: true });
  const missing = unique('exchange');
  const user = decodeURIComponent(new URL(brokerUrl).username) || 'guest';
  const expiration = (value: string, why: string): readonly [object, BasicProperties, number, string] => [
    {},
    { expiration: value },
    406,
    `PRECONDITION_FAILED - invalid expiration '${value}': ${why}`,
  ];
  const cases: readonly (readonly [object, BasicProperties, number, string])[] = [
    expiration('soon', 'no_integer'),
    expiration('', 'no_integer'),
    expiration(' 5', 'no_integer'),
    expiration('-1', '{value_negative,-1}'),
    expiration('1.5', '{leftover_string,".5"}'),
    expiration('99999999999999', '{value_too_large,99999999999999}'),
    [
      {},
      { userId: 'nobody' },
      406,
      `PRECONDITION_FAILED - user_id property set to 'nobody' but authenticated user was '${user}'`,
    ],
    [{ exchange: missing }, {}, 404, `NOT_FOUND - no exchange '${missing}' in vhost '/'`],
    [
      { exchange: internal },
      {},
      403,
      `ACCESS_REFUSED - cannot publish to internal exchange '${internal}' in vhost '/'`,
    ],
  ];
  await using client = await BareClient.open();
  for (const [args, properties, replyCode, replyText] of cases) {
    client.publish(1, args, properties, 'x');
    expect(await client.channelClosed()).toEqual({ replyCode, replyText, classId: 60, methodId: 40 });
    client.send(1, 'channel.open', {});
    await client.receive('channel.open-ok');
  }
});

test('a commit lets messages that may not wait through to a consumer that is ready', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue({ 'x-message-ttl': 0 });
  const arrivals = await bench.arrivals(queue);
  const tx = await bench.connection.channel();
  await tx.txSelect();
  for (const body of 'ab') void tx.basicPublish('', queue, body);
  await tx.txCommit();
  expect([text(await arrivals.next()), text(await arrivals.next())]).toEqual(['a', 'b']);
});

test('a commit publishes and acknowledges all at once; before it, and after a rollback, nothing is done', async () => {
  await using bench = await Bench.open();
  const { connection } = bench;
  const queue = await bench.queueWith('old');
  const tx = await connection.channel();
  await tx.txSelect();
  (await tx.basicGet(queue))?.message.ack();
  void tx.basicPublish('', queue, 'new');
  void tx.basicPublish('', queue, 'newer');
  await tx.txRollback();
  expect(await bench.take(queue)).toBeUndefined();
  // After the rollback the message is held as before; it can be answered again.
  tx.basicNack(1);
  void tx.basicPublish('', queue, 'newest');
  await tx.txCommit();
  await bench.ready(queue, 2);
  expect(await bench.drain(queue)).toEqual(['old', 'newest']);
});

test('a transaction routes when it is published to, and commits although the exchange has gone since', async () => {
  await using bench = await Bench.open();
  const { connection } = bench;
  const queue = await bench.queue();
  const exchange = unique('exchange');
  const channel = await connection.channel();
  await channel.exchangeDeclare(exchange, 'fanout');
  await channel.queueBind(queue, exchange, '');
  const tx = await connection.channel();
  await tx.txSelect();
  void tx.basicPublish(exchange, '', 'routed');
  void tx.basicPublish('', queue, 'next');
  await tx.basicQos(1);
  await channel.queueUnbind(queue, exchange, '');
  await channel.exchangeDelete(exchange);
  await tx.txCommit();
  expect(await bench.drain(queue)).toEqual(['routed', 'next']);
});

test('a transaction returns what is mandatory when it commits, and refuses at once what it can', async () => {
  const { client } = await clientWithQueue();
  await using _ = client;
  client.send(1, 'tx.select', {});
  await client.receive('tx.select-ok');
  client.publish(1, { routingKey: 'nowhere', mandatory: true });
  // Nothing comes before the answer to this, nor before that to the commit but the return.
  client.send(1, 'basic.qos', { prefetchSize: 0, prefetchCount: 1, global: false });
  await client.receive('basic.qos-ok');
  client.send(1, 'tx.commit', {});
  await client.receive('basic.return');
  await client.receive('tx.commit-ok');
  client.publish(1, { exchange: 'missing', routingKey: 'k' });
  expect((await client.channelClosed()).replyCode).toBe(404);
});

test('a transaction of which a queue refuses a part says so, and its acknowledgements count all the same', async () => {
  await using bench = await Bench.open();
  const full = await bench.queue({ 'x-max-length': 0, 'x-overflow': 'reject-publish' });
  const queue = await bench.queue();
  const publisher = await bench.confirming();
  for (const [verdict, left] of [
    ['ack', 0],
    ['discard', 0],
    ['requeue', 1],
  ] as const) {
    await publisher.basicPublish('', queue, 'work');
    const tx = await bench.connection.channel();
    await tx.txSelect();
    const got = await tx.basicGet(queue);
    void tx.basicPublish('', full, 'refused');
    const tag = got?.message.deliveryTag ?? 0;
    if (verdict === 'ack') tx.basicAck(tag);
    else tx.basicReject(tag, { requeue: verdict === 'requeue' });
    await expect(tx.txCommit()).rejects.toMatchObject({ replyCode: 406 });
    await bench.ready(queue, left);
  }
});

test('confirms and transactions exclude each other, and without tx.select there is nothing to commit', async () => {
  await using client = await BareClient.open();
  const refused = async (methods: readonly (readonly ['tx' | 'confirm', string])[], replyText: string) => {
    for (const [kind] of methods.slice(0, -1)) select(client, kind);
    const [last] = methods.slice(-1);
    if (last?.[1] === 'commit') client.send(1, 'tx.commit', {});
    else if (last?.[1] === 'rollback') client.send(1, 'tx.rollback', {});
    else select(client, last?.[0] ?? 'tx');
    const close = await client.commands.next('the close', ({ name }) => name === 'channel.close');
    expect(close.args).toMatchObject({ replyCode: 406, replyText: `PRECONDITION_FAILED - ${replyText}` });
    client.send(1, 'channel.close-ok', {});
    client.send(1, 'channel.open', {});
    await client.receive('channel.open-ok');
  };
  await refused([['tx', 'commit']], 'channel is not transactional');
  await refused([['tx', 'rollback']], 'channel is not transactional');
  await refused(
    [
      ['tx', 'select'],
      ['confirm', 'select'],
    ],
    'cannot switch from tx to confirm mode',
  );
  await refused(
    [
      ['confirm', 'select'],
      ['tx', 'select'],
    ],
    'cannot switch from confirm to tx mode',
  );
});

function select(client: BareClient, kind: 'tx' | 'confirm'): void {
  if (kind === 'tx') client.send(1, 'tx.select', {});
  else client.send(1, 'confirm.select', { noWait: false });
}

/** A client that consumes replies, and the request that it sent: with the address in replyTo. */
async function requested(): Promise<{ client: BareClient; address: string }> {
  const { client, queue } = await clientWithQueue();
  consume(client, REPLY_TO);
  await client.receive('basic.consume-ok');
  await confirming(client);
  client.publish(1, { routingKey: queue }, { replyTo: REPLY_TO, correlationId: '1' });
  await client.receive('basic.ack');
  client.send(1, 'basic.get', { queue, noAck: true });
  const { properties } = (await client.receive('basic.get-ok')) as BrokerCommand;
  expect(properties).toEqual({ correlationId: '1', replyTo: expect.stringMatching(/^amq\.rabbitmq\.reply-to\..{20}/) });
  return { client, address: properties.replyTo ?? '' };
}

test('a reply goes to the channel that its request came from, under a name that is a queue only as long as it consumes', async () => {
  const { client, address } = await requested();
  await using _ = client;
  const { client: server } = await clientWithQueue();
  await using __ = server;
  server.send(1, 'queue.declare', { queue: address, ...QUEUE, exclusive: false, passive: true });
  const declared = { queue: address, messageCount: 0, consumerCount: 1 };
  expect((await server.receive('queue.declare-ok')).args).toEqual(declared);
  server.publish(1, { routingKey: address }, { correlationId: '1' }, 'reply');
  const reply = await client.receive('basic.deliver');
  expect(reply.args).toMatchObject({ consumerTag: 'c', redelivered: false, exchange: '', routingKey: address });
  expect([reply.properties, reply.body]).toEqual([{ correlationId: '1' }, 'reply']);
  client.send(1, 'basic.cancel', { consumerTag: 'c', noWait: false });
  await client.receive('basic.cancel-ok');
  server.publish(1, { routingKey: address, mandatory: true }, {}, 'late');
  if (!(await returnsNoReplies())) await server.receive('basic.return');
  server.send(1, 'queue.declare', { queue: address, ...QUEUE, exclusive: false, passive: true });
  expect((await server.channelClosed()).replyText).toBe(`NOT_FOUND - no queue '${address}' in vhost '/'`);
});

/** 4.3 takes every address of a reply for a queue that is there. */
async function returnsNoReplies(): Promise<boolean> {
  await using bench = await Bench.open();
  return bench.isRabbitMq43;
}

test('a mandatory reply is returned although it arrives: no queue took it', async () => {
  const { client, address } = await requested();
  await using _ = client;
  const { client: server } = await clientWithQueue();
  await using __ = server;
  server.publish(1, { routingKey: address, mandatory: true }, {}, 'reply');
  if (!(await returnsNoReplies())) await server.receive('basic.return');
  expect((await client.receive('basic.deliver')).body).toBe('reply');
});

test('replies have one consumer a channel, without acknowledgements, and who asks for one has to consume', async () => {
  await using client = await BareClient.open();
  const closed = async (): Promise<string> => {
    const { replyCode, replyText } = await client.channelClosed();
    client.send(1, 'channel.open', {});
    await client.receive('channel.open-ok');
    return `${replyCode} ${replyText}`;
  };
  consume(client, REPLY_TO, false);
  expect(await closed()).toBe('406 PRECONDITION_FAILED - reply consumer cannot acknowledge');
  client.publish(1, { routingKey: 'q' }, { replyTo: REPLY_TO });
  expect(await closed()).toBe('406 PRECONDITION_FAILED - fast reply consumer does not exist');
  consume(client, REPLY_TO);
  await client.receive('basic.consume-ok');
  const flags = { noLocal: false, noAck: true, exclusive: false, noWait: false, arguments: {} };
  client.send(1, 'basic.consume', { queue: REPLY_TO, consumerTag: 'other', ...flags });
  expect(await closed()).toBe('406 PRECONDITION_FAILED - reply consumer already set');
  // It is a name for publishers, not a queue.
  client.send(1, 'basic.get', { queue: REPLY_TO, noAck: true });
  expect(await closed()).toBe(`404 NOT_FOUND - no queue '${REPLY_TO}' in vhost '/'`);
  client.send(1, 'queue.declare', { queue: REPLY_TO, ...QUEUE, passive: true });
  const declared = { queue: REPLY_TO, messageCount: 0, consumerCount: 1 };
  expect((await client.receive('queue.declare-ok')).args).toEqual(declared);
  for (const routingKey of [REPLY_TO, `${REPLY_TO}.nonsense`]) {
    client.publish(1, { routingKey, mandatory: true });
    await client.receive('basic.return');
  }
});
