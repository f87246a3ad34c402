/** Many waits for one signal: one listener, and nobody is called who has gone. */
import { expect, test } from '@jest/globals';
import { getEventListeners } from 'node:events';

import { whenFired } from '../../lib/client/signals.js';
import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';

const listeners = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length;

test('all who wait for a signal are called, in order, by one listener that goes with the last of them', () => {
  const controller = new AbortController();
  const { signal } = controller;
  const called: string[] = [];
  const leave = ['a', 'b', 'c'].map((name) => whenFired(signal, () => called.push(name)));
  expect(listeners(signal)).toBe(1);
  leave[1]?.();
  leave[1]?.();
  controller.abort();
  expect(called).toEqual(['a', 'c']);
  leave[0]?.();
  expect(listeners(signal)).toBe(0);
});

test('a signal that nobody waits for any more has no listener, and can be waited for again', () => {
  const controller = new AbortController();
  const { signal } = controller;
  const called: string[] = [];
  whenFired(signal, () => called.push('early'))();
  expect(listeners(signal)).toBe(0);
  whenFired(signal, () => called.push('late'));
  controller.abort();
  expect(called).toEqual(['late']);
});

test('one that is taken back by another as the signal fires is not called', () => {
  const controller = new AbortController();
  const called: string[] = [];
  whenFired(controller.signal, () => {
    called.push('first');
    leave();
  });
  const leave = whenFired(controller.signal, () => called.push('second'));
  controller.abort();
  expect(called).toEqual(['first']);
});

test('publishes that share a signal put one listener on it, and all end with it', async () => {
  const amqp = new AmqpConnection('amqp://broker', { closeTimeout: 0, dial: () => new ScriptedPeer().transport });
  const channel = new AmqpChannel(amqp);
  amqp.openInBackground();
  const controller = new AbortController();
  const { signal } = controller;
  const publishes = Array.from({ length: 20 }, () => channel.basicPublish('', 'q', 'x', { signal }));
  const waits = Array.from({ length: 20 }, () => amqp.opened(signal));
  expect(listeners(signal)).toBe(1);
  controller.abort(new Error('enough'));
  const ends = await Promise.allSettled([...publishes, ...waits]);
  expect(new Set(ends.map(({ status }) => status))).toEqual(new Set(['rejected']));
  expect(listeners(signal)).toBe(0);
  await amqp.close();
});
