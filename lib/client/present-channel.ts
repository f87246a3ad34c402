/**
 * The confirm channel that a handle has on whatever connection is open: opened when it is asked for, and anew when it has ended.
 * What goes over it is the handle's.
 */
import type { AmqpConnection } from './amqp-connection.js';
import type { ConfirmChannel } from './channel.js';
import { ended, orAborted, unblocked } from './wait.js';

export class PresentChannel {
  readonly #connection: AmqpConnection;
  readonly #life: AbortSignal;
  readonly #onUnblocked: () => void;
  #current: Promise<ConfirmChannel> | undefined;

  /** It is for a life of the handle; `onUnblocked` is called when the broker takes publishes again. */
  constructor(connection: AmqpConnection, life: AbortSignal, onUnblocked: () => void) {
    this.#connection = connection;
    this.#life = life;
    this.#onUnblocked = onUnblocked;
  }

  /** The channel, opened when there is none. Rejects with the reason of either signal. */
  async opened(signal?: AbortSignal): Promise<ConfirmChannel> {
    for (;;) {
      this.#life.throwIfAborted();
      this.#current ??= this.#open().catch((error: unknown) => {
        this.#current = undefined;
        throw error;
      });
      const channel = await orAborted(this.#current, signal);
      if (channel.isOpen) return channel;
      // It is being closed.
      await orAborted(ended(channel), signal);
    }
  }

  /** Closes it if there is one. */
  async close(): Promise<void> {
    await this.#current?.then((channel) => channel.close()).catch(() => undefined);
  }

  /** A channel on the present connection, or on the next: a connection that is lost meanwhile is no reason to give up. */
  async #open(): Promise<ConfirmChannel> {
    for (;;) {
      this.#life.throwIfAborted();
      const connection = await this.#connection.opened(this.#life);
      // A broker that blocks reads nothing, channel.open included.
      await unblocked(connection, this.#life);
      try {
        const channel = await connection.channel({ confirm: true, signal: this.#life });
        connection.on('unblocked', this.#onUnblocked);
        channel.once('close', () => {
          this.#current = undefined;
          connection.off('unblocked', this.#onUnblocked);
        });
        if (channel.isOpen) return channel;
      } catch (error) {
        this.#life.throwIfAborted();
        // A refusal, such as too many channels, would come again.
        if (connection.isOpen) throw error;
        await ended(connection);
      }
    }
  }
}
