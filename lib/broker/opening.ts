/**
 * The broker's half of the handshake, from start to open-ok (specification, section 2.2.4). The client's half is drawn in
 * lib/client/handshake.
 *
 * Mistakes before open end the connection without a word, as with RabbitMQ, which only waits three seconds before it does.
 * Two are told: a wrong password, to clients that announce `authentication_failure_close`, and an unknown virtual host.
 */
import type { FieldTable } from '../protocol/field-table.js';
import { FRAME_MIN_SIZE } from '../protocol/frame.js';
import type { Method, MethodArgs, MethodName } from '../protocol/methods.js';
import { VERSION } from '../version.js';
import { BrokerError } from './broker-error.js';
import { BlamedError } from './closing.js';
import { MECHANISMS, type Users } from './users.js';
import type { VirtualHost } from './virtual-host.js';

const CHANNEL_MAX = 2047;
const FRAME_MAX = 131_072;
/** Seconds. */
const HEARTBEAT = 60;

const SERVER_PROPERTIES: FieldTable = {
  capabilities: {
    publisher_confirms: true,
    exchange_exchange_bindings: true,
    'basic.nack': true,
    consumer_cancel_notify: true,
    'connection.blocked': true,
    consumer_priorities: true,
    authentication_failure_close: true,
    per_consumer_qos: true,
    direct_reply_to: true,
  },
  cluster_name: 'nest-amqp@embedded',
  platform: `Node.js ${process.version}`,
  product: 'nest-amqp embedded broker',
  version: VERSION,
};

/** What the client said of itself, and what both agreed on. */
export interface Opened {
  readonly user: string;
  readonly virtualHost: VirtualHost;
  readonly clientProperties: FieldTable;
  readonly channelMax: number;
  readonly frameMax: number;
  /** Seconds. */
  readonly heartbeat: number;
}

/** Who has logged in. */
type LoggedIn = Pick<Opened, 'user' | 'clientProperties'>;

/** How far it came, with what is known by then. */
type Step =
  | { readonly awaits: 'connection.start-ok' }
  | { readonly awaits: 'connection.tune-ok'; readonly login: LoggedIn }
  | { readonly awaits: 'connection.open'; readonly login: LoggedIn; readonly tuning: MethodArgs<'connection.tune-ok'> };

/** What the handshake needs of a connection. */
interface OpeningLine {
  method<N extends MethodName>(channel: number, name: N, args: MethodArgs<N>): void;
}

/** The peer made a mistake that is not told. */
export class OpeningRefused extends Error {
  override readonly name = 'OpeningRefused';
}

export class Opening {
  readonly #line: OpeningLine;
  readonly #users: Users;
  readonly #virtualHosts: ReadonlyMap<string, VirtualHost>;
  #step: Step = { awaits: 'connection.start-ok' };

  constructor(line: OpeningLine, users: Users, virtualHosts: ReadonlyMap<string, VirtualHost>) {
    this.#line = line;
    this.#users = users;
    this.#virtualHosts = virtualHosts;
  }

  /** The client has sent its protocol header. */
  start(): void {
    this.#line.method(0, 'connection.start', {
      versionMajor: 0,
      versionMinor: 9,
      serverProperties: SERVER_PROPERTIES,
      mechanisms: MECHANISMS,
      locales: 'en_US',
    });
  }

  /** The next method; returns what was agreed on when it was the last one. Throws `BrokerError`, `BlamedError` or `OpeningRefused`. */
  receive(method: Method): Opened | undefined {
    const step = this.#step;
    if (method.name === 'connection.start-ok' && step.awaits === method.name) {
      this.#step = { awaits: 'connection.tune-ok', login: this.#login(method.args) };
    } else if (method.name === 'connection.tune-ok' && step.awaits === method.name) {
      checkTuning(method.args);
      this.#step = { awaits: 'connection.open', login: step.login, tuning: method.args };
    } else if (method.name === 'connection.open' && step.awaits === method.name) {
      const virtualHost = this.#enter(method.args.virtualHost);
      const { channelMax, frameMax, heartbeat } = step.tuning;
      return { ...step.login, virtualHost, channelMax, frameMax, heartbeat };
    } else {
      throw new OpeningRefused();
    }
    return undefined;
  }

  #login({ mechanism, response, clientProperties }: MethodArgs<'connection.start-ok'>): LoggedIn {
    const outcome = this.#users.login(mechanism, Buffer.from(response));
    if ('user' in outcome) {
      this.#line.method(0, 'connection.tune', { channelMax: CHANNEL_MAX, frameMax: FRAME_MAX, heartbeat: HEARTBEAT });
      return { user: outcome.user, clientProperties };
    }
    if ('nonsense' in outcome || !hasCapability(clientProperties, 'authentication_failure_close')) {
      throw new OpeningRefused();
    }
    const text = `Login was refused using authentication mechanism ${mechanism}. For details see the broker logfile.`;
    throw new BlamedError(undefined, new BrokerError('connection', 403, `ACCESS_REFUSED - ${text}`));
  }

  #enter(name: string): VirtualHost {
    const virtualHost = this.#virtualHosts.get(name);
    if (virtualHost === undefined) {
      throw new BrokerError('connection', 530, `NOT_ALLOWED - vhost ${name} not found`);
    }
    this.#line.method(0, 'connection.open-ok', {});
    return virtualHost;
  }
}

/** The client may ask for less than was proposed, and not for "no limit". */
function checkTuning({ channelMax, frameMax }: MethodArgs<'connection.tune-ok'>): void {
  if (channelMax === 0 || channelMax > CHANNEL_MAX) throw new OpeningRefused();
  if (frameMax < FRAME_MIN_SIZE || frameMax > FRAME_MAX) throw new OpeningRefused();
}

/** Whether a client announced that it understands something. */
export function hasCapability({ capabilities }: FieldTable, name: string): boolean {
  return typeof capabilities === 'object' && (capabilities as FieldTable | null)?.[name] === true;
}
