/** Queues at work: who gets which message when, what comes back where, and what limits and times do. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import type { MessageQueue, QueueDelivery } from '../../lib/broker/message-queue.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import { answer, Engine, Taker } from './engine.js';

/** Publishes each letter as a message to the queue. */
function fill(engine: Engine, queue: string, letters: string): void {
  for (const letter of letters) engine.publish('', queue, letter);
}

/** Takes `count` messages without settling them. */
function hold(engine: Engine, queue: string, count: number): QueueDelivery[] {
  const from = engine.queue(queue, {}, { passive: true });
  return Array.from({ length: count }, () => from.get({ noAck: false }) as QueueDelivery);
}

describe('consumers', () => {
  test('get a message within the call that publishes it', () => {
    const engine = new Engine();
    const taker = new Taker();
    engine.queue('q').subscribe(taker);
    expect(engine.publish('', 'q', 'a')).toBe('routed');
    expect(taker.bodies).toEqual(['a']);
  });

  test('take turns, as far as they have room', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    const [first, second, third] = [new Taker(), new Taker({ prefetch: 1 }), new Taker()];
    for (const taker of [first, second, third]) queue.subscribe(taker);
    fill(engine, 'q', 'abcdef');
    expect([first, second, third].map(({ bodies }) => bodies.join(''))).toEqual(['adf', 'b', 'ce']);
    second.settle(0, 'ack');
    fill(engine, 'q', 'ghi');
    expect([first, second, third].map(({ bodies }) => bodies.length)).toEqual([4, 2, 3]);
  });

  test('of a higher priority come first, until they have no room', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    const low = new Taker();
    const high = new Taker({ priority: 10, prefetch: 2 });
    queue.subscribe(low);
    queue.subscribe(high);
    fill(engine, 'q', 'abcd');
    expect([low.bodies, high.bodies]).toEqual([
      ['c', 'd'],
      ['a', 'b'],
    ]);
    high.settle(0, 'ack');
    fill(engine, 'q', 'e');
    expect(high.bodies).toEqual(['a', 'b', 'e']);
  });

  test('that had no room get what waited when they are woken, by name or all together', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    const takers = [new Taker({ prefetch: 0 }), new Taker({ prefetch: 0 })];
    for (const taker of takers) queue.subscribe(taker);
    fill(engine, 'q', 'abc');
    expect(queue.messageCount).toBe(3);
    for (const taker of takers) taker.prefetch = 1;
    queue.wake(takers[1]);
    expect(takers.map(({ bodies }) => bodies)).toEqual([[], ['a']]);
    queue.wake();
    expect(takers.map(({ bodies }) => bodies)).toEqual([['b'], ['a']]);
    expect([queue.messageCount, queue.unackedCount, queue.consumerCount]).toEqual([1, 2, 2]);
  });

  test('that ask for no acknowledgements leave nothing unsettled', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' });
    engine.queue('dead');
    const taker = new Taker({ noAck: true });
    queue.subscribe(taker);
    fill(engine, 'q', 'a');
    expect(queue.unackedCount).toBe(0);
    taker.deliveries[0]?.reject();
    taker.deliveries[0]?.requeue();
    expect([queue.messageCount, queue.unackedCount, engine.bodies('dead')]).toEqual([0, 0, []]);
  });

  test('that are exclusive bear nobody beside them', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    const refused = "403 channel ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    const alone = new Taker({ exclusive: true });
    queue.subscribe(alone);
    expect(answer(() => queue.subscribe(new Taker()))).toBe(refused);
    queue.unsubscribe(alone);
    queue.subscribe(new Taker());
    expect(answer(() => queue.subscribe(new Taker({ exclusive: true })))).toBe(refused);
    expect(queue.consumerCount).toBe(1);
  });

  test('of an auto-delete queue take it along when the last of them goes', () => {
    const engine = new Engine();
    const queue = engine.queue('q', {}, { autoDelete: true });
    const takers = [new Taker(), new Taker()] as const;
    for (const taker of takers) queue.subscribe(taker);
    queue.unsubscribe(takers[0]);
    expect(engine.publish('', 'q')).toBe('routed');
    queue.unsubscribe(takers[1]);
    expect(engine.publish('', 'q')).toBe('unroutable');
    expect(takers[1].isCancelled).toBe(false);
  });

  test('may publish, settle and leave from within a delivery, and are not called again before they return', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    const taker = new Taker({ prefetch: 1 });
    let depth = 0;
    taker.onDelivery = ({ message: { body } }) => {
      depth += 1;
      expect(depth).toBe(1);
      const number = Number(body.toString());
      if (number < 5) engine.publish('', 'q', String(number + 1));
      taker.settle(number - 1, 'ack');
      if (number === 4) queue.unsubscribe(taker);
      depth -= 1;
    };
    queue.subscribe(taker);
    engine.publish('', 'q', '1');
    expect(taker.bodies).toEqual(['1', '2', '3', '4']);
    expect([queue.messageCount, queue.unackedCount]).toEqual([1, 0]);
  });

  test('get nothing while several things are done together, and then all of it in order', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    const [first, second] = [new Taker({ prefetch: 3 }), new Taker({ prefetch: 9 })];
    queue.subscribe(first);
    fill(engine, 'q', 'abcde');
    engine.host.together(() => {
      queue.subscribe(second);
      queue.unsubscribe(first);
      for (const delivery of [...first.deliveries].reverse()) delivery.requeue();
      engine.publish('', 'q', 'f');
      expect(second.bodies).toEqual([]);
    });
    expect(second.bodies.join('')).toBe('abcdef');
    expect(second.deliveries.map(({ redelivered }) => redelivered)).toEqual([true, true, true, false, false, false]);
  });
});

describe('a single active consumer', () => {
  test('gets everything until it goes; then the next of the highest priority does', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-single-active-consumer': true });
    const [first, second, third] = [new Taker({ prefetch: 1 }), new Taker(), new Taker({ priority: 5 })];
    for (const taker of [first, second, third]) queue.subscribe(taker);
    fill(engine, 'q', 'ab');
    expect([first, second, third].map(({ bodies }) => bodies.join(''))).toEqual(['a', '', '']);
    first.settle(0, 'ack');
    expect(first.bodies).toEqual(['a', 'b']);
    fill(engine, 'q', 'c');
    queue.unsubscribe(first);
    fill(engine, 'q', 'd');
    queue.unsubscribe(third);
    fill(engine, 'q', 'e');
    expect([first, second, third].map(({ bodies }) => bodies.join(''))).toEqual(['ab', 'e', 'cd']);
    expect(answer(() => queue.subscribe(new Taker({ exclusive: true })))).toContain('in exclusive use');
  });

  test('of a classic queue stays, whoever comes; of a quorum queue it makes way for a higher priority', () => {
    const seen = (type: string): string[] => {
      const engine = new Engine();
      const args = { 'x-queue-type': type, 'x-single-active-consumer': true };
      const queue = engine.queue('q', args, { durable: true });
      const [low, high] = [new Taker(), new Taker({ priority: 5 })];
      queue.subscribe(low);
      fill(engine, 'q', 'a');
      queue.subscribe(high);
      fill(engine, 'q', 'b');
      const seen = [low.bodies.join(''), high.bodies.join('')];
      low.settle(0, 'ack');
      fill(engine, 'q', 'c');
      return [...seen, low.bodies.join(''), high.bodies.join('')];
    };
    expect(seen('classic')).toEqual(['ab', '', 'abc', '']);
    // First, it has to settle what it holds.
    expect(seen('quorum')).toEqual(['a', '', 'a', 'bc']);
  });

  test('of a quorum queue goes on when who was to follow it has gone', () => {
    const engine = new Engine();
    const queue = engine.quorum('q', { 'x-single-active-consumer': true });
    const [low, high] = [new Taker(), new Taker({ priority: 5 })];
    queue.subscribe(low);
    fill(engine, 'q', 'a');
    queue.subscribe(high);
    fill(engine, 'q', 'b');
    queue.unsubscribe(high);
    expect([low.bodies, high.bodies]).toEqual([['a', 'b'], []]);
  });

  test('of a quorum queue is the only way to its messages', () => {
    const queue = new Engine().quorum('q', { 'x-single-active-consumer': true });
    expect(answer(() => queue.get({ noAck: true }))).toBe(
      "405 channel RESOURCE_LOCKED - cannot obtain access to locked queue 'q' in vhost '/'. basic.get operations are not supported by quorum queues with single active consumer",
    );
  });
});

describe('basic.get', () => {
  test('tells how many are left, and whether it is a redelivery', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    fill(engine, 'q', 'abc');
    const [first] = hold(engine, 'q', 1);
    expect([first?.remaining, first?.redelivered, queue.unackedCount]).toEqual([2, false, 1]);
    first?.requeue();
    const again = queue.get({ noAck: true });
    expect([again?.message.body.toString(), again?.redelivered, queue.unackedCount]).toEqual(['a', true, 0]);
    queue.purge();
    expect(queue.get({ noAck: true })).toBeUndefined();
  });
});

describe('a message that comes back', () => {
  test('goes to its original place, in whatever order messages come back', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.nat(12),
        fc.infiniteStream(fc.nat()),
        (published, wanted, choices) => {
          const engine = new Engine();
          engine.queue('q');
          const letters = 'abcdefghijkl'.slice(0, published);
          fill(engine, 'q', letters);
          const held = hold(engine, 'q', Math.min(wanted, published));
          for (const choice of choices) {
            if (held.length === 0) break;
            held.splice(choice % held.length, 1)[0]?.requeue();
          }
          expect(engine.bodies('q').join('')).toBe(letters);
        },
      ),
    );
  });

  test('comes back once, however often it is answered', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    fill(engine, 'q', 'a');
    const [delivery] = hold(engine, 'q', 1);
    delivery?.requeue();
    delivery?.requeue();
    delivery?.ack();
    expect([queue.messageCount, queue.unackedCount]).toEqual([1, 0]);
  });

  test('is not purged while somebody holds it', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    fill(engine, 'q', 'abc');
    const [delivery] = hold(engine, 'q', 1);
    expect(queue.purge()).toBe(2);
    delivery?.requeue();
    expect(engine.bodies('q')).toEqual(['a']);
  });

  test('to a quorum queue goes to the front; without a delivery limit to the end, unless its taker is gone', () => {
    const order = (args: FieldTable, isTakerGone: boolean): string => {
      const engine = new Engine();
      engine.quorum('q', args);
      fill(engine, 'q', 'abcd');
      const held = hold(engine, 'q', 3);
      for (const index of [2, 0, 1]) held[index]?.requeue(isTakerGone);
      return engine.bodies('q').join('');
    };
    expect(order({}, false)).toBe('cabd');
    expect(order({ 'x-delivery-limit': -1 }, false)).toBe('dcab');
    expect(order({ 'x-delivery-limit': -1 }, true)).toBe('cabd');
  });

  test('to a quorum queue says how often it has', () => {
    const engine = new Engine();
    const queue = engine.quorum('q');
    const taker = new Taker();
    taker.onDelivery = (delivery) => {
      if (taker.deliveries.length < 3) delivery.requeue();
    };
    queue.subscribe(taker);
    engine.publish('', 'q', 'a', { headers: { mine: 1, 'x-delivery-count': 'forged' } });
    expect(taker.deliveries.map(({ message: { properties } }) => properties.headers?.['x-delivery-count'])).toEqual([
      'forged',
      1,
      2,
    ]);
    expect(taker.deliveries.map(({ redelivered }) => redelivered)).toEqual([false, true, true]);
  });

  test('to a quorum queue does so twenty times, if it does not say; with a negative limit for ever', () => {
    const engine = new Engine();
    const returns = (queue: MessageQueue): number => {
      fill(engine, queue.name, 'a');
      for (let count = 0; ; count += 1) {
        const delivery = queue.get({ noAck: false });
        if (delivery === undefined || count === 50) return count;
        delivery.requeue();
      }
    };
    expect(returns(engine.quorum('usual'))).toBe(21);
    expect(returns(engine.quorum('endless', { 'x-delivery-limit': -1 }))).toBe(50);
  });
});

describe('priorities', () => {
  const bodies = (args: FieldTable, priorities: readonly (number | undefined)[]): string => {
    const engine = new Engine();
    engine.queue('q', args);
    priorities.forEach((priority, index) => engine.publish('', 'q', String(index), { priority }));
    return engine.bodies('q').join('');
  };

  test('come first on a queue that has them; what is too high is the highest, what is missing the lowest', () => {
    expect(bodies({ 'x-max-priority': 5 }, [0, 3, undefined, 9, 5, 3])).toBe('341502');
    expect(bodies({}, [0, 3, undefined, 9])).toBe('0123');
  });

  test('of a quorum queue are two, high and low, of which the low one is not left out', () => {
    const engine = new Engine();
    engine.quorum('q');
    [undefined, 1, 9, 4, 5, 6].forEach((priority, index) => engine.publish('', 'q', String(index), { priority }));
    expect(engine.bodies('q').join('')).toBe('240513');
  });

  test('do not save a message from a queue that is full: it is the next that goes', () => {
    expect(bodies({ 'x-max-priority': 5, 'x-max-length': 2 }, [0, 1, 2, 3])).toBe('10');
  });
});

describe('a length limit', () => {
  test('drops the messages that are longest in the queue', () => {
    const engine = new Engine();
    engine.queue('q', { 'x-max-length': 3 });
    fill(engine, 'q', 'abcde');
    expect(engine.bodies('q').join('')).toBe('cde');
  });

  test('counts bytes of bodies', () => {
    const engine = new Engine();
    engine.queue('q', { 'x-max-length-bytes': 5 });
    for (const body of ['aaa', 'bb', 'c', 'dddddd']) engine.publish('', 'q', body);
    expect(engine.bodies('q')).toEqual([]);
    for (const body of ['aaa', 'bb', 'c']) engine.publish('', 'q', body);
    expect(engine.bodies('q')).toEqual(['bb', 'c']);
  });

  test('does not count what is handed out, but drops what comes back too much', () => {
    const engine = new Engine();
    engine.queue('q', { 'x-max-length': 2 });
    fill(engine, 'q', 'a');
    const [held] = hold(engine, 'q', 1);
    fill(engine, 'q', 'bc');
    held?.requeue();
    expect(engine.bodies('q').join('')).toBe('bc');
  });

  test('of none lets a message through to who waits for it', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-max-length': 0 });
    const taker = new Taker({ prefetch: 1 });
    queue.subscribe(taker);
    fill(engine, 'q', 'ab');
    expect([taker.bodies, queue.messageCount]).toEqual([['a'], 0]);
  });

  test('with reject-publish refuses the message, unless another was refused before', () => {
    const engine = new Engine();
    engine.queue('q', { 'x-max-length': 1, 'x-overflow': 'reject-publish' });
    engine.queue('other');
    for (const name of ['q', 'other']) engine.bind(name, 'amq.fanout');
    expect(engine.publish('amq.fanout', '', 'a')).toBe('routed');
    expect(engine.publish('amq.fanout', '', 'b')).toBe('rejected');
    expect([engine.bodies('q'), engine.bodies('other')]).toEqual([['a'], ['a', 'b']]);
  });

  test('with reject-publish drops nothing, not even what comes back', () => {
    const engine = new Engine();
    engine.queue('q', { 'x-max-length': 1, 'x-overflow': 'reject-publish' });
    fill(engine, 'q', 'a');
    const [held] = hold(engine, 'q', 1);
    fill(engine, 'q', 'b');
    held?.requeue();
    expect(engine.bodies('q')).toEqual(['a', 'b']);
  });

  test('with reject-publish-dlx refuses the message and dead-letters it', () => {
    const engine = new Engine();
    engine.queue('dead');
    const args = {
      'x-dead-letter-exchange': '',
      'x-dead-letter-routing-key': 'dead',
      'x-overflow': 'reject-publish-dlx',
    };
    engine.queue('q', { ...args, 'x-max-length-bytes': 1 });
    expect(engine.publish('', 'q', 'a')).toBe('routed');
    expect(engine.publish('', 'q', 'b')).toBe('rejected');
    expect([engine.bodies('q'), engine.bodies('dead')]).toEqual([['a'], ['b']]);
  });

  test('of a quorum queue with reject-publish is noticed when it is passed, and forgotten at four fifths of it', () => {
    const engine = new Engine();
    const queue = engine.quorum('q', { 'x-max-length': 5, 'x-overflow': 'reject-publish' });
    const outcomes = Array.from('abcdefg', (letter) => engine.publish('', 'q', letter));
    expect(outcomes.lastIndexOf('routed')).toBe(5);
    queue.get({ noAck: true });
    expect([queue.messageCount, engine.publish('', 'q')]).toEqual([5, 'rejected']);
    queue.get({ noAck: true });
    expect([queue.messageCount, engine.publish('', 'q')]).toEqual([4, 'routed']);
  });

  test('with reject-publish refuses dead letters on a classic queue, and none on a quorum queue', () => {
    const bodies = (type: string): string[] => {
      const engine = new Engine();
      const args = { 'x-queue-type': type, 'x-max-length': 1, 'x-overflow': 'reject-publish' };
      engine.queue('q', args, { durable: true });
      engine.queue('source', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'q' });
      fill(engine, 'q', 'abc');
      fill(engine, 'source', 'x');
      hold(engine, 'source', 1)[0]?.reject();
      return engine.bodies('q');
    };
    expect(bodies('classic')).toEqual(['a']);
    expect(bodies('quorum')).toEqual(['a', 'b', 'x']);
  });

  test('of a quorum queue with reject-publish-dlx drops what is oldest: it knows no such thing', () => {
    const engine = new Engine();
    engine.queue('dead');
    const letters = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' };
    engine.quorum('q', { ...letters, 'x-max-length': 1, 'x-overflow': 'reject-publish-dlx' });
    fill(engine, 'q', 'abc');
    expect([engine.bodies('q'), engine.bodies('dead')]).toEqual([['c'], ['a', 'b']]);
  });
});

describe('a time to live', () => {
  test('is the shorter of the queue’s and the message’s', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-message-ttl': 50 });
    engine.publish('', 'q', 'a', { expiration: '10' });
    engine.publish('', 'q', 'b', { expiration: '100' });
    engine.publish('', 'q', 'c');
    const counts = [0, 9, 1, 39, 1].map((ms) => {
      engine.clock.advance(ms);
      return queue.messageCount;
    });
    expect(counts).toEqual([3, 3, 2, 2, 0]);
  });

  test('ends at the head of the queue: behind a message that stays, a message stays', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    fill(engine, 'q', 'a');
    engine.publish('', 'q', 'b', { expiration: '10' });
    engine.clock.advance(100);
    expect(queue.messageCount).toBe(2);
    expect(queue.get({ noAck: true })?.message.body.toString()).toBe('a');
    // Its time has come already, so the next turn of the clock is enough.
    engine.clock.advance(0);
    expect(queue.messageCount).toBe(0);
  });

  test('goes on while the message is handed out, and counts when it comes back', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-message-ttl': 10 });
    fill(engine, 'q', 'a');
    const [held] = hold(engine, 'q', 1);
    engine.clock.advance(100);
    expect(queue.unackedCount).toBe(1);
    held?.requeue();
    expect(queue.messageCount).toBe(0);
  });

  test.each(['classic', 'quorum'])('of 0 on a %s queue is for those who wait already', (type) => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-queue-type': type, 'x-message-ttl': 0 }, { durable: true });
    fill(engine, 'q', 'a');
    expect(queue.messageCount).toBe(0);
    const taker = new Taker();
    queue.subscribe(taker);
    fill(engine, 'q', 'b');
    expect(taker.bodies).toEqual(['b']);
  });

  test('of 0 lets messages that are published together through, too', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-message-ttl': 0 });
    const taker = new Taker({ prefetch: 2 });
    queue.subscribe(taker);
    engine.host.together(() => fill(engine, 'q', 'abc'));
    expect([taker.bodies, queue.messageCount]).toEqual([['a', 'b'], 0]);
  });

  test('is kept for every priority of its own', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-max-priority': 2 });
    engine.publish('', 'q', 'high', { priority: 2 });
    engine.publish('', 'q', 'low', { expiration: '5' });
    engine.clock.advance(5);
    expect(queue.messageCount).toBe(1);
  });
});

describe('a look into a queue', () => {
  test('shows what is ready in the order in which it would be taken, and takes nothing', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(2), { maxLength: 10 }), fc.nat(10), fc.nat(12), (priorities, held, limit) => {
        const engine = new Engine();
        const queue = engine.queue('q', { 'x-max-priority': 2 });
        priorities.forEach((priority, index) => engine.publish('', 'q', String(index), { priority }));
        for (const delivery of hold(engine, 'q', Math.min(held, priorities.length)).reverse()) delivery.requeue();
        const seen = queue.peek(limit).map(({ body }) => body.toString());
        expect(queue.messageCount).toBe(priorities.length);
        expect(seen).toEqual(engine.bodies('q').slice(0, limit));
      }),
    );
  });
});

describe('the virtual host', () => {
  test('says when something has changed', () => {
    const engine = new Engine();
    let changes = 0;
    engine.host.onChange = () => (changes += 1);
    const sinceLast = (): boolean => {
      const before = changes;
      changes = 0;
      return before > 0;
    };
    const queue = engine.queue('q', { 'x-message-ttl': 10 });
    const taker = new Taker({ prefetch: 1 });
    const seen = [
      () => engine.publish('', 'q'),
      () => queue.subscribe(taker),
      () => taker.deliveries[0]?.ack(),
      () => engine.publish('', 'q'),
      () => engine.clock.advance(10),
      () => queue.unsubscribe(taker),
      () => engine.host.deleteQueue('q', { ifUnused: false, ifEmpty: false }, {}),
    ].map((run) => {
      run();
      return sinceLast();
    });
    expect(seen).toEqual(seen.map(() => true));
  });

  test('that is closed does nothing more when time passes', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-message-ttl': 10, 'x-expires': 20 });
    fill(engine, 'q', 'a');
    engine.host.close();
    engine.clock.advance(100);
    expect([queue.messageCount, [...engine.host.queues].length]).toEqual([1, 1]);
  });
});
