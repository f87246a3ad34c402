/** What a handler of batches throws when some of the deliveries failed, and the others did not. */
import { AmqpError } from '../errors.js';
import { Delivery } from './delivery.js';

/**
 * Thrown by a handler with `batch` to say which deliveries failed, each with its error: those are retried or dead-lettered as if
 * they had been alone with it, and the others acknowledged.
 *
 * @example
 * ```ts
 * const failures = new Map<Delivery, unknown>();
 * for (const delivery of deliveries) {
 *   try { await this.orders.insert(delivery.payload); } catch (error) { failures.set(delivery, error); }
 * }
 * if (failures.size > 0) throw new PartialBatchError(failures);
 * ```
 */
export class PartialBatchError extends Error {
  override readonly name: string = 'PartialBatchError';
  readonly failures: ReadonlyMap<Delivery, unknown>;

  /** Throws `INVALID_ARGUMENT` for what is no map of deliveries. */
  constructor(failures: ReadonlyMap<Delivery, unknown>, message?: string, options?: ErrorOptions) {
    const given: unknown = failures;
    if (!(given instanceof Map) || ![...given.keys()].every((key) => key instanceof Delivery)) {
      throw new AmqpError('INVALID_ARGUMENT', 'PartialBatchError takes a Map from deliveries of the batch to errors.');
    }
    super(message ?? `${failures.size} deliveries of the batch failed.`, options);
    this.failures = failures;
  }
}
