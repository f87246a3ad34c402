/**
 * What many reconnects to the real broker leave behind: nothing. NEST_AMQP_RECONNECTS=1000 makes it more of them; the figures
 * are printed.
 */
import { expect, test } from '@jest/globals';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { Message } from '../../lib/client/message.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { Inbox } from '../support/waits.js';

const ROUNDS = Number(process.env['NEST_AMQP_RECONNECTS'] ?? 200);
/** By then everything has been loaded and compiled. */
const WARM_UP = Math.min(100, ROUNDS / 2);
/** What the engine and the test runner may keep of their own. */
const HEAP_SLACK = 2 * 1024 * 1024;
/** A timer that is set just now is none that a reconnect has left: those would be one for each. */
const RESOURCE_SLACK = ROUNDS / 10;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** What the process holds. */
interface Held {
  readonly heapUsed: number;
  readonly listeners: number;
  /** Timers and sockets that keep the process alive. */
  readonly resources: Readonly<Record<string, number>>;
}

async function held(amqp: AmqpConnection): Promise<Held> {
  // A closed connection lingers for half a second; a turn later its memory is free.
  await new Promise((resolve) => setTimeout(resolve, 600));
  collectGarbage();
  await new Promise((resolve) => setImmediate(resolve));
  collectGarbage();
  const resources: Record<string, number> = {};
  for (const name of process.getActiveResourcesInfo()) resources[name] = (resources[name] ?? 0) + 1;
  const listeners = amqp.eventNames().reduce((count, event) => count + amqp.listenerCount(event), 0);
  return { heapUsed: process.memoryUsage().heapUsed, listeners, resources };
}

test('reconnects leave no memory, listener, timer or socket behind, and consumers and publishers work after each', async () => {
  await using proxy = await TcpProxy.open();
  await using amqp = new AmqpConnection(proxy.urlFor(), { recovery: { initialDelay: 1, maxDelay: 5 } });
  await amqp.open();
  await using channel = new AmqpChannel(amqp);
  const { queue } = await channel.queueDeclare();
  const received = new Inbox<string>();
  await channel.basicConsume(queue, (message: Message) => {
    received.push(message.body.toString());
    message.ack();
  });
  let before: Held | undefined;
  for (let round = 1; round <= ROUNDS + WARM_UP; round += 1) {
    const connection = await amqp.opened();
    const lost = new Promise((resolve) => connection.once('close', resolve));
    for (const line of proxy.lines) line.reset();
    await lost;
    await channel.basicPublish('', queue, String(round), { mandatory: true });
    await received.next('the message of this round', (body) => body === String(round));
    if (round === WARM_UP) before = await held(amqp);
  }
  const after = await held(amqp);
  process.stderr.write(`${ROUNDS} reconnects (${proxy.dialled} dials): ${JSON.stringify({ before, after })}\n`);
  expect(proxy.dialled).toBeGreaterThan(ROUNDS);
  expect(after.listeners).toBe(before?.listeners);
  for (const [name, count] of Object.entries(after.resources)) {
    expect({ name, count: Math.max(0, count - (before?.resources[name] ?? 0) - RESOURCE_SLACK) }).toEqual({
      name,
      count: 0,
    });
  }
  expect(after.heapUsed).toBeLessThan((before?.heapUsed ?? 0) + HEAP_SLACK);
}, 600_000);
