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
  readonly 'routing-keys': readonly string[];
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
        CC: ['copy'],
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
        'x-last-death-reason': 'expired',
        'x-last-death-queue': 'q',
        'x-last-death-exchange': '',
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
      expect(delivery.message.properties.headers).toEqual({
        mine: 1,
        ...(count > 0 ? { 'x-delivery-count': count } : {}),
      });
      delivery.requeue();
    }
    const [letter] = engine.drain('dead');
    expect(letter?.properties.headers).toMatchObject({ mine: 1, 'x-first-death-reason': 'delivery_limit' });
    expect(letter?.properties.headers).not.toHaveProperty('x-delivery-count');
  });

  test('that dies again counts by queue and reason, the latest death first', () => {
    const engine = new Engine();
    const to = (queue: string): FieldTable => ({ 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': queue });
    engine.queue('q', { ...to('back'), 'x-message-ttl': 5 });
    engine.queue('back', to('q'));
    engine.publish('', 'q', '', { expiration: '+900' });
    const again = (kill: () => void): string[] => {
      kill();
      const [letter] = engine.host.queue('back', OWNER).peek(1);
      take(engine, 'back').reject();
      return deathsOf(letter).map(({ reason, queue, count }) => `${reason} ${queue} ${count}`);
    };
    const expire = (): void => engine.clock.advance(5);
    expect(again(expire)).toEqual(['expired q 1']);
    expect(again(expire)).toEqual(['expired q 2', 'rejected back 1']);
    expect(again(() => take(engine, 'q').reject())).toEqual(['rejected q 1', 'rejected back 2', 'expired q 2']);
    expect(again(expire)).toEqual(['expired q 3', 'rejected back 3', 'rejected q 1']);
    const { headers } = take(engine, 'q').message.properties;
    expect(headers).toMatchObject({
      'x-first-death-reason': 'expired',
      'x-first-death-queue': 'q',
      'x-first-death-exchange': '',
      'x-last-death-reason': 'rejected',
      'x-last-death-queue': 'back',
      'x-last-death-exchange': '',
    });
    // What is told of a death is told of its first time.
    expect(headers?.['x-death']).toContainEqual(expect.objectContaining({ 'original-expiration': '900', count: 3 }));
  });

  test('believes nothing of what its publisher wrote of deaths', () => {
    const forged = [{ count: 7, queue: 'q', reason: 'rejected' }];
    for (const death of ['nonsense', forged]) {
      const engine = engineWith();
      const headers = { mine: 1, 'x-death': death, 'x-first-death-queue': 'forged', 'x-last-death-queue': 5 };
      engine.publish('', 'q', '', { headers });
      take(engine, 'q').reject();
      const [letter] = engine.drain('dead');
      expect(deathsOf(letter)).toEqual([expect.objectContaining({ queue: 'q', count: 1 })]);
      expect(letter?.properties.headers).toMatchObject({
        mine: 1,
        'x-first-death-queue': 'q',
        'x-last-death-queue': 'q',
      });
    }
  });

  test('tells of the keys that it had at the time, without those of blind copies, whatever else they are', () => {
    const engine = engineWith({ 'x-dead-letter-routing-key': 'next' });
    engine.queue('next', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' });
    engine.publish('', 'q', '', { headers: { CC: ['copy'], BCC: ['blind', 'next'] } });
    engine.host.queue('next', OWNER).purge();
    take(engine, 'q').reject();
    take(engine, 'next').reject();
    const keys = deathsOf(engine.drain('dead')[0]).map((death) => death['routing-keys']);
    expect(keys).toEqual([[], ['q', 'copy']]);
  });

  test('of a quorum queue takes its failed deliveries along to the next, until that counts its own', () => {
    const engine = new Engine();
    engine.quorum('last');
    engine.queue('classic', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'last' });
    engine.quorum('first', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'classic' });
    engine.publish('', 'first');
    const told = (queue: string): unknown[] => {
      const { redelivered, message } = engine.host.queue(queue, OWNER).get({ noAck: false }) as QueueDelivery;
      return [redelivered, message.properties.headers?.['x-delivery-count']];
    };
    take(engine, 'first').requeue(true);
    // It came back, but nothing had failed.
    take(engine, 'first').requeue();
    take(engine, 'first').reject();
    const onTheWay = take(engine, 'classic');
    expect([onTheWay.redelivered, onTheWay.message.properties.headers?.['x-delivery-count']]).toEqual([
      false,
      undefined,
    ]);
    onTheWay.reject();
    const arrived = take(engine, 'last');
    expect([arrived.redelivered, arrived.message.properties.headers?.['x-delivery-count']]).toEqual([true, 2]);
    arrived.requeue();
    expect(told('last')).toEqual([true, 1]);
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
