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

/**
 * A routing key that both patterns match, or undefined when there is none.
 *
 * `here[j]` is a list of words that the rest of one pattern, from word i, and the rest of the other, from word j, both match. It
 * is filled from the last words to the first, each from its neighbours: n words beside m take n times m steps.
 */
export function commonKey(one: string, other: string): string | undefined {
  const [left, right] = [wordsOf(one), wordsOf(other)];
  let below: (readonly string[] | undefined)[] = [];
  for (let i = left.length; i >= 0; i -= 1) {
    const here: (readonly string[] | undefined)[] = [];
    for (let j = right.length; j >= 0; j -= 1) {
      const [a, b] = [left[i], right[j]];
      // `#` stands for no word, or takes the one that the other pattern has here, and stays.
      if (a === '#') here[j] = below[j] ?? ahead(b, here[j + 1]);
      else if (b === '#') here[j] = here[j + 1] ?? ahead(a, below[j]);
      else if (a === undefined || b === undefined) here[j] = a === b ? [] : undefined;
      else if (a === b || a === '*' || b === '*') here[j] = ahead(a === '*' ? b : a, below[j + 1]);
    }
    below = here;
  }
  const [words] = below;
  // One empty word is no key: written down, it is the key without words. Two are, and `#` takes one of them.
  if (words?.length === 1 && words[0] === '') return left.includes('#') && right.includes('#') ? '.' : undefined;
  return words?.join('.');
}

/**
 * The `*` or `#` of a pattern that stands beside other letters of a word, and what may have been meant instead. AMQP 0-9-1
 * 3.1.3.3: they stand for words where they are words; within one they are letters, and match only themselves.
 */
export function looseWildcard(pattern: string): { readonly wildcard: string; readonly mended: string } | undefined {
  const words = wordsOf(pattern);
  const [wildcard] = words.filter((word) => word.length > 1).flatMap((word) => /[*#]/.exec(word) ?? []);
  if (wildcard === undefined) return undefined;
  const mended = words.map((word) => (word.match(/[*#]|[^*#]+/g) ?? ['']).join('.')).join('.');
  return { wildcard, mended };
}

/** Words with one more before them; any word where the pattern leaves it open. */
function ahead(word: string | undefined, words: readonly string[] | undefined): readonly string[] | undefined {
  if (word === undefined || words === undefined || word === '#') return words;
  return [word === '*' ? 'x' : word, ...words];
}

/** As RabbitMQ splits: the empty key has no word, `.` has two empty ones. */
function wordsOf(key: string): string[] {
  return key === '' ? [] : key.split('.');
}
