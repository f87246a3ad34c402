/** What the parts of a channel need of the connection that it is on. */
import type { MethodArgs, MethodName } from '../protocol/methods.js';
import type { BrokerOutbox } from './broker-outbox.js';
import type { VirtualHost } from './virtual-host.js';

/** The connection, seen by its channels. */
export interface ConnectionLine {
  readonly virtualHost: VirtualHost;
  /** Who the client logged in as. */
  readonly user: string;
  /** What exclusive queues belong to. */
  readonly owner: object;
  /** Largest body to accept, in octets. */
  readonly maxMessageSize: number;
  /** The client understands basic.cancel from the broker. */
  readonly notifiesOfCancel: boolean;
  /** False while the client does not read what it is sent. */
  readonly hasRoom: boolean;
  /** Where everything is said. */
  readonly outbox: BrokerOutbox;
  /** Runs `run` when the method in hand has been answered; now where there is none. */
  afterwards(run: () => void): void;
  /** Has `sayConfirms` of the channel called before the next bytes leave. */
  confirmLater(channel: ConfirmingChannel): void;
  /** Whether a test wants this publish refused. */
  takesNack(): boolean;
}

export interface ConfirmingChannel {
  sayConfirms(): void;
}

/** One channel of it. */
export interface ChannelLine {
  readonly number: number;
  readonly connection: ConnectionLine;
  reply<N extends MethodName>(name: N, args: MethodArgs<N>): void;
}
