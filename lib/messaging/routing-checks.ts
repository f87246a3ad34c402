/** Checks of where messages go: dead letters, alternate exchanges, bindings. */
import { quoted } from '../errors.js';
import { looseWildcard } from '../protocol/topic-pattern.js';
import { type Check, type Checked, DOCS, ofQueues, warned } from './check-facts.js';
import type { BindingDefinition, ExchangeDefinition } from './definitions.js';

export const ROUTING_CHECKS = {
  'dead-letter-missing': {
    level: warned,
    find: ofQueues(({ arguments: args }, { isMissing }) => {
      const [exchange, key] = [args['x-dead-letter-exchange'], args['x-dead-letter-routing-key']];
      if (typeof exchange === 'string' && exchange !== '' && isMissing('exchange', exchange)) {
        return {
          why: `has the dead-letter exchange ${quoted(exchange)}, which nobody declares: its dead letters are dropped.`,
          mend: 'Declare it, and bind a queue to it.',
        };
      }
      if (exchange === '' && typeof key === 'string' && isMissing('queue', key)) {
        return {
          why: `sends its dead letters to queue ${quoted(key)}, which nobody declares: they are dropped.`,
          mend: 'Declare the queue.',
        };
      }
      return undefined;
    }),
    see: `${DOCS}/dlx`,
  },
  'dead-letter-unbound': {
    level: warned,
    find: ofQueues(({ arguments: args }, { exchanges, bindings }) => {
      const name = args['x-dead-letter-exchange'];
      const exchange = typeof name === 'string' ? exchanges.get(name) : undefined;
      if (exchange === undefined || leadsOn(exchange) || bindings.some(({ source }) => source === name))
        return undefined;
      return {
        why: `has the dead-letter exchange ${quoted(exchange.name)}, to which nothing is bound here: its dead letters are dropped.`,
        mend: 'Bind a queue to it; or leave it, where somebody else does.',
      };
    }),
    see: `${DOCS}/dlx`,
  },
  'alternate-exchange-missing': {
    level: warned,
    find: ({ exchanges, isMissing }) =>
      [...exchanges.values()].flatMap(({ name, alternateExchange, arguments: args = {} }) => {
        const alternate = alternateExchange ?? args['alternate-exchange'];
        if (typeof alternate !== 'string' || !isMissing('exchange', alternate)) return [];
        return [
          {
            subject: `exchange ${quoted(name)}`,
            why: `has the alternate exchange ${quoted(alternate)}, which nobody declares: what no binding takes is dropped.`,
            mend: 'Declare it, and bind a queue to it.',
          },
        ];
      }),
    see: `${DOCS}/ae`,
  },
  'topic-binding-without-key': {
    level: warned,
    find: (checked) =>
      topicBindings(checked)
        .filter(({ routingKey }) => routingKey === undefined)
        .map((binding) => ({
          subject: calledOf(binding),
          why: 'has no routingKey, and takes only messages whose routing key is empty.',
          mend: "Give it one: 'order.*' for one more word, '#' for everything; '' if that is meant.",
        })),
    see: `${DOCS}/exchanges#topic`,
  },
  'topic-wildcard-in-word': {
    level: warned,
    find: (checked) =>
      topicBindings(checked).flatMap((binding) => {
        const { routingKey = '' } = binding;
        const loose = looseWildcard(routingKey);
        if (loose === undefined) return [];
        return [
          {
            subject: calledOf(binding),
            why: `has the routingKey ${quoted(routingKey)}, and takes only messages with that very key: within a word a ${loose.wildcard} is a letter like any other.`,
            mend: `Make it a word of its own: ${quoted(loose.mended)}.`,
          },
        ];
      }),
    see: `${DOCS}/exchanges#topic`,
  },
} as const satisfies Readonly<Record<string, Check>>;

/** What no binding takes goes on from there. */
function leadsOn({ alternateExchange, arguments: args }: ExchangeDefinition): boolean {
  return alternateExchange !== undefined || args?.['alternate-exchange'] !== undefined;
}

/** Where routing keys are patterns. Of an exchange that somebody else declares the type is not known. */
function topicBindings({ bindings, exchanges }: Checked): BindingDefinition[] {
  return bindings.filter(({ source }) => source === 'amq.topic' || exchanges.get(source)?.type === 'topic');
}

function calledOf({ source, queue, exchange }: BindingDefinition): string {
  const to = typeof queue === 'string' ? `queue ${quoted(queue)}` : `exchange ${quoted(exchange ?? '')}`;
  return `binding from topic exchange ${quoted(source)} to ${to}`;
}
