/** An exchange: its kind, its bindings, and which of them a message follows. What else becomes of it is `virtual-host`'s. */
import type { FieldTable } from '../protocol/field-table.js';
import type { BrokerMessage } from './broker-message.js';
import { type ExchangeType, type Router, newRouter } from './exchange-routers.js';
import type { MessageQueue } from './message-queue.js';

export interface Binding {
  readonly source: Exchange;
  readonly destination: MessageQueue | Exchange;
  readonly routingKey: string;
  readonly arguments: FieldTable;
}

interface ExchangeProperties {
  readonly name: string;
  readonly type: ExchangeType;
  readonly durable: boolean;
  readonly autoDelete: boolean;
  readonly internal: boolean;
  readonly arguments: FieldTable;
}

export class Exchange {
  readonly name: string;
  readonly type: ExchangeType;
  readonly durable: boolean;
  /** It goes with the last of the bindings that lead out of it. */
  readonly autoDelete: boolean;
  /** Nobody may publish to it: messages come from other exchanges, and as dead letters. */
  readonly internal: boolean;
  readonly arguments: FieldTable;
  readonly #router: Router;

  constructor({ name, type, durable, autoDelete, internal, arguments: args }: ExchangeProperties) {
    this.name = name;
    this.type = type;
    this.durable = durable;
    this.autoDelete = autoDelete;
    this.internal = internal;
    this.arguments = args;
    this.#router = newRouter(type);
  }

  /** Where messages go that follow none of its bindings. */
  get alternate(): string | undefined {
    const alternate = this.arguments['alternate-exchange'];
    return typeof alternate === 'string' ? alternate : undefined;
  }

  /** @internal By `Bindings` alone. */
  add(binding: Binding): void {
    this.#router.add(binding);
  }

  /** @internal By `Bindings` alone. */
  remove(binding: Binding): void {
    this.#router.remove(binding);
  }

  /** The bindings that the message follows, for one of its routing keys. To be read before the next change. */
  follow(key: string, message: BrokerMessage): Iterable<Binding> {
    return this.#router.follow(key, message);
  }

  /** False when one key is as good as all of a message's keys. */
  get heedsKeys(): boolean {
    return this.type === 'direct' || this.type === 'topic';
  }
}
