/**
 * Looks through a topology, and the consumers on it, for what goes wrong on the broker that it is for. The checks themselves are
 * in `queue-checks`, `routing-checks`, `consumer-checks` and `dead-letter-checks`; what becomes of findings is decided above.
 */
import type { Connection } from '../client/connection.js';
import { EMBEDDED_PRODUCT } from '../client/handshake.js';
import { itIs, refuseUnknown } from '../client/option-names.js';
import { AmqpError, quoted } from '../errors.js';
import type { FieldTable } from '../protocol/field-table.js';
import type { Broker, Check, CheckLevel, Checked, CheckedConsumer, CheckedQueue } from './check-facts.js';
import { CONSUMER_CHECKS } from './consumer-checks.js';
import { DEAD_LETTER_CHECKS } from './dead-letter-checks.js';
import { queueDeclaration } from './declarations.js';
import { QUEUE_CHECKS } from './queue-checks.js';
import { ROUTING_CHECKS } from './routing-checks.js';
import type { PlannedTopology } from './topology-plan.js';

const CHECKS = { ...QUEUE_CHECKS, ...ROUTING_CHECKS, ...CONSUMER_CHECKS, ...DEAD_LETTER_CHECKS };

/** What is checked, as a name that stays the same between releases. */
export type CheckCode = keyof typeof CHECKS;

/** What becomes of findings, by their codes; of the others the check says it. */
export type CheckLevels = Readonly<Partial<Record<CheckCode, CheckLevel>>>;

export const CHECK_CODES = Object.keys(CHECKS) as readonly CheckCode[];

/** Something that goes wrong. */
export interface Finding {
  readonly code: CheckCode;
  readonly level: 'error' | 'warn';
  /** What is so, what comes of it, what to do, and where to read on. */
  readonly message: string;
}

/** Throws `INVALID_OPTION` for codes and levels that there are not. */
export function checkLevels(levels: CheckLevels): void {
  refuseUnknown(levels, CHECK_CODES, 'topologyChecks of AmqpModule has no check');
  for (const [code, level] of Object.entries(levels) as [string, string][]) {
    if (['error', 'warn', 'off'].includes(level)) continue;
    throw new AmqpError(
      'INVALID_OPTION',
      `${code} in topologyChecks of AmqpModule has to be 'error', 'warn' or 'off'${itIs(level)}`,
    );
  }
}

/** The broker, by the server-properties of connection.start. */
export function brokerOf({ product, version }: FieldTable): Broker {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(typeof version === 'string' ? version : '') ?? [];
  const isEmbedded = product === EMBEDDED_PRODUCT;
  return {
    name: [product, version].filter((part) => typeof part === 'string').join(' '),
    isKnown: isEmbedded || product === 'RabbitMQ',
    version: isEmbedded ? [4, 0] : major === undefined ? undefined : [Number(major), Number(minor)],
  };
}

/** What is looked through. */
export interface Inspected {
  readonly topology: PlannedTopology;
  readonly consumers: readonly CheckedConsumer[];
  readonly broker: Broker;
  readonly placeOf: (queue: string) => string | undefined;
  /** True for what nobody here declares and the broker does not have, see `missingOf`. */
  readonly isMissing: Checked['isMissing'];
}

/** Everything that is wrong and not turned off. */
export function findingsOf(
  { topology, consumers, broker, placeOf, isMissing }: Inspected,
  levels: CheckLevels,
): Finding[] {
  const checked: Checked = {
    broker,
    exchanges: new Map(topology.exchanges.map((definition) => [definition.name, definition])),
    queues: checkedQueues(topology, placeOf),
    bindings: topology.bindings,
    consumers,
    isMissing,
  };
  return (Object.entries(CHECKS) as [CheckCode, Check][]).flatMap(([code, check]) => {
    const level = levels[code] ?? check.level(broker);
    if (level === 'off') return [];
    return check.find(checked).map(({ subject, why, mend }) => {
      const told = `${subject.charAt(0).toUpperCase()}${subject.slice(1)} ${why} ${mend}`;
      return { code, level, message: `${told} (${code}: ${check.see})` };
    });
  });
}

function checkedQueues({ queues }: PlannedTopology, placeOf: Inspected['placeOf']): Map<string, CheckedQueue> {
  // Of queues that are used as they are nothing is known.
  const declared = queues.filter(({ isAdopted }) => !isAdopted);
  return new Map(
    declared.map(({ isServerNamed, name, ...rest }) => {
      const declaration = queueDeclaration(isServerNamed ? rest : { ...rest, name });
      const place = placeOf(name);
      const what = `queue ${quoted(name)}${place === undefined || isServerNamed ? '' : ` (${place})`}`;
      return [name, { ...declaration, what, type: typeOf(declaration.arguments) }];
    }),
  );
}

function typeOf({ 'x-queue-type': type }: FieldTable): CheckedQueue['type'] {
  return type === 'classic' || type === 'quorum' || type === 'stream' ? type : undefined;
}

/**
 * Asks the broker which of the exchanges and queues that are dead-lettered to, or alternates, and that nobody here declares, are
 * not there.
 */
export async function missingOf(connection: Connection, topology: PlannedTopology): Promise<Checked['isMissing']> {
  const { exchanges, queues } = namedOnly(topology);
  const missing = new Set<string>();
  const ask = async (
    key: string,
    passive: (channel: Awaited<ReturnType<Connection['channel']>>) => Promise<unknown>,
  ) => {
    const channel = await connection.channel();
    try {
      await passive(channel);
    } catch (error) {
      if (!connection.isOpen || !(error instanceof AmqpError)) throw error;
      if (error.replyCode === 404) missing.add(key);
    } finally {
      await channel.close();
    }
  };
  for (const name of exchanges) {
    await ask(`exchange ${name}`, (channel) => channel.exchangeDeclare(name, 'direct', { passive: true }));
  }
  for (const name of queues) await ask(`queue ${name}`, (channel) => channel.queueDeclare(name, { passive: true }));
  return (kind, name) => missing.has(`${kind} ${name}`);
}

/** What a topology names and does not declare. */
function namedOnly(topology: PlannedTopology): { readonly exchanges: Set<string>; readonly queues: Set<string> } {
  const [exchanges, queues] = [new Set<string>(), new Set<string>()];
  for (const definition of topology.queues) {
    const { 'x-dead-letter-exchange': exchange, 'x-dead-letter-routing-key': key } =
      queueDeclaration(definition).arguments;
    if (exchange === '' && typeof key === 'string') queues.add(key);
    else if (typeof exchange === 'string') exchanges.add(exchange);
  }
  for (const { alternateExchange, arguments: args = {} } of topology.exchanges) {
    const alternate = alternateExchange ?? args['alternate-exchange'];
    if (typeof alternate === 'string') exchanges.add(alternate);
  }
  for (const { name } of topology.exchanges) exchanges.delete(name);
  for (const { name } of topology.queues) queues.delete(name);
  exchanges.delete('');
  return { exchanges, queues };
}
