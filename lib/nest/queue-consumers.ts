/**
 * Which handlers share a consumer: those of one queue on one connection, unless they say that they compete. What they have to agree
 * on is agreed on here, and what cannot work together is refused, before anything starts.
 */
import { isDeepStrictEqual } from 'node:util';
import { AmqpError, quoted } from '../errors.js';
import { checkPattern, checkRoutes } from '../messaging/delivery-router.js';
import type { DeadLetterOption } from '../messaging/failed-deliveries.js';
import type { Log } from '../messaging/log.js';
import type { FieldTable } from '../protocol/field-table.js';
import { timerMilliseconds } from '../time/duration.js';
import type { DiscoveredHandler } from './amqp.explorer.js';
import { patternOf } from './consume-contract.js';
import {
  type ConsumeHandlerOptions,
  type ConsumeOptionsWithQueue,
  type ConsumerDefaults,
  argumentsOf,
} from './consume-options.js';
import { MOST_PREFETCHED } from './handler-checks.js';

const DEFAULT_PREFETCH = 50;
const DEFAULT_MAX_WAIT = '1s';

/** One consumer, and the handlers behind it. */
export interface QueueConsumer {
  /** `BillingConsumer.charge`; several names where there are several handlers. */
  readonly name: string;
  readonly queue: string;
  readonly handlers: readonly QueueHandler[];
  readonly prefetch: number;
  readonly exclusive: boolean;
  readonly consumerTag: string | undefined;
  readonly arguments: FieldTable;
  readonly autoStart: boolean;
}

/** A handler, and how much it takes at once. */
export interface QueueHandler {
  readonly handler: DiscoveredHandler;
  /** The routing keys that it takes, as a pattern; undefined for all that no other one takes. */
  readonly when: string | undefined;
  readonly concurrency: number;
  /** Milliseconds. */
  readonly batch: { readonly size: number; readonly maxWait: number } | undefined;
}

/**
 * The consumers of the handlers of one queue, which are several only when all compete. `log` is told what was changed. Throws
 * `INVALID_DEFINITION` and `INVALID_OPTION`.
 */
export function queueConsumers(
  queue: string,
  handlers: readonly DiscoveredHandler[],
  defaults: ConsumerDefaults,
  log: Log,
): QueueConsumer[] {
  if (handlers.every(({ options }) => options.competing === true)) {
    return handlers.map((handler) => queueConsumer(queue, [handler], defaults, log));
  }
  // The key of a contract is no pattern: it is published under that very key.
  for (const { name, options } of handlers) checkPattern({ name, when: options.when });
  checkRoutes(
    handlers.map(({ name, options }) => ({ name, when: whenOf(options, handlers) })),
    queue,
  );
  const competing = handlers.find(({ options }) => options.competing === true);
  if (competing !== undefined) {
    throw new AmqpError(
      'INVALID_DEFINITION',
      `${competing.name} competes for the messages of queue ${quoted(queue)} with handlers that do not say competing: true.`,
    );
  }
  return [queueConsumer(queue, handlers, defaults, log)];
}

function queueConsumer(
  queue: string,
  handlers: readonly DiscoveredHandler[],
  defaults: ConsumerDefaults,
  log: Log,
): QueueConsumer {
  const agreed = <K extends keyof ConsumeHandlerOptions>(option: K): ConsumeHandlerOptions[K] =>
    agreedOption(queue, handlers, option);
  const name = handlers.map((handler) => handler.name).join(', ');
  const said = agreed('prefetch');
  const wanted = said ?? defaults.prefetch ?? DEFAULT_PREFETCH;
  const prefetch = Math.max(wanted, ...handlers.map(({ options }) => neededFor(options)));
  if (said !== undefined && prefetch > said) {
    log.log(`The prefetch of ${name} (${said}) is too low to fill its batches, and raised to ${prefetch}.`);
  }
  return {
    name,
    queue,
    handlers: handlers.map((handler) => queueHandler(handler, whenOf(handler.options, handlers), prefetch, defaults)),
    prefetch,
    exclusive: agreed('exclusive') ?? false,
    consumerTag: agreed('consumerTag'),
    arguments: argumentsOf(agreed('priority'), agreed('arguments')),
    autoStart: agreed('autoStart') ?? defaults.autoStart ?? true,
  };
}

/**
 * Where a handler's dead letters go, as far as anybody says. A queue that is the one for all handlers is none for its own: what they
 * fail on would come back to them at once.
 */
export function deadLetterOf(
  { deadLetter }: { readonly deadLetter?: DeadLetterOption | undefined },
  defaults: ConsumerDefaults,
  queue: string,
): DeadLetterOption | undefined {
  return deadLetter ?? (defaults.deadLetter === queue ? undefined : defaults.deadLetter);
}

/** The key of a contract picks its handler where there are others to pick from. */
function whenOf(options: ConsumeOptionsWithQueue, sharing: readonly DiscoveredHandler[]): string | undefined {
  return sharing.length > 1 ? patternOf(options) : options.when;
}

/** What all of them say that say anything. */
function agreedOption<K extends keyof ConsumeHandlerOptions>(
  queue: string,
  handlers: readonly DiscoveredHandler[],
  option: K,
): ConsumeHandlerOptions[K] {
  const [first, ...others] = handlers.filter(({ options }) => options[option] !== undefined);
  const value = first?.options[option];
  const other = others.find(({ options }) => !isDeepStrictEqual(options[option], value));
  if (first !== undefined && other !== undefined) {
    throw new AmqpError(
      'INVALID_DEFINITION',
      `${first.name} and ${other.name} share the consumer of queue ${quoted(queue)}, and say different things about ${option}. ` +
        'Say it in one place, or the same in both.',
    );
  }
  return value;
}

/** As much as the batches that may run at once are in all. */
function neededFor({ batch, concurrency = 1 }: ConsumeHandlerOptions): number {
  return batch === undefined ? 1 : Math.min(batch.size * concurrency, MOST_PREFETCHED);
}

function queueHandler(
  handler: DiscoveredHandler,
  when: string | undefined,
  prefetch: number,
  defaults: ConsumerDefaults,
): QueueHandler {
  const { batch, concurrency: said } = handler.options;
  // What fits the prefetch; a default is no reason to fail.
  const fitting = batch === undefined ? prefetch : Math.max(1, Math.floor(prefetch / batch.size));
  const concurrency = said ?? Math.min(defaults.concurrency ?? fitting, fitting);
  if (concurrency > fitting) {
    throw new AmqpError(
      'INVALID_OPTION',
      `concurrency of ${handler.name} (${concurrency}) is more than its prefetch (${prefetch}): so many never are there at once. ` +
        'Raise prefetch, or lower concurrency.',
    );
  }
  return {
    handler,
    when,
    concurrency,
    batch: batch && {
      size: batch.size,
      maxWait: timerMilliseconds(batch.maxWait ?? DEFAULT_MAX_WAIT, `batch.maxWait of ${handler.name}`),
    },
  };
}
