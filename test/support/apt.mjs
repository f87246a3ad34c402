/**
 * Debian's package manager, for what the tests need and may install: `mayInstall()` says whether they may.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

const DEADLINE = 10 * 60_000;

/** Whether this is Debian, or made from it, and this process is root. */
export function mayInstall() {
  return existsSync('/etc/debian_version') && process.getuid?.() === 0;
}

/**
 * Runs `apt-get` and gives what it printed.
 *
 * @param {string[]} args
 */
export function aptGet(...args) {
  const result = spawnSync('apt-get', ['-q', ...args], {
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    timeout: DEADLINE,
    maxBuffer: 64 * 1024 * 1024,
  });
  if (result.status === 0) return result.stdout;
  const reason = result.error === undefined ? result.stderr.trim() : String(result.error);
  throw new Error(`apt-get ${args.join(' ')} failed: ${reason}`);
}
