/** The kinds of exchanges: for each of them, which bindings a message follows. */
import { types } from 'node:util';
import { AmqpError } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import { fieldTypeOf, isSameValue, printed } from './argument-values.js';
import { internalError, preconditionFailed } from './broker-error.js';
import type { BrokerMessage } from './broker-message.js';
import type { Binding } from './exchange.js';
import { TopicPatterns } from '../protocol/topic-pattern.js';

export interface Router {
  /** Of a binding that is not there yet. */
  add(binding: Binding): void;
  remove(binding: Binding): void;
  follow(key: string, message: BrokerMessage): Iterable<Binding>;
}

const ROUTERS = {
  direct: (): Router => new DirectRouter(),
  fanout: (): Router => new FanoutRouter(),
  topic: (): Router => new TopicRouter(),
  headers: (): Router => new HeadersRouter(),
};

export type ExchangeType = keyof typeof ROUTERS;

export function isExchangeType(type: string): type is ExchangeType {
  return Object.hasOwn(ROUTERS, type);
}

export function newRouter(type: ExchangeType): Router {
  return ROUTERS[type]();
}

const NONE: readonly Binding[] = [];

class DirectRouter implements Router {
  readonly #byKey = new Map<string, Set<Binding>>();

  add(binding: Binding): void {
    const bindings = this.#byKey.get(binding.routingKey);
    if (bindings === undefined) this.#byKey.set(binding.routingKey, new Set([binding]));
    else bindings.add(binding);
  }

  remove(binding: Binding): void {
    const bindings = this.#byKey.get(binding.routingKey);
    if (bindings?.delete(binding) === true && bindings.size === 0) this.#byKey.delete(binding.routingKey);
  }

  follow(key: string): Iterable<Binding> {
    return this.#byKey.get(key) ?? NONE;
  }
}

class FanoutRouter implements Router {
  readonly #bindings = new Set<Binding>();

  add(binding: Binding): void {
    this.#bindings.add(binding);
  }

  remove(binding: Binding): void {
    this.#bindings.delete(binding);
  }

  follow(): Iterable<Binding> {
    return this.#bindings;
  }
}

/** So many routing keys are remembered: most publishers use few, and walking the patterns costs ten times as much. */
const REMEMBERED_KEYS = 1000;

class TopicRouter implements Router {
  readonly #patterns = new TopicPatterns<Binding>();
  readonly #seen = new Map<string, readonly Binding[]>();

  add(binding: Binding): void {
    this.#patterns.add(binding.routingKey, binding);
    this.#seen.clear();
  }

  remove(binding: Binding): void {
    this.#patterns.delete(binding.routingKey, binding);
    this.#seen.clear();
  }

  follow(key: string): Iterable<Binding> {
    let bindings = this.#seen.get(key);
    if (bindings === undefined) {
      bindings = this.#patterns.match(key);
      if (this.#seen.size >= REMEMBERED_KEYS) this.#seen.clear();
      this.#seen.set(key, bindings);
    }
    return bindings;
  }
}

class HeadersRouter implements Router {
  readonly #matches = new Map<Binding, HeadersMatch>();

  add(binding: Binding): void {
    this.#matches.set(binding, headersMatch(binding.arguments));
  }

  remove(binding: Binding): void {
    this.#matches.delete(binding);
  }

  *follow(_key: string, message: BrokerMessage): Iterable<Binding> {
    const headers = headersOf(message);
    for (const [binding, matches] of this.#matches) if (matches(headers)) yield binding;
  }
}

function headersOf(message: BrokerMessage): FieldTable {
  try {
    return message.properties.headers ?? {};
  } catch (error) {
    if (error instanceof AmqpError) throw internalError('the headers of the message cannot be parsed');
    throw error;
  }
}

type HeadersMatch = (headers: FieldTable) => boolean;

/**
 * `x-match` says whether all of a binding's arguments have to be among the headers or any one of them; arguments whose names
 * begin with `x-` count only with `-with-x`. An argument without a value (void) asks for a header of that name alone.
 */
function headersMatch(args: FieldTable): HeadersMatch {
  const mode = args['x-match'] ?? 'all';
  const withX = mode === 'all-with-x' || mode === 'any-with-x';
  const wanted = Object.entries(args).filter(([name]) => name !== 'x-match' && (withX || !name.startsWith('x-')));
  const isMet =
    (headers: FieldTable) =>
    ([name, value]: (typeof wanted)[number]): boolean =>
      headers[name] !== undefined && (value === null || isSameValue(value, headers[name]));
  const isAny = mode === 'any' || mode === 'any-with-x';
  return isAny ? (headers) => wanted.some(isMet(headers)) : (headers) => wanted.every(isMet(headers));
}

const MATCHES: readonly unknown[] = ['all', 'any', 'all-with-x', 'any-with-x'];

/** Throws 406 for arguments that a binding of such an exchange cannot have. */
export function checkBindingArguments(type: ExchangeType, args: FieldTable): void {
  const match = args['x-match'];
  if (type !== 'headers' || match === undefined || MATCHES.includes(match)) return;
  throw preconditionFailed(
    typeof match === 'string' || types.isUint8Array(match)
      ? `Invalid x-match field value <<"${printed(match)}">>; expected all, any, all-with-x, or any-with-x`
      : `Invalid x-match field type ${fieldTypeOf(match)} (value ${printed(match)}); expected longstr`,
  );
}
