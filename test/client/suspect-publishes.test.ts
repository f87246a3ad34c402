/** Publishes over which the broker closes their channel without naming them: a property that it refuses, for one. */
import { expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import type { RepublishOptions } from '../../lib/client/republish-options.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { within } from '../support/waits.js';

/** Nobody may publish in another user's name. */
const REFUSED = { userId: 'somebody else' };

/** A handle whose channel is open, so that what is published next leaves at once. */
async function openedOn(amqp: AmqpConnection, options?: RepublishOptions): Promise<AmqpChannel> {
  await amqp.open();
  const channel = new AmqpChannel(amqp, options);
  await channel.opened();
  return channel;
}

test('one of many is refused, and the others arrive, in order', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  await using amqp = new AmqpConnection(brokerUrl);
  const channel = await openedOn(amqp);
  const good: Promise<void>[] = [];
  const publish = (): unknown => good.push(channel.basicPublish('', queue, String(good.length)));
  for (let count = 0; count < 20; count += 1) publish();
  const bad = failure(channel.basicPublish('', queue, 'bad', REFUSED));
  for (let count = 0; count < 20; count += 1) publish();
  const error = await bad;
  expect(error).toMatchObject({ name: 'PublishRefusedError', code: 'PUBLISH_REFUSED', replyCode: 406 });
  expect(error.message).toContain('it is not stored.');
  await within('the others', Promise.all(good));
  expect([...new Set(await scratch.drain(queue))]).toEqual([...good.keys()].map(String));
});

test('two of many are, and what is published after them is not held up', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  await using amqp = new AmqpConnection(brokerUrl);
  const channel = await openedOn(amqp);
  const first = channel.basicPublish('', queue, 'first');
  const bad = [1, 2].map(() => failure(channel.basicPublish('', queue, 'bad', REFUSED)));
  const last = channel.basicPublish('', queue, 'last');
  for (const error of await Promise.all(bad)) expect(error.code).toBe('PUBLISH_REFUSED');
  await within('the others', Promise.all([first, last]));
  await channel.basicPublish('', queue, 'later');
  expect([...new Set(await scratch.drain(queue))]).toEqual(['first', 'last', 'later']);
});

test('without republishing the outcome of all is unknown', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  await using amqp = new AmqpConnection(brokerUrl);
  const channel = await openedOn(amqp, { republish: false });
  const published = ['bad', 'behind it'].map((body) => failure(channel.basicPublish('', queue, body, REFUSED)));
  for (const error of await Promise.all(published)) expect(error.code).toBe('PUBLISH_OUTCOME_UNKNOWN');
});

test.each(['CC', 'BCC'])('a header %s that is no list of routing keys is refused before it leaves', async (name) => {
  await using connection = await connect(brokerUrl);
  const channel = await connection.channel({ confirm: true });
  for (const keys of ['a', 5, null, [5], Buffer.from('a')]) {
    const error = await failure(channel.basicPublish('', 'q', 'x', { headers: { [name]: keys as string } }));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain(`The header ${name} has to be a list of routing keys`);
  }
  expect(channel.isOpen).toBe(true);
});
