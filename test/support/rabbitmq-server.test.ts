/**
 * The private node that other tests rely on: that it is another one than theirs, and that nothing of it stays. What the
 * node does as a broker is left to RabbitMQ.
 */
import { expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';

import { brokerVersion } from './amqp-probe.mjs';
import { brokerUrl, ctl, ctlAvailable } from './broker.mjs';
import { groupMembers } from './process-group.mjs';
import { findRabbitMq } from './rabbitmq-install.mjs';
import { RabbitMqServer } from './rabbitmq-server.mjs';

const START_TIMEOUT = 120_000;

// With a broker given by its URL, RabbitMQ need not be installed here.
const testNode = findRabbitMq() === undefined ? test.skip : test;

testNode(
  'a private node has a life of its own, survives a crash with its data, and leaves nothing behind',
  async () => {
    await using server = await RabbitMqServer.start({ config: 'heartbeat = 17' });
    const { home } = server.node;
    const group = Number(server.processGroup);

    expect(server.url).toBe(`amqp://guest:guest@127.0.0.1:${server.port}`);
    expect(server.url).not.toBe(brokerUrl);
    expect(await brokerVersion('127.0.0.1', server.port, 5_000)).toBe(server.version);
    expect(await server.ctl('eval', 'node().')).toBe(`'${server.nodeName}'`);
    expect(await server.ctl('eval', 'application:get_env(rabbit, heartbeat).')).toBe('{ok,17}');

    await server.ctl('add_vhost', 'only-here');
    expect(await server.ctl('list_vhosts', '--no-table-headers')).toContain('only-here');
    if (ctlAvailable) {
      expect(await ctl('eval', 'node().')).not.toBe(`'${server.nodeName}'`);
      expect(await ctl('list_vhosts', '--no-table-headers')).toBe('/');
    }

    await server.kill();
    expect(await groupMembers(group)).toEqual([]);
    await expect(server.ctl('status')).rejects.toThrow('does not run');

    await server.restart();
    expect(await server.ctl('list_vhosts', '--no-table-headers')).toContain('only-here');
    const secondGroup = Number(server.processGroup);
    expect(await groupMembers(secondGroup)).not.toEqual([]);

    await server.stop();
    await server.stop();
    expect(server.processGroup).toBeUndefined();
    expect(await groupMembers(secondGroup)).toEqual([]);
    expect(existsSync(home)).toBe(false);
  },
  START_TIMEOUT,
);

testNode(
  'a node does not outlive the process that started it',
  async () => {
    const script = `
      import { RabbitMqServer } from ${JSON.stringify(new URL('./rabbitmq-server.mjs', import.meta.url).href)};
      const server = await RabbitMqServer.start();
      console.log(JSON.stringify({ group: server.processGroup, home: server.node.home }));
      setInterval(() => {}, 60_000);
    `;
    const starter = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      const [line] = (await once(createInterface(starter.stdout), 'line')) as [string];
      const { group, home } = JSON.parse(line) as { group: number; home: string };
      expect(await groupMembers(group)).not.toEqual([]);

      starter.kill('SIGKILL');

      // The end of a process that is no child of ours has no event to await.
      const deadline = Date.now() + 20_000;
      while (((await groupMembers(group)).length > 0 || existsSync(home)) && Date.now() < deadline) await delay(50);
      expect(await groupMembers(group)).toEqual([]);
      expect(existsSync(home)).toBe(false);
    } finally {
      starter.kill('SIGKILL');
    }
  },
  START_TIMEOUT,
);

testNode(
  'a node that cannot start says why and leaves nothing behind',
  async () => {
    await expect(RabbitMqServer.start({ config: 'no_such_setting = 1' })).rejects.toThrow('no_such_setting');
  },
  START_TIMEOUT,
);
