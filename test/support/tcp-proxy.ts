/**
 * A TCP proxy in front of a broker that a test can hurt: cut, reset, stall without a close, slow down, and put bytes of its
 * own into. It understands no AMQP; `CuttableLine` is for tests that need no more than a cut at the client's own socket.
 */
import { once } from 'node:events';
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net';

import { brokerUrl } from './broker.mjs';

/** Which way bytes go: to the broker, or to the client. */
export type Direction = 'upstream' | 'downstream';

interface Address {
  readonly host: string;
  readonly port: number;
}

export class TcpProxy implements AsyncDisposable {
  /** Milliseconds by which every chunk is late. */
  latency = 0;
  /** While true, whoever dials is reset at once. */
  isRefusing = false;
  readonly #server: Server;
  readonly #lines = new Set<ProxiedLine>();
  #dialled = 0;

  /** Listens on a port of its own. */
  static async open(url = brokerUrl): Promise<TcpProxy> {
    const { hostname, port } = new URL(url);
    const proxy = new TcpProxy({ host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? 5672 : Number(port) });
    await once(proxy.#server, 'listening');
    return proxy;
  }

  private constructor(broker: Address) {
    const options = { noDelay: true, allowHalfOpen: true };
    this.#server = createServer(options, (client) => {
      this.#dialled += 1;
      if (this.isRefusing) {
        client.on('error', () => undefined).resetAndDestroy();
        return;
      }
      const line = new ProxiedLine(client, connect({ ...broker, ...options }), this, () => this.#lines.delete(line));
      this.#lines.add(line);
    }).listen(0, '127.0.0.1');
  }

  /** How often it was dialled. */
  get dialled(): number {
    return this.#dialled;
  }

  /** The connections of which at least one side is open. */
  get lines(): readonly ProxiedLine[] {
    return [...this.#lines];
  }

  /** The broker's URL with the proxy's address. */
  urlFor(url = brokerUrl): string {
    const through = new URL(url);
    through.hostname = '127.0.0.1';
    through.port = String((this.#server.address() as AddressInfo).port);
    return through.href;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const line of this.#lines) line.reset();
    const closed = once(this.#server, 'close');
    this.#server.close();
    await closed;
  }
}

/** One connection through the proxy. */
export class ProxiedLine {
  /** Where the bytes of each direction go to. */
  readonly #ends: Readonly<Record<Direction, Socket>>;
  readonly #proxy: { readonly latency: number };
  readonly #stalled = new Set<Direction>();
  /** Bytes that came while the line was stalled or slow, in order. */
  readonly #held: Readonly<Record<Direction, Buffer[]>> = { upstream: [], downstream: [] };
  readonly #left: Record<Direction, number> = { upstream: Infinity, downstream: Infinity };

  constructor(client: Socket, broker: Socket, proxy: { readonly latency: number }, closed: () => void) {
    this.#ends = { upstream: broker, downstream: client };
    this.#proxy = proxy;
    this.#carry(client, 'upstream');
    this.#carry(broker, 'downstream');
    let open = 2;
    for (const end of [client, broker]) {
      end.once('close', () => {
        open -= 1;
        if (open === 0) closed();
      });
    }
  }

  get isStalled(): boolean {
    return this.#stalled.size > 0;
  }

  /** Both sides read a reset, as when a host or a firewall between forgets the connection. */
  reset(): void {
    this.#stalled.clear();
    for (const end of Object.values(this.#ends)) end.resetAndDestroy();
  }

  /** Both sides read an orderly end, after whatever is under way. */
  end(): void {
    for (const end of Object.values(this.#ends)) end.end(() => end.destroy());
  }

  /** Lets so many more bytes through in one direction, and then resets. */
  resetAfter(bytes: number, direction: Direction): void {
    this.#left[direction] = bytes;
  }

  /** Sends bytes that the other side never sent, between two of its chunks. */
  inject(bytes: Buffer, direction: Direction): void {
    if (this.#ends[direction].writable) this.#ends[direction].write(bytes);
  }

  /** Bytes stop, and so does the news of an end, without a close: the line is half open. */
  stall(...directions: readonly Direction[]): void {
    for (const direction of directions) this.#stalled.add(direction);
  }

  /** Bytes flow again, those that were held first; an end that came meanwhile is told. */
  flow(): void {
    this.#stalled.clear();
    this.#release('upstream');
    this.#release('downstream');
    if (Object.values(this.#ends).some((end) => end.destroyed)) this.reset();
  }

  #carry(from: Socket, direction: Direction): void {
    const to = this.#ends[direction];
    from.on('data', (chunk: Buffer) => {
      const { latency } = this.#proxy;
      this.#held[direction].push(chunk);
      if (latency === 0) {
        this.#release(direction);
      } else {
        // Each timer sends on all that is held: the order is kept.
        setTimeout(() => {
          this.#release(direction);
        }, latency);
      }
    });
    // A reset of one side is what these tests are about.
    from.on('error', () => undefined);
    from.on('end', () => {
      this.#release(direction);
      if (!this.#stalled.has(direction)) to.end();
    });
    from.on('close', () => {
      if (!this.#stalled.has(direction)) to.destroy();
    });
  }

  #release(direction: Direction): void {
    const to = this.#ends[direction];
    if (this.#stalled.has(direction)) return;
    for (const chunk of this.#held[direction].splice(0)) {
      const left = this.#left[direction];
      this.#left[direction] = left - chunk.length;
      if (left > 0 && to.writable) to.write(chunk.subarray(0, left));
      if (this.#left[direction] <= 0) this.reset();
    }
  }
}
