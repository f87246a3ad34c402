/** Names of what is declared beside something else, and called after it. */
import { createHash } from 'node:crypto';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';

/** The name, or, where it is longer than a name may be, the one that has a digest of `origin` in the place of that. */
export function derivedName(name: string, origin: string, shorter: (digest: string) => string): string {
  if (Buffer.byteLength(name) <= LONGEST_SHORTSTR) return name;
  return shorter(createHash('sha256').update(origin).digest('hex').slice(0, 16));
}
