/**
 * The package of the parent folder as its users get it: built, packed, and unpacked into `node_modules` here. A link would
 * not do: the module would find the parent's Nest, and run beside the one that the other Nest layers here run on.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const BENCH = fileURLToPath(new URL('.', import.meta.url));
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const HOME = join(BENCH, 'node_modules/nest-amqp');

export function installOurs() {
  if (!existsSync(join(ROOT, 'node_modules/.bin'))) npm(ROOT, 'ci');
  // Its script `prepack` builds.
  const printed = npm(ROOT, 'pack', '--json', '--silent', '--pack-destination', BENCH);
  const [{ filename }] = JSON.parse(printed.slice(printed.indexOf('[')));
  const tarball = join(BENCH, filename);
  try {
    rmSync(HOME, { recursive: true, force: true });
    mkdirSync(HOME, { recursive: true });
    execFileSync('tar', ['-xzf', tarball, '-C', HOME, '--strip-components', '1']);
  } finally {
    rmSync(tarball);
  }
}

/**
 * @param {string} cwd
 * @param {string[]} args
 */
function npm(cwd, ...args) {
  return execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}
