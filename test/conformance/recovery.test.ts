/** Conformance, recovery: the numbers 93 to 107. */
import { expect, test } from '@jest/globals';
import type { Duplex } from 'node:stream';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection, type ConnectionStatus } from '../../lib/client/amqp-connection.js';
import { Backoff } from '../../lib/client/backoff.js';
import { connect } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure, unique } from '../support/client.js';
import { collectGarbage } from '../support/garbage.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox, eventually, within } from '../support/waits.js';
import { Peers, QUICK, text } from './bench.js';

/** A recovering connection to the broker under test, whose line the test can cut. */
async function onBroker(): Promise<{ amqp: AmqpConnection; line: CuttableLine; statuses: Inbox<ConnectionStatus> }> {
  const line = new CuttableLine();
  const amqp = new AmqpConnection(brokerUrl, { dial: line.dial, ...QUICK });
  await amqp.open();
  const statuses = new Inbox<ConnectionStatus>();
  amqp.on('status', statuses.push);
  return { amqp, line, statuses };
}

const isOpen = ({ state }: ConnectionStatus): boolean => state === 'open';

test('93. a connection recovers from a cut and from an absent broker, and stays closed once it was closed', async () => {
  const { amqp, line, statuses } = await onBroker();
  line.isDown = true;
  line.cut();
  await statuses.next('a failed attempt', (status) => status.state === 'connecting' && status.attempt > 2);
  line.isDown = false;
  await statuses.next('the recovery', isOpen);
  expect((await amqp.opened()).isOpen).toBe(true);
  await amqp.close();
  const { dialled } = line;
  amqp.openInBackground();
  expect([(await failure(amqp.opened())).code, line.dialled]).toEqual(['CONNECTION_CLOSED', dialled]);
});

test('94. the loss is told first, then the attempt, then the set-ups run in order, and open comes last', async () => {
  const peers = new Peers();
  const { amqp } = peers;
  const story = new Inbox<string>();
  for (const name of ['first', 'second']) {
    amqp.onSetup((connection) => {
      connection.once('close', () => {
        story.push(`${name} hears of the loss`);
      });
      story.push(name);
      return Promise.resolve();
    });
  }
  amqp.on('status', ({ state }) => {
    story.push(state);
  });
  const first = await peers.opened();
  await story.next('open', (part) => part === 'open');
  first.hangUp();
  await peers.opened();
  await story.next('open', (part) => part === 'open');
  const setUp = ['first', 'second', 'open'];
  const loss = ['first hears of the loss', 'second hears of the loss', 'connecting'];
  expect(story.all).toEqual([...setUp, ...loss, ...setUp]);
  await amqp.close();
});

test('95. a channel has its confirms, and a consumer its prefetch, again after a recovery', async () => {
  const peers = new Peers();
  const channel = new AmqpChannel(peers.amqp);
  const using = channel.basicQos(7).then(() => channel.basicConsume('q', () => undefined, { consumerTag: 'c' }));
  const first = await peers.opened();
  await first.openChannel();
  await first.answer('confirm.select-ok', {});
  await first.answer('basic.qos-ok', {});
  await first.openChannel();
  await first.answer('basic.qos-ok', {});
  await first.answer('basic.consume-ok', { consumerTag: 'c' });
  await using;
  first.hangUp();
  const second = await peers.opened();
  await second.openChannel();
  expect((await second.answer('basic.qos-ok', {})).args).toMatchObject({ prefetchCount: 7 });
  expect((await second.answer('basic.consume-ok', { consumerTag: 'c' })).args).toMatchObject({ consumerTag: 'c' });
  const publishing = channel.basicPublish('', 'q', 'confirmed');
  const number = await second.openChannel();
  expect((await second.answer('confirm.select-ok', {})).name).toBe('confirm.select');
  await second.receive('basic.publish');
  second.send(number, 'basic.ack', { deliveryTag: 1, multiple: false });
  await publishing;
  await peers.amqp.close();
});

test('96. set-ups declare exchanges, queues and bindings anew, and consumers follow, recovery after recovery', async () => {
  await using scratch = await Scratch.open();
  const [source, internal] = [scratch.exchangeName(), scratch.exchangeName()];
  const { amqp, line, statuses } = await onBroker();
  let serverNamed = '';
  const [queue, consumers] = [unique('queue'), 10];
  amqp.onSetup(async (connection) => {
    const channel = await connection.channel();
    await channel.exchangeDeclare(source, 'fanout', { durable: false });
    await channel.exchangeDeclare(internal, 'direct', { internal: true, autoDelete: true });
    await channel.exchangeBind(internal, source);
    await channel.exchangeBind(internal, source, 'k');
    serverNamed = (await channel.queueDeclare()).queue;
    await channel.queueDeclare(queue, { exclusive: true, durable: false });
    await channel.queueBind(serverNamed, internal, 'k');
    await channel.queueBind(queue, internal, 'k');
  });
  line.cut();
  await statuses.next('the first set-up', isOpen);
  const channel = new AmqpChannel(amqp);
  const messages = new Inbox<Message>();
  for (let count = 0; count < consumers; count += 1) {
    await channel.basicConsume(queue, messages.push, { noAck: true, consumerTag: `c${count}` });
  }
  const names = new Set<string>();
  for (let round = 0; round < 3; round += 1) {
    line.cut();
    await statuses.next('the recovery', isOpen);
    names.add(serverNamed);
    await eventually('the consumers', async () =>
      (await channel.queueDeclare(queue, { passive: true })).consumerCount === consumers ? true : undefined,
    );
    await channel.basicPublish(source, 'k', `round ${round}`);
    await messages.next('the message', (message) => text(message) === `round ${round}`);
    await eventually('the copy', async () => await channel.basicGet(serverNamed, { noAck: true }));
  }
  expect(names.size).toBe(3);
  await amqp.close();
});

test('96. what was declared through a handle comes back: server-named queues under a new name, bindings, consumers', async () => {
  await using scratch = await Scratch.open();
  const [source, internal, owned] = [scratch.exchangeName(), scratch.exchangeName(), unique('queue')];
  const { amqp, line, statuses } = await onBroker();
  const renames = new Inbox<readonly [string, string]>();
  amqp.on('queueRenamed', (from, to) => {
    renames.push([from, to]);
  });
  const channel = new AmqpChannel(amqp);
  await channel.exchangeDeclare(source, 'topic', { autoDelete: true });
  await channel.exchangeDeclare(internal, 'fanout', { internal: true, autoDelete: true });
  await channel.exchangeBind(internal, source, 'a.#');
  const served = await channel.queue();
  await served.bind(source, 'x.*');
  await channel.queueDeclare(owned, { exclusive: true, durable: false });
  await channel.queueBind(owned, internal);
  const messages = new Inbox<Message>();
  await channel.basicConsume(served.name, messages.push, { noAck: true, consumerTag: 'served' });
  await channel.basicConsume(owned, messages.push, { noAck: true, consumerTag: 'owned' });
  let known = served.name;
  for (let round = 0; round < 3; round += 1) {
    line.cut();
    await statuses.next('the recovery', isOpen);
    const [from, to] = await renames.next('the new name');
    expect([from, to === known]).toEqual([known, false]);
    known = to;
    const confirmed = (key: string, body: string): Promise<void> =>
      channel.basicPublish(source, key, body, { mandatory: true });
    await confirmed('x.y', `served ${round}`);
    await confirmed('a.b', `owned ${round}`);
    // The name that the broker first gave is still good, for publishing too.
    await served.publish(`by name ${round}`, undefined, undefined, { mandatory: true });
    for (const body of [`served ${round}`, `owned ${round}`, `by name ${round}`]) {
      const tag = body.startsWith('owned') ? 'owned' : 'served';
      const arrived = await eventually(`'${body}'`, () =>
        Promise.resolve(messages.all.find((message) => text(message) === body)),
      );
      expect(arrived.consumerTag).toBe(tag);
    }
  }
  await amqp.close();
});

test('97. what was deleted, unbound or cancelled does not come back', async () => {
  await using scratch = await Scratch.open();
  const [deleted, kept, exchange] = [scratch.queueName(), await scratch.queue(), await scratch.exchange('fanout')];
  const consumed = await scratch.queue();
  const { amqp, line, statuses } = await onBroker();
  const channel = new AmqpChannel(amqp);
  await channel.queueDeclare(deleted);
  await channel.queueDelete(deleted);
  await channel.queueBind(kept, exchange);
  await channel.queueUnbind(kept, exchange);
  await channel.basicCancel(await channel.basicConsume(kept, () => undefined));
  await channel.basicConsume(consumed, () => undefined);
  line.isDown = true;
  line.cut();
  await scratch.hasConsumers(consumed, 0);
  line.isDown = false;
  await statuses.next('the recovery', isOpen);
  // A later consumer is there again: so would be the cancelled one.
  await scratch.hasConsumers(consumed, 1);
  await channel.basicPublish(exchange, '', 'x');
  expect(await scratch.state(deleted)).toBeUndefined();
  expect(await scratch.state(kept)).toMatchObject({ messageCount: 0, consumerCount: 0 });
  await amqp.close();
});

test('97. thousands of auto-deleted queues and exchanges that came and went leave no record behind', async () => {
  await using amqp = new AmqpConnection(brokerUrl, QUICK);
  await amqp.open();
  const channel = new AmqpChannel(amqp);
  const rounds = 500;
  const once = async (): Promise<void> => {
    const [exchange, other] = [unique('exchange'), unique('exchange')];
    await channel.exchangeDeclare(exchange, 'fanout', { autoDelete: true });
    await channel.exchangeDeclare(other, 'fanout', { autoDelete: true });
    await channel.exchangeBind(other, exchange);
    const { queue } = await channel.queueDeclare();
    await channel.queueBind(queue, other);
    expect(amqp.topology.size).toBeGreaterThanOrEqual(5);
    await channel.basicCancel(await channel.basicConsume(queue, () => undefined));
  };
  for (let round = 0; round < rounds; round += 10) await Promise.all(Array.from({ length: 10 }, once));
  expect(amqp.topology.size).toBe(0);
});

test('98. an ack of a message from before the recovery is harmless, and hits no other delivery', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  const { amqp, line } = await onBroker();
  const channel = new AmqpChannel(amqp);
  const messages = new Inbox<Message>();
  await channel.basicConsume(queue, messages.push);
  await scratch.send(queue, 'x');
  const old = await messages.next();
  line.cut();
  const again = await messages.next();
  expect([again.deliveryTag, again.redelivered]).toEqual([old.deliveryTag, true]);
  expect(old.ack()).toBe(false);
  await amqp.close();
  // Nobody has acknowledged it.
  expect(text((await scratch.take(queue)) as unknown as Message)).toBe('x');
});

test('99. a filter says what is declared again, and a binding whose queue vanished gets it back', async () => {
  const peers = new Peers({ recordTopology: (entity) => entity.kind !== 'exchange' });
  const channel = new AmqpChannel(peers.amqp);
  const declaring = (async () => {
    await channel.exchangeDeclare('e', 'fanout');
    await channel.queueDeclare('q', { autoDelete: true });
    await channel.queueBind('q', 'e', 'k');
  })();
  const first = await peers.opened();
  await first.openChannel();
  await first.answer('confirm.select-ok', {});
  await first.answer('exchange.declare-ok', {});
  await first.answer('queue.declare-ok', { queue: 'q', messageCount: 0, consumerCount: 0 });
  await first.answer('queue.bind-ok', {});
  await declaring;
  first.hangUp();
  const second = await peers.opened();
  const declareQueue = async (): Promise<number> => {
    const number = await second.openChannel();
    expect((await second.receive('queue.declare')).args).toMatchObject({ queue: 'q', autoDelete: true });
    second.send(number, 'queue.declare-ok', { queue: 'q', messageCount: 0, consumerCount: 0 });
    await second.receive('channel.close');
    second.send(number, 'channel.close-ok', {});
    return number;
  };
  await declareQueue();
  const gone = await second.openChannel();
  await second.receive('queue.bind');
  second.send(gone, 'channel.close', { replyCode: 404, replyText: "no queue 'q'", classId: 50, methodId: 20 });
  await second.receive('channel.close-ok');
  await declareQueue();
  const number = await second.openChannel();
  expect((await second.receive('queue.bind')).args).toMatchObject({ queue: 'q', exchange: 'e', routingKey: 'k' });
  second.send(number, 'queue.bind-ok', {});
  await second.receive('channel.close');
  second.send(number, 'channel.close-ok', {});
  expect((await within('the recovery', peers.amqp.opened())).isOpen).toBe(true);
  await peers.amqp.close();
});

test('100. a connection whose peer has stopped reading recovers when its writes fail', async () => {
  const peers = new Peers();
  const first = await peers.opened();
  const connection = await peers.amqp.opened();
  const [channel] = await Promise.all([connection.channel(), first.openChannel()]);
  first.pauseReading();
  while (channel.basicPublish('', 'q', Buffer.alloc(100_000)));
  const waiting = failure(channel.drained());
  first.transport.destroy(Object.assign(new Error('write ETIMEDOUT'), { code: 'ETIMEDOUT' }));
  expect(await waiting).toMatchObject({ code: 'CONNECTION_LOST', cause: { code: 'ETIMEDOUT' } });
  await peers.opened();
  expect(await peers.amqp.opened()).not.toBe(connection);
  await peers.amqp.close();
});

/** Ends a transport as a network does, after so many bytes of the broker. */
function cutAfter(transport: Duplex, limit: number): void {
  let left = limit;
  transport.on('data', (chunk: Buffer) => {
    left -= chunk.length;
    if (left <= 0) transport.destroy();
  });
}

test('101. a line that is cut after ever more bytes, at every stage of the dialogue, is survived', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  const line = new CuttableLine();
  const [step, last] = [100, 5_000];
  let limit = 0;
  const dial = async (): Promise<Duplex> => {
    const socket = await line.dial();
    limit += step;
    if (limit < last) cutAfter(socket, limit);
    return socket;
  };
  const amqp = new AmqpConnection(brokerUrl, { dial, ...QUICK });
  const seen = new Set<string>();
  amqp.onSetup(async (connection) => {
    const consumer = await connection.channel();
    await consumer.basicConsume(queue, (message) => {
      seen.add(text(message));
      message.ack();
    });
  });
  amqp.openInBackground();
  const channel = new AmqpChannel(amqp);
  let confirmed = 0;
  for (let number = 0; limit < last || confirmed < 50; number += 1) {
    await channel.basicPublish('', queue, `${number}`).then(
      () => (confirmed += 1),
      () => undefined,
    );
  }
  await channel.basicPublish('', queue, 'the end');
  await eventually('the last message', () => Promise.resolve(seen.has('the end') ? true : undefined));
  expect(line.dialled).toBeGreaterThanOrEqual(last / step);
  await amqp.close();
});

test('102. a queue that another connection holds exclusively is asked for until it is free', async () => {
  const queue = unique('queue');
  const options = { exclusive: true, durable: false };
  const holder = await connect(brokerUrl);
  await (await holder.channel()).queueDeclare(queue, options);
  await using amqp = new AmqpConnection(brokerUrl, QUICK);
  amqp.onSetup(async (connection) => {
    await (await connection.channel()).queueDeclare(queue, options);
  });
  const statuses = new Inbox<ConnectionStatus>();
  amqp.on('status', statuses.push);
  const opening = amqp.open();
  const locked = await statuses.next('a refusal', (status) => status.state === 'connecting' && status.attempt > 2);
  expect(locked).toMatchObject({ lastError: { replyCode: 405 } });
  await holder.close();
  await opening;
});

test('103. two handles on one queue share its life: deleted through one it is gone for both, declared again it is there', async () => {
  await using scratch = await Scratch.open();
  const name = scratch.queueName();
  const { amqp, line, statuses } = await onBroker();
  const channel = new AmqpChannel(amqp);
  const [one, two] = [await channel.queue(name), await channel.queue(name)];
  await one.delete();
  line.cut();
  await statuses.next('the recovery', isOpen);
  expect(await scratch.state(name)).toBeUndefined();
  // A handle is for a name: another declaration revives it.
  await channel.queue(name);
  await two.publish('x');
  expect((await one.get({ noAck: true }))?.message.body.toString()).toBe('x');
  expect((await channel.queue(name, { passive: true })).messageCount).toBe(0);
  await amqp.close();
});

test('104. waits are random up to a bound that doubles to a maximum, and begin anew after a lasting success', () => {
  const sorted = (take: () => number): number[] => Array.from({ length: 500 }, take).sort((a, b) => a - b);
  for (const [failures, bound] of [
    [0, 100],
    [1, 200],
    [4, 1600],
    [20, 30_000],
  ] as const) {
    const waits = sorted(() => {
      const backoff = new Backoff({});
      for (let count = 0; count < failures; count += 1) backoff.next();
      return backoff.next();
    });
    expect(waits[0]).toBeGreaterThanOrEqual(0);
    expect(waits.at(-1)).toBeLessThan(bound);
    // Of 500 random waits one lies in the upper and one in the lower fifth.
    expect([(waits[0] as number) < bound / 5, (waits.at(-1) as number) > (bound * 4) / 5]).toEqual([true, true]);
  }
  const afterSuccess = (stableAfter: number): number =>
    sorted(() => {
      const backoff = new Backoff({ stableAfter });
      for (let count = 0; count < 20; count += 1) backoff.next();
      backoff.succeeded();
      return backoff.next();
    }).at(-1) as number;
  expect(afterSuccess(0)).toBeLessThan(100);
  expect(afterSuccess(60_000)).toBeGreaterThan(10_000);
});

test('105. however many use a handle at once, its channel is set up once, and a publish is sent once a connection', async () => {
  const peers = new Peers();
  const channel = new AmqpChannel(peers.amqp);
  const publishing = channel.basicPublish('', 'q', 'x');
  const rounds = 3;
  for (let round = 1; round <= rounds; round += 1) {
    const peer = await peers.opened();
    const opening = Promise.all(Array.from({ length: 20 }, () => channel.opened()));
    const number = await peer.openChannel();
    await peer.answer('confirm.select-ok', {});
    expect([new Set(await opening).size, number]).toEqual([1, 1]);
    expect((await peer.receive('basic.publish')).body.toString()).toBe('x');
    if (round < rounds) {
      peer.hangUp();
      continue;
    }
    peer.send(number, 'basic.ack', { deliveryTag: 1, multiple: false });
    await publishing;
    const asking = channel.queuePurge('q');
    expect((await peer.answer('queue.purge-ok', { messageCount: 0 })).name).toBe('queue.purge');
    await asking;
  }
  await peers.amqp.close();
});

test('106. counts of what was published, confirmed, returned, delivered and answered go on across recoveries', async () => {
  await using scratch = await Scratch.open();
  const [queue, missing] = [await scratch.queue(), scratch.queueName()];
  const full = await scratch.queue({ arguments: { 'x-max-length': 0, 'x-overflow': 'reject-publish' } });
  const { amqp, line, statuses } = await onBroker();
  const channel = new AmqpChannel(amqp);
  const rounds = 2;
  for (let round = 1; round <= rounds; round += 1) {
    for (const body of ['a', 'b', 'c', 'd']) await channel.basicPublish('', queue, body);
    expect((await failure(channel.basicPublish('', missing, 'x', { mandatory: true }))).code).toBe('UNROUTABLE');
    expect((await failure(channel.basicPublish('', full, 'x'))).code).toBe('PUBLISH_NACKED');
    const take = async (): Promise<Message> => (await channel.basicGet(queue))?.message as Message;
    const [a, b, c] = [await take(), await take(), await take()];
    a.ack();
    b.reject();
    c.nack();
    const loop = channel.consume(queue, { prefetch: 2 });
    for (let count = 0; count < 2; count += 1) ((await loop.next()).value as Message).ack();
    await loop.return();
    expect(amqp.metrics).toMatchObject({
      connections: round,
      published: 6 * round,
      confirmed: 5 * round,
      nacked: round,
      returned: round,
      outcomeUnknown: 0,
      delivered: 5 * round,
      acknowledged: 3 * round,
      rejected: round,
      requeued: round,
    });
    line.cut();
    await statuses.next('the recovery', isOpen);
  }
  expect(amqp.metrics.bytesReceived).toBeGreaterThan(amqp.metrics.bytesSent / 10);
  await amqp.close();
});

test('107. a thousand recoveries leave no listener, timer or memory behind', async () => {
  const peers = new Peers();
  const channel = new AmqpChannel(peers.amqp);
  const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const rounds = 1_000;
  const heap: number[] = [];
  const held: number[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    const peer = await peers.opened();
    const opening = channel.opened();
    await peer.openChannel();
    await peer.answer('confirm.select-ok', {});
    const consuming = (await opening).basicConsume('q', () => undefined, { consumerTag: 'c' });
    await peer.answer('basic.consume-ok', { consumerTag: 'c' });
    await consuming;
    if (round % (rounds / 2) === 0) {
      collectGarbage();
      heap.push(process.memoryUsage().heapUsed);
      held.push(timers(), peers.amqp.listenerCount('status'));
    }
    peer.hangUp();
  }
  const [timersHalfWay = 0, listenersHalfWay, timersAtEnd = 0, listenersAtEnd] = held;
  expect(listenersAtEnd).toBe(listenersHalfWay);
  expect(timersAtEnd).toBeLessThanOrEqual(timersHalfWay + 5);
  const [halfWay = 0, end = 0] = heap;
  expect(end - halfWay).toBeLessThan(100 * 1024 * 1024);
  await peers.amqp.close();
}, 120_000);
