/**
 * How Jest runs the tests: the TypeScript sources as ES modules, without a build. Types are left to `npm run type-check`,
 * the broker to `test/support/global-setup.mjs`.
 */

/** @type {import('jest').Config} */
const config = {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  testTimeout: 20_000,
  extensionsToTreatAsEsm: ['.ts'],
  // Each file on its own: tsconfig.json sets isolatedModules.
  transform: { '\\.ts$': ['ts-jest', { useESM: true, tsconfig: '<rootDir>/tsconfig.json' }] },
  resolver: '<rootDir>/test/support/resolver.cjs',
  // The package's doors by the names its users write.
  moduleNameMapper: {
    '^nest-amqp$': '<rootDir>/lib/index.ts',
    '^nest-amqp/client$': '<rootDir>/lib/client.ts',
    '^nest-amqp/testing$': '<rootDir>/lib/testing.ts',
  },
  globalSetup: '<rootDir>/test/support/global-setup.mjs',
  globalTeardown: '<rootDir>/test/support/global-teardown.mjs',
  reporters: ['default', '<rootDir>/test/support/summary-reporter.mjs'],
};

export default config;
