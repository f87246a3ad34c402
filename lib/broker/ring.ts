/** A list that grows at its end and shrinks at its head. */
const SMALLEST_RING = 16;

/** First in, first out, at constant cost; its memory follows what is in it, down as well as up. */
export class Ring<T> {
  /** Its length is a power of two. */
  #items: (T | undefined)[] = [];
  #head = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  peek(): T | undefined {
    return this.#count === 0 ? undefined : this.#items[this.#head];
  }

  push(item: T): void {
    if (this.#count === this.#items.length) this.#resize(Math.max(SMALLEST_RING, this.#count * 2));
    this.#items[(this.#head + this.#count) & (this.#items.length - 1)] = item;
    this.#count += 1;
  }

  shift(): T | undefined {
    if (this.#count === 0) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#items.length - 1);
    this.#count -= 1;
    // A quarter, not half: a queue that goes up and down around a power of two is not to be moved each time.
    if (this.#items.length > SMALLEST_RING && this.#count <= this.#items.length / 4)
      this.#resize(this.#items.length / 2);
    return item;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (let index = 0; index < this.#count; index += 1) {
      yield this.#items[(this.#head + index) & (this.#items.length - 1)] as T;
    }
  }

  clear(): void {
    this.#items = [];
    this.#head = this.#count = 0;
  }

  #resize(length: number): void {
    const items = new Array<T | undefined>(length);
    for (let index = 0; index < this.#count; index += 1) {
      items[index] = this.#items[(this.#head + index) & (this.#items.length - 1)];
    }
    this.#items = items;
    this.#head = 0;
  }
}
