/**
 * The package as its users get it: built and packed from the sources as they are, unpacked into a folder of its own beside
 * what it declares to need, and nothing else. `dist/` is left alone; several tests may do this at the same time.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

const TSC = join(ROOT, 'node_modules/typescript/bin/tsc');
const DEADLINE = 120_000;
/** What the package asks of those who compile against it. */
const COMPILER = { target: 'es2022', lib: 'es2022,esnext.disposable' };

const run = promisify(execFile);

export interface Manifest {
  readonly version: string;
  readonly exports: Readonly<Record<string, string | { readonly types: string; readonly default: string }>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
}

export async function readManifest(): Promise<Manifest> {
  return JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as Manifest;
}

export class InstalledPackage implements AsyncDisposable {
  /** The folder that has it in its `node_modules`. */
  readonly folder: string;
  /** The paths in the package. */
  readonly files: readonly string[];

  static async make(): Promise<InstalledPackage> {
    const folder = await mkdtemp(join(tmpdir(), 'nest-amqp-installed-'));
    try {
      return new InstalledPackage(folder, await install(folder));
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  private constructor(folder: string, files: readonly string[]) {
    this.folder = folder;
    this.files = files;
  }

  /** Its own folder. */
  get home(): string {
    return join(this.folder, 'node_modules/nest-amqp');
  }

  /** The same package where nobody has installed its peers. */
  async withoutPeers(): Promise<InstalledPackage> {
    const bare = new InstalledPackage(await mkdtemp(join(tmpdir(), 'nest-amqp-bare-')), this.files);
    await cp(this.home, bare.home, { recursive: true });
    const { dependencies } = await readManifest();
    for (const name of Object.keys(dependencies)) await bare.link(name);
    return bare;
  }

  /** Makes another installed package, that only an application needs, available beside it; or another version of one. */
  async link(name: string, from = ROOT): Promise<void> {
    await rm(join(this.folder, 'node_modules', name), { recursive: true, force: true });
    await link(this.folder, name, from);
  }

  /** Compiles the TypeScript of a folder of the repository, as a user of the package would; returns where the result is. */
  async compile(source: string): Promise<string> {
    const [from, to] = [join(this.folder, source), join(this.folder, 'dist', source)];
    await cp(join(ROOT, source), from, { recursive: true });
    await cp(join(ROOT, 'tsconfig.json'), join(this.folder, 'tsconfig.json'));
    await writeFile(join(this.folder, 'package.json'), '{ "name": "user", "private": true, "type": "module" }');
    await tsc(from, '-p', from, '--rootDir', this.folder, '--outDir', join(this.folder, 'dist'));
    return to;
  }

  /** Has a strict compiler check a file of this text, and the declarations of all that it imports. */
  async check(name: string, text: string): Promise<void> {
    await writeFile(join(this.folder, name), text);
    const strictly = ['--strict', '--skipLibCheck', 'false', '--noEmit', '--ignoreConfig'];
    const { target, lib } = COMPILER;
    await tsc(
      this.folder,
      ...strictly,
      '--target',
      target,
      '--lib',
      lib,
      '--module',
      'nodenext',
      '--types',
      'node',
      name,
    );
  }

  /** Runs a script in a process of its own; resolves to what it prints. */
  async evaluate(type: 'module' | 'commonjs', script: string): Promise<string> {
    const { stdout } = await run(process.execPath, [`--input-type=${type}`, '--eval', script], {
      cwd: this.folder,
      timeout: DEADLINE,
    });
    return stdout.trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}

async function install(folder: string): Promise<string[]> {
  const source = join(folder, 'source');
  await mkdir(source);
  for (const name of ['package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', 'docs']) {
    await cp(join(ROOT, name), join(source, name), { recursive: true });
  }
  // Types are checked by `npm run type-check`.
  await tsc(ROOT, '-p', 'lib', '--noCheck', '--outDir', join(source, 'dist'));
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], {
    cwd: source,
    timeout: DEADLINE,
    env: { ...process.env, npm_config_offline: 'true', npm_config_update_notifier: 'false' },
  });
  const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }];
  const home = join(folder, 'node_modules/nest-amqp');
  await mkdir(home, { recursive: true });
  await run('tar', ['-xzf', join(folder, packed.filename), '-C', home, '--strip-components', '1'], {
    timeout: DEADLINE,
  });
  const { dependencies, peerDependencies } = await readManifest();
  for (const name of Object.keys({ ...dependencies, ...peerDependencies })) await link(folder, name);
  return packed.files.map(({ path }) => path);
}

async function link(folder: string, name: string, from = ROOT): Promise<void> {
  const path = join(folder, 'node_modules', name);
  await mkdir(join(path, '..'), { recursive: true });
  await symlink(join(from, 'node_modules', name), path, 'dir');
}

async function tsc(cwd: string, ...args: string[]): Promise<void> {
  try {
    await run(process.execPath, [TSC, ...args], { cwd, timeout: DEADLINE });
  } catch (error) {
    throw new Error(`tsc ${args.join(' ')} failed:\n${(error as { stdout?: string }).stdout ?? ''}`, { cause: error });
  }
}
