/**
 * Clients that send anything: traces of real conversations, mutated and cut anywhere. Each ends with its own connection at worst;
 * the broker serves the next one as if nothing had been.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import {
  FRAME_METHOD,
  PROTOCOL_HEADER,
  writeBodyFrameHead,
  writeContentHead,
  writeFrameEnd,
} from '../../lib/protocol/frame.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { frameOf } from '../support/client.js';
import { goldenContents, goldenHeartbeat, goldenMethods } from '../support/golden-frames.js';
import { RawClient } from '../support/raw-client.js';

const RUNS = Number(process.env['NEST_AMQP_FUZZ_ITERATIONS'] ?? 300);

let broker: EmbeddedBroker;
let steady: RawClient;

beforeAll(async () => {
  broker = EmbeddedBroker.create({ maxMessageSize: 100_000 });
  steady = await RawClient.open(broker.connect());
  await steady.openChannel(1);
});

afterAll(async () => {
  await broker.close();
});

const opening = [
  PROTOCOL_HEADER,
  frameOf(0, 'connection.start-ok', {
    clientProperties: { capabilities: { authentication_failure_close: true } },
    mechanism: 'PLAIN',
    response: '\0guest\0guest',
    locale: 'en_US',
  }),
  frameOf(0, 'connection.tune-ok', { channelMax: 10, frameMax: 8192, heartbeat: 0 }),
  frameOf(0, 'connection.open', { virtualHost: '/' }),
  frameOf(1, 'channel.open', {}),
  frameOf(2, 'channel.open', {}),
];

const queue = { passive: false, durable: true, exclusive: false, autoDelete: false, noWait: false };
const consumer = { noLocal: false, noAck: false, exclusive: false, noWait: false, arguments: {} };

function publish(channel: number, routingKey: string, body: string): Buffer {
  const writer = new WireWriter();
  const args = { exchange: '', routingKey, mandatory: true, immediate: false };
  const properties = { headers: { a: [1, { b: null }] }, expiration: '60000', replyTo: 'amq.rabbitmq.reply-to' };
  writeContentHead(writer, 0, channel, 'basic.publish', args, channel === 1 ? {} : properties, body.length);
  for (let start = 0; start < body.length; start += 8000) {
    const part = Buffer.from(body.slice(start, start + 8000));
    writeBodyFrameHead(writer, channel, part.length);
    writer.bytes(part);
    writeFrameEnd(writer);
  }
  return writer.take();
}

const sentences: readonly Buffer[] = [
  goldenContents.publish.bytes,
  goldenMethods.basicQos.bytes,
  goldenMethods.basicAck.bytes,
  goldenMethods.confirmSelect.bytes,
  publish(1, 'q', 'one'),
  publish(2, 'q', 'two'),
  publish(2, 'q', 'x'.repeat(20_000)),
  goldenHeartbeat,
  frameOf(1, 'queue.declare', { ...queue, queue: 'q', arguments: { 'x-max-length': 10 } }),
  frameOf(1, 'basic.consume', { ...consumer, queue: 'q', consumerTag: 'a' }),
  frameOf(2, 'basic.consume', { ...consumer, queue: 'q', consumerTag: 'b', noAck: true }),
  frameOf(2, 'basic.consume', { ...consumer, queue: 'amq.rabbitmq.reply-to', consumerTag: 'r', noAck: true }),
  frameOf(1, 'basic.get', { queue: 'q', noAck: false }),
  frameOf(1, 'basic.ack', { deliveryTag: 1, multiple: false }),
  frameOf(1, 'basic.nack', { deliveryTag: 0, multiple: true, requeue: true }),
  frameOf(1, 'basic.recover', { requeue: true }),
  frameOf(1, 'basic.cancel', { consumerTag: 'a', noWait: false }),
  frameOf(1, 'tx.select', {}),
  frameOf(1, 'tx.commit', {}),
  frameOf(1, 'tx.rollback', {}),
  frameOf(2, 'confirm.select', { noWait: false }),
  frameOf(1, 'queue.delete', { queue: 'q', ifUnused: true, ifEmpty: false, noWait: false }),
  frameOf(1, 'channel.close', { replyCode: 200, replyText: '', classId: 0, methodId: 0 }),
  frameOf(1, 'channel.close-ok', {}),
  frameOf(1, 'channel.open', {}),
  frameOf(0, 'connection.update-secret', { newSecret: 'x', reason: 'y' }),
];

/** A method with any fields at all. */
const anyMethod = fc
  .tuple(
    fc.integer({ min: 0, max: 3 }),
    fc.constantFrom(10, 20, 40, 50, 60, 85, 90),
    fc.nat(120),
    fc.uint8Array({ maxLength: 40 }),
  )
  .map(([channel, classId, methodId, fields]) => {
    const writer = new WireWriter(128);
    writer.octet(FRAME_METHOD);
    writer.short(channel);
    writer.long(4 + fields.length);
    writer.short(classId);
    writer.short(methodId);
    writer.bytes(fields);
    writer.octet(0xce);
    return writer.take();
  });

const conversation = fc.record({
  sentences: fc.array(
    fc.oneof({ weight: 30, arbitrary: fc.constantFrom(...sentences) }, { weight: 1, arbitrary: anyMethod }),
    { minLength: 1, maxLength: 60, size: 'max' },
  ),
  /** How much of the opening is said properly. */
  opened: fc.oneof(
    { weight: 9, arbitrary: fc.constant(opening.length) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: opening.length }) },
  ),
  /** Bytes that are changed; in half of the conversations none. */
  flips: fc.oneof(
    fc.constant<[number, number][]>([]),
    fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 3 }),
  ),
  cuts: fc.array(fc.nat(), { maxLength: 5 }),
  leaves: fc.boolean(),
});

test('nothing that a client sends ends more than its own connection', async () => {
  const run = fc.asyncProperty(conversation, async ({ sentences: said, opened, flips, cuts, leaves }) => {
    const client = new RawClient(broker.connect());
    const { transport } = client;
    for (const part of opening.slice(0, opened)) transport.write(part);
    const bytes = Buffer.concat(said);
    for (const [at, value] of flips) if (bytes.length > 0) bytes[at % bytes.length] = value;
    let from = 0;
    for (const at of cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b)) {
      transport.write(bytes.subarray(from, at));
      from = at;
    }
    transport.write(bytes.subarray(from));
    if (leaves) transport.destroy();
    await new Promise((resolve) => setImmediate(resolve));
    transport.destroy();

    // 541 is for a fault of the broker itself, except where RabbitMQ has that fault as well.
    const faults = client.received.all.filter(({ args }) => 'replyCode' in args && args.replyCode === 541);
    const texts = faults.map(({ args }) => String('replyText' in args ? args.replyText : ''));
    expect(texts.filter((text) => !text.includes('properties of the message cannot be parsed'))).toEqual([]);

    steady.publish(1, { routingKey: 'nowhere', mandatory: true }, {}, 'still here');
    expect((await steady.receive('basic.return')).body.toString()).toBe('still here');
  });
  const seed = process.env['NEST_AMQP_FUZZ_SEED'];
  await fc.assert(run, { numRuns: RUNS, ...(seed === undefined ? {} : { seed: Number(seed) }) });
  await broker.settled();
  expect(broker.connections).toHaveLength(1);
  expect(broker.queues.filter(({ unacked, consumers }) => unacked + consumers > 0)).toEqual([]);
}, 120_000);
