/** A consumer whose messages all go to one handler. */
import type { AmqpConnection } from '../../lib/client/amqp-connection.js';
import { Consumer, type ConsumerOptions } from '../../lib/messaging/consumer.js';
import type { Log } from '../../lib/messaging/log.js';
import {
  type DeliveryHandler,
  HandledDeliveries,
  type HandlerOptions,
} from '../../lib/messaging/handled-deliveries.js';

export interface LoneHandlerOptions
  extends ConsumerOptions, Omit<HandlerOptions, 'concurrency' | 'queue' | 'topology' | 'name' | 'arguments'> {
  /** @default prefetch */
  readonly concurrency?: number;
}

export function loneHandler(
  connection: AmqpConnection,
  options: LoneHandlerOptions,
  handler: DeliveryHandler,
  log: Log,
): Consumer {
  const deliveries = new HandledDeliveries(connection, { concurrency: options.prefetch, ...options }, handler, log);
  return new Consumer(connection, options, deliveries, log);
}
