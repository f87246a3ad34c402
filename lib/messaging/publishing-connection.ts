/**
 * The connection that an application publishes over, beside the one that it consumes on: a resource alarm has the broker stop
 * reading from whoever publishes, and acknowledgements must not wait behind that (https://www.rabbitmq.com/docs/alarms). What is
 * published, and with which confirms, is the channel's on it.
 *
 * ```
 *   idle ──first publish, the other one is open──► connecting ──the other one has declared the topology──► open
 * ```
 */
import { AmqpConnection, type AmqpConnectionOptions } from '../client/amqp-connection.js';
import type { Connection } from '../client/connection.js';
import type { BrokerUrls } from '../client/hosts.js';
import { ended, within } from '../client/wait.js';

/** As long as a timer counts, nearly. */
const LONGEST = '24d';

/**
 * Opens itself when a channel is first asked for, so that a process that only consumes holds one connection and a boot does not
 * wait for a second. It is announced as open when the main connection is, on every new connection: what is sent again after a
 * loss finds the exchanges and queues that were declared again. It ends with the main connection.
 */
export class PublishingConnection extends AmqpConnection {
  readonly #main: AmqpConnection;

  /** Throws `INVALID_URL`, `INVALID_OPTION`. */
  constructor(main: AmqpConnection, urls: BrokerUrls, options: AmqpConnectionOptions) {
    super(urls, options);
    this.#main = main;
    const announced = async (connection: Connection): Promise<void> => {
      const waiting = new AbortController();
      try {
        await Promise.race([main.opened(waiting.signal), ended(connection)]);
      } finally {
        waiting.abort();
      }
    };
    // Nothing hangs for as long as the main connection is down.
    this.onSetup(announced, { timeout: LONGEST });
    main.on('status', ({ state }) => {
      if (state === 'closed') void this.close();
    });
  }

  override async opened(signal?: AbortSignal): Promise<Connection> {
    if (this.status.state === 'idle') {
      await this.#main.opened(signal);
      this.openInBackground();
    }
    return await super.opened(signal);
  }

  /** What was published a moment ago may still wait for this connection to open. */
  override async close(): Promise<void> {
    const { status } = this.#main;
    if (this.busy.size > 0 && this.status.state !== 'open' && status.state === 'open') {
      await within(status.connection.closeTimeout, this.opened()).catch(() => undefined);
    }
    await super.close();
  }

  /** Queues are declared on the main connection, which knows what the broker calls them. */
  override queueNamed(queue: string): string {
    return this.#main.queueNamed(queue);
  }
}
