/**
 * `npm run chart`: the figures in `results/latest.json` as an SVG. One panel for each scenario, one bar for each client: the
 * CPU time of a message, each panel to a scale of its own.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { PEERS } from './peers/index.mjs';
import { SCENARIOS } from './scenarios.mjs';
import { figure } from './table.mjs';

const RESULTS = fileURLToPath(new URL('./results/latest.json', import.meta.url));
const CHART = fileURLToPath(new URL('./results/chart.svg', import.meta.url));

/** What is drawn, two to a line. */
const PANELS = [
  ['publish-100b', 'consume-no-ack'],
  ['confirm-100b', 'consume-100b'],
  ['publish-1k-rich', 'consume-1k-rich'],
  ['publish-1m', 'consume-1m'],
  ['rpc-100b', 'rpc-awaited'],
  ['nest-publish', 'nest-consume'],
];

const WIDTH = 960;
const MARGIN = 24;
const GAP = 40;
const HEADER = 64;
const LABEL = 178;
const VALUE = 56;
const ROW = 22;
const BAR = 13;
const TITLE = 28;
const PANEL_GAP = 22;
const FOOTER = 44;

// A background of its own: the page around an image may be dark when the reader's system is light.
const STYLE = `
  svg { color-scheme: light dark; font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
  .page { fill: #ffffff; stroke: #d0d7de; }
  .text { fill: #1f2328; font-size: 12px; }
  .title { fill: #1f2328; font-size: 13px; font-weight: 600; }
  .headline { fill: #1f2328; font-size: 17px; font-weight: 600; }
  .small { fill: #59636e; font-size: 11px; }
  .peer { fill: #8c959f; }
  .ours { fill: #0969da; }
  .floor { fill: #c8ced5; }
  .axis { stroke: #d0d7de; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #3d444d; }
    .text, .title, .headline { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .peer { fill: #656c76; }
    .ours { fill: #4493f8; }
    .floor { fill: #3d444d; }
    .axis { stroke: #3d444d; }
  }
`;

/** Draws what `results/latest.json` says. */
export function writeChart() {
  writeFileSync(CHART, chart(JSON.parse(readFileSync(RESULTS, 'utf8'))));
}

/** @param {import('./results.mjs').Results} results */
function chart({ environment, rows }) {
  const panelWidth = (WIDTH - 2 * MARGIN - GAP) / 2;
  const parts = [];
  let y = MARGIN + HEADER;
  for (const line of PANELS) {
    let longest = 0;
    for (const [column, name] of line.entries()) {
      const own = rows.filter(({ server, scenario }) => server === 'sink' && scenario === name);
      if (own.length === 0) continue;
      parts.push(panel(name, own, MARGIN + column * (panelWidth + GAP), y, panelWidth));
      longest = Math.max(longest, own.length);
    }
    if (longest > 0) y += TITLE + longest * ROW + PANEL_GAP;
  }
  const height = y + FOOTER;
  const { machine, node, rounds, date, versions } = environment;
  const made = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  const half = Math.ceil(made.length / 2);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="CPU time per message of AMQP clients for Node.js">
<style>${STYLE}</style>
<rect class="page" x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="6"/>
${text('headline', MARGIN, MARGIN + 16, 'CPU time of the client per message, in microseconds')}
${text('small', MARGIN, MARGIN + 38, `Shorter is better. Each panel has a scale of its own. Against a server that is never the bottleneck; median of ${rounds} rounds.`)}
${parts.join('\n')}
${text('small', MARGIN, height - FOOTER + 8, `${date}, ${machine}, Node.js ${node}; ${made.slice(0, half).join(', ')}`)}
${text('small', MARGIN, height - FOOTER + 24, made.slice(half).join(', '))}
</svg>
`;
}

/**
 * @param {string} name
 * @param {readonly import('./results.mjs').Row[]} rows
 * @param {number} x
 * @param {number} y
 * @param {number} width
 */
function panel(name, rows, x, y, width) {
  const title = SCENARIOS.find((scenario) => scenario.name === name)?.title ?? name;
  const most = Math.max(...rows.map(({ cpu }) => cpu));
  const room = width - LABEL - VALUE;
  const lines = rows.map(({ peer, cpu }, index) => {
    const top = y + TITLE + index * ROW;
    const length = Math.max(1, (cpu / most) * room);
    return [
      `<text class="text" x="${x + LABEL - 8}" y="${top + 11}" text-anchor="end">${escaped(PEERS[peer].title)}</text>`,
      `<rect class="${PEERS[peer].role}" x="${x + LABEL}" y="${top}" width="${length.toFixed(1)}" height="${BAR}" rx="2"/>`,
      text('text', x + LABEL + length + 6, top + 11, figure(cpu)),
    ].join('');
  });
  const axis = `<line class="axis" x1="${x + LABEL}" x2="${x + LABEL}" y1="${y + TITLE - 5}" y2="${y + TITLE + rows.length * ROW - 4}"/>`;
  return [text('title', x, y + 14, title), axis, ...lines].join('\n');
}

/**
 * @param {string} style
 * @param {number} x
 * @param {number} y
 * @param {string} value
 */
function text(style, x, y, value) {
  return `<text class="${style}" x="${x.toFixed(1)}" y="${y}">${escaped(value)}</text>`;
}

/** @param {string} value */
function escaped(value) {
  return value.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeChart();
