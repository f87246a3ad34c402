/** A peer whose answer comes within the client's own write, as it may on a transport in memory. */
import { expect, test } from '@jest/globals';
import { Duplex } from 'node:stream';

import { connect } from '../../lib/client/connection.js';
import { ScriptedPeer } from '../../lib/testing/scripted-peer.js';
import { frameOf } from '../support/client.js';
import { within } from '../support/waits.js';

/** A line to the peer on which something can be said before a write returns. */
class EagerLine extends Duplex {
  /** Called once, within the next write. */
  onWrite: (() => void) | undefined;
  readonly #far: Duplex;

  constructor(far: Duplex) {
    super();
    this.#far = far;
    far.on('data', (chunk: Buffer) => this.push(chunk));
    far.on('end', () => this.push(null));
  }

  override _read(): void {
    // What comes is pushed as it comes.
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#far.write(chunk);
    const { onWrite } = this;
    this.onWrite = undefined;
    onWrite?.();
    done();
  }

  override _final(done: () => void): void {
    this.#far.end(done);
  }
}

/** So many bytes the client gathers before it writes within the call that brings them. */
const FLUSH_SIZE = 65_536;

test('a channel that the peer closes within the write of our channel.close tells its end once, with the reason', async () => {
  const peer = new ScriptedPeer();
  const line = new EagerLine(peer.transport);
  const [connection] = await Promise.all([connect({ dial: () => line, closeTimeout: 0 }), peer.handshake()]);
  const [channel] = await Promise.all([connection.channel(), peer.openChannel()]);
  const told: unknown[] = [];
  channel.on('close', (error) => told.push(error?.replyCode));

  // Gathered, so that channel.close is what makes the client write. A publish has 60 bytes and less beside its body.
  for (let sent = 0; sent < 4; sent += 1) void channel.basicPublish('gone', '', Buffer.alloc(15 * 1024));
  void channel.basicPublish('gone', '', Buffer.alloc(FLUSH_SIZE - connection.bufferedBytes - 60));
  expect(connection.bufferedBytes).toBeGreaterThan(FLUSH_SIZE - 26);
  expect(connection.bufferedBytes).toBeLessThan(FLUSH_SIZE);
  let cameWithin = false;
  line.onWrite = () => {
    const refusal = { replyCode: 404, replyText: 'NOT_FOUND', classId: 60, methodId: 40 };
    line.push(frameOf(channel.number, 'channel.close', refusal));
    cameWithin = !channel.isOpen;
  };
  const closing = channel.close();
  expect(cameWithin).toBe(true);
  await within('close', closing);
  expect([told, channel.endError?.replyCode]).toEqual([[404], 404]);

  // Its number is given out once.
  for (let sent = 0; sent < 5; sent += 1) await peer.receive('basic.publish');
  await peer.receive('channel.close');
  await peer.receive('channel.close-ok');
  const numbers = [];
  for (let opened = 0; opened < 2; opened += 1) {
    const [next] = await Promise.all([connection.channel(), peer.openChannel()]);
    numbers.push(next.number);
  }
  expect(new Set(numbers).size).toBe(2);
  await connection.close();
});
