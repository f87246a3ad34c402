/**
 * What a message's headers say of its earlier attempts, written when it is published again for another one or as a dead letter,
 * and read when it comes back. Where it is published to is not decided here.
 *
 * | header (after `x-nest-amqp-`) | on | meaning |
 * | --- | --- | --- |
 * | `attempt` | retries | the attempt that this delivery is; the first has none |
 * | `attempts` | dead letters | how often it was tried |
 * | `exchange`, `routing-key` | both | what it was first published with |
 * | `queue` | both | the queue whose handler failed |
 * | `error-class`, `error-message` | both | of what the handler threw |
 * | `error-code` | both | its `code`, or the status of an HttpException, where it has one |
 * | `error-stack` | dead letters | of what the handler threw |
 * | `failed-at` | both | when, to the second |
 * | `expiration`, `user-id`, `cc`, `death` | both | properties and headers that would take effect again: see `neutral`. The first, of a retried request: how long its requester waits still |
 * | `properties` | dead letters | the bytes of properties that cannot be decoded or written again |
 * | `dead-queue`, `dead-error-…`, `dead-failed-at` | both | the same of a handler that failed on a dead letter |
 * | `dead-attempts` | dead letters | how often that was tried |
 *
 * A dead letter that a handler of dead letters fails on keeps what it says, for its next attempt too: what became of the message
 * is what such a handler is about.
 */
import type { Message } from '../client/message.js';
import type { PublishOptions } from '../client/channel-options.js';
import type { FieldTable, FieldValue } from '../protocol/field-table.js';
import type { BasicProperties } from '../protocol/properties.js';
import { causesOf, isError, textOf } from './error-text.js';

const ATTEMPT = 'x-nest-amqp-attempt';
const ATTEMPTS = 'x-nest-amqp-attempts';
const EXCHANGE = 'x-nest-amqp-exchange';
const ROUTING_KEY = 'x-nest-amqp-routing-key';
const QUEUE = 'x-nest-amqp-queue';
const ERROR_CLASS = 'x-nest-amqp-error-class';
const ERROR_CODE = 'x-nest-amqp-error-code';
const ERROR_MESSAGE = 'x-nest-amqp-error-message';
const ERROR_STACK = 'x-nest-amqp-error-stack';
const FAILED_AT = 'x-nest-amqp-failed-at';
const EXPIRATION = 'x-nest-amqp-expiration';
const USER_ID = 'x-nest-amqp-user-id';
const COPIES = 'x-nest-amqp-cc';
const DEATHS = 'x-nest-amqp-death';
const PROPERTIES = 'x-nest-amqp-properties';

/** How the headers of a dead letter's own failure begin. */
const OF_DEAD = 'x-nest-amqp-dead-';
const DEAD_QUEUE = 'x-nest-amqp-dead-queue';

/** Most characters of each: with all of them, twice, a header stays far below the frames of 128 KiB that brokers take by default. */
const LONGEST = { class: 200, code: 200, message: 2_000, stack: 8_000 } as const;

/** Where a message was first published to. */
export interface Origin {
  readonly exchange: string;
  readonly routingKey: string;
}

/**
 * Which attempt of this queue's handler a delivery is, from 1. What the broker dead-letters keeps the number, and begins anew:
 * elsewhere, and when it is put back here with the note of its death. What is published for its next attempt has no such note.
 */
export function attemptOf({ headers = {} }: BasicProperties, queue: string): number {
  const { [ATTEMPT]: attempt, [QUEUE]: failedIn, [DEAD_QUEUE]: failedOnDead, 'x-death': deaths } = headers;
  if (typeof attempt !== 'number' || !Number.isInteger(attempt) || attempt < 1) return 1;
  const isCounted = failedIn === queue || failedOnDead === queue;
  const hasDied = isList(deaths) && deaths.some((death) => queueOf(death) === queue);
  return isCounted && !hasDied ? attempt : 1;
}

/**
 * Where a message was first published to. One that came back to this queue after a failure says so in its headers; it comes by
 * way of the default exchange then, and what comes by another way is believed to be what it looks like.
 */
export function originOf(message: Message, queue: string): Origin {
  if (message.exchange !== '') return message;
  const headers = message.properties.headers ?? {};
  const { [EXCHANGE]: exchange, [ROUTING_KEY]: routingKey } = headers;
  if (headers[QUEUE] !== queue || typeof exchange !== 'string' || typeof routingKey !== 'string') return message;
  return { exchange, routingKey };
}

/** What the next attempt of a message is to know. */
export interface RetryFacts {
  readonly isBuriedByBroker?: boolean;
  /** How long its requester will still wait then, in milliseconds. */
  readonly waits?: number | undefined;
}

/** How long its publisher gives it, in milliseconds, as it says now or said before it failed; undefined where it does not. */
export function lifetimeOf({ expiration, headers = {} }: BasicProperties): number | undefined {
  const said = expiration ?? headers[EXPIRATION];
  return typeof said === 'string' && /^\d+$/.test(said) ? Number(said) : undefined;
}

/**
 * The message for its next attempt. Where the broker dead-letters it, which nobody can give headers to, it says nothing of the error: on
 * the dead letter that would be the one of the attempt before.
 */
export function forRetry(
  message: Message,
  queue: string,
  attempt: number,
  error: unknown,
  { isBuriedByBroker = false, waits }: RetryFacts = {},
): PublishOptions {
  const { properties } = message;
  const waiting = waits === undefined ? {} : { [EXPIRATION]: String(Math.ceil(waits)) };
  const headers = { ...neutralHeaders(properties), ...waiting };
  const facts = { [QUEUE]: queue, ...(isBuriedByBroker ? {} : { ...errorHeaders(error), [FAILED_AT]: new Date() }) };
  const told = isDeadLetterOfAnother(message, queue)
    ? { ...without(headers, isOfDead), ...ofDead(facts) }
    : { ...without(headers, isOfError), ...originHeaders(message, queue), ...facts };
  return { ...neutral(properties), headers: { ...told, [ATTEMPT]: attempt + 1 } };
}

/**
 * The message as a dead letter, in ever fewer words: the next is for where the one before makes a header that does not fit a
 * frame, or that cannot be written.
 */
export function* forDeadLetter(
  message: Message,
  queue: string,
  attempt: number,
  error: unknown,
): Generator<PublishOptions, void, undefined> {
  const { text, stack } = described(error);
  const facts = { [ATTEMPTS]: attempt, [QUEUE]: queue, ...errorHeaders(error), [FAILED_AT]: new Date() };
  const long = { ...facts, [ERROR_STACK]: stack };
  const short = { ...facts, [ERROR_MESSAGE]: cut(text, 200) };
  try {
    const { properties } = message;
    const kept = neutral(properties);
    const headers = without(neutralHeaders(properties), (name) => name === ATTEMPT);
    if (isDeadLetterOfAnother(message, queue)) {
      const first = without(headers, isOfDead);
      yield { ...kept, headers: { ...first, ...ofDead(long) } };
      yield { ...kept, headers: { ...first, ...ofDead(short) } };
    } else {
      const own = { ...without(headers, isOfError), ...originHeaders(message, queue) };
      yield { ...kept, headers: { ...own, ...long } };
      yield { ...kept, headers: { ...own, ...short } };
    }
    yield { ...kept, headers };
  } catch {
    // Its properties cannot be decoded.
  }
  const plain = { deliveryMode: 2, mandatory: true };
  const { exchange, routingKey } = message;
  const origin = { [EXCHANGE]: exchange, [ROUTING_KEY]: routingKey };
  yield { ...plain, headers: { ...origin, ...facts, [PROPERTIES]: message.propertyBytes } };
  yield { ...plain, headers: { ...origin, ...facts } };
}

/** It came as a dead letter of another queue; one of this queue that was put back into it begins anew. */
function isDeadLetterOfAnother({ exchange, properties: { headers = {} } }: Message, queue: string): boolean {
  const { [ATTEMPTS]: attempts, [QUEUE]: origin } = headers;
  return exchange === '' && typeof attempts === 'number' && typeof origin === 'string' && origin !== queue;
}

function ofDead(facts: FieldTable): FieldTable {
  return Object.fromEntries(
    Object.entries(facts).map(([name, value]) => [name.replace('x-nest-amqp-', OF_DEAD), value]),
  );
}

function errorHeaders(error: unknown): FieldTable {
  const { className, code, text } = described(error);
  return {
    [ERROR_CLASS]: className,
    ...(code === undefined ? {} : { [ERROR_CODE]: code }),
    [ERROR_MESSAGE]: text,
  };
}

/** What an earlier failure may have left that this one does not say again. */
function isOfError(name: string): boolean {
  return name === ERROR_CODE || name === ERROR_STACK || isOfDead(name);
}

function isOfDead(name: string): boolean {
  return name.startsWith(OF_DEAD);
}

/**
 * The properties, without those that would take effect again: an expiration would end the wait early, and the dead letter; with
 * the user id of another user RabbitMQ refuses a message.
 */
function neutral({ expiration: _, userId: __, headers: ___, ...properties }: BasicProperties): PublishOptions {
  return { ...properties, deliveryMode: 2, mandatory: true };
}

/**
 * The headers, with those renamed that would take effect again. `CC` has the broker send copies. An `x-death` in which the queue
 * is named makes the broker take the way back from the wait queue for a cycle, and drop the message.
 */
function neutralHeaders({ headers = {}, expiration, userId }: BasicProperties): FieldTable {
  const { CC: copies, 'x-death': deaths } = headers;
  const foreign = isList(deaths) ? deaths.filter((death) => !isWait(death)) : [];
  const lifted: FieldTable = {
    [EXPIRATION]: expiration,
    [USER_ID]: userId,
    [COPIES]: copies,
    [DEATHS]: foreign.length === 0 ? undefined : foreign,
  };
  return {
    ...without(headers, (name) => STALE.test(name)),
    // What an earlier attempt has noted is not in the properties any more.
    ...Object.fromEntries(Object.entries(lifted).filter(([, value]) => value !== undefined)),
  };
}

/** Headers that only the broker is to write. */
const STALE = /^(CC|BCC|x-death|x-(first|last)-death-.*|x-(delivery|acquired)-count)$/;

function without(table: FieldTable, isOut: (name: string) => boolean): FieldTable {
  return Object.fromEntries(Object.entries(table).filter(([name]) => !isOut(name)));
}

/** The headers of a message that is published anew: what the broker noted of another one's deaths would have it drop this one. */
export function withoutDeaths(headers: FieldTable): FieldTable {
  return without(headers, (name) => DEATHS_OF_BROKER.test(name));
}

const DEATHS_OF_BROKER = /^x-(death|(first|last)-death-.*)$/;

/** An entry of `x-death` that only tells of waiting: for an attempt, or with `delay`. */
function isWait(death: FieldValue): boolean {
  const queue = queueOf(death);
  return typeof queue === 'string' && /\.retry\.\d+(\.quorum)?$|^nest-amqp\.delay\.\d+(\.|$)/.test(queue);
}

function queueOf(death: FieldValue): unknown {
  return (death as { readonly queue?: unknown } | null | undefined)?.queue;
}

function isList(value: FieldValue | undefined): value is readonly FieldValue[] {
  return Array.isArray(value);
}

function originHeaders(message: Message, queue: string): FieldTable {
  const { exchange, routingKey } = originOf(message, queue);
  return { [EXCHANGE]: exchange, [ROUTING_KEY]: routingKey, [QUEUE]: queue };
}

/** What was thrown, in words that have an end. Users throw anything, getters that throw included. */
export function described(error: unknown): {
  readonly className: string;
  /** Its `code`, or the status of an HttpException; undefined where it has neither. */
  readonly code: string | undefined;
  readonly text: string;
  readonly stack: string;
} {
  const code = codeOf(error);
  try {
    const text = cut(textOf(error), LONGEST.message);
    if (!isError(error)) return { className: typeof error, code, text, stack: '' };
    const stacks = [error, ...causesOf(error)].map((one) => (isError(one) ? (one.stack ?? '') : textOf(one)));
    return {
      className: cut(error.constructor.name || error.name, LONGEST.class),
      code,
      text,
      stack: cut(stacks.join('\n  caused by: '), LONGEST.stack),
    };
  } catch {
    return { className: 'unknown', code, text: 'What was thrown has no text.', stack: '' };
  }
}

function codeOf(error: unknown): string | undefined {
  try {
    const { code, getStatus } = Object(error) as { readonly code?: unknown; readonly getStatus?: unknown };
    const said: unknown =
      code === undefined && typeof getStatus === 'function' ? Reflect.apply(getStatus, error, []) : code;
    if (typeof said === 'number') return String(said);
    return typeof said === 'string' && said !== '' ? cut(said, LONGEST.code) : undefined;
  } catch {
    return undefined;
  }
}

/** Of what is text only in the types, nothing. */
export function cut(text: unknown, most: number): string {
  if (typeof text !== 'string') return '';
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
