/**
 * A process that is killed at each step of retrying or dead-lettering a message: whatever had been said to the broker by then,
 * the message is in one queue or another.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { brokerUrl } from '../support/broker.mjs';
import { InstalledPackage, ROOT } from '../support/installed-package.js';
import { Scratch } from '../support/scratch.js';
import { eventually, within } from '../support/waits.js';

const BUILD_TIMEOUT = 180_000;
/** A busy machine takes long to load Nest. */
const CRASH_TIMEOUT = 60_000;
/** Longer than a test: what waits for its next attempt stays where it is. */
const DELAY = 3_600_000;

let installed: InstalledPackage;
let script: string;

beforeAll(async () => {
  installed = await InstalledPackage.make();
  script = await readFile(join(ROOT, 'test/faults/crashing-consumer.mjs'), 'utf8');
}, BUILD_TIMEOUT);

afterAll(async () => {
  await installed[Symbol.asyncDispose]();
});

const PUBLISHING: readonly [step: string, killAt: string][] = [
  ['before the message is published', 'out:60:40:before'],
  ['when the message is published', 'out:60:40:after'],
  ['before the confirm is read', 'in:60:80:before'],
  ['before the message is acknowledged', 'out:60:80:before'],
  ['when the message is acknowledged', 'out:60:80:after'],
];
const DECLARING: readonly [step: string, killAt: string][] = [
  ['before the wait queue is declared', 'out:50:10:before'],
  ['when the wait queue is declared', 'out:50:10:after'],
  ['before it is known to be declared', 'in:50:11:before'],
];

test.each([
  ...[...DECLARING, ...PUBLISHING].map(([step, killAt]) => ['retrying', step, killAt, String(DELAY)] as const),
  ...PUBLISHING.map(([step, killAt]) => ['dead-lettering', step, killAt, ''] as const),
])(
  '%s, killed %s, loses nothing',
  async (_what, _step, killAt, delay) => {
    await using scratch = await Scratch.open();
    const queue = await scratch.queue();
    const sides = [`${queue}.retry.${DELAY}`, `${queue}.dead`].map((name) => scratch.owns(name));
    const sent = Array.from({ length: 20 }, (_, id) => String(id));
    for (const body of sent) await scratch.send(queue, body);

    const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      cwd: installed.folder,
      env: { ...process.env, AMQP_URL: brokerUrl, QUEUE: queue, RETRY: delay, KILL_AT: killAt },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    try {
      expect(await within('the crash', once(child, 'exit'), CRASH_TIMEOUT)).toEqual([null, 'SIGKILL']);
    } finally {
      child.kill('SIGKILL');
    }

    const found = new Set<string>();
    await eventually('every message somewhere', async () => {
      for (const name of [queue, ...sides]) {
        if ((await scratch.state(name)) === undefined) continue;
        for (const body of await scratch.drain(name)) found.add(body);
      }
      return found.size === sent.length ? true : undefined;
    });
    expect([...found].sort()).toEqual([...sent].sort());
  },
  CRASH_TIMEOUT + 20_000,
);
