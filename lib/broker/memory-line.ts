/**
 * A connection without a network: two ends, and what is written to one is read from the other. Unlike Node's own pair of
 * duplexes it ends as a socket does: whoever destroys one end is noticed at the other. And as a socket it keeps its process
 * alive, until either end has ended it.
 */
import { Duplex } from 'node:stream';

/** What a broker needs of a transport; `Socket` of `node:net` is one. */
export interface Transport extends Duplex {
  /** Ends it as a crash does: the other end reads an error, not the end. */
  resetAndDestroy(): unknown;
}

/** Two ends of one line. */
export function memoryLine(): [near: Transport, far: Transport] {
  const near = new LineEnd();
  const far = new LineEnd();
  near.join(far);
  far.join(near);
  keepAlive(far);
  return [near, far];
}

/** Longest time that a timer can run, in milliseconds. */
const LONGEST_TIMEOUT = 0x7fff_ffff;

/** A consumer waits for messages with nothing but its connection: without this, Node would take that for the end. */
function keepAlive(end: Duplex): void {
  const timer = setInterval(() => undefined, LONGEST_TIMEOUT);
  end.once('close', () => {
    clearInterval(timer);
  });
}

class LineEnd extends Duplex implements Transport {
  #other!: LineEnd;
  /** What the other end wrote and this one has no room for yet: to be called when there is. */
  #taken: (() => void) | undefined;
  #hasEnd = false;

  constructor() {
    // As sockets: who reads the end says the end.
    super({ allowHalfOpen: false });
  }

  join(other: LineEnd): void {
    this.#other = other;
  }

  resetAndDestroy(): void {
    const reset = Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET', syscall: 'read' });
    if (!this.#other.destroyed) this.#other.destroy(reset);
    this.destroy();
  }

  override _read(): void {
    const taken = this.#taken;
    this.#taken = undefined;
    taken?.();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#deliver([chunk], done);
  }

  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.#deliver(
      chunks.map(({ chunk }) => chunk),
      done,
    );
  }

  #deliver(chunks: readonly Buffer[], done: (error?: Error | null) => void): void {
    // As from a socket, in another turn of the event loop: two ends that answer each other for ever leave room for timers.
    setImmediate(() => {
      const other = this.#other;
      if (this.destroyed) {
        done();
        return;
      }
      let hasRoom = true;
      for (const chunk of chunks) {
        // The other end may end itself over any of them.
        if (other.destroyed || other.#hasEnd) {
          done(Object.assign(new Error('write EPIPE'), { code: 'EPIPE', syscall: 'write' }));
          return;
        }
        hasRoom = other.push(chunk);
      }
      if (hasRoom) done();
      // Until it is read it counts as not written, so that a reader who does not read holds the writer back.
      else other.#taken = done;
    });
  }

  override _final(done: () => void): void {
    this.#other.#pushEnd();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const other = this.#other;
    // Nobody will take what either of them wrote; whoever writes more finds out.
    const untaken = [this.#taken, other.#taken];
    this.#taken = other.#taken = undefined;
    if (!other.destroyed) other.#pushEnd();
    for (const taken of untaken) taken?.();
    // Who is paused would never read as far as the end. (Who reads by 'readable' is paused in Node's words only.)
    if (!other.destroyed && other.readableFlowing === false && other.listenerCount('readable') === 0) other.destroy();
    done(error);
  }

  #pushEnd(): void {
    if (this.destroyed || this.#hasEnd) return;
    this.#hasEnd = true;
    this.push(null);
  }
}
