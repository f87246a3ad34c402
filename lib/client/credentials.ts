/**
 * User name and password, kept from printing, and how the SASL mechanisms write them. Asking for them anew is left to
 * whoever connects.
 */
import { inspect } from 'node:util';
import { AmqpError, printable } from '../errors.js';
import { writeTable } from '../protocol/field-table.js';
import { WireWriter } from '../protocol/wire.js';
import { toldOf } from './option-names.js';
import { orLate } from './wait.js';

/** What a user gives to log in with. */
export interface UserCredentials {
  readonly username: string;
  /** Or the token, with OAuth 2. */
  readonly password: string;
  /** When they stop being good, for those that do: new ones are asked for before that, and sent with update-secret. */
  readonly expiresAt?: Date | undefined;
}

/** Asked on every attempt to connect, for at most `connectTimeout`, and before credentials expire. */
export type CredentialsProvider = () => UserCredentials | Promise<UserCredentials>;

/** A SASL mechanism of one's own. */
export interface SaslMechanism {
  /** As the broker offers it. */
  readonly name: string;
  /** The first response, in connection.start-ok. */
  respond(credentials: UserCredentials): Uint8Array;
  /** The answer to connection.secure, for mechanisms with further challenges. */
  answer?(challenge: Uint8Array, credentials: UserCredentials): Uint8Array | Promise<Uint8Array>;
}

/** The SASL mechanisms that this client speaks (https://www.rabbitmq.com/docs/access-control#mechanisms), or one of your own. */
export type Mechanism = 'PLAIN' | 'AMQPLAIN' | 'EXTERNAL' | SaslMechanism;

/** Credentials that neither `console.log`, `util.inspect` nor `JSON.stringify` shows. */
export class Credentials implements UserCredentials {
  readonly username: string;
  readonly expiresAt: Date | undefined;
  readonly #password: string;

  constructor(username: string, password: string, expiresAt?: Date) {
    this.username = username;
    this.#password = password;
    this.expiresAt = expiresAt;
  }

  get password(): string {
    return this.#password;
  }

  toJSON(): object {
    return { username: this.username, password: '***' };
  }

  [inspect.custom](): object {
    return this.toJSON();
  }
}

const MECHANISMS: Record<Extract<Mechanism, string>, SaslMechanism> = {
  PLAIN: {
    name: 'PLAIN',
    // RFC 4616: an empty authorisation identity, then the name and the password, each after a zero octet.
    respond: ({ username, password }) => Buffer.from(`\0${username}\0${password}`),
  },
  AMQPLAIN: {
    name: 'AMQPLAIN',
    // RabbitMQ's older mechanism: a field table without its length.
    respond: ({ username, password }) => {
      const writer = new WireWriter(512);
      writeTable(writer, { LOGIN: username, PASSWORD: password }, 'credentials');
      return writer.take().subarray(4);
    },
  },
  EXTERNAL: {
    name: 'EXTERNAL',
    // The client's certificate says who it is.
    respond: () => Buffer.alloc(0),
  },
};

export function isMechanismName(value: unknown): value is Extract<Mechanism, string> {
  return typeof value === 'string' && Object.hasOwn(MECHANISMS, value);
}

/** The first of `wanted` that the server offers (`offered` is its space-separated list). Throws `AUTHENTICATION_FAILED`. */
export function chooseMechanism(wanted: readonly Mechanism[], offered: string): SaslMechanism {
  const available = offered.split(' ');
  const known = wanted.map((mechanism) => (typeof mechanism === 'string' ? MECHANISMS[mechanism] : mechanism));
  const chosen = known.find(({ name }) => available.includes(name));
  if (chosen !== undefined) return chosen;
  throw new AmqpError(
    'AUTHENTICATION_FAILED',
    `The broker offers the authentication mechanisms ${printable(available.join(', '))}, and none of ` +
      `${known.map(({ name }) => name).join(', ')}. Enable one of them on the broker (auth_mechanisms), or set the option mechanism.`,
  );
}

/** `askFor`, for so many milliseconds. Rejects with `CREDENTIALS_FAILED`, or with the signal's reason. */
export async function askWithin(
  limit: number,
  provider: CredentialsProvider,
  signal: AbortSignal | undefined,
): Promise<Credentials> {
  const late = (): AmqpError =>
    new AmqpError(
      'CREDENTIALS_FAILED',
      `The provider of credentials gave no answer within ${limit} ms (connectTimeout). It is asked again on the next attempt.`,
    );
  return await orLate(askFor(provider), limit, late, signal);
}

/** What a provider gives, kept from printing. Rejects with `CREDENTIALS_FAILED`. */
export async function askFor(provider: CredentialsProvider): Promise<Credentials> {
  try {
    const { username, password, expiresAt } = await provider();
    if (typeof username === 'string' && typeof password === 'string')
      return new Credentials(username, password, expiresAt);
  } catch (cause) {
    throw new AmqpError(
      'CREDENTIALS_FAILED',
      `The provider of credentials failed. ${toldOf(cause)} It is asked again on the next attempt.`,
      { cause },
    );
  }
  throw new AmqpError(
    'CREDENTIALS_FAILED',
    'The provider of credentials has to return an object with username and password.',
  );
}
