/** The patterns of topic exchanges. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { TopicPatterns, commonKey } from '../../lib/protocol/topic-pattern.js';

/** What the specification says, word by word, trying every way. */
function matches(pattern: readonly string[], key: readonly string[]): boolean {
  const [word, ...rest] = pattern;
  if (word === undefined) return key.length === 0;
  if (word === '#') return matches(rest, key) || (key.length > 0 && matches(pattern, key.slice(1)));
  return key.length > 0 && (word === '*' || word === key[0]) && matches(rest, key.slice(1));
}

const words = (text: string): string[] => (text === '' ? [] : text.split('.'));

const pattern = fc.array(fc.constantFrom('a', 'b', '', '*', '#'), { maxLength: 6 }).map((parts) => parts.join('.'));
const key = fc.array(fc.constantFrom('a', 'b', '', 'c'), { maxLength: 7 }).map((parts) => parts.join('.'));

describe('topic patterns', () => {
  test.each([
    ['a.#.z', 'a.z', true],
    ['a.#.z', 'a.b.c.z', true],
    ['a.#.z', 'a.z.b', false],
    ['a.#.z', 'a.z.z', true],
    ['#', '', true],
    ['#', 'a.b', true],
    ['*', '', false],
    ['*', 'a', true],
    ['*.*', 'a', false],
    ['a.*', 'a.', true],
    ['', '', true],
    ['', 'a', false],
    ['#.#', '', true],
    ['#.a.#', 'b.a.c', true],
    ['#.*', '', false],
    ['a.#', 'a', true],
    ['a*', 'ab', false],
    ['constructor', '__proto__', false],
  ])('%j and the key %j: %s', (text, routingKey, expected) => {
    const patterns = new TopicPatterns<string>();
    patterns.add(text, 'found');
    expect(patterns.match(routingKey)).toEqual(expected ? ['found'] : []);
  });

  test('find what a naive matcher finds, each once, also after some have gone', () => {
    fc.assert(
      fc.property(fc.array(pattern, { maxLength: 12 }), key, fc.nat(12), (texts, routingKey, removed) => {
        const patterns = new TopicPatterns<number>();
        texts.forEach((text, index) => patterns.add(text, index));
        texts.slice(0, removed).forEach((text, index) => patterns.delete(text, index));
        const expected = texts
          .map((text, index) => ({ text, index }))
          .filter(({ text, index }) => index >= removed && matches(words(text), words(routingKey)))
          .map(({ index }) => index);
        expect(patterns.match(routingKey).sort((a, b) => a - b)).toEqual(expected);
      }),
      { numRuns: 500 },
    );
  });

  test('find any number of values under one pattern', () => {
    const patterns = new TopicPatterns<number>();
    for (let value = 0; value < 200_000; value += 1) patterns.add('a.#', value);
    expect(patterns.match('a.b')).toHaveLength(200_000);
  });

  test('with many # are matched in a time that does not explode', () => {
    const patterns = new TopicPatterns<string>();
    patterns.add(`${'#.a.'.repeat(40)}b`, 'found');
    const routingKey = 'a.'.repeat(120);
    // One way after the other, this takes longer than the universe is old.
    expect(patterns.match(`${routingKey}c`)).toEqual([]);
    expect(patterns.match(`${routingKey}b`)).toEqual(['found']);
  });
});

/** Every list of the words, up to a length. */
function listsOf(alphabet: readonly string[], most: number): string[][] {
  let lists: string[][] = [[]];
  const all = [...lists];
  for (let length = 1; length <= most; length += 1) {
    lists = lists.flatMap((list) => alphabet.map((word) => [...list, word]));
    all.push(...lists);
  }
  return all;
}

/** A single empty word is written like no word at all, and is none. */
const isText = (list: readonly string[]): boolean => !(list.length === 1 && list[0] === '');

describe('a key that two patterns have in common', () => {
  test.each([
    ['order.*', '*.refunded', 'order.refunded'],
    ['order.*', 'order.#', 'order.x'],
    ['a.#.z', 'a.x.c', undefined],
    ['a.#.z', '*.b', undefined],
    ['a.#.z', '#.b.*', 'a.b.z'],
    ['#', '', ''],
    ['*', '#.', undefined],
    ['#.', '.#', '.'],
    ['a', 'a', 'a'],
    ['a.b', 'a', undefined],
  ])('of %j and %j is %j', (one, other, key) => {
    expect(commonKey(one, other)).toBe(key);
    expect(commonKey(other, one) === undefined).toBe(key === undefined);
  });

  // With three words, the least key that two patterns share has four at most: two of each beside a `#`.
  test.each([[['a', 'b']], [['a', '']]])(
    'is found exactly when one exists, for all patterns of up to three words of %j',
    (literals) => {
      const keys = listsOf([...literals, 'c'], 4).filter(isText);
      const patterns = listsOf([...literals, '*', '#'], 3).filter(isText);
      const matching = patterns.map((list) => keys.map((candidate) => matches(list, candidate)));
      const wrong: string[] = [];
      for (const [i, one] of patterns.entries()) {
        for (const [j, other] of patterns.entries()) {
          const exists = keys.some((_, at) => matching[i]?.[at] === true && matching[j]?.[at] === true);
          const found = commonKey(one.join('.'), other.join('.'));
          if ((found !== undefined) !== exists) wrong.push(`${one.join('.')} and ${other.join('.')}: ${String(found)}`);
        }
      }
      expect(patterns.length).toBeGreaterThan(80);
      expect(wrong).toEqual([]);
    },
  );

  test('is matched by both, and stays so for long patterns', () => {
    fc.assert(
      fc.property(pattern, pattern, (one, other) => {
        const shared = commonKey(one, other);
        if (shared === undefined) return;
        const patterns = new TopicPatterns<number>();
        patterns.add(one, 1);
        patterns.add(other, 2);
        expect(patterns.match(shared).sort()).toEqual([1, 2]);
      }),
      { numRuns: 2_000 },
    );
    const long = Array.from({ length: 60 }, () => '#.a').join('.');
    expect(commonKey(long, `${long}.*`)).toBeDefined();
  });

  test('is missing only where no key is in common', () => {
    fc.assert(
      fc.property(pattern, pattern, key, (one, other, candidate) => {
        fc.pre(matches(words(one), words(candidate)) && matches(words(other), words(candidate)));
        expect(commonKey(one, other)).toBeDefined();
      }),
      { numRuns: 300, maxSkipsPerRun: 1_000 },
    );
  });
});
