/** What connection and channel tell as Observables. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { AmqpChannel, AmqpConnection, AmqpModule, type Message } from 'nest-amqp';
import { firstValueFrom, lastValueFrom, map, take, tap, toArray } from 'rxjs';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { CuttableLine, Scratch } from '../support/scratch.js';
import { Inbox, within } from '../support/waits.js';

let scratch: Scratch;
let line: CuttableLine;
let app: TestApp;

beforeEach(async () => {
  scratch = await Scratch.open();
  line = new CuttableLine();
  const connection = { dial: line.dial, recovery: { initialDelay: 1, maxDelay: 20 } };
  app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl, connection })] });
});

afterEach(async () => {
  await app.close();
  await scratch[Symbol.asyncDispose]();
});

test('status$ has the present status and every change, and completes with the connection', async () => {
  const connection = app.get(AmqpConnection);
  const states = new Inbox<string>();
  const all = lastValueFrom(
    connection.status$.pipe(
      map(({ state }) => state),
      tap(states.push),
      toArray(),
    ),
  );
  expect(await states.next()).toBe('open');
  line.cut();
  await states.next('the loss', (state) => state === 'connecting');
  await states.next('the recovery', (state) => state === 'open');
  const listeners = connection.listenerCount('status');
  const other = connection.status$.subscribe();
  other.unsubscribe();
  expect(connection.listenerCount('status')).toBe(listeners);
  await app.close();
  expect((await within('the end', all)).at(-1)).toBe('closed');
  expect((await firstValueFrom(connection.status$)).state).toBe('closed');
});

test('deliveries$ hands out no more than prefetch unanswered messages, and goes on after a reconnect', async () => {
  const queue = await scratch.queue();
  for (let n = 0; n < 4; n += 1) await scratch.sendJson(queue, n);
  const got = new Inbox<Message>();
  const subscription = app.get(AmqpChannel).deliveries$(queue, { prefetch: 2 }).subscribe(got.push);
  const first = await got.next();
  await got.next();
  await scratch.hasMessages(queue, 2);
  first.ack();
  expect((await got.next()).text).toBe('2');
  line.cut();
  const again = await got.next('what was not answered', ({ text, redelivered }) => redelivered && text === '1');
  again.ack();
  subscription.unsubscribe();
  await scratch.hasConsumers(queue, 0);
});

test('deliveries$ that is unsubscribed from gives back what it has not handed out; what it has can be answered', async () => {
  const queue = await scratch.queue();
  for (let n = 0; n < 5; n += 1) await scratch.sendJson(queue, n);
  const messages = await lastValueFrom(app.get(AmqpChannel).deliveries$(queue).pipe(take(2), toArray()));
  await scratch.hasConsumers(queue, 0);
  await scratch.hasMessages(queue, 3);
  for (const message of messages) expect(message.ack()).toBe(true);
  await app.close();
  expect(await scratch.drain(queue)).toEqual(['2', '3', '4']);
});

test('deliveries$ fails where its queue is missing, and completes when that is deleted', async () => {
  const channel = app.get(AmqpChannel);
  const missing = lastValueFrom(channel.deliveries$(scratch.queueName()));
  expect(await failure(missing)).toMatchObject({ replyCode: 404 });
  const queue = await scratch.queue();
  const ended = lastValueFrom(channel.deliveries$(queue), { defaultValue: 'ended' });
  await scratch.hasConsumers(queue, 1);
  await scratch.delete(queue);
  expect(await within('the end', ended)).toBe('ended');
});
