/** Where a stream is read from: what may be said, what is refused before it leaves, and what the broker makes of it. */
import { describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { connect } from '../../lib/client/connection.js';
import { Decimal, type FieldValue, field } from '../../lib/protocol/field-table.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, scriptedChannel } from '../support/client.js';
import { Scratch } from '../support/scratch.js';

/** Each with how many of five messages, some seconds old at most, come at once; undefined where that depends on their chunks. */
const ALLOWED: [offset: FieldValue, count: number | undefined][] = [
  ['first', 5],
  ['last', undefined],
  ['next', 0],
  [0, 5],
  [3, 2],
  [3n, 2],
  [2n ** 63n - 1n, 0],
  [2 ** 40, 0],
  [field.uint8(3), 2],
  [field.int64(3n), 2],
  [new Date(0), 5],
  [new Date(Date.now() + 3_600_000), 0],
  [field.timestamp(1n), 5],
  ['1Y', 5],
  ['2M', 5],
  ['07D', 5],
  ['12h', 5],
  ['30m', 5],
  ['600s', 5],
];

/** RabbitMQ 3.10 to 4.3 close the connection (541) or the channel (406) over most of them. */
const REFUSED: FieldValue[] = [
  'frist',
  'First',
  '',
  '5',
  '0s',
  '7d',
  '1.5h',
  '-5m',
  '5 m',
  '1h30m',
  's',
  '1w',
  '5s\n',
  -1,
  -1n,
  1.5,
  -0,
  NaN,
  2 ** 60,
  2n ** 63n,
  new Date(NaN),
  new Date(-1000),
  field.double(5),
  field.int8(-1),
  new Decimal(0, 5),
  true,
  null,
  [],
  {},
  Buffer.from('first'),
];

const consuming = (offset: FieldValue): { readonly arguments: Record<string, FieldValue> } => ({
  arguments: { 'x-stream-offset': offset },
});

describe('an offset that cannot be', () => {
  test.each(REFUSED.map((offset) => [offset]))('is refused before it leaves: %p', async (offset) => {
    const { channel, peer } = await scriptedChannel();
    const error = await failure(channel.basicConsume('events', () => undefined, consuming(offset)));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain("'x-stream-offset'] of the consumer of queue 'events' has to be 'first', 'last'");
    const closed = channel.close();
    await peer.answer('channel.close-ok', {});
    await closed;
  });

  test('is refused by a handle that survives, and by its loops', async () => {
    await using amqp = new AmqpConnection(brokerUrl);
    await amqp.open();
    const handle = new AmqpChannel(amqp);
    const started = handle.basicConsume('events', () => undefined, consuming('frist'));
    expect(await failure(started)).toMatchObject({ code: 'INVALID_ARGUMENT' });
    const looped = handle.consume('events', consuming('frist')).next();
    expect(await failure(looped)).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(amqp.status.state).toBe('open');
  });

  test('is no concern where it is left out', async () => {
    const { channel, peer } = await scriptedChannel();
    const started = channel.basicConsume('events', () => undefined, { arguments: { 'x-stream-offset': undefined } });
    const { args } = await peer.receive('basic.consume');
    expect(args.arguments).toEqual({});
    peer.send(1, 'basic.consume-ok', { consumerTag: args.consumerTag });
    await started;
  });
});

// The embedded broker has no streams, and says so.
const testWithStreams = process.env['NEST_AMQP_TEST_BROKER'] === 'embedded' ? test.skip : test;

testWithStreams('RabbitMQ takes every offset that is let through', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue({ arguments: { 'x-queue-type': 'stream' } });
  for (let n = 0; n < 5; n += 1) await scratch.send(queue, String(n));
  await using connection = await connect(brokerUrl);
  for (const [offset, count] of ALLOWED) {
    const channel = await connection.channel();
    await channel.basicQos(10);
    let got = 0;
    const full = new Promise<void>((resolve) => {
      const onMessage = (): void => {
        got += 1;
        if (got === count) resolve();
      };
      channel.basicConsume(queue, onMessage, consuming(offset)).then(() => {
        if (count === 0 || count === undefined) resolve();
      }, resolve);
    });
    await full;
    // What comes beyond that, or without having been asked for, is here before this answer.
    await channel.queueDeclare(queue, { passive: true });
    expect([offset, channel.isOpen, count === undefined ? undefined : got]).toEqual([offset, true, count]);
    await channel.close();
  }
});
