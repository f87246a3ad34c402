/**
 * What a user says about a connection (URL, options), checked and completed once. Everything behind this door finds every
 * field present. Dialling and the handshake are done elsewhere.
 */
import { readFileSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { AmqpError, printable, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { FRAME_MIN_SIZE } from '../protocol/frame.js';
import {
  Credentials,
  type CredentialsProvider,
  type Mechanism,
  type UserCredentials,
  isMechanismName,
} from './credentials.js';
import type { HostLookup, TlsOptions } from './dial.js';
import { type SaidElsewhere, kindOf, refuseUnknown } from './option-names.js';
import { type EmbeddedAddress, embeddedName } from './embedded.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';

export const DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 * 1024;

/** How to reach a broker and how to speak to it. Everything has a default. */
export interface ConnectionOptions {
  /** Host name or address. @default 'localhost' */
  readonly hostname?: string | undefined;
  /** @default 5672, with TLS 5671 */
  readonly port?: number | undefined;
  /** Virtual host. @default '/' */
  readonly vhost?: string | undefined;
  /**
   * User name and password, or a function that is asked for them on every attempt to connect and before they expire.
   * @default guest/guest, which RabbitMQ accepts from the same machine only
   */
  readonly credentials?: UserCredentials | CredentialsProvider | undefined;
  /**
   * SASL mechanism to insist on. `'EXTERNAL'` needs a client certificate in `tls`.
   * @default the first of PLAIN, AMQPLAIN that the broker offers
   */
  readonly mechanism?: Mechanism | undefined;
  /**
   * `true` or `node:tls` options to encrypt. Certificates and host names are verified unless `rejectUnauthorized: false` says
   * otherwise. @default false, for amqps:// true
   */
  readonly tls?: boolean | TlsOptions | undefined;
  /** Silence after which each side proves that it lives; whole seconds, 0 for never. The smaller wish of both sides counts. @default '10s' */
  readonly heartbeat?: Duration | undefined;
  /** Largest frame in bytes, 4096 or more (RabbitMQ 4.1 and later: 8192), 0 for what the broker proposes (131072). @default 0 */
  readonly frameMax?: number | undefined;
  /** Most channels at a time, 0 for what the broker proposes (RabbitMQ: 2047). @default 0 */
  readonly channelMax?: number | undefined;
  /** Name that RabbitMQ shows for this connection. */
  readonly connectionName?: string | undefined;
  /** More client properties for the broker to show. */
  readonly clientProperties?: FieldTable | undefined;
  /**
   * Finds the addresses of a host name, as `dns.lookup` of Node does. Called on every attempt to connect, and every address
   * is tried. @default dns.lookup
   */
  readonly lookup?: HostLookup | undefined;
  /** Longest time for the TCP and TLS connection, over all addresses of the host. @default '10s' */
  readonly connectTimeout?: Duration | undefined;
  /** Longest time for the AMQP handshake after that. RabbitMQ takes 3 s to refuse a password. @default '10s' */
  readonly handshakeTimeout?: Duration | undefined;
  /** Longest wait for the broker's answer when closing. @default '2s' */
  readonly closeTimeout?: Duration | undefined;
  /** Longest wait for the broker's answer to a request on a channel, such as queue.declare. @default '1m' */
  readonly requestTimeout?: Duration | undefined;
  /** Largest message to accept, in bytes. @default 67108864 (64 MiB) */
  readonly maxMessageSize?: number | undefined;
  /** Opens the transport instead of `node:net` or `node:tls`: a tunnel, an in-memory pair in tests. */
  readonly dial?: (() => Duplex | Promise<Duplex>) | undefined;
}

/** `ConnectionOptions` with nothing missing; durations in milliseconds. */
export interface ResolvedConnectionOptions {
  readonly hostname: string;
  readonly port: number;
  readonly vhost: string;
  readonly credentials: Credentials;
  /** Where to get credentials instead. */
  readonly credentialsProvider: CredentialsProvider | undefined;
  readonly mechanisms: readonly Mechanism[];
  readonly tls: TlsOptions | undefined;
  /** Seconds. */
  readonly heartbeat: number;
  readonly frameMax: number;
  readonly channelMax: number;
  readonly connectionName: string | undefined;
  readonly clientProperties: FieldTable;
  readonly connectTimeout: number;
  readonly handshakeTimeout: number;
  readonly closeTimeout: number;
  readonly requestTimeout: number;
  readonly maxMessageSize: number;
  readonly lookup: HostLookup | undefined;
  readonly dial: (() => Duplex | Promise<Duplex>) | undefined;
  readonly embedded: EmbeddedAddress | undefined;
}

/** Checks one option; returns nothing when it is right, else what it has to be. */
type Check = (value: unknown) => string | undefined;

const text: Check = (value) => (typeof value === 'string' && value !== '' ? undefined : 'a string that is not empty');
const object: Check = (value) => (typeof value === 'object' && value !== null ? undefined : 'an object');
// What the text says is checked by `timerMilliseconds`, where it is read.
const duration: Check = (value) =>
  typeof value === 'number' || typeof value === 'string' ? undefined : "milliseconds, or text such as '10s'";
const integer =
  (low: number, high: number): Check =>
  (value) =>
    Number.isInteger(value) && (value as number) >= low && (value as number) <= high
      ? undefined
      : `an integer from ${low} to ${high}`;

const CHECKS: Record<keyof ConnectionOptions, Check> = {
  hostname: text,
  port: integer(1, 65_535),
  vhost: text,
  credentials: (value) =>
    typeof value === 'function' || isCredentials(value)
      ? undefined
      : 'an object with username and password, or a function that returns one',
  mechanism: (value) =>
    isMechanismName(value) || typeof (value as { respond?: unknown } | null)?.respond === 'function'
      ? undefined
      : "'PLAIN', 'AMQPLAIN', 'EXTERNAL', or an object with name and respond",
  tls: (value) => (typeof value === 'boolean' ? undefined : object(value)),
  heartbeat: duration,
  frameMax: (value) =>
    value === 0
      ? undefined
      : integer(FRAME_MIN_SIZE, 0xffff_ffff)(value) && `0 or an integer from ${FRAME_MIN_SIZE} up`,
  channelMax: integer(0, 65_535),
  connectionName: text,
  clientProperties: object,
  connectTimeout: duration,
  handshakeTimeout: duration,
  closeTimeout: duration,
  requestTimeout: duration,
  maxMessageSize: integer(1, Number.MAX_SAFE_INTEGER),
  lookup: (value) => (typeof value === 'function' ? undefined : 'a function like dns.lookup'),
  dial: (value) => (typeof value === 'function' ? undefined : 'a function that returns a Duplex'),
};

/** The names of `ConnectionOptions`. */
export const CONNECTION_OPTIONS: readonly string[] = Object.keys(CHECKS);

const LOGIN = 'Say credentials: { username, password }.';

/** What a connection is told by those who come from other libraries. */
export const CONNECTION_ELSEWHERE: SaidElsewhere = {
  host: 'Say hostname.',
  username: LOGIN,
  password: LOGIN,
  heartbeatIntervalInSeconds: "Say heartbeat: '5s'.",
  reconnectTimeInSeconds: 'Say recovery: { initialDelay, maxDelay }.',
};

/**
 * Completes what the user gave. An option beside the URL wins over the same thing in the URL.
 * Throws `INVALID_URL` or `INVALID_OPTION`.
 */
export function resolveConnectionOptions(
  urlOrOptions: string | ConnectionOptions = {},
  more: ConnectionOptions = {},
): ResolvedConnectionOptions {
  if (typeof urlOrOptions !== 'string' && !isOptions(urlOrOptions)) {
    throw new AmqpError(
      'INVALID_OPTION',
      'What to connect to has to be a URL as a string, or an object of options. Of a URL object pass its href.',
    );
  }
  const embedded = typeof urlOrOptions === 'string' ? embeddedName(urlOrOptions) : undefined;
  const given = {
    ...(typeof urlOrOptions !== 'string'
      ? definedOnly(urlOrOptions)
      : embedded === undefined
        ? parseUrl(urlOrOptions)
        : {}),
    ...definedOnly(more),
  };
  checkOptions(given);
  if (typeof urlOrOptions === 'string' && urlOrOptions.startsWith('amqps:') && given.tls === false) {
    throw new AmqpError(
      'INVALID_OPTION',
      'The URL says amqps:// and the option tls says false. Use amqp://, or leave tls out.',
    );
  }

  const credentials = given.credentials ?? { username: 'guest', password: 'guest' };
  const tls = given.tls === true ? {} : given.tls === false ? undefined : given.tls;
  if (given.mechanism === 'EXTERNAL' && given.dial === undefined && tls?.cert === undefined && tls?.pfx === undefined) {
    throw new AmqpError(
      'INVALID_OPTION',
      'The mechanism EXTERNAL needs a client certificate: give tls.cert and tls.key, or tls.pfx.',
    );
  }
  return {
    hostname: given.hostname ?? 'localhost',
    port: given.port ?? (tls === undefined ? 5672 : 5671),
    vhost: given.vhost ?? '/',
    credentials:
      typeof credentials === 'function'
        ? new Credentials('', '')
        : new Credentials(credentials.username, credentials.password),
    credentialsProvider: typeof credentials === 'function' ? credentials : undefined,
    mechanisms: given.mechanism === undefined ? ['PLAIN', 'AMQPLAIN'] : [given.mechanism],
    tls,
    heartbeat: wholeSeconds(given.heartbeat ?? '10s'),
    frameMax: given.frameMax ?? 0,
    channelMax: given.channelMax ?? 0,
    connectionName: given.connectionName,
    clientProperties: given.clientProperties ?? {},
    connectTimeout: timerMilliseconds(given.connectTimeout ?? '10s', 'connectTimeout'),
    handshakeTimeout: timerMilliseconds(given.handshakeTimeout ?? '10s', 'handshakeTimeout'),
    closeTimeout: timerMilliseconds(given.closeTimeout ?? '2s', 'closeTimeout'),
    requestTimeout: timerMilliseconds(given.requestTimeout ?? '1m', 'requestTimeout'),
    maxMessageSize: given.maxMessageSize ?? DEFAULT_MAX_MESSAGE_SIZE,
    lookup: given.lookup,
    dial: given.dial,
    embedded:
      embedded === undefined || given.dial !== undefined
        ? undefined
        : { name: embedded, isAnyUser: given.credentials === undefined, isAnyVhost: given.vhost === undefined },
  };
}

/** Where a connection goes, fit for logs and errors: no user name, no password. */
export function addressOf(options: ResolvedConnectionOptions): string {
  if (options.dial !== undefined) return 'the dialled transport';
  if (options.embedded !== undefined) return `the embedded broker ${quoted(options.embedded.name)}`;
  const host = options.hostname.includes(':') ? `[${options.hostname}]` : options.hostname;
  return `${printable(host, 255)}:${options.port}`;
}

function isCredentials(value: unknown): value is UserCredentials {
  const { username, password } = (value ?? {}) as Partial<UserCredentials>;
  return typeof username === 'string' && typeof password === 'string';
}

/** A `URL` has no properties of its own: it would pass for options that are all left out. */
function isOptions(value: unknown): value is ConnectionOptions {
  return typeof value === 'object' && value !== null && !('href' in value);
}

function definedOnly<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

function checkOptions(given: ConnectionOptions): void {
  refuseUnknown(given, CONNECTION_OPTIONS, 'There is no connection option', { elsewhere: CONNECTION_ELSEWHERE });
  for (const [name, value] of Object.entries(given)) {
    const wanted = CHECKS[name as keyof ConnectionOptions](value);
    // Text stays out of the message: it may be a password in the wrong place.
    if (wanted !== undefined)
      throw new AmqpError(
        'INVALID_OPTION',
        `The connection option ${name} has to be ${wanted}; it is ${kindOf(value)}.`,
      );
  }
}

function wholeSeconds(heartbeat: Duration): number {
  const seconds = timerMilliseconds(heartbeat, 'heartbeat') / 1000;
  if (!Number.isInteger(seconds) || seconds > 65_535) {
    throw new AmqpError(
      'INVALID_OPTION',
      "heartbeat has to be whole seconds up to 65535, because AMQP counts it so: '10s' or 10_000, or 0 for none.",
    );
  }
  return seconds;
}

/** What a query parameter of the URL sets. Names and units are RabbitMQ's (https://www.rabbitmq.com/docs/uri-query-parameters). */
const QUERY: Readonly<Record<string, (value: string) => ConnectionOptions>> = {
  heartbeat: (value) => ({ heartbeat: Number(value) * 1000 }),
  connection_timeout: (value) => ({ connectTimeout: Number(value) }),
  channel_max: (value) => ({ channelMax: Number(value) }),
  frame_max: (value) => ({ frameMax: Number(value) }),
  auth_mechanism: (value) => ({ mechanism: value.toUpperCase() as Mechanism }),
  cacertfile: (value) => ({ tls: { ca: fileNamed(value, 'cacertfile') } }),
  certfile: (value) => ({ tls: { cert: fileNamed(value, 'certfile') } }),
  keyfile: (value) => ({ tls: { key: fileNamed(value, 'keyfile') } }),
  // RabbitMQ's word for none.
  server_name_indication: (value) => ({ tls: { servername: value === 'disable' ? '' : value } }),
  verify: (value) => {
    if (value === 'verify_peer') return {};
    throw invalidUrl(
      'its parameter verify has to be verify_peer. What a URL says is too easily copied to turn verification off; ' +
        'the option tls: { rejectUnauthorized: false } does',
    );
  },
};
const NUMERIC_QUERY = new Set(['heartbeat', 'connection_timeout', 'channel_max', 'frame_max']);

/** Reads a URL (https://www.rabbitmq.com/docs/uri-spec). No part of it is ever repeated in an error: it holds a password. */
function parseUrl(given: string): ConnectionOptions {
  // The slashes as well: without them the whole rest, password and all, would be the virtual host.
  if (!/^\s*amqps?:\/\//i.test(given)) throw invalidUrl('it has to begin with amqp://, amqps:// or embedded:');
  let url: URL;
  try {
    url = new URL(given);
  } catch {
    // Not passed on as the cause: Node's own error carries the whole URL.
    throw invalidUrl(
      'it cannot be parsed. A port is at most 65535; in user names and passwords write : / ? # [ ] @ % as ' +
        '%3A %2F %3F %23 %5B %5D %40 %25',
    );
  }
  if (url.hash !== '') throw invalidUrl('it has a fragment (#…). Write a # inside a password as %23');
  const path = url.pathname.replace(/^\//, '');
  // amqp://user:1/secret@host: the password's / ended the port, and what follows would be named in errors.
  if (path.includes('@')) throw invalidUrl('its path has an @. Write a / inside a password as %2F, an @ as %40');
  if (path.includes('/')) throw invalidUrl('its path is more than one name. Write a / inside a virtual host as %2F');

  let options: ConnectionOptions = {
    ...(url.hostname === '' ? {} : { hostname: decoded(url.hostname.replace(/^\[(.*)\]$/, '$1'), 'host name') }),
    ...(url.port === '' ? {} : { port: Number(url.port) }),
    ...(path === '' ? {} : { vhost: decoded(path, 'virtual host') }),
    ...(url.username === '' && url.password === ''
      ? {}
      : { credentials: { username: decoded(url.username, 'user name'), password: decoded(url.password, 'password') } }),
    tls: url.protocol === 'amqps:',
  };
  for (const [name, value] of url.searchParams) {
    const read = Object.hasOwn(QUERY, name) ? QUERY[name] : undefined;
    if (read === undefined) {
      // Not named: behind an unescaped ? in a password, it is the rest of the password.
      throw invalidUrl(
        `it has an unknown parameter. Known are ${Object.keys(QUERY).join(', ')}. Write a ? inside a password as %3F`,
      );
    }
    if (NUMERIC_QUERY.has(name) && !/^\d+$/.test(value)) throw invalidUrl(`its parameter ${name} has to be a number`);
    options = merged(options, read(value));
  }
  return options;
}

/** TLS options from several parameters add up; a URL without TLS has none. */
function merged(options: ConnectionOptions, more: ConnectionOptions): ConnectionOptions {
  if (more.tls === undefined) return { ...options, ...more };
  if (options.tls === false) throw invalidUrl('its TLS parameters need the scheme amqps:');
  return { ...options, tls: { ...(options.tls === true ? {} : options.tls), ...(more.tls as TlsOptions) } };
}

function fileNamed(path: string, parameter: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new AmqpError(
      'INVALID_URL',
      `The file named by the parameter ${parameter} of the broker's URL cannot be read; see the cause.`,
      {
        cause,
      },
    );
  }
}

function decoded(part: string, what: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw invalidUrl(`its ${what} has a % that does not begin an escape. Write a % as %25`);
  }
}

function invalidUrl(why: string): AmqpError {
  return new AmqpError(
    'INVALID_URL',
    `The broker's URL cannot be used: ${why}. It has the form amqp://user:password@host:port/vhost.`,
  );
}
