/**
 * A cluster of private RabbitMQ nodes for tests, which know each other through an epmd of their own: it outlives each of them.
 * What a node is, and how it ends, is in `rabbitmq-server.mjs`.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { findRabbitMq, privateEnvironment } from './rabbitmq-install.mjs';
import { RabbitMqServer, freePort, guarded, newCookie } from './rabbitmq-server.mjs';

export class RabbitMqCluster {
  /**
   * Starts so many nodes, one after the other joining the first.
   *
   * @param {number} size
   * @returns {Promise<RabbitMqCluster>}
   */
  static async start(size) {
    const install = findRabbitMq();
    if (install === undefined) throw new Error('RabbitMQ is not installed');
    const folder = await mkdtemp(join(install.folder, 'nest-amqp-'));
    const epmd = await freePort();
    const guard = guarded([install.epmd, '', folder], privateEnvironment(folder, epmd));
    guard.unref();
    const cluster = new RabbitMqCluster(folder, guard);
    const place = { cookie: newCookie(), epmd };
    try {
      cluster.nodes = await Promise.all(
        Array.from({ length: size }, () => RabbitMqServer.start({ install, cluster: place })),
      );
      const [first, ...others] = cluster.nodes;
      for (const node of others) {
        await node.ctl('stop_app');
        await node.ctl('join_cluster', first?.nodeName ?? '');
        await node.ctl('start_app');
      }
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  /** @type {string} */
  #folder;
  /** @type {import('./rabbitmq-server.mjs').GuardProcess} */
  #epmd;

  /**
   * @param {string} folder
   * @param {import('./rabbitmq-server.mjs').GuardProcess} epmd
   */
  constructor(folder, epmd) {
    this.#folder = folder;
    this.#epmd = epmd;
    /** @type {RabbitMqServer[]} */
    this.nodes = [];
  }

  get urls() {
    return this.nodes.map(({ url }) => url);
  }

  /** Ends all nodes and removes their folders. */
  async stop() {
    await Promise.all(this.nodes.map((node) => node.stop()));
    await this.#epmd.stop();
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  }

  async [Symbol.asyncDispose]() {
    await this.stop();
  }
}
