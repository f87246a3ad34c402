/** `@Consume` by a contract: what it says as options, and what of that is kept beside them. */
import type { StandardSchemaV1 } from '@standard-schema/spec';
import type { MessageContract } from '../messaging/message.js';
import type { ConsumeOptionsWithQueue, ConsumeQueueContractOptions } from './consume-options.js';

/**
 * Under which options keep the routing key of their contract: where several handlers share a queue, it picks theirs as `when` would.
 * A handler that is alone takes whatever comes, also what was sent to the queue itself.
 */
const CONTRACT_KEY = Symbol('nest-amqp:routing key of the contract');

/** Under which options keep what the `reply` of their contract says of results. */
const CONTRACT_REPLY = Symbol('nest-amqp:reply schema of the contract');

/** Options, and what a contract says beside them. */
interface ContractNote extends ConsumeOptionsWithQueue {
  readonly [CONTRACT_KEY]?: string;
  readonly [CONTRACT_REPLY]?: StandardSchemaV1 | undefined;
}

/**
 * What a contract says, as options: its schema reads what comes, and the queue is bound to its exchange. The default exchange has
 * every queue bound by its name already: there the routing key says which queue it is, where the options do not.
 */
export function contractNote(
  { exchange, routingKey, schema, reply }: MessageContract,
  options: ConsumeQueueContractOptions,
): ContractNote {
  const isDirect = exchange === '';
  // A queue that is said to be undefined, as by an environment that lacks its name, is told as an error.
  const queue = isDirect && !('queue' in options) ? routingKey : (options.queue as string);
  const said = { ...options, queue, schema, [CONTRACT_REPLY]: reply };
  if (isDirect) return said;
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
