/**
 * Whether a stream is the one that a consumer has read from: one that was deleted and declared anew begins at 0 again, and RabbitMQ
 * has whoever asks for an offset beyond its end wait until that is reached, and drops what is published before.
 */
import { STREAM_OFFSET } from '../protocol/stream-offset.js';
import type { Channel } from './channel.js';
import type { Connection } from './connection.js';
import { type End, lost } from './consumer-end.js';
import { isQueueMissing } from './consumer-status.js';
import type { StreamPosition } from './stream-position.js';
import { pause } from './wait.js';

/** What is there comes in milliseconds. As long RabbitMQ 3.10 takes to count what was published. */
const WAIT = 5_000;

/** What ends first: the consuming, or the stream before what the consumer has read. Nobody tells who was away while it was deleted. */
export async function orAnotherStream(
  connection: Connection,
  queue: string,
  position: StreamPosition,
  ended: Promise<End>,
): Promise<End> {
  const over = new AbortController();
  const another = isAnother(connection, queue, position, over.signal).then(async (is) => {
    if (!is) return await ended;
    position.forget();
    return lost(
      'the stream ends before what was read of it: it was deleted, and declared anew. It is read as a new one.',
    );
  });
  try {
    return await Promise.race([ended, another]);
  } finally {
    over.abort();
  }
}

/** Forgets what was read of a stream that is not there: it is read as a new one when it comes back. */
export async function heedDeletion(connection: Connection, queue: string, position: StreamPosition): Promise<void> {
  if (position.hasRun && (await isGone(connection, queue))) position.forget();
}

/** Whether what the consumer has asked for does not come, because the stream ends before that; false when something comes, or the signal fires. */
async function isAnother(
  connection: Connection,
  queue: string,
  position: StreamPosition,
  signal: AbortSignal,
): Promise<boolean> {
  const isAwaited = (offset: bigint): boolean => position.awaited === offset && !signal.aborted;
  const { awaited } = position;
  while (awaited !== undefined && isAwaited(awaited)) {
    await pause(WAIT, signal);
    try {
      if (!isAwaited(awaited)) return false;
      const end = await endOf(connection, queue, signal);
      if (end !== undefined && end <= awaited && isAwaited(awaited)) return true;
    } catch {
      // Its connection is gone, or its queue: whoever consumes hears of that.
    }
  }
  return false;
}

async function isGone(connection: Connection, queue: string): Promise<boolean> {
  const channel = await connection.channel();
  try {
    await channel.queueDeclare(queue, { passive: true });
    return false;
  } catch (error) {
    if (isQueueMissing(error)) return true;
    throw error;
  } finally {
    await channel.close();
  }
}

/** The offset that the next message will have; undefined where that cannot be known. */
async function endOf(connection: Connection, queue: string, signal: AbortSignal): Promise<bigint | undefined> {
  const channel = await connection.channel({ signal });
  try {
    const { messageCount } = await channel.queueDeclare(queue, { passive: true, signal });
    const first = await firstOf(channel, queue, signal);
    if (first === undefined) return messageCount === 0 ? 0n : undefined;
    return first + BigInt(messageCount);
  } finally {
    await channel.close();
  }
}

/** The offset of the first message that is kept: not 0 where the stream drops what is old. */
async function firstOf(channel: Channel, queue: string, signal: AbortSignal): Promise<bigint | undefined> {
  const done = new AbortController();
  let first: bigint | undefined;
  await channel.basicQos(1, { signal });
  await channel.basicConsume(
    queue,
    ({ properties }) => {
      const offset = properties.headers?.[STREAM_OFFSET];
      if (typeof offset === 'number' || typeof offset === 'bigint') first = BigInt(offset);
      done.abort();
    },
    { arguments: { [STREAM_OFFSET]: 'first' }, signal },
  );
  await pause(WAIT, AbortSignal.any([done.signal, signal]));
  if (signal.aborted) throw signal.reason;
  return first;
}
