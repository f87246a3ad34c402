/** Collecting garbage at once, for tests that count memory: what nobody holds any more may be there for a long time. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

type Collector = (options?: { type: 'minor' }) => void;

let collector: Collector | undefined;

/** All of it, which takes seconds in a process with many suites behind it; or of the young generation only. */
export const collectGarbage: Collector = (options) => {
  if (collector === undefined) {
    setFlagsFromString('--expose-gc');
    collector = runInNewContext('gc') as Collector;
  }
  collector(options);
};
