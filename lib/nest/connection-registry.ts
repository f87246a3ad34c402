/**
 * The connections of an application by their names, each as the `AmqpModule` brings it that opens it. What is declared on them is
 * the `topology-registry`'s, what consumes over them the `consumer-registry`'s.
 */
import { Injectable } from '@nestjs/common';
import type { AmqpChannel } from '../client/amqp-channel.js';
import type { AmqpConnection } from '../client/amqp-connection.js';
import { AmqpError, quoted } from '../errors.js';
import type { ConnectionTopology } from '../messaging/connection-topology.js';
import type { Replier } from '../messaging/replier.js';
import type { ResolvedModuleOptions } from './amqp.options.js';

/** A connection that handlers and feature modules may name. */
export interface RegisteredConnection {
  readonly connection: AmqpConnection;
  /** What everything is published over; idle until something is. */
  readonly publishing: AmqpConnection;
  readonly options: ResolvedModuleOptions;
  readonly topology: ConnectionTopology;
  /** Where consumers publish what is tried again, or dead-lettered. */
  readonly channel: AmqpChannel;
  /** Where their replies are published. */
  readonly replier: Replier;
}

@Injectable()
export class ConnectionRegistry {
  readonly #connections = new Map<string, RegisteredConnection>();

  /** Throws `INVALID_DEFINITION` for a name that is taken. */
  add(name: string, registered: RegisteredConnection): void {
    if (this.#connections.has(name)) {
      throw new AmqpError(
        'INVALID_DEFINITION',
        `AmqpModule.forRoot is imported twice for the connection ${quoted(name)}. Import it once, or give the second a name of its own.`,
      );
    }
    this.#connections.set(name, registered);
  }

  /** Undefined where no `AmqpModule.forRoot` defines it. */
  find(name: string): RegisteredConnection | undefined {
    return this.#connections.get(name);
  }

  /** Throws `INVALID_DEFINITION` where no `AmqpModule.forRoot` defines it. `who` begins the sentence: `BillingConsumer.charge consumes on`. */
  get(name: string, who: string): RegisteredConnection {
    const registered = this.find(name);
    if (registered !== undefined) return registered;
    const known = [...this.#connections.keys()].map(quoted).join(', ');
    throw new AmqpError(
      'INVALID_DEFINITION',
      `${who} the connection ${quoted(name)}, which no AmqpModule.forRoot defines. ` +
        (known === '' ? 'Import AmqpModule.forRoot in the root module.' : `Defined are ${known}.`),
    );
  }

  /** With their names, in the order in which they were added. */
  [Symbol.iterator](): MapIterator<[name: string, registered: RegisteredConnection]> {
    return this.#connections.entries();
  }

  /** Closes all of them; never rejects. */
  async close(): Promise<void> {
    const connections = [...this.#connections.values()].flatMap(({ publishing, connection }) => [
      publishing,
      connection,
    ]);
    await Promise.allSettled(connections.map((connection) => connection.close()));
  }
}
