/** Which channel numbers of a connection are in use. A number is free again only after both sides have said goodbye. */
import { AmqpError } from '../errors.js';

export class ChannelNumbers {
  readonly #max: number;
  /** The lowest number that was never given out. */
  #next = 1;
  readonly #returned: number[] = [];

  constructor(channelMax: number) {
    this.#max = channelMax;
  }

  /** The highest number that was ever given out. */
  get highest(): number {
    return this.#next - 1;
  }

  /** A free number from 1 up. Throws `CHANNEL_LIMIT` when there is none. */
  take(): number {
    const number = this.#returned.pop() ?? this.#next;
    if (number > this.#max) {
      throw new AmqpError(
        'CHANNEL_LIMIT',
        `All ${this.#max} channels of this connection are in use (channel_max). Close channels that are no longer needed, ` +
          'share them, or open another connection.',
      );
    }
    if (number === this.#next) this.#next += 1;
    return number;
  }

  release(number: number): void {
    this.#returned.push(number);
  }
}
