/**
 * The broker that `global-setup.mjs` chose, as test files see it. Starting another one for a test of its own is left to
 * `rabbitmq-server.mjs`.
 */
import { runCtl } from './rabbitmq-install.mjs';

export const brokerUrl = required('AMQP_URL');

/** Whether `ctl` can be used: not when the broker was given by its URL. */
export const ctlAvailable = process.env['NEST_AMQP_TEST_BROKER'] === 'private';

/**
 * Runs `rabbitmqctl -q` against the broker.
 *
 * @param {string[]} args
 * @returns {Promise<string>}
 */
export async function ctl(...args) {
  if (!ctlAvailable) throw new Error('rabbitmqctl cannot reach a broker that is given by AMQP_URL');
  /** @type {unknown} */
  const node = JSON.parse(required('NEST_AMQP_TEST_NODE'));
  return await runCtl(/** @type {import('./rabbitmq-install.mjs').RabbitMqNode} */ (node), args);
}

/** @param {string} variable */
function required(variable) {
  const value = process.env[variable];
  if (value === undefined || value === '') throw new Error(`${variable} is not set: run the tests by "npm test"`);
  return value;
}
