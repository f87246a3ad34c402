/**
 * The broker that `global-setup.mjs` chose, as test files see it: a RabbitMQ that all of them share, or the embedded broker,
 * of which each file has its own. Starting another RabbitMQ for a test of its own is left to `rabbitmq-server.mjs`.
 */
import { afterAll } from '@jest/globals';

import { runCtl } from './rabbitmq-install.mjs';

const choice = process.env['NEST_AMQP_TEST_BROKER'];

export const brokerUrl = choice === 'embedded' ? await startEmbedded() : required('AMQP_URL');

/** Whether `ctl` can be used: not when the broker was given by its URL, nor with the embedded one, which has no rabbitmqctl. */
export const ctlAvailable = choice === 'private';

/**
 * Runs `rabbitmqctl -q` against the broker.
 *
 * @param {string[]} args
 * @returns {Promise<string>}
 */
export async function ctl(...args) {
  if (!ctlAvailable) throw new Error('rabbitmqctl cannot reach the embedded broker, nor one that is given by AMQP_URL');
  /** @type {unknown} */
  const node = JSON.parse(required('NEST_AMQP_TEST_NODE'));
  return await runCtl(/** @type {import('./rabbitmq-install.mjs').RabbitMqNode} */ (node), args);
}

/** For the time of one test file. */
async function startEmbedded() {
  // No other run loads it.
  const { EmbeddedBroker } = await import('../../lib/testing.js');
  const broker = await EmbeddedBroker.listen();
  afterAll(() => broker.close());
  return broker.url;
}

/** @param {string} variable */
function required(variable) {
  const value = process.env[variable];
  if (value === undefined || value === '') throw new Error(`${variable} is not set: run the tests by "npm test"`);
  return value;
}
