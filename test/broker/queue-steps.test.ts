/** In which order a queue does several things that fall due together: limits, times, deliveries and what comes back. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import type { Channel, ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';

let broker: EmbeddedBroker;
let connection: Connection;
let channel: ConfirmChannel;

const DEAD = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' };

beforeEach(async () => {
  broker = EmbeddedBroker.create({ clock: 'manual' });
  connection = await connect({ dial: () => broker.connect() });
  channel = await (await connection.channel()).confirmSelect();
  await channel.queueDeclare('dead');
});

afterEach(async () => {
  await connection.close();
  await broker.close();
});

/** Bodies of the dead letters, each with the reason of its last death. */
function dead(): string[] {
  return broker
    .queue('dead')
    .peek()
    .map(({ text, properties }) => {
      const [last] = properties.headers?.['x-death'] as readonly FieldTable[];
      return `${text} ${last?.['reason'] as string}`;
    });
}

/** A consumer that notes what it gets; `!` for a redelivery. */
async function consumer(prefetch: number, priority = 0): Promise<{ channel: Channel; bodies: string[] }> {
  const own = await connection.channel();
  const bodies: string[] = [];
  await own.basicQos(prefetch);
  const note = ({ text, redelivered }: { text: string; redelivered: boolean }): void => {
    bodies.push(redelivered ? `${text}!` : text);
  };
  await own.basicConsume('q', note, { arguments: { 'x-priority': priority } });
  return { channel: own, bodies };
}

async function publish(...bodies: readonly string[]): Promise<void> {
  for (const body of bodies) await channel.basicPublish('', 'q', body);
}

test('a message that is too much goes as such, also when it has come too late', async () => {
  await channel.queueDeclare('q', { arguments: { ...DEAD, 'x-max-length': 0 } });
  await channel.basicPublish('', 'q', 'a', { expiration: '0' });
  expect(dead()).toEqual(['a maxlen']);
});

test('a message that comes too late goes as soon as it is the first', async () => {
  await channel.queueDeclare('q', { arguments: { ...DEAD, 'x-max-length': 1 } });
  await publish('a');
  await channel.basicPublish('', 'q', 'b', { expiration: '0' });
  expect(dead()).toEqual(['a maxlen', 'b expired']);
  await channel.queueDeclare('r', { arguments: DEAD });
  await channel.basicPublish('', 'r', 'c');
  await channel.basicPublish('', 'r', 'd', { expiration: '0' });
  expect((await channel.basicGet('r', { noAck: true }))?.messageCount).toBe(0);
  expect(dead()).toEqual(['a maxlen', 'b expired', 'd expired']);
});

test('what comes back and is too much goes, instead of what stayed', async () => {
  await channel.queueDeclare('q', { arguments: { ...DEAD, 'x-max-length': 1 } });
  const { channel: own, bodies } = await consumer(2);
  await publish('a', 'b', 'c');
  own.basicNack(2, { multiple: true, requeue: true });
  await own.basicQos(0);
  expect(dead()).toEqual(['a maxlen', 'b maxlen']);
  expect(bodies).toEqual(['a', 'b', 'c']);
});

test('what comes back goes to who goes before others, though it was him who had no room', async () => {
  await channel.queueDeclare('q');
  const first = await consumer(1, 10);
  await publish('a', 'b');
  const second = await consumer(0);
  first.channel.basicNack(1);
  await first.channel.basicQos(0);
  expect([first.bodies, second.bodies]).toEqual([['a', 'a!'], ['b']]);
});

test('dead letters of several rejects arrive one after the other', async () => {
  await channel.queueDeclare('q', {
    arguments: { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'short' },
  });
  await channel.queueDeclare('short', { arguments: { ...DEAD, 'x-max-length': 0, 'x-max-priority': 2 } });
  await channel.basicPublish('', 'q', 'low');
  await channel.basicPublish('', 'q', 'high', { priority: 2 });
  const own = await connection.channel();
  await own.basicGet('q');
  await own.basicGet('q');
  own.basicNack(2, { multiple: true, requeue: false });
  await own.basicQos(0);
  expect(dead()).toEqual(['low maxlen', 'high maxlen']);
});

test('a commit is one publish after the other, then the answers', async () => {
  await channel.queueDeclare('q', { arguments: { ...DEAD, 'x-max-length': 1, 'x-max-priority': 2 } });
  await channel.queueDeclare('back', { arguments: { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'q' } });
  await channel.basicPublish('', 'back', 'high', { priority: 2 });
  const own = await connection.channel();
  await own.txSelect();
  const got = await own.basicGet('back');
  for (const body of ['a', 'b']) await own.basicPublish('', 'q', body);
  got?.message.reject();
  await own.txCommit();
  expect(dead()).toEqual(['a maxlen', 'high maxlen']);
});
