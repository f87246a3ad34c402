/** What the compiler makes of `@Consume`: which options go with what it is given, and which methods it may decorate. */
import type { Observable } from 'rxjs';
import type { QueueDefinition } from '../messaging/definitions.js';
import type { Delivery } from '../messaging/delivery.js';
import type { Infer, InferReplyInput, MessageContract } from '../messaging/message.js';
import type {
  ConsumeContractOptions,
  ConsumeHandlerOptions,
  ConsumeOptionsFactory,
  ConsumeOptionsWithQueue,
  ConsumeQueueContractOptions,
  Injected,
} from './consume-options.js';

/** Keeps options, which have some fields of a definition too, from passing for one. */
interface NoOptions {
  readonly queue?: never;
  readonly useFactory?: never;
}

/** A queue's name, its definition, or a contract. */
export type ConsumeSource = string | (QueueDefinition & NoOptions) | MessageContract;

/** The same where options follow: of a definition, the compiler is to see misspelt names. */
export type SourceBesideOptions<Source> = [Source] extends [string | MessageContract]
  ? Source
  : string | QueueDefinition;

/** The options that go with it. */
export type OptionsBeside<Source, Payload, Size extends number> = [Source] extends [MessageContract]
  ? Source['exchange'] extends ''
    ? ConsumeQueueContractOptions<Infer<Source>, Size> | undefined
    : ConsumeContractOptions<Infer<Source>, Size>
  : ConsumeHandlerOptions<Payload, Size> | undefined;

/** What `@Consume` is given alone. Anything but a source is options, or a factory of them. */
export type SourceAlone<Source, Tokens extends readonly Injected[], Options, Payload, Size extends number> = [
  Source,
] extends [MessageContract]
  ? Source['exchange'] extends ''
    ? Source
    : 'a contract of an exchange needs a queue: @Consume(contract, { queue })'
  : [Source] extends [string | (QueueDefinition & NoOptions)]
    ? string | QueueDefinition
    : string | ConsumeOptionsWithQueue<Payload, Size> | ConsumeOptionsFactory<Tokens, Options>;

/** Decorates any method where nothing says what the payload is. */
export type ConsumeDecorator<Source, Payload, Size extends number> = [Source] extends [MessageContract]
  ? HandlerDecorator<Infer<Source>, Size, InferReplyInput<Source>>
  : unknown extends Payload
    ? MethodDecorator
    : HandlerDecorator<Payload, Size>;

/**
 * Decorates methods that can handle a payload of that type: one of the parameters takes it, a field of it or the delivery, or there
 * is none; with batches, lists of them. What is returned has to be what the contract's `reply` takes, where it has one.
 */
export type HandlerDecorator<Payload, Size extends number = never, Reply = unknown> = <
  Method extends (...args: never[]) => unknown,
>(
  target: object,
  name: string | symbol,
  descriptor: Fitting<Method, Payload, Size, Reply>,
) => void;

/** The method, or what is wrong with it. A size that is not known may as well be none. */
type Fitting<Method extends (...args: never[]) => unknown, Payload, Size extends number, Reply> = [Size] extends [never]
  ? Takes<Parameters<Method>, Payload, false> extends true
    ? ReturnType<Method> extends Returned<Reply>
      ? TypedPropertyDescriptor<Method>
      : { readonly 'what is returned has to be': Reply }
    : { readonly 'no parameter takes': Payload }
  : true extends
        | Takes<Parameters<Method>, Payload, true>
        | (number extends Size ? Takes<Parameters<Method>, Payload, false> : never)
    ? TypedPropertyDescriptor<Method>
    : { readonly 'no parameter takes': Payload[] };

type Returned<Reply> = Reply | Promise<Reply> | Observable<Reply> | AsyncIterable<Reply>;

/** One of it, or the list that a batch has. */
type Given<T, InBatch extends boolean> = InBatch extends true ? T[] : T;

type Takes<Args extends readonly unknown[], Payload, InBatch extends boolean> = Args extends readonly []
  ? true
  : // In brackets, because `any` would be both true and false.
    [Given<Payload, InBatch>] extends [Args[number]]
    ? true
    : Given<Delivery<Payload>, InBatch> extends Args[number]
      ? true
      : Payload extends object
        ? // Distributed over the fields, and true where it is so for one of them.
          true extends {
            [Key in keyof Payload]-?: Given<Payload[Key], InBatch> extends Args[number] ? true : false;
          }[keyof Payload]
          ? true
          : false
        : false;
