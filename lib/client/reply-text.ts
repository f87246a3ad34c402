/** The text beside a reply code: the broker's for the user, and ours for the broker. */
import { printable } from '../errors.js';
import type { MethodName } from '../protocol/methods.js';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';

/** What to do about the reply codes that a user can do something about. */
const CLOSE_ADVICE: Readonly<Record<number, string>> = {
  403: 'Grant the user the permission, wait for the exclusive user to end, or use another name.',
  404: 'Declare it first, or correct the name.',
  405: 'Another connection holds it exclusively: wait for that to end, or use another name.',
  406: 'See the reply text: it names what does not fit.',
};

/** Of an exchange type that is not known to the broker, or known and not there. */
const NO_SUCH_TYPE = /(?:unknown|invalid) exchange type '(.*?)'/;

/** Which plugin has which exchange type. */
const PLUGINS: Readonly<Record<string, string>> = {
  'x-delayed-message': 'rabbitmq_delayed_message_exchange',
  'x-consistent-hash': 'rabbitmq_consistent_hash_exchange',
  'x-modulus-hash': 'rabbitmq_sharding',
  'x-random': 'rabbitmq_random_exchange',
  'x-recent-history': 'rabbitmq_recent_history_exchange',
  'x-jms-topic': 'rabbitmq_jms_topic_exchange',
};

function adviceOn(replyCode: number, replyText: string): string | undefined {
  const type = NO_SUCH_TYPE.exec(replyText)?.[1];
  if (type === undefined) return CLOSE_ADVICE[replyCode];
  const plugin = Object.hasOwn(PLUGINS, type) ? PLUGINS[type] : undefined;
  if (plugin === undefined) {
    return 'Without plugins a broker has direct, fanout, topic and headers, and RabbitMQ from 4.0 on x-local-random.';
  }
  const instead = type === 'x-delayed-message' ? '; or publish with delay of AmqpPublisher, which needs no plugin' : '';
  return `Enable the plugin ${plugin} on the broker${instead}.`;
}

/** The broker's reply as a sentence or two: `404 'NOT_FOUND - no queue …' (queue.bind). Declare it first, …`. */
export function closeReason(replyCode: number, replyText: string, method: MethodName | undefined): string {
  // A login or a virtual host that is refused: the errors of the handshake have better advice.
  const advice = method?.startsWith('connection.') === true ? undefined : adviceOn(replyCode, replyText);
  const told = replyTold(replyCode, replyText, method);
  return advice === undefined ? told : `${told} ${advice}`;
}

/** The same without advice, for who has better: `404 'NOT_FOUND - no queue …' (queue.bind).` */
export function replyTold(replyCode: number, replyText: string, method: string | undefined): string {
  return `${replyCode} ${printable(replyText.replace(/\.$/, ''))}${method === undefined ? '' : ` (${method})`}.`;
}

/** A reply text that fits a short string: control characters escaped, cut at a character. */
export function shortText(text: string): string {
  const bytes = Buffer.from(printable(text, LONGEST_SHORTSTR));
  if (bytes.length <= LONGEST_SHORTSTR) return bytes.toString();
  let end = LONGEST_SHORTSTR;
  // The bytes of a character after its first are 10xxxxxx.
  while (((bytes[end] as number) & 0xc0) === 0x80) end -= 1;
  return bytes.toString('utf8', 0, end);
}
