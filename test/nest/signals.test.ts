/** An application in a process of its own that is told to end, by signals: what it finishes, and what it leaves to others. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { brokerUrl } from '../support/broker.mjs';
import { InstalledPackage, ROOT } from '../support/installed-package.js';
import { isNest11 } from '../support/nest-app.js';
import { Scratch } from '../support/scratch.js';
import { Inbox, within } from '../support/waits.js';

const BUILD_TIMEOUT = 180_000;
/** A busy machine takes long to load Nest. */
const START_TIMEOUT = 60_000;
/** Between one signal and the next. */
const INTERVAL = 100;

let installed: InstalledPackage;
let script: string;
let scratch: Scratch;
let queue: string;
let child: ChildProcessWithoutNullStreams;
let printed: Inbox<string>;
let exited: Promise<unknown[]>;

beforeAll(async () => {
  installed = await InstalledPackage.make();
  if (isNest11) {
    for (const name of ['@nestjs/common', '@nestjs/core', 'rxjs', 'reflect-metadata']) {
      await installed.link(name, join(ROOT, 'test/nest-11'));
    }
  }
  script = await readFile(join(ROOT, 'test/nest/signalled-app.mjs'), 'utf8');
}, BUILD_TIMEOUT);

afterAll(async () => {
  await installed[Symbol.asyncDispose]();
});

beforeEach(async () => {
  scratch = await Scratch.open();
  queue = await scratch.queue();
  child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: installed.folder,
    env: { ...process.env, AMQP_URL: brokerUrl, QUEUE: queue },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  child.stderr.pipe(process.stderr);
  exited = once(child, 'exit');
  printed = new Inbox();
  createInterface(child.stdout).on('line', printed.push);
  await printed.next('ready', (line) => line === 'ready', START_TIMEOUT);
}, START_TIMEOUT + 10_000);

afterEach(async () => {
  child.kill('SIGKILL');
  await scratch[Symbol.asyncDispose]();
});

async function prints(expected: string): Promise<void> {
  await printed.next(expected, (line) => line === expected);
}

test('by one signal: what runs is finished and acknowledged while the database is open, and nothing new is begun', async () => {
  await scratch.sendJson(queue, 'slow');
  await prints('began slow');
  child.kill('SIGTERM');
  await scratch.hasConsumers(queue, 0);
  await scratch.sendJson(queue, 'late');
  child.stdin.write('finish\n');
  await prints('ended slow');
  await prints('database closed');
  expect(await within('the end', exited)).toEqual([null, 'SIGTERM']);
  expect(await scratch.drain(queue)).toEqual(['"late"']);
  expect(printed.all).not.toContain('aborted slow');
});

test('by two signals: it ends at once, what has finished is acknowledged, what has not is aborted and goes back', async () => {
  await scratch.sendJson(queue, 'quick');
  await scratch.sendJson(queue, 'stuck');
  await scratch.sendJson(queue, 'slow');
  await prints('began slow');
  child.kill('SIGINT');
  await scratch.hasConsumers(queue, 0);
  child.stdin.write('finish\n');
  await prints('ended slow');
  expect(printed.all).not.toContain('aborted stuck');
  // The first that comes may be taken for the same key press.
  const pressing = setInterval(() => child.kill('SIGINT'), INTERVAL);
  try {
    await prints('aborted stuck');
    await prints('database closed');
    expect(await within('the end', exited)).toEqual([null, 'SIGINT']);
  } finally {
    clearInterval(pressing);
  }
  await scratch.hasMessages(queue, 1);
  expect(await scratch.drain(queue)).toEqual(['"stuck"']);
});
