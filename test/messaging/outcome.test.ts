/** What becomes of a delivery whose handler threw, decided without a broker. */
import { BadRequestException, ForbiddenException, HttpException, InternalServerErrorException } from '@nestjs/common';
import { describe, expect, test } from '@jest/globals';

import { AmqpError } from '../../lib/errors.js';
import {
  RejectDelivery,
  RequeueDelivery,
  RetryDelivery,
  type RetryOptions,
  outcomeOf,
  retryPolicy,
} from '../../lib/messaging/outcome.js';
import { thrown } from '../support/client.js';

const policy = retryPolicy({ attempts: 5, delays: ['1s', '10s', '1m'] }, 'the test');
const failed = new Error('the database is down');

describe('an error', () => {
  test('is retried after the delay of its attempt, the last one serving for the rest, until the attempts are used up', () => {
    const outcomes = [1, 2, 3, 4, 5, 6].map((attempt) => outcomeOf(failed, attempt, policy));
    expect(outcomes).toEqual([
      { kind: 'retry', delay: 1_000 },
      { kind: 'retry', delay: 10_000 },
      { kind: 'retry', delay: 60_000 },
      { kind: 'retry', delay: 60_000 },
      { kind: 'dead-letter' },
      { kind: 'dead-letter' },
    ]);
  });

  test('is not retried without a policy', () => {
    expect(outcomeOf(failed, 1, undefined)).toEqual({ kind: 'dead-letter' });
  });

  test.each<[what: string, error: unknown]>([
    ['RejectDelivery', new RejectDelivery()],
    ['a subclass of it', new (class NoSuchItem extends RejectDelivery {})()],
    ['a body that cannot be decoded', new AmqpError('UNDECODABLE', 'not JSON')],
    ['a pipe that refuses', new BadRequestException()],
    ['a guard that denies', new ForbiddenException()],
    ['an exception of another copy of Nest', { getStatus: () => 422 }],
  ])('that no retry can help is dead-lettered at once: %s', (_what, error) => {
    expect(outcomeOf(error, 1, policy)).toEqual({ kind: 'dead-letter' });
  });

  test.each<[what: string, error: unknown]>([
    ['a server that failed', new InternalServerErrorException()],
    ['too many requests', new HttpException('later', 429)],
    ['a request timeout', new HttpException('later', 408)],
    ['another error of this package', new AmqpError('CONNECTION_LOST', 'lost')],
    ['a status that is none', { getStatus: () => '400' }],
    ['a status that throws', { getStatus: () => failed.message.at(1_000)?.at(0) ?? fail() }],
    ['nothing', undefined],
  ])('that time may heal is retried: %s', (_what, error) => {
    expect(outcomeOf(error, 1, policy)).toEqual({ kind: 'retry', delay: 1_000 });
  });
});

function fail(): never {
  throw failed;
}

describe('RequeueDelivery', () => {
  test('puts back, whatever the attempts', () => {
    expect(outcomeOf(new RequeueDelivery(), 9, policy)).toEqual({ kind: 'requeue' });
    expect(outcomeOf(new RequeueDelivery(), 1, undefined)).toEqual({ kind: 'requeue' });
  });
});

describe('RetryDelivery', () => {
  test('has its own delay, with and without a policy, and is bounded by the attempts of one', () => {
    const later = new RetryDelivery({ after: '30s' });
    expect(outcomeOf(later, 1, undefined)).toEqual({ kind: 'retry', delay: 30_000 });
    expect(outcomeOf(later, 99, undefined)).toEqual({ kind: 'retry', delay: 30_000 });
    expect(outcomeOf(later, 4, policy)).toEqual({ kind: 'retry', delay: 30_000 });
    expect(outcomeOf(later, 5, policy)).toEqual({ kind: 'dead-letter' });
  });

  test.each<[after: number, rounded: number]>([
    [0, 1],
    [0.5, 1],
    [7, 7],
    [99, 99],
    [101, 110],
    [1_234, 1_300],
    [90_000, 90_000],
    [91_001, 92_000],
  ])('of %d ms waits %d ms: so many lengths of time, so many queues', (after, rounded) => {
    expect(new RetryDelivery({ after }).after).toBe(rounded);
  });

  test.each(['soon', -1, NaN])('refuses %p', (after) => {
    expect(() => new RetryDelivery({ after: after as number })).toThrow(/after of RetryDelivery/);
  });
});

describe('retry', () => {
  test('has delays of its own, and an attempt more than delays', () => {
    expect(retryPolicy({}, 'here')).toEqual({ attempts: 4, delays: [1_000, 10_000, 60_000] });
    expect(retryPolicy({ attempts: 2 }, 'here')).toMatchObject({ attempts: 2 });
    expect(retryPolicy({ delays: [0, 1.5] }, 'here')).toEqual({ attempts: 3, delays: [1, 2] });
  });

  test.each<[options: unknown, named: string]>([
    [3, 'retry'],
    [null, 'retry'],
    [{ attempts: 0 }, 'retry.attempts'],
    [{ attempts: 1.5 }, 'retry.attempts'],
    [{ delays: [] }, 'retry.delays'],
    [{ delays: '1s' }, 'retry.delays'],
    [{ delays: ['soon'] }, 'retry.delays'],
  ])('%j is refused by name', (options, named) => {
    const error = thrown(() => retryPolicy(options as RetryOptions, 'Billing.charge'));
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
    expect(error.message).toMatch(new RegExp(`^${named} of Billing.charge`));
  });
});
