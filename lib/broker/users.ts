/** Who may log in to the embedded broker, and what the SASL mechanisms PLAIN and AMQPLAIN say of it. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { inspect } from 'node:util';
import { readTable } from '../protocol/field-table.js';
import { WireReader, WireWriter } from '../protocol/wire.js';

/** As connection.start offers them. */
export const MECHANISMS = 'PLAIN AMQPLAIN';

interface Login {
  readonly username: string;
  readonly password: string;
}

/** What a client said in start-ok; undefined when it does not make sense. Throws on nonsense, too. */
const READERS: Readonly<Record<string, (response: Buffer) => Login | undefined>> = {
  PLAIN: (response) => {
    // RFC 4616: whom to act for, a zero octet, the name, a zero octet, the password.
    const parts = response.toString().split('\0');
    return parts.length === 3 ? { username: parts[1] as string, password: parts[2] as string } : undefined;
  },
  AMQPLAIN: (response) => {
    // A field table without its length.
    const writer = new WireWriter(response.length + 4);
    writer.long(response.length);
    writer.bytes(response);
    const { LOGIN: username, PASSWORD: password } = readTable(new WireReader(writer.take()));
    return typeof username === 'string' && typeof password === 'string' ? { username, password } : undefined;
  },
};

/** The outcome of a login: the user, or who was refused, or that the peer talks nonsense. */
type LoginOutcome = { readonly user: string } | { readonly refused: true } | { readonly nonsense: string };

export class Users {
  /** Digests, so that a comparison takes as long for every password. */
  readonly #passwords = new Map<string, Buffer>();
  readonly #first: readonly [username: string, password: string];

  /** Passwords by user name; at least one. */
  constructor(passwords: Readonly<Record<string, string>>) {
    const entries = Object.entries(passwords);
    this.#first = entries[0] as [string, string];
    for (const [name, password] of entries) this.#passwords.set(name, digest(password));
  }

  /** The user that the options name first. */
  get first(): { readonly username: string; readonly password: string } {
    const [username, password] = this.#first;
    return { username, password };
  }

  /** What stands in a URL before the host: the first user's name and password. */
  get urlCredentials(): string {
    return this.#first.map(encodeURIComponent).join(':');
  }

  login(mechanism: string, response: Buffer): LoginOutcome {
    const read = Object.hasOwn(READERS, mechanism) ? READERS[mechanism] : undefined;
    if (read === undefined) return { nonsense: 'unknown authentication mechanism' };
    let login: Login | undefined;
    try {
      login = read(response);
    } catch {
      login = undefined;
    }
    if (login === undefined) return { nonsense: 'response is no login' };
    const known = this.#passwords.get(login.username);
    const isRight = timingSafeEqual(digest(login.password), known ?? digest(''));
    return known !== undefined && isRight ? { user: login.username } : { refused: true };
  }

  [inspect.custom](): object {
    return [...this.#passwords.keys()];
  }
}

function digest(password: string): Buffer {
  return createHash('sha256').update(password).digest();
}
