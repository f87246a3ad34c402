/** The text beside a reply code: the broker's for the user, and ours for the broker. */
import { printable } from '../errors.js';
import type { MethodName } from '../protocol/methods.js';
import { LONGEST_SHORTSTR } from '../protocol/wire.js';

/** What to do about the reply codes that a user can do something about. */
const CLOSE_ADVICE: Readonly<Record<number, string>> = {
  403: 'Grant the user the permission, wait for the exclusive user to end, or use another name.',
  404: 'Declare it first, or correct the name.',
  405: 'Another connection holds it exclusively: wait for that to end, or use another name.',
  406: 'See the reply text: it names what does not fit.',
};

/** The broker's reply as a sentence or two: `404 'NOT_FOUND - no queue …' (queue.bind). Declare it first, …`. */
export function closeReason(replyCode: number, replyText: string, method: MethodName | undefined): string {
  // A login or a virtual host that is refused: the errors of the handshake have better advice.
  const advice = method?.startsWith('connection.') === true ? undefined : CLOSE_ADVICE[replyCode];
  const told = replyTold(replyCode, replyText, method);
  return advice === undefined ? told : `${told} ${advice}`;
}

/** The same without advice, for who has better: `404 'NOT_FOUND - no queue …' (queue.bind).` */
export function replyTold(replyCode: number, replyText: string, method: string | undefined): string {
  return `${replyCode} ${printable(replyText.replace(/\.$/, ''))}${method === undefined ? '' : ` (${method})`}.`;
}

/** A reply text that fits a short string: control characters escaped, cut at a character. */
export function shortText(text: string): string {
  const bytes = Buffer.from(printable(text, LONGEST_SHORTSTR));
  if (bytes.length <= LONGEST_SHORTSTR) return bytes.toString();
  let end = LONGEST_SHORTSTR;
  // The bytes of a character after its first are 10xxxxxx.
  while (((bytes[end] as number) & 0xc0) === 0x80) end -= 1;
  return bytes.toString('utf8', 0, end);
}
