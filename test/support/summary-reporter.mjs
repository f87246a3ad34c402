/**
 * Prints the totals of a run as its very last line, and fails a run on CI in which nothing talked to a real broker.
 * All else that a run prints is left to Jest's own reporter.
 */
import { relative, sep } from 'node:path';

const BROKER_FOLDERS = ['client', 'nest', 'e2e'].map((name) => `test${sep}${name}${sep}`);

/**
 * The part of Jest's results that is used here.
 *
 * @typedef {object} FileResult
 * @property {string} testFilePath
 * @property {number} numPassingTests
 * @property {number} numFailingTests
 *
 * @typedef {object} RunResult
 * @property {number} numPassedTests
 * @property {number} numFailedTests
 * @property {number} numPendingTests
 * @property {number} numTodoTests
 * @property {number} numRuntimeErrorTestSuites
 * @property {FileResult[]} testResults
 */

export default class SummaryReporter {
  #root;
  /** @type {Error | undefined} */
  #error;
  #line = '';

  /** @param {{ rootDir: string }} globalConfig */
  constructor(globalConfig) {
    this.#root = globalConfig.rootDir;
  }

  /**
   * @param {unknown} _contexts
   * @param {RunResult} results
   */
  onRunComplete(_contexts, results) {
    // A file that could not be loaded has no tests to count, yet it is a failure.
    let failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    const skipped = results.numPendingTests + results.numTodoTests;
    if (isCi() && !results.testResults.some((file) => this.#usedBroker(file))) {
      const folders = BROKER_FOLDERS.map((folder) => folder.slice(0, -1)).join(', ');
      this.#error = new Error(`CI is set, and no test in ${folders} ran: nothing was tested against a real broker`);
      failed += 1;
      process.stderr.write(`\n${this.#error.message}\n`);
    }
    const totals = [`${String(results.numPassedTests)} passed`, `${String(failed)} failed`];
    if (skipped > 0) totals.push(`${String(skipped)} skipped`);
    // Jest always runs its own summary after every other reporter, and the end of the process after that.
    if (this.#line === '') process.once('exit', () => process.stdout.write(this.#line));
    this.#line = `${totals.join(', ')}\n`;
  }

  getLastError() {
    return this.#error;
  }

  /** @param {FileResult} file */
  #usedBroker(file) {
    const path = relative(this.#root, file.testFilePath);
    return file.numPassingTests + file.numFailingTests > 0 && BROKER_FOLDERS.some((folder) => path.startsWith(folder));
  }
}

function isCi() {
  return !['', '0', 'false'].includes(process.env['CI'] ?? '');
}
