/** Dead letters: what they say of their deaths, where they go, and when they are dropped. */
import { describe, expect, test } from '@jest/globals';

import type { BrokerMessage } from '../../lib/broker/broker-message.js';
import type { QueueDelivery } from '../../lib/broker/message-queue.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import { Engine, OWNER, Taker } from './engine.js';

/** An engine with a queue `q` whose dead letters go to `dead`. */
function engineWith(args: FieldTable = {}): Engine {
  const engine = new Engine();
  engine.queue('dead');
  engine.queue('q', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead', ...args });
  return engine;
}

function take(engine: Engine, queue: string): QueueDelivery {
  return engine.host.queue(queue, OWNER).get({ noAck: false }) as QueueDelivery;
}

interface Death {
  readonly reason: string;
  readonly queue: string;
  readonly count: number | bigint;
}

/** The deaths of the only message in the queue, as `reason queue count`. */
function deaths(engine: Engine, queue: string): string[] {
  return deathsOf(engine.drain(queue)[0]).map(({ reason, queue: where, count }) => `${reason} ${where} ${count}`);
}

function deathsOf(letter: BrokerMessage | undefined): readonly Death[] {
  return (letter?.properties.headers?.['x-death'] ?? []) as unknown as readonly Death[];
}

describe('a dead letter', () => {
  test('tells all of its death, and what it was published with', () => {
    const engine = engineWith();
    const time = new Date(Math.floor(engine.clock.now() / 1000) * 1000);
    const headers = { CC: ['copy'], BCC: ['blind'], mine: 1 };
    engine.publish('', 'q', 'body', { expiration: '20', headers, contentType: 'text/plain', priority: 3 });
    engine.clock.advance(20);
    const [letter] = engine.drain('dead');
    expect(letter).toMatchObject({ exchange: '', routingKey: 'dead', routingKeys: ['dead'] });
    expect(letter?.body.toString()).toBe('body');
    expect(letter?.properties).toEqual({
      contentType: 'text/plain',
      priority: 3,
      headers: {
        mine: 1,
        'x-death': [
          {
            count: 1,
            reason: 'expired',
            queue: 'q',
            time,
            exchange: '',
            'routing-keys': ['q', 'copy'],
            'original-expiration': '20',
          },
        ],
        'x-first-death-reason': 'expired',
        'x-first-death-queue': 'q',
        'x-first-death-exchange': '',
      },
    });
  });

  test('goes with the keys that it had, CC and BCC among them, where the queue has no key for it', () => {
    const engine = new Engine();
    engine.exchange('dlx', 'direct', { internal: true });
    for (const key of ['q', 'copy', 'blind']) {
      engine.queue(`dead.${key}`);
      engine.bind(`dead.${key}`, 'dlx', key);
    }
    engine.queue('q', { 'x-dead-letter-exchange': 'dlx' });
    engine.publish('', 'q', '', { headers: { CC: ['copy'], BCC: ['blind'] } });
    take(engine, 'q').reject();
    for (const key of ['q', 'copy', 'blind']) {
      const [letter] = engine.drain(`dead.${key}`);
      expect(letter).toMatchObject({ exchange: 'dlx', routingKey: 'q' });
      expect(letter?.properties.headers).toMatchObject({
        CC: ['copy'],
        'x-death': [{ reason: 'rejected', 'routing-keys': ['q', 'copy'] }],
      });
    }
  });

  test.each<[reason: string, args: FieldTable, kill: (engine: Engine) => void]>([
    ['rejected', {}, (engine) => take(engine, 'q').reject()],
    ['expired', { 'x-message-ttl': 5 }, (engine) => engine.clock.advance(5)],
    ['maxlen', { 'x-max-length': 1 }, (engine) => engine.publish('', 'q')],
  ])('says %s as its reason', (reason, args, kill) => {
    const engine = engineWith(args);
    engine.publish('', 'q');
    kill(engine);
    expect(deaths(engine, 'dead')).toEqual([`${reason} q 1`]);
  });

  test('of a quorum queue says delivery_limit when it came back too often, without a count of it', () => {
    const engine = new Engine();
    engine.queue('dead');
    const args = { 'x-delivery-limit': 2, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' };
    engine.quorum('q', args);
    engine.publish('', 'q', '', { headers: { mine: 1 } });
    for (const count of [0, 1, 2]) {
      const delivery = take(engine, 'q');
      expect(delivery.message.properties.headers).toEqual({ mine: 1, 'x-delivery-count': count });
      delivery.requeue();
    }
    const [letter] = engine.drain('dead');
    expect(letter?.properties.headers).toMatchObject({ mine: 1, 'x-first-death-reason': 'delivery_limit' });
    expect(letter?.properties.headers).not.toHaveProperty('x-delivery-count');
  });

  test('that dies again counts by queue and reason, the latest death first', () => {
    const engine = engineWith({ 'x-message-ttl': 5, 'x-max-length': 1 });
    engine.publish('', 'q');
    const again = (kill: () => void): string[] => {
      kill();
      const [letter] = engine.drain('dead');
      engine.publish('', 'q', '', { headers: letter?.properties.headers });
      return deathsOf(letter).map(({ reason, count }) => `${reason} ${count}`);
    };
    const expire = (): void => engine.clock.advance(5);
    expect(again(expire)).toEqual(['expired 1']);
    expect(again(expire)).toEqual(['expired 2']);
    expect(again(() => take(engine, 'q').reject())).toEqual(['rejected 1', 'expired 2']);
    expect(again(expire)).toEqual(['expired 3', 'rejected 1']);
    expect(take(engine, 'q').message.properties.headers).toMatchObject({
      'x-first-death-reason': 'expired',
      'x-first-death-queue': 'q',
      'x-first-death-exchange': '',
    });
  });

  test.each<[FieldTable, string[]]>([
    [{ 'x-death': 'nonsense' }, ['rejected q 1']],
    [{ 'x-death': ['nonsense', 1, { count: 'many', queue: 'q', reason: 'rejected' }] }, ['rejected q 2']],
    [{ 'x-death': [{ count: 2n ** 63n - 1n, queue: 'q', reason: 'rejected' }] }, [`rejected q ${-(2n ** 63n)}`]],
  ])('whose publisher wrote %p makes the best of it', (headers, expected) => {
    const engine = engineWith();
    engine.publish('', 'q', '', { headers });
    take(engine, 'q').reject();
    expect(deaths(engine, 'dead')).toEqual(expected);
  });

  test('has nowhere to go without an exchange, or with one that is not there', () => {
    const engine = new Engine();
    engine.queue('q', { 'x-dead-letter-exchange': 'nope' });
    engine.publish('', 'q');
    take(engine, 'q').reject();
    expect(engine.host.queue('q', OWNER).unackedCount).toBe(0);
    // The exchange may come later.
    engine.exchange('nope', 'fanout');
    engine.queue('dead');
    engine.bind('dead', 'nope');
    engine.publish('', 'q');
    take(engine, 'q').reject();
    expect(deaths(engine, 'dead')).toEqual(['rejected q 1']);
  });
});

test('a message reaches all its queues before what it drives out of them goes its way', () => {
  const engine = new Engine();
  engine.queue('first', { 'x-max-length': 1, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'second' });
  engine.queue('second');
  engine.publish('', 'first', 'old');
  engine.publish('', 'first', 'new', { headers: { CC: ['second'] } });
  expect(engine.bodies('second')).toEqual(['new', 'old']);
});

describe('a cycle', () => {
  test('that nobody takes part in ends where it would begin again', () => {
    const engine = new Engine();
    for (const [name, next] of [
      ['a', 'b'],
      ['b', 'c'],
      ['c', 'a'],
    ] as const) {
      engine.queue(name, { 'x-message-ttl': 5, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': next });
    }
    engine.publish('', 'a');
    const counts = [0, 5, 5, 5].map((ms) => {
      engine.clock.advance(ms);
      return Array.from(engine.host.queues, ({ messageCount }) => messageCount).join('');
    });
    expect(counts).toEqual(['100', '010', '001', '000']);
  });

  test('goes on where somebody has rejected the message on the way, as a delayed retry does', () => {
    const engine = new Engine();
    engine.queue('work', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'wait' });
    const back = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'work' };
    engine.queue('wait', { ...back, 'x-message-ttl': 1000 });
    engine.publish('', 'work');
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      take(engine, 'work').reject();
      engine.clock.advance(1000);
    }
    expect(deaths(engine, 'work')).toEqual(['expired wait 3', 'rejected work 3']);
  });

  test('with a rejection before it, but none within it, ends', () => {
    const engine = new Engine();
    engine.queue('q', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'a' });
    for (const [name, next] of [
      ['a', 'b'],
      ['b', 'c'],
      ['c', 'a'],
    ] as const) {
      engine.queue(name, { 'x-max-length': 0, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': next });
    }
    engine.publish('', 'q');
    take(engine, 'q').reject();
    expect(Array.from(engine.host.queues, ({ messageCount }) => messageCount)).toEqual([0, 0, 0, 0]);
  });

  test('of a queue with itself ends at once, unless it rejects', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-dead-letter-exchange': '', 'x-max-length': 1 });
    engine.publish('', 'q', 'a');
    engine.publish('', 'q', 'b');
    expect(engine.host.queue('q', OWNER).messageCount).toBe(1);
    take(engine, 'q').reject();
    expect([queue.messageCount, deaths(engine, 'q')]).toEqual([1, ['rejected q 1']]);
  });
});

test('dead letters that drop others in their turn do not call each other', () => {
  const engine = new Engine();
  const count = 300;
  for (let n = 0; n < count; n += 1) {
    const next = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': `q${n + 1}` };
    engine.queue(`q${n}`, { ...next, 'x-max-length': 0 });
  }
  let depth = 0;
  engine.queue(`q${count}`).subscribe(
    new (class extends Taker {
      override deliver(): void {
        depth = new Error().stack?.split('\n').length ?? 0;
      }
    })(),
  );
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 1000;
  try {
    engine.publish('', 'q0');
  } finally {
    Error.stackTraceLimit = limit;
  }
  expect(depth).toBeGreaterThan(1);
  expect(depth).toBeLessThan(100);
});
