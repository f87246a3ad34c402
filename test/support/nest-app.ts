/** Nest applications for tests: booted, their log collected, and closed at the end also when the boot failed. */
import type { LoggerService, ModuleMetadata } from '@nestjs/common';
import { Test, type TestingModule } from '@nestjs/testing';
import { AmqpConnection } from 'nest-amqp';

import { CollectedLog } from './collected-log.js';
import { within } from './waits.js';

/** `npm run test:nest-11`. */
export const isNest11 = process.env['NEST_AMQP_TEST_NEST'] === '11';

export class TestApp implements AsyncDisposable {
  readonly module: TestingModule;
  readonly log: CollectedLog;

  /** An application that runs; rejects with what its boot failed with. */
  static async boot(metadata: ModuleMetadata): Promise<TestApp> {
    const app = await TestApp.compile(metadata);
    try {
      await within('the boot', app.module.init(), 15_000);
    } catch (error) {
      await app.close();
      throw error;
    }
    return app;
  }

  /** An application whose providers exist, before any of its hooks. */
  static async compile(metadata: ModuleMetadata): Promise<TestApp> {
    const log = new CollectedLog();
    return new TestApp(
      await Test.createTestingModule(metadata)
        .setLogger(log satisfies LoggerService)
        .compile(),
      log,
    );
  }

  private constructor(module: TestingModule, log: CollectedLog) {
    this.module = module;
    this.log = log;
  }

  get<T>(token: abstract new (...args: never[]) => T): T;
  get(token: string | symbol): unknown;
  get(token: string | symbol | (abstract new (...args: never[]) => unknown)): unknown {
    return this.module.get(token, { strict: false });
  }

  async close(): Promise<void> {
    try {
      await within('the end of the application', this.module.close(), 15_000);
    } catch (error) {
      if (!isNest11) throw error;
      // Of an application whose boot failed Nest 11 runs no hook, and says again what the boot failed with.
      await this.get(AmqpConnection).close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
