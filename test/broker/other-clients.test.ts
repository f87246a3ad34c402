/** Clients by others, on the broker under test: what they declare, publish, consume and are refused, told by themselves. */
import { expect, test } from '@jest/globals';
import { AMQPClient, type AMQPMessage } from '@cloudamqp/amqp-client';
import * as amqplib from 'amqplib';
import { once } from 'node:events';
import { Connection as RabbitConnection } from 'rabbitmq-client';

import { brokerUrl } from '../support/broker.mjs';
import { unique } from '../support/client.js';
import { Inbox, within } from '../support/waits.js';

interface Names {
  readonly exchange: string;
  readonly queue: string;
}

const names = (): Names => ({ exchange: unique('exchange'), queue: unique('queue') });

/** Closes it at the end, also of a test that fails. */
function closing(connection: { close: () => Promise<unknown> }): AsyncDisposable {
  return {
    [Symbol.asyncDispose]: async () => {
      await connection.close();
    },
  };
}

/** What a promise rejects with. */
async function rejection(promise: Promise<unknown>): Promise<Error> {
  const result = await within('a failure', promise).catch((error: unknown) => error);
  if (result instanceof Error) return result;
  throw new Error('It did not fail.');
}

test('amqplib declares, publishes with confirms, consumes, acknowledges, fetches and hears of returns', async () => {
  const { exchange, queue } = names();
  const connection = await amqplib.connect(brokerUrl);
  await using _ = closing(connection);
  const channel = await connection.createConfirmChannel();
  await channel.assertExchange(exchange, 'topic', { autoDelete: true });
  await channel.assertQueue(queue, { exclusive: true });
  await channel.bindQueue(queue, exchange, 'order.#');
  const returned = new Inbox<amqplib.Message>();
  channel.on('return', returned.push);
  channel.publish(exchange, 'order.placed', Buffer.from('one'), { headers: { attempt: 1, tags: ['a'] } });
  channel.publish(exchange, 'nowhere', Buffer.from('lost'), { mandatory: true });
  await channel.waitForConfirms();
  expect((await returned.next()).fields).toMatchObject({ replyCode: 312, routingKey: 'nowhere' });
  const messages = new Inbox<amqplib.ConsumeMessage | null>();
  await channel.prefetch(1);
  const { consumerTag } = await channel.consume(queue, messages.push);
  const message = await messages.next();
  if (message === null) throw new Error('the consumer was cancelled');
  expect([message.content.toString(), message.fields.routingKey]).toEqual(['one', 'order.placed']);
  expect(message.properties.headers).toEqual({ attempt: 1, tags: ['a'] });
  channel.nack(message);
  const again = await messages.next();
  if (again === null) throw new Error('the consumer was cancelled');
  expect(again.fields.redelivered).toBe(true);
  channel.ack(again);
  await channel.cancel(consumerTag);
  channel.sendToQueue(queue, Buffer.alloc(300_000, 'x'));
  await channel.waitForConfirms();
  const got = await channel.get(queue, { noAck: true });
  expect(got === false ? 0 : got.content.length).toBe(300_000);
  expect(await channel.get(queue)).toBe(false);
  expect(await channel.checkQueue(queue)).toEqual({ queue, messageCount: 0, consumerCount: 0 });
});

test('amqplib hears what is refused on a channel, and a wrong password', async () => {
  const { queue } = names();
  const connection = await amqplib.connect(brokerUrl);
  await using _ = closing(connection);
  const refused = async (work: (channel: amqplib.Channel) => Promise<unknown>): Promise<Error> => {
    const channel = await connection.createChannel();
    channel.on('error', () => undefined);
    return await rejection(work(channel));
  };
  const missing = refused((channel) => channel.checkQueue(queue));
  expect(await missing).toMatchObject({ code: 404, message: expect.stringContaining(`no queue '${queue}' in vhost`) });
  await (await connection.createChannel()).assertQueue(queue, { durable: false, exclusive: true });
  const other = refused((channel) => channel.assertQueue(queue, { durable: false, exclusive: true, autoDelete: true }));
  expect(await other).toMatchObject({ code: 406, message: expect.stringContaining("inequivalent arg 'auto_delete'") });
  const wrong = brokerUrl.replace('//guest:guest@', '//guest:wrong@');
  expect((await rejection(amqplib.connect(wrong))).message).toContain('ACCESS_REFUSED');
});

test('rabbitmq-client declares, publishes with confirms, consumes, acknowledges, fetches and hears of returns', async () => {
  const { exchange, queue } = names();
  const connection = new RabbitConnection(brokerUrl);
  await using _ = closing(connection);
  const returned = new Inbox<{ replyCode: number; routingKey: string }>();
  const publisher = connection.createPublisher({
    confirm: true,
    exchanges: [{ exchange, type: 'fanout', autoDelete: true }],
  });
  publisher.on('basic.return', returned.push);
  await publisher.send({ routingKey: queue, mandatory: true }, 'lost');
  expect(await returned.next()).toMatchObject({ replyCode: 312, routingKey: queue });
  const bodies = new Inbox<[body: unknown, redelivered: boolean]>();
  const consumer = connection.createConsumer(
    { queue, queueOptions: { queue, exclusive: true }, queueBindings: [{ exchange }], qos: { prefetchCount: 2 } },
    (message) => {
      bodies.push([message.body, message.redelivered]);
      if (message.redelivered) return;
      throw new Error('once more');
    },
  );
  const failed = new Inbox<unknown>();
  consumer.on('error', failed.push);
  await within('the consumer', once(consumer, 'ready'));
  await publisher.send({ exchange, headers: { a: 1 } }, { hello: 'world' });
  expect(await bodies.next()).toEqual([{ hello: 'world' }, false]);
  expect(await bodies.next()).toEqual([{ hello: 'world' }, true]);
  expect(await failed.next()).toMatchObject({ message: 'once more' });
  await consumer.close();
  await publisher.send({ exchange }, 'left');
  expect((await connection.basicGet({ queue, noAck: true }))?.body).toBe('left');
  expect(await connection.basicGet(queue)).toBeUndefined();
  await publisher.close();
});

test('rabbitmq-client hears what is refused on a channel', async () => {
  const { queue } = names();
  const connection = new RabbitConnection(brokerUrl);
  await using _ = closing(connection);
  connection.on('error', () => undefined);
  const missing = rejection(connection.queueDeclare({ queue, passive: true }));
  expect(await missing).toMatchObject({
    code: 'NOT_FOUND',
    message: expect.stringContaining(`no queue '${queue}' in vhost`),
  });
  await connection.queueDeclare({ queue, exclusive: true });
  const other = rejection(connection.queueDeclare({ queue, exclusive: true, autoDelete: true }));
  expect(await other).toMatchObject({
    code: 'PRECONDITION_FAILED',
    message: expect.stringContaining("inequivalent arg 'auto_delete'"),
  });
});

test('amqp-client.js declares, publishes with confirms, consumes, acknowledges, fetches and hears of returns', async () => {
  const { exchange, queue } = names();
  const connection = await new AMQPClient(brokerUrl).connect();
  await using _ = closing(connection);
  const channel = await connection.channel();
  await channel.exchangeDeclare(exchange, 'direct', { autoDelete: true });
  await channel.queueDeclare(queue, { durable: false, exclusive: true, autoDelete: false });
  await channel.queueBind(queue, exchange, 'k');
  await channel.confirmSelect();
  const returned = new Inbox<AMQPMessage>();
  channel.onReturn = returned.push;
  expect(await channel.basicPublish(exchange, 'k', 'one', { headers: { a: 1 }, deliveryMode: 2 })).toBe(1);
  expect(await channel.basicPublish(exchange, 'nowhere', 'lost', {}, true)).toBe(2);
  expect(await returned.next()).toMatchObject({ replyCode: 312, routingKey: 'nowhere' });
  const messages = new Inbox<AMQPMessage>();
  await channel.prefetch(1);
  const consumer = await channel.basicConsume(queue, { noAck: false }, messages.push);
  const message = await messages.next();
  expect([message.bodyString(), message.properties.headers, message.redelivered]).toEqual(['one', { a: 1 }, false]);
  await message.nack(true);
  const again = await messages.next();
  expect(again.redelivered).toBe(true);
  await again.ack();
  await consumer.cancel();
  await channel.basicPublish('', queue, 'left');
  expect((await channel.basicGet(queue))?.bodyString()).toBe('left');
  expect(await channel.basicGet(queue)).toBeNull();
});

test('amqp-client.js hears what is refused on a channel', async () => {
  const { queue } = names();
  const connection = await new AMQPClient(brokerUrl).connect();
  await using _ = closing(connection);
  const missing = rejection((await connection.channel()).queueDeclare(queue, { passive: true }));
  expect((await missing).message).toContain(`no queue '${queue}' in vhost`);
  const options = { durable: false, exclusive: true, autoDelete: false };
  await (await connection.channel()).queueDeclare(queue, options);
  const other = rejection((await connection.channel()).queueDeclare(queue, { ...options, autoDelete: true }));
  expect((await other).message).toContain("inequivalent arg 'auto_delete'");
});
