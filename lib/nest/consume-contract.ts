/** `@Consume` by a contract: what it says as options, and what the compiler asks of the methods that it decorates. */
import type { StandardSchemaV1 } from '@standard-schema/spec';
import type { Observable } from 'rxjs';
import type { Delivery } from '../messaging/delivery.js';
import type { Infer, InferReplyInput, MessageContract } from '../messaging/message.js';
import type { ConsumeOptionsWithQueue } from './amqp.decorators.js';

/** Options of `@Consume` beside a contract: whose queue it is, and no schema, which the contract has. */
export type ConsumeContractOptions = Omit<ConsumeOptionsWithQueue, 'schema'>;

/**
 * Decorates methods that can handle messages of a contract: one of the parameters takes the payload, a field of it or the delivery,
 * or there is none; and what is returned is what the contract's `reply` takes, where it has one.
 */
export type ContractDecorator<Contract extends MessageContract> = <Method extends (...args: never[]) => unknown>(
  target: object,
  name: string | symbol,
  descriptor: TypedPropertyDescriptor<Method> & Fits<Method, Contract>,
) => void;

/** The same for handlers of batches: their parameters take lists, and nobody is replied to. */
export type BatchContractDecorator<Contract extends MessageContract> = <Method extends (...args: never[]) => unknown>(
  target: object,
  name: string | symbol,
  descriptor: TypedPropertyDescriptor<Method> &
    (Takes<Parameters<Method>, Infer<Contract>, true> extends true
      ? unknown
      : { readonly 'no parameter takes': Infer<Contract>[] }),
) => void;

type Fits<Method extends (...args: never[]) => unknown, Contract extends MessageContract> =
  Takes<Parameters<Method>, Infer<Contract>> extends true
    ? ReturnType<Method> extends Returned<InferReplyInput<Contract>>
      ? unknown
      : { readonly 'what is returned has to be': InferReplyInput<Contract> }
    : { readonly 'no parameter takes': Infer<Contract> };

type Returned<Reply> = Reply | Promise<Reply> | Observable<Reply> | AsyncIterable<Reply>;

/** One of it, or the list that a batch has. */
type Given<T, InBatch extends boolean> = InBatch extends true ? T[] : T;

type Takes<Args extends readonly unknown[], Payload, InBatch extends boolean = false> = Args extends readonly []
  ? true
  : Given<Payload, InBatch> extends Args[number]
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

/**
 * Under which options keep the routing key of their contract: where several handlers share a queue, it picks theirs as `when` would.
 * A handler that is alone takes whatever comes, also what was sent to the queue itself.
 */
export const CONTRACT_KEY = Symbol('nest-amqp:routing key of the contract');

/** Under which options keep what the `reply` of their contract says of results. */
const CONTRACT_REPLY = Symbol('nest-amqp:reply schema of the contract');

/** Options, and what a contract says beside them. */
interface ContractNote extends ConsumeOptionsWithQueue {
  readonly [CONTRACT_KEY]?: string;
  readonly [CONTRACT_REPLY]?: StandardSchemaV1 | undefined;
}

/** What a contract says, as options: the queue is bound to its exchange, and its schema reads what comes. */
export function contractNote(
  { exchange, routingKey, schema, reply }: MessageContract,
  options: ConsumeContractOptions,
): ContractNote {
  const said = { ...options, schema, [CONTRACT_REPLY]: reply };
  // Every queue is bound to the default exchange, by its name.
  if (exchange === '') return said;
  return {
    ...said,
    bind: [{ exchange, routingKey }, options.bind ?? []].flat(),
    [CONTRACT_KEY]: routingKey,
  };
}

/** The routing keys that a handler takes where others share its queue; undefined for all the rest. */
export function patternOf(options: ContractNote): string | undefined {
  return options.when ?? options[CONTRACT_KEY];
}

/** What a handler's results have to be for those who request them; undefined where no contract says so. */
export function replySchemaOf(options: ContractNote): StandardSchemaV1 | undefined {
  return options[CONTRACT_REPLY];
}
