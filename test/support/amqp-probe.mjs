/**
 * Finds out whether an AMQP 0-9-1 broker answers on a port, and which version it says it is. It shares no code with the
 * library, so that a fault there cannot make the broker look dead.
 */
import { connect } from 'node:net';

const PROTOCOL_HEADER = Buffer.from('AMQP\0\0\x09\x01', 'latin1');
const METHOD_FRAME = 1;
const FRAME_HEADER_SIZE = 7;

/**
 * Sends the protocol header and reads the broker's first frame.
 *
 * @param {string} host
 * @param {number} port
 * @param {number} deadline in milliseconds
 * @returns {Promise<string>} the product's version, or an empty text when the broker does not tell
 */
export function brokerVersion(host, port, deadline) {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port });
    const timer = setTimeout(() => {
      socket.destroy(new Error(`no answer within ${String(deadline)} ms`));
    }, deadline);
    let received = Buffer.alloc(0);
    socket.on('connect', () => socket.write(PROTOCOL_HEADER));
    socket.on('data', (bytes) => {
      received = Buffer.concat([received, bytes]);
      if (received[0] !== METHOD_FRAME) {
        socket.destroy(new Error('the answer is not AMQP 0-9-1'));
      } else if (
        received.length > FRAME_HEADER_SIZE &&
        received.length > FRAME_HEADER_SIZE + received.readUInt32BE(3)
      ) {
        resolve(versionIn(received));
        socket.destroy();
      }
    });
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(timer);
      // Nothing happens here when it was settled before.
      reject(new Error('the connection was closed before an answer'));
    });
  });
}

/**
 * The long string that follows the key `version` in the frame's table; the whole table is not needed here.
 *
 * @param {Buffer} frame
 */
function versionIn(frame) {
  const key = Buffer.from('\x07versionS', 'latin1');
  const at = frame.indexOf(key);
  if (at < 0) return '';
  const start = at + key.length + 4;
  return frame.toString('utf8', start, start + frame.readUInt32BE(start - 4));
}
