/**
 * Where the programs of an installed RabbitMQ are, and the environment in which they touch nothing but one private
 * folder. Starting them is left to `rabbitmq-server.mjs`, installing them to `global-setup.mjs` and `rabbitmq-debian.mjs`.
 */
import { execFile } from 'node:child_process';
import { accessSync, constants, existsSync, realpathSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, delimiter, dirname, join } from 'node:path';
import { promisify } from 'node:util';

const CTL_DEADLINE = 60_000;

/**
 * @typedef {object} RabbitMqInstall
 * @property {string} server The script `rabbitmq-server`.
 * @property {string} ctl The script `rabbitmqctl`.
 * @property {string} epmd Erlang's port mapper, which knows on which port a node listens for `rabbitmqctl`.
 * @property {string} folder Where files have to be that a node is to see.
 * @property {string} config What each of its nodes needs in rabbitmq.conf.
 */

/**
 * All that is needed to talk to a node by `rabbitmqctl`; it fits in one environment variable.
 *
 * @typedef {object} RabbitMqNode
 * @property {string} ctl
 * @property {string} nodeName
 * @property {string} home The folder which holds the node's Erlang cookie.
 * @property {number} epmdPort
 */

const USUAL_FOLDERS = [
  // Comes first, because the scripts that Debian and Fedora put on the PATH become the user `rabbitmq` when root runs
  // them, and lose the environment on the way.
  '/usr/lib/rabbitmq/bin',
  '/usr/local/lib/rabbitmq/bin',
  '/opt/rabbitmq/sbin',
  '/opt/homebrew/opt/rabbitmq/sbin',
  '/usr/local/opt/rabbitmq/sbin',
  '/opt/homebrew/sbin',
  '/usr/local/sbin',
];

/** @returns {string[]} */
function pathFolders() {
  return (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
}

/** @param {string} file */
function isProgram(file) {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile() && basename(realpathSync(file)) !== 'rabbitmq-script-wrapper';
  } catch {
    return false;
  }
}

/**
 * @param {string} server
 * @returns {RabbitMqInstall | undefined}
 */
function installAround(server) {
  if (!isProgram(server)) return undefined;
  const folders = [dirname(server), dirname(realpathSync(server))];
  const ctl = folders.map((folder) => join(folder, 'rabbitmqctl')).find(isProgram);
  const erl = pathFolders()
    .map((folder) => join(folder, 'erl'))
    .find((file) => existsSync(file));
  const erlFolders = erl === undefined ? [] : [dirname(erl), dirname(realpathSync(erl))];
  const epmd = [...pathFolders(), ...erlFolders, '/usr/bin', '/usr/local/bin', '/opt/homebrew/bin']
    .map((folder) => join(folder, 'epmd'))
    .find(isProgram);
  return ctl === undefined || epmd === undefined ? undefined : { server, ctl, epmd, folder: tmpdir(), config: '' };
}

/**
 * The RabbitMQ of the tests: none where they run on the embedded broker, what `global-setup.mjs` chose instead of the
 * installed one, else the script named by RABBITMQ_SERVER, else the first one found in the usual places.
 *
 * @returns {RabbitMqInstall | undefined}
 */
export function findRabbitMq() {
  if (process.env['NEST_AMQP_TEST_BROKER'] === 'embedded') return undefined;
  const chosen = process.env['NEST_AMQP_TEST_INSTALL'] ?? '';
  if (chosen !== '') {
    /** @type {unknown} */
    const install = JSON.parse(chosen);
    return /** @type {RabbitMqInstall} */ (install);
  }
  const named = process.env['RABBITMQ_SERVER'];
  if (named !== undefined && named !== '') {
    const install = installAround(named);
    if (install === undefined) {
      throw new Error(`RABBITMQ_SERVER is ${named}, which is not a rabbitmq-server script with rabbitmqctl and epmd`);
    }
    return install;
  }
  for (const folder of [...USUAL_FOLDERS, ...pathFolders()]) {
    const install = installAround(join(folder, 'rabbitmq-server'));
    if (install !== undefined) return install;
  }
  return undefined;
}

/**
 * The environment of this process without anything that leads RabbitMQ or Erlang to another node, or Node.js to an
 * option meant for the tests.
 *
 * @param {string} home
 * @param {number} epmdPort
 * @returns {Record<string, string>}
 */
export function privateEnvironment(home, epmdPort) {
  /** @type {Record<string, string>} */
  const environment = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && !/^(RABBITMQ_|ERL_|NODE_OPTIONS$|NOTIFY_SOCKET$)/.test(name)) environment[name] = value;
  }
  environment['HOME'] = home;
  environment['ERL_EPMD_PORT'] = String(epmdPort);
  environment['ERL_EPMD_ADDRESS'] = '127.0.0.1';
  environment['ERL_FLAGS'] = '-kernel inet_dist_use_interface {127,0,0,1}';
  // An empty file, so that the one in /etc/rabbitmq is not read.
  environment['RABBITMQ_CONF_ENV_FILE'] = join(home, 'rabbitmq-env.conf');
  return environment;
}

/**
 * Runs `rabbitmqctl` against one node and gives what it printed, trimmed.
 *
 * @param {RabbitMqNode} node
 * @param {string[]} args
 * @returns {Promise<string>}
 */
export async function runCtl(node, args) {
  const env = {
    ...privateEnvironment(node.home, node.epmdPort),
    RABBITMQ_CTL_ERL_ARGS: '+S 1:1 +sbwt none',
    // By default eleven ports, which tests that run at the same time could use up.
    RABBITMQ_CTL_DIST_PORT_MIN: '35672',
    RABBITMQ_CTL_DIST_PORT_MAX: '36671',
  };
  const { stdout } = await promisify(execFile)(node.ctl, ['-q', '-n', node.nodeName, ...args], {
    env,
    cwd: node.home,
    timeout: CTL_DEADLINE,
    killSignal: 'SIGKILL',
    maxBuffer: 64 * 1024 * 1024,
  });
  return stdout.trim();
}
