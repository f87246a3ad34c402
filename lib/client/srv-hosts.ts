/** Names brokers from DNS SRV records (RFC 2782). When it is asked, and which of them is tried, is decided by the caller. */
import type { SrvRecord } from 'node:dns';
import { resolveSrv } from 'node:dns/promises';
import { AmqpError, quoted } from '../errors.js';
import { resolveConnectionOptions } from './connection-options.js';
import type { UrlResolver } from './hosts.js';

/** What looks the records up: a `Resolver` of `node:dns/promises` does. */
export interface SrvResolver {
  resolveSrv(service: string): Promise<SrvRecord[]>;
}

/** Options of `srvHosts`. */
export interface SrvHostsOptions {
  /** Asked in place of the system's name servers, such as those of a service registry. @default node:dns/promises */
  readonly resolver?: SrvResolver | undefined;
}

/** Everything before the host of a URL, and everything behind host and port. */
const AROUND_HOST = /^([^:/?#]+:\/\/(?:[^/?#]*@)?)[^/?#]*(.*)$/s;
const HOST_NAME = /^[\w-]+(\.[\w-]+)*\.?$/;

/**
 * Brokers by the SRV records of `service`, looked up on every attempt: those of the lowest priority number first, and among
 * equals in random order by weight. Scheme, user, password, virtual host and parameters are those of `url`, whose own host
 * and port, if any, are not used. Throws `INVALID_URL` or `INVALID_OPTION`; a look-up that fails rejects with `HOSTS_FAILED`.
 *
 * @example
 * ```ts
 * new AmqpConnection(srvHosts('_amqp._tcp.example.org', 'amqp://user:password@/vhost'));
 * ```
 */
export function srvHosts(
  service: string,
  url: string,
  { resolver = { resolveSrv } }: SrvHostsOptions = {},
): UrlResolver {
  // `URL` takes no user without a host, so that the host is set in the text.
  const [, head = '', tail = ''] = AROUND_HOST.exec(url) ?? [];
  resolveConnectionOptions(`${head}localhost${tail}`);
  return async () => {
    const records = await lookUp(resolver, service);
    const usable = records.filter(({ name, port }) => HOST_NAME.test(name) && port > 0);
    if (usable.length === 0)
      throw new AmqpError('HOSTS_FAILED', `${quoted(service)} has no SRV record of a host. ${ADVICE}`);
    return bySrvOrder(usable).map(({ name, port }) => `${head}${name.replace(/\.$/, '')}:${port}${tail}`);
  };
}

const ADVICE = 'Correct the name, or its records in DNS.';

async function lookUp(resolver: SrvResolver, service: string): Promise<SrvRecord[]> {
  try {
    return await resolver.resolveSrv(service);
  } catch (cause) {
    const code = (cause as { code?: unknown } | null)?.code;
    throw new AmqpError(
      'HOSTS_FAILED',
      `The SRV records of ${quoted(service)} cannot be looked up${typeof code === 'string' ? `: ${code}` : ''}. ${ADVICE}`,
      { cause },
    );
  }
}

/**
 * By priority; among equals each place is drawn from those that are left, with a chance of weight / sum of weights. Records
 * of weight 0 go first into the draw, so that they keep a very small chance (RFC 2782, "Weight").
 */
export function bySrvOrder(records: readonly SrvRecord[], random: () => number = Math.random): SrvRecord[] {
  const left = [...records].sort((a, b) => a.priority - b.priority || a.weight - b.weight);
  const ordered: SrvRecord[] = [];
  for (let next = left[0]; next !== undefined; next = left[0]) {
    const { priority } = next;
    const equals = left.filter((record) => record.priority === priority);
    const sum = equals.reduce((total, { weight }) => total + weight, 0);
    // An integer from 0 to the sum, both included; the first record whose running sum reaches it.
    let drawn = Math.floor(random() * (sum + 1));
    const chosen = equals.find(({ weight }) => (drawn -= weight) <= 0) ?? next;
    left.splice(left.indexOf(chosen), 1);
    ordered.push(chosen);
  }
  return ordered;
}
