/** A broker's side of a whole session, damaged at random: bits, bytes, frames, lengths and ends. */
import { test } from '@jest/globals';

import { PROTOCOL_HEADER, writeBodyFrameHead, writeContentHead, writeFrameEnd } from '../../lib/protocol/frame.js';
import type { ContentMethodName, MethodArgs } from '../../lib/protocol/methods.js';
import type { BasicProperties } from '../../lib/protocol/properties.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { frameOf } from '../support/client.js';
import { goldenHeartbeat, goldenMethods } from '../support/golden-frames.js';
import { type Random, fuzz } from './hostile-peer.js';

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

/** Each changes the frames of one segment. */
const MUTATIONS: readonly ((frames: Buffer[], at: number, random: Random) => void)[] = [
  // A bit, or a few.
  (frames, at, random) => {
    const copy = Buffer.from(frames[at] as Buffer);
    for (let count = random.below(3); count >= 0; count -= 1) {
      const byte = random.below(copy.length);
      copy[byte] = (copy[byte] as number) ^ (1 << random.below(8));
    }
    frames[at] = copy;
  },
  // Bytes that should not be there, in the frame's length or beside it.
  (frames, at, random) => {
    const frame = frames[at] as Buffer;
    const cut = random.below(frame.length + 1);
    frames[at] = Buffer.concat([frame.subarray(0, cut), random.bytes(1 + random.below(8)), frame.subarray(cut)]);
  },
  // Bytes that are missing.
  (frames, at, random) => {
    const frame = frames[at] as Buffer;
    const cut = random.below(frame.length);
    frames[at] = Buffer.concat([frame.subarray(0, cut), frame.subarray(cut + 1 + random.below(4))]);
  },
  // Twice.
  (frames, at) => frames.splice(at, 0, frames[at] as Buffer),
  // Not at all.
  (frames, at) => frames.splice(at, 1),
  // In another order.
  (frames, at, random) => {
    const [frame] = frames.splice(at, 1) as [Buffer];
    frames.splice(random.below(frames.length + 1), 0, frame);
  },
  // A length that lies: of the frame, or of whatever these four bytes are.
  (frames, at, random) => {
    const copy = Buffer.from(frames[at] as Buffer);
    const where = random.chance(2) ? 3 : random.below(copy.length - 4);
    copy.writeUInt32BE(random.pick([0, 1, copy.length, 4096, 131_072, 0x7fff_ffff, 0xffff_ffff]), where);
    frames[at] = copy;
  },
  // Another channel.
  (frames, at, random) => {
    const copy = Buffer.from(frames[at] as Buffer);
    copy.writeUInt16BE(random.pick([0, 1, 2, 3, 65_535]), 1);
    frames[at] = copy;
  },
  // A payload of noise in a good frame, and noise between frames.
  (frames, at, random) => {
    const copy = Buffer.from(frames[at] as Buffer);
    const from = 7 + random.below(Math.max(1, copy.length - 8));
    random.bytes(Math.max(0, copy.length - 1 - from)).copy(copy, from);
    frames[at] = copy;
  },
  (frames, at, random) => frames.splice(at, 0, random.chance(4) ? PROTOCOL_HEADER : random.bytes(random.below(30))),
];

function damaged(random: Random): Buffer[] {
  const segments = TRACE.map((frames) => [...frames]);
  if (random.chance(2)) segments.push([GOODBYE]);
  // Three of four hit the session, not the handshake.
  const first = random.chance(4) ? 0 : 3;
  for (let count = 1 + random.below(3); count > 0; count -= 1) {
    const frames = segments[first + random.below(segments.length - first)] as Buffer[];
    // What an earlier mutation has left of a frame may be too short for the next one.
    const at = random.below(frames.length);
    if ((frames[at]?.length ?? 0) >= 8) random.pick(MUTATIONS)(frames, at, random);
  }
  const bytes = segments.map((frames) => Buffer.concat(frames));
  if (!random.chance(8)) return bytes;
  // A truncated end.
  const last = random.below(bytes.length);
  const cut = bytes[last] as Buffer;
  return [...bytes.slice(0, last), cut.subarray(0, random.below(cut.length + 1))];
}

test('a damaged trace of a broker ends the connection or leaves it working, and nothing else', async () => {
  await fuzz(6_000, damaged);
}, 3_600_000);
