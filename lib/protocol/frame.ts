/**
 * The frame layout, and writing methods and contents as frames. Reading is the frame decoder's.
 *
 * ```
 *   0      1         3             7                  size + 7
 *   | type | channel | size (long) | payload (size) … | 0xCE |        specification, section 4.2.3
 * ```
 *
 * frame_max counts the whole frame, so a body frame carries at most frame_max - 8 bytes of a body.
 */
import { AmqpError } from '../errors.js';
import {
  type ContentMethodName,
  type MethodArgs,
  type MethodName,
  type WritableArgs,
  METHODS,
  ofType,
  writeMethod,
  wrongField,
} from './methods.js';
import { type EchoingProperties, writeProperties } from './properties.js';
import type { WireWriter } from './wire.js';

export const FRAME_METHOD = 1;
export const FRAME_HEADER = 2;
export const FRAME_BODY = 3;
export const FRAME_HEARTBEAT = 8;
export const FRAME_END = 0xce;

/** Octets of a frame before its payload. */
export const FRAME_HEAD_SIZE = 7;
/** Octets of a frame beside its payload. */
export const FRAME_OVERHEAD = 8;
/** The smallest frame_max that a peer may insist on (specification, section 1.1, frame-min-size). */
export const FRAME_MIN_SIZE = 4096;

/** What a client says first: the literal AMQP, a zero, and the version 0-9-1 (specification, section 4.2.2). */
export const PROTOCOL_HEADER: Buffer = Buffer.from([0x41, 0x4d, 0x51, 0x50, 0, 0, 9, 1]);

/** Largest payload of a frame under a negotiated frame_max, where 0 means no limit. */
export function payloadLimit(frameMax: number): number {
  return frameMax === 0 ? 0xffff_ffff : frameMax - FRAME_OVERHEAD;
}

/** Writes a method frame. On any error nothing is written. */
export function writeMethodFrame<N extends MethodName>(
  writer: WireWriter,
  frameMax: number,
  channel: number,
  name: N,
  args: MethodArgs<N>,
): void {
  allOrNothing(writer, () => {
    writeFrame(writer, frameMax, FRAME_METHOD, channel, name, () => {
      writeMethod(writer, name, args);
    });
  });
}

/** Writes the method and header frames of a message whose body has `bodySize` octets. On any error nothing is written. */
export function writeContentHead<N extends ContentMethodName>(
  writer: WireWriter,
  frameMax: number,
  channel: number,
  name: N,
  args: MethodArgs<N> | WritableArgs<N>,
  properties: EchoingProperties,
  bodySize: number,
): void {
  allOrNothing(writer, () => {
    writeFrame(writer, frameMax, FRAME_METHOD, channel, name, () => {
      writeMethod(writer, name, args);
    });
    writeFrame(writer, frameMax, FRAME_HEADER, channel, `The header of ${name}`, () => {
      writer.short(METHODS[name].id[0]);
      writer.short(0); // weight: unused in 0-9-1
      writer.longlong(bodySize);
      writeProperties(writer, properties);
    });
  });
}

/**
 * `writeContentHead` for basic.publish, the method that is written most, laid out by hand; a test holds the two to the same
 * bytes. Returns where the size of the body stands, for `patchBodySize`.
 */
export function writePublishHead(
  writer: WireWriter,
  frameMax: number,
  channel: number,
  exchange: string,
  routingKey: string | Uint8Array,
  mandatory: boolean,
  properties: EchoingProperties,
  bodySize: number,
): number {
  // Names come from configuration too, past the compiler.
  if (typeof exchange !== 'string') throw wrongField('basic.publish', 'exchange', 'a string', ofType(exchange));
  if (!isText(routingKey)) throw wrongField('basic.publish', 'routingKey', 'a string', ofType(routingKey));
  if (typeof mandatory !== 'boolean') {
    throw wrongField('basic.publish', 'mandatory', 'true or false', ofType(mandatory));
  }
  const before = writer.length;
  try {
    writer.octet(FRAME_METHOD);
    writer.short(channel);
    writer.long(0);
    // Class 60, method 40, and the reserved short that once was the ticket.
    writer.long(BASIC_PUBLISH);
    writer.short(0);
    writer.shortstr(exchange, 'exchange', 'of basic.publish');
    writer.shortstr(routingKey, 'routingKey', 'of basic.publish');
    writer.octet(mandatory ? 1 : 0);
    // Two short strings fit the smallest frame_max.
    writer.patchLong(before + 3, writer.length - before - FRAME_HEAD_SIZE);
    writer.octet(FRAME_END);

    const header = writer.length;
    writer.octet(FRAME_HEADER);
    writer.short(channel);
    writer.long(0);
    writer.long(BASIC_CONTENT);
    writer.longlong(bodySize);
    writeProperties(writer, properties);
    const size = writer.length - header - FRAME_HEAD_SIZE;
    if (size > payloadLimit(frameMax)) throw tooLarge('The header of basic.publish', size, frameMax);
    writer.patchLong(header + 3, size);
    writer.octet(FRAME_END);
    return header + FRAME_HEAD_SIZE + 4;
  } catch (error) {
    writer.rewind(before);
    throw error;
  }
}

function isText(value: unknown): boolean {
  return typeof value === 'string' || value instanceof Uint8Array;
}

const BASIC_PUBLISH = (METHODS['basic.publish'].id[0] << 16) | METHODS['basic.publish'].id[1];
/** Class id and the weight, which 0-9-1 does not use. */
const BASIC_CONTENT = METHODS['basic.publish'].id[0] << 16;
const BASIC_ACK = (METHODS['basic.ack'].id[0] << 16) | METHODS['basic.ack'].id[1];

/** Sets the size of a body that was written after its head. It is below 2^32: what is larger is measured first. */
export function patchBodySize(writer: WireWriter, at: number, size: number): void {
  writer.patchLong(at + 4, size);
}

/** basic.ack by hand, as `writePublishHead` is. */
export function writeAck(writer: WireWriter, channel: number, deliveryTag: number, multiple: boolean): void {
  writer.octet(FRAME_METHOD);
  writer.short(channel);
  writer.long(13);
  writer.long(BASIC_ACK);
  writer.longlong(deliveryTag);
  writer.octet(multiple ? 1 : 0);
  writer.octet(FRAME_END);
}

/** Writes what stands before the payload of a body frame; `writeFrameEnd` goes behind it. */
export function writeBodyFrameHead(writer: WireWriter, channel: number, size: number): void {
  writer.octet(FRAME_BODY);
  writer.short(channel);
  writer.long(size);
}

export function writeFrameEnd(writer: WireWriter): void {
  writer.octet(FRAME_END);
}

export function writeHeartbeat(writer: WireWriter): void {
  writer.octet(FRAME_HEARTBEAT);
  writer.short(0);
  writer.long(0);
  writer.octet(FRAME_END);
}

function writeFrame(
  writer: WireWriter,
  frameMax: number,
  type: number,
  channel: number,
  what: string,
  payload: () => void,
): void {
  writer.octet(type);
  writer.short(channel);
  const before = writer.length;
  writer.measured(payload);
  const size = writer.length - before - 4;
  if (size > payloadLimit(frameMax)) throw tooLarge(what, size, frameMax);
  writer.octet(FRAME_END);
}

function tooLarge(what: string, size: number, frameMax: number): AmqpError {
  return new AmqpError(
    'INVALID_ARGUMENT',
    `${what} makes a frame of ${size + FRAME_OVERHEAD} bytes; the broker takes ${frameMax} (frame_max) and frames of this ` +
      'kind cannot be split. Put less into headers or arguments, or move it into the body.',
  );
}

function allOrNothing(writer: WireWriter, write: () => void): void {
  const length = writer.length;
  try {
    write();
  } catch (error) {
    writer.rewind(length);
    throw error;
  }
}
