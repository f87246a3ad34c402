/** That each experiment has its test. */
import { expect, test } from '@jest/globals';
import { readFileSync, readdirSync } from 'node:fs';

const MARKS = 'e1 e2b e3 e4 e5 e6 e7 e8 e9 e10 e11 e12 e13 e15 e16 e17 e18 e19 e20 e21 e22 e23 nest12'.split(' ');

test.each(MARKS)('%s is in the title of a test', (mark) => {
  const folder = new URL('./', import.meta.url);
  const sources = readdirSync(folder)
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => readFileSync(new URL(name, folder), 'utf8'));
  expect(sources.some((source) => source.includes(`'${mark}: `))).toBe(true);
});
