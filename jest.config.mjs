/**
 * How Jest runs the tests: the TypeScript sources as ES modules, without a build. Types are left to `npm run type-check`,
 * the broker to `test/support/global-setup.mjs`.
 */
import { availableParallelism } from 'node:os';

/** Most tests wait for a broker or a timer: more of them than there are processors fit side by side. */
const WORKERS = Math.max(3, availableParallelism());

/** Nest 11 lies in a folder of its own; `npm run test:nest-11` puts it in the place of the Nest that the package is built with. */
const NEST_11 = {
  '^(@nestjs/.+|rxjs|rxjs/.+|reflect-metadata)$': '<rootDir>/test/nest-11/node_modules/$1',
};

/** @type {import('jest').Config} */
const config = {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  // Waits inside a test end sooner, and say what for (test/support/waits.ts).
  testTimeout: 60_000,
  // Long fuzzing of recovery (test/fuzz/recovery.test.ts) can leave a handle open, which would hold up a run in one process.
  forceExit: true,
  maxWorkers: WORKERS,
  extensionsToTreatAsEsm: ['.ts'],
  // Each file on its own: tsconfig.json sets isolatedModules.
  transform: { '\\.ts$': ['ts-jest', { useESM: true, tsconfig: '<rootDir>/tsconfig.json' }] },
  resolver: '<rootDir>/test/support/resolver.cjs',
  // The package's doors by the names its users write.
  moduleNameMapper: {
    '^nest-amqp$': '<rootDir>/lib/index.ts',
    '^nest-amqp/client$': '<rootDir>/lib/client.ts',
    '^nest-amqp/terminus$': '<rootDir>/lib/terminus.ts',
    '^nest-amqp/testing$': '<rootDir>/lib/testing.ts',
    ...(process.env['NEST_AMQP_TEST_NEST'] === '11' ? NEST_11 : {}),
  },
  globalSetup: '<rootDir>/test/support/global-setup.mjs',
  globalTeardown: '<rootDir>/test/support/global-teardown.mjs',
  reporters: ['default', '<rootDir>/test/support/summary-reporter.mjs'],
};

export default config;
