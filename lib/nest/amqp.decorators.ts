/** `@Consume` and the parameter decorators: what they note on a class. Acting on it is the explorer's and the listener's. */
import type { InjectionToken, OptionalFactoryDependency, PipeTransform, Type } from '@nestjs/common';
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { AmqpError, quoted } from '../errors.js';
import { checkTopology } from '../messaging/definition-checks.js';
import type { QueueDefinition } from '../messaging/definitions.js';
import type { AckMode } from '../messaging/delivery-answers.js';
import type { OrderBy } from '../messaging/handled-deliveries.js';
import type { DeadLetterOption } from '../messaging/failed-deliveries.js';
import { MessageContract, isStandardSchema } from '../messaging/message.js';
import { type RetryOptions, retryPolicy } from '../messaging/outcome.js';
import type { FieldTable } from '../protocol/field-table.js';
import { type Duration, timerMilliseconds } from '../time/duration.js';
import type { BasicProperties } from '../protocol/properties.js';
import { itIs, refuseUnknown } from '../client/option-names.js';
import {
  type BatchContractDecorator,
  type ConsumeContractOptions,
  type ContractDecorator,
  contractNote,
} from './consume-contract.js';
import { checkConcurrency, checkHandling } from './handler-checks.js';
import { type ConsumeBinding, topologyIn } from './consume-topology.js';

/** Defaults that `AmqpModule` gives to every `@Consume`. */
export interface ConsumerDefaults {
  /** Most deliveries of one consumer under way at a time, 1 to 65535. @default 50 */
  readonly prefetch?: number;
  /** How many handlers of one consumer may run at once; the rest of what is prefetched waits. With `batch`, how many batches. @default prefetch */
  readonly concurrency?: number;
  /**
   * Who acknowledges: the handler's return (`'auto'`), the handler with `delivery.ack()` (`'manual'`), or nobody (`'none'`): then
   * a message is done with before its handler runs, and lost with a process that ends. @default 'auto'
   */
  readonly ack?: AckMode;
  /**
   * How often and when a delivery whose handler throws is tried again: `{}` is after 1 s, 10 s and a minute, `attempts` alone as
   * often, with the minute for all further ones. @default not at all
   */
  readonly retry?: RetryOptions;
  /**
   * Where deliveries go that failed for good: to the queue of this name, or with `{ by: 'broker' }` to the dead-letter exchange
   * that the queue has without the topology saying so, by a policy for one. @default the dead-letter exchange of the queue's
   * definition, and where that has none the queue `<queue>.dead`. As a default of the module it does not count for the handlers of
   * that very queue
   */
  readonly deadLetter?: DeadLetterOption;
  /**
   * How long a handler may take, and before that how long reading its message may, where a schema or a serializer takes its time;
   * what takes longer has failed, and `delivery.signal` fires. @default for ever
   */
  readonly timeout?: Duration;
  /**
   * Whether it consumes as soon as the application is ready; `false` leaves it to `resume()` of the `ConsumerRegistry`, for what has
   * to warm up first. @default true
   */
  readonly autoStart?: boolean;
  /**
   * Whether the application's global guards, pipes, interceptors and filters apply (`APP_GUARD`, `app.useGlobalGuards` and
   * so on): `false` keeps them away, for those that know HTTP only; an object says it for each kind. What the class and the
   * method carry themselves always applies. @default true
   */
  readonly globalEnhancers?: boolean | GlobalEnhancers;
}

/** Which kinds of global enhancers apply; those that are left out do. */
export interface GlobalEnhancers {
  readonly guards?: boolean;
  readonly pipes?: boolean;
  readonly interceptors?: boolean;
  readonly filters?: boolean;
}

/** Options of one `@Consume`. */
export interface ConsumeHandlerOptions extends ConsumerDefaults {
  /** Binds the queue, once or several times, whenever it is declared. Bindings that are no longer named stay. */
  readonly bind?: ConsumeBinding | readonly ConsumeBinding[];
  /**
   * Routing keys that this handler takes, as a topic pattern (`*` is one word, `#` any number of them, `'order.*'`; within a word,
   * as in `'order*'`, they fail the boot), where several handlers share a queue; it is the key that a message was first published with, also after a retry. What none of them takes is
   * dead-lettered; a handler without `when` takes all the rest.
   */
  readonly when?: string;
  /**
   * Says which deliveries are handled one after the other, in the order in which they came: those for which it returns the same
   * text or number. With undefined a delivery waits for no other. What it throws, the delivery has failed with.
   */
  readonly orderBy?: OrderBy;
  /** Has the handler take many deliveries at once: `(payloads, deliveries)`. */
  readonly batch?: BatchOptions;
  /**
   * This handler has a consumer of its own beside the others of its queue in this application, which say it too: each message goes
   * to any one of them. @default false: a queue has one consumer, and two handlers without `when` fail the boot
   */
  readonly competing?: boolean;
  /** Name of the connection to consume on. @default 'default' */
  readonly connection?: string;
  /** Nobody else may consume from the queue. @default false */
  readonly exclusive?: boolean;
  /** Consumers of a higher priority get messages first (https://www.rabbitmq.com/docs/consumer-priority). @default 0 */
  readonly priority?: number;
  /** Name of the consumer, for the broker to show. @default a random one */
  readonly consumerTag?: string;
  /** How every body is read, whatever its content type says: for publishers that say nothing, or something wrong. */
  readonly contentType?: string;
  /**
   * What payloads have to be, as any Standard Schema says it (zod, valibot, arktype and others). The handler gets what the schema
   * makes of them; one that does not fit is an `InvalidPayloadError`, before any guard runs.
   */
  readonly schema?: StandardSchemaV1;
  /** Anything else for basic.consume, by the broker's own names. */
  readonly arguments?: FieldTable;
}

/** How deliveries are gathered for a handler that takes many at once. */
export interface BatchOptions {
  /** Most deliveries in a batch, 1 to 65535. `prefetch` is raised to fit. */
  readonly size: number;
  /** How long the first of a batch waits for more. @default '1s' */
  readonly maxWait?: Duration;
}

/** Options of `@Consume` in the form of one object. */
export interface ConsumeOptionsWithQueue extends ConsumeHandlerOptions {
  /** Its name, or its definition: then it is declared as that says. A queue without a name is always given by its definition. */
  readonly queue: string | QueueDefinition;
}

const DEFAULTED_OPTIONS = [
  'prefetch',
  'concurrency',
  'ack',
  'retry',
  'deadLetter',
  'timeout',
  'autoStart',
  'globalEnhancers',
] as const satisfies readonly (keyof ConsumerDefaults)[];

/** A token, or one that may be missing, as in the `inject` of any Nest factory. */
type Injected = InjectionToken | OptionalFactoryDependency;

/** What the factory is called with: instances of the classes in `inject`. Of other tokens it says the types itself. */
type InjectedArguments<Tokens extends readonly Injected[]> = {
  [Index in keyof Tokens]: Tokens[Index] extends abstract new (...args: never[]) => infer Instance ? Instance : never;
};

/** Options of `@Consume` that come from providers, as the module of the handler sees them, when the application starts. */
export interface ConsumeOptionsFactory<Tokens extends readonly Injected[] = readonly Injected[]> {
  readonly inject?: Tokens;
  readonly useFactory: (
    ...args: InjectedArguments<Tokens>
  ) => ConsumeOptionsWithQueue | Promise<ConsumeOptionsWithQueue>;
}

/** What one `@Consume` notes: its options, or how to get them. */
export type ConsumeNote = ConsumeOptionsWithQueue | ConsumeOptionsFactory;

const CONSUME_OPTIONS = [
  ...DEFAULTED_OPTIONS,
  'queue',
  'bind',
  'when',
  'orderBy',
  'batch',
  'competing',
  'connection',
  'exclusive',
  'priority',
  'consumerTag',
  'contentType',
  'schema',
  'arguments',
] as const satisfies readonly (keyof ConsumeOptionsWithQueue)[];

const CONSUME_METADATA = 'nest-amqp:consume';
/**
 * Where parameter decorators are noted: Nest's own place for route parameters, because that is where its scanner looks for
 * pipes that are given as classes and makes them injectable.
 */
export const PARAMS_METADATA = '__routeArguments__';

/**
 * Makes the method the consumer of a queue. Returning acknowledges the message; throwing has it tried again as `retry` says, and
 * then dead-lettered, which is logged as an error. Errors that a retry cannot help dead-letter it at once: a body that cannot be
 * decoded, a payload that does not fit the `schema`, an `HttpException` of 400 to 499 as pipes and guards throw them (but 408, 425
 * and 429), and `RejectDelivery`. `RequeueDelivery` and `RetryDelivery` put it back, at once or later. A queue that no topology
 * declares is used as it is when it exists, else declared durable. `bind` binds it, and a definition in place of its name declares it as that says; both are part
 * of the connection's topology like what `AmqpModule` is given.
 *
 * Without parameter decorators the method gets `(payload, delivery)`. Several `@Consume` on one method each count. The options
 * may come from a factory, which is injected what it asks for when the application starts.
 * Throws `INVALID_OPTION` for options that do not exist or cannot be; those of a factory fail the boot with it. Throws
 * `INVALID_DEFINITION` on a static method.
 *
 * @example
 * ```ts
 * @Consume('billing', { prefetch: 20, retry: { attempts: 5, delays: ['1s', '10s', '1m'] } })
 * async charge(@Payload() order: Order) { … }
 *
 * @Consume(OrderPlaced, { queue: 'billing' }) // a contract, see `message()`
 * async placed(order: Infer<typeof OrderPlaced>) { … }
 *
 * @Consume('audit', { bind: { exchange: 'orders', routingKey: 'order.*' } })
 * async note(@Payload() order: Order) { … }
 *
 * @Consume({ inject: [ConfigService], useFactory: (config) => ({ queue: config.getOrThrow('REFUNDS_QUEUE') }) })
 * async refund(@Payload() order: Order) { … }
 * ```
 */
export function Consume(queue: string | QueueDefinition, options?: ConsumeHandlerOptions): MethodDecorator;
export function Consume<Contract extends MessageContract>(
  contract: Contract,
  options: ConsumeContractOptions & { readonly batch: BatchOptions },
): BatchContractDecorator<Contract>;
export function Consume<Contract extends MessageContract>(
  contract: Contract,
  options: ConsumeContractOptions,
): ContractDecorator<Contract>;
export function Consume(options: ConsumeOptionsWithQueue): MethodDecorator;
export function Consume<const Tokens extends readonly Injected[]>(
  options: ConsumeOptionsFactory<Tokens>,
): MethodDecorator;
export function Consume(
  queueOrOptions: string | QueueDefinition | MessageContract | ConsumeNote,
  more: ConsumeHandlerOptions = {},
): MethodDecorator {
  const note =
    queueOrOptions instanceof MessageContract
      ? contractNote(queueOrOptions, more as ConsumeContractOptions)
      : noteOf(queueOrOptions, more);
  if (isFactory(note)) refuseUnknown(note, ['inject', 'useFactory'], '@Consume with useFactory has no option');
  else checkConsumeOptions(note);
  return (target, methodName, descriptor: PropertyDescriptor) => {
    if (typeof target === 'function') throw misplaced(`${target.name}.${String(methodName)} is a static method`);
    const method = descriptor.value as object;
    Reflect.defineMetadata(CONSUME_METADATA, [note, ...consumeMetadata(method)], method);
  };
}

function misplaced(where: string): AmqpError {
  return new AmqpError(
    'INVALID_DEFINITION',
    `${where}, and no message comes there: @Consume and its parameter decorators are for methods of instances.`,
  );
}

/** True for options that a factory gives. */
export function isFactory(note: ConsumeNote): note is ConsumeOptionsFactory {
  return typeof (note as Partial<ConsumeOptionsFactory>).useFactory === 'function';
}

/** A queue's name often comes from the environment, past the compiler: undefined is not to be taken for options. */
function noteOf(queueOrOptions: unknown, more: ConsumeHandlerOptions): ConsumeNote {
  return isNote(queueOrOptions) ? queueOrOptions : { ...more, queue: queueOrOptions as string | QueueDefinition };
}

/** Options, as against the definition of a queue, which may have any of the fields that both have. */
function isNote(value: unknown): value is ConsumeNote {
  if (typeof value !== 'object' || value === null) return false;
  const options: readonly string[] = [...CONSUME_OPTIONS, 'useFactory'];
  const both: readonly string[] = ['exclusive', 'arguments', 'deadLetter'];
  return Object.keys(value).some((name) => options.includes(name) && !both.includes(name));
}

/** What the `@Consume` decorators of a method say, in source order. */
export function consumeMetadata(method: object): readonly ConsumeNote[] {
  return (Reflect.getMetadata(CONSUME_METADATA, method) as ConsumeNote[] | undefined) ?? [];
}

/** Checks the options of one `@Consume`. Throws `INVALID_OPTION`. */
export function checkConsumeOptions(options: ConsumeOptionsWithQueue): void {
  refuseUnknown(options, CONSUME_OPTIONS, '@Consume has no option');
  const { queue }: { queue?: unknown } = options;
  if (typeof queue !== 'string' ? typeof queue !== 'object' || queue === null : queue === '') {
    throw new AmqpError(
      'INVALID_OPTION',
      "@Consume needs the name of a queue: @Consume('billing'); or a definition, as of one without a name: @Consume(queue()).",
    );
  }
  const name = typeof queue === 'string' ? queue : (queue as QueueDefinition).name;
  const where = `@Consume(${name === undefined ? 'a queue without a name' : quoted(name)})`;
  checkTopology(topologyIn(options));
  if (options.schema !== undefined && !isStandardSchema(options.schema)) {
    throw new AmqpError(
      'INVALID_OPTION',
      `schema of ${where} is no Standard Schema: it lacks '~standard'. See https://standardschema.dev.`,
    );
  }
  checkDefaults(options, where);
  checkHandling(options, where);
}

/** The arguments of basic.consume. */
export function argumentsOf(priority: number | undefined, args: FieldTable | undefined): FieldTable {
  return { ...(priority === undefined ? {} : { 'x-priority': priority }), ...args };
}

/** Checks what `AmqpModule` gives as defaults. Throws `INVALID_OPTION`. */
export function checkConsumerDefaults(defaults: ConsumerDefaults): void {
  refuseUnknown(defaults, DEFAULTED_OPTIONS, 'The option consumers of AmqpModule has no field');
  checkDefaults(defaults, 'the option consumers of AmqpModule');
}

const ENHANCER_KINDS = [
  'guards',
  'pipes',
  'interceptors',
  'filters',
] as const satisfies readonly (keyof GlobalEnhancers)[];

function checkDefaults(
  { prefetch, concurrency, ack = 'auto', retry, deadLetter, timeout, autoStart, globalEnhancers }: ConsumerDefaults,
  where: string,
): void {
  if (typeof globalEnhancers === 'object') {
    refuseUnknown(globalEnhancers, ENHANCER_KINDS, `globalEnhancers of ${where} has no kind`);
  }
  if (prefetch !== undefined && !(Number.isInteger(prefetch) && prefetch >= 1 && prefetch <= 65_535)) {
    throw new AmqpError(
      'INVALID_OPTION',
      `prefetch of ${where} has to be an integer from 1 to 65535${itIs(prefetch)} Without a bound one consumer takes the whole queue into memory.`,
    );
  }
  checkConcurrency(concurrency, where);
  if (!['auto', 'manual', 'none'].includes(ack)) {
    throw new AmqpError('INVALID_OPTION', `ack of ${where} has to be 'auto', 'manual' or 'none'${itIs(ack)}`);
  }
  if (retry !== undefined) {
    refuseUnknown(retry, ['attempts', 'delays'], `retry of ${where} has no field`);
    retryPolicy(retry, where);
  }
  if (!isDeadLetterOption(deadLetter)) {
    throw new AmqpError(
      'INVALID_OPTION',
      `deadLetter of ${where} has to be the name of a queue, of at most 255 bytes, or { by: 'broker' }${itIs(deadLetter)}`,
    );
  }
  // From configuration it may come as text, and 'false' is true.
  if (autoStart !== undefined && typeof (autoStart as unknown) !== 'boolean') {
    throw new AmqpError('INVALID_OPTION', `autoStart of ${where} has to be true or false${itIs(autoStart)}`);
  }
  if (timeout !== undefined && timerMilliseconds(timeout, `timeout of ${where}`) < 1) {
    throw new AmqpError('INVALID_OPTION', `timeout of ${where} has to be 1 ms or more${itIs(timeout)}`);
  }
}

function isDeadLetterOption(option: unknown): boolean {
  if (typeof option === 'string') return option !== '' && Buffer.byteLength(option) <= 255;
  return (
    option === undefined || (typeof option === 'object' && option !== null && 'by' in option && option.by === 'broker')
  );
}

/**
 * What a parameter is filled with. The first number is Nest's own for a request body, so that pipes, the global
 * ValidationPipe among them, treat a payload like one; the others are beyond Nest's, which makes them custom parameters.
 */
export const PARAM = { payload: 3, delivery: 1001, header: 1002, properties: 1003, signal: 1004 } as const;

type Pipe = Type<PipeTransform> | PipeTransform;

/** The decoded body, or one field of it; pipes apply. */
export function Payload(...pipes: Pipe[]): ParameterDecorator;
export function Payload(key: string, ...pipes: Pipe[]): ParameterDecorator;
export function Payload(keyOrPipe?: string | Pipe, ...pipes: Pipe[]): ParameterDecorator {
  if (typeof keyOrPipe === 'string') return parameter(PARAM.payload, keyOrPipe, pipes);
  return parameter(PARAM.payload, undefined, keyOrPipe === undefined ? pipes : [keyOrPipe, ...pipes]);
}

/** The header of that name, as the publisher wrote it; undefined where there is none; pipes apply. */
export function AmqpHeader(name: string, ...pipes: Pipe[]): ParameterDecorator {
  return parameter(PARAM.header, name, pipes);
}

/** All properties of the message, or one of them: `@AmqpProperties('messageId')`. */
export function AmqpProperties(key?: keyof BasicProperties): ParameterDecorator {
  return parameter(PARAM.properties, key, []);
}

/** The `Delivery`: properties, headers, routing key, the answer ahead of time. */
export function AmqpDelivery(): ParameterDecorator {
  return parameter(PARAM.delivery, undefined, []);
}

/** The delivery's `AbortSignal`, to hand on to what the handler waits for: see `Delivery.signal`. */
export function AmqpSignal(): ParameterDecorator {
  return parameter(PARAM.signal, undefined, []);
}

function parameter(type: number, data: string | undefined, pipes: readonly Pipe[]): ParameterDecorator {
  return (target, method, index) => {
    if (method === undefined)
      throw misplaced(`A parameter of the constructor of ${(target as Type).name} is decorated`);
    if (typeof target === 'function') throw misplaced(`${target.name}.${String(method)} is a static method`);
    const noted = (Reflect.getMetadata(PARAMS_METADATA, target.constructor, method) ?? {}) as object;
    const params = { ...noted, [`${type}:${index}`]: { index, data, pipes } };
    Reflect.defineMetadata(PARAMS_METADATA, params, target.constructor, method);
  };
}
