/** The names of direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to): what a requester consumes from and is replied at. */
import { randomBytes } from 'node:crypto';
import type { VirtualHost } from './virtual-host.js';

/** The queue that is none: whoever consumes from it gets the replies to the requests of the same channel. */
export const REPLY_TO = 'amq.rabbitmq.reply-to';

export function isReplyTo(name: string): boolean {
  return name === REPLY_TO || name.startsWith(`${REPLY_TO}.`);
}

/** An address for replies that nobody guesses. */
export function replyAddress(): string {
  return `${REPLY_TO}.${randomBytes(24).toString('base64url')}`;
}

/** Whether somebody waits for replies at this address. */
export function replyToIsKnown(virtualHost: VirtualHost, name: string): boolean {
  return name === REPLY_TO || virtualHost.hasReplyTo(name);
}
