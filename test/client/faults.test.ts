/** What failures mean for a connection that comes back. */
import { describe, expect, test } from '@jest/globals';

import { Faults } from '../../lib/client/faults.js';
import { AmqpError, type AmqpErrorCode, type AmqpErrorFacts, ProtocolError } from '../../lib/errors.js';

const error = (code: AmqpErrorCode, facts?: AmqpErrorFacts): AmqpError => new AmqpError(code, code, facts);
const refused = error('CONNECT_FAILED', { closedBy: 'network' });
const denied = error('AUTHENTICATION_FAILED', { replyCode: 403 });
const broken = new ProtocolError(501, 'broken');

function faults({ firstIsRequired = true, newCredentials = false } = {}): Faults {
  return new Faults({ firstIsRequired, newCredentials });
}

describe('before the first connection', () => {
  test('gives up when every host has failed for good, not before', () => {
    const judge = faults();
    expect(judge.attemptFailed(denied, 3)).toBe('retry');
    expect(judge.attemptFailed(error('VHOST_REFUSED'), 3)).toBe('retry');
    expect(judge.attemptFailed(error('NOT_AMQP'), 3)).toBe('give up');
  });

  test('goes on when one host of several may still come', () => {
    const judge = faults();
    for (let round = 0; round < 5; round += 1) {
      expect(judge.attemptFailed(denied, 2)).toBe('retry');
      expect(judge.attemptFailed(refused, 2)).toBe('retry');
    }
  });

  test('gives up over what was declared wrongly, but not over a lock that a lost connection held', () => {
    expect(faults().attemptFailed(error('TOPOLOGY_FAILED', { replyCode: 405 }), 2)).toBe('retry');
    expect(faults().attemptFailed(error('TOPOLOGY_CONFLICT', { replyCode: 406 }), 2)).toBe('give up');
  });

  test('takes hanging up for no answer', () => {
    expect(faults().attemptFailed(error('NOT_AMQP', { closedBy: 'network' }), 1)).toBe('retry');
  });

  test('tries again with the new credentials of a provider', () => {
    expect(faults({ newCredentials: true }).attemptFailed(denied, 1)).toBe('retry');
    expect(faults({ newCredentials: true }).attemptFailed(error('VHOST_REFUSED'), 1)).toBe('give up');
  });
});

describe.each(['in the background', 'after the first connection'])('%s', (when) => {
  function later(): Faults {
    const judge = faults({ firstIsRequired: when !== 'in the background' });
    if (when !== 'in the background') judge.opened();
    return judge;
  }

  test('a failure that time will not mend on any host is tried again slowly', () => {
    const judge = later();
    expect(judge.attemptFailed(denied, 2)).toBe('retry');
    expect(judge.attemptFailed(denied, 2)).toBe('retry slowly');
    expect(judge.attemptFailed(refused, 2)).toBe('retry');
  });

  test('what was declared wrongly is tried again', () => {
    expect(later().attemptFailed(error('TOPOLOGY_CONFLICT'), 1)).toBe('retry');
  });
});

describe('a broken protocol', () => {
  test.each<[string, AmqpError]>([
    ['that this side found', broken],
    ['that the broker found', error('CONNECTION_CLOSED', { replyCode: 505 })],
  ])('%s in ten connections in a row is final', (_, fault) => {
    const judge = faults();
    for (let count = 1; count < 10; count += 1) {
      judge.opened();
      expect(judge.ended(fault, false)).toBe('retry');
      // That nothing listens for a while is neither here nor there.
      judge.attemptFailed(refused, 1);
    }
    expect(judge.ended(fault, false)).toBe('give up');
  });

  test('is counted in handshakes as well', () => {
    const judge = faults({ firstIsRequired: false });
    for (let count = 1; count < 10; count += 1) expect(judge.attemptFailed(broken, 1)).toBe('retry');
    expect(judge.attemptFailed(broken, 1)).toBe('give up');
  });

  test.each<[string, (judge: Faults) => void]>([
    ['was stable', (judge) => judge.ended(broken, true)],
    ['ended otherwise', (judge) => judge.ended(error('CONNECTION_LOST'), false)],
  ])('is counted anew after a connection that %s', (_, end) => {
    const judge = faults();
    for (let count = 1; count < 10; count += 1) judge.ended(broken, false);
    end(judge);
    for (let count = 1; count < 10; count += 1) expect(judge.ended(broken, false)).toBe('retry');
  });

  test('is no other reason to close a connection', () => {
    const judge = faults();
    for (const replyCode of [320, 500, 506, 530, 541]) {
      for (let count = 0; count < 20; count += 1)
        expect(judge.ended(error('CONNECTION_CLOSED', { replyCode }), false)).toBe('retry');
    }
  });
});
