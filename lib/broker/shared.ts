/** The way from `embedded:NAME` in a URL to a broker: what the client loads, with a dynamic import, when it sees such a URL. */
import type { Duplex } from 'node:stream';
import { EmbeddedBroker, type EmbeddedLogin } from './embedded-broker.js';

/** A connection to the broker of that name, which is started when this is its first. Throws `ECONNREFUSED` as `connect()` does. */
export function connectEmbedded(name: string): Duplex {
  return EmbeddedBroker.named(name).connect();
}

/** Who may log in to the broker of that name, and where; undefined while there is none. */
export function firstLogin(name: string): EmbeddedLogin | undefined {
  return EmbeddedBroker.firstLogin(name);
}
