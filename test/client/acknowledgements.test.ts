/** Which deliveries an acknowledgement reaches when others are given back, taken back or answered by tag meanwhile. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import type { Channel } from '../../lib/client/channel.js';
import type { Message } from '../../lib/client/message.js';
import { Bench, consuming, deliver, headerFrame, text } from '../conformance/bench.js';
import { frameOf } from '../support/client.js';
import { Inbox, within } from '../support/waits.js';

describe('on the real broker', () => {
  let bench: Bench;
  let channel: Channel;

  beforeEach(async () => {
    bench = await Bench.open();
    ({ channel } = bench);
  });

  afterEach(async () => {
    await bench[Symbol.asyncDispose]();
  });

  /** What a consumer of a queue with these messages gets. */
  async function consumerOf(...bodies: string[]): Promise<{ queue: string; messages: Inbox<Message> }> {
    const queue = await bench.queueWith(...bodies);
    const messages = new Inbox<Message>();
    await channel.basicConsume(queue, messages.push);
    for (const body of bodies) expect(text(await messages.next())).toBe(body);
    return { queue, messages };
  }

  /** Rejects when the broker has closed the channel over what was said before. */
  async function channelIsUnhurt(queue: string): Promise<void> {
    await channel.queueDeclare(queue, { passive: true });
    expect(channel.isOpen).toBe(true);
  }

  test('the ack of a message that basicRecover gave back is not sent, and the redelivered one is still to be answered', async () => {
    const { queue, messages } = await consumerOf('a', 'b');
    await channel.basicRecover();
    const again = [await messages.next(), await messages.next()];
    expect(messages.all.slice(0, 2).map((message) => message.ack())).toEqual([false, false]);
    await channelIsUnhurt(queue);
    expect(again.map((message) => message.ack())).toEqual([true, true]);
    await within('all settled', channel.allSettled());
    await channelIsUnhurt(queue);
  });

  test('basicRecoverAsync leaves only what is redelivered to be answered', async () => {
    const { messages } = await consumerOf('a');
    channel.basicRecoverAsync();
    const again = await messages.next();
    expect(again.redelivered).toBe(true);
    expect(again.ack()).toBe(true);
    await within('all settled', channel.allSettled());
  });

  test('the ack of a message that basicAck with multiple has answered is not sent', async () => {
    const { queue, messages } = await consumerOf('a', 'b', 'c', 'd');
    channel.basicAck(2, { multiple: true });
    const [first, second, third, fourth] = messages.all;
    expect(third?.ack()).toBe(true);
    // The ack of the third is said before those: what is outstanding is the fourth alone.
    await channelIsUnhurt(queue);
    expect([first?.ack(), second?.ack()]).toEqual([false, false]);
    await channelIsUnhurt(queue);
    expect(fourth?.ack()).toBe(true);
  });

  test('acknowledgements of a transaction do not cover those that a rollback took back', async () => {
    const queue = await bench.scratch.queue();
    for (const body of ['1', '2', '3', '4']) await bench.scratch.send(queue, body);
    const takeTwo = async (): Promise<void> => {
      for (let taken = 0; taken < 2; taken += 1) (await channel.basicGet(queue))?.message.ack();
    };
    await channel.txSelect();
    await takeTwo();
    await channel.txRollback();
    await takeTwo();
    await channel.txCommit();
    await channel.close();
    await bench.scratch.hasMessages(queue, 2);
    expect(await bench.scratch.drain(queue)).toEqual(['1', '2']);
  });
});

describe('as the peer hears them', () => {
  test('acks of a consumer do not cover the message of a basicGet that came in the same chunk', async () => {
    const { peer, connection, channel } = await consuming((message) => message.ack());
    const getting = channel.basicGet('g');
    await peer.receive('basic.get');
    peer.sendRaw(
      Buffer.concat([
        frameOf(1, 'basic.get-ok', {
          deliveryTag: 1,
          redelivered: false,
          exchange: '',
          routingKey: 'g',
          messageCount: 0,
        }),
        headerFrame(1, 0n),
        frameOf(1, 'basic.deliver', deliver(2)),
        headerFrame(1, 0n),
        frameOf(1, 'basic.deliver', deliver(3)),
        headerFrame(1, 0n),
      ]),
    );
    const got = await getting;
    for (const deliveryTag of [2, 3]) {
      expect((await peer.receive('basic.ack')).args).toEqual({ deliveryTag, multiple: false });
    }
    expect(got?.message.settled).toBe(false);
    expect(got?.message.ack()).toBe(true);
    expect((await peer.receive('basic.ack')).args).toEqual({ deliveryTag: 1, multiple: false });
    await connection.close();
  });

  test('basicAck with multiple settles all deliveries up to its tag, also after one to nobody', async () => {
    const messages = new Inbox<Message>();
    const { peer, connection, channel } = await consuming(messages.push);
    peer.sendContent(1, 'basic.deliver', { ...deliver(1), consumerTag: 'nobody' }, {}, '');
    peer.sendContent(1, 'basic.deliver', deliver(2), {}, '');
    peer.sendContent(1, 'basic.deliver', deliver(3), {}, '');
    await messages.next();
    await messages.next();
    channel.basicAck(3, { multiple: true });
    await within('all settled', channel.allSettled());
    await connection.close();
  });
});
