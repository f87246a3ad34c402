/** What can be wrong with the options of `@Consume`, and with the defaults of the module. No error tells what may be a secret. */
import { itIs, namesOf, refuseUnknown } from '../client/option-names.js';
import { AmqpError } from '../errors.js';
import { checkTopology } from '../messaging/definition-checks.js';
import { isStandardSchema } from '../messaging/message.js';
import { retryPolicy } from '../messaging/outcome.js';
import { STREAM_OFFSET, STREAM_OFFSETS, isStreamOffset } from '../protocol/stream-offset.js';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';
import { timerMilliseconds } from '../time/duration.js';
import {
  CONSUME_ELSEWHERE,
  CONSUME_OPTIONS,
  type ConsumeHandlerOptions,
  type ConsumeOptionsFactory,
  type ConsumeOptionsWithQueue,
  type ConsumerDefaults,
  DEFAULTED_OPTIONS,
  type GlobalEnhancers,
} from './consume-options.js';
import { topologyIn } from './consume-topology.js';

/** As many as `basic.qos` can say. */
export const MOST_PREFETCHED = 65_535;

/** Checks the options of one `@Consume`. Throws `INVALID_OPTION` and `INVALID_DEFINITION`. `where` is the handler's name. */
export function checkConsumeOptions(options: ConsumeOptionsWithQueue, where: string): void {
  refuseUnknown(options, CONSUME_OPTIONS, `@Consume of ${where} has no option`, { elsewhere: CONSUME_ELSEWHERE });
  checkQueue(options.queue, where);
  checkDeclared(options, where);
  checkDefaults(options, where);
  checkValues(options, HANDLER_VALUES, where);
  if (options.competing === true && options.when !== undefined) {
    throw invalid(
      `${where} has both competing and when. A competing consumer gets any message of its queue; leave one of them out.`,
    );
  }
  checkStreamOffset(options, where);
  checkBatch(options, where);
}

/** Checks a factory of options, which is not called yet. Throws `INVALID_OPTION`. */
export function checkConsumeFactory(factory: ConsumeOptionsFactory, where: string): void {
  refuseUnknown(factory, ['inject', 'useFactory'], `@Consume of ${where} has useFactory, and beside it no option`);
  // Past the compiler in plain JavaScript, and where a circular import has left a class undefined.
  const { inject = [], useFactory } = factory as Partial<Record<'inject' | 'useFactory', unknown>>;
  if (typeof useFactory !== 'function') throw isNot('useFactory', where, useFactory, 'a function that returns options');
  if (!Array.isArray(inject)) throw isNot('inject', where, inject, 'a list of what useFactory is called with');
  for (const [index, dependency] of inject.entries()) {
    const token: unknown =
      typeof dependency === 'object' && dependency !== null ? (dependency as { token?: unknown }).token : dependency;
    if (!['string', 'symbol', 'function'].includes(typeof token)) {
      throw invalid(
        `inject[${index}] of ${where} has to be a class, another token, or { token, optional }${itIs(token)} ` +
          'A class that is imported in a circle is undefined at first.',
      );
    }
  }
}

/** Checks what `AmqpModule` gives as defaults. Throws `INVALID_OPTION`. */
export function checkConsumerDefaults(defaults: ConsumerDefaults): void {
  refuseUnknown(defaults, DEFAULTED_OPTIONS, 'The option consumers of AmqpModule has no field', {
    elsewhere: CONSUME_ELSEWHERE,
  });
  checkDefaults(defaults, 'the option consumers of AmqpModule');
}

/** A queue's name often comes from the environment, past the compiler. */
function checkQueue(queue: unknown, where: string): void {
  if (typeof queue === 'string' ? queue !== '' : typeof queue === 'object' && queue !== null) return;
  throw invalid(
    `@Consume of ${where} needs the name of a queue${itIs(queue)} Say @Consume('billing'), or give a ` +
      'definition, as of one without a name: @Consume(queue()).',
  );
}

function checkDeclared(options: ConsumeOptionsWithQueue, where: string): void {
  const topology = topologyIn(options, where);
  try {
    checkTopology(topology);
  } catch (error) {
    if (!(error instanceof AmqpError)) throw error;
    throw new AmqpError(error.code, `@Consume of ${where}: ${error.message}`, { cause: error });
  }
}

/** What a value has to be, in words, when it is not. */
type Demand = (value: unknown) => string | undefined;

const DEFAULT_VALUES = {
  concurrency: (value) => (isIntegerWithin(value, 1, Infinity) ? undefined : 'an integer of 1 or more'),
  ack: (value) => (['auto', 'manual', 'none'].includes(value as string) ? undefined : "'auto', 'manual' or 'none'"),
  deadLetter: (value) =>
    isName(value) || (isObject(value) && 'by' in value && value.by === 'broker')
      ? undefined
      : "the name of a queue, of at most 255 bytes, or { by: 'broker' }",
  // From configuration it may come as text, and 'false' is true.
  autoStart: flag,
  globalEnhancers: (value) =>
    typeof value === 'boolean' || isObject(value) ? undefined : 'true, false, or one of them for each kind',
} as const satisfies Partial<Record<keyof ConsumerDefaults, Demand>>;

const HANDLER_VALUES = {
  when: (value) =>
    typeof value === 'string' && Buffer.byteLength(value) <= LONGEST_SHORTSTR
      ? undefined
      : "a routing-key pattern, of at most 255 bytes: 'order.*'",
  orderBy: (value) => (typeof value === 'function' ? undefined : 'a function: (delivery) => delivery.payload.customer'),
  competing: flag,
  exclusive: flag,
  connection: name,
  consumerTag: name,
  contentType: name,
  priority: (value) => (Number.isSafeInteger(value) ? undefined : 'an integer'),
  arguments: (value) => (isObject(value) ? undefined : "an object: { 'x-stream-offset': 'first' }"),
  schema: (value) =>
    isStandardSchema(value) ? undefined : "a Standard Schema, which has '~standard' (https://standardschema.dev)",
} as const satisfies Partial<Record<keyof ConsumeHandlerOptions, Demand>>;

const ENHANCER_KINDS = namesOf<GlobalEnhancers>({ guards: true, pipes: true, interceptors: true, filters: true });

function checkDefaults(options: ConsumerDefaults, where: string): void {
  const { prefetch, globalEnhancers, retry, timeout } = options;
  if (prefetch !== undefined && !isIntegerWithin(prefetch, 1, MOST_PREFETCHED)) {
    throw invalid(
      `prefetch of ${where} has to be an integer from 1 to ${MOST_PREFETCHED}${itIs(prefetch)} Without a bound one ` +
        'consumer takes the whole queue into memory.',
    );
  }
  checkValues(options, DEFAULT_VALUES, where);
  if (typeof globalEnhancers === 'object') {
    refuseUnknown(globalEnhancers, ENHANCER_KINDS, `globalEnhancers of ${where} has no kind`);
    for (const [kind, value] of Object.entries(globalEnhancers) as [string, unknown][]) {
      if (value !== undefined && typeof value !== 'boolean') {
        throw isNot(`globalEnhancers.${kind}`, where, value, 'true or false');
      }
    }
  }
  if (retry !== undefined) {
    retryPolicy(retry, where);
    refuseUnknown(retry, ['attempts', 'delays'], `retry of ${where} has no field`);
  }
  if (timeout !== undefined && timerMilliseconds(timeout, `timeout of ${where}`) < 1) {
    throw isNot('timeout', where, timeout, '1 ms or more');
  }
}

function checkValues(options: object, demands: Readonly<Record<string, Demand>>, where: string): void {
  for (const [option, demand] of Object.entries(demands)) {
    const value: unknown = (options as Readonly<Record<string, unknown>>)[option];
    const demanded = value === undefined ? undefined : demand(value);
    if (demanded !== undefined) throw isNot(option, where, value, demanded);
  }
}

/** The broker would close the connection of all consumers over most of what it does not take (541). */
function checkStreamOffset({ arguments: args }: ConsumeHandlerOptions, where: string): void {
  const offset = args?.[STREAM_OFFSET];
  if (offset === undefined || isStreamOffset(offset)) return;
  throw isNot(`arguments['${STREAM_OFFSET}']`, where, offset, STREAM_OFFSETS);
}

function checkBatch(options: ConsumeHandlerOptions, where: string): void {
  const { batch, concurrency = 1 } = options;
  if (batch === undefined) return;
  if (!isObject(batch)) throw isNot('batch', where, batch, "an object: { size: 100, maxWait: '1s' }");
  refuseUnknown(batch, ['size', 'maxWait'], `batch of ${where} has no field`);
  const { size, maxWait } = batch;
  if (!isIntegerWithin(size, 1, MOST_PREFETCHED)) {
    throw isNot('batch.size', where, size, `an integer from 1 to ${MOST_PREFETCHED}`);
  }
  if (size * concurrency > MOST_PREFETCHED) {
    throw invalid(
      `batch.size of ${where} is ${size}, and its concurrency ${concurrency}; together they may be ${MOST_PREFETCHED} at most.`,
    );
  }
  if (maxWait !== undefined && timerMilliseconds(maxWait, `batch.maxWait of ${where}`) < 1) {
    throw isNot('batch.maxWait', where, maxWait, '1 ms or more');
  }
  if (options.orderBy !== undefined) {
    throw invalid(
      `${where} has both batch and orderBy, which orders single deliveries. Batches come in the order of their queue ` +
        'where concurrency is 1: say that instead.',
    );
  }
}

function flag(value: unknown): string | undefined {
  return typeof value === 'boolean' ? undefined : 'true or false';
}

function name(value: unknown): string | undefined {
  return isName(value) ? undefined : 'text of 1 to 255 bytes';
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= LONGEST_SHORTSTR;
}

function isIntegerWithin(value: unknown, least: number, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isNot(option: string, where: string, value: unknown, demanded: string): AmqpError {
  return invalid(`${option} of ${where} has to be ${demanded}${itIs(value)}`);
}

function invalid(message: string): AmqpError {
  return new AmqpError('INVALID_OPTION', message);
}
