/**
 * A broker in memory that follows the rules for queues, confirms and acknowledgements by itself, and that can be hurt. It
 * notes what a client does to it that RabbitMQ would not forgive. What there is to hurt and when is `recovery.test.ts`'s.
 */
import { type Duplex, duplexPair } from 'node:stream';

import { CommandAssembler } from '../../lib/protocol/command.js';
import {
  FRAME_HEARTBEAT,
  PROTOCOL_HEADER,
  writeBodyFrameHead,
  writeContentHead,
  writeFrameEnd,
} from '../../lib/protocol/frame.js';
import { FrameDecoder } from '../../lib/protocol/frame-decoder.js';
import { type ContentMethodName, type Method, type MethodArgs, METHODS } from '../../lib/protocol/methods.js';
import { WireWriter } from '../../lib/protocol/wire.js';
import { frameOf } from '../support/client.js';
import type { Random } from './hostile-peer.js';

/** A message in a queue. `position` is its place there, which it gets back when it is requeued. */
interface Stored {
  readonly body: string;
  readonly position: number;
  wasDelivered: boolean;
}

interface Unanswered {
  readonly message: Stored;
  readonly queue: string;
  readonly serial: string;
  readonly consumer: ModelConsumer | undefined;
}

interface ModelConsumer {
  readonly tag: string;
  readonly queue: string;
  readonly prefetch: number;
  isConfirmed: boolean;
  unanswered: number;
}

class ModelChannel {
  isConfirming = false;
  /** The broker has closed it and awaits close-ok. */
  isClosing = false;
  prefetch = 0;
  published = 0;
  delivered = 0;
  unconfirmed: number[] = [];
  readonly consumers = new Map<string, ModelConsumer>();
  readonly unanswered = new Map<number, Unanswered>();
}

/** How the client answered a delivery. */
export type Answered = 'ack' | 'requeue' | 'discard';

/** The code, and the method that is blamed, of a channel or connection that the broker closes. */
interface Blame {
  readonly replyCode: number;
  readonly replyText: string;
  readonly method?: keyof typeof METHODS;
}

export class ModelBroker {
  readonly queues = new Map<string, Stored[]>();
  /** What each delivery, by its serial number (its message id), was answered with. */
  readonly answers = new Map<string, Answered>();
  /** What RabbitMQ would not forgive. */
  readonly faults: string[] = [];
  /** So many dials fail, or are never answered. */
  refusals = 0;
  /** The next line breaks in its handshake. */
  isFragile = false;
  readonly #random: Random;
  readonly #lines = new Set<ModelLine>();
  #positions = 0;
  #serials = 0;

  constructor(random: Random, queues: readonly string[]) {
    this.#random = random;
    for (const queue of queues) this.queues.set(queue, []);
  }

  get lines(): readonly ModelLine[] {
    return [...this.#lines];
  }

  readonly dial = (): Duplex | Promise<Duplex> => {
    if (this.refusals > 0) {
      this.refusals -= 1;
      // The client's own timeout ends the one that nobody answers.
      if (this.#random.chance(2)) return new Promise(() => undefined);
      throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    }
    const line = new ModelLine(this, this.#random);
    this.#lines.add(line);
    if (this.isFragile) line.dropAfter(this.#random.below(400));
    this.isFragile = false;
    return line.transport;
  };

  consumerCount(queue: string): number {
    return this.lines.reduce((count, line) => count + line.consumersOf(queue).length, 0);
  }

  store(queue: string, body: string): boolean {
    const messages = this.queues.get(queue);
    if (messages === undefined) return false;
    messages.push({ body, position: this.#positions, wasDelivered: false });
    this.#positions += 1;
    return true;
  }

  /** Gives a message its place back. */
  requeue(queue: string, message: Stored): void {
    const messages = this.queues.get(queue) ?? [];
    const later = messages.findIndex(({ position }) => position > message.position);
    messages.splice(later === -1 ? messages.length : later, 0, message);
  }

  nextSerial(): string {
    this.#serials += 1;
    return String(this.#serials);
  }

  /** Hands out what may be handed out. */
  deliver(): void {
    for (const line of this.#lines) line.deliver();
  }

  forget(line: ModelLine): void {
    this.#lines.delete(line);
  }
}

/** The broker's end of one connection. */
class ModelLine {
  readonly transport: Duplex;
  /** Bytes were put into it that the client may wait behind. */
  isPoisoned = false;
  readonly #socket: Duplex;
  readonly #broker: ModelBroker;
  readonly #random: Random;
  readonly #writer = new WireWriter();
  readonly #decoder: FrameDecoder;
  readonly #assemblers = new Map<number, CommandAssembler>();
  readonly #channels = new Map<number, ModelChannel>();
  #header: Buffer | undefined = Buffer.alloc(0);
  #isStalled = false;
  /** Nothing more is taken from it. */
  #isReleased = false;
  /** One of its ends is closed. */
  #isOver = false;
  #input: Buffer[] = [];
  #output = Buffer.alloc(0);
  #isPumping = false;
  /** Bytes until the line breaks. */
  #left = Infinity;

  constructor(broker: ModelBroker, random: Random) {
    this.#broker = broker;
    this.#random = random;
    [this.#socket, this.transport] = duplexPair();
    this.#decoder = new FrameDecoder((type, channel, buffer, start, end) => {
      if (type !== FRAME_HEARTBEAT) this.#assemblerOf(channel).frame(type, buffer, start, end);
    });
    this.#decoder.limit(0, 0);
    const over = (): void => {
      this.#over();
    };
    this.#socket.on('data', (chunk: Buffer) => {
      this.#input.push(chunk);
      this.#read();
    });
    this.#socket.on('error', over).on('end', over).on('close', over);
    this.transport.on('close', () => {
      this.#over();
      this.#socket.destroy();
    });
  }

  // ── what hurts ────────────────────────────────────────────────────────────────────────────────────────────────────

  get isStalled(): boolean {
    return this.#isStalled;
  }

  /** The client reads an end, or an error as of a reset. */
  drop(orderly: boolean): void {
    if (!orderly) this.transport.destroy(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
    this.#over();
  }

  /** Breaks when so many more bytes have left. */
  dropAfter(bytes: number): void {
    this.#left = bytes;
  }

  /** No byte goes either way. */
  stall(): void {
    this.#isStalled = true;
  }

  resume(): void {
    this.#isStalled = false;
    this.#read();
    this.#pump();
  }

  /** Bytes that may read as the head of a frame: then the client waits for the rest of it. */
  inject(bytes: Buffer): void {
    this.isPoisoned = true;
    this.#write(bytes);
  }

  /** It takes no publishes until `unblock()`. */
  isBlocked = false;

  block(): void {
    this.isBlocked = true;
    this.#write(frameOf(0, 'connection.blocked', { reason: 'low on memory' }));
  }

  unblock(): void {
    this.isBlocked = false;
    this.#write(frameOf(0, 'connection.unblocked', {}));
  }

  closeConnection(blame: Blame): void {
    this.#write(frameOf(0, 'connection.close', closeArgs(blame)));
    this.#release();
  }

  /** Closes any of its channels. */
  closeChannel(blame: Blame): void {
    const open = [...this.#channels].filter(([, { isClosing, isConfirming, consumers }]) => {
      // One that is being set up is refused, which is another thing.
      return !isClosing && (isConfirming || consumers.size > 0);
    });
    if (open.length > 0) this.#close(...this.#random.pick(open), blame);
  }

  /** Cancels any of its consumers, as a broker does whose queue moves to another node. */
  cancelConsumer(): void {
    for (const [number, { consumers, isClosing }] of this.#channels) {
      for (const { tag, isConfirmed } of consumers.values()) {
        if (!isConfirmed || isClosing || !this.#random.chance(2)) continue;
        consumers.delete(tag);
        this.#write(frameOf(number, 'basic.cancel', { consumerTag: tag, noWait: true }));
        return;
      }
    }
  }

  // ── what a broker does ────────────────────────────────────────────────────────────────────────────────────────────

  consumersOf(queue: string): readonly ModelConsumer[] {
    return [...this.#channels.values()].flatMap(({ consumers }) =>
      [...consumers.values()].filter((consumer) => consumer.queue === queue && consumer.isConfirmed),
    );
  }

  deliver(): void {
    for (const [number, channel] of this.#channels) {
      for (const consumer of channel.consumers.values()) {
        const messages = this.#broker.queues.get(consumer.queue) ?? [];
        while (consumer.isConfirmed && (consumer.prefetch === 0 || consumer.unanswered < consumer.prefetch)) {
          const message = messages.shift();
          if (message === undefined) break;
          consumer.unanswered += 1;
          const { tag: consumerTag, queue } = consumer;
          const facts = this.#hand(channel, { message, queue, consumer });
          const envelope = { ...facts.envelope, consumerTag, exchange: '', routingKey: queue };
          this.#writeContent(number, 'basic.deliver', envelope, facts.serial, message.body);
        }
      }
    }
  }

  #hand(channel: ModelChannel, delivery: Omit<Unanswered, 'serial'>) {
    const serial = this.#broker.nextSerial();
    channel.delivered += 1;
    channel.unanswered.set(channel.delivered, { ...delivery, serial });
    const redelivered = delivery.message.wasDelivered;
    delivery.message.wasDelivered = true;
    return { serial, envelope: { deliveryTag: channel.delivered, redelivered } };
  }

  #command(number: number, method: Method, properties: string | undefined, body: string): void {
    if (number === 0) {
      this.#control(method);
      return;
    }
    const channel = this.#channels.get(number);
    if (method.name === 'channel.open') {
      if (channel !== undefined) this.#fault(`channel ${number} was opened twice`);
      this.#channels.set(number, new ModelChannel());
      this.#write(frameOf(number, 'channel.open-ok', {}));
    } else if (channel === undefined) {
      this.#fault(`${method.name} came on channel ${number}, which is not open`);
    } else if (channel.isClosing) {
      if (method.name === 'channel.close') this.#write(frameOf(number, 'channel.close-ok', {}));
      if (method.name === 'channel.close-ok') this.#channels.delete(number);
    } else {
      this.#onChannel(number, channel, method, properties, body);
    }
  }

  #control(method: Method): void {
    switch (method.name) {
      case 'connection.start-ok':
        this.#write(frameOf(0, 'connection.tune', { channelMax: 100, frameMax: 4096, heartbeat: 0 }));
        return;
      case 'connection.open':
        this.#write(frameOf(0, 'connection.open-ok', {}));
        return;
      case 'connection.close':
        this.#write(frameOf(0, 'connection.close-ok', {}));
        this.#release();
        return;
      default:
    }
  }

  #onChannel(number: number, channel: ModelChannel, method: Method, messageId: string | undefined, body: string): void {
    switch (method.name) {
      case 'confirm.select':
        channel.isConfirming = true;
        this.#write(frameOf(number, 'confirm.select-ok', {}));
        return;
      case 'basic.qos':
        channel.prefetch = method.args.prefetchCount;
        this.#write(frameOf(number, 'basic.qos-ok', {}));
        return;
      case 'queue.declare': {
        const queue = method.args.queue;
        const messages = this.#broker.queues.get(queue);
        if (messages === undefined) this.#close(number, channel, notFound(`queue '${queue}'`, 'queue.declare'));
        else {
          const args = { queue, messageCount: messages.length, consumerCount: this.#broker.consumerCount(queue) };
          this.#write(frameOf(number, 'queue.declare-ok', args));
        }
        return;
      }
      case 'basic.publish':
        this.#published(number, channel, method.args, messageId, body);
        return;
      case 'basic.consume':
        this.#consume(number, channel, method.args);
        return;
      case 'basic.cancel': {
        const consumerTag = method.args.consumerTag;
        // RabbitMQ closes the connection over it (541).
        if (channel.consumers.get(consumerTag)?.isConfirmed === false) this.#fault('a cancel came before consume-ok');
        channel.consumers.delete(consumerTag);
        this.#write(frameOf(number, 'basic.cancel-ok', { consumerTag }));
        return;
      }
      case 'basic.get': {
        const queue = method.args.queue;
        const message = this.#broker.queues.get(queue)?.shift();
        if (message === undefined) {
          this.#write(frameOf(number, 'basic.get-empty', {}));
          return;
        }
        const { serial, envelope } = this.#hand(channel, { message, queue, consumer: undefined });
        const args = { ...envelope, exchange: '', routingKey: queue, messageCount: 0 };
        this.#writeContent(number, 'basic.get-ok', args, serial, message.body);
        return;
      }
      case 'basic.ack':
        this.#answered(channel, method.args.deliveryTag, 'ack');
        return;
      case 'basic.nack':
        if (method.args.multiple) this.#fault('a message that was given back took others with it');
        this.#answered(channel, method.args.deliveryTag, method.args.requeue ? 'requeue' : 'discard');
        return;
      case 'basic.reject':
        this.#answered(channel, method.args.deliveryTag, method.args.requeue ? 'requeue' : 'discard');
        return;
      case 'channel.close':
        this.#requeueAll(channel);
        this.#channels.delete(number);
        this.#write(frameOf(number, 'channel.close-ok', {}));
        this.#broker.deliver();
        return;
      default:
        this.#fault(`${method.name} came, which this broker does not know`);
    }
  }

  #published(
    number: number,
    channel: ModelChannel,
    { exchange, routingKey, mandatory }: MethodArgs<'basic.publish'>,
    messageId: string | undefined,
    body: string,
  ): void {
    if (exchange !== '') {
      this.#close(number, channel, notFound(`exchange '${exchange}'`, 'basic.publish'));
      return;
    }
    channel.published += 1;
    if (!this.#broker.store(routingKey, body) && mandatory) {
      const returned = { replyCode: 312, replyText: 'NO_ROUTE', exchange, routingKey };
      this.#writeContent(number, 'basic.return', returned, messageId, body);
    }
    if (channel.isConfirming) channel.unconfirmed.push(channel.published);
    this.#pump();
    this.#broker.deliver();
  }

  #consume(number: number, channel: ModelChannel, { queue, consumerTag: tag }: MethodArgs<'basic.consume'>) {
    if (channel.consumers.has(tag)) this.#fault(`consumer ${tag} was started twice on one channel`);
    const consumer = { tag, queue, prefetch: channel.prefetch, isConfirmed: false, unanswered: 0 };
    channel.consumers.set(tag, consumer);
    const confirm = (): void => {
      if (this.#isOver || channel.isClosing || this.#channels.get(number) !== channel) return;
      consumer.isConfirmed = true;
      this.#write(frameOf(number, 'basic.consume-ok', { consumerTag: tag }));
      this.deliver();
    };
    // As RabbitMQ does: the answers to later requests may come before it.
    if (this.#random.chance(3)) setImmediate(confirm);
    else confirm();
  }

  #answered(channel: ModelChannel, deliveryTag: number, answer: Answered): void {
    const delivery = channel.unanswered.get(deliveryTag);
    if (delivery === undefined) {
      this.#fault(`${answer} for delivery tag ${deliveryTag}, which is not outstanding`);
      return;
    }
    channel.unanswered.delete(deliveryTag);
    if (delivery.consumer !== undefined) delivery.consumer.unanswered -= 1;
    this.#broker.answers.set(delivery.serial, answer);
    if (answer === 'requeue') this.#broker.requeue(delivery.queue, delivery.message);
    this.#broker.deliver();
  }

  #close(number: number, channel: ModelChannel, blame: Blame): void {
    this.#requeueAll(channel);
    channel.isClosing = true;
    this.#write(frameOf(number, 'channel.close', closeArgs(blame)));
    this.#broker.deliver();
  }

  #requeueAll(channel: ModelChannel): void {
    // What is not confirmed by now never is.
    channel.unconfirmed = [];
    channel.consumers.clear();
    for (const { queue, message } of channel.unanswered.values()) this.#broker.requeue(queue, message);
    channel.unanswered.clear();
  }

  /** Everything of this connection goes back, and nothing more is taken from it. */
  #release(): void {
    for (const channel of this.#channels.values()) this.#requeueAll(channel);
    this.#channels.clear();
    this.#header = undefined;
    this.#input = [];
    this.#isReleased = true;
    this.#broker.deliver();
  }

  #over(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (!this.#isReleased) this.#release();
    this.#broker.forget(this);
    // Not destroyed before the client has read the end: it would never hear of it.
    this.#socket.end();
  }

  #fault(what: string): void {
    this.#broker.faults.push(what);
  }

  // ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #read(): void {
    if (this.#isStalled) return;
    for (const chunk of this.#input.splice(0)) {
      if (this.#isReleased) return;
      try {
        this.#decoder.push(this.#header === undefined ? chunk : this.#greet(Buffer.concat([this.#header, chunk])));
      } catch (error) {
        this.#fault(`the client sent bytes that are no AMQP: ${String(error)}`);
      }
    }
  }

  #greet(bytes: Buffer): Buffer {
    if (bytes.length < PROTOCOL_HEADER.length) {
      this.#header = bytes;
      return Buffer.alloc(0);
    }
    this.#header = undefined;
    const versions = { versionMajor: 0, versionMinor: 9 };
    this.#write(
      frameOf(0, 'connection.start', { ...versions, serverProperties: {}, mechanisms: 'PLAIN', locales: 'en_US' }),
    );
    return bytes.subarray(PROTOCOL_HEADER.length);
  }

  #assemblerOf(number: number): CommandAssembler {
    const known = this.#assemblers.get(number);
    if (known !== undefined) return known;
    const assembler = new CommandAssembler((method, content) => {
      if (!this.#isReleased)
        this.#command(number, method, content?.properties.messageId, content?.body.toString() ?? '');
    }, Number.MAX_SAFE_INTEGER);
    this.#assemblers.set(number, assembler);
    return assembler;
  }

  #writeContent<N extends ContentMethodName>(
    number: number,
    name: N,
    args: MethodArgs<N>,
    messageId: string | undefined,
    body: string,
  ): void {
    const bytes = Buffer.from(body);
    writeContentHead(this.#writer, 0, number, name, args, { messageId }, bytes.length);
    if (bytes.length > 0) {
      writeBodyFrameHead(this.#writer, number, bytes.length);
      this.#writer.bytes(bytes);
      writeFrameEnd(this.#writer);
    }
    this.#write(this.#writer.take());
  }

  #write(bytes: Uint8Array): void {
    this.#output = Buffer.concat([this.#output, bytes]);
    this.#pump();
  }

  /** Some turn later some of the bytes leave, cut anywhere; confirms are gathered until then. */
  #pump(): void {
    if (this.#isPumping || this.#isStalled || this.#isOver) return;
    this.#isPumping = true;
    setImmediate(() => {
      this.#isPumping = false;
      if (this.#isStalled || this.#isOver) return;
      this.#confirm();
      const cut = this.#random.chance(3) ? this.#random.below(this.#output.length + 1) : this.#output.length;
      const chunk = this.#output.subarray(0, Math.min(cut, this.#left));
      this.#output = this.#output.subarray(cut);
      this.#left -= cut;
      if (chunk.length > 0) this.#socket.write(chunk);
      if (this.#left <= 0) this.drop(this.#random.chance(2));
      else if (this.#output.length > 0) this.#pump();
    });
  }

  /** One by one, in any order, or all at once; or not yet. */
  #confirm(): void {
    for (const [number, channel] of this.#channels) {
      const tags = channel.unconfirmed;
      if (tags.length === 0) continue;
      const style = this.#random.below(4);
      if (style === 0 && !this.#isReleased) {
        // The next turn; nothing else may set it off.
        setImmediate(() => {
          this.#pump();
        });
        continue;
      }
      channel.unconfirmed = [];
      const newest = tags.at(-1) ?? 0;
      const singles = style === 1 ? [newest] : style === 2 ? tags.toReversed() : tags;
      const frames = singles.map((deliveryTag) => frameOf(number, 'basic.ack', { deliveryTag, multiple: style === 1 }));
      this.#output = Buffer.concat([this.#output, ...frames]);
    }
  }
}

function closeArgs({ replyCode, replyText, method }: Blame): MethodArgs<'channel.close'> {
  const [classId, methodId] = method === undefined ? [0, 0] : METHODS[method].id;
  return { replyCode, replyText, classId, methodId };
}

function notFound(what: string, method: keyof typeof METHODS): Blame {
  return { replyCode: 404, replyText: `NOT_FOUND - no ${what} in vhost '/'`, method };
}
