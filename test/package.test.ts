/** What is published: which files, and that every door opens from ES modules and from CommonJS alike. */
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { InstalledPackage, type Manifest, readManifest } from './support/installed-package.js';

/** For a build, and for a process of Node.js that starts on a busy machine. */
const BUILD_TIMEOUT = 180_000;

jest.setTimeout(BUILD_TIMEOUT);

let installed: InstalledPackage;
let manifest: Manifest;

beforeAll(async () => {
  [installed, manifest] = await Promise.all([InstalledPackage.make(), readManifest()]);
});

afterAll(async () => {
  await installed[Symbol.asyncDispose]();
});

describe('the package', () => {
  test('holds the built library and its papers, and nothing else', () => {
    const strangers = installed.files.filter(
      (path) =>
        !/^(dist\/lib\/.+\.(js|d\.ts|js\.map)|docs\/.+\.md|README\.md|LICENSE|CHANGELOG\.md|package\.json)$/.test(path),
    );
    expect(strangers).toEqual([]);
    expect(installed.files).toEqual(expect.arrayContaining(['README.md', 'LICENSE', 'CHANGELOG.md', 'package.json']));
  });

  test('has the documents that its README leads to', async () => {
    const readme = await readFile(join(installed.home, 'README.md'), 'utf8');
    const documents = [...readme.matchAll(/\]\((docs\/[^)#]+)/g)].map(([, path]) => path as string);
    expect(documents.length).toBeGreaterThan(0);
    expect(documents.filter((path) => !existsSync(join(installed.home, path)))).toEqual([]);
  });

  test('has a target behind every export', () => {
    const targets = Object.values(manifest.exports).flatMap((target) =>
      typeof target === 'string' ? [target] : [target.types, target.default],
    );
    expect(targets.length).toBeGreaterThan(3);
    expect(targets.filter((target) => !existsSync(join(installed.home, target)))).toEqual([]);
  });

  test('runs nothing on the machine that installs it', async () => {
    const { scripts = {} } = JSON.parse(await readFile(join(installed.home, 'package.json'), 'utf8')) as {
      scripts?: Record<string, string>;
    };
    const onInstall = ['preinstall', 'install', 'postinstall', 'prepare'].filter((name) => name in scripts);
    expect(onInstall).toEqual([]);
  });
});

describe('a door', () => {
  test('has types that hold together where a compiler checks libraries too', async () => {
    const doors = Object.keys(manifest.exports).filter((door) => door !== './package.json');
    expect(doors.length).toBeGreaterThan(3);
    await installed.link('@types/node');
    await installed.check(
      'doors.ts',
      doors.map((door, index) => `export * as door${index} from 'nest-amqp${door.slice(1)}';`).join('\n'),
    );
  });

  test.each(['nest-amqp', 'nest-amqp/client', 'nest-amqp/terminus', 'nest-amqp/testing'])(
    '%s gives the same objects to import and to require, in one process',
    async (door) => {
      const names = await installed.evaluate(
        'module',
        `import 'reflect-metadata';
         import { createRequire } from 'node:module';
         import * as imported from '${door}';
         const required = createRequire(import.meta.url)('${door}');
         const names = Object.keys(imported);
         const others = names.filter((name) => imported[name] !== required[name]);
         console.log(JSON.stringify({ names, others }));`,
      );
      const { names: exported, others } = JSON.parse(names) as { names: string[]; others: string[] };
      expect(exported.length).toBeGreaterThan(0);
      expect(others).toEqual([]);
    },
  );

  test('loads nothing of the embedded broker before a URL asks for one', async () => {
    const printed = await installed.evaluate(
      'module',
      `import { Session } from 'node:inspector';
       const session = new Session();
       const loaded = new Set();
       session.connect();
       session.on('Debugger.scriptParsed', ({ params }) => loaded.add(params.url));
       session.post('Debugger.enable');
       const isOfBroker = (url) => url.includes('/nest-amqp/dist/lib/broker/');
       await import('reflect-metadata');
       await import('nest-amqp');
       const { connect } = await import('nest-amqp/client');
       const before = [...loaded].filter(isOfBroker).length;
       const seen = [...loaded].some((url) => url.includes('/nest-amqp/dist/lib/client/'));
       const connection = await connect('embedded:shop');
       const after = [...loaded].filter(isOfBroker).length;
       await connection.close();
       console.log(JSON.stringify({ seen, before, isLoaded: after > 0 }));`,
    );
    expect(JSON.parse(printed)).toEqual({ seen: true, before: 0, isLoaded: true });
  });

  test('a connection to the embedded broker keeps the process alive until it is closed', async () => {
    const printed = await installed.evaluate(
      'module',
      `import { connect } from 'nest-amqp/client';
       const connection = await connect('embedded:shop');
       // As weak as the timers of those who wait for the connection: it fires only while something else keeps the process.
       setTimeout(() => {
         console.log('alive');
         connection.close();
       }, 50).unref();`,
    );
    expect(printed).toBe('alive');
  });

  test('nest-amqp/client opens by require in a CommonJS program', async () => {
    const printed = await installed.evaluate(
      'commonjs',
      `const { connect, AmqpError } = require('nest-amqp/client');
       connect('amqp://127.0.0.1:1').catch((error) => console.log(error instanceof AmqpError, error.code));`,
    );
    expect(printed).toBe('true CONNECT_FAILED');
  });

  test('of the client and of the helpers for tests opens where neither Nest nor rxjs is installed', async () => {
    await using bare = await installed.withoutPeers();
    const printed = await bare.evaluate(
      'module',
      `const { connect } = await import('nest-amqp/client');
       const { ScriptedPeer } = await import('nest-amqp/testing');
       const { code } = await import('nest-amqp').catch((error) => error);
       console.log(typeof connect, typeof ScriptedPeer, code);`,
    );
    expect(printed).toBe('function function ERR_MODULE_NOT_FOUND');
  });

  test('that the package does not have is closed: its inside cannot be imported', async () => {
    const script = `import('nest-amqp/dist/lib/errors.js').catch((error) => console.log(error.code));`;
    expect(await installed.evaluate('module', script)).toBe('ERR_PACKAGE_PATH_NOT_EXPORTED');
  });
});
