/** Frames to the embedded broker that are all well-formed, with arguments and in an order that nobody has thought of. */
import { test } from '@jest/globals';

import { PROTOCOL_HEADER } from '../../lib/protocol/frame.js';
import { type MethodName, METHODS } from '../../lib/protocol/methods.js';
import { CLIENT_METHODS, SHARED, fuzzBroker } from './hostile-client.js';
import type { Random } from './hostile-peer.js';
import {
  type RawValue,
  anyValue,
  nested,
  rawFrame,
  rawHeader,
  rawMethod,
  rawProperties,
  rawTable,
  textValue,
} from './raw-frames.js';

/** 255 octets that are no UTF-8: as text each would become three. */
const NO_TEXT = Buffer.alloc(255, 0xff);
const NAMES = ['x', 'y', 'z', ...SHARED];
const QUEUES: readonly (string | Buffer)[] = [
  ...NAMES,
  ...NAMES,
  '',
  'honest',
  'amq.rabbitmq.reply-to',
  'missing',
  NO_TEXT,
];
const EXCHANGES: readonly (string | Buffer)[] = [
  '',
  'e',
  'f',
  'amq.topic',
  'amq.headers',
  'amq.fanout',
  'missing',
  NO_TEXT,
];
const KEYS: readonly (string | Buffer)[] = [...NAMES, '#', '*.#', 'a.b', '', NO_TEXT, 'k'.repeat(255)];
const ARGUMENTS = [
  'x-message-ttl',
  'x-expires',
  'x-max-length',
  'x-max-length-bytes',
  'x-max-priority',
  'x-overflow',
  'x-dead-letter-exchange',
  'x-dead-letter-routing-key',
  'x-queue-type',
  'x-delivery-limit',
  'x-single-active-consumer',
  'x-priority',
  'x-match',
  'alternate-exchange',
  'a',
];
const TEXTS = [
  'quorum',
  'classic',
  'stream',
  'reject-publish',
  'reject-publish-dlx',
  'drop-head',
  'any',
  'all',
  '',
  'e',
  'f',
];
const LONG = 'l'.repeat(300);

function anyArgument(random: Random): readonly [string | Buffer, Buffer] {
  const name = random.pick(ARGUMENTS);
  switch (random.below(5)) {
    case 0:
      return [name, anyValue(random)];
    case 1:
      return [name, Buffer.from([0x49, 0, 0, 0, random.below(4)])];
    case 2:
      return ['x-dead-letter-exchange', textValue(random.pick(['', 'e', 'amq.headers', 'amq.topic', 'amq.fanout']))];
    case 3:
      return ['x-dead-letter-routing-key', textValue(random.pick<string | Buffer>([...NAMES, LONG, NO_TEXT]))];
    default:
      return [name, textValue(random.pick([...TEXTS, ...NAMES, LONG]))];
  }
}

function anyTable(random: Random): Buffer {
  if (random.chance(40)) return rawTable([['deep', nested(random.pick([31, 32, 33, 700]), random.pick(['F', 'A']))]]);
  return rawTable(Array.from({ length: random.below(4) }, () => anyArgument(random)));
}

function anyHeaders(random: Random): Buffer {
  const fields: (readonly [string | Buffer, Buffer])[] = [];
  if (random.chance(2)) fields.push(['a', Buffer.from([0x49, 0, 0, 0, 1])]);
  if (random.chance(3)) {
    const deaths = Array.from({ length: random.below(3) }, () => {
      const of = [
        random.pick(['queue', 'count', 'reason', NO_TEXT]),
        random.chance(2) ? textValue(random.pick(NAMES)) : anyValue(random),
      ] as const;
      return Buffer.concat([Buffer.from('F'), rawTable([of])]);
    });
    const list = Buffer.concat(random.chance(4) ? [anyValue(random)] : deaths);
    const head = Buffer.from([0x41, 0, 0, 0, 0]);
    head.writeUInt32BE(list.length, 1);
    fields.push(['x-death', Buffer.concat([head, list])]);
  }
  if (random.chance(6)) fields.push([random.pick(['CC', 'BCC', 'x-first-death-queue']), anyValue(random)]);
  if (random.chance(6)) fields.push(['deep', nested(random.pick([31, 32, 33, 500]), random.pick(['F', 'A']))]);
  // A table whose own length is right, with nonsense in it.
  if (random.chance(12)) fields.push(['inner', Buffer.from('F\0\0\0\x03abc', 'latin1')]);
  return rawTable(fields);
}

function anyProperties(random: Random): Buffer {
  if (random.chance(3)) return Buffer.alloc(2);
  if (random.chance(12)) return random.bytes(random.below(30));
  return rawProperties(anyHeaders(random), {
    ...(random.chance(3) ? { expiration: random.pick(['0', '1', '70000', '-1', '1e3', '9'.repeat(255)]) } : {}),
    ...(random.chance(3) ? { priority: random.below(256) } : {}),
  });
}

function anyMessage(random: Random, channel: number): Buffer[] {
  const body = random.bytes(random.below(6));
  const args = {
    exchange: random.chance(2) ? '' : random.pick(EXCHANGES),
    routingKey: random.pick(KEYS),
    mandatory: random.chance(2),
    immediate: random.chance(40),
  };
  const size = random.chance(15) ? random.pick([0n, 3n, 1_000_001n, 2n ** 40n, 2n ** 60n]) : body.length;
  const frames = [rawMethod(channel, 'basic.publish', args), rawHeader(channel, size, anyProperties(random))];
  if (body.length > 0) frames.push(rawFrame(3, channel, body));
  return frames;
}

const FIELDS: Readonly<Record<string, (random: Random) => RawValue>> = {
  queue: (random) => random.pick(QUEUES),
  exchange: (random) => random.pick(EXCHANGES),
  destination: (random) => random.pick(EXCHANGES),
  source: (random) => random.pick(EXCHANGES),
  routingKey: (random) => random.pick(KEYS),
  type: (random) => random.pick(['direct', 'fanout', 'topic', 'headers', 'x-delayed']),
  consumerTag: (random) => random.pick<string | Buffer>(['c', 'd', '', 'c', NO_TEXT]),
  deliveryTag: (random) => random.pick<number | bigint>([0, 1, 1, 2, 3, 4, 2n ** 60n]),
  prefetchSize: (random) => (random.chance(20) ? 1 : 0),
  prefetchCount: (random) => random.below(4),
};

const BITS: Readonly<Record<string, number>> = {
  passive: 8,
  active: 1,
  requeue: 2,
  multiple: 3,
  exclusive: 6,
  durable: 3,
  autoDelete: 3,
};

function anyMethod(random: Random): Buffer[] {
  const channel = random.chance(40) ? random.below(20) : 1 + random.below(4);
  if (random.chance(25)) return [rawMethod(channel, random.pick(Object.keys(METHODS) as MethodName[]))];
  if (random.chance(3)) return anyMessage(random, channel);
  // Back to life, where an error has closed it.
  if (random.chance(12)) return [rawMethod(channel, 'channel.close-ok'), rawMethod(channel, 'channel.open')];
  const name = random.pick(CLIENT_METHODS.filter((method) => method !== 'channel.open' && method !== 'basic.publish'));
  const values: Record<string, RawValue> = {};
  for (const [field, type] of Object.entries(METHODS[name].args) as [string, string][]) {
    if (type === 'bit') values[field] = random.chance(BITS[field] ?? 5);
    else if (type === 'table') values[field] = anyTable(random);
    else if (FIELDS[field] !== undefined) values[field] = FIELDS[field](random);
  }
  return [rawMethod(channel, name, values)];
}

/** What brings the connection to some state. */
const OPENING: readonly Buffer[] = [
  PROTOCOL_HEADER,
  rawMethod(0, 'connection.start-ok', { mechanism: 'PLAIN', response: '\0guest\0guest', locale: 'en_US' }),
  rawMethod(0, 'connection.tune-ok', { channelMax: 2047, frameMax: 131_072, heartbeat: 0 }),
  rawMethod(0, 'connection.open', { virtualHost: '/' }),
  Buffer.concat([1, 2, 3, 4].map((channel) => rawMethod(channel, 'channel.open'))),
  Buffer.concat([
    rawMethod(1, 'exchange.declare', { exchange: 'e', type: 'headers' }),
    rawMethod(1, 'exchange.declare', { exchange: 'f', type: 'topic', autoDelete: true }),
    rawMethod(1, 'exchange.bind', { source: 'f', destination: 'e', routingKey: '#' }),
  ]),
];

test('well-formed frames in any order end their own connection or leave it working, and nothing else', async () => {
  await fuzzBroker(150, (random) => {
    const state = random.chance(12) ? random.below(OPENING.length) : OPENING.length;
    const noise = Array.from({ length: 1 + random.below(6) }, () =>
      Buffer.concat(Array.from({ length: 1 + random.below(6) }, () => anyMethod(random)).flat()),
    );
    return [...OPENING.slice(0, state), ...noise];
  });
}, 3_600_000);
