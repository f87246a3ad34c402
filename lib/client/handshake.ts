/**
 * Opening an AMQP connection, from the protocol header to open-ok (specification, section 2.2.4).
 *
 * ```
 *   client                        server
 *   "AMQP" 0 0 9 1  ────────────►           a server of another version answers with its own header, and hangs up
 *                   ◄──────────── start
 *   start-ok        ────────────►           a wrong password: close 403, after a delay of 3 s in RabbitMQ
 *                   ◄──────────── secure
 *   secure-ok       ────────────►           as often as the mechanism has it; PLAIN, AMQPLAIN and EXTERNAL never do
 *                   ◄──────────── tune
 *   tune-ok, open   ────────────►           an unknown virtual host: close 530
 *                   ◄──────────── open-ok
 * ```
 */
import { AmqpError, ProtocolError, factsOf, printable } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { PROTOCOL_HEADER, FRAME_MIN_SIZE } from '../protocol/frame.js';
import type { Method, MethodArgs, MethodName } from '../protocol/methods.js';
import { type ResolvedConnectionOptions, addressOf } from './connection-options.js';
import { VERSION } from '../version.js';
import { type SaslMechanism, chooseMechanism } from './credentials.js';
import { toldOf } from './option-names.js';

/** What the handshake needs of a connection. */
export interface HandshakeLine {
  /** Writes bytes that are no frame. */
  sendRaw(bytes: Uint8Array): void;
  send<N extends MethodName>(name: N, args: MethodArgs<N>): void;
  /** The next method on channel 0. Rejects when the connection ends or the time is over. */
  receive(): Promise<Method>;
}

/** What both sides agreed on. */
export interface Negotiated {
  readonly serverProperties: FieldTable;
  /** Most channels; never 0. */
  readonly channelMax: number;
  /** Largest frame in octets; 0 for no limit. */
  readonly frameMax: number;
  /** What the server proposed as frame_max, which it may use for header frames all the same. */
  readonly proposedFrameMax: number;
  /** Seconds; 0 for none. */
  readonly heartbeat: number;
}

/** How far the handshake came, and with whom, for the error when it ends early. */
export interface HandshakeProgress {
  /** What is awaited. */
  readonly step: 'start' | 'tune' | 'open-ok';
  /** What the server calls itself, once it has said so. */
  readonly product?: unknown;
}

/** The product of our own broker. */
export const EMBEDDED_PRODUCT = 'nest-amqp embedded broker';

/** Behaviour of newer peers that this client understands (https://www.rabbitmq.com/docs/connections#capabilities). */
const CAPABILITIES: FieldTable = {
  publisher_confirms: true,
  exchange_exchange_bindings: true,
  'basic.nack': true,
  consumer_cancel_notify: true,
  'connection.blocked': true,
  // Without it RabbitMQ answers a wrong password by hanging up, without a word.
  authentication_failure_close: true,
};

/** Runs the handshake; `reached` is told of every step. */
export async function shakeHands(
  line: HandshakeLine,
  options: ResolvedConnectionOptions,
  reached: (progress: HandshakeProgress) => void,
): Promise<Negotiated> {
  reached({ step: 'start' });
  line.sendRaw(PROTOCOL_HEADER);
  const start = await expect(line, 'connection.start');
  if (start.versionMajor !== 0 || start.versionMinor !== 9) {
    throw versionMismatch(options, `${start.versionMajor}-${start.versionMinor}`);
  }

  const mechanism = chooseMechanism(options.mechanisms, String(start.mechanisms));
  const { product } = start.serverProperties;
  reached({ step: 'tune', product });
  line.send('connection.start-ok', {
    clientProperties: clientProperties(options),
    mechanism: mechanism.name,
    response: await responseOf(mechanism, () => mechanism.respond(options.credentials)),
    locale: 'en_US',
  });

  const tune = await tuneAfterChallenges(line, mechanism, options);
  const negotiated: Negotiated = {
    serverProperties: start.serverProperties,
    // A channel number has 16 bits, and 0 is the connection itself.
    channelMax: smallerLimit(tune.channelMax, options.channelMax) || 65_535,
    frameMax: frameMax(tune.frameMax, options),
    proposedFrameMax: tune.frameMax,
    heartbeat: smallerHeartbeat(tune.heartbeat, options.heartbeat),
  };
  reached({ step: 'open-ok', product });
  line.send('connection.tune-ok', negotiated);
  line.send('connection.open', { virtualHost: options.vhost });
  await expect(line, 'connection.open-ok');
  return negotiated;
}

/** What a mechanism says; one of the user's own may throw. */
async function responseOf(
  { name }: SaslMechanism,
  respond: () => Uint8Array | Promise<Uint8Array> | undefined,
): Promise<Uint8Array> {
  try {
    return (await respond()) ?? Buffer.alloc(0);
  } catch (cause) {
    throw new AmqpError(
      'CREDENTIALS_FAILED',
      `The mechanism ${printable(name, 40)} failed to respond. ${toldOf(cause)}`,
      { cause },
    );
  }
}

/** Answers challenges until the server has seen enough. */
async function tuneAfterChallenges(
  line: HandshakeLine,
  mechanism: SaslMechanism,
  { credentials }: ResolvedConnectionOptions,
): Promise<MethodArgs<'connection.tune'>> {
  for (;;) {
    const method = await line.receive();
    if (method.name !== 'connection.secure') return argsOf(method, 'connection.tune');
    if (mechanism.answer === undefined) {
      throw new AmqpError(
        'AUTHENTICATION_FAILED',
        `The broker sent a challenge, and the mechanism ${printable(mechanism.name, 40)} has no answer to it. Choose another mechanism.`,
      );
    }
    const { challenge } = method.args;
    const response = await responseOf(mechanism, () => mechanism.answer?.(Buffer.from(challenge), credentials));
    line.send('connection.secure-ok', { response });
  }
}

async function expect<N extends MethodName>(line: HandshakeLine, name: N): Promise<MethodArgs<N>> {
  return argsOf(await line.receive(), name);
}

function argsOf<N extends MethodName>(method: Method, name: N): MethodArgs<N> {
  if (method.name === name) return method.args as MethodArgs<N>;
  throw new ProtocolError(503, `The peer sent ${method.name} where ${name} had to come.`, { method: method.name });
}

function clientProperties(options: ResolvedConnectionOptions): FieldTable {
  return {
    product: 'nest-amqp',
    version: VERSION,
    platform: `Node.js ${process.version}`,
    ...options.clientProperties,
    ...(options.connectionName === undefined ? {} : { connection_name: options.connectionName }),
    capabilities: CAPABILITIES,
  };
}

/** The smaller of two limits, where 0 is no limit. */
function smallerLimit(theirs: number, ours: number): number {
  return theirs === 0 || ours === 0 ? Math.max(theirs, ours) : Math.min(theirs, ours);
}

/** For heartbeats 0 is not "no limit" but "I do not want any", and one such wish is enough for both. */
function smallerHeartbeat(theirs: number, ours: number): number {
  return Math.min(theirs, ours);
}

function frameMax(theirs: number, options: ResolvedConnectionOptions): number {
  if (theirs !== 0 && theirs < FRAME_MIN_SIZE) {
    throw new ProtocolError(
      501,
      `The broker proposed frames of ${theirs} bytes; AMQP asks for ${FRAME_MIN_SIZE} or more.`,
    );
  }
  return smallerLimit(theirs, options.frameMax);
}

/** The bytes of a peer that opened with something else than a method frame, as an error that says what it is. */
export function strangeGreeting(bytes: Buffer, options: ResolvedConnectionOptions): AmqpError | undefined {
  if (bytes.length === 0 || bytes[0] === 1) return undefined;
  const where = addressOf(options);
  if (bytes.subarray(0, 4).equals(Buffer.from('AMQP'.slice(0, bytes.length)))) {
    return bytes.length < 8 ? undefined : versionMismatch(options, [...bytes.subarray(5, 8)].join('-'));
  }
  // A TLS alert record: type 21, version 3.x.
  if (bytes[0] === 21 && (bytes[1] ?? 3) === 3) {
    return new AmqpError(
      'NOT_AMQP',
      `${where} answered with TLS. Use amqps:// for this port, or the port without TLS.`,
    );
  }
  const said = printable(bytes.toString('latin1', 0, 40));
  return new AmqpError(
    'NOT_AMQP',
    `${where} does not speak AMQP; it said '${said}'. Correct the host and port (AMQP's is 5672).`,
  );
}

function versionMismatch(options: ResolvedConnectionOptions, theirs: string): AmqpError {
  return new AmqpError(
    'VERSION_MISMATCH',
    `${addressOf(options)} speaks AMQP ${printable(theirs, 20)}; this client speaks 0-9-1. ` +
      'Connect to a RabbitMQ, or to a port where the broker has AMQP 0-9-1 enabled.',
  );
}

/** The error for a connection that ended before open-ok, in terms of what had been asked. */
export function handshakeEnded(
  { step, product }: HandshakeProgress,
  options: ResolvedConnectionOptions,
  cause: AmqpError,
): AmqpError {
  const where = addressOf(options);
  const user = printable(options.credentials.username, 80);
  const facts = { ...factsOf(cause), cause };
  if (cause.code !== 'CONNECTION_CLOSED' && cause.code !== 'CONNECTION_LOST') return cause;
  const silent = cause.replyCode === undefined;
  switch (step) {
    case 'start':
      return new AmqpError(
        'NOT_AMQP',
        `${where} closed the connection before the AMQP handshake. It may be another service, a broker that expects TLS ` +
          '(use amqps://), or a proxy without a broker behind it.',
        facts,
      );
    case 'tune':
      if (!silent && cause.replyCode !== 403) return cause;
      return new AmqpError(
        'AUTHENTICATION_FAILED',
        `${where} refused the user '${user}'${silent ? ' by hanging up' : ''}. Check the user name and the password; ` +
          (product === EMBEDDED_PRODUCT
            ? 'the embedded broker knows those of its option users.'
            : "RabbitMQ accepts the user 'guest' from the same machine only."),
        facts,
      );
    case 'open-ok':
      // 530 is also RabbitMQ's answer to limits and to tuning that it does not accept.
      if (!silent && !/vhost/.test(cause.replyText ?? '')) return cause;
      return new AmqpError(
        'VHOST_REFUSED',
        `${where} refused the virtual host '${printable(options.vhost)}' to the user '${user}'` +
          `${silent ? ' by hanging up' : ` (${cause.replyCode} ${printable(cause.replyText ?? '')})`}. ` +
          (product === EMBEDDED_PRODUCT
            ? 'The embedded broker has those of its option virtualHosts: name it there, or correct the vhost of the client.'
            : 'Create it (rabbitmqctl add_vhost), or give the user permissions on it (rabbitmqctl set_permissions).'),
        facts,
      );
  }
}
