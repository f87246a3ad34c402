/** What checks of declarations look at, and what they say: plain data, and the shapes that most checks have. */
import type { FieldTable } from '../protocol/field-table.js';
import type { QueueDeclaration } from './declarations.js';
import type { BindingDefinition, ExchangeDefinition } from './definitions.js';
import type { DeadLetterOption } from './failed-deliveries.js';

/** What becomes of a finding: the boot fails, or it is logged, or it is not looked for. */
export type CheckLevel = 'error' | 'warn' | 'off';

/** A broker, as it introduces itself. */
export interface Broker {
  /** `RabbitMQ 4.0.5` */
  readonly name: string;
  /** RabbitMQ, or the embedded broker: what they refuse is known. */
  readonly isKnown: boolean;
  /** `4.3` as `[4, 3]`; the embedded broker does as 4.0. Undefined when it does not say. */
  readonly version: readonly [major: number, minor: number] | undefined;
}

/** A queue that is declared. */
export interface CheckedQueue extends QueueDeclaration {
  /** As it is called in a sentence: `queue 'billing' (AmqpModule.forRoot)`. */
  readonly what: string;
  readonly type: 'classic' | 'quorum' | 'stream' | undefined;
}

/** A consumer that is started. */
export interface CheckedConsumer {
  /** `BillingConsumer.charge` */
  readonly name: string;
  readonly queue: string;
  readonly exclusive: boolean;
  readonly arguments: FieldTable;
  readonly retries: boolean;
  /** As it was given; undefined where it was not. */
  readonly prefetch: number | undefined;
  readonly batchSize: number | undefined;
  /** As it was given, to the handler or for all of them; undefined where it was not. */
  readonly deadLetter: DeadLetterOption | undefined;
}

/** Everything that checks look at. */
export interface Checked {
  readonly broker: Broker;
  readonly exchanges: ReadonlyMap<string, ExchangeDefinition>;
  /** By name or key. */
  readonly queues: ReadonlyMap<string, CheckedQueue>;
  readonly bindings: readonly BindingDefinition[];
  readonly consumers: readonly CheckedConsumer[];
  /** True for an exchange or queue that nobody here declares and the broker does not have. */
  readonly isMissing: (kind: 'exchange' | 'queue', name: string) => boolean;
}

/** One thing that is wrong. */
export interface Flaw {
  /** What it is about, to begin a sentence. */
  readonly subject: string;
  /** What is so, and what comes of it. */
  readonly why: string;
  /** What to do. */
  readonly mend: string;
}

export interface Check {
  /** What becomes of it when nobody says. */
  readonly level: (broker: Broker) => CheckLevel;
  readonly find: (checked: Checked) => Flaw[];
  /** Where it is documented. */
  readonly see: string;
}

export const DOCS = 'https://www.rabbitmq.com/docs';

export const warned = (): CheckLevel => 'warn';
/** What brokers refuse is told before they do; what brokers do that nobody here has seen is theirs to say. */
export const refused = ({ isKnown }: Broker): CheckLevel => (isKnown ? 'error' : 'warn');

/** A flaw of every queue for which there is one. */
export const ofQueues =
  (flawOf: (queue: CheckedQueue, checked: Checked) => Omit<Flaw, 'subject'> | undefined) =>
  (checked: Checked): Flaw[] =>
    [...checked.queues.values()].flatMap((queue) => {
      const flaw = flawOf(queue, checked);
      return flaw === undefined ? [] : [{ subject: queue.what, ...flaw }];
    });

/** A flaw of every consumer for which there is one. */
export const ofConsumers =
  (flawOf: (consumer: CheckedConsumer, queue: CheckedQueue | undefined) => Omit<Flaw, 'subject'> | undefined) =>
  ({ consumers, queues }: Checked): Flaw[] =>
    consumers.flatMap((consumer) => {
      const flaw = flawOf(consumer, queues.get(consumer.queue));
      return flaw === undefined ? [] : [{ subject: `@Consume of ${consumer.name}`, ...flaw }];
    });

/** Whether the broker is a RabbitMQ of at least that version, or does as one. */
export function isAtLeast({ isKnown, version }: Broker, major: number, minor: number): boolean {
  if (!isKnown || version === undefined) return false;
  return version[0] > major || (version[0] === major && version[1] >= minor);
}

/** The type of a queue in a sentence. */
export function queueKind(type: 'classic' | 'quorum' | 'stream'): string {
  return type === 'stream' ? 'stream' : `${type} queue`;
}
