/**
 * Proof of life on an idle connection (specification, section 4.2.7; https://www.rabbitmq.com/docs/heartbeats).
 *
 * With an interval of n seconds:
 * - we write a heartbeat when we have written nothing for n/2, whatever we read meanwhile: a broker cuts off a client that
 *   only ever receives;
 * - we hold the peer for dead when nothing came for 2n. Times are compared, ticks are not counted, and after a stall of our
 *   own event loop the verdict waits one turn: the bytes that prove the peer alive may be waiting in the socket.
 */

/** What heartbeats need of a connection. */
export interface HeartbeatLine {
  /** When bytes last came, by `performance.now()`. */
  readonly readAt: number;
  /** When bytes last left, by `performance.now()`. */
  readonly wroteAt: number;
  sendHeartbeat(): void;
  peerIsSilent(seconds: number): void;
}

export class Heartbeat {
  readonly #line: HeartbeatLine;
  readonly #interval: number;
  #timer: NodeJS.Timeout | undefined;
  #verdict: NodeJS.Immediate | undefined;

  /** `seconds` between signs of life; 0 turns heartbeats off. */
  constructor(line: HeartbeatLine, seconds: number) {
    this.#line = line;
    this.#interval = seconds * 1000;
    if (seconds > 0) {
      // Looked at four times an interval, so that half an interval of silence is noticed at three quarters at the latest.
      this.#timer = setInterval(() => {
        this.#look();
      }, this.#interval / 4);
      this.#timer.unref();
    }
  }

  stop(): void {
    clearInterval(this.#timer);
    if (this.#verdict !== undefined) clearImmediate(this.#verdict);
  }

  #look(): void {
    if (performance.now() - this.#line.wroteAt >= this.#interval / 2) this.#line.sendHeartbeat();
    if (this.#peerIsLate() && this.#verdict === undefined) {
      this.#verdict = setImmediate(() => {
        this.#verdict = undefined;
        if (this.#peerIsLate()) this.#line.peerIsSilent((this.#interval * 2) / 1000);
      });
    }
  }

  #peerIsLate(): boolean {
    return performance.now() - this.#line.readAt >= this.#interval * 2;
  }
}
