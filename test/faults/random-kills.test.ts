/**
 * A process that is killed at random instants while it consumes under load, with handlers that fail and are tried again: every
 * message is handled or dead-lettered all the same. NEST_AMQP_KILLS=200 makes it more of them; the figures are printed. What is
 * lost or not at each step of a retry is `crashes.test.ts`'s.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import type { Channel } from '../../lib/client/channel.js';
import { type Connection, connect } from '../../lib/client/connection.js';
import { brokerUrl } from '../support/broker.mjs';
import { InstalledPackage, ROOT } from '../support/installed-package.js';
import { Scratch } from '../support/scratch.js';
import { eventually, within } from '../support/waits.js';

const KILLS = Number(process.env['NEST_AMQP_KILLS'] ?? 5);
const BUILD_TIMEOUT = 180_000;
/** Per kill, and for the rest. */
const PATIENCE = 30_000;
/** Messages that are published and not yet done with: the load never runs dry. */
const BACKLOG = 1_000;
/** What a consumer that says nothing holds at a time: what a kill may have delivered again. */
const PREFETCH = 50;
const DELAYS = [20, 100];
/** A process is killed after so many more outcomes at most, but one of four so many milliseconds after its start at most. */
const LATEST = { outcomes: 500, ms: 1_000 };

type Fate = 'handled' | 'failing once' | 'failing' | 'refused';

/** One of ten fails at first, one of fifty always, one of fifty is refused. */
function fateOf(id: number): Fate {
  if (id % 10 === 3) return 'failing once';
  if (id % 50 === 7) return 'failing';
  return id % 50 === 21 ? 'refused' : 'handled';
}

let installed: InstalledPackage;
let script: string;

beforeAll(async () => {
  installed = await InstalledPackage.make();
  script = await readFile(join(ROOT, 'test/faults/killed-consumer.mjs'), 'utf8');
}, BUILD_TIMEOUT);

afterAll(async () => {
  await installed[Symbol.asyncDispose]();
});

/** What the messages came to, read from the ledger and from the dead letters. */
class Outcomes {
  readonly done = new Map<number, Fate>();
  repeated = 0;
  /** Dead-lettered though it was to be handled, or the other way round. */
  readonly wrong: string[] = [];

  static async of(connection: Connection, ledger: string, dead: string): Promise<Outcomes> {
    const channel = await connection.channel();
    await channel.queueDeclare(dead);
    const outcomes = new Outcomes(channel, [ledger, dead]);
    await outcomes.#watch(ledger, ['handled', 'failing once']);
    await outcomes.#watch(dead, ['failing', 'refused']);
    return outcomes;
  }

  readonly #channel: Channel;
  readonly #queues: readonly string[];

  private constructor(channel: Channel, queues: readonly string[]) {
    this.#channel = channel;
    this.#queues = queues;
  }

  async more(count: number): Promise<void> {
    const wanted = this.done.size + count;
    const reached = (): Promise<true | undefined> => Promise.resolve(this.done.size >= wanted ? true : undefined);
    await eventually(`${count} more outcomes`, reached, PATIENCE);
  }

  /** Everything that is in the queues has been read. */
  async read(): Promise<void> {
    for (const queue of this.#queues) {
      await eventually(`an empty queue ${queue}`, async () => {
        // It is answered on the channel after what was delivered there.
        const { messageCount } = await this.#channel.queueDeclare(queue, { passive: true });
        return messageCount === 0 ? true : undefined;
      });
    }
  }

  async #watch(queue: string, fates: readonly Fate[]): Promise<void> {
    await this.#channel.basicConsume(
      queue,
      ({ body }) => {
        const { id, fate } = JSON.parse(body.toString()) as { id: number; fate: Fate };
        if (!fates.includes(fate)) this.wrong.push(`${id} (${fate}) in ${queue}`);
        if (this.done.has(id)) this.repeated += 1;
        this.done.set(id, fate);
      },
      { noAck: true },
    );
  }
}

/** Publishes, confirmed, whatever keeps the backlog up. */
class Load {
  published = 0;
  readonly #over: Promise<void>;
  #isOver = false;

  constructor(connection: Connection, queue: string, outcomes: Outcomes) {
    this.#over = this.#run(connection, queue, outcomes);
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.#over;
  }

  async #run(connection: Connection, queue: string, { done }: Outcomes): Promise<void> {
    const channel = await connection.channel({ confirm: true });
    const options = { contentType: 'application/json', deliveryMode: 2, mandatory: true };
    while (!this.#isOver) {
      const confirms: unknown[] = [];
      for (; this.published - done.size < BACKLOG; this.published += 1) {
        const order = { id: this.published, fate: fateOf(this.published) };
        confirms.push(channel.basicPublish('', queue, JSON.stringify(order), options));
      }
      await Promise.all(confirms);
      await delay(5);
    }
  }
}

/** The application, in a process of its own. */
class Consuming {
  readonly #process: ChildProcess;
  readonly #exit: Promise<unknown[]>;

  constructor(queue: string, ledger: string) {
    this.#process = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      cwd: installed.folder,
      env: { ...process.env, AMQP_URL: brokerUrl, QUEUE: queue, LEDGER: ledger, DELAYS: DELAYS.join(',') },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#exit = once(this.#process, 'exit');
  }

  async ready(): Promise<void> {
    await within('the boot', once(this.#process.stdout as NonNullable<ChildProcess['stdout']>, 'data'), PATIENCE);
  }

  async end(signal: NodeJS.Signals): Promise<unknown[]> {
    this.#process.kill(signal);
    return await within(`the end by ${signal}`, this.#exit, PATIENCE);
  }
}

test(
  `${KILLS} kills at random instants under load lose nothing, and repeat no more than was under way`,
  async () => {
    await using scratch = await Scratch.open();
    const [queue, ledger] = [await scratch.queue(), await scratch.queue()];
    const dead = scratch.owns(`${queue}.dead`);
    const waiting = DELAYS.map((ms) => scratch.owns(`${queue}.retry.${ms}`));
    const connection = await connect(brokerUrl);
    await using _closes = { [Symbol.asyncDispose]: () => connection.close() };
    const outcomes = await Outcomes.of(connection, ledger, dead);
    const load = new Load(connection, queue, outcomes);
    const left = async (): Promise<number> => {
      const states = await Promise.all([queue, ...waiting].map((name) => scratch.state(name)));
      return states.reduce((sum, state) => sum + (state?.messageCount ?? 0), 0);
    };

    let consuming = new Consuming(queue, ledger);
    try {
      for (let kill = 1; kill <= KILLS; kill += 1) {
        if (kill % 4 === 0) {
          await delay(Math.random() * LATEST.ms);
        } else {
          await consuming.ready();
          await outcomes.more(Math.ceil(Math.random() * LATEST.outcomes));
          await delay(Math.random() * 20);
        }
        expect(await consuming.end('SIGKILL')).toEqual([null, 'SIGKILL']);
        consuming = new Consuming(queue, ledger);
      }
      await load.end();
      for (;;) {
        await consuming.ready();
        await eventually('empty queues', async () => ((await left()) === 0 ? true : undefined), PATIENCE);
        await consuming.end('SIGTERM');
        // What was under way when it ended in order is back in a queue, and for the next one to do.
        if ((await left()) === 0) break;
        consuming = new Consuming(queue, ledger);
      }
    } finally {
      await load.end();
      await consuming.end('SIGKILL');
    }
    await outcomes.read();

    const { published } = load;
    const { done, repeated, wrong } = outcomes;
    const dying = [...done.values()].filter((fate) => fate === 'failing' || fate === 'refused').length;
    const lost = Array.from({ length: published }, (_, id) => id).filter((id) => !done.has(id));
    const figures = { published, handled: done.size - dying, deadLettered: dying, lost: lost.length, repeated };
    process.stderr.write(`${KILLS} kills: ${JSON.stringify(figures)}\n`);
    expect({ lost, wrong }).toEqual({ lost: [], wrong: [] });
    expect(repeated).toBeLessThanOrEqual(KILLS * PREFETCH);
  },
  BUILD_TIMEOUT + KILLS * PATIENCE,
);
