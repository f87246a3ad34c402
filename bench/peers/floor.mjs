/**
 * The floor: a bare socket that writes and reads the same bytes as the clients, encoded beforehand, in blocks of 64 KiB. What
 * it costs nobody can save.
 */
import { once } from 'node:events';
import { connect } from 'node:net';

import { content, method, longString, shortString, table, u16, u32, u8 } from '../sink/wire.mjs';

const FRAME_MAX = 131_072;
const CHANNEL_MAX = 2_047;
const BLOCK = 64 * 1024;
/** A `basic.ack` frame, and where its delivery tag's low half is. */
const ACK_SIZE = 21;
const ACK_TAG = 15;

/**
 * The handshake and channel 1.
 *
 * @param {string} url
 * @param {Buffer[]} more What to ask on the channel, one answer each.
 */
async function opened(url, more) {
  const { hostname, port, username, password } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port), noDelay: true });
  const response = longString(`\0${username || 'guest'}\0${password || 'guest'}`);
  const steps = [
    Buffer.from('AMQP\0\0\x09\x01', 'latin1'),
    method(0, 10, 11, table({}), shortString('PLAIN'), response, shortString('en_US')),
    Buffer.concat([
      method(0, 10, 31, u16(CHANNEL_MAX), u32(FRAME_MAX), u16(0)),
      method(0, 10, 40, shortString('/'), shortString(''), u8(0)),
    ]),
    method(1, 20, 10, shortString('')),
    ...more,
  ];
  for (const step of steps) {
    socket.write(step);
    await once(socket, 'data');
  }
  return socket;
}

/** @param {import('./driver.js').PublishTarget} target */
function encoded({ exchange, routingKey, properties, body }) {
  const publish = method(1, 60, 40, u16(0), shortString(exchange), shortString(routingKey), u8(0));
  return Buffer.concat([publish, content(1, FRAME_MAX, properties(0), body)]);
}

/**
 * @param {Buffer} bytes
 * @param {number} count
 */
function repeated(bytes, count) {
  return Buffer.concat(Array.from({ length: count }, () => bytes));
}

/** @param {import('node:net').Socket} socket */
async function closed(socket) {
  const answered = once(socket, 'data');
  socket.write(method(0, 10, 50, u16(200), shortString(''), u16(0), u16(0)));
  await answered;
  socket.destroy();
}

/** @type {import('./driver.js').Driver} */
export const driver = {
  async publish(target) {
    const socket = await opened(target.url, []);
    const message = encoded(target);
    const perBlock = Math.max(1, Math.floor(BLOCK / message.length));
    const block = repeated(message, perBlock);
    const check = method(1, 50, 10, u16(0), shortString(target.queue), u8(1), table({}));
    return {
      async run(count) {
        for (let left = count; left > 0; left -= perBlock) {
          const bytes = left < perBlock ? block.subarray(0, left * message.length) : block;
          if (!socket.write(bytes)) await once(socket, 'drain');
        }
        socket.write(check);
        await once(socket, 'data');
      },
      close: () => closed(socket),
    };
  },

  async confirm(target) {
    const socket = await opened(target.url, [method(1, 85, 10, u8(0))]);
    const message = encoded(target);
    const block = repeated(message, target.inFlight);
    let published = 0;
    let confirmed = 0;
    let goal = 0;
    let finish = () => {};
    const send = () => {
      const room = Math.min(target.inFlight - (published - confirmed), goal - published);
      if (room > 0) socket.write(block.subarray(0, room * message.length));
      published += Math.max(room, 0);
    };
    let read = 0;
    socket.on('data', (/** @type {Buffer} */ chunk) => {
      // The newest acknowledgement that is whole is enough: they come in order, or are multiple.
      const end = chunk.length - ((read + chunk.length) % ACK_SIZE);
      read += chunk.length;
      if (end < ACK_SIZE) return;
      confirmed = chunk.readUInt32BE(end - ACK_SIZE + ACK_TAG);
      if (confirmed === goal) finish();
      else send();
    });
    return {
      run: (count) =>
        new Promise((resolve) => {
          finish = () => resolve();
          goal += count;
          send();
        }),
      close: () => closed(socket),
    };
  },

  async consume({ url, prefetch, noAck }) {
    const socket = await opened(url, noAck ? [] : [method(1, 60, 10, u32(0), u16(prefetch), u8(0))]);
    let tag = 0;
    return {
      run: (queue, tally) =>
        new Promise((resolve) => {
          /** @type {(chunk: Buffer) => void} */
          let read = () => {};
          let length = 0;
          let bytes = 0;
          let seen = 0;
          // consume-ok and the first delivery may come in one chunk.
          let head = Buffer.alloc(0);
          const first = (/** @type {Buffer} */ chunk) => {
            head = Buffer.concat([head, chunk]);
            const start = 7 + head.readUInt32BE(3) + 1;
            const measured = deliveryLength(head, start);
            if (measured === undefined) return;
            length = measured;
            read = count;
            count(head.subarray(start));
          };
          const count = (/** @type {Buffer} */ chunk) => {
            bytes += chunk.length;
            const whole = Math.floor(bytes / length);
            if (whole === seen) return;
            if (!noAck) socket.write(method(1, 60, 80, u32(0), u32(tag + whole - seen), u8(1)));
            tag += whole - seen;
            for (; seen < whole; seen += 1) tally.one();
          };
          const listen = (/** @type {Buffer} */ chunk) => read(chunk);
          read = first;
          socket.on('data', listen);
          socket.write(
            method(1, 60, 20, u16(0), shortString(queue), shortString(`floor-${tag}`), u8(noAck ? 0b10 : 0), table({})),
          );
          void tally.done.then(() => {
            socket.off('data', listen);
            resolve();
          });
        }),
      close: () => closed(socket),
    };
  },
};

/**
 * How long a delivery is, once its header is there: all of them are the same.
 *
 * @param {Buffer} bytes
 * @param {number} start
 */
function deliveryLength(bytes, start) {
  if (bytes.length < start + 7) return undefined;
  const header = start + 8 + bytes.readUInt32BE(start + 3);
  if (bytes.length < header + 19) return undefined;
  const size = bytes.readUInt32BE(header + 15);
  const frames = Math.ceil(size / (FRAME_MAX - 8));
  return header - start + 8 + bytes.readUInt32BE(header + 3) + size + frames * 8;
}
