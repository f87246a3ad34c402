/** Exchanges: which may be declared, bound and deleted, and where a message goes. */
import { describe, expect, test } from '@jest/globals';

import type { FieldTable, FieldValue } from '../../lib/protocol/field-table.js';
import { checkProperties } from '../../lib/broker/publish-rules.js';
import { answer, Engine, OWNER, message } from './engine.js';

/** The queues that a message reaches, with how often. */
function reached(engine: Engine): string[] {
  const found: string[] = [];
  for (const { name, messageCount } of engine.host.queues) for (let n = 0; n < messageCount; n += 1) found.push(name);
  return found.sort();
}

describe('a declaration of an exchange', () => {
  const ALTERNATE = { arguments: { 'alternate-exchange': 'a' } };
  test.each<[title: string, run: (engine: Engine) => void, expected: string]>([
    ['again, the same', (engine) => engine.exchange('x'), 'done'],
    [
      'of an unknown kind',
      (engine) => engine.exchange('y', 'foo'),
      "406 channel PRECONDITION_FAILED - invalid exchange type 'foo'",
    ],
    ['of an unknown kind, passive, asks for the name alone', (e) => e.exchange('x', 'foo', { passive: true }), 'done'],
    [
      'passive, where there is none',
      (engine) => engine.exchange('y', 'direct', { passive: true }),
      "404 channel NOT_FOUND - no exchange 'y' in vhost '/'",
    ],
    [
      'with a reserved name',
      (engine) => engine.exchange('amq.y'),
      "403 channel ACCESS_REFUSED - exchange name 'amq.y' contains reserved prefix 'amq.*'",
    ],
    ['of what is predeclared', (engine) => engine.exchange('amq.topic', 'topic', { durable: true }), 'done'],
    [
      'of the exchange of traces, which is there, and is for nobody to publish to',
      (engine) => {
        engine.exchange('amq.rabbitmq.trace', 'topic', { durable: true, internal: true });
        engine.publish('amq.rabbitmq.trace', '');
      },
      "403 channel ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'",
    ],
    [
      'of the default exchange',
      (engine) => engine.exchange('', 'direct', { passive: true }),
      '403 channel ACCESS_REFUSED - operation not permitted on the default exchange',
    ],
    [
      'with another kind, which is told first',
      (engine) => engine.exchange('x', 'fanout', { durable: true }),
      "406 channel PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current is 'direct'",
    ],
    [
      'with another durability',
      (engine) => engine.exchange('x', 'direct', { durable: true }),
      "406 channel PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
    ],
    [
      'with auto-delete',
      (engine) => engine.exchange('x', 'direct', { autoDelete: true }),
      "406 channel PRECONDITION_FAILED - inequivalent arg 'auto_delete' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
    ],
    [
      'as internal',
      (engine) => engine.exchange('x', 'direct', { internal: true }),
      "406 channel PRECONDITION_FAILED - inequivalent arg 'internal' for exchange 'x' in vhost '/': received 'true' but current is 'false'",
    ],
    [
      'with an alternate exchange that it had not',
      (engine) => engine.exchange('x', 'direct', ALTERNATE),
      "406 channel PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received the value 'a' of type 'longstr' but current is none",
    ],
    [
      'with an alternate exchange that is no name',
      (engine) => engine.exchange('y', 'direct', { arguments: { 'alternate-exchange': 1 } }),
      "406 channel PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'y' in vhost '/'",
    ],
    ['with other arguments', (engine) => engine.exchange('x', 'direct', { arguments: { mine: 1 } }), 'done'],
    ['with line ends in its name, which go', (engine) => engine.exchange('x\r\n', 'direct', { passive: true }), 'done'],
  ])('%s', (_title, run, expected) => {
    const engine = new Engine();
    engine.exchange('x');
    expect(answer(() => run(engine))).toBe(expected);
  });
});

describe('a deletion of an exchange', () => {
  const remove = (engine: Engine, name: string, ifUnused = false): string =>
    answer(() => engine.host.deleteExchange(name, { ifUnused }));

  test('that is not there is harmless', () => {
    expect(remove(new Engine(), 'nope', true)).toBe('done');
  });

  test('of the broker itself is refused, whether it is there or not', () => {
    const engine = new Engine();
    expect(remove(engine, '')).toBe('403 channel ACCESS_REFUSED - operation not permitted on the default exchange');
    expect(remove(engine, 'amq.nope')).toBe(
      "403 channel ACCESS_REFUSED - deletion of system exchange 'amq.nope' in vhost '/' not allowed",
    );
  });

  test('if unused asks for bindings that lead out of it alone', () => {
    const engine = new Engine();
    engine.exchange('x');
    engine.queue('q');
    engine.host.bindExchange({ destination: 'x', source: 'amq.direct', routingKey: 'a', arguments: {} });
    engine.bind('q', 'x', 'a');
    expect(remove(engine, 'x', true)).toBe("406 channel PRECONDITION_FAILED - exchange 'x' in vhost '/' in use");
    engine.host.unbindQueue({ queue: 'q', exchange: 'x', routingKey: 'a', arguments: {} }, OWNER);
    expect(remove(engine, 'x', true)).toBe('done');
    expect([...engine.host.bindings]).toEqual([]);
  });
});

describe('a binding', () => {
  test.each([
    ['to nothing from nothing', 'nope', 'nopex', "404 channel NOT_FOUND - no exchange 'nopex' in vhost '/'"],
    ['to nothing', 'nope', 'amq.direct', "404 channel NOT_FOUND - no queue 'nope' in vhost '/'"],
    ['from nothing', 'q', 'nopex', "404 channel NOT_FOUND - no exchange 'nopex' in vhost '/'"],
    [
      'from the default exchange',
      'nope',
      '',
      '403 channel ACCESS_REFUSED - operation not permitted on the default exchange',
    ],
  ])('%s is refused', (_title, queue, exchange, expected) => {
    const engine = new Engine();
    engine.queue('q');
    expect(answer(() => engine.bind(queue, exchange, 'a'))).toBe(expected);
  });

  test.each<[FieldValue, string]>([
    ['foo', 'Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x'],
    [1, 'Invalid x-match field type signedint (value 1); expected longstr'],
    [null, 'Invalid x-match field type void (value undefined); expected longstr'],
  ])('with x-match %j is refused by a headers exchange', (match, text) => {
    const engine = new Engine();
    engine.queue('q');
    expect(answer(() => engine.bind('q', 'amq.headers', '', { 'x-match': match }))).toBe(
      `406 channel PRECONDITION_FAILED - ${text}`,
    );
    expect(answer(() => engine.bind('q', 'amq.direct', '', { 'x-match': match }))).toBe('done');
  });

  test('that is undone where there is none is harmless', () => {
    const engine = new Engine();
    engine.queue('q');
    for (const [queue, exchange] of [
      ['q', 'amq.direct'],
      ['nope', 'amq.direct'],
      ['q', 'nopex'],
    ] as const) {
      const binding = { queue, exchange, routingKey: 'a', arguments: {} };
      expect(answer(() => engine.host.unbindQueue(binding, OWNER))).toBe('done');
    }
  });

  test('made twice counts once; with other arguments it is another, and each is undone by its own', () => {
    const engine = new Engine();
    engine.queue('q');
    engine.bind('q', 'amq.direct', 'a', { x: 1, y: [1, { z: 'é' }] });
    engine.bind('q', 'amq.direct', 'a', { y: [1, { z: 'é' }], x: 1 });
    engine.bind('q', 'amq.direct', 'a', { x: '1' });
    expect([...engine.host.bindings]).toHaveLength(2);
    engine.publish('amq.direct', 'a');
    expect(reached(engine)).toEqual(['q']);
    const undo = (args: FieldTable): void =>
      engine.host.unbindQueue({ queue: 'q', exchange: 'amq.direct', routingKey: 'a', arguments: args }, OWNER);
    undo({});
    undo({ x: '1' });
    expect([...engine.host.bindings]).toHaveLength(1);
    undo({ x: 1, y: [1, { z: 'é' }] });
    expect(engine.publish('amq.direct', 'a')).toBe('unroutable');
  });
});

describe('a message', () => {
  test('reaches a queue by its name through the default exchange', () => {
    const engine = new Engine();
    engine.queue('q');
    expect(engine.publish('', 'q')).toBe('routed');
    expect(engine.publish('', 'other')).toBe('unroutable');
    expect(reached(engine)).toEqual(['q']);
  });

  test('to no exchange, or to an internal one, is refused', () => {
    const engine = new Engine();
    engine.exchange('inner', 'fanout', { internal: true });
    const missing = "404 channel NOT_FOUND - no exchange 'nope' in vhost '/'";
    const internal = "403 channel ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'";
    expect(answer(() => engine.publish('nope', 'q'))).toBe(missing);
    expect(answer(() => engine.publish('inner', 'q'))).toBe(internal);
    expect(['nope', 'inner', ''].map((name) => answer(() => engine.host.checkPublish(name)))).toEqual([
      missing,
      internal,
      'done',
    ]);
  });

  test.each<[type: string, key: string, bindings: readonly string[], expected: readonly string[]]>([
    ['direct', 'a', ['a', 'b', 'a'], ['0', '2']],
    ['fanout', 'a', ['x', 'y'], ['0', '1']],
    ['topic', 'order.eu.new', ['order.*', 'order.#', '#.new', '*.*.*', 'order.eu'], ['1', '2', '3']],
  ])('follows the bindings of a %s exchange', (type, key, bindings, expected) => {
    const engine = new Engine();
    engine.exchange('x', type);
    bindings.forEach((routingKey, index) => {
      engine.queue(String(index));
      engine.bind(String(index), 'x', routingKey);
    });
    expect(engine.publish('x', key)).toBe('routed');
    expect(reached(engine)).toEqual(expected);
  });

  test.each<[args: FieldTable, headers: FieldTable | undefined, expected: boolean]>([
    [{ a: 1 }, { a: 1, b: 2 }, true],
    [{ a: 1, b: 2 }, { a: 1 }, false],
    [{ a: 1 }, { a: 1n }, true],
    [{ a: 1 }, { a: '1' }, false],
    [{ a: null }, { a: 'anything' }, true],
    [{ a: null }, {}, false],
    [{}, undefined, true],
    [{ 'x-match': 'any' }, { a: 1 }, false],
    [{ 'x-match': 'any', a: 1, b: 2 }, { b: 2 }, true],
    [{ 'x-match': 'any', 'x-a': 1 }, { 'x-a': 1 }, false],
    [{ 'x-match': 'any-with-x', 'x-a': 1 }, { 'x-a': 1 }, true],
    [{ 'x-match': 'all', 'x-a': 1 }, {}, true],
    [{ 'x-match': 'all-with-x', 'x-a': 1 }, {}, false],
    [{ a: 'x' }, { a: Buffer.from('x') }, true],
    [{ a: { b: 1, c: 2 } }, { a: { b: 1, c: 2 } }, true],
    [{ a: { b: 1, c: 2 } }, { a: { c: 2, b: 1 } }, false],
    [{ a: [1, 2] }, { a: [1, 2] }, true],
    [{ a: [1, 2] }, { a: [1] }, false],
    [{ a: new Date(5000) }, { a: new Date(5000) }, true],
  ])('with headers: a binding %j takes %j: %s', (args, headers, expected) => {
    const engine = new Engine();
    engine.queue('q');
    engine.bind('q', 'amq.headers', '', args);
    expect(engine.publish('amq.match', '')).toBe('unroutable');
    expect(engine.publish('amq.headers', '', '', { headers })).toBe(expected ? 'routed' : 'unroutable');
  });

  test('follows exchanges bound to exchanges, in circles too, and reaches each queue once', () => {
    const engine = new Engine();
    for (const name of ['a', 'b', 'c']) engine.exchange(name, 'fanout');
    for (const [source, destination] of [
      ['a', 'b'],
      ['b', 'c'],
      ['c', 'a'],
      ['a', 'a'],
    ] as const) {
      engine.host.bindExchange({ source, destination, routingKey: '', arguments: {} });
    }
    engine.queue('q');
    for (const name of ['a', 'b', 'c']) engine.bind('q', name);
    engine.publish('a', 'k');
    expect(reached(engine)).toEqual(['q']);
  });

  test('that no binding takes goes to the alternate exchange, which counts as routed', () => {
    const engine = new Engine();
    engine.exchange('x', 'direct', { arguments: { 'alternate-exchange': 'y' } });
    engine.exchange('y', 'direct', { arguments: { 'alternate-exchange': 'z' } });
    engine.exchange('z', 'fanout', { arguments: { 'alternate-exchange': 'x' } });
    expect(engine.publish('x', 'k')).toBe('unroutable');
    engine.queue('q');
    engine.bind('q', 'z');
    expect(engine.publish('x', 'k')).toBe('routed');
    // A binding that leads nowhere is a binding.
    engine.exchange('nowhere');
    engine.host.bindExchange({ source: 'x', destination: 'nowhere', routingKey: 'k', arguments: {} });
    expect(engine.publish('x', 'k')).toBe('unroutable');
    expect(reached(engine)).toEqual(['q']);
  });

  test('goes on to an internal exchange from another', () => {
    const engine = new Engine();
    engine.exchange('inner', 'fanout', { internal: true });
    engine.host.bindExchange({ source: 'amq.direct', destination: 'inner', routingKey: 'k', arguments: {} });
    engine.queue('q');
    engine.bind('q', 'inner');
    expect(engine.publish('amq.direct', 'k')).toBe('routed');
  });
});

describe('an auto-delete exchange', () => {
  test('goes with the last binding that leads out of it, and takes those along that lead to it', () => {
    const engine = new Engine();
    engine.exchange('inner', 'fanout', { autoDelete: true });
    engine.exchange('outer', 'fanout', { autoDelete: true });
    engine.host.bindExchange({ source: 'outer', destination: 'inner', routingKey: '', arguments: {} });
    engine.queue('q');
    engine.bind('q', 'inner', 'a');
    engine.bind('q', 'inner', 'b');
    engine.host.unbindQueue({ queue: 'q', exchange: 'inner', routingKey: 'a', arguments: {} }, OWNER);
    expect(Array.from(engine.host.exchanges, ({ name }) => name)).toEqual(expect.arrayContaining(['inner', 'outer']));
    engine.host.deleteQueue('q', { ifUnused: false, ifEmpty: false }, OWNER);
    const left = Array.from(engine.host.exchanges, ({ name }) => name);
    expect(left).not.toContain('inner');
    expect(left).not.toContain('outer');
  });

  test('stays while it has never been bound, and when only bindings to it go', () => {
    const engine = new Engine();
    engine.exchange('x', 'direct', { autoDelete: true });
    const binding = { source: 'amq.direct', destination: 'x', routingKey: '', arguments: {} };
    engine.host.bindExchange(binding);
    engine.host.unbindExchange(binding);
    expect(answer(() => engine.exchange('x', 'direct', { passive: true }))).toBe('done');
  });
});

describe('sender-selected distribution', () => {
  test('sends copies to the keys in CC and BCC, and only the consumer of BCC cannot tell', () => {
    const engine = new Engine();
    for (const name of ['to', 'cc', 'bcc']) engine.queue(name);
    const headers = { CC: ['cc', 1, 'to'], BCC: ['bcc'], mine: 1 };
    expect(engine.publish('', 'to', '', { headers, contentType: 'text/plain' })).toBe('routed');
    expect(reached(engine)).toEqual(['bcc', 'cc', 'to']);
    for (const name of ['to', 'cc', 'bcc']) {
      expect(engine.drain(name).map(({ routingKey, properties }) => ({ routingKey, properties }))).toEqual([
        {
          routingKey: 'to',
          properties: { contentType: 'text/plain', headers: { CC: ['cc', 1, 'to'], mine: 1 } },
        },
      ]);
    }
  });

  test('counts for topics, too', () => {
    const engine = new Engine();
    engine.queue('q');
    engine.bind('q', 'amq.topic', 'a.*');
    expect(engine.publish('amq.topic', 'x', '', { headers: { CC: ['a.b', 'a.c'] } })).toBe('routed');
    expect(reached(engine)).toEqual(['q']);
  });

  test.each<[string, FieldValue, string]>([
    ['CC', 'a', 'longstr'],
    ['BCC', 1, 'signedint'],
    ['CC', {}, 'table'],
    ['CC', null, 'void'],
  ])('with %s %j is refused', (name, value, type) => {
    expect(answer(() => new Engine().publish('', 'q', '', { headers: { [name]: value } }))).toBe(
      `406 channel PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"${name}",${type}}`,
    );
  });
});

describe('an expiration', () => {
  test.each([
    ['', 'no_integer'],
    ['a', 'no_integer'],
    [' 5', 'no_integer'],
    ['-', 'no_integer'],
    ['-1', '{value_negative,-1}'],
    ['1.5', '{leftover_string,".5"}'],
    ['5 ', '{leftover_string," "}'],
    ['315360000001', '{value_too_large,315360000001}'],
  ])('of %j is refused', (expiration, problem) => {
    expect(answer(() => checkProperties(message('', 'q', '', { expiration }), 'guest'))).toBe(
      `406 channel PRECONDITION_FAILED - invalid expiration '${expiration}': ${problem}`,
    );
  });

  test.each(['0', '+5', '315360000000'])('of %j is taken', (expiration) => {
    expect(answer(() => checkProperties(message('', 'q', '', { expiration }), 'guest'))).toBe('done');
  });
});

describe('direct reply-to', () => {
  test('reaches who asked for it, and counts as unroutable all the same', () => {
    const engine = new Engine();
    const name = 'amq.rabbitmq.reply-to.token';
    const replies: string[] = [];
    const asking = engine.host.replyTo(name, ({ body, routingKey }) =>
      replies.push(`${routingKey} ${body.toString()}`),
    );
    expect(engine.publish('', name, 'one')).toBe('unroutable');
    engine.publish('', 'nobody', 'two', { headers: { CC: [name] } });
    expect(engine.host.hasReplyTo(name)).toBe(true);
    asking.cancel();
    engine.publish('', name, 'three');
    expect(replies).toEqual([`${name} one`, 'nobody two']);
    expect(engine.host.hasReplyTo(name)).toBe(false);
  });
});
