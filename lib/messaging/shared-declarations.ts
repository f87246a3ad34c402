/**
 * Declarations that are made on demand, while the application runs: each on a channel of its own, and those of one thing one after
 * another. What is declared is said by who asks.
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import type { Channel } from '../client/channel.js';

/** A declaration under way, and the one after it. */
interface Declaring {
  done: Promise<unknown>;
  following: Promise<void> | undefined;
}

export class SharedDeclarations {
  readonly #connection: AmqpConnection;
  readonly #declaring = new Map<string, Declaring>();

  constructor(connection: AmqpConnection) {
    this.#connection = connection;
  }

  /** `alone`, `shared` under that name. */
  async declare(name: string, work: (channel: Channel) => Promise<unknown>): Promise<void> {
    await this.shared(name, () => this.alone(work));
  }

  /** On a channel of its own, which the broker closes over what it refuses. */
  async alone(work: (channel: Channel) => Promise<unknown>): Promise<void> {
    const connection = await this.#connection.opened();
    const channel = await connection.channel();
    try {
      await work(channel);
    } finally {
      void channel.close();
    }
  }

  /**
   * One declaration at a time for all who ask meanwhile. Who asks while one is under way gets the next: a declaration that began
   * before does not say what is so now.
   */
  async shared(name: string, declare: () => Promise<void>): Promise<void> {
    const current = this.#declaring.get(name);
    if (current !== undefined) {
      current.following ??= current.done.then(() => this.#begin(name, declare));
      await current.following;
    } else {
      await this.#begin(name, declare);
    }
  }

  #begin(name: string, declare: () => Promise<void>): Promise<void> {
    const declared = declare();
    const entry: Declaring = { done: Promise.resolve(), following: undefined };
    const over = (): void => {
      if (entry.following === undefined) this.#declaring.delete(name);
    };
    entry.done = declared.then(over, over);
    this.#declaring.set(name, entry);
    return declared;
  }
}
