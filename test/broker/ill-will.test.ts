/** What one client says must not do anything to another: names, tables, headers and chains that nobody in his right mind would send. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import type { ConfirmChannel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import { rawHeader, rawMethod, rawProperties, rawTable, nested, textValue } from '../fuzz/raw-frames.js';
import { failure } from '../support/client.js';
import { RawClient } from '../support/raw-client.js';
import { eventually, within } from '../support/waits.js';
import { Engine, OWNER } from './engine.js';

let broker: EmbeddedBroker;
let honest: Connection;
let channel: ConfirmChannel;
let client: RawClient;

beforeEach(async () => {
  broker = EmbeddedBroker.create({ clock: 'manual' });
  honest = await connect({ dial: () => broker.connect() });
  channel = await (await honest.channel()).confirmSelect();
  client = await RawClient.open(broker.connect());
  await client.openChannel(1);
});

afterEach(async () => {
  expect(honest.isOpen).toBe(true);
  await honest.close();
  await broker.close();
});

describe('a name of 255 octets that are no UTF-8', () => {
  const name = Buffer.alloc(255, 0xff);

  test.each([
    ['of a queue', rawMethod(1, 'queue.declare', { queue: name })],
    ['of an exchange', rawMethod(1, 'exchange.declare', { exchange: name, type: 'direct' })],
    ['of a consumer', rawMethod(1, 'basic.consume', { queue: 'q', consumerTag: name, noWait: true })],
    [
      'of a route',
      Buffer.concat([rawMethod(1, 'basic.publish', { exchange: 'amq.fanout', routingKey: name }), rawHeader(1, 0)]),
    ],
  ])('%s ends the connection of who says it, not that of who would have to be told', async (_what, frames) => {
    await channel.queueDeclare('q');
    await channel.queueBind('q', 'amq.fanout');
    const bodies: string[] = [];
    await channel.basicConsume('q', (message) => bodies.push(message.text));
    client.sendRaw(frames);
    expect((await client.receive('connection.close')).args).toMatchObject({ replyCode: 502 });
    await channel.basicPublish('', 'q', 'still here');
    await channel.basicQos(0);
    expect(bodies).toEqual(['still here']);
  });
});

test('a routing key for dead letters that no frame can hold is refused when it is declared', async () => {
  const { replyCode, replyText } = await failure(
    (await honest.channel()).queueDeclare('q', {
      arguments: { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'é'.repeat(128) },
    }),
  );
  expect([replyCode, replyText]).toEqual([406, expect.stringContaining('longer than 255 bytes')]);
});

describe('a dead letter whose headers cannot be read, on its way to a headers exchange', () => {
  beforeEach(async () => {
    await channel.queueDeclare('q', { arguments: { 'x-dead-letter-exchange': 'amq.headers', 'x-message-ttl': 1000 } });
    await channel.queueDeclare('dead');
    await channel.queueBind('dead', 'amq.headers', '', { arguments: { a: 1 } });
    client.sendRaw(
      Buffer.concat([
        rawMethod(1, 'basic.publish', { routingKey: 'q' }),
        rawHeader(1, 0, rawProperties(rawTable([['inner', Buffer.from('F\0\0\0\x03abc', 'latin1')]]))),
      ]),
    );
    await eventually('the message', () => Promise.resolve(broker.queue('q').ready === 1 || undefined));
  });

  test('is lost, and who has rejected it is not blamed', async () => {
    (await channel.basicGet('q'))?.message.reject();
    await channel.basicQos(0);
    expect([broker.queue('q').messages, broker.queue('dead').messages]).toEqual([0, 0]);
  });

  test('is lost, and time goes on', () => {
    broker.advance('2s');
    expect([broker.queue('q').messages, broker.queue('dead').messages]).toEqual([0, 0]);
  });
});

test('a chain of auto-delete exchanges goes as a whole, however long it is', () => {
  const engine = new Engine();
  const length = 20_000;
  engine.queue('last');
  for (let index = 0; index < length; index += 1) {
    engine.exchange(`chain.${index}`, 'fanout', { autoDelete: true });
    const binding = { destination: `chain.${index}`, source: `chain.${index - 1}`, routingKey: '', arguments: {} };
    if (index > 0) engine.host.bindExchange(binding);
  }
  engine.bind('last', `chain.${length - 1}`);
  engine.host.deleteQueue('last', { ifUnused: false, ifEmpty: false }, OWNER);
  expect([...engine.host.exchanges].filter(({ name }) => name.startsWith('chain.'))).toEqual([]);
});

test('a binding costs no more the deeper its arguments are', async () => {
  await channel.queueDeclare('q');
  const deep = rawTable([['deep', nested(31, 'F')]]);
  client.sendRaw(rawMethod(1, 'queue.bind', { queue: 'q', exchange: 'amq.topic', routingKey: '#', arguments: deep }));
  client.sendRaw(rawMethod(1, 'queue.bind', { queue: 'q', exchange: 'amq.topic', routingKey: '#', arguments: deep }));
  await client.receive('queue.bind-ok');
  await client.receive('queue.bind-ok');
  expect(broker.bindings).toHaveLength(1);
});

test('who goes on with nonsense while it is being closed is not waited for', async () => {
  client.sendRaw(rawMethod(1, 'basic.qos-ok'));
  await client.receive('connection.close');
  client.sendRaw(rawMethod(0, 'basic.publish', { routingKey: 'q' }));
  client.sendRaw(rawMethod(0, 'connection.close-ok'));
  // Others have 10 s.
  await within('the end', client.hungUp, 5_000);
});

test('who goes away with more on its way to it than it would read is noticed at once', async () => {
  await channel.queueDeclare('q');
  for (let count = 0; count < 40; count += 1) await channel.basicPublish('', 'q', Buffer.alloc(100_000));
  client.sendRaw(rawMethod(1, 'basic.consume', { queue: 'q', consumerTag: 'c' }));
  client.transport.pause();
  await eventually('the first deliveries', () => Promise.resolve(broker.queue('q').unacked > 5 || undefined));
  client.transport.destroy();
  await eventually('their return', () => Promise.resolve(broker.queue('q').ready === 40 || undefined), 5_000);
});

test('headers that a client has made up are no reason to lose a dead letter', async () => {
  await channel.queueDeclare('q', { arguments: { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' } });
  await channel.queueDeclare('dead');
  const noNumber = Buffer.from('d\x7f\xf8\0\0\0\0\0\0', 'latin1');
  const entry = Buffer.concat([
    Buffer.from('F'),
    rawTable([
      ['count', noNumber],
      ['queue', textValue('q')],
    ]),
  ]);
  const deaths = Buffer.concat([Buffer.from([0x41, 0, 0, 0, entry.length]), entry]);
  client.sendRaw(
    Buffer.concat([
      rawMethod(1, 'basic.publish', { routingKey: 'q' }),
      rawHeader(1, 0, rawProperties(rawTable([['x-death', deaths]]))),
    ]),
  );
  await eventually('the message', () => Promise.resolve(broker.queue('q').ready === 1 || undefined));
  (await channel.basicGet('q'))?.message.reject();
  await channel.basicQos(0);
  const letter = await channel.basicGet('dead');
  expect(letter?.message.properties.headers?.['x-death']).toMatchObject([{ queue: 'q', reason: 'rejected', count: 1 }]);
});
