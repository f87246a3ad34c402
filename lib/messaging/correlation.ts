/**
 * What goes from a delivery to what is published while it is handled, so that a chain of messages can be followed. Which handler
 * runs, and how a message is sent, is decided elsewhere.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { itIs } from '../client/option-names.js';
import { AmqpError } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { Delivery } from './delivery.js';
import type { PublisherOptions } from './publish-options.js';

const CORRELATION_HEADER = 'x-correlation-id';

/** The delivery that is being handled where this is asked. */
const handled = new AsyncLocalStorage<Delivery>();

/** What a publish can say of itself, as far as it is carried. */
interface Carried {
  readonly correlationId?: string | undefined;
  readonly headers?: FieldTable | undefined;
}

/** The handler, so that what is published while it runs knows the delivery; as it is where nothing is carried. */
export function handlingWith(
  carry: PublisherOptions['carry'] = false,
  handler: (delivery: Delivery) => unknown,
): (delivery: Delivery) => unknown {
  return carry === false ? handler : (delivery) => handled.run(delivery, handler, delivery);
}

export class Correlation {
  readonly #headers: readonly string[];

  /** Undefined where nothing is carried. Throws `INVALID_OPTION`. */
  static of(carry: PublisherOptions['carry'] = false): Correlation | undefined {
    if (carry === false) return undefined;
    if (carry === true) return new Correlation([]);
    if (Array.isArray(carry) && carry.every((name) => typeof name === 'string')) return new Correlation(carry);
    throw new AmqpError(
      'INVALID_OPTION',
      `publisher.carry has to be true, false, or a list of names of headers${itIs(carry)}`,
    );
  }

  private constructor(headers: readonly string[]) {
    this.#headers = [CORRELATION_HEADER, ...headers];
  }

  /** The options of a publish, with what is carried to it. What they say themselves counts. */
  carriedTo<Options extends Carried>(options: Options | undefined): Options | undefined {
    const delivery = handled.getStore();
    if (delivery === undefined) return options;
    const headers = this.#headersOf(delivery, options);
    const correlationId = options?.correlationId ?? delivery.properties.correlationId;
    if (correlationId === undefined && headers === undefined) return options;
    // Of the caller's type: only what that type has is added to.
    return {
      ...options,
      ...(correlationId === undefined ? {} : { correlationId }),
      ...(headers === undefined ? {} : { headers }),
    } as Options;
  }

  /** As `carriedTo`, for a request: its correlation id is its own, which tells its reply from others. */
  carriedToRequest<Options extends Carried>(options: Options): Options {
    const delivery = handled.getStore();
    const headers = delivery === undefined ? undefined : this.#headersOf(delivery, options);
    return headers === undefined ? options : { ...options, headers };
  }

  /** The headers of a publish with those that are carried; undefined when there is none to carry. */
  #headersOf({ headers: given }: Delivery, options: Carried | undefined): FieldTable | undefined {
    const names = this.#headers.filter((name) => given[name] !== undefined && options?.headers?.[name] === undefined);
    if (names.length === 0) return undefined;
    return { ...options?.headers, ...Object.fromEntries(names.map((name) => [name, given[name]])) };
  }
}
