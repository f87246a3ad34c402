/**
 * `embedded:NAME`, the URL of a broker in this process, and the way there. The broker is loaded when the first connection asks
 * for one, so that a process that names none never pays for it.
 */
import type { Duplex } from 'node:stream';
import { AmqpError } from '../errors.js';

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

/** Rejects with an error of the code `ECONNREFUSED` while that broker refuses connections. */
export async function dialEmbedded(name: string): Promise<Duplex> {
  const { connectEmbedded } = await import('../broker/shared.js');
  return connectEmbedded(name);
}
