/** Checks of consumers beside the queues that they consume from. */
import { type Check, DOCS, queueKind, ofConsumers, refused, warned } from './check-facts.js';

export const CONSUMER_CHECKS = {
  'exclusive-and-single-active': {
    level: refused,
    find: ofConsumers(({ exclusive }, queue) =>
      exclusive && queue?.type !== 'quorum' && queue?.arguments['x-single-active-consumer'] === true
        ? {
            why: `is exclusive on ${queue.what}, which has a single active consumer: brokers refuse that (403).`,
            mend: 'Leave out one of them.',
          }
        : undefined,
    ),
    see: `${DOCS}/consumers#single-active-consumer`,
  },
  'exclusive-on-quorum': {
    level: warned,
    find: ofConsumers(({ exclusive }, queue) =>
      exclusive && queue?.type === 'quorum'
        ? {
            why: `is exclusive on ${queue.what}, a quorum queue, which has no exclusive consumers.`,
            mend: 'Give the queue singleActiveConsumer.',
          }
        : undefined,
    ),
    see: `${DOCS}/quorum-queues#feature-comparison`,
  },
  'priority-on-stream': {
    level: refused,
    find: ofConsumers(({ arguments: args }, queue) =>
      args['x-priority'] !== undefined && queue?.type === 'stream'
        ? { why: `has a priority on ${queue.what}, a stream, which brokers refuse.`, mend: 'Leave it out.' }
        : undefined,
    ),
    see: `${DOCS}/streams#feature-comparison`,
  },
  'offset-without-stream': {
    level: refused,
    find: ofConsumers(({ arguments: args }, queue) =>
      args['x-stream-offset'] !== undefined && queue !== undefined && queue.type !== 'stream'
        ? {
            why: `has x-stream-offset on ${queue.what}, ${queue.type === undefined ? 'which is no stream' : `a ${queueKind(queue.type)}`}: brokers refuse that.`,
            mend: "Leave it out, or make the queue of type 'stream'.",
          }
        : undefined,
    ),
    see: `${DOCS}/streams#consuming`,
  },
  'retry-on-stream': {
    level: warned,
    find: ofConsumers(({ retries }, queue) =>
      retries && queue?.type === 'stream'
        ? {
            why: `has retry on ${queue.what}, a stream, to which nothing can be put back: what fails is dead-lettered at once.`,
            mend: 'Leave it out, or retry inside the handler.',
          }
        : undefined,
    ),
    see: `${DOCS}/streams`,
  },
  'prefetch-below-batch': {
    level: warned,
    find: ofConsumers(({ prefetch, batchSize }) =>
      prefetch !== undefined && batchSize !== undefined && prefetch < batchSize
        ? {
            why: `has prefetch ${prefetch} and batches of ${batchSize}, which would never be full with it: it is raised to ${batchSize}.`,
            mend: 'Say a prefetch of at least that, or none.',
          }
        : undefined,
    ),
    see: `${DOCS}/consumer-prefetch`,
  },
} as const satisfies Readonly<Record<string, Check>>;
