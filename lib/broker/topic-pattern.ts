/**
 * The patterns of topic exchanges, all of one exchange at a time: `*` stands for one word, `#` for any number of them, none
 * included. What is found under a pattern is the caller's.
 *
 * The patterns form a trie, a word a step. A routing key walks down all branches that fit at once: after every word it is in a
 * set of nodes, and no node is visited twice for one word. So a key of k words costs at most k times the nodes, also where
 * `#` is everywhere; trying the branches one after the other costs exponentially more.
 */

interface Node<T> {
  readonly words: Map<string, Node<T>>;
  star: Node<T> | undefined;
  hash: Node<T> | undefined;
  /** It was reached over `#`: any further word leaves the key here, too. */
  readonly isHash: boolean;
  readonly values: Set<T>;
}

export class TopicPatterns<T> {
  readonly #root = node<T>(false);

  add(pattern: string, value: T): void {
    let at = this.#root;
    for (const word of wordsOf(pattern)) {
      if (word === '*') at = at.star ??= node(false);
      else if (word === '#') at = at.hash ??= node(true);
      else {
        let next = at.words.get(word);
        if (next === undefined) at.words.set(word, (next = node(false)));
        at = next;
      }
    }
    at.values.add(value);
  }

  delete(pattern: string, value: T): void {
    const words = wordsOf(pattern);
    const path = [this.#root];
    for (const word of words) {
      const next = child(path[path.length - 1] as Node<T>, word);
      if (next === undefined) return;
      path.push(next);
    }
    path[path.length - 1]?.values.delete(value);
    // Branches that lead nowhere go.
    for (let depth = words.length; depth > 0 && isBare(path[depth] as Node<T>); depth -= 1) {
      const parent = path[depth - 1] as Node<T>;
      const word = words[depth - 1] as string;
      if (word === '*') parent.star = undefined;
      else if (word === '#') parent.hash = undefined;
      else parent.words.delete(word);
    }
  }

  /** The values of all patterns that match, a value that is there under several patterns once for each. */
  match(key: string): T[] {
    let at = new Set<Node<T>>();
    enter(at, this.#root);
    for (const word of wordsOf(key)) {
      const next = new Set<Node<T>>();
      for (const here of at) {
        if (here.isHash) enter(next, here);
        enter(next, here.star);
        enter(next, here.words.get(word));
      }
      at = next;
    }
    const values: T[] = [];
    // One by one: as arguments of one call, some hundred thousand overflow the stack.
    for (const { values: found } of at) for (const value of found) values.push(value);
    return values;
  }
}

function node<T>(isHash: boolean): Node<T> {
  return { words: new Map(), star: undefined, hash: undefined, isHash, values: new Set() };
}

/** Also to where `#` leads, since it may stand for no word. */
function enter<T>(nodes: Set<Node<T>>, entered: Node<T> | undefined): void {
  for (let at = entered; at !== undefined && !nodes.has(at); at = at.hash) nodes.add(at);
}

function child<T>(at: Node<T>, word: string): Node<T> | undefined {
  return word === '*' ? at.star : word === '#' ? at.hash : at.words.get(word);
}

function isBare<T>(at: Node<T>): boolean {
  return at.values.size === 0 && at.words.size === 0 && at.star === undefined && at.hash === undefined;
}

/** As RabbitMQ splits: the empty key has no word, `.` has two empty ones. */
function wordsOf(key: string): string[] {
  return key === '' ? [] : key.split('.');
}
