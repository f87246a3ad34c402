/** Every number of the checklist has its place: the title of a test of this folder. */
import { expect, test } from '@jest/globals';
import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('.', import.meta.url));
const LAST = 107;

const read = (file: string): string => readFileSync(`${FOLDER}${file}`, 'utf8');
const numbersIn = (source: string, pattern: RegExp): number[] =>
  [...source.matchAll(pattern)].map(([, number]) => Number(number));

test('every number from 1 to 107 is in the title of a test', () => {
  const files = readdirSync(FOLDER).filter((file) => file.endsWith('.test.ts'));
  const tested = files.flatMap((file) => numbersIn(read(file), /^test\(\s*['"`](\d+)\. /gm));
  const all = [...new Set(tested)].sort((a, b) => a - b);
  expect(all).toEqual(Array.from({ length: LAST }, (_, index) => index + 1));
});
