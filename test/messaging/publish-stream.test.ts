/** Streams of messages: in order, with back-pressure, until the first failure. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { z } from 'zod';

import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { PublishAllError } from '../../lib/errors.js';
import { message } from '../../lib/messaging/message.js';
import { AmqpPublisher, type StreamedMessage } from '../../lib/messaging/publisher.js';
import { publishStream } from '../../lib/messaging/publish-stream.js';
import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { Scratch } from '../support/scratch.js';
import { Gate, within } from '../support/waits.js';

let scratch: Scratch;
let connection: AmqpConnection;
let publisher: AmqpPublisher;

beforeEach(async () => {
  scratch = await Scratch.open();
  connection = new AmqpConnection(brokerUrl);
  await connection.open();
  publisher = new AmqpPublisher(new AmqpChannel(connection));
});

afterEach(async () => {
  await connection.close();
  await scratch[Symbol.asyncDispose]();
});

describe('a stream', () => {
  test('is published in order, and its progress is told', async () => {
    const queue = await scratch.queue();
    const told: number[] = [];
    async function* messages(): AsyncGenerator<StreamedMessage> {
      for (let index = 0; index < 100; index += 1) yield await Promise.resolve({ routingKey: queue, payload: index });
    }
    const count = await publisher.publishAll('', messages(), { maxInFlight: 7, progress: (n) => told.push(n) });
    expect(count).toBe(100);
    expect(told).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
    expect((await scratch.drain(queue)).map(Number)).toEqual(Array.from({ length: 100 }, (_, index) => index));
  });

  test('by a contract stops at what does not fit, and says how many are confirmed', async () => {
    const queue = await scratch.queue();
    const Counted = message({ exchange: '', routingKey: queue, schema: z.number() });
    const error = await failure(publisher.publishAll(Counted, [1, 2, 'three' as never, 4], { maxInFlight: 1 }));
    expect(error).toBeInstanceOf(PublishAllError);
    expect(error).toMatchObject({ code: 'PUBLISH_ALL_FAILED', confirmed: 2, cause: { code: 'INVALID_PAYLOAD' } });
    expect(await scratch.drain(queue)).toEqual(['1', '2']);
  });

  test('is not pulled further than may be in flight, and closed after a failure', async () => {
    let pulled = 0;
    let isClosed = false;
    function* numbers(): Generator<number> {
      try {
        for (;;) yield (pulled += 1);
      } finally {
        isClosed = true;
      }
    }
    const gate = new Gate();
    const full = new Gate();
    const published = publishStream(
      numbers(),
      async (number) => {
        if (number === 3) full.open();
        await gate.opened;
        if (number === 2) throw new Error('no');
      },
      { maxInFlight: 3 },
    );
    await full.opened;
    await new Promise(setImmediate);
    expect(pulled).toBe(3);
    gate.open();
    const error = await failure(published);
    expect(error).toMatchObject({ confirmed: 2, cause: { message: 'no' } });
    expect(isClosed).toBe(true);
  });

  test.each(['a signal', 'a failure'])('that takes its time is ended by %s all the same', async (what) => {
    const abort = new AbortController();
    async function* one(): AsyncGenerator<number> {
      yield 1;
      if (what === 'a signal') abort.abort(new Error('enough'));
      await new Promise(() => undefined);
    }
    const publish = async (): Promise<void> => {
      await new Promise(setImmediate);
      if (what === 'a failure') throw new Error('enough');
    };
    const error = await within('the end', failure(publishStream(one(), publish, { signal: abort.signal })));
    expect(error).toMatchObject({ confirmed: what === 'a signal' ? 1 : 0, cause: { message: 'enough' } });
  });

  test('that throws, and progress that throws, end it', async () => {
    function* broken(): Generator<number> {
      yield 1;
      throw new Error('broken');
    }
    const publish = (): Promise<void> => Promise.resolve();
    expect(await failure(publishStream(broken(), publish))).toMatchObject({
      confirmed: 1,
      cause: { message: 'broken' },
    });
    const progress = (): void => {
      throw new Error('progress');
    };
    expect(await failure(publishStream([1], publish, { progress }))).toMatchObject({ cause: { message: 'progress' } });
    expect(await publishStream([], publish)).toBe(0);
    expect(await failure(publishStream([], publish, { maxInFlight: 0 }))).toMatchObject({ code: 'INVALID_OPTION' });
  });
});
