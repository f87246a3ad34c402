/**
 * Deliveries to one channel, encoded once and then only numbered: what a consumer costs the sink is a copy. Who may have how
 * many is `connection.mjs`'s.
 */
import { content, method, shortString, u64, u8 } from './wire.mjs';

/** The delivery tag follows the frame head (7), the method's number (4) and the consumer tag. */
const TAG_BASE = 7 + 4 + 1;
/** From this size on, content is handed to the socket as it is: only the few bytes before it are copied. */
const COPY_LIMIT = 16 * 1024;

export class DeliverySource {
  #method;
  #content;
  #tagAt;

  /**
   * @param {number} channel
   * @param {string} consumerTag
   * @param {number} frameMax
   * @param {{ properties: import('./wire.mjs').Properties, body: Uint8Array }} message
   */
  constructor(channel, consumerTag, frameMax, { properties, body }) {
    const fields = [shortString(consumerTag), u64(0), u8(0), shortString('bench'), shortString('bench')];
    this.#method = method(channel, 60, 60, ...fields);
    this.#content = content(channel, frameMax, properties, body);
    this.#tagAt = TAG_BASE + Buffer.byteLength(consumerTag);
  }

  /** Bytes to copy for one delivery. */
  get copied() {
    return this.#method.length + (this.shared === undefined ? this.#content.length : 0);
  }

  /** What follows the copied bytes without being copied. */
  get shared() {
    return this.#content.length >= COPY_LIMIT ? this.#content : undefined;
  }

  /**
   * @param {Buffer} target
   * @param {number} at
   * @param {number} deliveryTag
   */
  write(target, at, deliveryTag) {
    target.set(this.#method, at);
    // A run does not reach 2^32 deliveries.
    target.writeUInt32BE(deliveryTag, at + this.#tagAt + 4);
    if (this.shared === undefined) target.set(this.#content, at + this.#method.length);
  }
}
