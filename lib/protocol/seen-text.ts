/** Short text that comes again and again: the string that was decoded last is given out again while the bytes are the same. */

/** Longer text is not compared: it is as quickly decoded. */
const LONGEST = 64;

export class SeenText {
  readonly #bytes = new Uint8Array(LONGEST);
  #length = -1;
  #text = '';

  /** The UTF-8 in `buffer[start, end)`. */
  read(buffer: Buffer, start: number, end: number): string {
    if (this.#isSame(buffer, start, end)) return this.#text;
    const text = buffer.toString('utf8', start, end);
    if (end - start <= LONGEST) {
      this.#length = end - start;
      this.#text = text;
      for (let index = 0; index < this.#length; index += 1) this.#bytes[index] = buffer[start + index] as number;
    }
    return text;
  }

  #isSame(buffer: Buffer, start: number, end: number): boolean {
    const bytes = this.#bytes;
    const length = end - start;
    if (length !== this.#length) return false;
    for (let index = 0; index < length; index += 1) if (bytes[index] !== buffer[start + index]) return false;
    return true;
  }
}
