/** The patterns of topic exchanges. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { TopicPatterns } from '../../lib/broker/topic-pattern.js';

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
