/**
 * What one process spends on the work between `start()` and `stop()`, counted in the same way for every client.
 */
import { Socket } from 'node:net';
import { PerformanceObserver } from 'node:perf_hooks';

/** One latency in so many is taken: two clock readings for each message would be a cost of their own. */
const SAMPLE_EVERY = 16;

/**
 * @typedef {object} Measurement
 * @property {number} cpu Microseconds of CPU, user and system, of the whole process.
 * @property {number} wall Milliseconds.
 * @property {number} writes Writes that reached a socket.
 * @property {number} peakMemory Most bytes resident, since the process began.
 * @property {number} gcTime Milliseconds in garbage collections.
 * @property {number} gcCount
 * @property {number[]} latencies Milliseconds, one in 16.
 */

let writes = 0;
countWrites();

/** Every write that Node.js hands to the operating system comes through one of these two. */
function countWrites() {
  const { prototype } = Socket;
  const { _write: write, _writev: writev } = prototype;
  if (writev === undefined) throw new Error('net.Socket has no _writev: this version of Node.js is not known here');
  prototype._write = function (chunk, encoding, callback) {
    writes += 1;
    return write.call(this, chunk, encoding, callback);
  };
  prototype._writev = function (chunks, callback) {
    writes += 1;
    return writev.call(this, chunks, callback);
  };
}

export class Meter {
  /** @type {number[]} */
  #latencies = [];
  #gc = { time: 0, count: 0 };
  #observer = new PerformanceObserver((list) => this.#collected(list.getEntries()));
  #cpu = process.cpuUsage();
  #at = 0;
  #writes = 0;
  /** @type {Measurement | undefined} */
  #result;

  start = () => {
    this.#observer.observe({ entryTypes: ['gc'] });
    this.#writes = writes;
    this.#at = performance.now();
    this.#cpu = process.cpuUsage();
  };

  stop = () => {
    const { user, system } = process.cpuUsage(this.#cpu);
    const wall = performance.now() - this.#at;
    this.#collected(this.#observer.takeRecords());
    this.#observer.disconnect();
    this.#result = {
      cpu: user + system,
      wall,
      writes: writes - this.#writes,
      peakMemory: process.resourceUsage().maxRSS * 1024,
      gcTime: this.#gc.time,
      gcCount: this.#gc.count,
      latencies: this.#latencies,
    };
  };

  get result() {
    if (this.#result === undefined) throw new Error('nothing was measured');
    return this.#result;
  }

  /** For `inFlight`. */
  get latencies() {
    return this.#latencies;
  }

  /** @param {import('node:perf_hooks').PerformanceEntry[]} entries */
  #collected(entries) {
    for (const { duration } of entries) {
      this.#gc.time += duration;
      this.#gc.count += 1;
    }
  }
}

/** Counts what arrives: tells of the first message and resolves after the last. */
export class Tally {
  #expected;
  #seen = 0;
  #onFirst;
  #finish = () => {};
  /** @type {Promise<void>} */
  done = new Promise((resolve) => (this.#finish = resolve));

  /**
   * @param {number} expected
   * @param {() => void} onFirst
   */
  constructor(expected, onFirst) {
    this.#expected = expected;
    this.#onFirst = onFirst;
  }

  /** Bound, so that it can be handed to a client as it is. */
  one = () => {
    this.#seen += 1;
    if (this.#seen === 1) this.#onFirst();
    if (this.#seen === this.#expected) this.#finish();
  };
}

/**
 * Calls `send` `count` times, with `width` promises pending at a time. It adds one callback to each.
 *
 * @param {number} count
 * @param {number} width
 * @param {(index: number) => Promise<unknown>} send
 * @param {number[]} [latencies] Where one in 16 is noted, in milliseconds.
 * @returns {Promise<void>}
 */
export function inFlight(count, width, send, latencies) {
  return new Promise((resolve, reject) => {
    let started = 0;
    let ended = 0;
    const end = () => {
      ended += 1;
      if (ended === count) resolve();
      else if (started < count) start();
    };
    const start = () => {
      const index = started;
      started += 1;
      if (latencies === undefined || index % SAMPLE_EVERY !== 0) {
        send(index).then(end, reject);
        return;
      }
      const at = performance.now();
      send(index).then(() => {
        latencies.push(performance.now() - at);
        end();
      }, reject);
    };
    for (let each = Math.min(width, count); each > 0; each -= 1) start();
  });
}

/**
 * @template T
 * @param {number} count
 * @param {(index: number) => Promise<T>} make
 * @returns {Promise<T[]>} One after the other.
 */
export async function times(count, make) {
  const made = [];
  for (let index = 0; index < count; index += 1) made.push(await make(index));
  return made;
}
