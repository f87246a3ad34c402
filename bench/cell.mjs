/**
 * One measurement, in a process of its own: one client, one scenario. It warms up until the compiler has seen the work, then
 * measures, closes in order, and tells its parent what it spent and how much work it did.
 */
import { PATTERN, PAYLOAD, messageOf, propertiesOf } from './messages.mjs';
import { Meter, Tally } from './meter.mjs';
import { PEERS } from './peers/index.mjs';

/**
 * @typedef {object} CellSpec
 * @property {string} peer
 * @property {import('./scenarios.mjs').Scenario} scenario
 * @property {string} url
 * @property {number} warmUp Milliseconds to warm up, at least.
 * @property {number} warmUpCount Messages to warm up with, at least: the compiler counts calls, not time.
 * @property {number} measure Milliseconds that the measured part should take; how many messages that is, is estimated.
 * @property {{ warmUp: number, measure: number } | undefined} counts Numbers of messages instead.
 */

/**
 * @typedef {object} CellResult
 * @property {number} count Messages measured.
 * @property {number} total Messages in all.
 * @property {import('./meter.mjs').Measurement} measurement
 */

/** Messages of the warm-up for each channel. */
const PER_CHANNEL = 100;
const FIRST_COUNT = 200;
/** Of large messages fewer are enough to warm up. */
const WARM_UP_BYTES = 100 * 2 ** 20;

/** @type {CellSpec} */
const spec = JSON.parse(process.argv[2]);
const { scenario, url } = spec;
const { inFlight = 500, prefetch = 500, channels = 1, noAck = false } = scenario;

const EXCHANGE = 'bench';
const QUEUE = 'bench.published';

/** @param {import('./peers/driver.js').Driver} driver */
async function work(driver) {
  const meter = new Meter();
  const latencies = scenario.latency === true ? meter.latencies : undefined;
  const { body } = messageOf(scenario.message);
  const properties = propertiesOf(scenario.message.kind);
  const target = {
    url,
    exchange: EXCHANGE,
    routingKey: PATTERN,
    queue: QUEUE,
    body,
    properties,
    channels,
    inFlight,
    latencies,
  };
  switch (scenario.operation) {
    case 'publish':
    case 'confirm':
      return await called(meter, await has(driver, scenario.operation)(target));
    case 'rpc':
      return await called(meter, await has(driver, 'rpc')({ ...target, exchange: '', routingKey: 'bench.rpc' }));
    case 'nestPublish':
      return await called(meter, await has(driver, 'nestPublish')({ ...target, payload: PAYLOAD }));
    case 'consume':
      return await consumed(meter, await has(driver, 'consume')({ url, prefetch, noAck, consumers: channels }));
    case 'nestConsume':
      return await consumed(meter, await has(driver, 'nestConsume')({ url, prefetch, pattern: PATTERN }));
    case 'boot': {
      const queues = Array.from({ length: channels }, (_, index) => `bench.boot.${index}`);
      return await once(meter, channels, await has(driver, 'boot')({ url, exchange: EXCHANGE, queues }));
    }
  }
}

/**
 * @template {import('./scenarios.mjs').Operation} O
 * @param {import('./peers/driver.js').Driver} driver
 * @param {O} operation
 * @returns {Required<import('./peers/driver.js').Driver>[O]}
 */
function has(driver, operation) {
  const method = driver[operation];
  if (method === undefined) throw new Error(`${spec.peer} has no ${operation}; its scenarios are in scenarios.mjs`);
  return /** @type {Required<import('./peers/driver.js').Driver>[O]} */ (method);
}

/**
 * Warms up in growing parts until it was long and often enough; the fastest tells how many messages the measured part is.
 *
 * @param {(count: number) => Promise<void>} run
 * @param {(count: number) => Promise<void>} measured
 * @returns {Promise<{ count: number, total: number }>}
 */
async function warmedUp(run, measured) {
  if (spec.counts !== undefined) {
    const { warmUp, measure } = spec.counts;
    await run(warmUp);
    await measured(measure);
    return { count: measure, total: warmUp + measure };
  }
  // Each part ends with an answer on every channel, which must not be what is measured.
  const enough = Math.ceil(
    Math.min(Math.max(spec.warmUpCount, channels * PER_CHANNEL), WARM_UP_BYTES / (scenario.message.size + 1)) /
      (inFlight === 1 ? 10 : 1),
  );
  let [total, elapsed, rate] = [0, 0, 0];
  for (let count = Math.min(FIRST_COUNT, enough); elapsed < spec.warmUp || total < enough;) {
    const at = performance.now();
    await run(count);
    const took = performance.now() - at;
    [total, elapsed, rate] = [total + count, elapsed + took, Math.max(rate, count / took)];
    count =
      elapsed < spec.warmUp ? Math.ceil(count * Math.min(4, Math.max(1, spec.warmUp / 2 / took))) : enough - total;
  }
  const measure = Math.max(1, Math.round(rate * spec.measure));
  await measured(measure);
  return { count: measure, total: total + measure };
}

/**
 * @param {Meter} meter
 * @param {import('./peers/driver.js').Work} prepared
 */
async function called(meter, prepared) {
  const counts = await warmedUp(prepared.run, async (count) => {
    meter.latencies.length = 0;
    meter.start();
    await prepared.run(count);
    meter.stop();
  });
  await prepared.close();
  return { ...counts, measurement: meter.result };
}

/**
 * Every part is a queue of its own, whose name ends with how many consumers and messages it has. Measured is from the first message.
 *
 * @param {Meter} meter
 * @param {import('./peers/driver.js').ConsumeWork} prepared
 */
async function consumed(meter, prepared) {
  let part = 0;
  const queueOf = (/** @type {number} */ count) => `bench.${part++}.${channels}.${count}`;
  const counts = await warmedUp(
    (count) => prepared.run(queueOf(count), new Tally(count, () => undefined)),
    async (count) => {
      await prepared.run(queueOf(count), new Tally(count, meter.start));
      // What the last messages of the turn still have to write.
      await new Promise(setImmediate);
      meter.stop();
    },
  );
  await prepared.close();
  return { ...counts, measurement: meter.result };
}

/**
 * @param {Meter} meter
 * @param {number} count
 * @param {import('./peers/driver.js').Work} prepared
 */
async function once(meter, count, prepared) {
  meter.start();
  await prepared.run(count);
  meter.stop();
  await prepared.close();
  return { count, total: count, measurement: meter.result };
}

const result = await work(await PEERS[spec.peer].load());
process.send?.(result, () => process.disconnect());
