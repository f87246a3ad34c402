/**
 * A program of random publishes, consumes, answers, declarations and closes over a recovering connection, and what has to be
 * true of it whatever becomes of the line. The broker, and what hurts, are the caller's.
 */
import { AmqpChannel } from '../../lib/client/amqp-channel.js';
import type { AmqpConnection } from '../../lib/client/amqp-connection.js';
import type { Message } from '../../lib/client/message.js';
import { AmqpError } from '../../lib/errors.js';
import { eventually, within } from '../support/waits.js';
import type { Random } from './hostile-peer.js';

/** The broker of one session, and the way there. */
export interface World {
  readonly amqp: AmqpConnection;
  /** Two queues that exist: to the quiet one is only published. */
  readonly queues: { readonly quiet: string; readonly busy: string };
  /** Longest time for anything to come to its end once nothing hurts, in milliseconds. */
  readonly deadline: number;
  /** False once a line was lost that the broker may take for open still: what that holds is delivered after what follows it. */
  readonly keepsOrder: boolean;
  hurt(): void;
  /** Nothing hurts from now on. */
  heal(): void;
  /** Lets some time pass between two steps. */
  pass(): Promise<void>;
  /** How many consumers the busy queue has. */
  consumerCount(): Promise<number>;
  /** The bodies in a queue, in order, once the connection has ended; `wanted` may still be on their way there. */
  contents(queue: string, wanted: readonly string[]): Promise<readonly string[]>;
}

interface Publish {
  readonly body: string;
  readonly queue: string;
  readonly by: Handle;
  outcome: 'pending' | 'resolved' | 'rejected';
}

interface Handle {
  readonly name: string;
  readonly channel: AmqpChannel;
  isClosed: boolean;
}

type Answer = 'ack' | 'requeue' | 'discard';

export class Application {
  /** By the message id of the delivery, where its broker gives each delivery one: how it was answered. */
  readonly answers = new Map<string, Answer>();
  readonly #world: World;
  readonly #random: Random;
  /** Consumers end, channels are closed and messages are given back; without that, first deliveries come in order. */
  readonly #isWild: boolean;
  readonly #handles: Handle[] = [];
  readonly #publishes: Publish[] = [];
  readonly #pending = new Map<Promise<void>, string>();
  readonly #held: Message[] = [];
  readonly #consumers = new Map<string, Handle>();
  readonly #consumed = new Set<string>();
  readonly #done = new Set<string>();
  readonly #loops = new Set<AbortController>();
  readonly #problems: string[] = [];
  #isClosing = false;
  #count = 0;

  constructor(world: World, random: Random) {
    this.#world = world;
    this.#random = random;
    this.#isWild = random.chance(2);
  }

  /** Runs it to the end. Throws an error that says what was not as it has to be. */
  async run(steps: number): Promise<void> {
    const { amqp } = this.#world;
    amqp.openInBackground();
    this.#handles.push(this.#open(), this.#open());
    if (!this.#isWild) this.#consume(this.#handle);
    for (let step = 0; step < steps; step += 1) {
      if (this.#random.chance(8)) this.#world.hurt();
      this.#step();
      await this.#world.pass();
    }
    if (this.#random.chance(10)) {
      // With everything under way, and the line as it is.
      await this.#close();
      this.#world.heal();
      await this.#allSettled();
    } else {
      this.#world.heal();
      await this.#allSettled();
      await this.#consumersRun();
      await this.#close();
    }
    await this.#judge();
  }

  get #handle(): Handle {
    return this.#random.pick(this.#handles);
  }

  #open(): Handle {
    this.#count += 1;
    return { name: `h${this.#count}`, channel: new AmqpChannel(this.#world.amqp), isClosed: false };
  }

  // ── the program ───────────────────────────────────────────────────────────────────────────────────────────────────

  #step(): void {
    const { quiet, busy } = this.#world.queues;
    const handle = this.#handle;
    const { channel } = handle;
    switch (this.#random.below(this.#isWild ? 24 : 13)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
      case 5:
        for (let count = this.#random.below(8); count >= 0; count -= 1) {
          this.#publish(handle, this.#random.pick([quiet, busy]));
        }
        return;
      case 6:
        this.#follow(
          'a publish that is given up',
          channel.basicPublish('', quiet, 'given up', { signal: this.#soon() }),
        );
        return;
      case 7:
        this.#follow('an unroutable publish', channel.basicPublish('', 'nowhere', 'x', { mandatory: true }), (error) =>
          this.#expect(error, handle, 'UNROUTABLE'),
        );
        return;
      case 8:
        this.#follow('a declaration', channel.queueDeclare(busy, { passive: true }));
        return;
      case 9:
      case 10:
      case 11:
      case 12:
        this.#answerOneHeld();
        return;
      case 13:
        this.#follow('a publish to no exchange', channel.basicPublish('gone', '', 'x'), (error) =>
          this.#expect(error, handle, 'PUBLISH_REFUSED', 'PUBLISH_OUTCOME_UNKNOWN'),
        );
        return;
      case 14:
        this.#follow('a declaration of what is not there', channel.queueDeclare('nowhere', { passive: true }));
        return;
      case 15:
        this.#follow(
          'a fetch',
          channel.basicGet(busy).then((got) => {
            if (got !== undefined) this.#receive(got.message);
          }),
        );
        return;
      case 16:
      case 17:
        if (this.#consumers.size < 3) this.#consume(handle);
        return;
      case 18:
        this.#cancel();
        return;
      case 19:
        this.#follow('a short wait', channel.queueDeclare(busy, { passive: true, timeout: 1 + this.#random.below(3) }));
        return;
      case 20:
        this.#follow(
          'a fetch that is given up',
          channel.basicGet(busy, { signal: this.#soon() }).then((got) => {
            if (got !== undefined) this.#receive(got.message);
          }),
        );
        return;
      case 21:
        if (this.#consumers.size < 3) this.#consume(handle, this.#soon());
        return;
      case 22:
        this.#follow('a loop', this.#loop(channel));
        return;
      default:
        if (this.#random.chance(3)) this.#replace(handle);
        else this.#follow('a prefetch', channel.basicQos(1 + this.#random.below(5)));
    }
  }

  #publish(by: Handle, queue: string): void {
    this.#count += 1;
    const publish: Publish = { body: `${by.name}-${this.#count}`, queue, by, outcome: 'pending' };
    this.#publishes.push(publish);
    this.#follow(
      `the publish ${publish.body}`,
      by.channel.basicPublish('', queue, publish.body, { mandatory: true }).then(
        () => {
          publish.outcome = 'resolved';
        },
        (error: unknown) => {
          publish.outcome = 'rejected';
          this.#expect(error, by);
          throw error;
        },
      ),
    );
  }

  /** A signal that fires at once, or when what it is for is somewhere on its way. */
  #soon(): AbortSignal {
    const giveUp = new AbortController();
    if (this.#random.chance(4)) giveUp.abort();
    else setImmediate(() => setImmediate(() => giveUp.abort()));
    return giveUp.signal;
  }

  /** Loops over some messages; until nothing hurts any more, at the latest. */
  async #loop(channel: AmqpChannel): Promise<void> {
    const stop = new AbortController();
    this.#loops.add(stop);
    let left = this.#random.below(5);
    for await (const message of channel.consume(this.#world.queues.busy, { prefetch: 2, signal: stop.signal })) {
      this.#receive(message);
      left -= 1;
      if (left < 0) break;
      if (this.#random.chance(3)) await this.#world.pass();
    }
  }

  #consume(handle: Handle, signal?: AbortSignal): void {
    this.#count += 1;
    const consumerTag = `c${this.#count}`;
    this.#consumers.set(consumerTag, handle);
    const ended = (): void => {
      this.#consumers.delete(consumerTag);
    };
    const callbacks = { onMessage: this.#receive, onCancel: ended };
    this.#follow(
      `the start of ${consumerTag}`,
      handle.channel.basicConsume(this.#world.queues.busy, callbacks, { consumerTag, signal }),
      ended,
    );
  }

  readonly #receive = (message: Message): void => {
    const body = message.body.toString();
    this.#consumed.add(body);
    if (this.#random.chance(3)) this.#held.push(message);
    else this.#answer(message);
  };

  #answerOneHeld(): void {
    const [message] = this.#held.splice(this.#random.below(this.#held.length || 1), 1);
    if (message !== undefined) this.#answer(message);
  }

  #answer(message: Message): void {
    const answer: Answer = this.#isWild ? this.#random.pick(['ack', 'ack', 'ack', 'requeue', 'discard']) : 'ack';
    const sent = answer === 'ack' ? message.ack() : message.reject({ requeue: answer === 'requeue' });
    if (sent) {
      const { messageId } = message.properties;
      if (messageId !== undefined) this.answers.set(messageId, answer);
      if (answer !== 'requeue') this.#done.add(message.body.toString());
    }
    // A second answer is none.
    if (this.#random.chance(5) && message.ack()) this.#problems.push('a second answer was sent');
  }

  #cancel(): void {
    const [consumerTag] = this.#consumers.keys();
    const handle = consumerTag === undefined ? undefined : this.#consumers.get(consumerTag);
    if (consumerTag === undefined || handle === undefined) return;
    this.#consumers.delete(consumerTag);
    this.#follow(`the cancel of ${consumerTag}`, handle.channel.basicCancel(consumerTag));
  }

  /** Closes a handle, and goes on with another. */
  #replace(handle: Handle): void {
    this.#handles[this.#handles.indexOf(handle)] = this.#open();
    this.#closeHandle(handle);
  }

  #closeHandle(handle: Handle): void {
    handle.isClosed = true;
    for (const [consumerTag, owner] of this.#consumers) if (owner === handle) this.#consumers.delete(consumerTag);
    this.#follow(`the end of handle ${handle.name}`, handle.channel.close());
  }

  // ── what has to be true ───────────────────────────────────────────────────────────────────────────────────────────

  /** A promise of the client: it may reject, with an `AmqpError` alone, and has to settle. */
  #follow(what: string, promise: Promise<unknown>, rejected?: (error: unknown) => void): void {
    const settled: Promise<void> = promise
      .then(
        () => undefined,
        (error: unknown) => {
          if (!(error instanceof AmqpError)) this.#problems.push(`${what} rejected with ${String(error)}`);
          rejected?.(error);
        },
      )
      .finally(() => {
        this.#pending.delete(settled);
      });
    this.#pending.set(settled, what);
  }

  /** While its handle is open, a publish is rejected for its own fault alone: what a loss leaves open is sent again. */
  #expect(error: unknown, by: Handle, ...codes: readonly string[]): void {
    if (by.isClosed || this.#isClosing || (error instanceof AmqpError && codes.includes(error.code))) return;
    this.#problems.push(`a publish on an open handle was rejected: ${String(error)}`);
  }

  async #allSettled(): Promise<void> {
    for (const loop of this.#loops) loop.abort();
    while (this.#pending.size > 0) {
      const settled = Promise.all(this.#pending.keys());
      const what = [...this.#pending.values()].join(', ');
      await within(`the end of ${what}`, settled, this.#world.deadline);
    }
  }

  async #consumersRun(): Promise<void> {
    const find = async () => ((await this.#world.consumerCount()) === this.#consumers.size ? true : undefined);
    await eventually(`the return of ${this.#consumers.size} consumers`, find, this.#world.deadline);
  }

  async #close(): Promise<void> {
    const { amqp, deadline } = this.#world;
    const closesHandles = this.#random.chance(2);
    if (closesHandles) {
      for (const handle of this.#handles) this.#closeHandle(handle);
      await this.#allSettled();
    }
    this.#isClosing = true;
    await within('close()', amqp.close(), deadline);
    if (amqp.status.state !== 'closed') this.#problems.push(`after close() it is ${amqp.status.state}`);
    await this.#allSettled();
    const isUnheard = () => Promise.resolve(amqp.listenerCount('status') === 0 || undefined);
    await eventually('the end of every wait for a connection', isUnheard, deadline);
    this.#held.length = 0;
  }

  async #judge(): Promise<void> {
    const { quiet, busy } = this.#world.queues;
    for (const { body, outcome } of this.#publishes) {
      if (outcome === 'pending') this.#problems.push(`${body} was never settled`);
    }
    // What was confirmed, and nobody has answered for good, is in its queue still: else an answer hit another delivery.
    const [inQuiet, inBusy] = [await this.#remains(quiet), await this.#remains(busy)];
    for (const handle of new Set(this.#publishes.map(({ by }) => by))) {
      this.#judgeOrder(handle, quiet, inQuiet);
      if (!this.#isWild && this.#world.keepsOrder) this.#judgeOrder(handle, busy, [...this.#consumed, ...inBusy]);
    }
    if (this.#problems.length > 0) throw new Error(this.#problems.join('\n'));
  }

  async #remains(queue: string): Promise<readonly string[]> {
    const wanted = this.#publishes
      .filter(({ outcome, queue: to, body }) => outcome === 'resolved' && to === queue && !this.#done.has(body))
      .map(({ body }) => body);
    const found = await this.#world.contents(queue, wanted);
    for (const body of wanted) {
      if (found.includes(body)) continue;
      this.#problems.push(`${body} was confirmed, and is lost${this.#consumed.has(body) ? ' after its delivery' : ''}`);
    }
    return found;
  }

  /** The first of each confirmed message comes in publishing order. */
  #judgeOrder(handle: Handle, queue: string, bodies: readonly string[]): void {
    const published = this.#publishes.filter(
      ({ by, outcome, queue: to }) => by === handle && outcome === 'resolved' && to === queue,
    );
    const firsts = [...new Set(bodies)];
    const places = published.map(({ body }) => firsts.indexOf(body)).filter((place) => place >= 0);
    if (places.some((place, index) => place < (places[index - 1] ?? -1))) {
      this.#problems.push(`the messages of ${handle.name} came in the order ${firsts.join(' ')}`);
    }
  }
}
