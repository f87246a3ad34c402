/**
 * Chooses the broker for all tests before they run: the embedded one where NEST_AMQP_TEST_BROKER is embedded, another
 * Debian's RabbitMQ where NEST_AMQP_TEST_RABBITMQ is 4 or 4.3, else the one AMQP_URL names, else a private node of the installed RabbitMQ, which it
 * installs where it may. Test files read the choice through `broker.mjs`, which also starts the embedded broker;
 * `global-teardown.mjs` ends the node.
 */
import { existsSync, rmSync, writeFileSync } from 'node:fs';

import { brokerVersion } from './amqp-probe.mjs';
import { aptGet, mayInstall } from './apt.mjs';
import { DEBIAN_VERSIONS, debianRabbitMq } from './rabbitmq-debian.mjs';
import { findRabbitMq } from './rabbitmq-install.mjs';
import { RabbitMqServer } from './rabbitmq-server.mjs';

const PROBE_DEADLINE = 10_000;
const POLICY_FILE = '/usr/sbin/policy-rc.d';

const ADVICE = `The tests need a real RabbitMQ, and rabbitmq-server was not found. Do one of these:
  Debian, Ubuntu:  sudo apt-get install rabbitmq-server
  macOS:           brew install rabbitmq
  elsewhere:       set RABBITMQ_SERVER to the path of the script rabbitmq-server
  a broker that runs already:  set AMQP_URL, for example amqp://guest:guest@127.0.0.1:5672`;

/** @type {RabbitMqServer | undefined} */
export let privateServer;

export default async function globalSetup() {
  if (process.env['NEST_AMQP_TEST_BROKER'] === 'embedded') {
    say('Broker: the embedded one, in the process of each test file');
    return;
  }
  const wanted = process.env['NEST_AMQP_TEST_RABBITMQ'] ?? '';
  const url = process.env['AMQP_URL'] ?? '';
  if (DEBIAN_VERSIONS.includes(wanted)) {
    // For the nodes that test files start, too.
    process.env['NEST_AMQP_TEST_INSTALL'] = JSON.stringify(debianRabbitMq(wanted));
  } else if (wanted !== '') {
    const choice = DEBIAN_VERSIONS.join(' or ');
    throw new Error(`NEST_AMQP_TEST_RABBITMQ is ${wanted}; it can be ${choice}, or unset for the installed RabbitMQ`);
  } else if (url !== '') {
    await useExternal(url);
    return;
  } else if (findRabbitMq() === undefined) {
    installRabbitMq();
  }
  const started = performance.now();
  const server = await RabbitMqServer.start();
  privateServer = server;
  process.env['AMQP_URL'] = server.url;
  process.env['NEST_AMQP_TEST_BROKER'] = 'private';
  process.env['NEST_AMQP_TEST_NODE'] = JSON.stringify(server.node);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  say(`Broker: private RabbitMQ ${server.version} on port ${String(server.port)}, started in ${seconds} s`);
}

export async function stopPrivateServer() {
  const server = privateServer;
  if (server === undefined) return;
  privateServer = undefined;
  // In watch mode the next run chooses again.
  delete process.env['AMQP_URL'];
  delete process.env['NEST_AMQP_TEST_INSTALL'];
  // Its data goes away with it, so there is nothing an orderly end would save.
  await server.kill();
  await server.stop();
}

/** @param {string} url */
async function useExternal(url) {
  const { protocol, hostname, port } = new URL(url);
  let version = '';
  if (protocol === 'amqp:') {
    const host = hostname.replace(/^\[|\]$/g, '');
    try {
      version = await brokerVersion(
        host === '' ? 'localhost' : host,
        Number(port === '' ? 5672 : port),
        PROBE_DEADLINE,
      );
    } catch (error) {
      throw new Error(`AMQP_URL names a broker that does not answer: ${String(error)}`, { cause: error });
    }
  }
  process.env['NEST_AMQP_TEST_BROKER'] = 'external';
  // Not the URL, which holds a password.
  say(
    `Broker: ${version === '' ? 'the one' : `version ${version}`} given by AMQP_URL, ${hostname}:${port || 'default'}`,
  );
}

function installRabbitMq() {
  if (!mayInstall()) throw new Error(ADVICE);
  // Debian starts a service as it installs it, unless this file forbids it; the tests need the programs only.
  const forbids = !existsSync(POLICY_FILE);
  if (forbids) writeFileSync(POLICY_FILE, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    aptGet('update');
    aptGet('install', '-y', '--no-install-recommends', 'rabbitmq-server');
  } catch (error) {
    throw new Error(`${String(error)}\n${ADVICE}`, { cause: error });
  } finally {
    if (forbids) rmSync(POLICY_FILE, { force: true });
  }
  if (findRabbitMq() === undefined) throw new Error(ADVICE);
}

/** @param {string} line */
function say(line) {
  process.stderr.write(`${line}\n`);
}
