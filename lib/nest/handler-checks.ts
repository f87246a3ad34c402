/** What can be wrong with how a handler gets its deliveries: how many at once, in which order, which of them. */
import { itIs, refuseUnknown } from '../client/option-names.js';
import { AmqpError } from '../errors.js';
import { timerMilliseconds } from '../time/duration.js';
import type { ConsumeHandlerOptions } from './amqp.decorators.js';

/** As many as `basic.qos` can say. */
export const MOST_PREFETCHED = 65_535;

/** Throws `INVALID_OPTION`. `where` names who said it. */
export function checkConcurrency(concurrency: unknown, where: string): void {
  if (concurrency === undefined || (Number.isInteger(concurrency) && (concurrency as number) >= 1)) return;
  throw invalid(`concurrency of ${where} has to be an integer of 1 or more${itIs(concurrency)}`);
}

/** Throws `INVALID_OPTION`. */
export function checkHandling(options: ConsumeHandlerOptions, where: string): void {
  // Options often come from configuration, past the compiler.
  const { when, orderBy, competing }: { when?: unknown; orderBy?: unknown; competing?: unknown } = options;
  if (when !== undefined && !(typeof when === 'string' && Buffer.byteLength(when) <= 255)) {
    throw invalid(`when of ${where} has to be a routing-key pattern, of at most 255 bytes: 'order.*'${itIs(when)}`);
  }
  if (orderBy !== undefined && typeof orderBy !== 'function') {
    throw invalid(`orderBy of ${where} has to be a function: (delivery) => delivery.payload.customer${itIs(orderBy)}`);
  }
  if (competing !== undefined && typeof competing !== 'boolean') {
    throw invalid(`competing of ${where} has to be true or false${itIs(competing)}`);
  }
  if (competing === true && when !== undefined) {
    throw invalid(
      `${where} has both competing and when. A competing consumer gets any message of its queue; leave one of them out.`,
    );
  }
  checkBatch(options, where);
}

function checkBatch({ batch, orderBy, concurrency = 1 }: ConsumeHandlerOptions, where: string): void {
  if (batch === undefined) return;
  if (typeof (batch as unknown) !== 'object' || (batch as unknown) === null) {
    throw invalid(`batch of ${where} has to be an object: { size: 100, maxWait: '1s' }${itIs(batch)}`);
  }
  refuseUnknown(batch, ['size', 'maxWait'], `batch of ${where} has no field`);
  if (!Number.isInteger(batch.size) || batch.size < 1 || batch.size * concurrency > MOST_PREFETCHED) {
    throw invalid(
      `batch.size of ${where} has to be an integer of 1 or more, and times concurrency at most ${MOST_PREFETCHED}${itIs(batch.size)}`,
    );
  }
  if (batch.maxWait !== undefined && timerMilliseconds(batch.maxWait, `batch.maxWait of ${where}`) < 1) {
    throw invalid(`batch.maxWait of ${where} has to be 1 ms or more${itIs(batch.maxWait)}`);
  }
  if (orderBy !== undefined) {
    throw invalid(
      `${where} has both batch and orderBy, which orders single deliveries. Batches come in the order of their queue ` +
        'where concurrency is 1: say that instead.',
    );
  }
}

function invalid(message: string): AmqpError {
  return new AmqpError('INVALID_OPTION', message);
}
