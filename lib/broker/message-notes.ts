/**
 * What the broker notes on a message as it goes along. Headers that tell of it are written from these notes and never read:
 * a publisher can write any headers.
 */
export interface Notes {
  /** The keys of the header BCC. */
  readonly blindKeys: readonly string[];
  /** By queue and reason, the latest first. */
  readonly deaths: readonly Death[];
  /** How many of its deliveries by quorum queues were rejected, or came to nothing because their taker was gone. */
  readonly failures: number;
}

/** How a message died in a queue, once or several times. */
export interface Death {
  readonly reason: DeathReason;
  readonly queue: string;
  readonly count: number;
  /** Of the first time, in milliseconds since 1970; so is what follows. */
  readonly time: number;
  /** Where it had come from. */
  readonly exchange: string;
  readonly routingKeys: readonly string[];
  readonly expiration: string | undefined;
}

export type DeathReason = 'rejected' | 'expired' | 'maxlen' | 'delivery_limit';

/** Of a message that has just been published. */
export const NO_NOTES: Notes = { blindKeys: [], deaths: [], failures: 0 };
