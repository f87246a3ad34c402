/** What a publisher and its publishes can be told, and the check that nothing else was. */
import { inspect } from 'node:util';
import { type SaidElsewhere, adviceOn, namesOf } from '../client/option-names.js';
import { checkSignal } from '../client/signals.js';
import { AmqpError, printable, quoted } from '../errors.js';
import type { BasicProperties } from '../protocol/properties.js';
import type { Duration } from '../time/duration.js';

/** Defaults of a publisher. */
export interface PublisherOptions {
  /** Written to disk by the broker. @default true */
  readonly persistent?: boolean | undefined;
  /** A message that reaches no queue is an error. @default true */
  readonly mandatory?: boolean | undefined;
  /** Longest wait for the confirm, reconnecting included; then as if `signal` had fired. @default '30s' */
  readonly timeout?: Duration | undefined;
  /** Set on every message as `appId`. */
  readonly appId?: string | undefined;
  /**
   * What is carried from the delivery that a handler is given to what it publishes: the property `correlationId` and the header
   * `x-correlation-id`, with a list these headers too; `false` carries nothing. What a publish says itself counts.
   * @default false
   */
  readonly carry?: boolean | readonly string[] | undefined;
  /** How payloads are written, unless they are bytes: JSON, or what one of the `serializers` is for. @default 'application/json' */
  readonly contentType?: string | undefined;
}

/** Options of one message: its properties, and how it is published. */
export interface PublishMessageOptions
  extends Omit<BasicProperties, 'deliveryMode' | 'expiration'>, Omit<PublisherOptions, 'carry'> {
  /** What it is compressed with, unless it is bytes, which may be already: `'gzip'`, `'deflate'` or `'br'`. @default none */
  readonly contentEncoding?: string | undefined;
  /**
   * Has the broker hold it for so long before it goes to the exchange, at most 24 days; not with `expiration`. See
   * docs/publishing.md. @default 0, not at all
   */
  readonly delay?: Duration | undefined;
  /** How long it may wait in a queue. */
  readonly expiration?: Duration | undefined;
  /**
   * Ends the wait for the confirm with `ABORTED`. What has not left by then is not sent; what has may arrive all the same. The
   * error says which.
   */
  readonly signal?: AbortSignal | undefined;
}

const MESSAGE_OPTIONS = namesOf<PublishMessageOptions>({
  persistent: true,
  mandatory: true,
  timeout: true,
  signal: true,
  delay: true,
  expiration: true,
  contentType: true,
  contentEncoding: true,
  headers: true,
  priority: true,
  correlationId: true,
  replyTo: true,
  messageId: true,
  timestamp: true,
  type: true,
  userId: true,
  appId: true,
  clusterId: true,
});

const PLACES = 'They stand before the payload: publish(exchange, routingKey, payload, options).';
const COPIES = 'Say headers: { CC: [ … ], BCC: [ … ] }.';

/** What a publish is told by those who come from other libraries. */
const ELSEWHERE: SaidElsewhere = {
  deliveryMode: 'Say persistent: true or false.',
  exchange: PLACES,
  routingKey: PLACES,
  CC: COPIES,
  BCC: COPIES,
  ttl: 'Say expiration.',
  immediate: 'RabbitMQ does not know it: say expiration: 0.',
  confirm: 'Every publish is confirmed: leave it out.',
  'x-': 'Say headers: { … }; to have it held back say delay.',
};

const KNOWN: ReadonlySet<string> = new Set(MESSAGE_OPTIONS);

/**
 * Throws `INVALID_OPTION` for an option that there is not, and for what would be taken for something else: once for each publish that
 * has any, so without a list of its names. The properties are the wire's to check.
 */
export function checkMessageOptions(options: PublishMessageOptions): void {
  if (typeof options !== 'object' || (options as unknown) === null) {
    throw new AmqpError(
      'INVALID_OPTION',
      `The options of a publish have to be an object, not ${printable(inspect(options), 60)}.`,
    );
  }
  const { persistent, signal } = options;
  checkSignal(signal, 'a publish');
  if (persistent !== undefined && typeof persistent !== 'boolean') {
    throw new AmqpError(
      'INVALID_OPTION',
      `persistent of a publish is ${printable(inspect(persistent), 60)}; say true or false.`,
    );
  }
  for (const name in options) {
    if (KNOWN.has(name)) continue;
    throw new AmqpError(
      'INVALID_OPTION',
      `A publish has no option ${quoted(name)}. ${adviceOn(name, MESSAGE_OPTIONS, ELSEWHERE)}`,
    );
  }
}
