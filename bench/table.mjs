/** The results as a table to read. */
import { PEERS } from './peers/index.mjs';
import { bestPeer } from './results.mjs';
import { SCENARIOS } from './scenarios.mjs';

const HEADINGS = ['', 'CPU us/msg', 'x best peer', 'msg/s', 'writes/msg', 'peak MiB', 'GC %', 'p50 ms', 'p99 ms'];

/** @param {import('./results.mjs').Results} results */
export function formatTable({ environment, rows }) {
  const { machine, node, servers, versions, rounds, date } = environment;
  const lines = [
    `${date}, ${machine}, Node.js ${node}, ${servers.join(' and ')}; median of ${rounds}`,
    Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
  ];
  for (const server of /** @type {const} */ (['sink', 'rabbitmq'])) {
    for (const { name, title } of SCENARIOS) {
      const own = rows.filter((row) => row.server === server && row.scenario === name);
      if (own.length === 0) continue;
      lines.push('', `${title} (${server}; ${name})`, ...aligned([HEADINGS, ...own.map((row) => cells(rows, row))]));
    }
  }
  return lines.join('\n');
}

/**
 * @param {readonly import('./results.mjs').Row[]} rows
 * @param {import('./results.mjs').Row} row
 */
function cells(rows, row) {
  const best = bestPeer(rows, row);
  return [
    PEERS[row.peer].title,
    figure(row.cpu),
    best === undefined ? '' : (row.cpu / best).toFixed(2),
    Math.round(row.rate).toLocaleString('en-US'),
    row.writes.toFixed(row.writes < 0.1 ? 4 : 2),
    (row.peakMemory / 2 ** 20).toFixed(0),
    (row.gc * 100).toFixed(1),
    row.p50 === undefined ? '' : row.p50.toFixed(3),
    row.p99 === undefined ? '' : row.p99.toFixed(3),
  ];
}

/** @param {number} value */
export function figure(value) {
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** @param {readonly string[][]} table */
function aligned(table) {
  const widths = HEADINGS.map((_, column) => Math.max(...table.map((line) => line[column].length)));
  return table.map((line) =>
    line
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column])))
      .join('  ')
      .trimEnd(),
  );
}
