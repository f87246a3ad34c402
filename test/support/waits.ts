/** Waits that always end: with what was awaited, or with an error that names it. */
import { setTimeout as delay } from 'node:timers/promises';

const PATIENCE = 10_000;
/** Between two looks at something that has no event. */
const INTERVAL = 20;

/** The result of `promise`, or an error after `patience` ms. */
export async function within<T>(what: string, promise: Promise<T>, patience = PATIENCE): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`${what} did not happen within ${patience} ms`));
    }, patience);
  });
  try {
    return await Promise.race([promise, expired]);
  } finally {
    clearTimeout(timer);
  }
}

/** Looks again and again until there is something to see: for the state of a broker or a process, which has no event. */
export async function eventually<T>(what: string, look: () => Promise<T | undefined>, patience = PATIENCE): Promise<T> {
  const deadline = performance.now() + patience;
  for (;;) {
    const seen = await look();
    if (seen !== undefined) return seen;
    if (performance.now() > deadline) throw new Error(`${what} was not so within ${patience} ms`);
    await delay(INTERVAL);
  }
}

/** Something that test and tested code wait for: opened once, by hand. */
export class Gate {
  readonly opened: Promise<void>;
  readonly #open: () => void;

  constructor() {
    let open = (): void => undefined;
    this.opened = new Promise((resolve) => {
      open = resolve;
    });
    this.#open = open;
  }

  open(): void {
    this.#open();
  }
}

/** What happened, in order; a test awaits the next of it. */
export class Inbox<T> {
  /** Everything that came, whether it was awaited or not. */
  readonly all: T[] = [];
  #read = 0;
  /** Those who wait for the next item, of which there may be several at a time. */
  #waiting: (() => void)[] = [];

  readonly push = (item: T): void => {
    this.all.push(item);
    for (const arrived of this.#waiting.splice(0)) arrived();
  };

  /** The first item that no `next` has given out; with `wanted` the first such one. */
  async next(what = 'the next item', wanted: (item: T) => boolean = () => true, patience?: number): Promise<T> {
    const found = (async () => {
      for (;;) {
        while (this.#read < this.all.length) {
          const item = this.all[this.#read] as T;
          this.#read += 1;
          if (wanted(item)) return item;
        }
        await new Promise<void>((resolve) => {
          this.#waiting.push(resolve);
        });
      }
    })();
    return await within(what, found, patience);
  }
}
