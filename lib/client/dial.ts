/** Opens the TCP or TLS connection beneath an AMQP connection; the one place of the client that touches sockets. */
import { type LookupFunction, type Socket, connect as connectTcp, isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import { type ConnectionOptions as NodeTlsOptions, connect as connectTls } from 'node:tls';
import { AmqpError, printable } from '../errors.js';
import { type ResolvedConnectionOptions, addressOf } from './connection-options.js';
import { dialEmbedded } from './embedded.js';
import { warnOfPlaintext } from './plaintext-warning.js';
import { orLate } from './wait.js';

/** TLS options as `node:tls` takes them: `ca`, `cert`, `key`, `pfx`, `passphrase`, `servername`, `minVersion` and so on. */
export type TlsOptions = Omit<NodeTlsOptions, 'host' | 'port' | 'path' | 'socket' | 'timeout'>;

/** What finds the addresses of a host name: `dns.lookup` of Node, or a function that takes and gives the same. */
export type HostLookup = LookupFunction;

/** After this much silence TCP itself asks whether the other end is there, in milliseconds. */
const KEEP_ALIVE_DELAY = 60_000;

/**
 * How long one address of several may take, in milliseconds: Node gives one up before it tries the next. A SYN that got lost is
 * sent again after 1 s (RFC 6298), so that Node's default of 250 ms would miss a far broker whenever that happens.
 */
const ADDRESS_TIMEOUT = 2_500;

/** The open transport. Rejects with `CONNECT_FAILED` or `CONNECT_TIMEOUT`, or with the signal's reason. */
export async function dial(options: ResolvedConnectionOptions, signal?: AbortSignal): Promise<Duplex> {
  const { promise, abandon, soFar } = dialling(options);
  const late = (): AmqpError =>
    new AmqpError(
      'CONNECT_TIMEOUT',
      `No connection to ${addressOf(options)} within ${options.connectTimeout} ms${soFar()}. ` +
        'Check the host, the port and the firewalls between, or raise connectTimeout.',
    );
  try {
    return await orLate(promise, options.connectTimeout, late, signal);
  } catch (cause) {
    abandon();
    throw aborted(cause);
  }
}

/** What a signal's reason becomes, where it is none of ours. */
export function aborted(cause: unknown): AmqpError {
  return cause instanceof AmqpError ? cause : new AmqpError('ABORTED', 'Connecting was aborted.', { cause });
}

/** A transport on its way; what opens after `abandon` is destroyed. */
interface Dialling {
  /** Rejects with `CONNECT_FAILED`. */
  readonly promise: Promise<Duplex>;
  readonly abandon: () => void;
  /** What became of the addresses up to now, to be added to a sentence. */
  readonly soFar: () => string;
}

function dialling(options: ResolvedConnectionOptions): Dialling {
  const { dial: custom, embedded } = options;
  if (custom !== undefined) return dialCustom(options, custom);
  return embedded === undefined ? dialSocket(options) : dialCustom(options, () => dialEmbedded(embedded.name));
}

function dialCustom(options: ResolvedConnectionOptions, open: () => Duplex | Promise<Duplex>): Dialling {
  const promise = (async () => {
    try {
      return await open();
    } catch (cause) {
      throw connectFailed(options, cause);
    }
  })();
  return {
    promise,
    abandon: () => {
      promise.then(
        (transport) => transport.destroy(),
        () => undefined,
      );
    },
    soFar: () => '',
  };
}

function dialSocket(options: ResolvedConnectionOptions): Dialling {
  const { socket, ready } = openSocket(options);
  const addresses = new Addresses(socket, options.hostname);
  // Stays for good: between the connecting and its owner's own listener, an error would find nobody.
  socket.on('error', () => undefined);
  const promise = new Promise<Duplex>((resolve, reject) => {
    const failed = (cause: Error): void => {
      reject(connectFailed(options, cause, addresses.outcomes(saidOf(cause))));
    };
    socket.once('error', failed);
    socket.once(ready, () => {
      socket.off('error', failed);
      if (options.tls === undefined) warnOfPlaintext(options, socket.remoteAddress);
      resolve(socket);
    });
  });
  return {
    promise,
    abandon: () => socket.destroy(),
    soFar: () => {
      const outcomes = addresses.outcomes();
      return outcomes === '' ? '' : ` (${outcomes})`;
    },
  };
}

function openSocket(options: ResolvedConnectionOptions): { socket: Socket; ready: 'connect' | 'secureConnect' } {
  const { hostname: host, port, tls, lookup } = options;
  const common = {
    host,
    port,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_DELAY,
    autoSelectFamily: true,
    // 10 ms is the shortest that Node takes; half of the whole, so that there is a second address in any case.
    autoSelectFamilyAttemptTimeout: Math.max(10, Math.min(ADDRESS_TIMEOUT, Math.floor(options.connectTimeout / 2))),
    ...(lookup === undefined ? {} : { lookup }),
  };
  if (tls === undefined) return { socket: connectTcp(common), ready: 'connect' };
  const socket = connectTls({
    minVersion: 'TLSv1.2',
    // Server name indication takes names only (RFC 6066, section 3).
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...tls,
    ...common,
  });
  return { socket, ready: 'secureConnect' };
}

/** What became of each address of a host name. */
class Addresses {
  readonly #outcomes = new Map<string, string>();

  constructor(socket: Socket, host: string) {
    // An address in place of a name is in the message already.
    if (isIP(host) !== 0) return;
    socket.on('connectionAttempt', (address) => this.#outcomes.set(address, 'no answer'));
    socket.on('connectionAttemptFailed', (address, _port, _family, cause) => {
      this.#outcomes.set(address, saidOf(cause));
    });
    socket.on('connectionAttemptTimeout', (address) => this.#outcomes.set(address, 'no answer in its time'));
  }

  /** As text; `end` is what became of the last one, where only its TLS or the whole has failed. Empty when none was tried. */
  outcomes(end?: string): string {
    const last = [...this.#outcomes.keys()].at(-1);
    if (end !== undefined && last !== undefined && this.#outcomes.get(last) === 'no answer')
      this.#outcomes.set(last, end);
    return [...this.#outcomes].map(([address, outcome]) => `${address} ${outcome}`).join(', ');
  }
}

const ADVICE: Readonly<Record<string, string>> = {
  ETIMEDOUT: 'Check the host, the port and the firewalls between.',
  ECONNREFUSED: 'Nothing listens there. Start the broker, or correct the host and port.',
  ENOTFOUND: 'The host name is unknown. Correct it, or the name service.',
  EAI_AGAIN: 'The name service does not answer. Try again, or correct it.',
  EHOSTUNREACH: 'There is no route to the host.',
  ENETUNREACH: 'There is no route to the network.',
  ECONNRESET:
    'The other end hung up. A broker that expects TLS does that (use amqps://), and so does one that does not (use amqp://).',
  EPROTO: 'The other end does not speak TLS there. Use amqp://, or the TLS port (5671).',
  ERR_SSL_WRONG_VERSION_NUMBER: 'The other end does not speak TLS there. Use amqp://, or the TLS port (5671).',
  ERR_TLS_CERT_ALTNAME_INVALID: 'The certificate is for another name. Connect by that name, or set tls.servername.',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'The certificate signs itself. Give its authority as tls.ca.',
  SELF_SIGNED_CERT_IN_CHAIN: 'The authority of the certificate is not trusted. Give it as tls.ca.',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'The authority of the certificate is not trusted. Give it as tls.ca.',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'The authority of the certificate is not trusted. Give it as tls.ca.',
  CERT_HAS_EXPIRED: 'The certificate has expired. Renew it on the broker.',
};

/** @param outcomes - what became of each address, in place of one reason for all */
function connectFailed(options: ResolvedConnectionOptions, cause: unknown, outcomes = ''): AmqpError {
  const code = errorCode(cause);
  // Everybody may connect to a broker in the process, unless a test has it refuse that.
  const known = code === undefined || options.embedded !== undefined ? undefined : ADVICE[code];
  const advice = known ?? 'See the cause.';
  const said = outcomes === '' ? saidOf(cause) : outcomes;
  return new AmqpError('CONNECT_FAILED', `No connection to ${addressOf(options)}: ${said}. ${advice}`, {
    cause,
    closedBy: 'network',
  });
}

function saidOf(cause: unknown): string {
  return errorCode(cause) ?? (cause instanceof Error ? printable(cause.message) : 'unknown error');
}

/** The code of a Node error; of an AggregateError (one failure per address of a host) that of the first. */
function errorCode(cause: unknown): string | undefined {
  if (cause instanceof AggregateError && (cause as { code?: unknown }).code === undefined)
    return errorCode(cause.errors[0]);
  const code = (cause as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}
