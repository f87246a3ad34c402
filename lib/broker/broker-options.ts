/** What an embedded broker can be told, checked and completed. */
import { AmqpError, printable, quoted } from '../errors.js';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';

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

/** How `settled` waits. */
export interface SettledOptions {
  /** @default '5s' */
  readonly timeout?: Duration | undefined;
  readonly signal?: AbortSignal | undefined;
}

interface ResolvedBrokerOptions {
  readonly name: string;
  readonly users: Readonly<Record<string, string>>;
  readonly virtualHosts: readonly [string, ...string[]];
  readonly clock: 'real' | 'manual';
  readonly maxMessageSize: number;
  readonly port: number;
  readonly host: string;
}

const KNOWN = Object.keys({
  name: true,
  users: true,
  virtualHosts: true,
  clock: true,
  maxMessageSize: true,
  port: true,
  host: true,
} satisfies Record<keyof EmbeddedBrokerListenOptions, true>);

/** Throws `INVALID_OPTION`. */
export function resolveBrokerOptions(options: EmbeddedBrokerListenOptions, freeName: string): ResolvedBrokerOptions {
  if (!isRecord(options)) {
    throw new AmqpError(
      'INVALID_OPTION',
      'The options of the embedded broker have to be an object, as in { port: 5672 }.',
    );
  }
  refuseUnknown(options, KNOWN, (unknown) => wrong(unknown, `is none of the options (${KNOWN.join(', ')})`));
  const { name = freeName, users = { guest: 'guest' }, virtualHosts = ['/'], clock = 'real' } = options;
  const { maxMessageSize = 134_217_728, port = 0, host = '127.0.0.1' } = options;
  if (!isName(name)) throw wrong('name', 'has to be text');
  if (!['real', 'manual'].includes(clock)) throw wrong('clock', "has to be 'real' or 'manual'");
  if (!isIntegerWithin(maxMessageSize, 0, 536_870_912)) {
    throw wrong('maxMessageSize', 'has to be a number of octets up to 536870912');
  }
  if (!isIntegerWithin(port, 0, 65_535)) throw wrong('port', 'has to be a port number, or 0 for any');
  if (!isName(host)) throw wrong('host', 'has to be an address of this machine');
  return {
    name,
    users: checkedUsers(users),
    virtualHosts: checkedVirtualHosts(virtualHosts),
    clock,
    maxMessageSize,
    port,
    host,
  };
}

function checkedUsers(users: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const entries: [string, unknown][] = isRecord(users) ? Object.entries(users) : [];
  const areUsers = entries.every(([name, password]) => isName(name) && isText(password));
  if (entries.length > 0 && areUsers) return users;
  throw wrong('users', 'has to name at least one user with a password, as in { guest: "guest" }');
}

function checkedVirtualHosts(virtualHosts: readonly string[]): readonly [string, ...string[]] {
  const names: readonly unknown[] = Array.isArray(virtualHosts) ? virtualHosts : [];
  const [first, ...others] = names.filter(isText);
  if (first === undefined || others.length + 1 < names.length) {
    throw wrong('virtualHosts', "has to name at least one virtual host, as in ['/']");
  }
  const twice = others.find((name, index) => name === first || others.indexOf(name) < index);
  if (twice !== undefined) throw wrong('virtualHosts', `has ${quoted(twice)} twice`);
  // Clients name it in a short string (connection.open).
  const long = [first, ...others].find((name) => Buffer.byteLength(name) > LONGEST_SHORTSTR);
  if (long !== undefined)
    throw wrong('virtualHosts', `has a name of more than ${LONGEST_SHORTSTR} octets, ${quoted(long)}`);
  return [first, ...others];
}

/** `timeout` in milliseconds. Throws `INVALID_OPTION`. */
export function resolveSettledOptions(options: SettledOptions): { timeout: number; signal: AbortSignal | undefined } {
  if (!isRecord(options)) {
    throw new AmqpError('INVALID_OPTION', "The options of settled have to be an object, as in { timeout: '5s' }.");
  }
  refuseUnknown(options, ['timeout', 'signal'], (unknown) => {
    const text = `settled has no option ${printable(unknown, 40)}. Known are timeout, signal.`;
    return new AmqpError('INVALID_OPTION', text);
  });
  const { timeout = '5s', signal } = options;
  if (signal !== undefined && !isSignal(signal)) {
    throw new AmqpError('INVALID_OPTION', 'The option signal of settled has to be an AbortSignal.');
  }
  return { timeout: timerMilliseconds(timeout, 'The option timeout of settled'), signal };
}

/** Throws `INVALID_ARGUMENT` with what is wanted, for anything that is not text. */
export function checkedText(value: unknown, wanted: string): string {
  if (typeof value === 'string' && value !== '') return value;
  throw new AmqpError('INVALID_ARGUMENT', `${wanted}.`);
}

function refuseUnknown(options: object, known: readonly string[], refusal: (unknown: string) => AmqpError): void {
  const unknown = Object.keys(options).find((option) => !known.includes(option));
  if (unknown !== undefined) throw refusal(unknown);
}

function isRecord(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Text that UTF-8 can carry: it goes into URLs and short strings. */
function isText(value: unknown): value is string {
  return typeof value === 'string' && !/\p{Surrogate}/u.test(value);
}

function isName(value: unknown): value is string {
  return isText(value) && value !== '';
}

/** Jest gives its tests an `AbortSignal` of their own, which is no instance of ours. */
function isSignal(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'aborted' in value && 'addEventListener' in value;
}

function isIntegerWithin(value: unknown, low: number, high: number): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high;
}

function wrong(option: string, what: string): AmqpError {
  return new AmqpError('INVALID_OPTION', `The option ${printable(option, 40)} of the embedded broker ${what}.`);
}
