/** Ports that a test listens on: with a server of its own, or such that nobody answers there. */
import { once } from 'node:events';
import { type Server, type Socket, connect as connectTcp } from 'node:net';
import { Worker } from 'node:worker_threads';

/** A server that is closed at the end with all its connections. */
export class Listener implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  static async on(server: Server, host = '127.0.0.1', port = 0): Promise<Listener> {
    await once(server.listen(port, host), 'listening');
    return new Listener(server);
  }

  private constructor(server: Server) {
    this.#server = server;
    const address = server.address();
    this.port = typeof address === 'object' && address !== null ? address.port : 0;
    server.on('connection', (socket: Socket) => this.#sockets.add(socket.on('error', () => undefined)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** Listens with room for one connection in line, and then accepts none: its thread waits for the end of the test. */
const DEAF_THREAD = `
  const { parentPort, workerData } = require('node:worker_threads');
  const server = require('node:net').createServer().listen({ host: workerData.host, port: 0, backlog: 1 }, () => {
    parentPort.postMessage(server.address().port);
    setImmediate(() => {
      Atomics.wait(workerData.end, 0, 0);
      process.exit();
    });
  });
`;

/** A port at which connecting hangs, as behind a firewall that says nothing: Linux leaves a full line without an answer. */
export class DeafPort implements AsyncDisposable {
  readonly port: number;
  readonly #end: Int32Array<SharedArrayBuffer>;
  readonly #worker: Worker;
  readonly #line: readonly Socket[];

  static async open(host: string): Promise<DeafPort> {
    const end = new Int32Array(new SharedArrayBuffer(4));
    const worker = new Worker(DEAF_THREAD, { eval: true, workerData: { host, end } });
    const [port] = (await once(worker, 'message')) as [number];
    // A line of one has two places.
    const line = [connectTcp(port, host), connectTcp(port, host)];
    await Promise.all(
      line.map((socket) =>
        once(
          socket.on('error', () => undefined),
          'connect',
        ),
      ),
    );
    return new DeafPort(port, end, worker, line);
  }

  private constructor(port: number, end: Int32Array<SharedArrayBuffer>, worker: Worker, line: readonly Socket[]) {
    this.port = port;
    this.#end = end;
    this.#worker = worker;
    this.#line = line;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#worker, 'exit');
    Atomics.store(this.#end, 0, 1);
    Atomics.notify(this.#end, 0);
    for (const socket of this.#line) socket.destroy();
    await ended;
  }
}
