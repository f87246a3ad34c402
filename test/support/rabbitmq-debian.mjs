/**
 * The RabbitMQ of another Debian than the one that this machine runs: a whole Debian tree in a folder of its own, made once
 * and used again, whose programs run in it by `chroot`. Starting a node is left to `rabbitmq-server.mjs`.
 *
 * Run as a program with a version, it makes the tree, or says in one line why it cannot.
 *
 * Nothing is mounted, not even /proc, without which all but `rabbitmqctl status` works. In the tree, the tree's own path is
 * a link to `/`, so that a file in it has the same name for the programs inside and for the tests outside.
 */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { aptGet, mayInstall } from './apt.mjs';

const SELF = fileURLToPath(import.meta.url);
const MAKE_DEADLINE = 5 * 60_000;

/**
 * By the version that one asks for, the Debian that has it. trixie stays at 4.0; forky is not released yet, and may leave 4.3
 * behind.
 *
 * @type {Readonly<Record<string, string>>}
 */
const SUITES = { 4: 'trixie', 4.3: 'forky' };

/** A debootstrap that is older than the suite has no script of the suite's name; of late they are all this one. */
const DEBOOTSTRAP_SCRIPT = '/usr/share/debootstrap/scripts/sid';

/** Where the tree has the programs that `RabbitMqInstall` asks for. */
const PROGRAMS = {
  server: '/usr/lib/rabbitmq/bin/rabbitmq-server',
  ctl: '/usr/lib/rabbitmq/bin/rabbitmqctl',
  epmd: '/usr/bin/epmd',
};

/** Without /proc, a node cannot ask the system how much memory it takes; it has to add up what it took itself. */
const CONFIG = 'vm_memory_calculation_strategy = allocated';

/** The versions that `debianRabbitMq` knows. */
export const DEBIAN_VERSIONS = Object.keys(SUITES);

/**
 * Makes the tree of a version unless it is there. The trees are in the folder that NEST_AMQP_DEBIAN_DIR names, by default in
 * the user's cache.
 *
 * @param {string} version One of `DEBIAN_VERSIONS`.
 * @returns {import('./rabbitmq-install.mjs').RabbitMqInstall}
 */
export function debianRabbitMq(version) {
  const suite = SUITES[version];
  if (suite === undefined) throw new Error(`it can be ${DEBIAN_VERSIONS.join(' or ')}, not ${version}`);
  if (!mayInstall()) {
    throw new Error('it takes root on Debian to make one; "npm test" runs on any that AMQP_URL names');
  }
  const named = process.env['NEST_AMQP_DEBIAN_DIR'] ?? '';
  const folder = named === '' ? join(cacheFolder(), 'nest-amqp') : named;
  mkdirSync(folder, { recursive: true });
  const tree = join(realpathSync(folder), suite);
  if (!existsSync(tree)) makeTree(tree, suite);
  const server = wrapper(tree, PROGRAMS.server);
  if (!existsSync(server))
    throw new Error(`${tree} was not made by ${basename(SELF)}: remove it, or name another folder`);
  const found = packagedVersion(tree);
  if (!`${found}.`.startsWith(`${version}.`)) {
    throw new Error(`Debian ${suite} has RabbitMQ ${found} by now: see what differs, and ask for that version`);
  }
  return {
    server,
    ctl: wrapper(tree, PROGRAMS.ctl),
    epmd: wrapper(tree, PROGRAMS.epmd),
    folder: join(tree, 'tmp'),
    config: CONFIG,
  };
}

/** @param {string} tree */
function packagedVersion(tree) {
  const { stdout } = spawnSync('chroot', [tree, '/usr/bin/dpkg-query', '-W', '-f', '${Version}', 'rabbitmq-server'], {
    encoding: 'utf8',
  });
  // Without Debian's own part of it.
  return stdout.replace(/-[^-]*$/, '');
}

function cacheFolder() {
  const named = process.env['XDG_CACHE_HOME'] ?? '';
  return named === '' ? join(homedir(), '.cache') : named;
}

/**
 * Under another name until it is complete, so that a run which is interrupted leaves no tree that looks whole.
 *
 * @param {string} tree
 * @param {string} suite
 */
function makeTree(tree, suite) {
  removeAbandoned(tree);
  const made = `${tree}.${String(process.pid)}.part`;
  try {
    if (spawnSync('debootstrap', ['--version']).error !== undefined) {
      aptGet('update');
      aptGet('install', '-y', '--no-install-recommends', 'debootstrap');
    }
    debootstrap(made, suite);
    rmSync(join(made, 'var/cache/apt'), { recursive: true });
    rmSync(join(made, 'var/lib/apt/lists'), { recursive: true });
    // A tree so small need not have one, and its Erlang then finds no localhost.
    writeFileSync(join(made, 'etc/hosts'), '127.0.0.1 localhost\n');
    mkdirSync(join(made, dirname(tree)), { recursive: true });
    symlinkSync('/', join(made, tree));
    mkdirSync(dirname(wrapper(made, PROGRAMS.server)));
    for (const program of Object.values(PROGRAMS)) {
      const script = `#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
export PATH LC_ALL
exec chroot '${tree.replaceAll("'", "'\\''")}' ${program} "$@"
`;
      writeFileSync(wrapper(made, program), script, { mode: 0o755 });
    }
    renameSync(made, tree);
  } catch (error) {
    // Another run may have been faster.
    if (!existsSync(tree)) throw error;
  } finally {
    rmSync(made, { recursive: true, force: true });
  }
}

/**
 * The script that runs a program of the tree in the tree. A tree without these scripts is not one of ours.
 *
 * @param {string} tree
 * @param {string} program
 */
function wrapper(tree, program) {
  return join(tree, 'nest-amqp', basename(program));
}

/**
 * What earlier runs left which were killed.
 *
 * @param {string} tree
 */
function removeAbandoned(tree) {
  for (const name of readdirSync(dirname(tree))) {
    const maker = /\.(\d+)\.part$/.exec(name)?.[1];
    if (maker === undefined || name !== `${basename(tree)}.${maker}.part` || existsSync(`/proc/${maker}`)) continue;
    rmSync(join(dirname(tree), name), { recursive: true, force: true });
  }
}

/**
 * @param {string} folder
 * @param {string} suite
 */
function debootstrap(folder, suite) {
  process.stderr.write(`Making a Debian ${suite} with its RabbitMQ for the tests, which takes a minute or two\n`);
  const result = spawnSync(
    'setpriv',
    [
      // It ends with this process, and all that it runs ends with it.
      ...['--pdeathsig', 'KILL', ...ownNamespaces()],
      ...[
        'debootstrap',
        '--force-check-gpg',
        '--variant=minbase',
        '--include=rabbitmq-server',
        suite,
        folder,
        mirror(),
        DEBOOTSTRAP_SCRIPT,
      ],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8', timeout: MAKE_DEADLINE, killSignal: 'SIGKILL' },
  );
  if (result.status === 0) return;
  const reason = result.error ?? `${result.stdout}${result.stderr}`.trim().split('\n').slice(-2).join(' / ');
  throw new Error(`debootstrap failed: ${String(reason)}`);
}

/** With namespaces of its own, neither a process nor a mount of debootstrap can outlive it; a container may forbid them. */
function ownNamespaces() {
  const command = ['unshare', '--mount', '--pid', '--fork', '--kill-child'];
  return spawnSync('setpriv', ['--pdeathsig', 'KILL', ...command, 'true']).status === 0 ? command : [];
}

/** Where this machine has its own Debian from. */
function mirror() {
  const known = debianSite();
  if (known !== undefined) return known;
  // apt tells whose site it is only once it has been there.
  aptGet('update');
  const site = debianSite();
  if (site === undefined) throw new Error('no source of apt on this machine is Debian itself');
  return site;
}

function debianSite() {
  const format = '$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)';
  return aptGet('indextargets', '--format', format, 'Created-By: Packages')
    .split('\n')
    .find((line) => line.endsWith(' Debian Debian main'))
    ?.split(' ')[0];
}

if (process.argv[1] === SELF) {
  const version = process.argv[2] ?? '';
  try {
    process.stdout.write(`RabbitMQ ${version} is in ${dirname(debianRabbitMq(version).folder)}\n`);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    process.stdout.write(`RabbitMQ ${version} is not to be had here: ${reason.replaceAll(/\s*\n\s*/g, ' / ')}\n`);
    process.exitCode = 1;
  }
}
