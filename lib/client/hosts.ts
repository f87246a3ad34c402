/**
 * The brokers of one `AmqpConnection`, and which of them is next: a list, or what a function of the user's says on every
 * attempt. It dials nothing; the order among hosts is `HostFailures`.
 */
import { AmqpError } from '../errors.js';
import {
  type ConnectionOptions,
  type ResolvedConnectionOptions,
  resolveConnectionOptions,
} from './connection-options.js';
import { HostFailures, shuffled } from './host-order.js';
import { toldOf } from './option-names.js';
import { orLate } from './wait.js';

/** Names the brokers. Asked on every attempt to connect, for at most `connectTimeout`; a failure is a failed attempt. */
export type UrlResolver = () => string | readonly string[] | Promise<string | readonly string[]>;

/** One broker's URL, several to try in turn, or a function that names them; `srvHosts` makes one from DNS. */
export type BrokerUrls = string | readonly string[] | UrlResolver;

export class Hosts {
  readonly #resolver: UrlResolver | undefined;
  readonly #options: ConnectionOptions;
  readonly #connectTimeout: number;
  readonly #shuffle: boolean;
  readonly #failures = new HostFailures<ResolvedConnectionOptions>();
  /** By URL, so that a host that is named again is the same host. */
  #hosts: ReadonlyMap<string, ResolvedConnectionOptions> = new Map();
  #present: ResolvedConnectionOptions | undefined;

  /** Throws `INVALID_URL` or `INVALID_OPTION`; what a function names is checked when it does. */
  constructor(urls: BrokerUrls, options: ConnectionOptions, shuffleHosts: boolean | undefined) {
    if (shuffleHosts !== undefined && typeof shuffleHosts !== 'boolean')
      throw new AmqpError('INVALID_OPTION', 'The connection option shuffleHosts has to be true or false.');
    this.#options = options;
    // The order of a function is its own: it may know priorities.
    this.#shuffle = shuffleHosts ?? typeof urls !== 'function';
    if (typeof urls === 'function') {
      this.#resolver = urls;
      // Without the mechanism: EXTERNAL may have its certificate in a URL that is still to come.
      this.#connectTimeout = resolveConnectionOptions('amqp://', { ...options, mechanism: undefined }).connectTimeout;
      return;
    }
    const list = listOf(urls);
    if (list === undefined)
      throw new AmqpError('INVALID_URL', 'The broker has to be named by a URL, a list of URLs, or a function.');
    this.#hosts = this.#resolve(list);
    const [first] = this.#hosts.values();
    if (first === undefined) throw new AmqpError('INVALID_URL', 'The list of broker URLs is empty. Give at least one.');
    this.#connectTimeout = first.connectTimeout;
  }

  /** How many there are; of a function, in its last answer. */
  get count(): number {
    return this.#hosts.size;
  }

  /** The host to try now. Rejects with `HOSTS_FAILED`, or with the signal's reason. */
  async next(signal: AbortSignal): Promise<ResolvedConnectionOptions> {
    this.#present = undefined;
    if (this.#resolver !== undefined) this.#hosts = await this.#ask(this.#resolver, signal);
    const host = this.#failures.first([...this.#hosts.values()]);
    if (host === undefined) {
      throw new AmqpError('HOSTS_FAILED', 'The function that names the brokers named none. It is asked again.');
    }
    this.#present = host;
    return host;
  }

  /** The host that `next` gave last failed: the others come first. */
  failed(): void {
    if (this.#present !== undefined) this.#failures.failed(this.#present);
  }

  /** The connection to the host that `next` gave last was stable: that it ended is no reason to leave it. */
  wasStable(): void {
    if (this.#present !== undefined) this.#failures.wasStable(this.#present);
  }

  async #ask(resolver: UrlResolver, signal: AbortSignal): Promise<ReadonlyMap<string, ResolvedConnectionOptions>> {
    try {
      const late = (): AmqpError =>
        new AmqpError(
          'HOSTS_FAILED',
          `The function that names the brokers gave no answer within ${this.#connectTimeout} ms (connectTimeout). It is asked again.`,
        );
      const answer: unknown = await orLate((async () => await resolver())(), this.#connectTimeout, late, signal);
      const list = listOf(answer);
      if (list === undefined) {
        throw new AmqpError(
          'HOSTS_FAILED',
          'The function that names the brokers has to return a URL or a list of URLs.',
        );
      }
      return this.#resolve(list);
    } catch (cause) {
      if (signal.aborted || (cause instanceof AmqpError && cause.code === 'HOSTS_FAILED')) throw cause;
      throw new AmqpError(
        'HOSTS_FAILED',
        `The function that names the brokers failed. ${cause instanceof AmqpError ? cause.message : toldOf(cause)} It is asked again.`,
        carriesUrl(cause) ? {} : { cause },
      );
    }
  }

  #resolve(urls: readonly string[]): ReadonlyMap<string, ResolvedConnectionOptions> {
    const hosts = urls.map(
      (url) => [url, this.#hosts.get(url) ?? resolveConnectionOptions(url, this.#options)] as const,
    );
    return new Map(this.#shuffle ? shuffled(hosts) : hosts);
  }
}

function listOf(urls: unknown): readonly string[] | undefined {
  const list = typeof urls === 'string' ? [urls] : urls;
  return Array.isArray(list) && list.every((url) => typeof url === 'string') ? list : undefined;
}

/** Node's error for a URL that cannot be parsed holds all of it, password included; so does text that was thrown. */
function carriesUrl(cause: unknown): boolean {
  if (typeof cause === 'string') return cause.includes('://');
  return (cause as { code?: unknown } | null)?.code === 'ERR_INVALID_URL';
}
