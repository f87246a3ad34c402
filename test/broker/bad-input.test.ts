/** What the embedded broker is told wrongly: refused at once, in words that say what is wanted. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import { EmbeddedBroker } from '../../lib/broker/embedded-broker.js';
import { bootOnBroker } from '../../lib/testing/boot-on-broker.js';
import { AmqpError } from '../../lib/errors.js';
import { failure } from '../support/client.js';

let broker: EmbeddedBroker;

beforeEach(() => {
  broker = EmbeddedBroker.create();
});

afterEach(async () => {
  await broker.close();
});

/** As from JavaScript, which no compiler has looked at. */
const anything = (value: unknown): never => value as never;

function refusal(run: () => unknown): AmqpError {
  try {
    run();
  } catch (error) {
    if (error instanceof AmqpError) return error;
    throw error;
  }
  throw new Error('it was taken');
}

describe('an argument that makes no sense is refused', () => {
  test.each<[what: string, run: () => unknown, told: string]>([
    ['a reason that is no text', () => broker.block(anything(5)), 'block takes a reason'],
    ['an empty reason', () => broker.block(''), 'block takes a reason'],
    ['a count that is no number', () => broker.nackNext(anything('all')), 'nackNext takes a number'],
    ['a count below 0', () => broker.nackNext(-1), 'nackNext takes a number'],
    ['no consumer at all', () => broker.cancelConsumer(anything(undefined)), 'cancelConsumer takes a consumer tag'],
    ['an unknown queue', () => broker.queue('billing'), "no queue 'billing'"],
    ['a queue that is no text', () => broker.queue(anything(undefined)), 'queue takes the name of a queue'],
    ['an unknown virtual host', () => broker.queue('billing', '/shop'), "no virtual host '/shop'"],
    ['a virtual host that is no text', () => broker.queue('billing', anything(5)), 'name of a virtual host'],
  ])('%s', (_what, run, told) => {
    const error = refusal(run);
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain(told);
  });

  test.each([-1, 1.5, Number.NaN, '5'])('a limit of %p messages to look at', async (limit) => {
    const { connect } = await import('../../lib/client/connection.js');
    await using connection = await connect(broker.url);
    await (await connection.channel()).queueDeclare('q');
    const error = refusal(() => broker.queue('q').peek(anything(limit)));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(error.message).toContain('peek takes a number');
  });

  test.each<[what: string, run: () => unknown, told: string]>([
    ['a time that goes back', () => broker.advance(-1), 'argument of advance'],
    ['a time that is none', () => broker.advance(anything('soon')), 'argument of advance'],
    ['a latency that is none', () => broker.latency(anything('some')), 'argument of latency'],
  ])('%s', (_what, run, told) => {
    const error = refusal(run);
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(told);
  });
});

describe('settled() refuses', () => {
  test.each<[what: string, options: unknown, told: string]>([
    ['an unknown option', { timout: '5s' }, 'settled has no option timout'],
    ['a time in the place of the options', '5s', 'have to be an object'],
    ['null', null, 'have to be an object'],
    ['a timeout that is none', { timeout: 'soon' }, 'timeout of settled'],
    ['a signal that is none', { signal: true }, 'AbortSignal'],
  ])('%s', async (_what, options, told) => {
    const error = await failure(broker.settled(anything(options)));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(told);
  });
});

describe('a broker is not made with', () => {
  test.each<[what: string, options: unknown, told: string]>([
    ['a port in the place of the options', 5672, 'as in { port: 5672 }'],
    ['an unknown option', { vhosts: ['/'] }, 'vhosts'],
    ['a name that is no text', { name: 5 }, 'name'],
    ['a name that UTF-8 cannot carry', { name: '\ud800' }, 'name'],
    ['no virtual host', { virtualHosts: [] }, 'at least one virtual host'],
    ['a virtual host twice', { virtualHosts: ['/', 'shop', 'shop'] }, "has 'shop' twice"],
    ['a virtual host that nobody can name', { virtualHosts: ['ü'.repeat(128)] }, 'more than 255 octets'],
    ['a user without a password', { users: { guest: undefined } }, 'users'],
    ['another clock', { clock: 'fast' }, 'clock'],
  ])('%s', async (_what, options, told) => {
    const error = await failure(EmbeddedBroker.listen(anything(options)));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(told);
  });
});

test('the url of a broker that listened and is closed leads nowhere, and says so', async () => {
  const listening = await EmbeddedBroker.listen({ name: 'over' });
  const closing = listening.close();
  expect(() => listening.url).toThrow(AmqpError);
  await closing;
  const error = refusal(() => listening.url);
  expect(error.code).toBe('CONNECTION_CLOSED');
  expect(error.message).toContain("'over' is closed");
});

describe('bootOnBroker refuses', () => {
  const builder = {
    overrideProvider: () => ({ useValue: () => builder }),
    compile: () => Promise.reject(new Error('it was compiled')),
  };

  test.each<[what: string, options: unknown, told: string]>([
    ['an unknown option', { conections: ['audit'] }, "no option 'conections'"],
    ['null', null, 'have to be an object'],
    ['a URL in the place of a broker', { broker: 'embedded:shop' }, 'has to be an EmbeddedBroker'],
    ['a name in the place of names', { connections: 'audit' }, 'list of names'],
    ['an application in the place of a function', { createApp: {} }, 'has to be a function'],
  ])('%s', async (_what, options, told) => {
    const error = await failure(bootOnBroker(anything(builder), anything(options)));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain(told);
  });

  test('what is no builder of a module', async () => {
    const error = await failure(bootOnBroker(anything({ imports: [] })));
    expect(error.code).toBe('INVALID_OPTION');
    expect(error.message).toContain('Test.createTestingModule');
  });
});
