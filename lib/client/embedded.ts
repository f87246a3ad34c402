/**
 * `embedded:NAME`, the URL of a broker in this process, and the way there. The broker is loaded when the first connection asks
 * for one, so that a process that names none never pays for it.
 */
import type { Duplex } from 'node:stream';
import { AmqpError } from '../errors.js';
import { Credentials } from './credentials.js';

/** An embedded broker, and what of the login is left to it. */
export interface EmbeddedAddress {
  readonly name: string;
  /** No credentials were given: the broker's first user will do. */
  readonly isAnyUser: boolean;
  /** No virtual host was given: the broker's first one will do. */
  readonly isAnyVhost: boolean;
}

/** Who logs in, and where. */
interface Login {
  readonly credentials: Credentials;
  readonly vhost: string;
}

const SCHEME = /^\s*embedded:/i;

/** True for `embedded:NAME`. */
export function isEmbedded(url: string): boolean {
  return SCHEME.test(url);
}

/** The NAME of `embedded:NAME`; undefined for other URLs. Throws `INVALID_URL`. */
export function embeddedName(url: string): string | undefined {
  if (!isEmbedded(url)) return undefined;
  const name = url.replace(SCHEME, '').trim();
  try {
    if (/^[^/?#@]+$/.test(name)) return decodeURIComponent(name);
  } catch {
    // As wrong as the others.
  }
  throw new AmqpError(
    'INVALID_URL',
    'The URL of an embedded broker is embedded: and a name, such as embedded:shop. Everything else goes into the options: ' +
      'vhost, credentials, heartbeat. In a name write / ? # @ % as %2F %3F %23 %40 %25.',
  );
}

const loadBroker = () => import('../broker/shared.js');

/** Rejects with an error of the code `ECONNREFUSED` while that broker refuses connections. */
export async function dialEmbedded(name: string): Promise<Duplex> {
  const { connectEmbedded } = await loadBroker();
  return connectEmbedded(name);
}

/** `given`, completed with the first user and virtual host of that broker where the connection names none of its own. */
export async function embeddedLogin({ name, isAnyUser, isAnyVhost }: EmbeddedAddress, given: Login): Promise<Login> {
  const { firstLogin } = await loadBroker();
  const first = firstLogin(name);
  if (first === undefined) return given;
  return {
    credentials: isAnyUser ? new Credentials(first.username, first.password) : given.credentials,
    vhost: isAnyVhost ? first.virtualHost : given.vhost,
  };
}
