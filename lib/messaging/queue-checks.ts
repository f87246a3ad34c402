/**
 * Checks of queues by themselves. What they say of RabbitMQ 3.10, 4.0 and 4.3 was seen on these; of other versions it is from the
 * page that they name.
 */
import { inWords } from './declarations.js';
import { DOCS, type Check, isAtLeast, queueKind, ofQueues, refused, warned } from './check-facts.js';

const DEPRECATED = 'https://www.rabbitmq.com/release-information/deprecated-features-list';
const NOTES_43 = 'https://github.com/rabbitmq/rabbitmq-server/releases/tag/v4.3.0';

/** Arguments that RabbitMQ refuses (406) for a queue of that type, whichever version it is. */
const NOT_OF_TYPE: Readonly<Record<'classic' | 'quorum' | 'stream', readonly string[]>> = {
  classic: [
    'x-delivery-limit',
    'x-dead-letter-strategy',
    'x-quorum-initial-group-size',
    'x-max-age',
    'x-stream-max-segment-size-bytes',
    'x-initial-cluster-size',
  ],
  quorum: [
    'x-queue-mode',
    'x-queue-version',
    'x-queue-master-locator',
    'x-max-age',
    'x-stream-max-segment-size-bytes',
    'x-initial-cluster-size',
  ],
  stream: [
    'x-max-priority',
    'x-message-ttl',
    'x-expires',
    'x-max-length',
    'x-overflow',
    'x-dead-letter-exchange',
    'x-dead-letter-routing-key',
    'x-dead-letter-strategy',
    'x-delivery-limit',
    'x-single-active-consumer',
    'x-queue-mode',
    'x-queue-version',
    'x-queue-master-locator',
    'x-quorum-initial-group-size',
  ],
};

/** From which a quorum queue has a delivery limit of 20 without being told (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). */
const DEFAULT_DELIVERY_LIMIT = 20;

export const QUEUE_CHECKS = {
  'transient-shared-queue': {
    // 4.3 logs that it is deprecated; it refuses what its release notes say it would only when it is configured to.
    level: warned,
    find: ofQueues((queue) =>
      queue.durable || queue.exclusive
        ? undefined
        : {
            why: 'is neither durable nor exclusive, which RabbitMQ deprecates: where that is not permitted, it closes the connection (541).',
            mend: 'Make it durable, with expires where it is to go by itself; or exclusive.',
          },
    ),
    see: DEPRECATED,
  },
  'queue-master-locator': {
    level: (broker) => (isAtLeast(broker, 4, 3) ? 'error' : isAtLeast(broker, 4, 0) ? 'warn' : 'off'),
    find: ofQueues((queue) =>
      queue.arguments['x-queue-master-locator'] === undefined || queue.type === 'quorum' || queue.type === 'stream'
        ? undefined
        : { why: 'has x-queue-master-locator, which RabbitMQ 4.3 refuses.', mend: 'Say x-queue-leader-locator.' },
    ),
    see: DEPRECATED,
  },
  'queue-mode': {
    level: (broker) => (broker.isKnown && !isAtLeast(broker, 3, 12) ? 'off' : 'warn'),
    find: ofQueues((queue) =>
      queue.arguments['x-queue-mode'] === undefined || queue.type === 'quorum' || queue.type === 'stream'
        ? undefined
        : {
            why: 'has x-queue-mode, which means nothing since RabbitMQ 3.12.',
            mend: 'Leave it out: every classic queue keeps its messages on disk by now.',
          },
    ),
    see: `${DOCS}/lazy-queues`,
  },
  'queue-version': {
    level: (broker) =>
      isAtLeast(broker, 4, 3) ? 'error' : broker.isKnown && !isAtLeast(broker, 4, 0) ? 'off' : 'warn',
    find: ofQueues((queue) =>
      queue.arguments['x-queue-version'] === 1
        ? { why: 'has x-queue-version 1, which RabbitMQ 4.3 refuses.', mend: 'Leave it out.' }
        : undefined,
    ),
    see: NOTES_43,
  },
  'queue-type-flags': {
    level: refused,
    find: ofQueues(({ type, name, durable, exclusive, autoDelete }) => {
      if (type !== 'quorum' && type !== 'stream') return undefined;
      const flags = [
        ...(name === undefined ? ['unnamed'] : []),
        ...(durable ? [] : ['not durable']),
        ...(exclusive ? ['exclusive'] : []),
        ...(autoDelete ? ['auto-deleted'] : []),
      ];
      if (flags.length === 0) return undefined;
      return {
        why: `is a ${queueKind(type)} and ${flags.join(', ')}, which brokers refuse: it is durable and shared.`,
        mend: 'Leave that out, or use a classic queue.',
      };
    }),
    see: `${DOCS}/quorum-queues#feature-comparison`,
  },
  'queue-type-arguments': {
    level: refused,
    find: ofQueues(({ type, arguments: args }) => {
      const wrong = type === undefined ? [] : NOT_OF_TYPE[type].filter((name) => args[name] !== undefined);
      if (type === undefined || wrong.length === 0) return undefined;
      return {
        why: `is a ${queueKind(type)} with ${wrong.map(inWords).join(', ')}, which brokers refuse: a ${queueKind(type)} has no such thing.`,
        mend: 'Leave it out, or use another type.',
      };
    }),
    see: `${DOCS}/queues#optional-arguments`,
  },
  'queue-type-missing': {
    level: warned,
    find: ofQueues(({ type, arguments: args }) => {
      const foreign = type === undefined ? NOT_OF_TYPE.classic.filter((name) => args[name] !== undefined) : [];
      if (foreign.length === 0) return undefined;
      return {
        why: `has ${foreign.join(', ')} and no type: brokers refuse it, unless the default type of the virtual host is another than classic.`,
        mend: "Say which: type: 'quorum' or 'stream'.",
      };
    }),
    see: `${DOCS}/vhosts#default-queue-type`,
  },
  'quorum-priority': {
    level: refused,
    find: ofQueues(({ type, arguments: args }) =>
      type === 'quorum' && args['x-max-priority'] !== undefined
        ? {
            why: 'is a quorum queue with maxPriority, which brokers refuse.',
            mend:
              'Leave it out: without it quorum queues tell priorities up to 4 from those above since RabbitMQ 4.0, and 32 of them since 4.3. ' +
              'Below 4.0, use a queue for each priority, or a classic queue.',
          }
        : undefined,
    ),
    see: `${DOCS}/quorum-queues#priorities`,
  },
  'quorum-overflow': {
    level: warned,
    find: ofQueues(({ type, arguments: args }) =>
      type === 'quorum' && args['x-overflow'] === 'reject-publish-dlx'
        ? {
            why: "is a quorum queue with overflow 'reject-publish-dlx', which it does not have: it drops its oldest messages instead.",
            mend: "Say 'reject-publish', or 'drop-head' with a dead-letter exchange.",
          }
        : undefined,
    ),
    see: `${DOCS}/maxlength#overflow-behaviour`,
  },
  'at-least-once-overflow': {
    level: warned,
    find: ofQueues(({ type, arguments: args }) =>
      type === 'quorum' &&
      args['x-dead-letter-strategy'] === 'at-least-once' &&
      (args['x-overflow'] !== 'reject-publish' || args['x-dead-letter-exchange'] === undefined)
        ? {
            why:
              "has the dead-letter strategy 'at-least-once' without overflow 'reject-publish' and a dead-letter exchange: " +
              "the broker then dead-letters 'at-most-once'.",
            mend: "Say overflow: 'reject-publish' and deadLetter.",
          }
        : undefined,
    ),
    see: `${DOCS}/quorum-queues#activating-at-least-once-dead-lettering`,
  },
  'delivery-limit-drops': {
    level: warned,
    find: ofQueues(({ type, arguments: args }, { broker }) => {
      const byDefault = isAtLeast(broker, 4, 0) ? DEFAULT_DELIVERY_LIMIT : -1;
      const limit = args['x-delivery-limit'] ?? byDefault;
      if (type !== 'quorum' || typeof limit !== 'number' || limit < 0) return undefined;
      if (args['x-dead-letter-exchange'] !== undefined) return undefined;
      return {
        why: `drops a message that came back more than ${limit} times: it has no dead-letter exchange, unless a policy gives it one.`,
        mend: 'Give it deadLetter; or deliveryLimit: -1 for no limit.',
      };
    }),
    see: `${DOCS}/quorum-queues#poison-message-handling`,
  },
} as const satisfies Readonly<Record<string, Check>>;
