/** What a broker routes where: every type of exchange, alternate exchanges, and exchanges that are bound to exchanges. */
import { expect, test } from '@jest/globals';

import type { ConfirmChannel } from '../../lib/client/channel.js';
import { UnroutableError } from '../../lib/errors.js';
import { type FieldTable, field } from '../../lib/protocol/field-table.js';
import { failure, unique } from '../support/client.js';
import { Bench } from './bench.js';

/** Whether a queue took the message: the broker returns it when none did. */
async function routes(
  publisher: ConfirmChannel,
  exchange: string,
  key: string,
  headers?: FieldTable,
): Promise<boolean> {
  try {
    await publisher.basicPublish(exchange, key, '', { mandatory: true, headers });
    return true;
  } catch (error) {
    if (error instanceof UnroutableError) return false;
    throw error;
  }
}

/** Those of the keys that the exchange routes to a queue. */
async function routedOf(publisher: ConfirmChannel, exchange: string, keys: readonly string[]): Promise<string[]> {
  const fates = await Promise.all(keys.map((key) => routes(publisher, exchange, key)));
  return keys.filter((_, index) => fates[index]);
}

test('the default exchange routes to the queue whose name is the key, to that one only, and to no pattern', async () => {
  await using bench = await Bench.open();
  const [one, other] = [await bench.queue(), await bench.queue()];
  const publisher = await bench.confirming();
  expect(await routedOf(publisher, '', [one, '#', '', `${one}.`])).toEqual([one]);
  expect([await bench.drain(one), await bench.drain(other)]).toEqual([[''], []]);
});

test('a direct exchange routes to every queue bound with the very key, once to each', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('direct');
  const [first, second] = [await bench.queue(), await bench.queue()];
  for (const key of ['a', 'b', '']) await channel.queueBind(first, exchange, key);
  for (const key of ['b', '#']) await channel.queueBind(second, exchange, key);
  const publisher = await bench.confirming();
  expect(await routedOf(publisher, exchange, ['a', 'b', '', '#', 'c', 'A'])).toEqual(['a', 'b', '', '#']);
  expect([(await bench.drain(first)).length, (await bench.drain(second)).length]).toEqual([3, 2]);
});

test('a fanout exchange routes to every queue bound to it, whatever the keys, once to each', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('fanout');
  const publisher = await bench.confirming();
  expect(await routes(publisher, exchange, 'k')).toBe(false);
  const [first, second] = [await bench.queue(), await bench.queue()];
  for (const key of ['a', 'b', 'b']) await channel.queueBind(first, exchange, key);
  await channel.queueBind(second, exchange);
  await publisher.basicPublish(exchange, 'anything', 'x');
  expect([await bench.drain(first), await bench.drain(second)]).toEqual([['x'], ['x']]);
});

test('in a topic pattern * is one word and # any number of words; words may be empty, and an empty key has none', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const keys = [
    '',
    '.',
    'a',
    'z',
    'a.',
    '.a',
    'a.z',
    'a..z',
    'a.b',
    'a.b.z',
    'a.b.c.z',
    'a.z.b',
    'a.z.z',
    'b.a.z',
    'aa.z',
  ];
  const matches: Readonly<Record<string, readonly string[]>> = {
    '#': keys,
    '#.#': keys,
    '*': ['a', 'z'],
    '*.*': ['.', 'a.', '.a', 'a.z', 'a.b', 'aa.z'],
    '#.*': keys.filter((key) => key !== ''),
    '*.#': keys.filter((key) => key !== ''),
    'a.#': ['a', 'a.', 'a.z', 'a..z', 'a.b', 'a.b.z', 'a.b.c.z', 'a.z.b', 'a.z.z'],
    '#.z': ['z', 'a.z', 'a..z', 'a.b.z', 'a.b.c.z', 'a.z.z', 'b.a.z', 'aa.z'],
    'a.#.z': ['a.z', 'a..z', 'a.b.z', 'a.b.c.z', 'a.z.z'],
    'a.*.z': ['a..z', 'a.b.z', 'a.z.z'],
    'a.#.*.z': ['a..z', 'a.b.z', 'a.b.c.z', 'a.z.z'],
    '#.a.#': ['a', 'a.', '.a', 'a.z', 'a..z', 'a.b', 'a.b.z', 'a.b.c.z', 'a.z.b', 'a.z.z', 'b.a.z'],
    '': [''],
    '.': ['.'],
    'a..z': ['a..z'],
    'a#': [],
  };
  const queue = await bench.queue();
  const publisher = await bench.confirming();
  const found: Record<string, readonly string[]> = {};
  for (const pattern of Object.keys(matches)) {
    const exchange = await scratch.exchange('topic');
    await channel.queueBind(queue, exchange, pattern);
    found[pattern] = await routedOf(publisher, exchange, keys);
  }
  expect(found).toEqual(matches);
});

test('a queue gets a topic message once, however many of its patterns match, and until the last of them is unbound', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('topic');
  const queue = await bench.queue();
  for (const pattern of ['#', 'a.*', '*.b', 'a.b']) await channel.queueBind(queue, exchange, pattern);
  const publisher = await bench.confirming();
  await publisher.basicPublish(exchange, 'a.b', 'x');
  expect(await bench.drain(queue)).toEqual(['x']);
  for (const pattern of ['#', 'a.b', '*.b']) await channel.queueUnbind(queue, exchange, pattern);
  expect(await routedOf(publisher, exchange, ['a.b', 'c.b', 'b'])).toEqual(['a.b']);
});

test('a headers exchange compares all or any of the arguments with the headers; x-match says how, x- names count only with it', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const headers: Readonly<Record<string, FieldTable>> = {
    none: {},
    a: { a: 1 },
    ab: { a: 1, b: 'two' },
    other: { a: 2, b: 'two' },
    ax: { a: 1, 'x-c': true },
    x: { 'x-c': true },
  };
  const bindings: readonly (readonly [FieldTable, readonly string[]])[] = [
    [{ a: 1, b: 'two' }, ['ab']],
    [{ 'x-match': 'all', a: 1, b: 'two' }, ['ab']],
    [{ 'x-match': 'any', a: 1, b: 'two' }, ['a', 'ab', 'other', 'ax']],
    [{ 'x-match': 'all', a: 1, 'x-c': true }, ['a', 'ab', 'ax']],
    [{ 'x-match': 'all-with-x', a: 1, 'x-c': true }, ['ax']],
    [{ 'x-match': 'any', 'x-c': true }, []],
    [{ 'x-match': 'any-with-x', a: 2, 'x-c': true }, ['other', 'ax', 'x']],
    // Nothing is asked of the first; of the second nothing can be found.
    [{}, ['none', 'a', 'ab', 'other', 'ax', 'x']],
    [{ 'x-match': 'any' }, []],
    // Without a value it is enough that the header is there.
    [{ b: null }, ['ab', 'other']],
  ];
  const queue = await bench.queue();
  const publisher = await bench.confirming();
  for (const [binding, expected] of bindings) {
    const exchange = await scratch.exchange('headers');
    await channel.queueBind(queue, exchange, 'the key does not count', binding);
    const found: string[] = [];
    for (const [name, table] of Object.entries(headers)) {
      if (await routes(publisher, exchange, 'k', table)) found.push(name);
    }
    expect([binding, found]).toEqual([binding, expected]);
  }
});

test('a headers exchange routes a message without headers by bindings that ask for none, and compares numbers across widths', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('headers');
  const queue = await bench.queue();
  const publisher = await bench.confirming();
  await channel.queueBind(queue, exchange, '', { n: 1 });
  expect(await routes(publisher, exchange, '')).toBe(false);
  expect(await routes(publisher, exchange, '', { n: field.int64(1) })).toBe(true);
  expect(await routes(publisher, exchange, '', { n: '1' })).toBe(false);
  await channel.queueBind(queue, exchange);
  expect(await routes(publisher, exchange, '')).toBe(true);
});

test('an x-match that there is not is refused', async () => {
  await using bench = await Bench.open();
  const queue = await bench.queue();
  const exchange = await bench.scratch.exchange('headers');
  const bind = (match: string | number) =>
    bench.refusal((channel) => channel.queueBind(queue, exchange, '', { 'x-match': match }));
  expect(await bind('foo')).toMatchObject({
    replyCode: 406,
    replyText:
      'PRECONDITION_FAILED - Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x',
  });
  expect(await bind(1)).toMatchObject({
    replyCode: 406,
    replyText: 'PRECONDITION_FAILED - Invalid x-match field type signedint (value 1); expected longstr',
  });
});

test('bindings differ by their arguments, too: each is unbound by its own', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('direct');
  const queue = await bench.queue();
  await channel.queueBind(queue, exchange, 'k', { a: 1 });
  await channel.queueBind(queue, exchange, 'k', { a: 2 });
  const publisher = await bench.confirming();
  await publisher.basicPublish(exchange, 'k', 'once');
  expect(await bench.drain(queue)).toEqual(['once']);
  await channel.queueUnbind(queue, exchange, 'k');
  await channel.queueUnbind(queue, exchange, 'k', { a: 1 });
  expect(await routes(publisher, exchange, 'k')).toBe(true);
  await channel.queueUnbind(queue, exchange, 'k', { a: 2 });
  expect(await routes(publisher, exchange, 'k')).toBe(false);
});

test('an alternate exchange gets what its exchange routes nowhere, under the same key, and may have one of its own', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const last = await scratch.exchange('fanout');
  const second = await scratch.exchange('direct', { arguments: { 'alternate-exchange': last } });
  const first = await scratch.exchange('direct', { arguments: { 'alternate-exchange': second } });
  const [usual, other, rest] = [await bench.queue(), await bench.queue(), await bench.queue()];
  await channel.queueBind(usual, first, 'a');
  await channel.queueBind(other, second, 'b');
  await channel.queueBind(rest, last);
  const publisher = await bench.confirming();
  for (const key of ['a', 'b', 'c']) await publisher.basicPublish(first, key, key, { mandatory: true });
  const taken = await bench.take(rest);
  expect([await bench.drain(usual), await bench.drain(other)]).toEqual([['a'], ['b']]);
  expect([taken?.exchange, taken?.routingKey]).toEqual([first, 'c']);
});

test('an alternate exchange that is missing, or closes a circle, leaves the message unroutable', async () => {
  await using bench = await Bench.open();
  const { scratch } = bench;
  const missing = await scratch.exchange('direct', { arguments: { 'alternate-exchange': unique('exchange') } });
  const [one, other] = [scratch.exchangeName(), scratch.exchangeName()];
  await bench.channel.exchangeDeclare(one, 'direct', { arguments: { 'alternate-exchange': other } });
  await bench.channel.exchangeDeclare(other, 'direct', { arguments: { 'alternate-exchange': one } });
  const publisher = await bench.confirming();
  for (const exchange of [missing, one]) expect(await routes(publisher, exchange, 'k')).toBe(false);
});

test('exchanges bound in a circle deliver once to each queue', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const [one, other] = [await scratch.exchange('fanout'), await scratch.exchange('fanout')];
  await channel.exchangeBind(one, other);
  await channel.exchangeBind(other, one);
  await channel.exchangeBind(one, one);
  const [first, second] = [await bench.queue(), await bench.queue()];
  await channel.queueBind(first, one);
  await channel.queueBind(first, other);
  await channel.queueBind(second, other);
  const publisher = await bench.confirming();
  await publisher.basicPublish(one, 'k', 'x', { mandatory: true });
  expect([await bench.drain(first), await bench.drain(second)]).toEqual([['x'], ['x']]);
  const message = async (): Promise<string | undefined> => {
    await publisher.basicPublish(other, 'k', 'y');
    return (await bench.take(second))?.exchange;
  };
  expect(await message()).toBe(other);
});

test('an auto-delete exchange stays until it has lost its last binding, by unbind or with its queue', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exists = async (exchange: string): Promise<boolean> => {
    const asking = await bench.connection.channel();
    const found = await asking.exchangeDeclare(exchange, 'fanout', { passive: true }).then(
      () => true,
      () => false,
    );
    await asking.close();
    return found;
  };
  const exchange = await scratch.exchange('fanout', { autoDelete: true });
  const [first, second] = [await bench.queue(), await bench.queue()];
  expect(await exists(exchange)).toBe(true);
  await channel.queueBind(first, exchange);
  await channel.queueBind(second, exchange);
  await channel.queueUnbind(first, exchange);
  expect(await exists(exchange)).toBe(true);
  await channel.queueDelete(second);
  expect(await exists(exchange)).toBe(false);
  // A chain goes as a whole, from its end: each that goes was the last that the one before it was bound to.
  const [source, destination] = [
    await scratch.exchange('fanout', { autoDelete: true }),
    await scratch.exchange('fanout', { autoDelete: true }),
  ];
  await channel.exchangeBind(destination, source);
  await channel.queueBind(first, destination);
  await channel.queueDelete(first);
  expect([await exists(source), await exists(destination)]).toEqual([false, false]);
});

test('an exchange that is deleted takes its bindings with it: declared again it has none', async () => {
  await using bench = await Bench.open();
  const { channel, scratch } = bench;
  const exchange = await scratch.exchange('direct');
  const queue = await bench.queue();
  await channel.queueBind(queue, exchange, 'k');
  await channel.exchangeDelete(exchange);
  await channel.exchangeDeclare(exchange, 'direct');
  const publisher = await bench.confirming();
  expect(await routes(publisher, exchange, 'k')).toBe(false);
});

test('amq.direct, amq.fanout, amq.topic, amq.headers and amq.match are there, durable', async () => {
  await using bench = await Bench.open();
  const types = { direct: 'direct', fanout: 'fanout', topic: 'topic', headers: 'headers', match: 'headers' };
  for (const [name, type] of Object.entries(types)) {
    await bench.channel.exchangeDeclare(`amq.${name}`, type, { durable: true });
  }
  const missing = await failure(bench.channel.exchangeDeclare('amq.nothing', 'direct', { passive: true }));
  expect(missing).toMatchObject({ replyCode: 404 });
});
