/** The ledger of unconfirmed publishes, alone and with the real broker. */
import { describe, expect, test } from '@jest/globals';
import { once } from 'node:events';

import type { ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import { Metrics } from '../../lib/client/metrics.js';
import { PublisherConfirms } from '../../lib/client/publisher-confirms.js';
import { AmqpError } from '../../lib/errors.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, scriptedChannel, scriptedConfirmChannel, unique } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { within } from '../support/waits.js';

/** A ledger with so many publishes, and what has become of each: `undefined`, 'acked', or the error's code. */
function ledger(count: number): { confirms: PublisherConfirms; fates: (string | undefined)[] } {
  const confirms = new PublisherConfirms(new Metrics());
  const fates = Array.from<string | undefined>({ length: count });
  for (let index = 0; index < count; index += 1) publish(confirms, fates, index);
  return { confirms, fates };
}

function publish(
  confirms: PublisherConfirms,
  fates: (string | undefined)[],
  index: number,
  { mandatory = true, messageId, exchange = 'x' }: { mandatory?: boolean; messageId?: string; exchange?: string } = {},
): void {
  const settle = (fate: string): void => {
    if (fates[index] !== undefined) throw new Error(`publish ${index} was settled twice`);
    fates[index] = fate;
  };
  confirms.add({
    exchange,
    routingKey: 'key',
    messageId,
    mandatory,
    body: '',
    returned: undefined,
    resolve: () => {
      settle('acked');
    },
    reject: ({ code }) => {
      settle(code);
    },
  });
}

const A = 'acked';
const N = 'PUBLISH_NACKED';
const U = undefined;
const noRoute = { replyCode: 312, replyText: 'NO_ROUTE', exchange: 'x', routingKey: 'key', messageId: undefined };

describe('the ledger', () => {
  test.each<[string, readonly (readonly [tag: number, multiple: boolean, acked: boolean])[], (string | undefined)[]]>([
    [
      'one by one',
      [
        [1, false, true],
        [2, false, true],
      ],
      [A, A, U, U, U],
    ],
    [
      'out of order',
      [
        [4, false, true],
        [2, false, false],
        [1, false, true],
      ],
      [A, N, U, A, U],
    ],
    ['all up to a tag', [[3, true, true]], [A, A, A, U, U]],
    [
      'all up to a tag, around what is settled',
      [
        [2, false, true],
        [4, true, false],
      ],
      [N, A, N, N, U],
    ],
    [
      'all of them with tag 0',
      [
        [1, false, true],
        [0, true, true],
      ],
      [A, A, A, A, A],
    ],
    ['nothing with tag 0 alone', [[0, false, true]], [U, U, U, U, U]],
    [
      'nothing for a tag that is settled',
      [
        [1, false, true],
        [1, false, false],
        [1, true, false],
      ],
      [A, U, U, U, U],
    ],
    [
      'nothing for a tag of the future',
      [
        [6, false, true],
        [100, false, true],
      ],
      [U, U, U, U, U],
    ],
    ['all for a tag of the future with multiple', [[100, true, true]], [A, A, A, A, A]],
    ['all for the largest tag, at once', [[Number.MAX_SAFE_INTEGER, true, true]], [A, A, A, A, A]],
    ['nothing for the largest tag alone', [[Number.MAX_SAFE_INTEGER, false, true]], [U, U, U, U, U]],
  ])('settles %s', (_, settlements, expected) => {
    const { confirms, fates } = ledger(5);
    for (const settlement of settlements) confirms.settle(...settlement);
    expect(fates).toEqual(expected);
    expect(confirms.outstanding).toBe(expected.filter((fate) => fate === undefined).length);
  });

  test('goes on counting after everything is settled', () => {
    const { confirms, fates } = ledger(3);
    confirms.settle(0, true, true);
    publish(confirms, fates, 3);
    confirms.settle(4, false, true);
    expect(fates).toEqual([A, A, A, A]);
    expect(confirms.outstanding).toBe(0);
  });

  test('keeps its place over thousands, whatever the order of the confirms', () => {
    const { confirms, fates } = ledger(0);
    let published = 0;
    let seed = 1;
    const random = (below: number): number => {
      seed = (seed * 48_271) % 0x7fff_ffff;
      return seed % below;
    };
    const open = new Set<number>();
    while (published < 10_000) {
      for (let count = random(20); count > 0; count -= 1) {
        publish(confirms, fates, published);
        published += 1;
        open.add(published);
      }
      for (const tag of [...open].filter(() => random(3) === 0)) {
        confirms.settle(tag, false, true);
        open.delete(tag);
        expect(fates[tag - 1]).toBe(A);
      }
      expect(confirms.outstanding).toBe(open.size);
    }
    const rest = [...open];
    confirms.settle(published, true, false);
    expect(rest.map((tag) => fates[tag - 1])).toEqual(rest.map(() => N));
    expect(confirms.outstanding).toBe(0);
  });

  test('does not count a publish that is taken back', () => {
    const { confirms, fates } = ledger(2);
    confirms.removeLast();
    expect(confirms.outstanding).toBe(1);
    publish(confirms, fates, 1);
    confirms.settle(2, false, true);
    expect(fates).toEqual([U, A]);
  });

  test('gives a returned message its own fate, although the broker acknowledges it', () => {
    const { confirms, fates } = ledger(2);
    expect(confirms.returned(noRoute)).toBe(true);
    confirms.settle(2, true, true);
    expect(fates).toEqual(['UNROUTABLE', A]);
  });

  test('tells returned messages apart by message id, exchange and key; of equals it takes the oldest', () => {
    const { confirms, fates } = ledger(0);
    publish(confirms, fates, 0, { messageId: 'a' });
    publish(confirms, fates, 1, { messageId: 'b' });
    publish(confirms, fates, 2);
    publish(confirms, fates, 3, { mandatory: false });
    publish(confirms, fates, 4);
    publish(confirms, fates, 5, { exchange: 'other' });
    expect(confirms.returned({ ...noRoute, messageId: 'b' })).toBe(true);
    expect(confirms.returned(noRoute)).toBe(true);
    expect(confirms.returned({ ...noRoute, exchange: 'other' })).toBe(true);
    expect(confirms.returned({ ...noRoute, messageId: 'b' })).toBe(false);
    expect(confirms.returned({ ...noRoute, routingKey: 'none' })).toBe(false);
    confirms.settle(0, true, true);
    expect(fates).toEqual([A, 'UNROUTABLE', 'UNROUTABLE', A, A, 'UNROUTABLE']);
  });

  test('leaves nobody waiting when the channel ends', () => {
    const { confirms, fates } = ledger(4);
    confirms.settle(2, false, true);
    confirms.returned(noRoute);
    confirms.abandon(new AmqpError('CONNECTION_LOST', 'gone'));
    expect(fates).toEqual(['UNROUTABLE', A, 'PUBLISH_OUTCOME_UNKNOWN', 'PUBLISH_OUTCOME_UNKNOWN']);
    expect(confirms.outstanding).toBe(0);
    confirms.abandon(new AmqpError('CONNECTION_LOST', 'gone'));
  });
});

describe('a confirm channel, as the peer sees it,', () => {
  test('asks for confirms once, however often it is told to', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const selecting = Promise.all([channel.confirmSelect(), channel.confirmSelect()]);
    await peer.answer('confirm.select-ok', {});
    const [first, second] = await within('both', selecting);
    expect([first, second]).toEqual([channel, channel]);
    await channel.confirmSelect();
    await connection.close();
    await peer.receive('connection.close');
  });

  test('counts a publish from the moment it asked for confirms, as the broker does', async () => {
    const { peer, connection, channel } = await scriptedChannel({ closeTimeout: 0 });
    const selecting = channel.confirmSelect();
    const early = channel.basicPublish('', 'q', 'early');
    await peer.answer('confirm.select-ok', {});
    const confirming = await selecting;
    const late = failure(confirming.basicPublish('', 'q', 'late'));
    await peer.receive('basic.publish');
    await peer.receive('basic.publish');
    // The broker numbers them 1 and 2; taken for 0 and 1, the loss of the second would pass for a success.
    peer.send(1, 'basic.ack', { deliveryTag: 1, multiple: false });
    peer.send(1, 'basic.nack', { deliveryTag: 2, multiple: false, requeue: false });
    await within('the first confirm', Promise.resolve(early));
    expect((await late).code).toBe('PUBLISH_NACKED');
    await connection.close();
  });

  test('tells how many publishes are unconfirmed', async () => {
    const { peer, connection, channel } = await scriptedConfirmChannel({ closeTimeout: 0 });
    const publishes = [1, 2, 3].map((number) => channel.basicPublish('', 'q', `${number}`));
    expect(channel.unconfirmedCount).toBe(3);
    peer.send(1, 'basic.ack', { deliveryTag: 3, multiple: true });
    await within('the confirms', Promise.all(publishes));
    expect(channel.unconfirmedCount).toBe(0);
    await connection.close();
  });

  test('survives confirms of tags that were never published', async () => {
    const { peer, connection, channel } = await scriptedConfirmChannel({ closeTimeout: 0 });
    peer.send(1, 'basic.ack', { deliveryTag: 7, multiple: false });
    peer.send(1, 'basic.nack', { deliveryTag: Number.MAX_SAFE_INTEGER, multiple: true, requeue: false });
    const readUpTo = once(connection, 'blocked');
    peer.send(0, 'connection.blocked', { reason: 'x' });
    await within('what came before', readUpTo);
    const publishing = channel.basicPublish('', 'q', 'x');
    await peer.receive('basic.publish');
    peer.send(1, 'basic.ack', { deliveryTag: 1, multiple: false });
    await within('the confirm', publishing);
    await connection.close();
  });

  test('leaves the fate of publishes open that close() did not wait for', async () => {
    const { peer, connection, channel } = await scriptedConfirmChannel({ closeTimeout: 0 });
    const publishing = failure(channel.basicPublish('orders', 'new', 'x'));
    const closing = channel.close();
    await peer.receive('basic.publish');
    await peer.answer('channel.close-ok', {});
    await closing;
    const error = await publishing;
    expect(error).toMatchObject({ code: 'PUBLISH_OUTCOME_UNKNOWN', closedBy: 'client' });
    expect(error.message).toContain("exchange 'orders' with routing key 'new'");
    await connection.close();
  });
});

describe('with the real broker', () => {
  async function confirmChannel(): Promise<{ connection: Connection; channel: ConfirmChannel }> {
    const connection = await connect(brokerUrl);
    return { connection, channel: await connection.channel({ confirm: true }) };
  }

  test('a publish resolves when the broker has the message', async () => {
    const { connection, channel } = await confirmChannel();
    const { queue } = await channel.queueDeclare();
    await Promise.all(Array.from({ length: 500 }, (_, index) => channel.basicPublish('', queue, `${index}`)));
    expect(channel.unconfirmedCount).toBe(0);
    expect(await channel.queuePurge(queue)).toBe(500);
    await connection.close();
  });

  test('a mandatory message that goes nowhere is UNROUTABLE, and those around it are confirmed', async () => {
    const { connection, channel } = await confirmChannel();
    const { queue } = await channel.queueDeclare();
    const missing = unique('queue');
    const [before, lost, after, ignored] = await Promise.allSettled([
      channel.basicPublish('', queue, 'a', { mandatory: true }),
      channel.basicPublish('', missing, '', { mandatory: true, headers: { n: 1 } }),
      channel.basicPublish('', queue, 'b', { mandatory: true }),
      channel.basicPublish('', missing, 'c'),
    ]);
    expect([before.status, after.status, ignored.status]).toEqual(['fulfilled', 'fulfilled', 'fulfilled']);
    expect(lost).toMatchObject({
      reason: {
        name: 'UnroutableError',
        code: 'UNROUTABLE',
        exchange: '',
        routingKey: missing,
        replyCode: 312,
        replyText: 'NO_ROUTE',
        method: 'basic.return',
      },
    });
    expect(channel.isOpen).toBe(true);
    await connection.close();
  });

  test('a full queue that rejects is PUBLISH_NACKED, and the channel goes on', async () => {
    const { connection, channel } = await confirmChannel();
    const { queue } = await channel.queueDeclare('', {
      arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' },
    });
    await channel.basicPublish('', queue, 'fits');
    const error = await failure(channel.basicPublish('', queue, 'does not fit'));
    expect(error).toMatchObject({ name: 'PublishNackedError', code: 'PUBLISH_NACKED', method: 'basic.nack' });
    expect(error.message).toContain(queue);
    await channel.queuePurge(queue);
    await channel.basicPublish('', queue, 'fits again');
    await connection.close();
  });

  test('a missing exchange fails the publish and names it; a new channel goes on', async () => {
    const { connection, channel } = await confirmChannel();
    const exchange = unique('exchange');
    const error = await failure(channel.basicPublish(exchange, 'key', 'x'));
    expect(['PUBLISH_OUTCOME_UNKNOWN', 'PUBLISH_REFUSED']).toContain(error.code);
    expect(error).toMatchObject({ replyCode: 404, method: 'basic.publish', closedBy: 'server' });
    expect(error.message).toContain(`no exchange '${exchange}'`);
    expect(error.cause).toMatchObject({ code: 'CHANNEL_CLOSED', replyCode: 404 });
    const next = await connection.channel({ confirm: true });
    const { queue } = await next.queueDeclare();
    await next.basicPublish('', queue, 'x');
    await connection.close();
  });

  test('confirms and transactions exclude each other', async () => {
    const { connection, channel } = await confirmChannel();
    expect(await failure(channel.txSelect())).toMatchObject({
      code: 'CHANNEL_CLOSED',
      replyCode: 406,
      method: 'tx.select',
    });
    const transactional = await connection.channel();
    await transactional.txSelect();
    expect(await failure(transactional.confirmSelect())).toMatchObject({ replyCode: 406, method: 'confirm.select' });
    await connection.close();
  });

  test('a persistent message in a durable queue is confirmed', async () => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const { connection, channel } = await confirmChannel();
    await channel.basicPublish('', queue, 'on disk', { deliveryMode: 2, mandatory: true });
    expect((await scratch.take(queue)).properties.deliveryMode).toBe(2);
    await connection.close();
  });
});
