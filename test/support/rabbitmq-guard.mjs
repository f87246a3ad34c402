/**
 * The parent process of one private RabbitMQ node and its epmd: it leads their process group, and takes the node and
 * its folder away when the process which started it dies, however it dies. Whoever starts it decides everything else.
 *
 * Arguments: the programs epmd and rabbitmq-server, and the node's folder. In a cluster one guard has no server (''), and the
 * guards of the nodes have no epmd. Standard input is a pipe whose other end is held by the starting process and by nothing else;
 * nothing is ever written to it. SIGTERM ends the node in order.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

const EPMD_DEADLINE = 20_000;
const EPMD_INTERVAL = 20;

const [epmdProgram = '', serverProgram = '', folder = ''] = process.argv.slice(2);
const epmdPort = process.env['ERL_EPMD_PORT'] ?? '';

/**
 * `ordered`: whether the node ends because it was told to. `abandoned`: whether that was by the death of its starter.
 *
 * @type {{ ordered: boolean, abandoned: boolean, server?: import('node:child_process').ChildProcess }}
 */
const state = { ordered: false, abandoned: false };

// In the foreground, hence a member of the group; RabbitMQ would otherwise start one of its own, as a daemon which stays.
const epmd =
  epmdProgram === ''
    ? undefined
    : spawn(epmdProgram, ['-port', epmdPort, '-address', '127.0.0.1'], { stdio: ['ignore', 'inherit', 'inherit'] });
const epmdEnd = epmd === undefined ? Promise.resolve() : endOf(epmd);

process.on('SIGTERM', () => {
  endServer('SIGTERM');
});

process.on('SIGUSR2', () => {
  endServer('SIGKILL');
});

process.stdin.resume().on('close', () => {
  state.abandoned = true;
  endServer('SIGKILL');
});

/** @param {NodeJS.Signals} signal */
function endServer(signal) {
  state.ordered = true;
  (state.server ?? epmd)?.kill(signal);
}

/**
 * @param {import('node:child_process').ChildProcess} child
 * @returns {Promise<void>}
 */
function endOf(child) {
  return new Promise((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', (error) => {
      console.error(error);
      resolve();
    });
  });
}

async function epmdListens() {
  const deadline = Date.now() + EPMD_DEADLINE;
  for (;;) {
    const socket = connect({ host: '127.0.0.1', port: Number(epmdPort) });
    try {
      await once(socket, 'connect');
      return;
    } catch (error) {
      if (epmd !== undefined && (epmd.exitCode !== null || epmd.signalCode !== null))
        throw new Error('epmd ended', { cause: error });
      if (Date.now() > deadline) throw new Error('epmd does not listen', { cause: error });
    } finally {
      socket.destroy();
    }
    await delay(EPMD_INTERVAL);
  }
}

try {
  await epmdListens();
  if (serverProgram === '') {
    await epmdEnd;
  } else if (!state.ordered) {
    // With `detached` the script replaces itself by the Erlang machine, so that a signal reaches the node itself.
    state.server = spawn(serverProgram, [], {
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...process.env, detached: 'true' },
    });
    await endOf(state.server);
  }
} catch (error) {
  console.error(error);
} finally {
  // Only after the children are gone, so that their ports are free once this process is.
  epmd?.kill('SIGKILL');
  await epmdEnd;
  if (state.abandoned) rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  process.exit(state.ordered ? 0 : 1);
}
