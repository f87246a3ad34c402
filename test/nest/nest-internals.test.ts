/** A Nest that lacks what handlers are made with: the boot says so by name, in place of handlers without their guards. */
import { createRequire } from 'node:module';
import { Injectable } from '@nestjs/common';
import { ExternalContextCreator } from '@nestjs/core';
import { expect, test } from '@jest/globals';
import { AmqpModule, type AmqpModuleOptions, Consume, ConsumerRegistry } from 'nest-amqp';

import { brokerUrl } from '../support/broker.mjs';
import { failure } from '../support/client.js';
import { TestApp } from '../support/nest-app.js';

const { version } = createRequire(import.meta.url)('@nestjs/core/package.json') as { readonly version: string };

/** An application whose Nest has no such part of its `ExternalContextCreator`; not yet booted. */
async function appWithout(part: string, options: AmqpModuleOptions = {}): Promise<TestApp> {
  @Injectable()
  class BillingConsumer {
    @Consume({ queue: 'billing', autoStart: false })
    charge(): void {
      // Nothing is delivered here.
    }
  }
  const app = await TestApp.compile({
    imports: [AmqpModule.forRoot({ url: brokerUrl, ...options })],
    providers: [BillingConsumer],
  });
  const path = part.split('.');
  const last = path.pop() ?? '';
  let holder: object = app.get(ExternalContextCreator);
  for (const name of path) holder = Reflect.get(holder, name) as object;
  Object.defineProperty(holder, last, { value: undefined });
  return app;
}

test.each([
  ['externalErrorProxy', 'ExternalContextCreator.externalErrorProxy.createProxy()'],
  ['guardsContextCreator.config', 'guardsContextCreator.config.getGlobalRequestGuards()'],
  ['pipesContextCreator.getGlobalMetadata', 'pipesContextCreator.getGlobalMetadata()'],
  ['handlerMetadataStorage', 'handlerMetadataStorage.get()'],
])('a boot with consumers fails without %s, and names it and the version', async (part, named) => {
  const app = await appWithout(part);
  const error = await failure(app.module.init());
  await app.close();
  expect(error).toMatchObject({ name: 'AmqpError', code: 'NEST_UNSUPPORTED' });
  expect(error.message).toContain(`@nestjs/core ${version} has no `);
  expect(error.message).toContain(named);
});

test('an application that only publishes boots all the same', async () => {
  await using app = await appWithout('externalErrorProxy', { consumers: false });
  await app.module.init();
  expect(app.get(ConsumerRegistry).list()).toEqual([]);
});
