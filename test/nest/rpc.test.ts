/** Requests and replies in an application: who is injected, what handlers' replies are, and what both make of peers by others. */
import { Injectable } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AmqpModule, type AmqpModuleOptions, AmqpRpcClient, InjectRpcClient, getRpcClientToken } from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';

let scratch: Scratch;

beforeEach(async () => {
  scratch = await Scratch.open();
});

afterEach(async () => {
  await scratch[Symbol.asyncDispose]();
});

describe('AmqpRpcClient', () => {
  test('is injected by its class, and by the name of its connection', async () => {
    @Injectable()
    class Both {
      constructor(
        readonly rpc: AmqpRpcClient,
        @InjectRpcClient('audit') readonly audit: AmqpRpcClient,
        @InjectRpcClient() readonly again: AmqpRpcClient,
      ) {}
    }
    await using app = await TestApp.boot({
      imports: [AmqpModule.forRoot({ url: brokerUrl }), AmqpModule.forRoot({ name: 'audit', url: brokerUrl })],
      providers: [Both],
    });
    const { rpc, audit, again } = app.get(Both);
    expect(again).toBe(rpc);
    expect(audit).not.toBe(rpc);
    expect(audit).toBe(app.get(getRpcClientToken('audit') as string));
    for (const client of [rpc, audit]) {
      expect(await failure(client.requestToQueue(scratch.queueName(), 1))).toMatchObject({ code: 'UNROUTABLE' });
    }
  });

  test('waits as long as the module says, and rejects what is pending when the application ends', async () => {
    const queue = await scratch.queue();
    const app = await TestApp.boot({ imports: [AmqpModule.forRoot({ url: brokerUrl, rpc: { timeout: 30 } })] });
    const rpc = app.get(AmqpRpcClient);
    expect(await failure(rpc.requestToQueue(queue, 1))).toMatchObject({ code: 'REPLY_TIMEOUT' });
    const pending = failure(rpc.requestToQueue(queue, 1, { timeout: '1m' }));
    await scratch.hasMessages(queue, 1);
    await app.close();
    expect(await pending).toMatchObject({ code: 'CHANNEL_CLOSED' });
  });

  test.each<[what: string, rpc: object]>([
    ['an unknown field', { retries: 1 }],
    ['a timeout that is none', { timeout: 'soon' }],
    ['room for nothing', { maxPending: 0 }],
  ])('with %s fails the boot', async (_what, rpc) => {
    const options: AmqpModuleOptions = { url: brokerUrl, rpc };
    expect(await failure(TestApp.compile({ imports: [AmqpModule.forRoot(options)] }))).toMatchObject({
      code: 'INVALID_OPTION',
    });
  });
});
