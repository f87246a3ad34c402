/**
 * A connection that survives its sockets. It dials, sets up, announces, and when the connection is lost does so again; each
 * `Connection` beneath it lives once. Channels, consumers and publishers wait for `opened()` and start over by themselves.
 *
 * ```
 *   idle ──open()──► connecting ──set-ups done──► open
 *                       ▲ └─attempt failed: wait─┘   │
 *                       └────────── lost ────────────┘         close() from anywhere ──► closed
 * ```
 */
import { EventEmitter } from 'node:events';
import { AmqpError, printable } from '../errors.js';
import { Backoff, type BackoffOptions } from './backoff.js';
import { type Connection, openConnection } from './connection.js';
import { CONNECTION_ELSEWHERE, CONNECTION_OPTIONS, type ConnectionOptions } from './connection-options.js';
import { aborted } from './dial.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';
import { Faults, type Verdict } from './faults.js';
import { type BrokerUrls, Hosts } from './hosts.js';
import { tell, warnOf } from './listeners.js';
import { type ConnectionMetrics, Metrics } from './metrics.js';
import { refuseUnknown } from './option-names.js';
import { whenFired } from './signals.js';
import { type TopologyFilter, TopologyRecord } from './topology-record.js';
import { ended, orAborted, orLate, pause, within } from './wait.js';

/** `ConnectionOptions`, and how to come back. */
export interface AmqpConnectionOptions extends ConnectionOptions {
  /** Waits between attempts to connect, and to start a consumer again. */
  readonly recovery?: BackoffOptions | undefined;
  /**
   * Whether what is declared through `AmqpChannel` is declared again on every new connection, or a function that says so of
   * each exchange, queue and binding as it is declared.
   * @default true
   */
  readonly recordTopology?: boolean | TopologyFilter | undefined;
  /**
   * Tries a list of brokers in a random order, so that a fleet spreads over them; `false` keeps to the order of the list. Either
   * way a host that failed comes behind those that did not. @default true; for a function that names the brokers false
   */
  readonly shuffleHosts?: boolean | undefined;
}

/** Where RabbitMQ listens on the same machine, with the user that it comes with. */
export const DEFAULT_URL = 'amqp://guest:guest@localhost:5672';

/** Where an `AmqpConnection` stands. */
export type ConnectionStatus =
  | { readonly state: 'idle' }
  | {
      readonly state: 'connecting';
      /** Attempts made since the last open connection, this one included. */
      readonly attempt: number;
      /** Why the last attempt failed, or the last connection ended. */
      readonly lastError: AmqpError | undefined;
    }
  | { readonly state: 'open'; readonly connection: Connection }
  | { readonly state: 'closed'; readonly error: AmqpError };

/** How long after the time for opening the error of the attempt under way is waited for, in milliseconds. */
const GRACE = 500;

/** Work to do on every new connection before it is announced as open, such as declaring topology. */
export type ConnectionSetup = (connection: Connection) => Promise<void>;

/** Options of `AmqpConnection.onSetup`. */
export interface SetupOptions {
  /**
   * How long the set-up may take, before the attempt counts as failed (`SETUP_FAILED`) and the next connection is tried: one that
   * never settles would hold up the recovery for ever. @default '5m'
   */
  readonly timeout?: Duration | undefined;
}

/** A set-up, and the milliseconds that it may take. */
interface BoundedSetup {
  readonly run: ConnectionSetup;
  readonly limit: number;
}

/** Options of `AmqpConnection.open`. */
export interface OpenOptions {
  /** How long failures that time may mend are retried. @default '10s' */
  readonly timeout?: Duration | undefined;
  /** Ends the attempt: `open` rejects with `ABORTED`, and the connection is closed. */
  readonly signal?: AbortSignal | undefined;
}

/** Events of an `AmqpConnection`. */
export interface AmqpConnectionEvents {
  /** Every change of the status. */
  status: [status: ConnectionStatus];
  /** A queue that the broker named has another name on the new connection. The handles go on taking the old one. */
  queueRenamed: [from: string, to: string];
  /**
   * Something that was declared through an `AmqpChannel` could not be declared again, and is forgotten, or a consumer could
   * not start again, and goes on trying. Without a listener it becomes a process warning.
   */
  recoveryError: [error: AmqpError];
}

/**
 * Keeps a connection open: give it to `AmqpChannel`, or ask it for the present one.
 *
 * @example
 * ```ts
 * await using connection = new AmqpConnection(['amqp://one', 'amqp://two']);
 * connection.on('status', (status) => console.log(status.state));
 * await connection.open();
 * const channel = new AmqpChannel(connection);
 * ```
 */
export class AmqpConnection extends EventEmitter<AmqpConnectionEvents> implements AsyncDisposable {
  readonly #hosts: Hosts;
  readonly #newCredentials: boolean;
  readonly #backoff: Backoff;
  readonly #setups: BoundedSetup[] = [];
  readonly #metrics = new Metrics();
  /** @internal Those whose publishes await their confirms. */
  readonly busy = new Set<{ settled(): Promise<void> }>();
  /** @internal Waits between attempts, also of consumers. */
  readonly recovery: BackoffOptions | undefined;
  /** @internal What the handles have declared. */
  readonly topology: TopologyRecord;
  readonly #life = new AbortController();
  #status: ConnectionStatus = { state: 'idle' };
  #loop: Promise<void> | undefined;

  /**
   * Checks the options; nothing is dialled before `open()`. Of several brokers the next is tried when one fails.
   * Throws `INVALID_URL`, `INVALID_OPTION`.
   */
  constructor(urls: BrokerUrls = DEFAULT_URL, options: AmqpConnectionOptions = {}) {
    super();
    // As many wait for the next status as there are channels and consumers.
    this.setMaxListeners(0);
    const known = [...CONNECTION_OPTIONS, 'recovery', 'recordTopology', 'shuffleHosts'];
    refuseUnknown(options, known, 'There is no connection option', { elsewhere: CONNECTION_ELSEWHERE });
    const { recovery, recordTopology = true, shuffleHosts, ...connectionOptions } = options;
    this.topology = this.#recordFor(recordTopology);
    this.#hosts = new Hosts(urls, connectionOptions, shuffleHosts);
    this.#newCredentials = typeof options.credentials === 'function';
    this.recovery = recovery;
    this.#backoff = new Backoff(recovery);
  }

  /** Where it stands now; the event `status` tells of every change. */
  get status(): ConnectionStatus {
    return this.#status;
  }

  /** What went over this connection in all its lives. The object is live: its numbers go on counting. */
  get metrics(): ConnectionMetrics {
    return this.#metrics;
  }

  /**
   * Registers work for every new connection. Set-ups run one after the other, in the order in which they were registered. One that
   * has not settled when its connection ends, or its time is over, is not waited for any more. Throws `INVALID_OPTION`.
   */
  onSetup(setup: ConnectionSetup, options: SetupOptions = {}): void {
    refuseUnknown(options, ['timeout'], 'onSetup has no option');
    this.#setups.push({ run: setup, limit: timerMilliseconds(options.timeout ?? '5m', 'timeout') });
  }

  /**
   * Connects and resolves when the connection is set up. Within `timeout` (default 10 s) failures that time may mend are
   * retried; others, and the last one, reject, and then the connection is closed. From then on it recovers by itself.
   */
  async open({ timeout = '10s', signal }: OpenOptions = {}): Promise<void> {
    const limit = timerMilliseconds(timeout, 'timeout');
    if (signal?.aborted === true) throw aborted(signal.reason);
    const opened = this.opened();
    const unlisten =
      signal &&
      whenFired(signal, () => {
        if (this.#status.state === 'connecting') this.#giveUp(aborted(signal.reason));
      });
    this.#start('require');
    const giveUp = (): void => {
      const { status } = this;
      if (status.state === 'connecting') this.#giveUp(status.lastError ?? notInTime(limit));
    };
    let timer = setTimeout(() => {
      // An attempt that is about to end by a timeout of its own has the better explanation.
      const isFirst = this.#status.state === 'connecting' && this.#status.lastError === undefined;
      timer = setTimeout(giveUp, isFirst ? GRACE : 0);
    }, limit);
    try {
      await opened;
    } finally {
      unlisten?.();
      clearTimeout(timer);
    }
  }

  /**
   * Starts connecting and returns at once. Failures are retried until `close()`, except ten connections in a row that broke
   * the protocol.
   */
  openInBackground(): void {
    this.#start('background');
  }

  /** The present connection, or the next one as soon as it is open. Rejects when this is closed, or with the signal's reason. */
  async opened(signal?: AbortSignal): Promise<Connection> {
    if (isUsable(this.#status)) return this.#status.connection;
    let look: (status: ConnectionStatus) => void = () => undefined;
    const waited = new Promise<Connection>((resolve, reject) => {
      look = (status) => {
        if (isUsable(status)) resolve(status.connection);
        else if (status.state === 'closed') reject(status.error);
      };
      this.on('status', look);
      look(this.#status);
    });
    try {
      return await orAborted(waited, signal);
    } finally {
      this.off('status', look);
    }
  }

  /**
   * Closes for good: also while connecting, also while the broker blocks. What handles have published is awaited first, for up
   * to `closeTimeout` while the broker takes it. Closing twice is no error.
   */
  async close(): Promise<void> {
    const connection = this.#status.state === 'open' ? this.#status.connection : undefined;
    if (connection?.isOpen === true && connection.blockedReason === undefined && this.busy.size > 0) {
      const settled = Promise.all([...this.busy].map((publishes) => publishes.settled()));
      // At the latest when the connection ends: what it leaves is for nobody.
      await within(connection.closeTimeout, Promise.race([settled, ended(connection)]));
    }
    this.#giveUp(new AmqpError('CONNECTION_CLOSED', 'The connection was closed with close().', { closedBy: 'client' }));
    await connection?.close();
    await this.#loop;
  }

  /** @internal The present name of a queue, which may be one that the broker named. */
  queueNamed(queue: string): string {
    return this.topology.current(queue);
  }

  /** @internal The broker refuses, on a new connection or channel, what it once took. */
  tellRecoveryError(error: AmqpError): void {
    if (this.listenerCount('recoveryError') === 0) warnOf(error);
    else tell(this, 'recoveryError', [error], warnOf);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #giveUp(error: AmqpError): void {
    if (this.#status.state === 'closed') return;
    this.#setStatus({ state: 'closed', error });
    this.#life.abort(error);
  }

  #start(startup: 'require' | 'background'): void {
    if (this.#status.state !== 'idle') return;
    this.#loop = this.#run(startup);
  }

  /** The loop: connect, announce, wait for the end, again. With `'require'` the first connection has to come without a fault. */
  async #run(startup: 'require' | 'background'): Promise<void> {
    let attempt = 1;
    let lastError: AmqpError | undefined;
    const faults = new Faults({ firstIsRequired: startup === 'require', newCredentials: this.#newCredentials });
    this.#setStatus({ state: 'connecting', attempt, lastError });
    while (!this.#isClosed()) {
      let verdict: Verdict;
      try {
        const connection = await this.#connect();
        // close() may have come in the very turn that opened it; from here to the announcement nothing can.
        if (this.#isClosed()) {
          await connection.close();
          return;
        }
        faults.opened();
        attempt = 0;
        this.#backoff.succeeded();
        this.#setStatus({ state: 'open', connection });
        lastError = await ended(connection);
        verdict = faults.ended(lastError, this.#backoff.isStable);
        this.#judgeHost(lastError);
      } catch (error) {
        lastError = asAmqpError(error);
        verdict = faults.attemptFailed(lastError, this.#hosts.count);
        this.#hosts.failed();
      }
      if (verdict === 'give up' && lastError !== undefined) this.#giveUp(lastError);
      attempt += 1;
      this.#setStatus({ state: 'connecting', attempt, lastError });
      await pause(this.#backoff.next({ slowly: verdict === 'retry slowly' }), this.#life.signal);
    }
  }

  /** A host whose connection lasted is the first to go back to, unless the broker sent everybody away (320, connection-forced). */
  #judgeHost(error: AmqpError | undefined): void {
    if (this.#backoff.isStable) this.#hosts.wasStable();
    if (!this.#backoff.isStable || error?.replyCode === 320) this.#hosts.failed();
  }

  #isClosed(): boolean {
    return this.#life.signal.aborted;
  }

  /** One attempt on the next host, up to the end of the set-ups. */
  async #connect(): Promise<Connection> {
    const { signal } = this.#life;
    const connection = await openConnection(await this.#hosts.next(signal), signal, this.#metrics);
    try {
      for (const setup of this.#setups) await this.#setUp(setup, connection);
      await orAborted(this.topology.declareAll(connection, signal), signal);
    } catch (error) {
      await connection.close();
      throw error;
    }
    return connection;
  }

  /** Whatever the set-up waits for: the end of the connection, of its time, or of everything ends it. */
  async #setUp({ run, limit }: BoundedSetup, connection: Connection): Promise<void> {
    const late = (): AmqpError =>
      new AmqpError(
        'SETUP_FAILED',
        `A set-up of the connection did not settle within ${limit} ms. It runs again on the next connection; find what it waits ` +
          'for, or raise the timeout of onSetup.',
      );
    const lost = async (): Promise<never> => {
      throw (
        (await ended(connection)) ??
        new AmqpError('CONNECTION_CLOSED', 'The connection was closed while it was set up.', { closedBy: 'client' })
      );
    };
    // In this order: what throws at once leaves nothing behind that rejects later, unheard.
    await orLate(Promise.race([run(connection), lost()]), limit, late, this.#life.signal);
  }

  #recordFor(recordTopology: boolean | TopologyFilter): TopologyRecord {
    return new TopologyRecord(typeof recordTopology === 'function' ? recordTopology : () => recordTopology, {
      renamed: (from, to) => {
        tell(this, 'queueRenamed', [from, to], warnOf);
      },
      refused: (error) => {
        this.tellRecoveryError(error);
      },
    });
  }

  #setStatus(status: ConnectionStatus): void {
    if (this.#status.state === 'closed') return;
    this.#status = status;
    tell(this, 'status', [status], warnOf);
  }
}

/** A connection may have ended in this very turn, before its end is told. */
function isUsable(status: ConnectionStatus): status is Extract<ConnectionStatus, { state: 'open' }> {
  return status.state === 'open' && status.connection.isOpen;
}

function asAmqpError(error: unknown): AmqpError {
  if (error instanceof AmqpError) return error;
  const said = error instanceof Error ? printable(error.message) : '';
  return new AmqpError(
    'SETUP_FAILED',
    `A set-up of the connection threw: ${said}. It runs again on the next connection.`,
    {
      cause: error,
    },
  );
}

function notInTime(limit: number): AmqpError {
  return new AmqpError(
    'CONNECT_TIMEOUT',
    `No broker was connected and set up within ${limit} ms. Start the broker, or wait longer.`,
  );
}
