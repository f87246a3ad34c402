/** What the options of a `@Consume` add to the topology of its connection: bindings, and the queue where they define it. */
import { itIs, refuseUnknown } from '../client/option-names.js';
import { AmqpError } from '../errors.js';
import type { QueueDefinition, Topology } from '../messaging/definitions.js';
import type { FieldTable } from '../protocol/field-table.js';

/** What a queue is to receive: messages that the exchange routes under the key. */
export interface ConsumeBinding {
  /** An exchange that some topology declares, or that exists. */
  readonly exchange: string;
  /** @default '' */
  readonly routingKey?: string | undefined;
  /** What the exchange compares, for a headers exchange. */
  readonly arguments?: FieldTable | undefined;
}

/** The options that declare something. */
interface DeclaringOptions {
  readonly queue: string | QueueDefinition;
  readonly bind?: ConsumeBinding | readonly ConsumeBinding[] | undefined;
}

/** Throws `INVALID_OPTION` for a `bind` that is none. `where` names who said it. */
export function topologyIn({ queue, bind = [] }: DeclaringOptions, where: string): Topology {
  const bindings = Array.isArray(bind) ? (bind as readonly ConsumeBinding[]) : [bind as ConsumeBinding];
  return {
    queues: typeof queue === 'object' ? [queue] : [],
    bindings: bindings.map((binding) => {
      // Past the compiler, as from a configuration file.
      if (typeof (binding as unknown) !== 'object' || (binding as unknown) === null) {
        throw new AmqpError(
          'INVALID_OPTION',
          `bind of ${where} has to be { exchange, routingKey? }, or a list of such${itIs(binding)}`,
        );
      }
      refuseUnknown(binding, ['exchange', 'routingKey', 'arguments'], `bind of ${where} has no field`);
      const { exchange: source, ...rest } = binding;
      return { ...rest, source, queue };
    }),
  };
}
