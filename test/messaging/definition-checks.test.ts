/** Definitions that cannot be, refused where they are written, and definitions that can. */
import { describe, expect, test } from '@jest/globals';

import { checkTopology } from '../../lib/messaging/definition-checks.js';
import { type Topology, binding, exchange, queue } from '../../lib/messaging/definitions.js';
import { thrown } from '../support/client.js';

const toldOf = (topology: unknown): string =>
  thrown(() => {
    checkTopology(topology as Topology);
  }).message;

const long = 'ä'.repeat(128);

describe('of a queue', () => {
  test.each<[field: string, value: unknown, told: string]>([
    ['name', 5, 'name of queue without a name is 5; it has to be text of at most 255 bytes'],
    ['name', long, 'it has to be text of at most 255 bytes'],
    ['type', 'qorum', "type of queue 'q' is 'qorum'; it has to be 'classic' or 'quorum' or 'stream'"],
    ['durable', 'false', "durable of queue 'q' is 'false'; it has to be true or false"],
    ['exclusive', 1, 'true or false'],
    ['autoDelete', null, 'true or false'],
    ['expires', 0, "expires of queue 'q' is 0; it has to be from 1 ms to ten years"],
    ['expires', '11y', 'from 1 ms to ten years'],
    ['expires', 'soon', 'a length of time'],
    ['messageTtl', -1, 'a length of time'],
    ['messageTtl', Number.NaN, 'a length of time'],
    ['maxLength', -1, "maxLength of queue 'q' is -1; it has to be an integer of 0 or more"],
    ['maxLength', 1.5, 'an integer of 0 or more'],
    ['maxLengthBytes', '5', 'an integer of 0 or more'],
    ['overflow', 'drop', "'drop-head' or 'reject-publish' or 'reject-publish-dlx'"],
    ['deadLetter', 'dead', '{ exchange, routingKey? }'],
    ['deadLetter', null, '{ exchange, routingKey? }'],
    ['deadLetter', { routingKey: 'a' }, '{ exchange, routingKey? }'],
    ['deadLetter', { exchange: long }, '{ exchange, routingKey? }'],
    ['deadLetter', { exchange: 'dead', key: 'a' }, '{ exchange, routingKey? }'],
    ['maxPriority', 0, 'an integer from 1 to 255'],
    ['maxPriority', 256, 'an integer from 1 to 255'],
    ['deliveryLimit', -2, 'an integer of -1 or more'],
    ['singleActiveConsumer', 'yes', 'true or false'],
    ['arguments', [], "an object: { 'x-name': value }"],
  ])('%s cannot be %p', (field, value, told) => {
    expect(toldOf({ queues: [{ name: 'q', [field]: value }] })).toContain(told);
  });

  test.each<[what: string, definition: object, told: string]>([
    ['a name that is empty', { name: '' }, 'leave the name out for a queue that the broker names'],
    ['a name that is the broker’s to give', { name: 'amq.gen-1' }, "begins with 'amq.', which is the broker's to give"],
    [
      'the same thing in a field and in arguments',
      { name: 'q', messageTtl: '1m', arguments: { 'x-message-ttl': 5 } },
      "Queue 'q' says messageTtl and, in arguments, x-message-ttl, which is the same",
    ],
    [
      'the same routing key of dead letters twice',
      { name: 'q', deadLetter: { exchange: 'a' }, arguments: { 'x-dead-letter-routing-key': 'b' } },
      'says deadLetter and, in arguments, x-dead-letter-routing-key',
    ],
  ])('%s cannot be', (_what, definition, told) => {
    expect(toldOf({ queues: [definition] })).toContain(told);
  });
});

describe('of an exchange', () => {
  test.each<[field: string, value: unknown, told: string]>([
    ['name', long, 'name of exchange'],
    ['type', 'topc', "type of exchange 'e' is 'topc'; it has to be 'direct', 'fanout', 'topic', 'headers', or 'x-…'"],
    ['durable', 'yes', 'true or false'],
    ['internal', 0, 'true or false'],
    ['alternateExchange', 5, 'text of at most 255 bytes'],
    ['arguments', 'a', 'an object'],
  ])('%s cannot be %p', (field, value, told) => {
    expect(toldOf({ exchanges: [{ name: 'e', type: 'topic', [field]: value }] })).toContain(told);
  });

  test('a name that is the broker’s own cannot be declared, as it is always there', () => {
    const told = toldOf({ exchanges: [{ name: 'amq.topic', type: 'topic' }] });
    expect(told).toContain('always there. Leave it out; bindings may name it all the same.');
  });

  test('an alternate exchange cannot be said twice', () => {
    const definition = { name: 'e', type: 'topic', alternateExchange: 'a', arguments: { 'alternate-exchange': 'b' } };
    expect(toldOf({ exchanges: [definition] })).toContain('alternateExchange and, in arguments, alternate-exchange');
  });
});

describe('of a binding', () => {
  test.each<[what: string, definition: object, told: string]>([
    ['a source that is too long', { source: long, queue: 'q' }, 'source of a binding'],
    ['a source that is no text', { source: 5, queue: 'q' }, 'no source exchange'],
    ['no source', { queue: 'q' }, 'no source exchange'],
    [
      'an exchange in the place of the source',
      { exchange: 'orders', queue: 'billing' },
      "A binding has exchange 'orders' and queue 'billing', and no source. source is the exchange that messages come from; queue or " +
        "exchange is where they go. Write { source: 'orders', queue: 'billing' }.",
    ],
    [
      'an exchange in the place of the source, to a queue that is defined there',
      { exchange: 'orders', queue: { name: 'billing' }, routingKey: 'a' },
      "Write { source: 'orders', queue: 'billing' }.",
    ],
    [
      'an exchange and no source',
      { exchange: 'orders' },
      "A binding has exchange 'orders', and no source. source is the exchange that messages come from; queue or exchange is where " +
        "they go. Write { source: '…', exchange: 'orders' }.",
    ],
    [
      'two destinations',
      { source: 'e', exchange: 'f', queue: 'q' },
      "The binding of 'e' has queue 'q' and exchange 'f', and needs one of them: where its messages go.",
    ],
    [
      'no destination',
      { source: 'e' },
      "The binding of 'e' needs either a queue or an exchange: where its messages go.",
    ],
    ['a queue that is too long', { source: 'e', queue: long }, 'more than 255 bytes'],
    ['a queue whose definition cannot be', { source: 'e', queue: { durble: true } }, "the unknown field 'durble'"],
    ['a queue that is no text', { source: 'e', queue: 5 }, 'needs either a queue or an exchange'],
    ['a key that is too long', { source: 'e', queue: 'q', routingKey: long }, 'routingKey of a binding'],
    ['a key that is no text', { source: 'e', queue: 'q', routingKey: 5 }, 'routingKey of a binding is 5'],
    ['arguments that are none', { source: 'e', queue: 'q', arguments: 'x-match' }, 'arguments of a binding'],
  ])('%s cannot be', (_what, definition, told) => {
    expect(toldOf({ bindings: [definition] })).toContain(told);
  });
});

test.each<[topology: unknown, told: string]>([
  [{ queues: { name: 'q' } }, "queues of the topology is { name: 'q' }; it has to be a list"],
  ['orders', "The topology is 'orders'; it has to be an object."],
  [{ queues: ['nu.b'] }, "A queue is 'nu.b'; it has to be an object: { name: 'nu.b' }."],
  [{ queues: [['nu.b']] }, "A queue is [ 'nu.b' ]; it has to be an object: { name: '…' }."],
  [{ exchanges: ['e'] }, "An exchange is 'e'; it has to be an object: { name: 'e', type: 'topic' }."],
  [{ exchanges: [null] }, "An exchange is null; it has to be an object: { name: '…', type: 'topic' }."],
  [{ bindings: ['e'] }, "A binding is 'e'; it has to be an object: { source: 'e', queue: 'billing' }."],
  [{ bindings: [undefined] }, 'A binding is undefined; it has to be an object'],
])('a topology cannot be %j', (topology, told) => {
  expect(toldOf(topology)).toContain(told);
});

test('what a definition may be is taken, and undefined is as good as nothing', () => {
  const own = queue();
  expect(() => {
    checkTopology({
      exchanges: [
        exchange({ name: 'e', type: 'headers', alternateExchange: 'lost', internal: true }),
        exchange({ name: 'd', type: 'x-delayed-message', arguments: { 'x-delayed-type': 'direct' } }),
      ],
      queues: [
        own,
        queue({ name: 'q', deliveryLimit: -1, maxPriority: 255, messageTtl: 0, expires: '365d', maxLength: 0 }),
        queue({
          name: 'r',
          deadLetter: { exchange: '', routingKey: 'q' },
          arguments: { 'x-queue-leader-locator': 'balanced' },
        }),
        { name: 's', type: undefined },
      ],
      bindings: [
        binding({ source: 'amq.topic', queue: own, routingKey: '#' }),
        binding({ source: 'e', exchange: 'd', arguments: { 'x-match': 'any', a: 1 } }),
      ],
    });
  }).not.toThrow();
});
