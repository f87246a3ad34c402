/** A broker's side of a whole session, damaged at random: bits, bytes, frames, lengths and ends. */
import { test } from '@jest/globals';

import { writeBodyFrameHead, writeContentHead, writeFrameEnd } from '../../lib/protocol/frame.js';
import type { ContentMethodName, MethodArgs } from '../../lib/protocol/methods.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { frameOf } from '../support/client.js';
import { goldenHeartbeat, goldenMethods } from '../support/golden-frames.js';
import { type Random, fuzz } from './hostile-peer.js';
import { damage } from './mutations.js';

function contentOf<N extends ContentMethodName>(
  channel: number,
  name: N,
  args: MethodArgs<N>,
  properties: BasicProperties,
  ...pieces: string[]
): Buffer[] {
  const writer = new WireWriter();
  writeContentHead(writer, 0, channel, name, args, properties, pieces.join('').length);
  const head = writer.take();
  const methodEnd = 8 + head.readUInt32BE(3);
  const bodies = pieces.map((piece) => {
    writeBodyFrameHead(writer, channel, piece.length);
    writer.bytes(Buffer.from(piece));
    writeFrameEnd(writer);
    return writer.take();
  });
  return [head.subarray(0, methodEnd), head.subarray(methodEnd), ...bodies];
}

const envelope = { redelivered: false, exchange: 'amq.topic', routingKey: 'order.new' };
const properties: BasicProperties = {
  contentType: 'application/json',
  headers: { tenant: 'a', tries: [1, 2, { deep: true }], at: new Date(0), raw: Buffer.from('raw'), n: 2n ** 60n },
  deliveryMode: 2,
  correlationId: 'c-1',
  timestamp: 1_700_000_000,
};
const queueOk = { queue: 'q', messageCount: 3, consumerCount: 1 };
const close = { replyText: 'NOT_FOUND - no queue', classId: 50, methodId: 10 };

/** Frames of the broker, a list for each thing that the client awaits. */
const TRACE: readonly (readonly Buffer[])[] = [
  [goldenMethods.connectionStart.bytes],
  [frameOf(0, 'connection.tune', { channelMax: 2047, frameMax: 131_072, heartbeat: 60 })],
  [frameOf(0, 'connection.open-ok', {})],
  [frameOf(1, 'channel.open-ok', {})],
  [frameOf(1, 'confirm.select-ok', {})],
  [
    frameOf(1, 'basic.ack', { deliveryTag: 1, multiple: false }),
    ...contentOf(
      1,
      'basic.return',
      { replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: 'q' },
      {},
      'two',
    ),
    frameOf(1, 'basic.ack', { deliveryTag: 2, multiple: true }),
    frameOf(1, 'queue.declare-ok', queueOk),
  ],
  [
    frameOf(1, 'basic.consume-ok', { consumerTag: 'c' }),
    ...contentOf(1, 'basic.deliver', { consumerTag: 'c', deliveryTag: 1, ...envelope }, properties, '{"id":', '', '1}'),
    ...contentOf(1, 'basic.deliver', { consumerTag: 'c', deliveryTag: 2, ...envelope }, {}),
    goldenHeartbeat,
    frameOf(1, 'basic.nack', { deliveryTag: 3, multiple: false, requeue: false }),
  ],
  contentOf(1, 'basic.get-ok', { deliveryTag: 3, messageCount: 0, ...envelope }, properties, 'body'),
  [frameOf(2, 'channel.open-ok', {}), frameOf(0, 'connection.blocked', { reason: 'low on memory' })],
  [frameOf(2, 'channel.close', { replyCode: 404, ...close }), frameOf(0, 'connection.unblocked', {})],
  [frameOf(1, 'channel.flow', { active: true }), frameOf(1, 'basic.cancel', { consumerTag: 'c', noWait: true })],
];
const GOODBYE = frameOf(0, 'connection.close', { replyCode: 320, ...close });

function damaged(random: Random): Buffer[] {
  const segments = TRACE.map((frames) => [...frames]);
  if (random.chance(2)) segments.push([GOODBYE]);
  // Three of four hit the session, not the handshake.
  return damage(segments, random.chance(4) ? 0 : 3, random);
}

test('a damaged trace of a broker ends the connection or leaves it working, and nothing else', async () => {
  await fuzz(3_000, damaged);
}, 3_600_000);
