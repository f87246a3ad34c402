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
import { ProtocolError } from '../errors.js';
import { Content, ContentMemory } from './content.js';
import { FRAME_BODY, FRAME_HEADER, FRAME_METHOD } from './frame.js';
import { type ContentMethodName, type Method, METHODS, hasContent, methodId, readMethod } from './methods.js';
import { SeenText } from './seen-text.js';
import { WireReader } from './wire.js';

/** A method and, for the methods that carry one, its content. */
export type CommandReceiver = (method: Method, content: Content | undefined) => void;

/** Memory set aside for a body before its bytes have come; a peer that lies about a body's size costs no more than this. */
const BODY_STEP = 1024 * 1024;
const EMPTY = Buffer.alloc(0);

const BASIC_DELIVER = methodId('basic.deliver');
/** All methods with content are of class basic. */
const [CONTENT_CLASS] = METHODS['basic.deliver'].id;

export class CommandAssembler {
  readonly #receive: CommandReceiver;
  readonly #maxMessageSize: number;
  readonly #bodyStep: number;
  readonly #memory: ContentMemory;
  readonly #reader = new WireReader(EMPTY);
  readonly #consumerTag = new SeenText();
  readonly #exchange = new SeenText();
  readonly #routingKey = new SeenText();

  // The state of the drawing above. Fields of one object and not an object a state: they change three times a message.
  #awaiting: 'method' | 'header' | 'body' = 'method';
  /** The method whose content is awaited. */
  #method: Method<ContentMethodName> | undefined;
  /** The property flags and values: `#head[#headStart, #headEnd)`. */
  #head: Buffer = EMPTY;
  #headStart = 0;
  #headEnd = 0;
  /** Octets of the body, as announced and as received. */
  #size = 0;
  #received = 0;
  /** Where the body is put together; undefined until its first bytes tell whether it comes in one piece. */
  #body: Buffer | undefined;

  /**
   * @param memory - what the contents of one connection share
   * @param bodyStep - memory set aside for a body before its bytes have come, in octets
   */
  constructor(
    receive: CommandReceiver,
    maxMessageSize: number,
    memory = new ContentMemory(),
    bodyStep: number = BODY_STEP,
  ) {
    this.#receive = receive;
    this.#maxMessageSize = maxMessageSize;
    this.#bodyStep = bodyStep;
    this.#memory = memory;
  }

  /** Takes the payload of a method, header or body frame. Throws `ProtocolError` when it does not fit the state. */
  frame(type: number, buffer: Buffer, start: number, end: number): void {
    switch (type) {
      case FRAME_METHOD:
        this.#methodFrame(this.#reader.over(buffer, start, end));
        return;
      case FRAME_HEADER:
        this.#headerFrame(this.#reader.over(buffer, start, end));
        return;
      case FRAME_BODY:
        this.#bodyFrame(buffer, start, end);
        return;
      default:
        throw new ProtocolError(501, `The peer sent a frame of type ${type} on a channel.`);
    }
  }

  #methodFrame(reader: WireReader): void {
    if (this.#awaiting !== 'method') throw this.#unexpected('a method');
    if (reader.peekLong() === BASIC_DELIVER) {
      this.#method = this.#deliver(reader);
      this.#awaiting = 'header';
      return;
    }
    const method = readMethod(reader);
    if (hasContent(method.name)) {
      this.#method = method as Method<ContentMethodName>;
      this.#awaiting = 'header';
    } else {
      this.#receive(method, undefined);
    }
  }

  /** `readMethod` for the method that comes most, by hand: what its strings say was mostly said by the delivery before it. */
  #deliver(reader: WireReader): Method<'basic.deliver'> {
    reader.long();
    const consumerTag = reader.seenText(this.#consumerTag);
    const deliveryTag = reader.longlong();
    const redelivered = (reader.octet() & 1) !== 0;
    const exchange = reader.seenText(this.#exchange);
    const routingKey = reader.seenText(this.#routingKey);
    if (reader.remaining > 0) {
      throw new ProtocolError(501, `The peer sent ${reader.remaining} bytes after the last field of basic.deliver.`);
    }
    return { name: 'basic.deliver', args: { consumerTag, deliveryTag, redelivered, exchange, routingKey } };
  }

  #headerFrame(reader: WireReader): void {
    const method = this.#method;
    if (this.#awaiting !== 'header' || method === undefined) throw this.#unexpected('a content header');
    const classId = reader.short();
    reader.short(); // weight: unused in 0-9-1
    this.#size = reader.longlong();
    if (classId !== CONTENT_CLASS) {
      throw new ProtocolError(505, `The peer sent a content header of class ${classId} after ${method.name}.`, {
        method: method.name,
      });
    }
    this.#head = reader.buffer;
    this.#headStart = reader.position;
    this.#headEnd = reader.end;
    this.#received = 0;
    this.#body = undefined;
    if (this.#size === 0) this.#finish(EMPTY, 0, 0);
    else this.#awaiting = 'body';
  }

  #bodyFrame(buffer: Buffer, start: number, end: number): void {
    if (this.#awaiting !== 'body') throw this.#unexpected('a content body');
    const length = end - start;
    const received = this.#received + length;
    // A body ends with its last byte, not with a count of frames: peers may cut it as they like, even into empty frames.
    if (received > this.#size) {
      throw new ProtocolError(501, `The peer sent ${received} bytes for a body that it announced with ${this.#size}.`);
    }
    const isTooLarge = this.#size > this.#maxMessageSize;
    if (length === this.#size && !isTooLarge) {
      this.#finish(buffer, start, end);
      return;
    }
    if (!isTooLarge) {
      this.#body = roomFor(this.#body, this.#received, received, this.#size, this.#bodyStep);
      buffer.copy(this.#body, this.#received, start, end);
    }
    this.#received = received;
    if (received !== this.#size) return;
    const body = this.#body ?? EMPTY;
    this.#finish(body, 0, body.length);
  }

  #finish(body: Buffer, start: number, end: number): void {
    const method = this.#method as Method<ContentMethodName>;
    const head = this.#head;
    const content = new Content(this.#memory, head, this.#headStart, this.#headEnd, body, start, end, this.#size);
    // Back to the start first: the receiver may throw, and the next frame is a new command all the same.
    this.#awaiting = 'method';
    this.#method = undefined;
    this.#body = undefined;
    this.#head = EMPTY;
    this.#receive(method, content);
  }

  #unexpected(what: string): ProtocolError {
    const expected = this.#method === undefined ? 'a method' : `the ${this.#awaiting} of ${this.#method.name}`;
    return new ProtocolError(505, `The peer sent ${what} where ${expected} had to come.`, {
      method: this.#method?.name,
    });
  }
}

/** Memory for the first `needed` of `size` bytes, grown by doubling so that a claimed size alone allocates little. */
function roomFor(body: Buffer | undefined, used: number, needed: number, size: number, step: number): Buffer {
  if (body !== undefined && body.length >= needed) return body;
  const grown = Buffer.allocUnsafeSlow(Math.min(size, Math.max(needed, step, (body?.length ?? 0) * 2)));
  body?.copy(grown, 0, 0, used);
  return grown;
}
