/** Opens the TCP or TLS connection beneath an AMQP connection; the one place of the client that touches sockets. */
import { type Socket, connect as connectTcp, isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import { type ConnectionOptions as NodeTlsOptions, connect as connectTls } from 'node:tls';
import { AmqpError, printable } from '../errors.js';
import { type ResolvedConnectionOptions, addressOf } from './connection-options.js';
import { orAborted } from './wait.js';

/** TLS options as `node:tls` takes them: `ca`, `cert`, `key`, `pfx`, `passphrase`, `servername`, `minVersion` and so on. */
export type TlsOptions = Omit<NodeTlsOptions, 'host' | 'port' | 'path' | 'socket' | 'timeout'>;

/** After this much silence TCP itself asks whether the other end is there, in milliseconds. */
const KEEP_ALIVE_DELAY = 60_000;

/** The open transport. Rejects with `CONNECT_FAILED` or `CONNECT_TIMEOUT`, or with the signal's reason. */
export async function dial(options: ResolvedConnectionOptions, signal?: AbortSignal): Promise<Duplex> {
  const { promise, abandon } = options.dial === undefined ? dialSocket(options) : dialCustom(options.dial);
  const deadline = new AbortController();
  const timer = setTimeout(() => {
    deadline.abort(
      new AmqpError(
        'CONNECT_TIMEOUT',
        `No connection to ${addressOf(options)} within ${options.connectTimeout} ms. ` +
          'Check the host, the port and the firewalls between, or raise connectTimeout.',
      ),
    );
  }, options.connectTimeout);
  const over = signal === undefined ? deadline.signal : AbortSignal.any([signal, deadline.signal]);
  try {
    return await orAborted(promise, over);
  } catch (cause) {
    if (!over.aborted) throw connectFailed(options, cause);
    abandon();
    throw aborted(cause);
  } finally {
    clearTimeout(timer);
  }
}

/** What a signal's reason becomes, where it is none of ours. */
export function aborted(cause: unknown): AmqpError {
  return cause instanceof AmqpError ? cause : new AmqpError('ABORTED', 'Connecting was aborted.', { cause });
}

/** A transport on its way; what opens after `abandon` is destroyed. */
interface Dialling {
  readonly promise: Promise<Duplex>;
  readonly abandon: () => void;
}

function dialCustom(open: () => Duplex | Promise<Duplex>): Dialling {
  const promise = (async () => await open())();
  return {
    promise,
    abandon: () => {
      promise.then(
        (transport) => transport.destroy(),
        () => undefined,
      );
    },
  };
}

function dialSocket(options: ResolvedConnectionOptions): Dialling {
  const { socket, ready } = openSocket(options);
  // Stays for good: between the connecting and its owner's own listener, an error would find nobody.
  socket.on('error', () => undefined);
  const promise = new Promise<Duplex>((resolve, reject) => {
    socket.once('error', reject);
    socket.once(ready, () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
  return { promise, abandon: () => socket.destroy() };
}

function openSocket(options: ResolvedConnectionOptions): { socket: Socket; ready: 'connect' | 'secureConnect' } {
  const { hostname: host, port, tls } = options;
  const common = { host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_DELAY };
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

const ADVICE: Readonly<Record<string, string>> = {
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

function connectFailed(options: ResolvedConnectionOptions, cause: unknown): AmqpError {
  const code = errorCode(cause);
  const said = code ?? (cause instanceof Error ? printable(cause.message) : 'unknown error');
  const advice = (code === undefined ? undefined : ADVICE[code]) ?? 'See the cause.';
  return new AmqpError('CONNECT_FAILED', `No connection to ${addressOf(options)}: ${said}. ${advice}`, {
    cause,
    closedBy: 'network',
  });
}

/** The code of a Node error; of an AggregateError (one failure per address of a host) that of the first. */
function errorCode(cause: unknown): string | undefined {
  if (cause instanceof AggregateError && (cause as { code?: unknown }).code === undefined)
    return errorCode(cause.errors[0]);
  const code = (cause as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}
