/**
 * Which of the publishes on a channel the broker has closed it over, and how they are told. The close may name an exchange, or a
 * size, and never names the message. What becomes of the others is decided above.
 */
import { AmqpError, PublishRefusedError, destination, factsOf } from '../errors.js';

/** What tells one publish from another, as far as it can be to blame. */
export interface Blamable {
  readonly exchange: string;
  readonly routingKey: string;
  readonly body: string | Uint8Array;
}

/** Where something is published to. */
type Target = Pick<Blamable, 'exchange' | 'routingKey'>;

/** What is to blame, each with its error; `areOthersInnocent` is false where that is nobody that can be told from the others. */
export interface Refusals<P extends Blamable> {
  readonly errors: ReadonlyMap<P, AmqpError>;
  readonly areOthersInnocent: boolean;
}

/** Of the publishes that await their confirm, those over which the channel may have been closed. */
export function refusalsOf<P extends Blamable>(publishes: readonly P[], reason: AmqpError): Refusals<P> {
  if (reason.method !== 'basic.publish') return { errors: new Map(), areOthersInnocent: reason.closedBy !== 'client' };
  const limit = largestTaken(reason);
  if (limit !== undefined) {
    const larger = publishes.filter(({ body }) => Buffer.byteLength(body) > limit);
    return {
      errors: new Map(larger.map((publish) => [publish, tooLarge(publish, limit, reason)])),
      areOthersInnocent: true,
    };
  }
  const named = publishes.filter((publish) => blames(reason, publish));
  // Where the close names nobody, over a property for one, it is still about one of them.
  const blamed = named.length === 0 && publishes.length === 1 ? publishes : named;
  // Of several the earlier ones may have been taken: before the exchange was deleted, before the permission was.
  const isCertain = blamed.length === 1;
  const refused = ({ exchange, routingKey }: P): AmqpError =>
    new PublishRefusedError(exchange, routingKey, reason, isCertain);
  return {
    errors: new Map(blamed.map((publish) => [publish, refused(publish)])),
    areOthersInnocent: blamed.length > 0,
  };
}

/** What the default exchange, whose name is empty, is called where a user may not write to it. */
const DEFAULT_EXCHANGE = 'amq.default';

/**
 * Whether the broker closed a channel over what is published there: `no exchange 'x' in vhost '/'` (404), `access to exchange 'x' in
 * vhost '/' refused` (403), and of topic permissions `access to topic 'key' in exchange topic 'x' in vhost '/' refused`.
 */
export function blames({ method, replyText = '' }: AmqpError, { exchange, routingKey }: Target): boolean {
  if (method !== 'basic.publish') return false;
  const name = exchange === '' ? DEFAULT_EXCHANGE : exchange;
  const isNamed = ['exchange', 'topic'].some((kind) => replyText.includes(` ${kind} '${name}' in vhost `));
  return isNamed && (!isAboutTopic(replyText) || replyText.includes(` topic '${routingKey}' in exchange `));
}

/** True where a user may write to the exchange, and not with that routing key. */
export function isAboutTopic(replyText: string): boolean {
  return replyText.includes(' access to topic ');
}

/**
 * The bytes that a body may have, where the broker closed the channel over a larger one: 406, `message size 134217729 is larger
 * than configured max size 134217728`.
 */
function largestTaken({ replyText }: AmqpError): number | undefined {
  const [, limit] = /message size \d+ is larger than (?:configured )?max size (\d+)/.exec(replyText ?? '') ?? [];
  return limit === undefined ? undefined : Number(limit);
}

/** The error of a message that the broker never takes, whichever it was that the channel was closed over. */
function tooLarge({ exchange, routingKey, body }: Blamable, limit: number, cause: AmqpError): AmqpError {
  return new AmqpError(
    'MESSAGE_TOO_LARGE',
    `The message of ${Buffer.byteLength(body)} bytes to ${destination(exchange, routingKey)} is larger than the broker takes, ` +
      `${limit} bytes; it is not stored. Send less in one message, or raise max_message_size of the broker.`,
    { ...factsOf(cause), cause },
  );
}
