/** The exchanges of a virtual host by name: which are there from the start, and which may be declared and deleted. */
import { requireSame, requireSameArgument, fieldTypeOf } from './argument-values.js';
import { accessRefused, notFound, preconditionFailed } from './broker-error.js';
import { Exchange } from './exchange.js';
import { type ExchangeType, isExchangeType } from './exchange-routers.js';
import type { ExchangeDeclaration } from './declarations.js';

/** Where RabbitMQ sends what passes through it, once `rabbitmqctl trace_on` has been run: here never anything. */
const TRACE = 'amq.rabbitmq.trace';

const PREDECLARED: readonly (readonly [name: string, type: ExchangeType])[] = [
  ['', 'direct'],
  ['amq.direct', 'direct'],
  ['amq.fanout', 'fanout'],
  ['amq.headers', 'headers'],
  ['amq.match', 'headers'],
  [TRACE, 'topic'],
  ['amq.topic', 'topic'],
];

export class Exchanges {
  readonly #virtualHost: string;
  readonly #byName = new Map<string, Exchange>();

  constructor(virtualHost: string) {
    this.#virtualHost = virtualHost;
    for (const [name, type] of PREDECLARED) {
      const internal = name === TRACE;
      const properties = { name, type, durable: true, autoDelete: false, internal, arguments: {} };
      this.#byName.set(name, new Exchange(properties));
    }
  }

  get(name: string): Exchange | undefined {
    return this.#byName.get(name);
  }

  /** Throws 404. */
  require(name: string): Exchange {
    const exchange = this.#byName.get(name);
    if (exchange === undefined) throw notFound(`no ${this.#nameOf(name)}`);
    return exchange;
  }

  declare(declaration: ExchangeDeclaration): void {
    const { name, type } = declaration;
    this.refuseDefault(name);
    if (declaration.passive) {
      this.require(name);
      return;
    }
    if (!isExchangeType(type)) throw preconditionFailed(`invalid exchange type '${type}'`);
    const current = this.#byName.get(name);
    if (current === undefined) this.#create({ ...declaration, type });
    else this.#requireSame(declaration, current);
  }

  /** The exchange that may be deleted, if there is one. */
  deletable(name: string): Exchange | undefined {
    this.refuseDefault(name);
    if (name.startsWith('amq.')) throw accessRefused(`deletion of system ${this.#nameOf(name)} not allowed`);
    return this.#byName.get(name);
  }

  /** Its bindings are the caller's to remove. */
  delete(exchange: Exchange): void {
    this.#byName.delete(exchange.name);
  }

  /** Throws 403 for the default exchange: nobody declares, binds or deletes it. */
  refuseDefault(name: string): void {
    if (name === '') throw accessRefused('operation not permitted on the default exchange');
  }

  [Symbol.iterator](): Iterator<Exchange> {
    return this.#byName.values();
  }

  #create(declaration: ExchangeDeclaration & { readonly type: ExchangeType }): void {
    const { name, arguments: args } = declaration;
    if (name.startsWith('amq.')) throw accessRefused(`exchange name '${name}' contains reserved prefix 'amq.*'`);
    const alternate = args['alternate-exchange'];
    if (alternate !== undefined && typeof alternate !== 'string') {
      const type = fieldTypeOf(alternate);
      throw preconditionFailed(`invalid type '${type}' for arg 'alternate-exchange' in ${this.#nameOf(name)}`);
    }
    this.#byName.set(name, new Exchange(declaration));
  }

  #requireSame(declaration: ExchangeDeclaration, current: Exchange): void {
    const of = this.#nameOf(current.name);
    requireSame('type', of, declaration.type, current.type);
    requireSame('durable', of, declaration.durable, current.durable);
    requireSame('auto_delete', of, declaration.autoDelete, current.autoDelete);
    requireSame('internal', of, declaration.internal, current.internal);
    requireSameArgument('alternate-exchange', of, declaration.arguments, current.arguments);
  }

  #nameOf(name: string): string {
    return `exchange '${name}' in vhost '${this.#virtualHost}'`;
  }
}
