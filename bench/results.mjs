/** What comes of the measurements: medians over the rounds, and where and with what they were made. */
import { readFileSync } from 'node:fs';
import { cpus, platform, release, totalmem } from 'node:os';

import { PEERS } from './peers/index.mjs';

/**
 * One client in one scenario on one server; every figure is the median over the rounds.
 *
 * @typedef {object} Row
 * @property {'sink' | 'rabbitmq'} server
 * @property {string} scenario
 * @property {string} peer
 * @property {number} cpu Microseconds of CPU per message.
 * @property {[least: number, most: number]} cpuRange Over the rounds.
 * @property {number} rate Messages a second.
 * @property {number} writes Socket writes per message.
 * @property {number} peakMemory Bytes.
 * @property {number} gc Share of the time in garbage collection, 0 to 1.
 * @property {number} [p50] Milliseconds.
 * @property {number} [p99] Milliseconds.
 */

/**
 * @typedef {object} Environment
 * @property {string} date
 * @property {string} machine
 * @property {string} node
 * @property {readonly string[]} servers
 * @property {Record<string, string>} versions
 * @property {number} rounds
 */

/** @typedef {{ environment: Environment, rows: Row[] }} Results */

/**
 * @param {'sink' | 'rabbitmq'} server
 * @param {string} scenario
 * @param {string} peer
 * @param {readonly import('./cell.mjs').CellResult[]} cells One for each round.
 * @returns {Row}
 */
export function summarize(server, scenario, peer, cells) {
  /** @param {(cell: import('./cell.mjs').CellResult) => number} figure */
  const over = (figure) => cells.map(figure).sort((a, b) => a - b);
  const cpu = over(({ measurement, count }) => measurement.cpu / count);
  const latencies = cells.flatMap(({ measurement }) => measurement.latencies).sort((a, b) => a - b);
  return {
    server,
    scenario,
    peer,
    cpu: median(cpu),
    cpuRange: [cpu[0], cpu[cpu.length - 1]],
    rate: median(over(({ measurement, count }) => (count / measurement.wall) * 1000)),
    writes: median(over(({ measurement, count }) => measurement.writes / count)),
    peakMemory: median(over(({ measurement }) => measurement.peakMemory)),
    gc: median(over(({ measurement }) => measurement.gcTime / measurement.wall)),
    ...(latencies.length === 0 ? {} : { p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99) }),
  };
}

/**
 * The least CPU that a client of others needs in this scenario; undefined when none was measured.
 *
 * @param {readonly Row[]} rows
 * @param {Row} row
 */
export function bestPeer(rows, { server, scenario }) {
  const costs = rows
    .filter((each) => each.server === server && each.scenario === scenario && PEERS[each.peer].role === 'peer')
    .map(({ cpu }) => cpu);
  return costs.length === 0 ? undefined : Math.min(...costs);
}

/**
 * @param {readonly import('./servers.mjs').Server[]} servers
 * @param {number} rounds
 * @returns {Environment}
 */
export function environment(servers, rounds) {
  const processors = cpus();
  const memory = Math.round(totalmem() / 2 ** 30);
  const packages = [...Object.values(PEERS).flatMap((peer) => peer.package ?? []), '@nestjs/core'];
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: `${processors.length} x ${processors[0]?.model.trim() ?? 'unknown'}, ${memory} GiB, ${platform()} ${release()}`,
    node: process.version,
    servers: servers.map(({ title }) => title),
    versions: Object.fromEntries([...new Set(packages)].map((name) => [name, versionOf(name)])),
    rounds,
  };
}

/** @param {string} name */
function versionOf(name) {
  const manifest = readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url), 'utf8');
  return String(JSON.parse(manifest).version);
}

/** @param {readonly number[]} sorted */
function median(sorted) {
  return quantile(sorted, 0.5);
}

/**
 * @param {readonly number[]} sorted
 * @param {number} share
 */
function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}
