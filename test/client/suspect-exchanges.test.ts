/** Publishes to exchanges that are not there, or not open: each is told so, and nothing else is harmed, however many there are. */
import { describe, expect, test } from '@jest/globals';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { RepublishOptions } from '../../lib/client/republish-options.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { within } from '../support/waits.js';

/** A handle whose broker is the test. */
class Bench implements AsyncDisposable {
  readonly peer = new ScriptedPeer();
  readonly amqp = new AmqpConnection('amqp://broker', { closeTimeout: 0, dial: () => this.peer.transport });
  readonly channel: AmqpChannel;
  /** How the publishes ended, by their bodies. */
  readonly fates: Record<string, string> = {};

  constructor(options?: RepublishOptions) {
    this.channel = new AmqpChannel(this.amqp, options);
    this.amqp.openInBackground();
  }

  publish(exchange: string, routingKey: string, body: string): Promise<unknown> {
    return this.channel.basicPublish(exchange, routingKey, body).then(
      () => (this.fates[body] = 'confirmed'),
      (error: unknown) => (this.fates[body] = (error as { code: string }).code),
    );
  }

  async opensChannel(): Promise<number> {
    const number = await this.peer.openChannel();
    await this.peer.answer('confirm.select-ok', {});
    return number;
  }

  /** The next publishes, with the channels that they come over. */
  async sends(count: number): Promise<string[]> {
    const sent: string[] = [];
    while (sent.length < count) {
      const { channel, body } = await this.peer.receive('basic.publish');
      sent.push(`${channel}: ${body.toString()}`);
    }
    return sent;
  }

  confirm(channel: number, deliveryTag: number): void {
    this.peer.send(channel, 'basic.ack', { deliveryTag, multiple: true });
  }

  async refuse(channel: number, replyText: string): Promise<void> {
    const replyCode = replyText.startsWith('NOT_FOUND') ? 404 : 403;
    this.peer.send(channel, 'channel.close', { replyCode, replyText, classId: 60, methodId: 40 });
    await this.peer.receive('channel.close-ok');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.amqp.close();
  }
}

const GONE = "NOT_FOUND - no exchange 'gone' in vhost '/'";

describe('of several to a missing exchange', () => {
  test('every one is refused alike, naming it, and what went elsewhere arrives once and in order', async () => {
    await using scratch = await Scratch.open();
    const [queue, missing] = [await scratch.queue(), scratch.exchangeName()];
    await using amqp = new AmqpConnection(brokerUrl);
    await amqp.open();
    const channel = new AmqpChannel(amqp);
    await channel.opened();
    const good: Promise<void>[] = [];
    const bad: ReturnType<typeof failure>[] = [];
    for (let index = 0; index < 50; index += 1) {
      good.push(channel.basicPublish('', queue, String(index)));
      bad.push(failure(channel.basicPublish(missing, 'key', 'lost')));
    }
    const errors = await Promise.all(bad);
    for (const error of errors) {
      expect(error).toMatchObject({ name: 'PublishRefusedError', code: 'PUBLISH_REFUSED', replyCode: 404 });
      expect(error.message).toBe(errors[0]?.message);
    }
    expect(errors[0]?.message).toBe(
      `The broker refused the message to exchange '${missing}' with routing key 'key'; it is not stored, unless the broker took it a ` +
        `moment before it began to refuse. ${(errors[0]?.cause as Error).message}`,
    );
    await within('the others', Promise.all(good));
    const arrived = (await scratch.drain(queue)).map(Number);
    expect(arrived.filter((number, index) => arrived.indexOf(number) === index)).toEqual([...good.keys()]);
    // The first was taken, and not yet confirmed, when the second had the channel closed.
    expect(arrived.length).toBeLessThanOrEqual(51);
  });

  test('that never end, the others are sent again once: the broker closes their channel no more', async () => {
    await using scratch = await Scratch.open();
    const [queue, missing] = [await scratch.queue(), scratch.exchangeName()];
    await using amqp = new AmqpConnection(brokerUrl);
    await amqp.open();
    const channel = new AmqpChannel(amqp);
    let isOver = false;
    const codes = new Set<string>();
    const insist = async (): Promise<void> => {
      while (!isOver) codes.add((await failure(channel.basicPublish(missing, 'key', 'lost'))).code);
    };
    const insisting = Array.from({ length: 8 }, insist);
    await failure(channel.basicPublish(missing, 'key', 'lost'));
    for (let index = 0; index < 100; index += 1)
      await channel.basicPublish('', queue, String(index), { deliveryMode: 2 });
    isOver = true;
    await within('the end of the others', Promise.all(insisting));
    expect([...codes]).toEqual(['PUBLISH_REFUSED']);
    expect((await scratch.drain(queue)).map(Number)).toEqual(Array.from({ length: 100 }, (_, index) => index));
  });

  test('is taken as soon as somebody declares it', async () => {
    await using scratch = await Scratch.open();
    const exchange = scratch.exchangeName();
    await using amqp = new AmqpConnection(brokerUrl);
    await amqp.open();
    const channel = new AmqpChannel(amqp);
    for (let index = 0; index < 3; index += 1) {
      expect((await failure(channel.basicPublish(exchange, 'key', 'lost'))).code).toBe('PUBLISH_REFUSED');
    }
    await channel.exchangeDeclare(exchange, 'fanout', { autoDelete: true });
    const { queue } = await channel.queueDeclare();
    await channel.queueBind(queue, exchange);
    await within(
      'the publishes',
      Promise.all(['a', 'b', 'c'].map((body) => channel.basicPublish(exchange, 'k', body))),
    );
    const got: string[] = [];
    for await (const { text } of channel.consume(queue, { noAck: true })) if (got.push(text) === 3) break;
    expect(got).toEqual(['a', 'b', 'c']);
  });
});

describe('what is published to an exchange that was refused', () => {
  test('goes apart, one at a time, while the rest goes on; once it is taken it goes the usual way, in order', async () => {
    await using bench = new Bench();
    await bench.peer.handshake();
    const first = bench.publish('gone', 'k', 'x1');
    const usual = await bench.opensChannel();
    expect(await bench.sends(1)).toEqual(['1: x1']);
    await bench.refuse(usual, GONE);
    await first;

    const published = ['x2', 'x3'].map((body) => bench.publish('gone', 'k', body));
    const good = bench.publish('', 'q', 'good');
    const again = await bench.opensChannel();
    expect(await bench.sends(1)).toEqual([`${again}: good`]);
    const apart = await bench.opensChannel();
    expect(await bench.sends(1)).toEqual([`${apart}: x2`]);
    // It was published after the scout had left: the refusal says nothing of it.
    published.push(bench.publish('gone', 'k', 'x4'));
    await bench.refuse(apart, GONE);
    await within('the refused ones', Promise.all(published.slice(0, 2)));
    expect(bench.fates).toEqual({ x1: 'PUBLISH_REFUSED', x2: 'PUBLISH_REFUSED', x3: 'PUBLISH_REFUSED' });

    bench.confirm(again, 1);
    await within('the good one', good);
    const next = await bench.opensChannel();
    expect(await bench.sends(1)).toEqual([`${next}: x4`]);
    published.push(bench.publish('gone', 'k', 'x5'), bench.publish('gone', 'k', 'x6'));
    bench.confirm(next, 1);
    // Nobody is a suspect any more, and the channel apart has done its work.
    expect((await bench.peer.receive('channel.close')).channel).toBe(next);
    expect(await bench.sends(2)).toEqual([`${again}: x5`, `${again}: x6`]);
    bench.confirm(again, 3);
    await within('the rest', Promise.all(published));
    expect(bench.fates).toMatchObject({ x4: 'confirmed', x5: 'confirmed', x6: 'confirmed' });
  });

  test('is given up at its deadline while it waits', async () => {
    await using bench = new Bench();
    await bench.peer.handshake();
    const first = bench.publish('gone', 'k', 'x1');
    const usual = await bench.opensChannel();
    await bench.sends(1);
    await bench.refuse(usual, GONE);
    await first;
    const giveUp = new AbortController();
    const second = failure(bench.channel.basicPublish('gone', 'k', 'x2', { signal: giveUp.signal }));
    await bench.peer.receive('channel.open');
    giveUp.abort();
    expect((await second).message).toContain('The message was not sent.');
  });
});

test('a user who may not write to the default exchange is told so, once: nothing is sent for ever', async () => {
  await using bench = new Bench();
  await bench.peer.handshake();
  const published = [bench.publish('', 'q', 'a'), bench.publish('orders', 'k', 'b')];
  const number = await bench.opensChannel();
  await bench.sends(2);
  await bench.refuse(number, "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'shop'");
  await within('the refused one', published[0] as Promise<unknown>);
  const again = await bench.opensChannel();
  expect(await bench.sends(1)).toEqual([`${again}: b`]);
  bench.confirm(again, 1);
  await within('the other one', Promise.all(published));
  expect(bench.fates).toEqual({ a: 'PUBLISH_REFUSED', b: 'confirmed' });
});

test('a user who may not write to a topic is refused that topic, and nothing else of its exchange', async () => {
  await using bench = new Bench();
  await bench.peer.handshake();
  const published = [bench.publish('orders', 'paid', 'a'), bench.publish('orders', 'placed', 'b')];
  const number = await bench.opensChannel();
  await bench.sends(2);
  await bench.refuse(
    number,
    "ACCESS_REFUSED - access to topic 'paid' in exchange topic 'orders' in vhost '/' refused for user 'shop'",
  );
  const again = await bench.opensChannel();
  expect(await bench.sends(1)).toEqual([`${again}: b`]);
  published.push(bench.publish('orders', 'placed', 'c'));
  expect(await bench.sends(1)).toEqual([`${again}: c`]);
  bench.confirm(again, 2);
  await within('all of them', Promise.all(published));
  expect(bench.fates).toEqual({ a: 'PUBLISH_REFUSED', b: 'confirmed', c: 'confirmed' });
});

test('a channel that is closed over an exchange that nobody published to has each sent again alone', async () => {
  await using bench = new Bench();
  await bench.peer.handshake();
  const published = [bench.publish('one', 'k', 'a'), bench.publish('two', 'k', 'b')];
  const number = await bench.opensChannel();
  await bench.sends(2);
  await bench.refuse(number, GONE);
  const again = await bench.opensChannel();
  for (const [index, body] of ['a', 'b'].entries()) {
    expect(await bench.sends(1)).toEqual([`${again}: ${body}`]);
    bench.confirm(again, index + 1);
  }
  await within('both of them', Promise.all(published));
  expect(bench.fates).toEqual({ a: 'confirmed', b: 'confirmed' });
});

test('without republishing the others end as unknown, and those to the missing exchange as refused', async () => {
  await using bench = new Bench({ republish: false });
  await bench.peer.handshake();
  const published = [bench.publish('gone', 'k', 'a'), bench.publish('', 'q', 'b'), bench.publish('gone', 'k', 'c')];
  const number = await bench.opensChannel();
  await bench.sends(3);
  await bench.refuse(number, GONE);
  await within('all of them', Promise.all(published));
  expect(bench.fates).toEqual({ a: 'PUBLISH_REFUSED', b: 'PUBLISH_OUTCOME_UNKNOWN', c: 'PUBLISH_REFUSED' });
});
