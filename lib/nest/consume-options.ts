/** The options of `@Consume`, as users write them and as they are noted. What can be wrong with them is told by `handler-checks`. */
import type { InjectionToken, OptionalFactoryDependency } from '@nestjs/common';
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { type SaidElsewhere, namesOf } from '../client/option-names.js';
import type { QueueDefinition } from '../messaging/definitions.js';
import type { Delivery } from '../messaging/delivery.js';
import type { AckMode } from '../messaging/delivery-answers.js';
import type { DeadLetterOption } from '../messaging/failed-deliveries.js';
import type { RetryOptions } from '../messaging/outcome.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { Duration } from '../time/duration.js';
import type { ConsumeBinding } from './consume-topology.js';

/** Defaults that `AmqpModule` gives to every `@Consume`. */
export interface ConsumerDefaults {
  /** Most deliveries of one consumer under way at a time, 1 to 65535. @default 50 */
  readonly prefetch?: number | undefined;
  /** How many handlers of one consumer may run at once; the rest of what is prefetched waits. With `batch`, how many batches. @default prefetch */
  readonly concurrency?: number | undefined;
  /**
   * Who acknowledges: the handler's return (`'auto'`), the handler with `delivery.ack()` (`'manual'`), or nobody (`'none'`): then
   * a message is done with before its handler runs, and lost with a process that ends. @default 'auto'
   */
  readonly ack?: AckMode | undefined;
  /**
   * How often and when a delivery whose handler throws is tried again: `{}` is after 1 s, 10 s and a minute, `attempts` alone as
   * often, with the minute for all further ones. @default not at all
   */
  readonly retry?: RetryOptions | undefined;
  /**
   * Where deliveries go that failed for good: to the queue of this name, or with `{ by: 'broker' }` to the dead-letter exchange
   * that the queue has without the topology saying so, by a policy for one. @default the dead-letter exchange of the queue's
   * definition, and where that has none the queue `<queue>.dead`. As a default of the module it does not count for the handlers of
   * that very queue
   */
  readonly deadLetter?: DeadLetterOption | undefined;
  /**
   * How long a handler may take, and before that how long reading its message may, where a schema or a serializer takes its time;
   * what takes longer has failed, and `delivery.signal` fires. @default for ever
   */
  readonly timeout?: Duration | undefined;
  /**
   * Whether it consumes as soon as the application is ready; `false` leaves it to `resume()` of the `ConsumerRegistry`, for what has
   * to warm up first. @default true
   */
  readonly autoStart?: boolean | undefined;
  /**
   * Whether the application's global guards, pipes, interceptors and filters apply (`APP_GUARD`, `app.useGlobalGuards` and
   * so on): `false` keeps them away, for those that know HTTP only; an object says it for each kind. What the class and the
   * method carry themselves always applies. @default true
   */
  readonly globalEnhancers?: boolean | GlobalEnhancers | undefined;
}

/** Which kinds of global enhancers apply; those that are left out do. */
export interface GlobalEnhancers {
  readonly guards?: boolean | undefined;
  readonly pipes?: boolean | undefined;
  readonly interceptors?: boolean | undefined;
  readonly filters?: boolean | undefined;
}

/**
 * What is said of one handler: options of every `@Consume`. `Payload` is what the handler gets, as far as the compiler knows, and
 * `Size` the size of its batches, or never.
 */
export interface HandlingOptions<Payload = unknown, Size extends number = number> extends ConsumerDefaults {
  /** Binds the queue, once or several times, whenever it is declared. Bindings that are no longer named stay. */
  readonly bind?: ConsumeBinding | readonly ConsumeBinding[] | undefined;
  /**
   * Routing keys that this handler takes, as a topic pattern (`*` is one word, `#` any number of them, `'order.*'`; within a word,
   * as in `'order*'`, they fail the boot), where several handlers share a queue; it is the key that a message was first published
   * with, also after a retry. What none of them takes is dead-lettered; a handler without `when` takes all the rest.
   */
  readonly when?: string | undefined;
  /**
   * Says which deliveries are handled one after the other, in the order in which they came: those for which it returns the same
   * text or number. With undefined a delivery waits for no other. What it throws, the delivery has failed with. The payload is typed
   * by the contract or the `schema`; without, say it: `orderBy: ({ payload }: Delivery<Order>) => payload.customer`.
   */
  orderBy?(delivery: Delivery<NoInfer<Payload>>): unknown;
  /** Has the handler take many deliveries at once: `(payloads, deliveries)`. */
  readonly batch?: BatchOptions<Size> | undefined;
  /**
   * This handler has a consumer of its own beside the others of its queue in this application, which say it too: each message goes
   * to any one of them. @default false: a queue has one consumer, and two handlers without `when` fail the boot
   */
  readonly competing?: boolean | undefined;
  /** Name of the connection to consume on. @default 'default' */
  readonly connection?: string | undefined;
  /** Nobody else may consume from the queue. @default false */
  readonly exclusive?: boolean | undefined;
  /** Consumers of a higher priority get messages first (https://www.rabbitmq.com/docs/consumer-priority). @default 0 */
  readonly priority?: number | undefined;
  /** Name of the consumer, for the broker to show. @default a random one */
  readonly consumerTag?: string | undefined;
  /** How every body is read, whatever its content type says: for publishers that say nothing, or something wrong. */
  readonly contentType?: string | undefined;
  /**
   * Anything else for basic.consume, by the broker's own names. `x-stream-offset` says where a stream is read from by the first start; one
   * that starts over goes on where it was.
   */
  readonly arguments?: FieldTable | undefined;
}

/** Options of `@Consume` beside the name or the definition of a queue. */
export interface ConsumeHandlerOptions<Payload = unknown, Size extends number = number> extends HandlingOptions<
  Payload,
  Size
> {
  /**
   * What payloads have to be, as any Standard Schema says it (zod, valibot, arktype and others). The handler gets what the schema
   * makes of them; one that does not fit is an `InvalidPayloadError`, before any guard runs. The method has to take what
   * comes out.
   */
  readonly schema?: StandardSchemaV1<unknown, Payload> | undefined;
}

/** How deliveries are gathered for a handler that takes many at once. */
export interface BatchOptions<Size extends number = number> {
  /** Most deliveries in a batch, 1 to 65535. `prefetch` is raised to fit. */
  readonly size: Size;
  /** How long the first of a batch waits for more. @default '1s' */
  readonly maxWait?: Duration | undefined;
}

/** Options of `@Consume` in the form of one object. */
export interface ConsumeOptionsWithQueue<Payload = unknown, Size extends number = number> extends ConsumeHandlerOptions<
  Payload,
  Size
> {
  /** Its name, or its definition: then it is declared as that says. A queue without a name is always given by its definition. */
  readonly queue: string | QueueDefinition;
}

/** Options of `@Consume` beside a contract, which has the schema: whose queue it is. */
export interface ConsumeContractOptions<Payload = unknown, Size extends number = number> extends HandlingOptions<
  Payload,
  Size
> {
  /** Its name, or its definition. It is bound to the exchange of the contract, under its routing key. */
  readonly queue: string | QueueDefinition;
}

/** The same beside a contract of the default exchange. */
export interface ConsumeQueueContractOptions<Payload = unknown, Size extends number = number> extends HandlingOptions<
  Payload,
  Size
> {
  /** Its definition, to declare it as that says. @default the queue that the contract's routing key names */
  readonly queue?: string | QueueDefinition | undefined;
}

/** A token, or one that may be missing, as in the `inject` of any Nest factory. */
export type Injected = InjectionToken | OptionalFactoryDependency;

/** An instance of a class; what another token stands for, the factory says itself: `useFactory: (config: Settings) => …`. */
type InstanceFor<Token> = Token extends abstract new (...args: never[]) => infer Instance ? Instance : unknown;

type InjectedArgument<Dependency> = Dependency extends {
  readonly token: infer Token;
  readonly optional: infer Optional;
}
  ? InstanceFor<Token> | (Optional extends false ? never : undefined)
  : InstanceFor<Dependency>;

/** What a factory is called with. */
type InjectedArguments<Tokens extends readonly Injected[]> = {
  [Index in keyof Tokens]: InjectedArgument<Tokens[Index]>;
};

/** What a factory returns: the compiler does not look for misspelt names in what functions return. */
type Known<Options> =
  Exclude<keyof Options, keyof ConsumeOptionsWithQueue> extends infer Name
    ? [Name] extends [never]
      ? Options
      : `@Consume has no option ${Name & string}`
    : never;

/** Options of `@Consume` that come from providers, as the module of the handler sees them, when the application starts. */
export interface ConsumeOptionsFactory<
  Tokens extends readonly Injected[] = readonly Injected[],
  Options = ConsumeOptionsWithQueue,
> {
  /** What `useFactory` is called with: classes, other tokens, or `{ token, optional: true }`. @default nothing */
  readonly inject?: Tokens | undefined;
  /** Gives the options, or a promise of them. */
  useFactory(...args: InjectedArguments<Tokens>): Known<Options> | Promise<Known<Options>>;
  /** Is among what the factory gives. */
  readonly queue?: never;
}

/** What one `@Consume` notes: its options, or how to get them. */
export type ConsumeNote = ConsumeOptionsWithQueue | ConsumeOptionsFactory;

/** The names of `ConsumerDefaults`. */
export const DEFAULTED_OPTIONS = namesOf<ConsumerDefaults>({
  prefetch: true,
  concurrency: true,
  ack: true,
  retry: true,
  deadLetter: true,
  timeout: true,
  autoStart: true,
  globalEnhancers: true,
});

/** The names of all options. */
export const CONSUME_OPTIONS = [
  ...DEFAULTED_OPTIONS,
  ...namesOf<Omit<ConsumeOptionsWithQueue, keyof ConsumerDefaults>>({
    queue: true,
    bind: true,
    when: true,
    orderBy: true,
    batch: true,
    competing: true,
    connection: true,
    exclusive: true,
    priority: true,
    consumerTag: true,
    contentType: true,
    schema: true,
    arguments: true,
  }),
];

const OF_QUEUE = "That is said of the queue: { queue: { name: 'billing', … } }, by the names of its definition.";
const FAILURES = 'What becomes of a delivery whose handler throws say retry and deadLetter.';
const BIND = 'Say bind: { exchange, routingKey }.';

/** What `@Consume` is told by those who come from other libraries. */
export const CONSUME_ELSEWHERE: SaidElsewhere = {
  exchange: BIND,
  routingKey: BIND,
  bindQueueArguments: 'Say bind: { exchange, arguments }.',
  noAck: "Say ack: 'none'.",
  prefetchCount: 'Say prefetch.',
  batchOptions: 'Say batch: { size, maxWait }.',
  queueOptions: OF_QUEUE,
  durable: OF_QUEUE,
  autoDelete: OF_QUEUE,
  messageTtl: OF_QUEUE,
  type: OF_QUEUE,
  deadLetterExchange:
    "Say it of the queue, deadLetter: { exchange, routingKey }; deadLetter: 'billing.dead' of @Consume names a queue.",
  deadLetterRoutingKey: 'Say it of the queue: deadLetter: { exchange, routingKey }.',
  createQueueIfNotExists: "A queue that is there is used as it is; topologyMode: 'check' of AmqpModule declares none.",
  errorHandler: FAILURES,
  errorBehavior: FAILURES,
  requeue: FAILURES,
  allowNonJsonMessages: "Bodies are read by their content type; contentType: 'text/plain' says it for all of them.",
  deserializer: 'Say serializers of AmqpModule, or contentType.',
  'x-': 'Say arguments: { … } for the consumer, or arguments in the definition of the queue.',
};

/** The arguments of basic.consume. */
export function argumentsOf(priority: number | undefined, args: FieldTable | undefined): FieldTable {
  return { ...(priority === undefined ? {} : { 'x-priority': priority }), ...args };
}
