/**
 * Chooses the broker for all tests before they run: the one AMQP_URL names, else a private node of the installed
 * RabbitMQ, which it installs where it may. Test files read the choice through `broker.mjs`; `global-teardown.mjs` ends
 * the node.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync, writeFileSync } from 'node:fs';

import { brokerVersion } from './amqp-probe.mjs';
import { findRabbitMq } from './rabbitmq-install.mjs';
import { RabbitMqServer } from './rabbitmq-server.mjs';

const PROBE_DEADLINE = 10_000;
const INSTALL_DEADLINE = 10 * 60_000;
const POLICY_FILE = '/usr/sbin/policy-rc.d';

const ADVICE = `The tests need a real RabbitMQ, and rabbitmq-server was not found. Do one of these:
  Debian, Ubuntu:  sudo apt-get install rabbitmq-server
  macOS:           brew install rabbitmq
  elsewhere:       set RABBITMQ_SERVER to the path of the script rabbitmq-server
  a broker that runs already:  set AMQP_URL, for example amqp://guest:guest@127.0.0.1:5672`;

/** @type {RabbitMqServer | undefined} */
export let privateServer;

export default async function globalSetup() {
  const url = process.env['AMQP_URL'];
  if (url !== undefined && url !== '') {
    await useExternal(url);
    return;
  }
  if (findRabbitMq() === undefined) installRabbitMq();
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
  if (!existsSync('/etc/debian_version') || process.getuid?.() !== 0) throw new Error(ADVICE);
  // Debian starts a service as it installs it, unless this file forbids it; the tests need the programs only.
  const forbids = !existsSync(POLICY_FILE);
  if (forbids) writeFileSync(POLICY_FILE, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    aptGet('update');
    aptGet('install', '-y', '--no-install-recommends', 'rabbitmq-server');
  } finally {
    if (forbids) rmSync(POLICY_FILE, { force: true });
  }
  if (findRabbitMq() === undefined) throw new Error(ADVICE);
}

/** @param {string[]} args */
function aptGet(...args) {
  const result = spawnSync('apt-get', ['-q', ...args], {
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    timeout: INSTALL_DEADLINE,
    maxBuffer: 64 * 1024 * 1024,
  });
  if (result.status === 0) return;
  const reason = result.error === undefined ? result.stderr.trim() : String(result.error);
  throw new Error(`apt-get ${args.join(' ')} failed: ${reason}\n${ADVICE}`);
}

/** @param {string} line */
function say(line) {
  process.stderr.write(`${line}\n`);
}
