/**
 * An application whose handler fails, and whose process is killed where the environment says: as a certain method of AMQP goes
 * over the wire once the handler has run. Run by `crashes.test.ts` beside the installed package.
 */
import 'reflect-metadata';
import { connect } from 'node:net';
import { Duplex } from 'node:stream';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { AmqpModule, Consume } from 'nest-amqp';

const { AMQP_URL = '', QUEUE = '', RETRY = '', KILL_AT = '' } = process.env;
/** `out` or `in`, class and method id, `before` or `after` it goes on. */
const [direction, classId, methodId, when] = KILL_AT.split(':');

let armed = false;

function die() {
  process.kill(process.pid, 'SIGKILL');
}

/**
 * Says of each chunk whether the method is in it, however frames are cut.
 *
 * @param {number} start octets before the first frame
 * @returns {(chunk: Buffer) => boolean}
 */
function finder(start) {
  /** @type {Buffer} */
  let rest = Buffer.alloc(0);
  let skip = start;
  return (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    if (skip > 0) {
      const skipped = Math.min(skip, rest.length);
      rest = rest.subarray(skipped);
      skip -= skipped;
    }
    let found = false;
    while (rest.length >= 7 && rest.length >= 8 + rest.readUInt32BE(3)) {
      const isMethod = rest[0] === 1;
      found ||=
        isMethod && rest.readUInt16BE(7) === Number(classId) && rest.readUInt16BE(9) === Number(methodId) && armed;
      rest = rest.subarray(8 + rest.readUInt32BE(3));
    }
    return found;
  };
}

function dial() {
  const { hostname, port } = new URL(AMQP_URL);
  const socket = connect({ host: hostname, port: Number(port || 5672), noDelay: true });
  // The protocol header is no frame.
  const [isOut, isIn] = [finder(8), finder(0)];
  const line = new Duplex({
    read: () => undefined,
    write(/** @type {Buffer} */ chunk, _encoding, done) {
      const hit = isOut(chunk) && direction === 'out';
      if (hit && when === 'before') die();
      socket.write(chunk, () => {
        if (hit) die();
        done();
      });
    },
  });
  socket.on('data', (chunk) => {
    if (isIn(chunk) && direction === 'in') die();
    line.push(chunk);
  });
  socket.on('close', () => line.destroy());
  return line;
}

class Billing {
  charge() {
    armed = true;
    throw new Error('the database is down');
  }
}
const options = RETRY === '' ? {} : { retry: { attempts: 9, delays: [Number(RETRY)] } };
// What decorators come to where there is no TypeScript.
const { charge } = Object.getOwnPropertyDescriptors(Billing.prototype);
Consume(QUEUE, options)(Billing.prototype, 'charge', charge);

Logger.overrideLogger(false);
const connection = { dial };
await NestFactory.createApplicationContext({
  module: Billing,
  imports: [AmqpModule.forRoot({ url: AMQP_URL, connection })],
});
