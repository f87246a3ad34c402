/**
 * A private RabbitMQ node for tests: its own ports, name, cookie, data and configuration, all gone after `stop()` and
 * also when the process that started it dies. Choosing between such a node and another broker is left to
 * `global-setup.mjs`.
 */
import { spawn } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { brokerVersion } from './amqp-probe.mjs';
import { findRabbitMq, privateEnvironment, runCtl } from './rabbitmq-install.mjs';

const START_DEADLINE = 90_000;
const STOP_DEADLINE = 20_000;
const KILL_DEADLINE = 10_000;
const PROBE_DEADLINE = 5_000;
const PROBE_INTERVAL = 50;
const START_ATTEMPTS = 3;
const LOG_TAIL_LINES = 150;

// Below the range from which Linux, macOS and Windows give out ports by themselves. While a node restarts, its port
// is not bound; from that range it could be given to another test's server, or a client that reconnects to it could
// be given it as its own local port and so connect to itself.
const LOWEST_PORT = 12_000;
const HIGHEST_PORT = 24_999;

const GUARD = fileURLToPath(new URL('./rabbitmq-guard.mjs', import.meta.url));

/**
 * @typedef {object} RabbitMqServerOptions
 * @property {import('./rabbitmq-install.mjs').RabbitMqInstall} [install] By default the one that the suite runs on.
 * @property {string} [config] More lines for rabbitmq.conf.
 * @property {readonly string[]} [plugins] The plugins to enable; none by default.
 * @property {ClusterPlace} [cluster] For a node that others are to join, or that joins them; by default it is alone.
 */

/**
 * What the nodes of a cluster share.
 *
 * @typedef {object} ClusterPlace
 * @property {string} cookie
 * @property {number} epmd The port of an epmd that runs already.
 */

/** A node's guard process, which leads the process group of all that the node consists of. */
export class GuardProcess {
  /** @type {import('node:child_process').ChildProcess} */
  #process;
  /** @type {Promise<void>} */
  #exit;
  #ended = false;

  /** @param {import('node:child_process').ChildProcess} process */
  constructor(process) {
    this.#process = process;
    this.#exit = new Promise((resolve) => {
      const finish = () => {
        this.#ended = true;
        resolve();
      };
      process.once('exit', finish);
      process.once('error', finish);
    });
  }

  get id() {
    return this.#process.pid;
  }

  get ended() {
    return this.#ended;
  }

  /** A node that runs must not keep its starter alive: the guard ends it then. */
  unref() {
    this.#process.unref();
    const input = /** @type {import('node:net').Socket} */ (this.#process.stdin);
    input.unref();
  }

  /** @param {number} deadline */
  async #exitWithin(deadline) {
    if (this.#ended) return true;
    this.#process.ref();
    const timer = new AbortController();
    await Promise.race([this.#exit, delay(deadline, undefined, { signal: timer.signal }).catch(() => undefined)]);
    timer.abort();
    return this.#ended;
  }

  /** In order, and by force when that takes too long. */
  async stop() {
    if (!this.#ended) this.#process.kill('SIGTERM');
    await this.#exitWithin(STOP_DEADLINE);
    await this.kill();
  }

  async kill() {
    // The guard kills the node and waits for its end; the signal to the group is for what does not obey.
    if (!this.#ended) this.#process.kill('SIGUSR2');
    await this.#exitWithin(KILL_DEADLINE);
    const group = this.#process.pid;
    if (group === undefined) return;
    try {
      // A group outlives its leader as long as it has members, and its id is not used again meanwhile.
      process.kill(-group, 'SIGKILL');
    } catch (error) {
      if (!isGone(error)) throw error;
    }
    if (!(await this.#exitWithin(KILL_DEADLINE))) throw new Error(`process group ${String(group)} cannot be killed`);
  }
}

export class RabbitMqServer {
  /**
   * Starts a node and waits until it speaks AMQP.
   *
   * @param {RabbitMqServerOptions} [options]
   * @returns {Promise<RabbitMqServer>}
   */
  static async start(options = {}) {
    const install = options.install ?? findRabbitMq();
    if (install === undefined) throw new Error('RabbitMQ is not installed');
    for (let attempt = 1; ; attempt += 1) {
      const folder = await mkdtemp(join(install.folder, 'nest-amqp-'));
      const epmd = options.cluster?.epmd ?? (await freePort());
      const ports = { amqp: await freePort(), distribution: await freePort(), epmd };
      const server = new RabbitMqServer(install, folder, ports);
      try {
        server.#hasOwnEpmd = options.cluster === undefined;
        await server.#writeFiles(options);
        await server.#launch();
        return server;
      } catch (error) {
        await server.stop();
        // Between finding a free port and listening on it, another process can take it.
        if (attempt === START_ATTEMPTS || !/eaddrinuse|address (already )?in use/i.test(String(error))) throw error;
      }
    }
  }

  /** @type {import('./rabbitmq-install.mjs').RabbitMqInstall} */
  #install;
  /** @type {string} */
  #folder;
  /** @type {{ amqp: number, distribution: number, epmd: number }} */
  #ports;
  /** @type {GuardProcess | undefined} */
  #guard;
  #version = '';
  #hasOwnEpmd = true;

  /**
   * @param {import('./rabbitmq-install.mjs').RabbitMqInstall} install
   * @param {string} folder
   * @param {{ amqp: number, distribution: number, epmd: number }} ports
   */
  constructor(install, folder, ports) {
    this.#install = install;
    this.#folder = folder;
    this.#ports = ports;
    this.nodeName = `nest-amqp-test-${String(process.pid)}-${randomBytes(4).toString('hex')}@localhost`;
  }

  get port() {
    return this.#ports.amqp;
  }

  get url() {
    return `amqp://guest:guest@127.0.0.1:${String(this.port)}`;
  }

  /** What the node says in its first frame. */
  get version() {
    return this.#version;
  }

  /** The id of the process group that holds the node's processes, or `undefined` when it does not run. */
  get processGroup() {
    return this.#guard === undefined || this.#guard.ended ? undefined : this.#guard.id;
  }

  /** What another process needs to run `rabbitmqctl` against this node. */
  get node() {
    return {
      ctl: this.#install.ctl,
      nodeName: this.nodeName,
      home: this.#folder,
      epmdPort: this.#ports.epmd,
    };
  }

  /** What the node printed, all of it. */
  async log() {
    return await readFile(join(this.#folder, 'node.log'), 'utf8').catch(() => '');
  }

  /**
   * Runs `rabbitmqctl -q` against this node.
   *
   * @param {string[]} args
   * @returns {Promise<string>}
   */
  async ctl(...args) {
    // Without our epmd, rabbitmqctl would start one as a daemon.
    if (this.processGroup === undefined) throw new Error(`${this.nodeName} does not run`);
    return await runCtl(this.node, args);
  }

  /** Ends the node and removes its folder. */
  async stop() {
    await this.#guard?.stop();
    this.#guard = undefined;
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  }

  async [Symbol.asyncDispose]() {
    await this.stop();
  }

  /** Ends the node like a power cut; `restart()` starts it again, `stop()` removes what is left. */
  async kill() {
    await this.#guard?.kill();
    this.#guard = undefined;
  }

  /** Ends the node in order, unless that is done already, and starts it again with the same port, name and data. */
  async restart() {
    await this.#guard?.stop();
    this.#guard = undefined;
    await this.#launch();
  }

  /** @param {RabbitMqServerOptions} options */
  async #writeFiles(options) {
    const home = this.#folder;
    /** @type {Record<string, string>} */
    const files = {
      'rabbitmq.conf': `log.console.level = info\n${this.#install.config}\n${options.config ?? ''}\n`,
      'advanced.config': '[].\n',
      'rabbitmq-env.conf': '',
      'enabled-plugins': `[${(options.plugins ?? []).join(',')}].\n`,
    };
    for (const [name, text] of Object.entries(files)) await writeFile(join(home, name), text);
    await writeFile(join(home, '.erlang.cookie'), options.cluster?.cookie ?? newCookie(), { mode: 0o400 });
    await mkdir(join(home, 'conf.d'));
  }

  #environment() {
    const home = this.#folder;
    return {
      ...privateEnvironment(home, this.#ports.epmd),
      RABBITMQ_NODENAME: this.nodeName,
      RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
      RABBITMQ_NODE_PORT: String(this.#ports.amqp),
      RABBITMQ_DIST_PORT: String(this.#ports.distribution),
      RABBITMQ_MNESIA_BASE: join(home, 'data'),
      RABBITMQ_LOG_BASE: join(home, 'log'),
      RABBITMQ_LOGS: '-',
      RABBITMQ_CONFIG_FILE: join(home, 'rabbitmq.conf'),
      RABBITMQ_CONFIG_FILES: join(home, 'conf.d'),
      RABBITMQ_ADVANCED_CONFIG_FILE: join(home, 'advanced.config'),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(home, 'enabled-plugins'),
      RABBITMQ_PID_FILE: join(home, 'node.pid'),
      // The log says enough, and writing the dump takes longer than the start itself.
      ERL_CRASH_DUMP_SECONDS: '0',
      // Bound to processors, the few threads of every node would all share the first ones.
      RABBITMQ_SCHEDULER_BIND_TYPE: 'u',
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '+S 2:2',
    };
  }

  /** Starts the node on the folder as it is, and leaves nothing running when that fails. */
  async #launch() {
    const logged = (await this.log()).length;
    const epmd = this.#hasOwnEpmd ? this.#install.epmd : '';
    this.#guard = guarded([epmd, this.#install.server, this.#folder], this.#environment());
    try {
      await this.#answer(this.#guard, logged);
    } catch (error) {
      await this.#guard.kill();
      const tail = (await this.log()).trimEnd().split('\n').slice(-LOG_TAIL_LINES).join('\n');
      throw new Error(`${this.nodeName} did not start: ${String(error)}\n${tail}`, { cause: error });
    }
    this.#guard.unref();
  }

  /**
   * @param {GuardProcess} guard
   * @param {number} logged How long the log was before this start.
   */
  async #answer(guard, logged) {
    const deadline = Date.now() + START_DEADLINE;
    for (;;) {
      if (guard.ended) throw new Error('its process ended');
      try {
        this.#version = await brokerVersion('127.0.0.1', this.port, PROBE_DEADLINE);
        // It listens for TLS later than for plain AMQP.
        if ((await this.log()).includes('Server startup complete', logged)) return;
        if (Date.now() > deadline) throw new Error('its start was not completed');
      } catch (error) {
        if (Date.now() > deadline) throw error;
      }
      await delay(PROBE_INTERVAL);
    }
  }
}

/** @returns {string} */
export function newCookie() {
  return randomBytes(20).toString('hex');
}

/**
 * Starts a guard, see there, which writes into the folder's `node.log`.
 *
 * @param {[epmd: string, server: string, folder: string]} programs
 * @param {Record<string, string>} env
 */
export function guarded(programs, env) {
  const folder = programs[2];
  const log = openSync(join(folder, 'node.log'), 'a');
  const stdio = /** @type {const} */ (['pipe', log, log]);
  const child = spawn(process.execPath, [GUARD, ...programs], { cwd: folder, env, stdio: [...stdio], detached: true });
  closeSync(log);
  return new GuardProcess(child);
}

/** @param {unknown} error */
function isGone(error) {
  // No `instanceof`: in a test file, `Error` is not the class that Node.js itself uses.
  return typeof error === 'object' && error !== null && 'code' in error && error.code === 'ESRCH';
}

/** @returns {Promise<number>} */
export async function freePort() {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const port = randomInt(LOWEST_PORT, HIGHEST_PORT + 1);
    /** @type {Promise<boolean>} */
    const probed = new Promise((resolve) => {
      const probe = createServer();
      probe.once('error', () => resolve(false));
      probe.listen({ host: '127.0.0.1', port, exclusive: true }, () => probe.close(() => resolve(true)));
    });
    if (await probed) return port;
  }
  throw new Error(`no free port between ${String(LOWEST_PORT)} and ${String(HIGHEST_PORT)}`);
}
