/** The messages of a queue that are ready to be taken. In which order they are is the queue's type's (`classic-messages`, `quorum-messages`). */
import type { BrokerMessage } from './broker-message.js';
import type { QueueConsumer } from './queue-consumer.js';

/** A message in a queue. */
export interface StoredMessage {
  readonly message: BrokerMessage;
  /** In order of coming. */
  place: number;
  /** 0 on a queue without priorities. */
  priority: number;
  /** Milliseconds since 1970; `Infinity` when it waits for ever. */
  readonly expiresAt: number;
  /** How often it came back to this queue. */
  returns: number;
  /** Of these, how often because its taker was gone, and what `BrokerMessage.failures` had before. */
  failures: number;
  /** The consumer that holds it, while one does. */
  taker: QueueConsumer | undefined;
}

export interface ReadyMessages extends Iterable<StoredMessage> {
  readonly count: number;
  /** Bytes of their bodies. */
  readonly bytes: number;
  /** When the first of those that may expire where they are does; `Infinity` when none does. */
  readonly nextExpiry: number;
  /** A message behind all others of its priority. */
  push(stored: StoredMessage): void;
  /** A message that was out. */
  putBack(stored: StoredMessage): void;
  take(): StoredMessage | undefined;
  /** The next message that has expired at a head: one that has, behind one that has not, waits its turn. */
  takeExpired(now: number): StoredMessage | undefined;
  /** Drops all; returns how many they were. */
  clear(): number;
  /** In the order in which they would be taken. */
  [Symbol.iterator](): Iterator<StoredMessage>;
}
