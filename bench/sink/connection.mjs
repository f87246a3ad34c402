/**
 * One client's connection to the sink: it reads frames, answers what a bench needs answered, counts publishes and
 * acknowledgements, and delivers as fast as the prefetch allows. It routes nothing, keeps no message and checks only what
 * could make a count wrong.
 */
import { DeliverySource } from './delivery-source.mjs';
import {
  FRAME_BODY,
  FRAME_HEADER,
  FRAME_HEARTBEAT,
  FRAME_METHOD,
  FRAME_OVERHEAD,
  frame,
  longString,
  method,
  shortString,
  table,
  u16,
  u32,
  u64,
  u8,
} from './wire.mjs';

const FRAME_MAX = 131_072;
const CHANNEL_MAX = 2_047;
const HEARTBEAT_INTERVAL = 4_000;
/** Deliveries leave in blocks of this size, so many of them at a time. */
const BLOCK_SIZE = 128 * 1024;
const BLOCKS = 4;
const DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to';
const HAS_REPLY_TO = 0x0200;

const SERVER_PROPERTIES = {
  product: 'nest-amqp bench sink',
  version: '0.0.0',
  capabilities: {
    publisher_confirms: true,
    exchange_exchange_bindings: true,
    'basic.nack': true,
    consumer_cancel_notify: true,
    'connection.blocked': true,
    authentication_failure_close: true,
    direct_reply_to: true,
  },
};

/** Methods that are answered with an empty method: `class.method` to the answer's method. */
const PLAIN_ANSWERS = new Map([
  ['40.10', 11], // exchange.declare
  ['40.20', 21], // exchange.delete
  ['40.30', 31], // exchange.bind
  ['40.40', 51], // exchange.unbind
  ['50.20', 21], // queue.bind
  ['50.50', 51], // queue.unbind
  ['60.10', 11], // basic.qos
  ['60.110', 111], // basic.recover
]);

/**
 * What the sink counts, over all connections.
 *
 * @typedef {object} Counts
 * @property {number} publishes Whole messages received.
 * @property {number} bodyBytes Bytes of their bodies.
 * @property {number} delivered
 * @property {number} acked Deliveries acknowledged, each once.
 * @property {number} declared Queues.
 * @property {number} bound Bindings.
 * @property {string[]} faults What a client said that is wrong.
 */

/**
 * A queue that holds `left` messages, all the same, and gives them out when `awaited` more consumers are there.
 *
 * @typedef {{ left: number, awaited: number }} Queue
 */

/** One channel's state. */
class Channel {
  bodyLeft = 0;
  published = 0;
  confirmed = 0;
  confirms = false;
  prefetch = 0;
  nextTag = 1;
  unacked = 0;
  /** Every tag below it is acknowledged. */
  lowest = 1;
  /** @type {Uint8Array} Whether a tag is outstanding, at the tag's place in the ring. */
  ring = new Uint8Array(1024);
  /** @type {DeliverySource | undefined} */
  source = undefined;
  /** @type {Queue | undefined} */
  queue = undefined;
  noAck = false;
  /** @type {string | undefined} Tag of the consumer that waits for replies. */
  replyTag = undefined;
  /** @type {Buffer[] | undefined} The frames of a request that is being received, to be sent back. */
  request = undefined;

  /** @param {number} number */
  constructor(number) {
    this.number = number;
  }

  get mayDeliver() {
    if (this.queue === undefined || this.queue.left === 0 || this.queue.awaited > 0) return false;
    return this.noAck || this.prefetch === 0 || this.unacked < this.prefetch;
  }

  /** @returns {number} The tag of the next delivery. */
  take() {
    const tag = this.nextTag++;
    if (!this.noAck) {
      if (tag - this.lowest === this.ring.length) this.#grow();
      this.ring[tag & (this.ring.length - 1)] = 1;
      this.unacked += 1;
    }
    return tag;
  }

  /**
   * @param {number} tag
   * @param {boolean} multiple
   * @returns {number} How many deliveries that answers.
   */
  settle(tag, multiple) {
    const mask = this.ring.length - 1;
    let settled = 0;
    for (let each = multiple ? this.lowest : Math.max(tag, this.lowest); each <= tag; each += 1) {
      if (each < this.nextTag && this.ring[each & mask] === 1) {
        this.ring[each & mask] = 0;
        settled += 1;
      }
    }
    this.unacked -= settled;
    while (this.lowest < this.nextTag && this.ring[this.lowest & mask] === 0) this.lowest += 1;
    return settled;
  }

  #grow() {
    const [from, to] = [this.ring, new Uint8Array(this.ring.length * 2)];
    for (let tag = this.lowest; tag < this.nextTag; tag += 1) {
      to[tag & (to.length - 1)] = from[tag & (from.length - 1)];
    }
    this.ring = to;
  }
}

export class SinkConnection {
  #socket;
  #counts;
  #message;
  /** @type {Map<string, Queue>} */
  #queues;
  /** @type {(Channel | undefined)[]} */
  #channels = [];
  #frameMax = FRAME_MAX;
  /** @type {Buffer | undefined} The beginning of a frame that is not complete. */
  #rest;
  /** Bytes of a body frame still to come. */
  #skip = 0;
  /** @type {Channel | undefined} Whose message is complete once they have. */
  #completing;
  /** @type {Buffer[]} What to answer after the chunk. */
  #answers = [];
  /** @type {Channel[]} Channels with publishes to confirm after the chunk. */
  #toConfirm = [];
  /** @type {Channel[]} Channels with a consumer, served in turn. */
  #consumers = [];
  #turn = 0;
  /** @type {Buffer[]} */
  #blocks = Array.from({ length: BLOCKS }, () => Buffer.allocUnsafeSlow(BLOCK_SIZE));
  #greeted = false;

  /**
   * @param {import('node:net').Socket} socket
   * @param {Counts} counts
   * @param {{ properties: import('./wire.mjs').Properties, body: Uint8Array }} message What is delivered.
   * @param {Map<string, Queue>} queues
   */
  constructor(socket, counts, message, queues) {
    this.#socket = socket;
    this.#counts = counts;
    this.#message = message;
    this.#queues = queues;
    socket.setNoDelay(true);
    socket.on('data', (/** @type {Buffer} */ chunk) => this.#data(chunk));
    socket.on('error', () => socket.destroy());
    const timer = setInterval(() => socket.write(frame(FRAME_HEARTBEAT, 0, Buffer.alloc(0))), HEARTBEAT_INTERVAL);
    socket.on('close', () => clearInterval(timer));
  }

  // ── bytes in ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {Buffer} chunk */
  #data(chunk) {
    let bytes = chunk;
    if (this.#rest !== undefined) {
      bytes = Buffer.concat([this.#rest, chunk]);
      this.#rest = undefined;
    }
    let at = this.#greeted ? 0 : this.#greet(bytes);
    for (;;) {
      if (this.#skip > 0) {
        const skipped = Math.min(this.#skip, bytes.length - at);
        at += skipped;
        this.#skip -= skipped;
        if (this.#skip > 0) break;
        if (this.#completing !== undefined) this.#complete(this.#completing);
        this.#completing = undefined;
      }
      if (bytes.length - at < 7) break;
      const type = bytes[at];
      const number = (bytes[at + 1] << 8) | bytes[at + 2];
      const size = bytes[at + 3] * 0x1000000 + ((bytes[at + 4] << 16) | (bytes[at + 5] << 8) | bytes[at + 6]);
      // As lenient as RabbitMQ: some clients take the limit for the payload's alone.
      if (size > this.#frameMax) this.#fault(`a frame of ${size} bytes on channel ${number}`);
      const channel = this.#channel(number);
      if (type === FRAME_BODY && channel.request === undefined) {
        channel.bodyLeft -= size;
        if (channel.bodyLeft < 0) this.#fault(`a body longer than its header says, on channel ${number}`);
        this.#counts.bodyBytes += size;
        this.#skip = size + 1;
        at += 7;
        this.#completing = channel.bodyLeft === 0 ? channel : undefined;
        continue;
      }
      const end = at + FRAME_OVERHEAD + size;
      if (end > bytes.length) break;
      if (bytes[end - 1] !== 0xce) this.#fault(`a frame without its end on channel ${number}`);
      if (type === FRAME_METHOD) this.#method(channel, bytes, at + 7, end - 1);
      else if (type === FRAME_HEADER) this.#header(channel, bytes, at, end);
      else if (type === FRAME_BODY) this.#requestBody(channel, bytes, at, end);
      at = end;
    }
    if (at < bytes.length) this.#rest = bytes.subarray(at);
    this.#answer();
    this.#deliver();
  }

  /** @param {Buffer} bytes */
  #greet(bytes) {
    this.#greeted = true;
    if (bytes.toString('latin1', 0, 8) !== 'AMQP\0\0\x09\x01') this.#fault('no protocol header');
    const fields = [u8(0), u8(9), table(SERVER_PROPERTIES), longString('PLAIN AMQPLAIN'), longString('en_US')];
    this.#answers.push(method(0, 10, 10, ...fields));
    return 8;
  }

  /** @param {number} number */
  #channel(number) {
    return (this.#channels[number] ??= new Channel(number));
  }

  /**
   * @param {Channel} channel
   * @param {Buffer} bytes
   * @param {number} start
   * @param {number} end
   */
  #header(channel, bytes, start, end) {
    const body = start + 7 + 4;
    channel.bodyLeft = bytes.readUInt32BE(body) * 2 ** 32 + bytes.readUInt32BE(body + 4);
    if (channel.replyTag !== undefined && (bytes.readUInt16BE(body + 8) & HAS_REPLY_TO) !== 0) {
      channel.request = [Buffer.from(bytes.subarray(start, end))];
    }
    if (channel.bodyLeft === 0) this.#complete(channel);
  }

  /**
   * @param {Channel} channel
   * @param {Buffer} bytes
   * @param {number} start
   * @param {number} end
   */
  #requestBody(channel, bytes, start, end) {
    const size = end - start - FRAME_OVERHEAD;
    channel.request?.push(Buffer.from(bytes.subarray(start, end)));
    channel.bodyLeft -= size;
    this.#counts.bodyBytes += size;
    if (channel.bodyLeft === 0) this.#complete(channel);
  }

  /** A message has been received. @param {Channel} channel */
  #complete(channel) {
    this.#counts.publishes += 1;
    channel.published += 1;
    if (channel.confirms && channel.published === channel.confirmed + 1) this.#toConfirm.push(channel);
    if (channel.request !== undefined) this.#reply(channel, channel.request);
  }

  /**
   * The request itself is the reply: its header carries the correlation id.
   *
   * @param {Channel} channel
   * @param {Buffer[]} request
   */
  #reply(channel, request) {
    const { number, replyTag = '' } = channel;
    const tag = u64(channel.nextTag++);
    this.#answers.push(
      method(number, 60, 60, shortString(replyTag), tag, u8(0), shortString(''), shortString('reply')),
    );
    this.#answers.push(...request);
    this.#counts.delivered += 1;
    channel.request = undefined;
  }

  // ── methods ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * @param {Channel} channel
   * @param {Buffer} bytes
   * @param {number} start
   * @param {number} end
   */
  #method(channel, bytes, start, end) {
    const classId = bytes[start + 1];
    const methodId = bytes[start + 3];
    const args = start + 4;
    if (classId === 60) {
      if (methodId === 40) return; // basic.publish: what counts is the end of its content.
      if (methodId === 80) {
        this.#acked(channel, bytes.readUInt32BE(args + 4), bytes[args + 8] === 1);
        return;
      }
    }
    this.#request(channel, classId, methodId, bytes.subarray(args, end));
  }

  /**
   * @param {Channel} channel
   * @param {number} tag
   * @param {boolean} multiple
   */
  #acked(channel, tag, multiple) {
    const settled = channel.settle(tag, multiple);
    if (settled === 0)
      this.#fault(`an acknowledgement of ${tag}, which is not outstanding on channel ${channel.number}`);
    this.#counts.acked += settled;
  }

  /**
   * @param {Channel} channel
   * @param {number} classId
   * @param {number} methodId
   * @param {Buffer} args
   */
  #request(channel, classId, methodId, args) {
    const { number } = channel;
    const name = `${classId}.${methodId}`;
    const plain = PLAIN_ANSWERS.get(name);
    if (name === '60.10') channel.prefetch = args.readUInt16BE(4);
    if (name === '50.20') this.#counts.bound += 1;
    if (plain !== undefined) {
      this.#answers.push(method(number, classId, plain));
      return;
    }
    switch (name) {
      case '10.11': // connection.start-ok
        this.#answers.push(method(0, 10, 30, u16(CHANNEL_MAX), u32(FRAME_MAX), u16(60)));
        return;
      case '10.31': // connection.tune-ok
        this.#frameMax = args.readUInt32BE(2) || FRAME_MAX;
        return;
      case '10.40': // connection.open
        this.#answers.push(method(0, 10, 41, shortString('')));
        return;
      case '10.50': // connection.close
        this.#answers.push(method(0, 10, 51));
        return;
      case '20.10': // channel.open
        this.#answers.push(method(number, 20, 11, longString('')));
        return;
      case '20.40': // channel.close
        this.#answers.push(method(number, 20, 41));
        this.#consumers = this.#consumers.filter((consumer) => consumer !== channel);
        this.#channels[number] = undefined;
        return;
      case '50.10': // queue.declare
        this.#counts.declared += 1;
        this.#answers.push(method(number, 50, 11, shortString(shortStringAt(args, 2) || 'amq.gen-1'), u32(0), u32(0)));
        return;
      case '50.30': // queue.purge
      case '50.40': // queue.delete
        this.#answers.push(method(number, 50, methodId + 1, u32(0)));
        return;
      case '60.20': // basic.consume
        this.#consume(channel, args);
        return;
      case '60.30': // basic.cancel
        channel.queue = undefined;
        this.#answers.push(method(number, 60, 31, shortString(shortStringAt(args, 0))));
        return;
      case '60.70': // basic.get
        this.#answers.push(method(number, 60, 72, shortString('')));
        return;
      case '85.10': // confirm.select
        channel.confirms = true;
        this.#answers.push(method(number, 85, 11));
        return;
      default:
        this.#fault(`method ${name}, which the sink does not speak`);
    }
  }

  /**
   * @param {Channel} channel
   * @param {Buffer} args
   */
  #consume(channel, args) {
    const name = shortStringAt(args, 2);
    const tagAt = 3 + Buffer.byteLength(name);
    const consumerTag = shortStringAt(args, tagAt) || `sink-${channel.number}-${channel.nextTag}`;
    this.#answers.push(method(channel.number, 60, 21, shortString(consumerTag)));
    if (name === DIRECT_REPLY_TO) {
      channel.replyTag = consumerTag;
      return;
    }
    // A queue's name ends with how many consumers it waits for, and how many messages are in it.
    const [awaited = 0, left = 0] = name.split('.').slice(-2).map(Number);
    const queue = this.#queues.get(name) ?? { left, awaited };
    queue.awaited -= 1;
    this.#queues.set(name, queue);
    channel.queue = queue;
    channel.noAck = (args[tagAt + 1 + args[tagAt]] & 0b10) !== 0;
    channel.source = new DeliverySource(channel.number, consumerTag, this.#frameMax, this.#message);
    if (!this.#consumers.includes(channel)) this.#consumers.push(channel);
  }

  /** @param {string} what */
  #fault(what) {
    if (this.#counts.faults.length < 10) this.#counts.faults.push(what);
  }

  // ── bytes out ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** All that a chunk has to be answered leaves as one write. */
  #answer() {
    for (const channel of this.#toConfirm) {
      this.#answers.push(method(channel.number, 60, 80, u64(channel.published), u8(1)));
      channel.confirmed = channel.published;
    }
    this.#toConfirm.length = 0;
    if (this.#answers.length === 0) return;
    this.#socket.write(this.#answers.length === 1 ? this.#answers[0] : Buffer.concat(this.#answers));
    this.#answers.length = 0;
  }

  /** Fills blocks for as long as there are blocks, messages, and consumers that may have them. */
  #deliver() {
    while (this.#consumers.length > 0) {
      const block = this.#blocks.pop();
      if (block === undefined) return;
      const length = this.#fill(block);
      if (length === 0) {
        this.#blocks.push(block);
        return;
      }
    }
  }

  /**
   * @param {Buffer} block
   * @returns {number} How many bytes of it were written.
   */
  #fill(block) {
    const consumers = this.#consumers;
    let length = 0;
    /** @type {Buffer | undefined} */
    let shared;
    for (let idle = 0; idle < consumers.length && shared === undefined;) {
      const channel = consumers[this.#turn % consumers.length];
      const { source, queue } = channel;
      if (source === undefined || queue === undefined || !channel.mayDeliver) {
        this.#turn += 1;
        idle += 1;
        continue;
      }
      if (length + source.copied > block.length) break;
      source.write(block, length, channel.take());
      queue.left -= 1;
      this.#counts.delivered += 1;
      length += source.copied;
      shared = source.shared;
      idle = 0;
      if (consumers.length > 1) this.#turn += 1;
    }
    if (length === 0) return 0;
    const written = () => {
      this.#blocks.push(block);
      this.#deliver();
    };
    if (shared === undefined) {
      this.#socket.write(block.subarray(0, length), written);
    } else {
      this.#socket.cork();
      this.#socket.write(block.subarray(0, length));
      this.#socket.write(shared, written);
      this.#socket.uncork();
    }
    return length;
  }
}

/**
 * @param {Buffer} bytes
 * @param {number} at
 */
function shortStringAt(bytes, at) {
  return bytes.toString('utf8', at + 1, at + 1 + bytes[at]);
}
