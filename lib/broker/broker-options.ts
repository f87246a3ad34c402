/** What an embedded broker can be told, checked and completed. */
import { AmqpError, printable } from '../errors.js';

/** How an embedded broker is set up. */
export interface EmbeddedBrokerOptions {
  /** The NAME of `embedded:NAME`, by which this process reaches it. @default one that no other broker has */
  readonly name?: string | undefined;
  /** Passwords by user name. Every user may enter every virtual host. @default { guest: 'guest' } */
  readonly users?: Readonly<Record<string, string>> | undefined;
  /** Names of the virtual hosts. The first is the one of `url`, and what inspection shows unless told otherwise. @default ['/'] */
  readonly virtualHosts?: readonly string[] | undefined;
  /**
   * `'real'`: time passes as it does, and `advance()` pushes it further. `'manual'`: it stands still but for `advance()`, so
   * that no TTL, expiry or delay happens unless the test says so.
   * @default 'real'
   */
  readonly clock?: 'real' | 'manual' | undefined;
  /** Largest body, in octets; a larger one closes its channel (406). @default 134217728, as RabbitMQ 3.10 */
  readonly maxMessageSize?: number | undefined;
}

/** And where it listens. */
export interface EmbeddedBrokerListenOptions extends EmbeddedBrokerOptions {
  /** @default 0, any that is free */
  readonly port?: number | undefined;
  /** The address to listen on. Others than loopback let in whoever reaches this machine. @default '127.0.0.1' */
  readonly host?: string | undefined;
}

export interface ResolvedBrokerOptions {
  readonly name: string;
  readonly users: Readonly<Record<string, string>>;
  readonly virtualHosts: readonly [string, ...string[]];
  readonly clock: 'real' | 'manual';
  readonly maxMessageSize: number;
  readonly port: number;
  readonly host: string;
}

const KNOWN: readonly string[] = ['name', 'users', 'virtualHosts', 'clock', 'maxMessageSize', 'port', 'host'];

/** Throws `INVALID_OPTION`. */
export function resolveBrokerOptions(options: EmbeddedBrokerListenOptions, freeName: string): ResolvedBrokerOptions {
  if (!isRecord(options))
    throw new AmqpError('INVALID_OPTION', 'The options of the embedded broker have to be an object.');
  const unknown = Object.keys(options).find((option) => !KNOWN.includes(option));
  if (unknown !== undefined) throw wrong(unknown, `is none of the options (${KNOWN.join(', ')})`);
  const { name = freeName, users = { guest: 'guest' }, virtualHosts = ['/'], clock = 'real' } = options;
  const { maxMessageSize = 134_217_728, port = 0, host = '127.0.0.1' } = options;
  if (typeof name !== 'string' || name === '') throw wrong('name', 'has to be text');
  const passwords: unknown[] = isRecord(users) ? Object.values(users) : [];
  if (passwords.length === 0 || !passwords.every((password) => typeof password === 'string')) {
    throw wrong('users', 'has to name at least one user with a password, as in { guest: "guest" }');
  }
  const names: readonly unknown[] = Array.isArray(virtualHosts) ? virtualHosts : [];
  const [first, ...others] = names.filter((each) => typeof each === 'string');
  if (first === undefined || others.length + 1 < names.length) {
    throw wrong('virtualHosts', "has to name at least one virtual host, as in ['/']");
  }
  if (!['real', 'manual'].includes(clock)) throw wrong('clock', "has to be 'real' or 'manual'");
  if (!isIntegerWithin(maxMessageSize, 0, 536_870_912)) {
    throw wrong('maxMessageSize', 'has to be a number of octets up to 536870912');
  }
  if (!isIntegerWithin(port, 0, 65_535)) throw wrong('port', 'has to be a port number, or 0 for any');
  if (typeof host !== 'string' || host === '') throw wrong('host', 'has to be an address of this machine');
  return { name, users, virtualHosts: [first, ...others], clock, maxMessageSize, port, host };
}

function isRecord(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isIntegerWithin(value: unknown, low: number, high: number): boolean {
  return Number.isInteger(value) && (value as number) >= low && (value as number) <= high;
}

function wrong(option: string, what: string): AmqpError {
  return new AmqpError('INVALID_OPTION', `The option ${printable(option, 40)} of the embedded broker ${what}.`);
}
