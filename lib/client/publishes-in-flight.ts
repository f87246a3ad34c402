/** What a `Republisher` has sent and what has no confirm yet: how many, how large, and whether there is room for more. Plain state. */
import type { PendingPublish } from './pending-publish.js';
import type { RepublishBounds } from './republish-options.js';

export class PublishesInFlight {
  readonly #bounds: Pick<RepublishBounds, 'maxInFlight' | 'maxInFlightBytes'>;
  #count = 0;
  #bytes = 0;
  /** The suspect in flight: nothing else is sent meanwhile. */
  #alone: PendingPublish | undefined;
  /** Those that nobody waits for any more. */
  readonly #givenUp = new Set<PendingPublish>();

  constructor(bounds: Pick<RepublishBounds, 'maxInFlight' | 'maxInFlightBytes'>) {
    this.#bounds = bounds;
  }

  hasRoomFor(entry: PendingPublish): boolean {
    if (entry.isInFlight || this.#count === 0) return true;
    return (
      !entry.isSuspect &&
      this.#alone === undefined &&
      this.#count < this.#bounds.maxInFlight &&
      this.#bytes + entry.bytes <= this.#bounds.maxInFlightBytes
    );
  }

  /** Whether it is nobody's publishes that leave no room for others: a confirm that never comes would do so for good. */
  get isClogged(): boolean {
    return this.#givenUp.size * 2 >= this.#count;
  }

  /** Nobody waits for any of them. */
  get areNobodys(): boolean {
    return this.#count <= this.#givenUp.size;
  }

  add(entry: PendingPublish): void {
    entry.isInFlight = true;
    if (entry.isSuspect) this.#alone = entry;
    this.#count += 1;
    this.#bytes += entry.bytes;
  }

  /** It stays until its confirm, and takes up room. */
  giveUp(entry: PendingPublish): void {
    this.#givenUp.add(entry);
  }

  /** Its attempt has an outcome. */
  remove(entry: PendingPublish): void {
    if (!entry.isInFlight) return;
    entry.isInFlight = false;
    if (this.#givenUp.size > 0) this.#givenUp.delete(entry);
    if (this.#alone === entry) this.#alone = undefined;
    this.#count -= 1;
    this.#bytes -= entry.bytes;
  }

  removeGivenUp(): void {
    for (const entry of this.#givenUp) this.remove(entry);
  }
}
