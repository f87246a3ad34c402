/**
 * Frames of one channel in, whole commands out: a method, with its header and body where it has them. Nobody else sees a
 * header or body frame.
 *
 * ```
 *            method without content: command
 *             ┌──┐
 *   ┌────────┐◄─┘  method with content   ┌────────┐  header   ┌──────┐ body frame, some missing
 *   │ method │──────────────────────────►│ header │──────────►│ body │◄──┐
 *   └────────┘                           └────────┘           └──────┘───┘
 *        ▲   header of an empty body: command │                   │ last byte: command
 *        └────────────────────────────────────┴───────────────────┘
 * ```
 */
import { AmqpError, ProtocolError } from '../errors.js';
import { FRAME_BODY, FRAME_HEADER, FRAME_METHOD } from './frame.js';
import { type ContentMethodName, type Method, METHODS, hasContent, readMethod } from './methods.js';
import { type BasicProperties, readProperties, readPropertyBytes } from './properties.js';
import { WireReader } from './wire.js';

/** The header and body of a message as they came. */
export class Content {
  /** The bytes of the property flags and values. They are the sender's, unchecked, and decoded on demand. */
  readonly propertyBytes: Buffer;
  /** The body; empty when it is too large. */
  readonly body: Buffer;
  /** Octets of the body as announced. */
  readonly size: number;
  #properties: BasicProperties | undefined;

  constructor(propertyBytes: Buffer, body: Buffer, size = body.length) {
    this.propertyBytes = propertyBytes;
    this.body = body;
    this.size = size;
  }

  /** True when the body was over the limit, and was dropped as it came. One message's fault, not the connection's. */
  get isTooLarge(): boolean {
    return this.body.length !== this.size;
  }

  /**
   * The decoded properties. Throws `UNDECODABLE` when the publisher wrote nonsense: RabbitMQ hands property bytes on
   * unread, so one publisher's nonsense must stay one message's fault.
   */
  get properties(): BasicProperties {
    this.#properties ??= decoding(() => readProperties(new WireReader(this.propertyBytes)));
    return this.#properties;
  }

  /** A property as the bytes that came; undefined when it is not there. Throws `UNDECODABLE` when it cannot be found. */
  bytesOf(property: 'correlationId' | 'replyTo'): Buffer | undefined {
    return decoding(() => readPropertyBytes(new WireReader(this.propertyBytes), property));
  }
}

function decoding<T>(decode: () => T): T {
  try {
    return decode();
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : '';
    throw new AmqpError('UNDECODABLE', `The properties of this message cannot be decoded. ${why}`, { cause });
  }
}

/** A method and, for the methods that carry one, its content. */
export type CommandReceiver = (method: Method, content: Content | undefined) => void;

type State =
  | { readonly awaiting: 'method' }
  | { readonly awaiting: 'header'; readonly method: Method<ContentMethodName> }
  | {
      readonly awaiting: 'body';
      readonly method: Method<ContentMethodName>;
      readonly propertyBytes: Buffer;
      /** Where the body is put together; undefined until its first bytes tell whether it comes in one piece. */
      body: Buffer | undefined;
      readonly size: number;
      received: number;
    };

const AWAITING_METHOD: State = { awaiting: 'method' };

/** Bytes below this share of the memory that they lie in are copied, so that what a user keeps never keeps much more alive. */
const SMALL_SHARE = 0.5;
/** Memory set aside for a body before its bytes have come; a peer that lies about a body's size costs no more than this. */
const BODY_STEP = 1024 * 1024;

export class CommandAssembler {
  readonly #receive: CommandReceiver;
  readonly #maxMessageSize: number;
  #state: State = AWAITING_METHOD;

  constructor(receive: CommandReceiver, maxMessageSize: number) {
    this.#receive = receive;
    this.#maxMessageSize = maxMessageSize;
  }

  /** Takes the payload of a method, header or body frame. Throws `ProtocolError` when it does not fit the state. */
  frame(type: number, buffer: Buffer, start: number, end: number): void {
    switch (type) {
      case FRAME_METHOD:
        this.#method(new WireReader(buffer, start, end));
        return;
      case FRAME_HEADER:
        this.#header(new WireReader(buffer, start, end));
        return;
      case FRAME_BODY:
        this.#body(buffer, start, end);
        return;
      default:
        throw new ProtocolError(501, `The peer sent a frame of type ${type} on a channel.`);
    }
  }

  #method(reader: WireReader): void {
    if (this.#state.awaiting !== 'method') throw this.#unexpected('a method');
    const method = readMethod(reader);
    if (hasContent(method.name)) {
      this.#state = { awaiting: 'header', method: method as Method<ContentMethodName> };
    } else {
      this.#receive(method, undefined);
    }
  }

  #header(reader: WireReader): void {
    const state = this.#state;
    if (state.awaiting !== 'header') throw this.#unexpected('a content header');
    const { method } = state;
    const classId = reader.short();
    reader.short(); // weight: unused in 0-9-1
    const size = reader.longlong();
    if (classId !== METHODS[method.name].id[0]) {
      throw new ProtocolError(501, `The peer sent a content header of class ${classId} after ${method.name}.`);
    }
    const propertyBytes = ownBytes(reader.buffer, reader.position, reader.end);
    if (size === 0) this.#finish(method, propertyBytes, EMPTY);
    else this.#state = { awaiting: 'body', method, propertyBytes, body: undefined, size, received: 0 };
  }

  #body(buffer: Buffer, start: number, end: number): void {
    const state = this.#state;
    if (state.awaiting !== 'body') throw this.#unexpected('a content body');
    const length = end - start;
    // A body ends with its last byte, not with a count of frames: peers may cut it as they like, even into empty frames.
    if (state.received + length > state.size) {
      throw new ProtocolError(
        501,
        `The peer sent ${state.received + length} bytes for a body that it announced with ${state.size}.`,
      );
    }
    const isTooLarge = state.size > this.#maxMessageSize;
    if (length === state.size && !isTooLarge) {
      this.#finish(state.method, state.propertyBytes, ownBytes(buffer, start, end));
      return;
    }
    if (!isTooLarge) {
      state.body = roomFor(state.body, state.received, state.received + length, state.size);
      buffer.copy(state.body, state.received, start, end);
    }
    state.received += length;
    if (state.received === state.size) this.#finish(state.method, state.propertyBytes, state.body ?? EMPTY, state.size);
  }

  #finish(method: Method<ContentMethodName>, propertyBytes: Buffer, body: Buffer, size?: number): void {
    // Back to the start first: the receiver may throw, and the next frame is a new command all the same.
    this.#state = AWAITING_METHOD;
    this.#receive(method, new Content(propertyBytes, body, size));
  }

  #unexpected(what: string): ProtocolError {
    const expected =
      this.#state.awaiting === 'method' ? 'a method' : `the ${this.#state.awaiting} of ${this.#state.method.name}`;
    return new ProtocolError(505, `The peer sent ${what} where ${expected} had to come.`);
  }
}

const EMPTY = Buffer.alloc(0);

/** The bytes in memory that they may keep alive: a view when they are most of it, else a copy. */
function ownBytes(buffer: Buffer, start: number, end: number): Buffer {
  const length = end - start;
  // `buffer` may itself be a view, of Node's shared pool for one: what is kept alive is the memory behind it.
  if (length >= buffer.buffer.byteLength * SMALL_SHARE) return buffer.subarray(start, end);
  // Not from Node's shared pool: a kept copy would pin the 8 KiB slab that it was cut from.
  const copy = Buffer.allocUnsafeSlow(length);
  buffer.copy(copy, 0, start, end);
  return copy;
}

/** Memory for the first `needed` of `size` bytes, grown by doubling so that a claimed size alone allocates little. */
function roomFor(body: Buffer | undefined, used: number, needed: number, size: number): Buffer {
  if (body !== undefined && body.length >= needed) return body;
  const grown = Buffer.allocUnsafeSlow(Math.min(size, Math.max(needed, BODY_STEP, (body?.length ?? 0) * 2)));
  body?.copy(grown, 0, 0, used);
  return grown;
}
