/** Where a test puts the broker that an application is to use: every `AmqpModule` looks here before it takes its own `url`. */

/** The provider token. */
export const BROKER_OVERRIDE = 'nest-amqp:broker override';

/** What is found there; null unless a test says otherwise. */
export interface BrokerOverride {
  readonly url: string;
  /** The names of the connections that it is for. @default all */
  readonly connections: readonly string[] | undefined;
  /** The names of the connections that took it, for whoever put it there. */
  readonly taken: Set<string>;
}
