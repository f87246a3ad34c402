/** Arguments in the wrong places, as JavaScript and `any` let them stand: what is missing is said, and nothing is sent. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AmqpPublisher, AmqpRpcClient } from 'nest-amqp';
import { lastValueFrom } from 'rxjs';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { failure } from '../support/client.js';

/** Past the compiler. */
type Loose = Record<string, (...args: unknown[]) => unknown>;

let connection: AmqpConnection;
let publisher: Loose & { to(...args: unknown[]): Loose };
let rpc: Loose & { request$(...args: unknown[]): ReturnType<AmqpRpcClient['request$']> };

beforeEach(() => {
  // Nobody opens it: nothing gets as far as that.
  connection = new AmqpConnection('amqp://127.0.0.1');
  publisher = new AmqpPublisher(new AmqpChannel(connection)) as never;
  rpc = new AmqpRpcClient(connection) as never;
});

afterEach(async () => {
  await connection.close();
});

const order = { id: 1 };
const golevelup = { exchange: 'shop', routingKey: 'quote', payload: order };

describe('what is called without one of its arguments names the one that is no text, and how it is called:', () => {
  const PUBLISH = 'publish(exchange, routingKey, payload, options)';
  const REQUEST = 'request(exchange, routingKey, payload, options)';
  const PUBLISH_ALL = 'publishAll(exchange, routingKey, payloads, options)';

  test.each<[what: string, call: () => unknown, says: string]>([
    [
      'publish',
      () => publisher['publish']?.('shop', order),
      `routingKey has to be a string, it is an object: ${PUBLISH}`,
    ],
    ['publish', () => publisher['publish']?.(order), `exchange has to be a string, it is an object: ${PUBLISH}`],
    [
      'sendToQueue',
      () => publisher['sendToQueue']?.(order),
      'queue has to be a string, it is an object: sendToQueue(queue, payload, options)',
    ],
    [
      'publish of a handle',
      () => publisher.to('shop')['publish']?.(order),
      'routingKey has to be a string, it is an object: publish(routingKey, payload, options)',
    ],
    [
      'publishAll',
      () => publisher['publishAll']?.('shop', [order]),
      `routingKey has to be a string, it is a list: ${PUBLISH_ALL}`,
    ],
    [
      'publishAll',
      () => publisher['publishAll']?.([order]),
      `exchange has to be a string, it is a list: ${PUBLISH_ALL}`,
    ],
    ['request', () => rpc['request']?.(golevelup), `exchange has to be a string, it is an object: ${REQUEST}`],
    ['request', () => rpc['request']?.('shop', order), `routingKey has to be a string, it is an object: ${REQUEST}`],
    [
      'requestToQueue',
      () => rpc['requestToQueue']?.(undefined, order),
      'queue has to be a string, it is undefined: requestToQueue(queue, payload, options)',
    ],
    [
      'request$',
      () => lastValueFrom(rpc.request$('shop', order)),
      'routingKey has to be a string, it is an object: request$(exchange, routingKey, payload, options)',
    ],
  ])('%s', async (_what, call, says) => {
    const error = await failure(call() as Promise<unknown>);
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', message: `${says}.` });
  });
});

test('a handle of no exchange is none', () => {
  expect(() => publisher.to(undefined)).toThrow('exchange has to be a string, it is undefined: to(exchange).');
});

test('a routing key that is made of a payload and is no text fails its message', async () => {
  const error = await failure(publisher['publishAll']?.('shop', () => undefined, [order]) as Promise<unknown>);
  expect(error).toMatchObject({
    code: 'PUBLISH_ALL_FAILED',
    cause: { code: 'INVALID_ARGUMENT', message: expect.stringContaining('routingKey has to be a string') as unknown },
  });
});
