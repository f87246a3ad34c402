/** `node profile.mjs FILE [ROWS]`: where a CPU profile spent its time, by function, itself and with what it called. */
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * @typedef {object} Node
 * @property {number} id
 * @property {{ functionName: string, url: string, lineNumber: number }} callFrame
 * @property {number[]} [children]
 */

const [, , file, rows = '25'] = process.argv;
/** @type {{ nodes: Node[], samples: number[], timeDeltas: number[] }} */
const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(file, 'utf8'));

const byId = new Map(nodes.map((node) => [node.id, node]));
/** @type {Map<number, number>} */
const spent = new Map();
for (const [index, id] of samples.entries()) spent.set(id, (spent.get(id) ?? 0) + timeDeltas[index]);

/** @type {Map<string, { self: number, total: number }>} */
const functions = new Map();
const [root] = nodes;
let idle = 0;
sum(root, new Set());

/**
 * @param {Node} node
 * @param {ReadonlySet<string>} callers A function that calls itself counts once.
 * @returns {number}
 */
function sum(node, callers) {
  const name = nameOf(node.callFrame);
  const self = spent.get(node.id) ?? 0;
  if (name === '(idle)') idle += self;
  const within = new Set([...callers, name]);
  let total = self;
  for (const child of node.children ?? []) total += sum(/** @type {Node} */ (byId.get(child)), within);
  const entry = functions.get(name) ?? { self: 0, total: 0 };
  entry.self += self;
  if (!callers.has(name)) entry.total += total;
  functions.set(name, entry);
  return total;
}

const all = timeDeltas.reduce((one, other) => one + other, 0) - idle;
console.log(`${(all / 1000).toFixed(0)} ms without idling\n  self  total`);
const sorted = [...functions].filter(([name]) => !['(root)', '(idle)'].includes(name));
sorted.sort(([, one], [, other]) => other.self - one.self);
for (const [name, { self, total }] of sorted.slice(0, Number(rows))) {
  console.log(`${share(self)} ${share(total)}  ${name}`);
}

/** @param {number} time */
function share(time) {
  return `${((time / all) * 100).toFixed(1)}%`.padStart(6);
}

/** @param {Node['callFrame']} frame */
function nameOf({ functionName, url, lineNumber }) {
  const name = functionName === '' ? '(anonymous)' : functionName;
  if (url === '') return name;
  const path = url.startsWith('file:') ? relative(import.meta.dirname, fileURLToPath(url)) : url;
  return `${name} ${path.replace('node_modules/', '')}:${lineNumber + 1}`;
}
