/**
 * The sink as a process of its own: a server on a free port of the loopback interface, made for one measurement. Its parent
 * gives the message to deliver as the first argument, is told the port, and asks for the counts.
 */
import { createServer } from 'node:net';

import { messageOf } from '../messages.mjs';
import { SinkConnection } from './connection.mjs';

/** @type {import('./connection.mjs').Counts} */
const counts = { publishes: 0, bodyBytes: 0, delivered: 0, acked: 0, declared: 0, bound: 0, faults: [] };
const message = messageOf(JSON.parse(process.argv[2]));
/** @type {Map<string, import('./connection.mjs').Queue>} */
const queues = new Map();

const server = createServer((socket) => new SinkConnection(socket, counts, message, queues));
server.listen(0, '127.0.0.1', () => {
  const address = /** @type {import('node:net').AddressInfo} */ (server.address());
  process.send?.({ port: address.port });
});

process.on('message', () => process.send?.({ counts }));
process.on('disconnect', () => process.exit());
