/**
 * The few AMQP 0-9-1 encodings that the sink and the floor need, written for these and shared with no client that is
 * measured. Parsing is in `connection.mjs`.
 */

export const FRAME_METHOD = 1;
export const FRAME_HEADER = 2;
export const FRAME_BODY = 3;
export const FRAME_HEARTBEAT = 8;
/** Type, channel and size before a payload, and the end octet after it. */
export const FRAME_OVERHEAD = 8;
const FRAME_END = 0xce;

/**
 * A message's properties and headers, in the names that every client here uses.
 *
 * @typedef {object} Properties
 * @property {string} [contentType]
 * @property {Record<string, string | number>} [headers]
 * @property {number} [deliveryMode]
 * @property {number} [priority]
 * @property {string} [correlationId]
 * @property {string} [messageId]
 * @property {number} [timestamp] Seconds.
 */

/**
 * @param {number} type
 * @param {number} channel
 * @param {Uint8Array} payload
 */
export function frame(type, channel, payload) {
  const bytes = Buffer.allocUnsafe(payload.length + FRAME_OVERHEAD);
  bytes[0] = type;
  bytes.writeUInt16BE(channel, 1);
  bytes.writeUInt32BE(payload.length, 3);
  bytes.set(payload, 7);
  bytes[payload.length + 7] = FRAME_END;
  return bytes;
}

/**
 * @param {number} channel
 * @param {number} classId
 * @param {number} methodId
 * @param {...Uint8Array} fields
 */
export function method(channel, classId, methodId, ...fields) {
  return frame(FRAME_METHOD, channel, Buffer.concat([u16(classId), u16(methodId), ...fields]));
}

/**
 * A content header and its body frames.
 *
 * @param {number} channel
 * @param {number} frameMax
 * @param {Properties} properties
 * @param {Uint8Array} body
 */
export function content(channel, frameMax, properties, body) {
  const head = Buffer.concat([u16(60), u16(0), u64(body.length), propertyList(properties)]);
  const frames = [frame(FRAME_HEADER, channel, head)];
  const limit = frameMax - FRAME_OVERHEAD;
  for (let start = 0; start < body.length; start += limit) {
    frames.push(frame(FRAME_BODY, channel, body.subarray(start, start + limit)));
  }
  return Buffer.concat(frames);
}

/** @param {Properties} properties */
function propertyList({ contentType, headers, deliveryMode, priority, correlationId, messageId, timestamp }) {
  // In the order of the flag bits, from 15 down.
  /** @type {[flag: number, value: Uint8Array | undefined][]} */
  const fields = [
    [0x8000, contentType === undefined ? undefined : shortString(contentType)],
    [0x2000, headers === undefined ? undefined : table(headers)],
    [0x1000, deliveryMode === undefined ? undefined : u8(deliveryMode)],
    [0x0800, priority === undefined ? undefined : u8(priority)],
    [0x0400, correlationId === undefined ? undefined : shortString(correlationId)],
    [0x0080, messageId === undefined ? undefined : shortString(messageId)],
    [0x0040, timestamp === undefined ? undefined : u64(timestamp)],
  ];
  let flags = 0;
  const values = [];
  for (const [flag, value] of fields) {
    if (value === undefined) continue;
    flags |= flag;
    values.push(value);
  }
  return Buffer.concat([u16(flags), ...values]);
}

/**
 * @param {Readonly<Record<string, string | number | boolean | object>>} fields
 * @returns {Buffer}
 */
export function table(fields) {
  const entries = Object.entries(fields).map(([name, value]) => Buffer.concat([shortString(name), fieldValue(value)]));
  return longString(Buffer.concat(entries));
}

/**
 * @param {string | number | boolean | object} value
 * @returns {Buffer}
 */
function fieldValue(value) {
  if (typeof value === 'string') return Buffer.concat([Buffer.from('S'), longString(value)]);
  if (typeof value === 'number') return Buffer.concat([Buffer.from('I'), u32(value)]);
  if (typeof value === 'boolean') return Buffer.concat([Buffer.from('t'), u8(value ? 1 : 0)]);
  return Buffer.concat([Buffer.from('F'), table(/** @type {Record<string, string>} */ (value))]);
}

/** @param {string} text */
export function shortString(text) {
  const bytes = Buffer.from(text);
  return Buffer.concat([u8(bytes.length), bytes]);
}

/** @param {string | Uint8Array} value */
export function longString(value) {
  const bytes = typeof value === 'string' ? Buffer.from(value) : value;
  return Buffer.concat([u32(bytes.length), bytes]);
}

/** @param {number} value */
export function u8(value) {
  return Buffer.from([value]);
}

/** @param {number} value */
export function u16(value) {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

/** @param {number} value */
export function u32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** @param {number} value */
export function u64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
