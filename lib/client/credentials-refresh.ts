/** Keeps the credentials of an open connection good: asks for new ones before they expire, and tells the broker. */
import type { AmqpError } from '../errors.js';
import { type CredentialsProvider, type UserCredentials, askFor } from './credentials.js';

/** What refreshing needs of a connection. */
interface Refreshable {
  readonly isOpen: boolean;
  updateSecret(newSecret: string, reason: string): Promise<void>;
  once(event: 'close', listener: (error: AmqpError | undefined) => void): unknown;
  emit(event: 'callbackError', error: unknown): boolean;
}

/** New credentials are asked for when this share of the old ones' time is over: enough is left for a second try. */
const REFRESH_AT = 0.8;
/** Credentials that are about to expire, or have, are not asked for in a tight loop; milliseconds. */
const SHORTEST_WAIT = 1_000;
/** The longest that one timer counts; longer times are counted in pieces. */
const LONGEST_TIMER = 0x7fff_ffff;

/** Refreshes until the connection ends. When it fails the broker closes the connection in time, and recovery asks anew. */
export function keepFresh(connection: Refreshable, provider: CredentialsProvider, credentials: UserCredentials): void {
  let timer: NodeJS.Timeout | undefined;
  connection.once('close', () => {
    clearTimeout(timer);
  });
  const schedule = ({ expiresAt }: UserCredentials): void => {
    if (expiresAt === undefined || !connection.isOpen) return;
    const left = Math.max(SHORTEST_WAIT, (expiresAt.getTime() - Date.now()) * REFRESH_AT);
    timer = setTimeout(() => void refresh(), Math.min(left, LONGEST_TIMER));
    timer.unref();
  };
  const refresh = async (): Promise<void> => {
    try {
      const fresh = await askFor(provider);
      if (!connection.isOpen) return;
      await connection.updateSecret(fresh.password, 'The token expires');
      schedule(fresh);
    } catch (error) {
      if (connection.isOpen) connection.emit('callbackError', error);
    }
  };
  schedule(credentials);
}
