/** What stands between a call of `publish` and the message: the application's interceptors, in order. */
import type { PublishMessageOptions } from './publish-options.js';

/** A message before it is written. */
export interface OutgoingMessage {
  readonly exchange: string;
  readonly routingKey: string;
  readonly payload: unknown;
  readonly options: PublishMessageOptions;
}

/**
 * Is asked before each publish of a module, `sendToQueue` included, in the order of `publisher.interceptors`: the first sees what
 * the application said, the last is next to the broker. It may hand on another message, and sees the outcome; what it throws
 * rejects that publish, and so does `timeout` when it passes meanwhile. One that neither throws nor calls `next` rejects it with
 * `NOT_PUBLISHED`.
 *
 * @example
 * ```ts
 * @Injectable()
 * class TenantInterceptor implements PublishInterceptor {
 *   constructor(private readonly tenant: TenantService) {}
 *   intercept(message: OutgoingMessage, next: PublishNext) {
 *     const headers = { ...message.options.headers, 'x-tenant': this.tenant.current() };
 *     return next({ ...message, options: { ...message.options, headers } });
 *   }
 * }
 * ```
 */
export interface PublishInterceptor {
  intercept(message: OutgoingMessage, next: PublishNext): Promise<void>;
}

/** Hands the message on; resolves and rejects as the publish does. */
export type PublishNext = (message: OutgoingMessage) => Promise<void>;

/** Sends a message past all interceptors. */
export async function intercepted(
  interceptors: readonly PublishInterceptor[],
  message: OutgoingMessage,
  send: PublishNext,
): Promise<void> {
  const [first, ...others] = interceptors;
  if (first === undefined) {
    await send(message);
    return;
  }
  await first.intercept(message, (next) => {
    const rest = intercepted(others, next, send);
    // One that nobody awaits must not end the process.
    rest.catch(() => undefined);
    return rest;
  });
}
