/** What went over a connection, counted. One object may count for all the connections of a recovering one. */

/** Counts since the connection was made; of an `AmqpConnection`, in all its lives. */
export interface ConnectionMetrics {
  /** Connections opened. */
  readonly connections: number;
  /** Messages published; one that is sent again after a loss counts again. */
  readonly published: number;
  /** Publishes that the broker confirmed, returned ones among them. */
  readonly confirmed: number;
  /** Publishes that the broker refused with basic.nack. */
  readonly nacked: number;
  /** Mandatory messages that came back unrouted. */
  readonly returned: number;
  /** Publishes whose channel ended before their confirm. */
  readonly outcomeUnknown: number;
  /** Messages that came to consumers or were fetched. */
  readonly delivered: number;
  /** Messages acknowledged. */
  readonly acknowledged: number;
  /** Messages dead-lettered or dropped. */
  readonly rejected: number;
  /** Messages given back to their queue. */
  readonly requeued: number;
  readonly bytesReceived: number;
  readonly bytesSent: number;
}

/** The counts as whoever counts holds them. */
export class Metrics implements ConnectionMetrics {
  connections = 0;
  published = 0;
  confirmed = 0;
  nacked = 0;
  returned = 0;
  outcomeUnknown = 0;
  delivered = 0;
  acknowledged = 0;
  rejected = 0;
  requeued = 0;
  bytesReceived = 0;
  bytesSent = 0;
}
