/**
 * What a client is asked to do: one file per client implements it in the way that the client's own documentation shows for
 * throughput. A client that cannot do something leaves it out, and has no row there.
 */
import type { Properties } from '../sink/wire.mjs';
import type { Tally } from '../meter.mjs';

/** Where to publish; everything exists already. */
export interface PublishTarget {
  readonly url: string;
  readonly exchange: string;
  readonly routingKey: string;
  /** The queue that the messages get to; without confirms, asking for it ends the run when all is published. */
  readonly queue: string;
  readonly body: Buffer;
  /** The properties of the message with this number, a new object for each. */
  readonly properties: (index: number) => Properties;
  /** Publish over so many channels in turn. */
  readonly channels: number;
  /** Most promises pending, for clients that give one for each message. */
  readonly inFlight: number;
  /** Where `inFlight()` notes latencies. */
  readonly latencies: number[] | undefined;
}

export interface ConsumeTarget {
  readonly url: string;
  readonly prefetch: number;
  readonly noAck: boolean;
  /** As many consumers, each on a channel of its own. */
  readonly consumers: number;
}

export interface NestPublishTarget extends Pick<
  PublishTarget,
  'url' | 'exchange' | 'routingKey' | 'queue' | 'inFlight'
> {
  readonly payload: object;
  readonly latencies: number[] | undefined;
}

export interface NestConsumeTarget {
  readonly url: string;
  readonly prefetch: number;
  readonly pattern: string;
}

export interface BootTarget {
  readonly url: string;
  readonly exchange: string;
  readonly queues: readonly string[];
}

/** A prepared client. What `run` does is measured. */
export interface Work {
  run(count: number): Promise<void>;
  close(): Promise<unknown>;
}

export interface ConsumeWork {
  /** Consumes the whole queue, acknowledging each message by itself unless `noAck`; calls `tally.one()` for each. */
  run(queue: string, tally: Tally): Promise<void>;
  close(): Promise<unknown>;
}

export interface Driver {
  /** Publish without confirms; ends when the server has taken everything. */
  publish?(target: PublishTarget): Promise<Work>;
  /** Publish with a promise of each confirm. */
  confirm?(target: PublishTarget): Promise<Work>;
  consume?(target: ConsumeTarget): Promise<ConsumeWork>;
  /** Requests over direct reply-to, to the queue that the routing key names. */
  rpc?(target: PublishTarget): Promise<Work>;
  nestPublish?(target: NestPublishTarget): Promise<Work>;
  nestConsume?(target: NestConsumeTarget): Promise<ConsumeWork>;
  /** Starts an application that declares every queue and binds it; `run` is called once, `count` is the number of queues. */
  boot?(target: BootTarget): Promise<Work>;
}
