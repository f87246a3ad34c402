/** The channel that Nest applications inject: the client's, whose consumers may be Observables as well. */
import { Observable } from 'rxjs';
import { AmqpChannel as ClientChannel } from '../client/amqp-channel.js';
import type { StreamOptions } from '../client/channel-options.js';
import type { Message } from '../client/message.js';

/** A channel that survives reconnects. Injected by its class, or by name with `@InjectChannel(name)`. */
export class AmqpChannel extends ClientChannel {
  /**
   * The messages of a queue, each of which has to be answered (`ack()`, `nack()`, `reject()`) unless `noAck` is set: no more than
   * `prefetch` (50) come unanswered. Consumes from the subscription on, across reconnects, until that is ended; what has not been
   * handed out then goes back to the queue, what has can still be answered. Completes when the consumer is gone for good, as when its
   * queue is deleted; fails like `consume()`.
   *
   * @example
   * ```ts
   * channel.deliveries$('billing', { prefetch: 10 }).pipe(bufferTime(1000)).subscribe((messages) => { … });
   * ```
   */
  deliveries$(queue: string, options?: StreamOptions): Observable<Message> {
    return new Observable((subscriber) => {
      const messages = this.consume(queue, options)[Symbol.asyncIterator]();
      const run = async (): Promise<void> => {
        for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
          if (subscriber.closed) next.value.nack();
          else subscriber.next(next.value);
        }
      };
      run().then(
        () => {
          subscriber.complete();
        },
        (error: unknown) => {
          subscriber.error(error);
        },
      );
      // What it fails with, next() has told.
      return () => void messages.return().catch(() => undefined);
    });
  }
}
