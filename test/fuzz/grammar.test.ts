/** Frames that are all well-formed, in an order that fits no state of the client. */
import { test } from '@jest/globals';

import type { FieldTable } from '../../lib/protocol/field-table.js';
import { type MethodName, METHODS } from '../../lib/protocol/methods.js';
import { frameOf } from '../support/client.js';
import { goldenHeartbeat, goldenMethods } from '../support/golden-frames.js';
import { type Random, fuzz } from './hostile-peer.js';

const NAMES = Object.keys(METHODS) as MethodName[];
/** What brokers say unasked; other methods mostly end the connection at once, and teach less. */
const UNASKED: readonly MethodName[] = NAMES.filter((name) =>
  /^basic\.(deliver|return|ack|nack|cancel)$|^channel\.(flow|close)$|^connection\.(un)?blocked$/.test(name),
);
const REPLIES: readonly MethodName[] = NAMES.filter((name) => /-ok$|-empty$/.test(name));

const VALUES: Record<string, (random: Random) => unknown> = {
  bit: (random) => random.chance(2),
  octet: (random) => random.below(256),
  short: (random) => random.pick([0, 1, 40, 60, 200, 320, 404, 65_535]),
  long: (random) => random.pick([0, 1, 4096, 131_072, 0xffff_ffff]),
  longlong: (random) => random.pick([0, 1, 2, 3, 4, 1000, Number.MAX_SAFE_INTEGER]),
  shortstr: (random) => random.pick(['c', 'q', '', 'x'.repeat(255), '\u0000\n\u202e', '__proto__']),
  longstr: (random) => random.bytes(random.below(20)),
  table: (random): FieldTable => ({ a: random.below(9), b: [true, { c: null }] }),
};

function anyMethod(random: Random): Buffer {
  const name = random.pick(random.chance(20) ? NAMES : random.chance(6) ? REPLIES : UNASKED);
  const args = Object.fromEntries(
    Object.entries(METHODS[name].args).map(([field, type]) => [field, VALUES[type]?.(random)]),
  );
  // The table has just said which fields there are.
  return frameOf(anyChannel(random, name), name, args as never);
}

function anyChannel(random: Random, name?: MethodName): number {
  if (random.chance(30)) return random.below(5);
  return name?.startsWith('connection.') === true ? 0 : random.chance(12) ? 2 : 1;
}

function frame(type: number, channel: number, payload: Buffer): Buffer {
  const head = Buffer.from([type, 0, channel, 0, 0, 0, 0]);
  head.writeUInt32BE(payload.length, 3);
  return Buffer.concat([head, payload, Buffer.from([0xce])]);
}

function header(random: Random, bodySize: bigint): Buffer {
  const payload = Buffer.concat([Buffer.alloc(12), random.pick([Buffer.from([0, 0]), random.bytes(random.below(20))])]);
  payload.writeUInt16BE(random.chance(20) ? 50 : 60, 0);
  payload.writeBigUInt64BE(bodySize, 4);
  return frame(2, anyChannel(random), payload);
}

/** A method, a header, a body or a heartbeat; or a message that is whole. */
function anyFrames(random: Random): Buffer[] {
  switch (random.below(12)) {
    case 0:
      return [header(random, random.pick([0n, 1n, 3n, 2_000_000n, 2n ** 40n, 2n ** 60n]))];
    case 1:
      return [frame(3, anyChannel(random), random.bytes(random.below(4)))];
    case 2:
      return [goldenHeartbeat];
    case 3:
    case 4:
    case 5: {
      const args = {
        consumerTag: 'c',
        deliveryTag: random.below(5),
        redelivered: false,
        exchange: '',
        routingKey: 'q',
      };
      const size = Buffer.from([0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
      const head = frame(
        2,
        1,
        Buffer.concat([size, random.chance(2) ? Buffer.alloc(2) : random.bytes(random.below(20))]),
      );
      const returned = { replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: 'q' };
      const method = random.chance(4) ? frameOf(1, 'basic.return', returned) : frameOf(1, 'basic.deliver', args);
      return [method, head, frame(3, 1, Buffer.from('abc'))];
    }
    default:
      return [anyMethod(random)];
  }
}

/** What brings the client to some state, from the protocol header to a consumer. */
const OPENING: readonly Buffer[] = [
  goldenMethods.connectionStart.bytes,
  frameOf(0, 'connection.tune', { channelMax: 2047, frameMax: 131_072, heartbeat: 60 }),
  frameOf(0, 'connection.open-ok', {}),
  frameOf(1, 'channel.open-ok', {}),
  frameOf(1, 'confirm.select-ok', {}),
  frameOf(1, 'queue.declare-ok', { queue: 'q', messageCount: 0, consumerCount: 0 }),
  frameOf(1, 'basic.consume-ok', { consumerTag: 'c' }),
  frameOf(1, 'basic.get-empty', {}),
  frameOf(2, 'channel.open-ok', {}),
];

test('well-formed frames in any order end the connection or leave it working, and nothing else', async () => {
  await fuzz(3_000, (random) => {
    const state = random.chance(6) ? random.below(4) : 4 + random.below(OPENING.length - 3);
    const noise = Array.from({ length: 1 + random.below(6) }, () => Buffer.concat(anyFrames(random)));
    return [...OPENING.slice(0, state), ...noise];
  });
}, 3_600_000);
