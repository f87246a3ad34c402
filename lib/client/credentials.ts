/**
 * User name and password, kept from printing, and how the SASL mechanisms write them. Asking for them anew is left to
 * whoever connects.
 */
import { inspect } from 'node:util';
import { AmqpError } from '../errors.js';
import { writeTable } from '../protocol/field-table.js';
import { WireWriter } from '../protocol/wire.js';

/** What a user gives to log in with. */
export interface UserCredentials {
  readonly username: string;
  readonly password: string;
}

/** The SASL mechanisms that this client speaks (https://www.rabbitmq.com/docs/access-control#mechanisms). */
export type Mechanism = 'PLAIN' | 'AMQPLAIN';

/** Credentials that neither `console.log`, `util.inspect` nor `JSON.stringify` shows. */
export class Credentials implements UserCredentials {
  readonly username: string;
  readonly #password: string;

  constructor(username: string, password: string) {
    this.username = username;
    this.#password = password;
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

const MECHANISMS: Record<Mechanism, (credentials: UserCredentials) => Buffer> = {
  // RFC 4616: an empty authorisation identity, then the name and the password, each after a zero octet.
  PLAIN: ({ username, password }) => Buffer.from(`\0${username}\0${password}`),
  // RabbitMQ's older mechanism: a field table without its length.
  AMQPLAIN: ({ username, password }) => {
    const writer = new WireWriter(512);
    writeTable(writer, { LOGIN: username, PASSWORD: password }, 'credentials');
    return writer.take().subarray(4);
  },
};

/** The first of `wanted` that the server offers (`offered` is its space-separated list), with its response. */
export function authenticate(
  wanted: readonly Mechanism[],
  offered: string,
  credentials: UserCredentials,
): { readonly mechanism: Mechanism; readonly response: Buffer } {
  const available = offered.split(' ');
  const mechanism = wanted.find((name) => available.includes(name));
  if (mechanism === undefined) {
    throw new AmqpError(
      'AUTHENTICATION_FAILED',
      `The broker offers the authentication mechanisms ${available.join(', ')}, and none of ${wanted.join(', ')}. ` +
        'Enable one of them on the broker (auth_mechanisms), or set the option mechanism.',
    );
  }
  return { mechanism, response: MECHANISMS[mechanism](credentials) };
}
