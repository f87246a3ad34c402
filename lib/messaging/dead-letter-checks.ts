/** Checks of consumers of dead letters: what they fail on themselves comes to rest somewhere, and somebody knows where. */
import { quoted } from '../errors.js';
import { type Check, type Checked, type CheckedConsumer, DOCS, refused, warned } from './check-facts.js';

/** How the queue for dead letters is called after its own, where nobody says it. */
const DEAD = '.dead';

export const DEAD_LETTER_CHECKS = {
  'dead-letter-cycle': {
    level: refused,
    find: (checked) =>
      checked.consumers.flatMap(({ name, queue, deadLetter }) => {
        if (typeof deadLetter !== 'string' || !leadsTo(deadLetter, queue, checked)) return [];
        return [
          {
            subject: `@Consume of ${name}`,
            why: `has deadLetter ${quoted(deadLetter)}, from where dead letters come back to queue ${quoted(queue)}: what always fails would go round for ever.`,
            mend: 'Name a queue from which nothing comes back; to try again later, say retry.',
          },
        ];
      }),
    see: `${DOCS}/dlx`,
  },
  'dead-letter-chain': {
    level: refused,
    find: (checked) =>
      unsaid(checked)
        .filter(({ queue }) => isParked(queue))
        .map(({ name, queue }) => ({
          subject: `@Consume of ${name}`,
          why: `consumes from queue ${quoted(queue)}, where what a handler of dead letters failed on is parked; what it fails on itself would go to ${quoted(`${queue}${DEAD}`)}, and so on.`,
          mend: 'Say with deadLetter where that ends: in a queue from which nobody consumes.',
        })),
    see: `${DOCS}/dlx`,
  },
  'dead-letters-consumed': {
    level: warned,
    find: (checked) =>
      unsaid(checked)
        .filter(({ queue }) => !isParked(queue) && isOfDeadLetters(queue, checked))
        .map(({ name, queue }) => ({
          subject: `@Consume of ${name}`,
          why: `consumes dead letters from queue ${quoted(queue)}; what it fails on itself is parked in queue ${quoted(`${queue}${DEAD}`)}, which nobody empties.`,
          mend: `Look after that queue, and say so: deadLetter: ${quoted(`${queue}${DEAD}`)}, or the name of another one.`,
        })),
    see: `${DOCS}/dlx`,
  },
} as const satisfies Readonly<Record<string, Check>>;

/** Consumers of which nobody says where their dead letters go, so that this module names a queue for them. */
function unsaid({ consumers, queues }: Checked): CheckedConsumer[] {
  return consumers.filter(
    ({ queue, deadLetter }) =>
      deadLetter === undefined && queues.get(queue)?.arguments['x-dead-letter-exchange'] === undefined,
  );
}

/** By its name, or because handlers here send theirs there. In a cycle no queue is the last. */
function isOfDeadLetters(queue: string, checked: Checked): boolean {
  const isSentTo = checked.consumers.some(({ deadLetter }) => deadLetter === queue);
  return (queue.endsWith(DEAD) || isSentTo) && !leadsTo(`${queue}${DEAD}`, queue, checked);
}

function isParked(queue: string): boolean {
  return queue.endsWith(`${DEAD}${DEAD}`);
}

/** Whether handlers that fail bring a message from one queue to the other, by way of the dead letters that this module publishes. */
function leadsTo(from: string, to: string, checked: Checked): boolean {
  const named = new Set(unsaid(checked));
  const reached = new Set([from]);
  for (const at of reached) {
    for (const consumer of checked.consumers) {
      if (consumer.queue !== at) continue;
      if (typeof consumer.deadLetter === 'string') reached.add(consumer.deadLetter);
      else if (named.has(consumer)) reached.add(`${at}${DEAD}`);
    }
  }
  return reached.has(to);
}
