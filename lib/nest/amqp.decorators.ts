/**
 * `@Consume` and the parameter decorators: what they note on a class. Acting on it is the explorer's and the listener's; what the
 * options are is in `consume-options`, how they go together in `consume-signature`.
 */
import type { PipeTransform, Type } from '@nestjs/common';
import { itIs } from '../client/option-names.js';
import { AmqpError, quoted } from '../errors.js';
import type { QueueDefinition } from '../messaging/definitions.js';
import { MessageContract } from '../messaging/message.js';
import type { BasicProperties } from '../protocol/properties.js';
import { contractNote } from './consume-contract.js';
import {
  CONSUME_OPTIONS,
  type ConsumeHandlerOptions,
  type ConsumeNote,
  type ConsumeOptionsFactory,
  type ConsumeOptionsWithQueue,
  type Injected,
} from './consume-options.js';
import type {
  ConsumeDecorator,
  ConsumeSource,
  OptionsBeside,
  SourceAlone,
  SourceBesideOptions,
} from './consume-signature.js';
import { checkConsumeFactory, checkConsumeOptions } from './handler-checks.js';

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
 * declares is used as it is when it exists, else declared durable. `bind` binds it, and a definition in place of its name declares it
 * as that says; both are part of the connection's topology like what `AmqpModule` is given.
 *
 * Without parameter decorators the method gets `(payload, delivery)`. Several `@Consume` on one method each count. The options
 * may come from a factory, which is injected what it asks for when the application starts.
 *
 * With a contract or a `schema` the compiler holds the method to it: one of its parameters has to take the payload, a field of it, or
 * the delivery. A contract of the default exchange names its queue by its routing key; with any other, `queue` says it.
 * Throws `INVALID_OPTION` for options that do not exist or cannot be, and names the method; those of a factory fail the boot with it.
 * Throws `INVALID_DEFINITION` on a static method.
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
export function Consume<Source extends ConsumeSource, Payload = unknown, Size extends number = never>(
  source: SourceBesideOptions<Source>,
  options: OptionsBeside<Source, Payload, Size>,
): ConsumeDecorator<Source, Payload, Size>;
export function Consume<
  Source extends ConsumeSource,
  const Tokens extends readonly Injected[] = [],
  Options extends ConsumeOptionsWithQueue = ConsumeOptionsWithQueue,
  Payload = unknown,
  Size extends number = never,
>(source: SourceAlone<Source, Tokens, Options, Payload, Size>): ConsumeDecorator<Source, Payload, Size>;
export function Consume(source: unknown, options?: unknown): unknown {
  const decorate: MethodDecorator = (target, methodName, descriptor: PropertyDescriptor) => {
    if (typeof target === 'function') throw misplaced(`${target.name}.${String(methodName)} is a static method`);
    // Checked here and not above: only now is it known whose they are.
    const note = noteOf(source, options, `${target.constructor.name}.${String(methodName)}`);
    const method = descriptor.value as object;
    Reflect.defineMetadata(CONSUME_METADATA, [note, ...consumeMetadata(method)], method);
  };
  return decorate;
}

function misplaced(where: string): AmqpError {
  return new AmqpError(
    'INVALID_DEFINITION',
    `${where}, and no message comes there: @Consume and its parameter decorators are for methods of instances.`,
  );
}

/** True for options that a factory gives. */
export function isFactory(note: ConsumeNote): note is ConsumeOptionsFactory {
  return 'useFactory' in note;
}

/** What one `@Consume` of a handler says, checked. Throws `INVALID_OPTION` and `INVALID_DEFINITION`. */
function noteOf(source: unknown, options: unknown, where: string): ConsumeNote {
  // Past the compiler in plain JavaScript; null would read as no options.
  if (options !== undefined && (typeof options !== 'object' || options === null)) {
    throw invalid(`The options of @Consume of ${where} have to be an object: { prefetch: 20 }${itIs(options)}`);
  }
  if (isNote(source)) {
    if (options !== undefined) {
      throw invalid(`@Consume of ${where} has options twice. Say them all in one object, or give the queue first.`);
    }
    if (isFactory(source)) checkConsumeFactory(source, where);
    else checkConsumeOptions(source, where);
    return source;
  }
  const note =
    source instanceof MessageContract
      ? noteOfContract(source as MessageContract, options ?? {}, where)
      : { ...(options as ConsumeHandlerOptions | undefined), queue: source as string | QueueDefinition };
  checkConsumeOptions(note, where);
  return note;
}

function noteOfContract(contract: MessageContract, options: object, where: string): ConsumeOptionsWithQueue {
  if ('schema' in options) {
    throw invalid(`@Consume of ${where} has a schema beside a contract, which has one. Leave it out.`);
  }
  if (contract.exchange !== '' && !('queue' in options)) {
    throw invalid(
      `@Consume of ${where} needs the name of a queue: the contract says only that it is bound to exchange ` +
        `${quoted(contract.exchange)}. Say it: @Consume(contract, { queue: 'billing' }).`,
    );
  }
  return contractNote(contract, options);
}

/**
 * Options, as against the definition of a queue, which may have any of the fields that both have. A queue's name often comes from
 * the environment, past the compiler: undefined is neither.
 */
function isNote(value: unknown): value is ConsumeNote {
  if (typeof value !== 'object' || value === null || value instanceof MessageContract) return false;
  const options: readonly string[] = [...CONSUME_OPTIONS, 'useFactory'];
  const both: readonly string[] = ['exclusive', 'arguments', 'deadLetter'];
  return Object.keys(value).some((name) => options.includes(name) && !both.includes(name));
}

/** What the `@Consume` decorators of a method say, in source order. */
export function consumeMetadata(method: object): readonly ConsumeNote[] {
  return (Reflect.getMetadata(CONSUME_METADATA, method) as ConsumeNote[] | undefined) ?? [];
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

function invalid(message: string): AmqpError {
  return new AmqpError('INVALID_OPTION', message);
}
