/** Where a test puts the broker that an application is to use: the Nest module looks here before it takes its own `url`. */

/** A provider token of the connection of that name. */
export function brokerOverrideToken(connection: string): string {
  return `nest-amqp:broker override:${connection}`;
}

/** What is found there; null unless a test says otherwise. */
export type BrokerOverride = { readonly url: string } | null;
