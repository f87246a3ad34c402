/** The sample app as its users run it: a process of its own, on the installed package, spoken to over HTTP. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';

import { connect } from '../../lib/client/connection.js';
import { brokerUrl, ctl, ctlAvailable } from '../support/broker.mjs';
import { InstalledPackage } from '../support/installed-package.js';
import { Inbox, eventually, within } from '../support/waits.js';

const BUILD_TIMEOUT = 180_000;
/** A busy machine takes long to load Nest. */
const START_TIMEOUT = 60_000;

/** Milliseconds: each call of rabbitmqctl starts an Erlang, which takes its time on a machine that is busy with other tests. */
const CTL_PATIENCE = 90_000;
const testWithCtl = ctlAvailable ? test : test.skip;

/** The shop in its process. */
class Shop {
  readonly url: string;
  readonly lines: Inbox<string>;
  readonly #process: ChildProcessByStdio<null, Readable, Readable>;
  readonly #exit: Promise<[code: number | null, signal: string | null]>;

  static async open(main: string): Promise<Shop> {
    const child = spawn(process.execPath, [main], {
      env: { ...process.env, AMQP_URL: brokerUrl, PORT: '0', NO_COLOR: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const lines = new Inbox<string>();
    for (const output of [child.stdout, child.stderr]) createInterface(output).on('line', lines.push);
    try {
      const isOpen = (line: string): boolean => line.includes('Open at ');
      const ended = once(child, 'exit').then(() => {
        throw new Error('it ended');
      });
      const opened = lines.next('the line that says where the shop is', isOpen, START_TIMEOUT);
      const line = await Promise.race([opened, ended]);
      return new Shop(child, lines, /Open at (\S+)/.exec(line)?.[1] ?? '');
    } catch (error) {
      child.kill('SIGKILL');
      throw new Error(`The shop did not open. It said:\n${lines.all.join('\n')}`, { cause: error });
    }
  }

  private constructor(child: ChildProcessByStdio<null, Readable, Readable>, lines: Inbox<string>, url: string) {
    this.#process = child;
    this.#exit = once(child, 'exit') as Promise<[number | null, string | null]>;
    this.lines = lines;
    this.url = url;
  }

  get output(): string {
    return this.lines.all.join('\n');
  }

  /** Resolves when it has printed that. */
  async says(text: string): Promise<void> {
    await eventually(`"${text}" in the log of the shop`, () =>
      Promise.resolve(this.output.includes(text) ? true : undefined),
    );
  }

  get isRunning(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  async post(body: unknown): Promise<{ status: number; body: Record<string, unknown> }> {
    return await this.#request('/orders', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  }

  async get(id: string): Promise<{ status: number; body: Record<string, unknown> }> {
    return await this.#request(`/orders/${id}`, {});
  }

  /** The order when it has come that far. */
  async orderIn(state: string, id: string): Promise<Record<string, unknown>> {
    return await eventually(`order ${id} to be ${state}`, async () => {
      const { body } = await this.get(id);
      return body['state'] === state ? body : undefined;
    });
  }

  /** Asks it to end; resolves to how it did. */
  async end(): Promise<[code: number | null, signal: string | null]> {
    this.#process.kill('SIGTERM');
    return await within('the end of the shop', this.#exit);
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  async #request(path: string, init: RequestInit): Promise<{ status: number; body: Record<string, unknown> }> {
    const response = await fetch(`${this.url}${path}`, { ...init, signal: AbortSignal.timeout(10_000) });
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  }
}

let installed: InstalledPackage;
let shop: Shop;

beforeAll(async () => {
  installed = await InstalledPackage.make();
  for (const name of ['@types/node', '@nestjs/platform-express']) await installed.link(name);
  shop = await Shop.open(join(await installed.compile('sample-app'), 'main.js'));
}, BUILD_TIMEOUT);

afterAll(async () => {
  // Undefined when it did not open.
  (shop as Shop | undefined)?.kill();
  await installed[Symbol.asyncDispose]();
  await using connection = await connect(brokerUrl);
  const channel = await connection.channel();
  for (const queue of ['billing', 'billing.dead', 'order-status', 'pricing']) await channel.queueDelete(queue);
  for (const exchange of ['orders', 'orders.dead']) await channel.exchangeDelete(exchange);
});

describe('the shop', () => {
  test('bills an order that was placed', async () => {
    const placed = await shop.post({ item: 'book', price: 1_250, quantity: 2 });
    expect(placed.status).toBe(201);
    expect(placed.body).toMatchObject({ item: 'book', price: 1_250, quantity: 2, state: 'placed' });
    const billed = await shop.orderIn('billed', String(placed.body['id']));
    expect(billed).toMatchObject({ item: 'book', total: 2_500 });
  });

  test('asks what an order costs before it bills it', async () => {
    const placed = await shop.post({ item: 'egg', price: 30, quantity: 12 });
    expect(await shop.orderIn('billed', String(placed.body['id']))).toMatchObject({ total: 324 });
  });

  test('bills many orders that are placed at the same time', async () => {
    const placed = await Promise.all(
      Array.from({ length: 50 }, (_, index) => shop.post({ item: 'pen', price: index + 1 })),
    );
    const billed = await Promise.all(placed.map(({ body }) => shop.orderIn('billed', String(body['id']))));
    expect(billed.map(({ total }) => total)).toEqual(Array.from({ length: 50 }, (_, index) => index + 1));
  });

  test('refuses an order over the limit of the card, by way of the dead-letter queue', async () => {
    const placed = await shop.post({ item: 'yacht', price: 900_000, quantity: 2 });
    const refused = await shop.orderIn('refused', String(placed.body['id']));
    expect(refused).not.toHaveProperty('total');
    await shop.says('is over the limit of the card');
  });

  test.each<[what: string, body: unknown]>([
    ['without an item', { price: 5 }],
    ['without a price', { item: 'book' }],
    ['with a price that is text', { item: 'book', price: '5' }],
    ['with a fraction of an item', { item: 'book', price: 5, quantity: 0.5 }],
    ['that is empty', {}],
    ['that is no JSON', '{'],
  ])('answers 400 to an order %s', async (_what, body) => {
    expect((await shop.post(body)).status).toBe(400);
  });

  test('answers 404 for an order that it does not know', async () => {
    expect((await shop.get('unknown')).status).toBe(404);
  });

  testWithCtl(
    'has its topology on the broker',
    async () => {
      const rows = await ctl('list_bindings', '--no-table-headers', 'source_name', 'routing_key', 'destination_name');
      expect(rows.split('\n')).toEqual(
        expect.arrayContaining([
          'orders\torder.placed\tbilling',
          'orders\torder.billed\torder-status',
          'orders.dead\t\tbilling.dead',
        ]),
      );
      const consumers = await ctl('list_consumers', '--no-table-headers', 'queue_name', 'prefetch_count');
      expect(consumers.split('\n')).toEqual(
        expect.arrayContaining(['billing\t20', 'order-status\t50', 'billing.dead\t50']),
      );
    },
    CTL_PATIENCE,
  );

  testWithCtl(
    'survives the end of its connection, and bills the next order',
    async () => {
      const rows = await ctl('list_connections', '--no-table-headers', 'pid', 'client_properties');
      const row = rows.split('\n').find((line) => line.includes('"shop"'));
      const [pid] = (row ?? 'no connection is named shop').split('\t');
      await ctl('close_connection', String(pid), 'a test closes it');
      const placed = await shop.post({ item: 'lamp', price: 4_000 });
      await shop.orderIn('billed', String(placed.body['id']));
      expect(shop.isRunning).toBe(true);
      await shop.says('a test closes it');
    },
    CTL_PATIENCE,
  );

  test('does not tell its password to its log', () => {
    expect(shop.output).not.toContain('guest:guest');
  });

  test('ends on SIGTERM, in order', async () => {
    const [code, signal] = await shop.end();
    // Nest ends the process with the signal that it was ended by.
    expect(signal ?? code).toBe('SIGTERM');
    await using connection = await connect(brokerUrl);
    const channel = await connection.channel();
    expect(await channel.queueDeclare('billing', { passive: true })).toMatchObject({
      consumerCount: 0,
      messageCount: 0,
    });
  });
});
