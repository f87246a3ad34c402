/**
 * `npm run bench`: every chosen scenario with every client, each in a process of its own, in turns, several rounds; then the
 * table, the results as JSON, and the chart.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { writeChart } from './chart.mjs';
import { installOurs } from './package.mjs';
import { PEERS } from './peers/index.mjs';
import { environment, summarize } from './results.mjs';
import { SCENARIOS } from './scenarios.mjs';
import { rabbitmq, sink } from './servers.mjs';
import { formatTable } from './table.mjs';

const USAGE = `npm run bench -- [options]
  --only NAMES     scenarios, by name or the beginning of it, with commas between (${SCENARIOS.map(({ name }) => name).join(', ')})
  --peers NAMES    ${Object.keys(PEERS).join(', ')}
  --server NAME    sink, rabbitmq or both (default both)
  --rounds N       default 3
  --quick          a smoke run of about a minute: one short round of a few scenarios
  --no-build       measure the package as it was built last
  --cpu-prof DIR   have V8 write a CPU profile of each client process there
`;

const CELL = fileURLToPath(new URL('./cell.mjs', import.meta.url));
const RESULTS = fileURLToPath(new URL('./results/', import.meta.url));
/** Longest time for one measurement, in milliseconds. */
const CELL_DEADLINE = 60_000;
/** Longest time that a client may take to go after it was measured. */
const EXIT_DEADLINE = 2_000;

const { values: options } = parseArgs({
  options: {
    only: { type: 'string' },
    peers: { type: 'string' },
    server: { type: 'string', default: 'both' },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    'no-build': { type: 'boolean', default: false },
    'cpu-prof': { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  console.log(USAGE);
  process.exit();
}

const isWhole =
  options.only === undefined && options.peers === undefined && !options.quick && options.server === 'both';
const rounds = Number(options.rounds ?? (options.quick ? 1 : 3));
const pace = options.quick
  ? { warmUp: 50, warmUpCount: 5_000, measure: 150 }
  : { warmUp: 200, warmUpCount: 30_000, measure: 500 };
const scenarios = chosenScenarios();
const peers = chosenPeers();

if (!options['no-build']) installOurs();
/** @type {import('./servers.mjs').Server[]} */
const servers = await chosenServers();
const started = performance.now();
/** @type {import('./results.mjs').Row[]} */
const rows = [];
/** A measurement that failed does not end a run of a quarter of an hour, but it fails it. @type {string[]} */
const failures = [];
try {
  for (const server of servers) {
    for (const scenario of scenarios.filter((each) => server.offers(each)))
      rows.push(...(await measure(server, scenario)));
  }
} finally {
  for (const server of servers) await server.stop();
}

/** @type {import('./results.mjs').Results} */
const results = { environment: environment(servers, rounds), rows };
console.log(formatTable(results));
console.log(`${Math.round((performance.now() - started) / 1000)} s`);
const isPublishable = isWhole && failures.length === 0;
mkdirSync(RESULTS, { recursive: true });
writeFileSync(`${RESULTS}${isPublishable ? 'latest' : 'partial'}.json`, `${JSON.stringify(results, undefined, 2)}\n`);
if (isPublishable) writeChart();
for (const failure of failures) console.error(`FAILED ${failure}`);
if (failures.length > 0) process.exitCode = 1;

/**
 * All clients of a scenario, in turns; each round begins with another one.
 *
 * @param {import('./servers.mjs').Server} server
 * @param {import('./scenarios.mjs').Scenario} scenario
 */
async function measure(server, scenario) {
  const names = scenario.peers.filter((name) => peers.has(name));
  /** @type {Map<string, import('./cell.mjs').CellResult[]>} */
  const measured = new Map(names.map((name) => [name, []]));
  for (let round = 0; round < rounds; round += 1) {
    for (let turn = 0; turn < names.length; turn += 1) {
      const name = names[(turn + round) % names.length];
      progress(`${server.title}: ${scenario.title}, round ${round + 1} of ${rounds}, ${PEERS[name].title}`);
      try {
        measured.get(name)?.push(await cell(server, scenario, name));
      } catch (error) {
        failures.push(`${scenario.name} with ${name} on ${server.title}: ${messageOf(error)}`);
      }
    }
  }
  progress('');
  return names.flatMap((name) => {
    const cells = measured.get(name) ?? [];
    return cells.length === 0 ? [] : [summarize(server.name, scenario.name, name, cells)];
  });
}

/**
 * @param {import('./servers.mjs').Server} server
 * @param {import('./scenarios.mjs').Scenario} scenario
 * @param {string} peer
 * @returns {Promise<import('./cell.mjs').CellResult>}
 */
async function cell(server, scenario, peer) {
  const stage = await server.stage(scenario, peer);
  try {
    /** @type {import('./cell.mjs').CellSpec} */
    const spec = { peer, scenario, url: stage.url, ...pace, counts: stage.counts };
    const result = await runCell(spec);
    await stage.verify(result);
    return result;
  } finally {
    await stage.close();
  }
}

/**
 * @param {import('./cell.mjs').CellSpec} spec
 * @returns {Promise<import('./cell.mjs').CellResult>}
 */
async function runCell(spec) {
  const profile = options['cpu-prof'];
  const name = `${spec.scenario.name}.${spec.peer}.cpuprofile`;
  const child = fork(CELL, [JSON.stringify(spec)], {
    execArgv: profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`, `--cpu-prof-name=${name}`],
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), CELL_DEADLINE);
  /** @type {import('./cell.mjs').CellResult | undefined} */
  let result;
  child.once('message', (message) => (result = /** @type {import('./cell.mjs').CellResult} */ (message)));
  // Some clients keep the process alive for a while after they were closed.
  child.once('disconnect', () => setTimeout(() => child.kill(), EXIT_DEADLINE).unref());
  await once(child, 'exit');
  clearTimeout(timer);
  if (result === undefined) throw new Error('the client process ended without a result');
  return result;
}

function chosenScenarios() {
  if (options.only === undefined) return SCENARIOS.filter(({ quick }) => !options.quick || quick === true);
  const wanted = options.only.split(',');
  const chosen = SCENARIOS.filter(({ name }) => wanted.some((each) => name === each || name.startsWith(`${each}-`)));
  if (chosen.length === 0) throw new Error(`no scenario is called ${options.only}\n${USAGE}`);
  return chosen;
}

function chosenPeers() {
  const names = options.peers?.split(',') ?? Object.keys(PEERS);
  for (const name of names) if (!(name in PEERS)) throw new Error(`no client is called ${name}\n${USAGE}`);
  return new Set(names);
}

async function chosenServers() {
  if (!['sink', 'rabbitmq', 'both'].includes(options.server))
    throw new Error(`no server is called ${options.server}\n${USAGE}`);
  const chosen = options.server === 'rabbitmq' ? [] : [sink];
  if (options.server === 'sink') return chosen;
  const broker = await rabbitmq({ quick: options.quick });
  if (broker !== undefined) return [...chosen, broker];
  console.warn('There is no RabbitMQ: set AMQP_URL, or install rabbitmq-server. Its rows are left out.');
  return chosen;
}

/** @param {unknown} error */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** @param {string} text */
function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
  else if (text !== '') process.stderr.write(`${text}\n`);
}
