/** Queues: which may be declared, by whom, with what, and what refuses to be deleted. */
import { describe, expect, test } from '@jest/globals';

import type { FieldTable, FieldValue } from '../../lib/protocol/field-table.js';
import { answer, Engine, OWNER, Taker } from './engine.js';

const OTHER = { connection: 2 };
const LOCKED =
  "405 channel RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally " +
  'declared on another connection or the exclusive property value does not match that of the original declaration.';
const QUORUM = { 'x-queue-type': 'quorum' };

const inequivalent = (name: string, received: string, current: string): string =>
  `406 channel PRECONDITION_FAILED - inequivalent arg '${name}' for queue 'q' in vhost '/': received ${received} but current is ${current}`;

describe('a declaration of a queue', () => {
  test.each<[name: string, value: FieldValue, problem: string]>([
    ['x-message-ttl', '5', '"expected integer, got longstr"'],
    ['x-message-ttl', 1.5, '"expected integer, got double"'],
    ['x-message-ttl', null, '"expected integer, got void"'],
    ['x-message-ttl', true, '"expected integer, got bool"'],
    ['x-message-ttl', -1, '{value_negative,-1}'],
    ['x-message-ttl', 2n ** 40n, '{value_too_large,1099511627776}'],
    ['x-expires', 0, '{value_zero,0}'],
    ['x-expires', -1, '{value_negative,-1}'],
    ['x-max-length', -1, '{value_negative,-1}'],
    ['x-max-length-bytes', '5', '"expected integer, got longstr"'],
    ['x-max-priority', 256, '{max_value_exceeded,256}'],
    ['x-overflow', 'foo', 'invalid_overflow'],
    ['x-overflow', 1, '{unacceptable_type,signedint}'],
    ['x-single-active-consumer', 'yes', '{unacceptable_type,longstr}'],
    ['x-queue-type', 'foo', '"unsupported queue type \'foo\'"'],
    ['x-queue-type', 1, '{unacceptable_type,signedint}'],
    ['x-queue-mode', 'foo', '"unsupported queue mode \'foo\'"'],
    ['x-queue-version', 3, '"unsupported queue version \'3\'"'],
    ['x-dead-letter-routing-key', 'a', 'routing_key_but_no_dlx_defined'],
  ])('with %s %p is refused in words of RabbitMQ', (name, value, problem) => {
    expect(answer(() => new Engine().queue('q', { [name]: value }))).toBe(
      `406 channel PRECONDITION_FAILED - invalid arg '${name}' for queue 'q' in vhost '/': ${problem}`,
    );
  });

  test.each<[title: string, args: FieldTable, expected: string]>([
    [
      'a dead-letter exchange that is no name',
      { 'x-dead-letter-exchange': 1 },
      "406 channel PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'",
    ],
    [
      'an argument of quorum queues',
      { 'x-delivery-limit': 1 },
      "406 channel PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type rabbit_classic_queue",
    ],
    [
      'an argument of classic queues on a quorum queue',
      { ...QUORUM, 'x-max-priority': 'a' },
      "406 channel PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue",
    ],
    [
      'a stream',
      { 'x-queue-type': 'stream' },
      "540 connection NOT_IMPLEMENTED - queue 'q' in vhost '/' is a stream, and the embedded broker has none",
    ],
    [
      'several that are wrong: the first in the order of RabbitMQ is told',
      { 'x-max-length': 'z', 'x-message-ttl': 'x', 'x-expires': 'y' },
      "406 channel PRECONDITION_FAILED - invalid arg 'x-expires' for queue 'q' in vhost '/': \"expected integer, got longstr\"",
    ],
    [
      'a value that is wrong and a name that is: the value is told',
      { 'x-delivery-limit': 1, 'x-message-ttl': 'x' },
      "406 channel PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue 'q' in vhost '/': \"expected integer, got longstr\"",
    ],
    ['arguments that mean nothing', { 'x-mine': 1, constructor: 2 }, 'done'],
    ['all that a classic queue knows', { 'x-max-priority': 255, 'x-queue-mode': 'lazy', 'x-queue-version': 2 }, 'done'],
  ])('with %s', (_title, args, expected) => {
    expect(answer(() => new Engine().queue('q', args))).toBe(expected);
  });

  test.each<[options: object, expected: string]>([
    [{ durable: false }, "invalid property 'non-durable' for queue 'q' in vhost '/'"],
    [{ durable: true, exclusive: true }, "invalid property 'exclusive-owner' for queue 'q' in vhost '/'"],
    [{ exclusive: true, autoDelete: true }, "invalid property 'auto-delete' for queue 'q' in vhost '/'"],
  ])('of a quorum queue with %j is refused', (options, expected) => {
    expect(answer(() => new Engine().queue('q', QUORUM, options))).toBe(
      `406 channel PRECONDITION_FAILED - ${expected}`,
    );
  });

  test.each<[first: FieldTable, second: FieldTable, expected: string]>([
    [{}, { 'x-queue-type': 'classic' }, inequivalent('x-queue-type', "'classic'", "'quorum'")],
    [{ 'x-delivery-limit': 5 }, { ...QUORUM, 'x-delivery-limit': 6 }, inequivalent('x-delivery-limit', "'6'", "'5'")],
  ])('of a quorum queue with %j, and then of a queue with %j', (first, second, expected) => {
    const engine = new Engine();
    engine.quorum('q', first);
    expect(answer(() => engine.queue('q', second, { durable: true }))).toBe(expected);
  });

  test('of a quorum queue without a name is refused', () => {
    expect(answer(() => new Engine().queue('', QUORUM))).toBe(
      '406 channel PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_quorum_queue',
    );
  });

  test('without a name makes one up, a new one each time', () => {
    const engine = new Engine();
    const names = [engine.queue('').name, engine.queue('').name];
    for (const name of names) expect(name).toMatch(/^amq\.gen-[\w-]{22}$/);
    expect(new Set(names).size).toBe(2);
    // It is one of the broker's names, which nobody may declare.
    expect(answer(() => engine.queue(names[0] as string))).toBe(
      `403 channel ACCESS_REFUSED - queue name '${names[0]}' contains reserved prefix 'amq.*'`,
    );
    expect(answer(() => engine.queue(names[0] as string, {}, { passive: true }))).toBe('done');
  });

  test.each<[title: string, run: (engine: Engine) => void, expected: string]>([
    [
      'with a reserved name',
      (engine) => engine.queue('amq.x', { 'x-max-length': 'bad' }),
      "403 channel ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'",
    ],
    [
      'passive, where there is none',
      (engine) => engine.queue('amq.x', {}, { passive: true }),
      "404 channel NOT_FOUND - no queue 'amq.x' in vhost '/'",
    ],
    [
      'passive, whatever else it says',
      (engine) => engine.queue('q', { 'x-max-length': 'bad' }, { passive: true, durable: true }),
      'done',
    ],
    ['with line ends in its name, which go', (engine) => engine.queue('q\n', {}, { passive: true }), 'done'],
  ])('%s', (_title, run, expected) => {
    const engine = new Engine();
    engine.queue('q');
    expect(answer(() => run(engine))).toBe(expected);
  });

  test.each<[first: FieldTable, second: FieldTable, expected: string]>([
    [{}, { 'x-message-ttl': 5 }, inequivalent('x-message-ttl', "the value '5' of type 'signedint'", 'none')],
    [{ 'x-message-ttl': 5 }, {}, inequivalent('x-message-ttl', 'none', "the value '5' of type 'signedint'")],
    [{ 'x-message-ttl': 5 }, { 'x-message-ttl': 6 }, inequivalent('x-message-ttl', "'6'", "'5'")],
    [{ 'x-message-ttl': 5 }, { 'x-message-ttl': 5n }, 'done'],
    [{}, { 'x-max-length': 'bad' }, inequivalent('x-max-length', "the value 'bad' of type 'longstr'", 'none')],
    [
      {},
      { 'x-single-active-consumer': false },
      inequivalent('x-single-active-consumer', "the value 'false' of type 'bool'", 'none'),
    ],
    [{ 'x-max-length': 5, 'x-expires': 9 }, {}, inequivalent('x-expires', 'none', "the value '9' of type 'signedint'")],
    [{}, { 'x-queue-type': 'classic' }, 'done'],
    [{ 'x-queue-type': 'classic' }, {}, 'done'],
    [{}, QUORUM, inequivalent('x-queue-type', "'quorum'", "'classic'")],
    [
      { 'x-queue-type': 'classic' },
      { 'x-queue-type': 'stream' },
      inequivalent('x-queue-type', "'stream'", "'classic'"),
    ],
    [{ 'x-message-ttl': 9 }, QUORUM, inequivalent('x-message-ttl', 'none', "the value '9' of type 'signedint'")],
    [{ 'x-mine': 1 }, { 'x-mine': 2 }, 'done'],
  ])('with %j, and then with %j', (first, second, expected) => {
    const engine = new Engine();
    engine.queue('q', first);
    expect(answer(() => engine.queue('q', second))).toBe(expected);
  });

  test('again, with another durability or auto-delete', () => {
    const engine = new Engine();
    engine.queue('q');
    expect(answer(() => engine.queue('q', {}, { durable: true, autoDelete: true }))).toBe(
      inequivalent('durable', "'true'", "'false'"),
    );
    expect(answer(() => engine.queue('q', {}, { autoDelete: true }))).toBe(
      inequivalent('auto_delete', "'true'", "'false'"),
    );
  });
});

describe('an exclusive queue', () => {
  test("is its connection's own", () => {
    const engine = new Engine();
    engine.queue('q', {}, { exclusive: true });
    const binding = { queue: 'q', exchange: 'amq.direct', routingKey: '', arguments: {} };
    const refused = [
      () => engine.queue('q', {}, { exclusive: true, owner: OTHER }),
      () => engine.queue('q', {}, { owner: OTHER }),
      () => engine.queue('q', {}, { passive: true, owner: OTHER }),
      () => engine.host.queue('q', OTHER),
      () => engine.host.bindQueue(binding, OTHER),
      () => engine.host.deleteQueue('q', { ifUnused: false, ifEmpty: false }, OTHER),
      // Its own connection, too, has to say what it is.
      () => engine.queue('q'),
    ];
    expect(refused.map(answer)).toEqual(refused.map(() => LOCKED));
    expect(answer(() => engine.queue('q', {}, { exclusive: true }))).toBe('done');
    // Where there is nothing to undo, nobody is asked.
    expect(answer(() => engine.host.unbindQueue(binding, OTHER))).toBe('done');
    engine.bind('q', 'amq.direct');
    expect(answer(() => engine.host.unbindQueue(binding, OTHER))).toBe(LOCKED);
    expect(answer(() => engine.host.unbindQueue(binding, OWNER))).toBe('done');
    // Anybody may publish to it.
    expect(engine.publish('', 'q')).toBe('routed');
  });

  test('goes with its connection, and with it its bindings', () => {
    const engine = new Engine();
    engine.queue('mine', {}, { exclusive: true });
    engine.queue('theirs', {}, { exclusive: true, owner: OTHER });
    engine.queue('everybody');
    engine.bind('mine', 'amq.fanout');
    engine.host.release(OWNER);
    expect(Array.from(engine.host.queues, ({ name }) => name)).toEqual(['theirs', 'everybody']);
    expect([...engine.host.bindings]).toEqual([]);
  });
});

describe('a deletion of a queue', () => {
  const remove = (engine: Engine, options: { ifUnused?: boolean; ifEmpty?: boolean } = {}): number | string => {
    let count = 0;
    const said = answer(() => {
      count = engine.host.deleteQueue('q', { ifUnused: false, ifEmpty: false, ...options }, OWNER);
    });
    return said === 'done' ? count : said;
  };

  test('tells how many messages were ready', () => {
    const engine = new Engine();
    expect(remove(engine)).toBe(0);
    const queue = engine.queue('q');
    for (let n = 0; n < 3; n += 1) engine.publish('', 'q');
    queue.get({ noAck: false });
    expect(remove(engine)).toBe(2);
    expect(engine.publish('', 'q')).toBe('unroutable');
  });

  test('is refused if it was to be unused, or empty, and is not', () => {
    const engine = new Engine();
    const queue = engine.queue('q');
    const taker = new Taker({ prefetch: 0 });
    queue.subscribe(taker);
    engine.publish('', 'q');
    expect(remove(engine, { ifUnused: true })).toBe("406 channel PRECONDITION_FAILED - queue 'q' in vhost '/' in use");
    expect(remove(engine, { ifEmpty: true })).toBe(
      "406 channel PRECONDITION_FAILED - queue 'q' in vhost '/' not empty",
    );
    queue.unsubscribe(taker);
    queue.get({ noAck: false });
    expect(remove(engine, { ifUnused: true, ifEmpty: true })).toBe(0);
  });

  test('of a quorum queue knows no conditions', () => {
    const engine = new Engine();
    engine.quorum('q');
    expect(remove(engine, { ifEmpty: true })).toBe(
      "540 connection NOT_IMPLEMENTED - cannot delete queue 'q' in vhost '/'. queue.delete operations with if-empty flag set are not supported by quorum queues",
    );
  });

  test('tells its consumers, and makes what they hold harmless', () => {
    const engine = new Engine();
    const queue = engine.queue('q', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' });
    engine.queue('dead');
    const taker = new Taker();
    queue.subscribe(taker);
    engine.publish('', 'q');
    remove(engine);
    expect(taker.isCancelled).toBe(true);
    taker.settle(0, 'reject');
    expect([engine.bodies('dead'), queue.unackedCount, queue.consumerCount]).toEqual([[], 0, 0]);
  });
});

describe('a queue that expires', () => {
  test('goes when nobody has used it for that long: no consumer, no basic.get, no declaration', () => {
    const engine = new Engine();
    const there = (): boolean => [...engine.host.queues].length > 0;
    const queue = engine.queue('q', { 'x-expires': 100 });
    engine.clock.advance(99);
    queue.get({ noAck: true });
    engine.clock.advance(99);
    engine.queue('q', {}, { passive: true });
    engine.clock.advance(99);
    const taker = new Taker();
    queue.subscribe(taker);
    engine.clock.advance(1000);
    queue.unsubscribe(taker);
    engine.publish('', 'q');
    engine.clock.advance(99);
    expect(there()).toBe(true);
    engine.clock.advance(1);
    expect(there()).toBe(false);
  });
});
