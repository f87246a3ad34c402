/**
 * Streams of replies that nobody here listens to: the server of each is asked to stop, and asked again while it goes on. Which
 * streams those are is said by the `rpc-client` and by `incoming-replies`; what the message says by `reply-format`.
 */
import type { PublishOptions } from '../client/channel-options.js';
import type { Message } from '../client/message.js';
import { type PlacedReply, placeOf, stopHeaders } from './reply-format.js';

/** Between two times that one server is asked, in milliseconds: a fast one sends more before it hears the first. */
const AGAIN_AFTER = 1_000;
/** So many are remembered, the latest. */
const REMEMBERED = 1_000;

export class RefusedStreams {
  readonly #tell: (address: string, properties: PublishOptions) => boolean;
  /** When each was asked last, or -Infinity; the earliest first. */
  readonly #askedAt = new Map<string, number>();

  /** `tell` publishes to the address of a server, and says whether it could. */
  constructor(tell: (address: string, properties: PublishOptions) => boolean) {
    this.#tell = tell;
  }

  has({ stream }: PlacedReply): boolean {
    return this.#askedAt.has(stream);
  }

  /** Has the stream of a reply stopped; its last one says that it has. */
  refuse({ stream, isEnd, replyTo, correlationId }: PlacedReply): void {
    const askedAt = this.#askedAt.get(stream) ?? -Infinity;
    this.#askedAt.delete(stream);
    if (isEnd || replyTo === undefined) return;
    const now = performance.now();
    const isAsked =
      now >= askedAt + AGAIN_AFTER && this.#tell(replyTo, { correlationId, headers: stopHeaders(stream) });
    this.#askedAt.set(stream, isAsked ? now : askedAt);
    const [earliest] = this.#askedAt.keys();
    if (this.#askedAt.size > REMEMBERED && earliest !== undefined) this.#askedAt.delete(earliest);
  }

  /** Does so with a reply that nobody awaits. Says whether it belongs to a stream. Never throws. */
  refuseUnexpected(reply: Message): boolean {
    try {
      const place = placeOf(reply);
      if (place !== undefined) this.refuse(place);
      return place !== undefined;
    } catch {
      // Its header cannot be read.
      return false;
    }
  }
}
