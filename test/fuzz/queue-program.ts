/**
 * A program of publishes, consumers, answers, gets, purges, closes and waits, run through our client over a broker and over the
 * reference at the same time: after every step both hold the same messages in the same order, and what was delivered is what
 * had to be.
 */
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';

import type { Channel, ConfirmChannel } from '../../lib/client/channel.js';
import type { Connection } from '../../lib/client/connection.js';
import type { Message } from '../../lib/client/message.js';
import { AmqpError } from '../../lib/errors.js';
import type { FieldTable } from '../../lib/protocol/field-table.js';
import {
  type Letter,
  type QueueShape,
  type ReferenceConsumer,
  ReferenceQueues,
  type Seen,
  Tie,
  type Verdict,
  same,
  seenOf,
} from './reference-queues.js';

/** Queues of one program. `a`, `b` and `q` may lose messages to `dead.a`, `dead.b` and `dead.q`. */
export const SOURCES = ['a', 'b', 'q'] as const;
const QUEUES = [...SOURCES, ...SOURCES.map((name) => `dead.${name}`)];
const FANOUT = 'fan';
const CHANNELS = 2;

/** A step: what is done, and numbers that say to what, whatever there is then. */
export interface Step {
  readonly kind: (typeof KINDS)[number];
  readonly which: number;
  readonly how: number;
  readonly more: number;
}

const KINDS = [
  'publish',
  'fan',
  'consume',
  'cancel',
  'settle',
  'multiple',
  'get',
  'purge',
  'recover',
  'close',
  'transaction',
  'drop',
  'advance',
] as const;
const WEIGHTS: Readonly<Record<(typeof KINDS)[number], number>> = {
  publish: 12,
  fan: 3,
  consume: 4,
  cancel: 1,
  settle: 8,
  multiple: 2,
  get: 3,
  purge: 1,
  recover: 1,
  close: 1,
  transaction: 2,
  drop: 1,
  advance: 3,
};

export const steps = fc.array(
  fc.record({
    kind: fc.oneof(...KINDS.map((kind) => ({ arbitrary: fc.constant(kind), weight: WEIGHTS[kind] }))),
    which: fc.nat(11),
    how: fc.nat(11),
    more: fc.nat(11),
  }),
  { maxLength: 40, size: 'max' },
);

const optional = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.option(arbitrary, { nil: undefined });
const classic = (name: string, ttl: number): fc.Arbitrary<QueueShape> =>
  fc.record({
    name: fc.constant(name),
    type: fc.constant('classic' as const),
    ttl: optional(fc.constant(ttl)),
    maxLength: optional(fc.nat(3)),
    overflow: optional(fc.constantFrom('drop-head' as const, 'reject-publish' as const, 'reject-publish-dlx' as const)),
    maxPriority: optional(fc.constant(2)),
    deadLetterTo: optional(fc.constant(`dead.${name}`)),
  });
const quorum: fc.Arbitrary<QueueShape> = fc.record({
  name: fc.constant('q'),
  type: fc.constant('quorum' as const),
  deliveryLimit: optional(fc.integer({ min: -1, max: 2 })),
  deadLetterTo: optional(fc.constant('dead.q')),
});
/** Where dead letters go, and from where they may come back after a while. */
const grave = (of: string, ttl: number): fc.Arbitrary<QueueShape> =>
  fc.record({
    name: fc.constant(`dead.${of}`),
    type: fc.constant('classic' as const),
    ttl: optional(fc.constant(ttl)),
    deadLetterTo: optional(fc.constant(of)),
  });

export const shapes: fc.Arbitrary<readonly QueueShape[]> = fc.tuple(
  classic('a', 30),
  classic('b', 50),
  quorum,
  grave('a', 70),
  grave('b', 110),
  grave('q', 130),
);

/** The broker of a program. */
export interface QueueWorld {
  connect(): Promise<Connection>;
  /** Ends the connection without a word; undefined where its channels may end one after the other. */
  readonly drop: (() => void) | undefined;
  /** Names are the program's own; where brokers are shared, they are changed here. */
  name(queue: string): string;
  /** Undefined where time cannot be moved. */
  readonly advance: ((ms: number) => void) | undefined;
  /** What it holds, where it can be seen: in order. */
  contents(queue: string): { readonly ready: readonly string[]; readonly unacked: number } | undefined;
  /** How long what is due may take, in milliseconds. */
  readonly patience: number;
}

/** A message that was handed out and awaits its answer. */
interface Held {
  readonly letter: Letter;
  readonly consumer: ReferenceConsumer | undefined;
  readonly tag: number;
}

interface Side {
  readonly channel: Channel;
  held: Held[];
}

export class QueueProgram {
  readonly #world: QueueWorld;
  readonly #reference = new ReferenceQueues();
  readonly #shapes: readonly QueueShape[];
  readonly #sides: Side[] = [];
  #connection!: Connection;
  #publisher!: ConfirmChannel;
  /** What came and was not looked at: by queue, in order. */
  readonly #arrived = new Map<string, { readonly tag: string; readonly side: Side; readonly message: Message }[]>();
  #count = 0;

  constructor(world: QueueWorld, shapesOfQueues: readonly QueueShape[]) {
    this.#world = world;
    this.#shapes = shapesOfQueues;
  }

  async run(program: readonly Step[]): Promise<void> {
    await this.#open();
    await this.#declare();
    const { product, version } = this.#connection.serverProperties;
    this.#reference.turnsDeathsAround =
      product === 'RabbitMQ' && typeof version === 'string' && /^3\.([0-9]|1[0-2])\./.test(version);
    try {
      for (const [index, step] of program.entries()) {
        try {
          await this.#step(step);
          await this.#compare();
        } catch (cause) {
          if (cause instanceof Tie) return;
          throw new Error(`step ${index}, ${step.kind}: ${String(cause)}`, { cause });
        }
      }
      await this.#drain();
    } finally {
      const channel = await this.#connection.channel();
      for (const name of QUEUES) await channel.queueDelete(this.#world.name(name));
      await this.#connection.close();
    }
  }

  async #open(): Promise<void> {
    this.#connection = await this.#world.connect();
    this.#publisher = await (await this.#connection.channel()).confirmSelect();
    this.#sides.length = 0;
    for (let count = 0; count < CHANNELS; count += 1) this.#sides.push(await this.#newSide());
  }

  async #newSide(): Promise<Side> {
    return { channel: await this.#connection.channel(), held: [] };
  }

  async #declare(): Promise<void> {
    for (const shape of this.#shapes) {
      this.#reference.declare(shape);
      const name = this.#world.name(shape.name);
      await this.#publisher.queueDeclare(name, { arguments: argumentsOf(shape, (queue) => this.#world.name(queue)) });
      this.#arrived.set(shape.name, []);
    }
    const fanout = this.#world.name(FANOUT);
    await this.#publisher.exchangeDeclare(fanout, 'fanout', { autoDelete: true });
    for (const name of SOURCES) await this.#publisher.queueBind(this.#world.name(name), fanout);
  }

  // ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #step({ kind, which, how, more }: Step): Promise<void> {
    const side = this.#sides[which % CHANNELS] as Side;
    switch (kind) {
      case 'publish':
        await this.#publish([QUEUES[which % QUEUES.length] as string], how, more);
        break;
      case 'fan':
        await this.#publish(SOURCES, how, more);
        break;
      case 'consume':
        await this.#consume(which % CHANNELS, QUEUES[how % QUEUES.length] as string, more);
        break;
      case 'cancel':
        await this.#cancel(which);
        break;
      case 'settle':
      case 'multiple':
        await this.#settle(side, how, more, kind === 'multiple');
        break;
      case 'get':
        await this.#get(side, QUEUES[how % QUEUES.length] as string, more % 3 === 0);
        break;
      case 'purge': {
        const queue = QUEUES[which % QUEUES.length] as string;
        const count = await this.#publisher.queuePurge(this.#world.name(queue));
        same(`the number purged from ${queue}`, count, this.#reference.purge(queue));
        break;
      }
      case 'recover':
        await side.channel.basicRecover();
        this.#answer(side.held.splice(0), 'requeue');
        break;
      case 'close':
        await this.#close(which % CHANNELS);
        break;
      case 'transaction':
        await this.#transaction(how, more);
        break;
      case 'drop':
        if (how % 4 === 0 && this.#world.drop !== undefined) await this.#drop(this.#world.drop);
        break;
      case 'advance': {
        const ms = (1 + how) * (1 + more);
        this.#reference.advance(ms);
        this.#world.advance?.(ms);
      }
    }
  }

  async #publish(queues: readonly string[], how: number, more: number): Promise<void> {
    this.#count += 1;
    const body = `m${this.#count}`;
    const priority = how % 4;
    const ttl = this.#world.advance !== undefined && more % 4 === 0 ? more * 10 : undefined;
    const [only] = queues;
    const [exchange, key] =
      queues.length === 1 ? ['', this.#world.name(only as string)] : [this.#world.name(FANOUT), ''];
    const published = this.#publisher.basicPublish(exchange, key, body, {
      priority,
      ...(ttl === undefined ? {} : { expiration: String(ttl) }),
    });
    const isTaken = await outcome(published);
    same(`whether ${body} was taken`, isTaken, this.#reference.publish(queues, body, priority, ttl));
  }

  async #consume(at: number, queue: string, more: number): Promise<void> {
    const side = this.#sides[at] as Side;
    const prefetch = more % 3;
    this.#count += 1;
    const tag = `c${this.#count}`;
    const noAck = more % 5 === 0;
    const priority = Math.floor(more / 6);
    await side.channel.basicQos(prefetch);
    await side.channel.basicConsume(
      this.#world.name(queue),
      (message) => this.#arrived.get(queue)?.push({ tag, side, message }),
      { consumerTag: tag, noAck, arguments: { 'x-priority': priority } },
    );
    this.#reference.consume({ tag, channel: at, queue, noAck, prefetch, priority, held: 0 });
  }

  async #cancel(which: number): Promise<void> {
    const consumers = QUEUES.flatMap((name) => this.#reference.queue(name).consumers);
    const consumer = consumers[which % Math.max(1, consumers.length)];
    if (consumer === undefined) return;
    await this.#sides[consumer.channel]?.channel.basicCancel(consumer.tag);
    this.#reference.cancel(consumer.tag);
  }

  async #settle(side: Side, how: number, more: number, multiple: boolean): Promise<void> {
    const at = how % Math.max(1, side.held.length);
    const held = side.held[at];
    if (held === undefined) return;
    const verdict = (['ack', 'requeue', 'reject'] as const)[more % 3] as Verdict;
    say(side.channel, held.tag, verdict, multiple);
    // What was said on the channel before has been heard when this is answered.
    await side.channel.basicQos(0);
    this.#answer(multiple ? side.held.splice(0, at + 1) : side.held.splice(at, 1), verdict);
  }

  #answer(held: readonly Held[], verdict: Verdict, isGone = false): void {
    this.#reference.settle(
      held.map(({ letter, consumer }) => [letter, consumer] as const),
      verdict,
      isGone,
    );
  }

  async #get(side: Side, queue: string, noAck: boolean): Promise<void> {
    const got = await side.channel.basicGet(this.#world.name(queue), { noAck });
    const letter = this.#reference.get(queue, noAck);
    same(`what was got from ${queue}`, got && this.#seen(got.message), letter && seenOf(letter));
    if (got === undefined || letter === undefined) return;
    same(`how many were said to be left in ${queue}`, got.messageCount, this.#reference.queue(queue).ready.length);
    if (!noAck) side.held.push({ letter, consumer: undefined, tag: got.message.deliveryTag });
  }

  async #close(at: number): Promise<void> {
    const side = this.#sides[at] as Side;
    await side.channel.close();
    this.#sides[at] = await this.#newSide();
    this.#end([at], [side]);
  }

  async #drop(drop: () => void): Promise<void> {
    const sides = [...this.#sides];
    drop();
    await this.#open();
    this.#end([...sides.keys()], sides);
  }

  /** Channels have ended: so have their consumers, and what they held is back. */
  #end(numbers: readonly number[], sides: readonly Side[]): void {
    for (const name of QUEUES) {
      for (const { channel, tag } of [...this.#reference.queue(name).consumers]) {
        if (numbers.includes(channel)) this.#reference.cancel(tag);
      }
    }
    this.#answer(
      sides.flatMap((side) => side.held.splice(0)),
      'requeue',
      true,
    );
  }

  /** On a channel of its own: a publish and an answer to what it got, carried out or not. */
  async #transaction(how: number, more: number): Promise<void> {
    const channel = await this.#connection.channel();
    await channel.txSelect();
    const queue = QUEUES[how % QUEUES.length] as string;
    const got = await channel.basicGet(this.#world.name(queue));
    const letter = this.#reference.get(queue, false);
    same(`what was got from ${queue}`, got && this.#seen(got.message), letter && seenOf(letter));
    this.#count += 1;
    const body = `m${this.#count}`;
    const target = QUEUES[more % QUEUES.length] as string;
    await channel.basicPublish('', this.#world.name(target), body);
    const verdict: Verdict = more % 2 === 0 ? 'ack' : 'reject';
    if (got !== undefined) say(channel, got.message.deliveryTag, verdict, false);
    const held = letter === undefined ? [] : [[letter, undefined] as const];
    if (how % 3 === 0) {
      await channel.txRollback();
      await channel.close();
      this.#reference.settle(held, 'requeue', true);
      return;
    }
    const isTaken = await outcome(channel.txCommit());
    same(`whether ${body} was committed`, isTaken, this.#reference.publish([target], body, 0, undefined));
    // What is refused ends the channel; the answers count all the same.
    this.#reference.settle(held, verdict, false);
    if (isTaken) await channel.close();
  }

  // ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Awaits what is due, and holds everything that can be seen against the reference. */
  async #compare(): Promise<void> {
    const until = performance.now() + this.#world.patience;
    const isDue = (): boolean =>
      QUEUES.some((name) => (this.#arrived.get(name)?.length ?? 0) < this.#reference.queue(name).leaving.length);
    while (isDue() && performance.now() < until) await delay(1);
    for (const name of QUEUES) {
      for (const { tag, side, message } of this.#arrived.get(name)?.splice(0) ?? []) {
        const { letter, consumer } = this.#reference.told(name, tag, this.#seen(message));
        if (!consumer.noAck) side.held.push({ letter, consumer, tag: message.deliveryTag });
      }
      const queue = this.#reference.queue(name);
      same(
        `what ${name} has not delivered`,
        queue.leaving.map(({ body }) => body),
        [],
      );
    }
    // Several queues have one channel's tags.
    for (const { held } of this.#sides) held.sort((one, other) => one.tag - other.tag);
    this.#reference.audit();
    for (const name of QUEUES) {
      const { ready, held, consumers } = this.#reference.queue(name);
      const shouldBe = [ready.length, consumers.length];
      let is = await this.#counts(name);
      while (String(is) !== String(shouldBe) && performance.now() < until) is = await this.#counts(name);
      same(`how many are ready in ${name}, and how many consumers it has`, is, shouldBe);
      const contents = this.#world.contents(name);
      if (contents === undefined) continue;
      same(
        `what is ready in ${name}`,
        contents.ready,
        ready.map(({ body }) => body),
      );
      same(`how many are unacked in ${name}`, contents.unacked, held);
    }
  }

  async #counts(queue: string): Promise<number[]> {
    const { messageCount, consumerCount } = await this.#publisher.queueDeclare(this.#world.name(queue), {
      passive: true,
    });
    return [messageCount, consumerCount];
  }

  /** What is left, to the last message. */
  async #drain(): Promise<void> {
    for (const index of this.#sides.keys()) {
      await this.#close(index);
      await this.#compare();
    }
    const side = this.#sides[0] as Side;
    for (const name of QUEUES) while (this.#reference.queue(name).ready.length > 0) await this.#get(side, name, true);
    await this.#compare();
  }

  #seen(message: Message): Seen {
    const { headers } = message.properties;
    const deaths = (headers?.['x-death'] ?? []) as readonly FieldTable[];
    const own = new Map(QUEUES.map((name) => [this.#world.name(name), name]));
    return {
      body: message.text,
      redelivered: message.redelivered,
      deaths: deaths.map(({ queue, reason, count }) => ({
        queue: own.get(queue as string) ?? (queue as string),
        reason: reason as Seen['deaths'][number]['reason'],
        count: Number(count),
      })),
    };
  }
}

/** False for a refusal by the broker. */
async function outcome(promise: Promise<unknown>): Promise<boolean> {
  try {
    await promise;
    return true;
  } catch (error) {
    if (error instanceof AmqpError && (error.code === 'PUBLISH_NACKED' || error.replyCode === 406)) return false;
    throw error;
  }
}

function say(channel: Channel, tag: number, verdict: Verdict, multiple: boolean): void {
  if (verdict === 'ack') channel.basicAck(tag, { multiple });
  else channel.basicNack(tag, { multiple, requeue: verdict === 'requeue' });
}

function argumentsOf(shape: QueueShape, nameOf: (queue: string) => string): FieldTable {
  const { type, ttl, maxLength, overflow, maxPriority, deliveryLimit, deadLetterTo } = shape;
  return {
    'x-queue-type': type,
    'x-message-ttl': ttl,
    'x-max-length': maxLength,
    'x-overflow': overflow,
    'x-max-priority': maxPriority,
    'x-delivery-limit': deliveryLimit,
    'x-dead-letter-exchange': deadLetterTo === undefined ? undefined : '',
    'x-dead-letter-routing-key': deadLetterTo === undefined ? undefined : nameOf(deadLetterTo),
  };
}
