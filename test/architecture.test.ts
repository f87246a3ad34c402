/**
 * The layering rule as an example that runs: what each floor of lib/ may import, where Nest and sockets are, and how a file
 * looks from outside. It reads the sources; it does not run them.
 */
import { describe, expect, test } from '@jest/globals';
import { readFileSync, readdirSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/**
 * What a floor may import beside itself. A floor is a folder of lib/, or a file that lies in lib/ itself.
 *
 *   nest ─► messaging ─► client ─► protocol ─► errors
 *                        broker ─► protocol
 *                       testing ─► protocol
 *
 * Lengths of time and heartbeats are the same for client and broker, and no part of the bytes: they lie beneath both, in time.
 */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  'errors.ts': [],
  'version.ts': [],
  'broker-override.ts': [],
  protocol: ['errors.ts'],
  time: ['errors.ts'],
  client: ['protocol', 'time', 'errors.ts', 'version.ts'],
  messaging: ['client', 'protocol', 'time', 'errors.ts'],
  nest: ['messaging', 'client', 'protocol', 'time', 'errors.ts', 'broker-override.ts'],
  broker: ['protocol', 'time', 'errors.ts', 'version.ts'],
  testing: ['broker', 'protocol', 'errors.ts', 'broker-override.ts'],
  // The doors.
  'index.ts': ['nest', 'messaging', 'client', 'protocol', 'time', 'errors.ts'],
  'client.ts': ['client', 'protocol', 'time', 'errors.ts'],
  'terminus.ts': ['nest'],
  'testing.ts': ['testing', 'broker', 'protocol', 'time', 'errors.ts'],
};
/** The one way up: loaded when somebody asks for it, and never with the file itself. */
const LOADED_ON_DEMAND = { by: 'client/embedded.ts', file: 'broker/shared.ts', name: '../broker/shared.js' };
const DOORS = ['index.ts', 'client.ts', 'terminus.ts', 'testing.ts'];

const LONGEST = 400;
/** Files that are longer, and why that is right. */
const MAY_BE_LONGER: Readonly<Record<string, string>> = {
  'protocol/methods.ts': 'a table: every method of the protocol',
  'client/channel.ts': 'a table: every method of a channel, with its docstring',
  'client/channel-core.ts': 'one state machine; its deliveries, its pending requests and its confirms stand alone',
  'client/connection.ts': 'one state machine; what could stand alone (handshake, heartbeat, outbox, dial) does',
};

interface Source {
  /** Inside lib/, with forward slashes. */
  readonly path: string;
  readonly floor: string;
  readonly text: string;
  readonly imports: readonly string[];
}

const sources: readonly Source[] = readdirSync(`${ROOT}/lib`, { recursive: true, encoding: 'utf8' })
  .map((path) => path.replaceAll('\\', '/'))
  .filter((path) => path.endsWith('.ts'))
  .sort()
  .map((path) => {
    const text = readFileSync(`${ROOT}/lib/${path}`, 'utf8');
    return {
      path,
      floor: floorOf(path),
      text,
      // Also `export … from` and `import()`; types count, because a type that moves up takes the code with it.
      imports: ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName),
    };
  });

function floorOf(path: string): string {
  return path.split('/', 1)[0] ?? path;
}

/** The file of lib/ that a relative import names, else undefined. */
function target({ path }: Source, name: string): string | undefined {
  return name.startsWith('.') ? posix.join(posix.dirname(path), name).replace(/\.js$/, '.ts') : undefined;
}

/** Every import for which `isWrong` is true, as a sentence. */
function faults(isWrong: (source: Source, name: string) => boolean): string[] {
  return sources.flatMap((source) =>
    source.imports.filter((name) => isWrong(source, name)).map((name) => `lib/${source.path} imports ${name}`),
  );
}

/** Everything that is loaded with a file of lib/: packages by name, files by path. */
function reachableFrom(path: string, seen = new Set<string>()): Set<string> {
  if (seen.has(path)) return seen;
  seen.add(path);
  const source = sources.find((candidate) => candidate.path === path);
  if (source === undefined) return seen;
  for (const name of source.imports) {
    const file = target(source, name);
    if (file === undefined) seen.add(name);
    else reachableFrom(file, seen);
  }
  return seen;
}

const isNest = (name: string): boolean => name.startsWith('@nestjs/') || name === 'rxjs' || name.startsWith('rxjs/');

test('the test sees the sources', () => {
  expect(sources.length).toBeGreaterThan(30);
  expect(sources.find(({ path }) => path === 'nest/amqp.module.ts')?.imports).toContain('@nestjs/common');
});

describe('floors', () => {
  test('are those that the rule names', () => {
    const unknown = sources.filter(({ floor }) => !Object.hasOwn(MAY_IMPORT, floor)).map(({ path }) => `lib/${path}`);
    expect(unknown).toEqual([]);
  });

  test('import only what lies below them', () => {
    const upward = faults((source, name) => {
      const file = target(source, name);
      if (file === undefined) return false;
      const floor = floorOf(file);
      if (source.path === LOADED_ON_DEMAND.by && file === LOADED_ON_DEMAND.file) return false;
      return floor !== source.floor && MAY_IMPORT[source.floor]?.includes(floor) !== true;
    });
    expect(upward).toEqual([]);
  });

  test('reach up on demand alone', () => {
    const { by, name } = LOADED_ON_DEMAND;
    const text = sources.find(({ path }) => path === by)?.text ?? '';
    const ways = [...text.matchAll(/\b(from|import\()\s*'(\.\.\/broker[^']*)'/g)].map(([, way, file]) => [way, file]);
    expect(ways).toEqual([['import(', name]]);
  });

  test('import files that are there, with the extension that Node needs', () => {
    const missing = faults((source, name) => {
      const file = target(source, name);
      return file !== undefined && (!name.endsWith('.js') || !sources.some(({ path }) => path === file));
    });
    expect(missing).toEqual([]);
  });
});

describe('packages', () => {
  test('of Nest and rxjs are imported in lib/nest alone', () => {
    expect(faults(({ floor }, name) => floor !== 'nest' && isNest(name))).toEqual([]);
  });

  test.each(DOORS.filter((door) => !['index.ts', 'terminus.ts'].includes(door)))(
    'of Nest are not reached from the door %s',
    (door) => {
      const reached = [...reachableFrom(door)];
      expect(reached.length).toBeGreaterThan(1);
      expect(reached.filter((name) => isNest(name) || name.startsWith('nest/'))).toEqual([]);
    },
  );

  test('that only some users have are reached from the door that is named after them', () => {
    const [terminus, index] = ['terminus.ts', 'index.ts'].map((door) => [...reachableFrom(door)]);
    expect(terminus).toContain('@nestjs/terminus');
    expect(index).not.toContain('@nestjs/terminus');
    const places = faults((_source, name) => name === '@nestjs/terminus');
    expect(places).toEqual(['lib/nest/amqp.health-indicator.ts imports @nestjs/terminus']);
  });

  test('that open sockets are imported where sockets are opened, and nowhere else', () => {
    const sockets = ['node:net', 'node:tls', 'node:http', 'node:http2', 'node:https', 'node:dgram'];
    const places = ['client/dial.ts', 'broker/listener.ts'];
    expect(faults(({ path }, name) => !places.includes(path) && sockets.includes(name))).toEqual([]);
  });

  test('that do anything are not needed by the protocol: it is data and pure functions', () => {
    const pure = ['node:util'];
    const doing = faults(
      (source, name) => source.floor === 'protocol' && target(source, name) === undefined && !pure.includes(name),
    );
    expect(doing).toEqual([]);
  });

  test('of Node are imported by their full name', () => {
    expect(faults((_source, name) => builtinModules.includes(name))).toEqual([]);
  });

  test('are declared in package.json, and what is declared is imported', () => {
    const { dependencies, peerDependencies } = JSON.parse(readFileSync(`${ROOT}/package.json`, 'utf8')) as {
      dependencies: Record<string, string>;
      peerDependencies: Record<string, string>;
    };
    const declared = Object.keys({ ...dependencies, ...peerDependencies });
    const isDeclared = (name: string): boolean =>
      declared.some((known) => name === known || name.startsWith(`${known}/`));
    const foreign = faults(
      (source, name) => target(source, name) === undefined && !name.startsWith('node:') && !isDeclared(name),
    );
    expect(foreign).toEqual([]);
    const used = new Set(sources.flatMap(({ imports }) => imports));
    // The types of a dependency come with it; Nest's users import reflect-metadata themselves.
    const unused = Object.keys(dependencies).filter((name) => !name.startsWith('@types/') && !used.has(name));
    expect(unused).toEqual([]);
  });
});

describe('doors', () => {
  test.each(DOORS)('%s lists by hand what it lets out', (door) => {
    const source = sources.find(({ path }) => path === door);
    expect(source?.text).toMatch(/^export /m);
    expect(source?.text).not.toMatch(/export\s*\*/);
  });

  test('are the only files in lib/ itself beside what every floor may know', () => {
    const files = sources.filter(({ path }) => !path.includes('/')).map(({ path }) => path);
    expect(files.sort()).toEqual([...DOORS, 'errors.ts', 'version.ts', 'broker-override.ts'].sort());
  });
});

describe('files', () => {
  test('say in their first words what they own', () => {
    const silent = sources.filter(({ text }) => !/^\/\*\*[\s*]+[^\s*][\s\S]*?\*\//.test(text)).map(({ path }) => path);
    expect(silent).toEqual([]);
  });

  test(`have at most ${LONGEST} lines, except those that have a reason`, () => {
    const lengths = new Map(sources.map(({ path, text }) => [path, text.split('\n').length - 1]));
    const long = [...lengths].filter(([path, length]) => length > LONGEST && !Object.hasOwn(MAY_BE_LONGER, path));
    expect(long.map(([path, length]) => `lib/${path} has ${length} lines`)).toEqual([]);
    // A reason that is no longer needed goes.
    expect(Object.keys(MAY_BE_LONGER).filter((path) => (lengths.get(path) ?? 0) <= LONGEST)).toEqual([]);
  });
});

test('the version that clients announce is that of the package', async () => {
  const { version } = JSON.parse(readFileSync(`${ROOT}/package.json`, 'utf8')) as { version: string };
  const { VERSION } = await import('../lib/version.js');
  expect(VERSION).toBe(version);
});
