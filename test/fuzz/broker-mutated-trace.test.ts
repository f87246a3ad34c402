/** A client's side of a whole session with the embedded broker, damaged at random: bits, bytes, frames, lengths and ends. */
import { test } from '@jest/globals';

import { PROTOCOL_HEADER } from '../../lib/protocol/frame.js';
import type { Random } from './hostile-peer.js';
import { fuzzBroker } from './hostile-client.js';
import { damage } from './mutations.js';
import { type RawValue, rawFrame, rawHeader, rawMethod, rawProperties, rawTable, textValue } from './raw-frames.js';

/** A message in pieces. */
function message(
  channel: number,
  args: Readonly<Record<string, RawValue>>,
  properties: Buffer,
  ...pieces: readonly string[]
): Buffer[] {
  return [
    rawMethod(channel, 'basic.publish', args),
    rawHeader(channel, pieces.join('').length, properties),
    ...pieces.map((piece) => rawFrame(3, channel, Buffer.from(piece))),
  ];
}

const integer = (value: number): Buffer => Buffer.from([0x49, 0, 0, value >> 8, value & 0xff]);
const array = (...items: readonly Buffer[]): Buffer => {
  const content = Buffer.concat(items);
  const head = Buffer.from([0x41, 0, 0, 0, 0]);
  head.writeUInt32BE(content.length, 1);
  return Buffer.concat([head, content]);
};
const table = (...fields: Parameters<typeof rawTable>[0]): Buffer => rawTable(fields);
const tableValue = (...fields: Parameters<typeof rawTable>[0]): Buffer =>
  Buffer.concat([Buffer.from('F'), rawTable(fields)]);
const bare = Buffer.alloc(2);
const headers = rawProperties(
  table(
    ['a', integer(1)],
    ['CC', array(textValue('mine'), textValue('rejected'))],
    ['BCC', array(textValue('shared'))],
    [
      'x-death',
      array(tableValue(['count', integer(2)], ['queue', textValue('rejected')], ['reason', textValue('expired')])),
    ],
  ),
  { expiration: '60000', priority: 2 },
);
const deadLetters = table(
  ['x-dead-letter-exchange', textValue('amq.headers')],
  ['x-dead-letter-routing-key', textValue('x')],
  ['x-message-ttl', integer(500)],
  ['x-max-length', integer(3)],
);
const quorum = table(
  ['x-queue-type', textValue('quorum')],
  ['x-delivery-limit', integer(1)],
  ['x-dead-letter-exchange', textValue('')],
  ['x-dead-letter-routing-key', textValue('rejected')],
);

/** Frames of the client, a list for each step; what it answers is guessed. */
const TRACE: readonly (readonly Buffer[])[] = [
  [PROTOCOL_HEADER],
  [
    rawMethod(0, 'connection.start-ok', {
      clientProperties: table(['capabilities', tableValue(['consumer_cancel_notify', Buffer.from('t\x01')])]),
      mechanism: 'PLAIN',
      response: '\0guest\0guest',
      locale: 'en_US',
    }),
  ],
  [
    rawMethod(0, 'connection.tune-ok', { channelMax: 10, frameMax: 4096, heartbeat: 60 }),
    rawMethod(0, 'connection.open', { virtualHost: '/' }),
  ],
  [rawMethod(1, 'channel.open'), rawMethod(2, 'channel.open'), rawMethod(3, 'channel.open')],
  [
    rawMethod(1, 'exchange.declare', { exchange: 'first', type: 'topic', autoDelete: true }),
    rawMethod(1, 'exchange.declare', {
      exchange: 'second',
      type: 'headers',
      arguments: table(['alternate-exchange', textValue('amq.fanout')]),
    }),
    rawMethod(1, 'exchange.bind', { destination: 'second', source: 'first', routingKey: 'a.#' }),
    rawMethod(1, 'queue.declare', { queue: 'mine', exclusive: true, arguments: deadLetters }),
    rawMethod(1, 'queue.declare', { queue: 'quorum', durable: true, arguments: quorum }),
    rawMethod(1, 'queue.declare', { queue: 'gone', autoDelete: true }),
    rawMethod(1, 'queue.bind', { queue: 'mine', exchange: 'first', routingKey: '#.z' }),
    rawMethod(1, 'queue.bind', {
      queue: 'gone',
      exchange: 'second',
      arguments: table(['x-match', textValue('any')], ['a', integer(1)]),
    }),
  ],
  [
    rawMethod(1, 'confirm.select'),
    ...message(1, { exchange: 'first', routingKey: 'a.b.z', mandatory: true }, headers, '{"id":', '', '1}'),
    ...message(1, { routingKey: 'nowhere', mandatory: true }, bare, 'lost'),
    ...message(1, { exchange: 'amq.topic', routingKey: 'all' }, headers, 'to all'),
    ...message(1, { routingKey: 'quorum' }, headers, 'q'),
    ...message(1, { routingKey: 'rejected' }, rawProperties(table(['a', integer(1)])), 'r'),
    rawFrame(8, 0, Buffer.alloc(0)),
  ],
  [
    rawMethod(2, 'basic.qos', { prefetchCount: 2 }),
    rawMethod(2, 'basic.consume', { queue: 'mine', consumerTag: 'c' }),
    rawMethod(2, 'basic.consume', { queue: 'gone', consumerTag: 'g', noAck: true }),
    rawMethod(2, 'basic.consume', { queue: 'amq.rabbitmq.reply-to', consumerTag: 'r', noAck: true }),
    rawMethod(2, 'basic.consume', { queue: 'shared', consumerTag: 's', arguments: table(['x-priority', integer(5)]) }),
    rawMethod(2, 'basic.get', { queue: 'quorum' }),
    rawMethod(2, 'basic.reject', { deliveryTag: 1, requeue: true }),
    rawMethod(2, 'basic.nack', { deliveryTag: 2, multiple: true, requeue: true }),
    rawMethod(2, 'basic.ack', { deliveryTag: 3 }),
    rawMethod(2, 'basic.recover', { requeue: true }),
  ],
  [
    rawMethod(3, 'tx.select'),
    ...message(3, { routingKey: 'mine' }, bare, 'one'),
    ...message(3, { routingKey: 'shared' }, bare, 'two'),
    rawMethod(3, 'basic.get', { queue: 'mine' }),
    rawMethod(3, 'basic.ack', { deliveryTag: 1 }),
    rawMethod(3, 'tx.commit'),
    ...message(3, { routingKey: 'mine' }, bare, 'three'),
    rawMethod(3, 'tx.rollback'),
  ],
  [
    rawMethod(2, 'basic.cancel', { consumerTag: 'c' }),
    rawMethod(1, 'queue.purge', { queue: 'dead' }),
    rawMethod(1, 'queue.unbind', { queue: 'mine', exchange: 'first', routingKey: '#.z' }),
    rawMethod(1, 'exchange.unbind', { destination: 'second', source: 'first', routingKey: 'a.#' }),
    rawMethod(1, 'queue.delete', { queue: 'shared', noWait: true }),
    rawMethod(1, 'exchange.delete', { exchange: 'second' }),
    rawMethod(3, 'channel.close', { replyCode: 200 }),
  ],
];
const GOODBYE = rawMethod(0, 'connection.close', { replyCode: 200 });

function damaged(random: Random): Buffer[] {
  const segments = TRACE.map((frames) => [...frames]);
  if (random.chance(2)) segments.push([GOODBYE]);
  // Three of four hit the session, not the handshake.
  return damage(segments, random.chance(4) ? 0 : 4, random);
}

test('a damaged trace of a client ends its own connection or leaves it working, and nothing else', async () => {
  await fuzzBroker(150, damaged);
}, 3_600_000);
