/** Publishing: what is sent by default, and how every publish comes to an end. */
import { describe, expect, test } from '@jest/globals';
import { getEventListeners } from 'node:events';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { UnroutableError } from '../../lib/errors.js';
import type { PublishMessageOptions, PublisherOptions } from '../../lib/messaging/publish-options.js';
import { AmqpPublisher } from '../../lib/messaging/publisher.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { failure } from '../support/client.js';
import { brokerUrl } from '../support/broker.mjs';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { within } from '../support/waits.js';

/** A publisher on the test broker, and queues to publish to. */
class Desk implements AsyncDisposable {
  static async open(defaults?: PublisherOptions): Promise<Desk> {
    const connection = new AmqpConnection(brokerUrl);
    await connection.open();
    return new Desk(connection, await Scratch.open(), new AmqpPublisher(new AmqpChannel(connection), defaults));
  }

  constructor(
    readonly connection: AmqpConnection,
    readonly scratch: Scratch,
    readonly publisher: AmqpPublisher,
  ) {}

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection.close();
    await this.scratch[Symbol.asyncDispose]();
  }
}

/** A publisher whose broker is a script. */
class Script implements AsyncDisposable {
  readonly peer = new ScriptedPeer();
  readonly connection = new AmqpConnection('amqp://127.0.0.1', { dial: () => this.peer.transport, closeTimeout: 1 });
  readonly publisher: AmqpPublisher;

  constructor(defaults?: PublisherOptions) {
    this.publisher = new AmqpPublisher(new AmqpChannel(this.connection), defaults);
  }

  static async open(defaults?: PublisherOptions): Promise<Script> {
    const script = new Script(defaults);
    const opened = script.connection.open();
    await script.peer.handshake();
    await opened;
    return script;
  }

  /** Opens the confirm channel that the first publish asks for. */
  async confirming(): Promise<number> {
    const channel = await this.peer.openChannel();
    await this.peer.answer('confirm.select-ok', {});
    return channel;
  }

  /** Has the first publish, and its channel, behind it. */
  async confirmed(): Promise<void> {
    const published = this.publisher.sendToQueue('billing', 'the first', { timeout: '1h' });
    const channel = await this.confirming();
    await this.peer.receive('basic.publish');
    this.peer.send(channel, 'basic.ack', { deliveryTag: 1, multiple: false });
    await within('the first confirm', published);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection.close();
  }
}

describe('a publish', () => {
  test('resolves when the message is in the queue', async () => {
    await using desk = await Desk.open();
    const exchange = await desk.scratch.exchange('topic');
    const queue = await desk.scratch.queue();
    await desk.scratch.bind(queue, exchange, 'order.*');
    await desk.publisher.publish(exchange, 'order.placed', { id: 7 });
    expect(await desk.scratch.state(queue)).toMatchObject({ messageCount: 1 });
    expect(await desk.scratch.take(queue)).toMatchObject({ exchange, routingKey: 'order.placed' });
  });

  test('does not resolve before the broker has confirmed', async () => {
    await using script = await Script.open();
    const { peer, publisher } = script;
    let settled = false;
    const published = publisher.sendToQueue('billing', {}).finally(() => {
      settled = true;
    });
    const channel = await script.confirming();
    await peer.receive('basic.publish');
    // An answer to something later: whatever came before it has arrived.
    const other = publisher.sendToQueue('billing', {});
    await peer.receive('basic.publish');
    peer.send(channel, 'basic.ack', { deliveryTag: 2, multiple: false });
    await within('the second confirm', other);
    expect(settled).toBe(false);
    peer.send(channel, 'basic.ack', { deliveryTag: 1, multiple: false });
    await within('the first confirm', published);
  });

  test('is persistent JSON with a message id and the time, unless told otherwise', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    const before = Math.floor(Date.now() / 1000);
    await desk.publisher.sendToQueue(queue, { id: 7 });
    await desk.publisher.sendToQueue(queue, { id: 8 });
    const first = await desk.scratch.take(queue);
    const second = await desk.scratch.take(queue);
    expect(first.body.toString()).toBe('{"id":7}');
    expect(first.properties).toMatchObject({ deliveryMode: 2, contentType: 'application/json' });
    expect(first.properties.messageId).toMatch(/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/);
    expect(second.properties.messageId).not.toBe(first.properties.messageId);
    expect(first.properties.timestamp).toBeGreaterThanOrEqual(before);
    expect(first.properties.timestamp).toBeLessThanOrEqual(Math.floor(Date.now() / 1000));
    expect(first.properties.expiration).toBeUndefined();
    expect(first.properties.appId).toBeUndefined();
  });

  test('with an option that there is not is refused, and nothing is sent', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    for (const option of ['persistant', 'deliveryMode', 'CC']) {
      const published = desk.publisher.sendToQueue(queue, 1, { [option]: 1 });
      await expect(published).rejects.toMatchObject({ code: 'INVALID_OPTION' });
    }
    expect(await desk.scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('carries the properties that it is given', async () => {
    await using desk = await Desk.open({ appId: 'shop' });
    const queue = await desk.scratch.queue();
    await desk.publisher.sendToQueue(queue, 'x', {
      persistent: false,
      messageId: 'm-1',
      timestamp: 5,
      contentType: 'application/vnd.shop+json',
      priority: 3,
      correlationId: 'c-1',
      replyTo: 'answers',
      type: 'greeting',
      headers: { tenant: 'a' },
      expiration: '1h',
    });
    const { properties } = await desk.scratch.take(queue);
    expect({ ...properties, headers: { ...properties.headers } }).toEqual({
      deliveryMode: 1,
      messageId: 'm-1',
      timestamp: 5,
      contentType: 'application/vnd.shop+json',
      priority: 3,
      correlationId: 'c-1',
      replyTo: 'answers',
      type: 'greeting',
      headers: { tenant: 'a' },
      expiration: '3600000',
      appId: 'shop',
    });
  });

  test('may be told by the publisher not to be persistent', async () => {
    await using desk = await Desk.open({ persistent: false });
    const queue = await desk.scratch.queue();
    await desk.publisher.sendToQueue(queue, 1);
    await desk.publisher.sendToQueue(queue, 2, { persistent: true });
    expect((await desk.scratch.take(queue)).properties.deliveryMode).toBe(1);
    expect((await desk.scratch.take(queue)).properties.deliveryMode).toBe(2);
  });

  test('of bytes sends these bytes', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    await desk.publisher.sendToQueue(queue, new Uint8Array([0, 1, 255]));
    const { body, properties } = await desk.scratch.take(queue);
    expect(body).toEqual(Buffer.from([0, 1, 255]));
    expect(properties.contentType).toBe('application/octet-stream');
  });

  test('may expire after a fraction of a millisecond, which the broker gets as a whole one', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    await desk.publisher.sendToQueue(queue, 1, { expiration: 3_600_000.4 });
    expect((await desk.scratch.take(queue)).properties.expiration).toBe('3600000');
  });

  test('that expires at once does not stay in the queue', async () => {
    await using desk = await Desk.open();
    const { queue, dead } = await desk.scratch.queueWithDeadLetters();
    await desk.publisher.sendToQueue(queue, 1, { expiration: 0 });
    expect((await desk.scratch.take(dead)).body.toString()).toBe('1');
  });
});

describe('a message that reaches no queue', () => {
  test('rejects with UnroutableError, and the next one is not touched', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    const error: unknown = await desk.publisher
      .sendToQueue('test.nobody-declared-this', {})
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(UnroutableError);
    expect(error).toMatchObject({ code: 'UNROUTABLE', replyCode: 312, routingKey: 'test.nobody-declared-this' });
    await desk.publisher.sendToQueue(queue, {});
  });

  test('is nobody’s business with mandatory: false, on the message or on the publisher', async () => {
    await using desk = await Desk.open();
    const exchange = await desk.scratch.exchange('fanout');
    await desk.publisher.publish(exchange, '', {}, { mandatory: false });
    const relaxed = new AmqpPublisher(new AmqpChannel(desk.connection), { mandatory: false });
    await relaxed.publish(exchange, '', {});
    await expect(relaxed.publish(exchange, '', {}, { mandatory: true })).rejects.toMatchObject({ code: 'UNROUTABLE' });
  });

  test.each<[option: string, options: PublishMessageOptions]>([
    ['mandatory', { mandatory: undefined }],
    ['every option', { mandatory: undefined, persistent: undefined, messageId: undefined, timeout: undefined }],
  ])('is an error also when %s is given as undefined', async (_option, options) => {
    await using desk = await Desk.open();
    await expect(desk.publisher.sendToQueue('test.nobody-declared-this', {}, options)).rejects.toMatchObject({
      code: 'UNROUTABLE',
    });
  });
});

test.each<[options: unknown, said: string]>([
  [null, 'have to be an object, not null'],
  [5, 'have to be an object, not 5'],
  [{ persistent: 'yes' }, "persistent of a publish is 'yes'"],
  [{ signal: {} }, 'signal of a publish is {}; give it an AbortSignal'],
  [{ timout: 5 }, "has no option 'timout'. Known are persistent, "],
  [{ deliveryMode: 2 }, "has no option 'deliveryMode'. Say persistent: true or false."],
])('options that are none are refused before anything is sent: %j', async (options, said) => {
  await using desk = await Desk.open();
  const queue = await desk.scratch.queue();
  const error = await failure(desk.publisher.sendToQueue(queue, {}, options as PublishMessageOptions));
  expect(error.code).toBe('INVALID_OPTION');
  expect(error.message).toContain(said);
  expect(await desk.scratch.state(queue)).toMatchObject({ messageCount: 0 });
});

test('a property given as undefined is a property not given', async () => {
  await using desk = await Desk.open();
  const queue = await desk.scratch.queue();
  await desk.publisher.sendToQueue(queue, {}, { contentType: undefined, messageId: undefined, timestamp: undefined });
  const { properties } = await desk.scratch.take(queue);
  expect(properties.contentType).toBe('application/json');
  expect(properties.messageId).toMatch(/-/);
  expect(properties.timestamp).toBeGreaterThan(0);
});

describe('a publish that fails', () => {
  test('because the exchange is not there tells so, and the publisher goes on', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    const failed = desk.publisher.publish('test.no-such-exchange', 'k', {});
    await expect(failed).rejects.toMatchObject({ code: 'PUBLISH_REFUSED', replyCode: 404 });
    await desk.publisher.sendToQueue(queue, {});
    expect(desk.connection.status.state).toBe('open');
  });

  test('because the queue is full rejects with PublishNackedError', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue({ arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
    await desk.publisher.sendToQueue(queue, 1);
    await expect(desk.publisher.sendToQueue(queue, 2)).rejects.toMatchObject({ code: 'PUBLISH_NACKED' });
  });

  test('because the payload is no JSON sends nothing, and the publisher goes on', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    await expect(desk.publisher.sendToQueue(queue, { amount: 10n })).rejects.toMatchObject({ code: 'UNSERIALIZABLE' });
    await expect(desk.publisher.sendToQueue(queue, undefined)).rejects.toMatchObject({ code: 'UNSERIALIZABLE' });
    await desk.publisher.sendToQueue(queue, 'after');
    expect((await desk.scratch.take(queue)).body.toString()).toBe('"after"');
    expect(await desk.scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('because a property has no bytes on the wire sends nothing, and the publisher goes on', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    const failed = desk.publisher.sendToQueue(queue, 1, { messageId: 'x'.repeat(256) });
    await expect(failed).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(desk.publisher.publish('x'.repeat(256), '', 1)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await desk.publisher.sendToQueue(queue, 'after');
    expect((await desk.scratch.take(queue)).body.toString()).toBe('"after"');
  });

  test('because a duration is none names the option', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    const options = { expiration: 'soon' as '1s' };
    await expect(desk.publisher.sendToQueue(queue, 1, options)).rejects.toThrow('expiration is soon');
    await expect(desk.publisher.sendToQueue(queue, 1, { timeout: -1 })).rejects.toThrow('timeout is -1');
    expect(() => new AmqpPublisher(new AmqpChannel(desk.connection), { timeout: Number.NaN })).toThrow(
      'publisher.timeout',
    );
  });
});

describe('the wait for a confirm ends', () => {
  test('at the timeout of the publisher, as ABORTED', async () => {
    await using script = await Script.open({ timeout: 40 });
    const { peer, publisher } = script;
    await script.confirmed();
    const published = publisher.publish('orders', 'order.placed', {});
    const ended = expect(published).rejects.toMatchObject({ code: 'ABORTED' });
    await peer.receive('basic.publish');
    await within('the end of the wait', ended);
    await expect(published).rejects.toThrow(
      "'orders' with routing key 'order.placed' ended before the broker confirmed it: it took longer than",
    );
  });

  test('at the timeout of the message, which wins', async () => {
    await using script = await Script.open({ timeout: '1h' });
    const { peer, publisher } = script;
    await script.confirmed();
    const published = publisher.sendToQueue('billing', {}, { timeout: '40ms' });
    const ended = expect(published).rejects.toThrow('40 ms');
    await peer.receive('basic.publish');
    await within('the end of the wait', ended);
  });

  test('when the caller aborts, with its reason as the cause; a late confirm is harmless', async () => {
    await using script = await Script.open();
    const { peer, publisher } = script;
    const caller = new AbortController();
    const reason = new Error('the request is gone');
    const published = publisher.sendToQueue('billing', {}, { signal: caller.signal });
    const ended = expect(published).rejects.toMatchObject({ code: 'ABORTED', cause: reason });
    const channel = await script.confirming();
    await peer.receive('basic.publish');
    caller.abort(reason);
    await within('the end of the wait', ended);
    expect(getEventListeners(caller.signal, 'abort')).toEqual([]);

    peer.send(channel, 'basic.ack', { deliveryTag: 1, multiple: false });
    const next = publisher.sendToQueue('billing', {});
    await peer.receive('basic.publish');
    peer.send(channel, 'basic.ack', { deliveryTag: 2, multiple: false });
    await within('the next confirm', next);
  });

  test('at once when the caller had aborted before, and nothing is sent', async () => {
    await using desk = await Desk.open();
    const queue = await desk.scratch.queue();
    const published = desk.publisher.sendToQueue(queue, 1, { signal: AbortSignal.abort() });
    await expect(published).rejects.toMatchObject({ code: 'ABORTED' });
    await desk.publisher.sendToQueue(queue, 2);
    expect((await desk.scratch.take(queue)).body.toString()).toBe('2');
    expect(await desk.scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('while there is no connection, and what was given up is not sent when there is one', async () => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const line = new CuttableLine();
    // Nothing is dialled before open().
    await using connection = new AmqpConnection(brokerUrl, { dial: line.dial });
    const publisher = new AmqpPublisher(new AmqpChannel(connection));
    const caller = new AbortController();
    const late = publisher.sendToQueue(queue, 'too late', { timeout: 20 });
    const aborted = publisher.sendToQueue(queue, 'aborted', { signal: caller.signal });
    const kept = publisher.sendToQueue(queue, 'kept');
    caller.abort();
    await expect(within('the end of the wait', late)).rejects.toMatchObject({ code: 'ABORTED' });
    await expect(within('the end of the wait', aborted)).rejects.toMatchObject({ code: 'ABORTED' });

    await connection.open();
    await within('the publish that waited', kept);
    expect((await scratch.take(queue)).body.toString()).toBe('"kept"');
    expect(await scratch.state(queue)).toMatchObject({ messageCount: 0 });
  });

  test('when the connection is closed for good', async () => {
    const connection = new AmqpConnection(brokerUrl);
    const publisher = new AmqpPublisher(new AmqpChannel(connection));
    const published = publisher.sendToQueue('billing', {});
    const ended = expect(published).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' });
    await connection.close();
    await within('the end of the wait', ended);
  });
});

test('a publish that was lost with its connection does not stop the publisher: the next one waits for the next connection', async () => {
  await using scratch = await Scratch.open();
  const queue = await scratch.queue();
  const line = new CuttableLine();
  await using connection = new AmqpConnection(brokerUrl, { dial: line.dial });
  await connection.open();
  const publisher = new AmqpPublisher(new AmqpChannel(connection));
  await publisher.sendToQueue(queue, 1);
  line.cut();
  const results = await within(
    'the end of both',
    Promise.allSettled([publisher.sendToQueue(queue, 2), publisher.sendToQueue(queue, 3)]),
  );
  for (const result of results) {
    if (result.status === 'rejected')
      expect(result.reason).toMatchObject({ code: expect.stringMatching(/UNKNOWN|LOST/) });
  }
  await within('a publish on the next connection', publisher.sendToQueue(queue, 4));
  expect(line.dialled).toBe(2);
});
