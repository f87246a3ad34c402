/** The lists of names that options are held against. */
import { expect, test } from '@jest/globals';
import { namesOf } from '../../lib/client/option-names.js';

interface WaitOptions {
  readonly timeout?: number | undefined;
  readonly signal: AbortSignal;
}

test('names options in the order given', () => {
  expect(namesOf<WaitOptions>({ timeout: true, signal: true })).toEqual(['timeout', 'signal']);
});

test('does not compile with a name forgotten, or with one that there is not', () => {
  // @ts-expect-error signal is forgotten
  namesOf<WaitOptions>({ timeout: true });
  // @ts-expect-error also one that may be left out
  namesOf<WaitOptions>({ signal: true });
  // @ts-expect-error there is no tiemout
  namesOf<WaitOptions>({ timeout: true, signal: true, tiemout: true });
});
