/**
 * Publisher confirms of one channel: which publish has which number, and which confirms one basic.ack can say together. They
 * are said when the batch leaves; a broker in the process knows at once what became of a publish.
 */

/** Where confirms are said. */
interface ConfirmLine {
  ack(deliveryTag: number, multiple: boolean): void;
  nack(deliveryTag: number): void;
}

export class Confirms {
  readonly #line: ConfirmLine;
  /** The number of the last publish. */
  #published = 0;
  /** Up to here the client has been told. */
  #told = 0;

  constructor(line: ConfirmLine) {
    this.#line = line;
  }

  /** Whether something waits to be said. */
  get isPending(): boolean {
    return this.#told < this.#published;
  }

  /** One more publish that the broker has taken charge of. */
  acked(): void {
    this.#published += 1;
  }

  /** One more publish that it refuses. */
  nacked(): void {
    this.say();
    this.#published += 1;
    this.#told = this.#published;
    this.#line.nack(this.#published);
  }

  /** Says what was held back. */
  say(): void {
    const waiting = this.#published - this.#told;
    if (waiting === 0) return;
    this.#told = this.#published;
    this.#line.ack(this.#published, waiting > 1);
  }
}
