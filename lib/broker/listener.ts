/** The port of an embedded broker: the one place of it that touches sockets. */
import { once } from 'node:events';
import { type AddressInfo, type Server, createServer } from 'node:net';
import { AmqpError, printable } from '../errors.js';
import type { Transport } from './memory-line.js';

export class Listener {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Listens; hands on whoever comes. Rejects with `CONNECT_FAILED` when the address is taken or not of this machine. */
  static async open(port: number, host: string, accept: (transport: Transport) => void): Promise<Listener> {
    const server = createServer({ noDelay: true }, accept);
    try {
      server.listen({ port, host });
      await once(server, 'listening');
    } catch (cause) {
      throw new AmqpError(
        'CONNECT_FAILED',
        `The embedded broker cannot listen on port ${port} of ${printable(host)}: ` +
          `${printable(cause instanceof Error ? cause.message : String(cause))}. Choose another port, or 0 for any that is free.`,
        { cause },
      );
    }
    return new Listener(server);
  }

  /** What stands between the @ and the virtual host of a URL. */
  get authority(): string {
    const { address, port, family } = this.#server.address() as AddressInfo;
    return `${family === 'IPv6' ? `[${address}]` : address}:${port}`;
  }

  /** Lets nobody in any more. The process may end while it listens only after this. */
  async close(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    await closed;
  }
}
