/** Requests whose server fails, answers nonsense or comes too late: the caller learns of it, and of nothing else suffers anybody. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AmqpConnection, AmqpModule, AmqpRpcClient, Consume, type Delivery } from 'nest-amqp';

import { connect } from '../../../lib/client/connection.js';
import type { Message } from '../../../lib/client/message.js';
import { brokerUrl } from '../../support/broker.mjs';
import { failure } from '../../support/client.js';
import { TestApp } from '../../support/nest-app.js';
import { CuttableLine, Scratch } from '../../support/scratch.js';
import { Gate, Inbox } from '../../support/waits.js';

let scratch: Scratch;
let queue: string;

beforeEach(async () => {
  scratch = await Scratch.open();
  queue = await scratch.queue();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

test('e7: what a server throws is rethrown to its caller, and its handler runs once (golevelup: 15,520 calls a second, and the caller times out)', async () => {
  let calls = 0;
  class Prices {
    @Consume(queue)
    price(): never {
      calls += 1;
      throw new RangeError('no such article');
    }
  }
  const app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Prices] });
  const error = await failure(app.get(AmqpRpcClient).requestToQueue(queue, { sku: 7 }));
  expect(error).toMatchObject({
    code: 'REMOTE_ERROR',
    remote: { name: 'RangeError', message: 'no such article' },
  });
  await app.close();
  expect(calls).toBe(1);
  await scratch.hasMessages(queue, 0);
});

test('e4: a reply that cannot be read hurts its own request (golevelup: the connection dies)', async () => {
  const line = new CuttableLine();
  await using app = await TestApp.boot({
    imports: [AmqpModule.forRoot({ url: brokerUrl, connection: { dial: line.dial } })],
  });
  await using server = await connect(brokerUrl);
  const channel = await server.channel();
  await channel.basicConsume(queue, (message: Message) => {
    const { replyTo = '', correlationId = '' } = message.properties;
    const contentType = 'application/json';
    // Nobody's, then one that is no JSON, then one as it should be.
    if (message.text === '"broken"') {
      void channel.basicPublish('', replyTo, 'for nobody', { contentType });
      void channel.basicPublish('', replyTo, '{', { contentType, correlationId });
    } else {
      void channel.basicPublish('', replyTo, '7', { contentType, correlationId });
    }
    message.ack();
  });
  const rpc = app.get(AmqpRpcClient);
  const [broken, sound] = [failure(rpc.requestToQueue(queue, 'broken')), rpc.requestToQueue(queue, 'sound')];
  expect(await broken).toMatchObject({ code: 'UNDECODABLE' });
  expect(await sound).toBe(7);
  const { dialled } = line;
  expect(await rpc.requestToQueue(queue, 'sound')).toBe(7);
  expect(line.dialled).toBe(dialled);
});

test('e1: a request that nobody awaits any more is not carried out (golevelup: it runs later)', async () => {
  const got = new Inbox<unknown>();
  class Prices {
    @Consume(queue)
    price(payload: unknown): void {
      got.push(payload);
    }
  }
  const caller = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })] });
  expect(await failure(caller.get(AmqpRpcClient).requestToQueue(queue, 'late', { timeout: 20 }))).toMatchObject({
    code: 'REPLY_TIMEOUT',
  });
  await caller.close();
  // What did leave has arrived with the end of its connection, and waits as long as it was to.
  await scratch.hasMessages(queue, 0);
  await using _server = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Prices] });
  await scratch.sendJson(queue, 'in time');
  expect(await got.next()).toBe('in time');
});

test('e18: handlers reply to any queue, and need no reply queue of their own (golevelup: without direct reply-to no handler is there)', async () => {
  const replies = await scratch.queue();
  class Prices {
    @Consume(queue)
    price(payload: unknown, delivery: Delivery): unknown {
      return { payload, replyTo: delivery.properties.replyTo };
    }
  }
  await using _app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })], providers: [Prices] });
  await scratch.sendJson(queue, 7, { replyTo: replies, correlationId: 'c-7' });
  const { body, properties } = await scratch.take(replies);
  expect(JSON.parse(body.toString())).toEqual({ payload: 7, replyTo: replies });
  expect(properties.correlationId).toBe('c-7');
});

test('e17: a connection lost while a request is answered ends neither process nor request (golevelup: the process exits)', async () => {
  const line = new CuttableLine();
  const gate = new Gate();
  const got = new Inbox<boolean>();
  class Prices {
    @Consume(queue)
    async price(payload: unknown, { redelivered }: Delivery): Promise<unknown> {
      got.push(redelivered);
      if (!redelivered) await gate.opened;
      return payload;
    }
  }
  const connection = { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } };
  await using server = await TestApp.boot({
    imports: [AmqpModule.forRoot({ url: brokerUrl, connection })],
    providers: [Prices],
  });
  await using caller = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl })] });
  const reply = caller.get(AmqpRpcClient).requestToQueue(queue, 7);
  expect(await got.next()).toBe(false);
  line.cut();
  expect(await got.next()).toBe(true);
  expect(await reply).toBe(7);
  // What the first one returns now goes nowhere, and hurts nobody.
  gate.open();
  await caller
    .get(AmqpRpcClient)
    .requestToQueue(queue, 8, { timeout: '10s' })
    .catch(() => undefined);
  expect(server.get(AmqpConnection).status.state).toBe('open');
});
