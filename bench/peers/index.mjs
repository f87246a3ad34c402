/** The clients that are measured. */

/**
 * @typedef {object} Peer
 * @property {string} title As it is shown.
 * @property {string | undefined} package Where the version is read, in `node_modules`.
 * @property {'ours' | 'peer' | 'floor'} role Ratios are to the best of role `peer`.
 * @property {() => Promise<import('./driver.js').Driver>} load
 */

/** @type {Readonly<Record<string, Peer>>} */
export const PEERS = {
  floor: {
    title: 'bare socket',
    package: undefined,
    role: 'floor',
    load: async () => (await import('./floor.mjs')).driver,
  },
  ours: {
    title: 'nest-amqp',
    package: 'nest-amqp',
    role: 'ours',
    load: async () => (await import('./ours.mjs')).driver,
  },
  'ours-recovering': {
    title: 'nest-amqp, recovering',
    package: 'nest-amqp',
    role: 'ours',
    load: async () => (await import('./ours-recovering.mjs')).driver,
  },
  'ours-nest': {
    title: 'nest-amqp in Nest',
    package: 'nest-amqp',
    role: 'ours',
    load: async () => (await import('./ours-nest.mjs')).driver,
  },
  amqplib: {
    title: 'amqplib',
    package: 'amqplib',
    role: 'peer',
    load: async () => (await import('./amqplib.mjs')).driver,
  },
  'rabbitmq-client': {
    title: 'rabbitmq-client',
    package: 'rabbitmq-client',
    role: 'peer',
    load: async () => (await import('./rabbitmq-client.mjs')).driver,
  },
  'amqp-client': {
    title: '@cloudamqp/amqp-client',
    package: '@cloudamqp/amqp-client',
    role: 'peer',
    load: async () => (await import('./amqp-client.mjs')).driver,
  },
  golevelup: {
    title: '@golevelup/nestjs-rabbitmq',
    package: '@golevelup/nestjs-rabbitmq',
    role: 'peer',
    load: async () => (await import('./golevelup.mjs')).driver,
  },
  microservices: {
    title: '@nestjs/microservices',
    package: '@nestjs/microservices',
    role: 'peer',
    load: async () => (await import('./microservices.mjs')).driver,
  },
};
