/** What the log is told of a module's two connections: that they open, what ends them, and when the broker blocks publishing. */
import { Logger } from '@nestjs/common';
import type { AmqpConnection, ConnectionStatus } from '../client/amqp-connection.js';
import type { Connection } from '../client/connection.js';
import { isEmbedded } from '../client/embedded.js';
import { EMBEDDED_PRODUCT } from '../client/handshake.js';
import type { AmqpError, AmqpErrorCode } from '../errors.js';
import { printable } from '../errors.js';
import type { ResolvedModuleOptions } from './amqp.options.js';

/** Says in the log what becomes of the connections of the module of that name. */
export function logConnections(
  name: string,
  main: AmqpConnection,
  publishing: AmqpConnection,
  options: ResolvedModuleOptions,
): void {
  const logger = new Logger('AmqpModule');
  if (typeof options.url === 'function') logFoundEmbedded(name, main, logger);
  else logEmbedded(options.url, logger);
  logMain(name, main, options, logger);
  logPublishing(name, publishing, main, logger);
}

/** Nobody shall take it for RabbitMQ. */
function logEmbedded(url: string | readonly string[], logger: Logger): void {
  const embedded = (typeof url === 'string' ? [url] : url).find(isEmbedded);
  if (embedded !== undefined) tellEmbedded(`${embedded} is a broker inside this process`, logger);
}

/** What a function names is known when it is connected. */
function logFoundEmbedded(name: string, main: AmqpConnection, logger: Logger): void {
  const look = (status: ConnectionStatus): void => {
    if (status.state !== 'open' || status.connection.serverProperties['product'] !== EMBEDDED_PRODUCT) return;
    main.off('status', look);
    tellEmbedded(`What connection '${name}' has found is an embedded broker`, logger);
  };
  main.on('status', look);
}

function tellEmbedded(what: string, logger: Logger): void {
  const text =
    `${what}, for development and tests: its queues and messages end with its process. ` +
    'To use RabbitMQ, name it in the url of the module (often the variable AMQP_URL): amqp://user:password@host';
  if (process.env['NODE_ENV'] === 'production') logger.warn(text);
  else logger.log(text);
}

function logMain(name: string, connection: AmqpConnection, { startup }: ResolvedModuleOptions, logger: Logger): void {
  // What ends a required start is thrown from onModuleInit.
  let isStarted = startup === 'background';
  let wasOpen = false;
  let outage = new Outage();
  connection.on('status', (status) => {
    switch (status.state) {
      case 'open':
        logger.log(`Connection '${name}' is open${wasOpen ? ' again' : ''}`);
        isStarted = true;
        wasOpen = true;
        outage = new Outage();
        return;
      case 'connecting': {
        const news = outage.newsOf(status.lastError);
        const meaning = isStarted
          ? 'tried again until it opens; nothing is consumed, and what is published waits.'
          : 'tried again for as long as startupTimeout says.';
        if (news === 'down') logger.warn(`Connection '${name}' is down, and ${meaning} ${textOf(status.lastError)}`);
        if (news === 'still down') logger.warn(`Connection '${name}' is still down. ${textOf(status.lastError)}`);
        return;
      }
      case 'closed':
        if (isStarted && status.error.closedBy !== 'client')
          logger.error(`Connection '${name}' is closed for good: restart the application. ${status.error.message}`);
        return;
      case 'idle':
        return;
      default:
        status satisfies never;
    }
  });
}

/**
 * Mostly both are lost and come back together, which the main one's lines say. Which of them hears of it first is chance, so that
 * the loss of this one alone is told when it is over, or when it could not be mended at once.
 */
function logPublishing(name: string, publishing: AmqpConnection, main: AmqpConnection, logger: Logger): void {
  let mainOpened: Connection | undefined;
  let lost:
    { readonly error: AmqpError; readonly besides: Connection | undefined; readonly outage: Outage } | undefined;
  main.on('status', (status) => {
    if (status.state === 'open') mainOpened = status.connection;
  });
  /** The main connection is the one that there was when this one was lost. */
  const isAlone = (): boolean => main.status.state === 'open' && mainOpened === lost?.besides;
  publishing.on('status', (status) => {
    switch (status.state) {
      case 'open':
        if (lost !== undefined && isAlone()) {
          logger.warn(`The publishing connection of '${name}' was lost, and is open again. ${lost.error.message}`);
        }
        lost = undefined;
        logBlocked(name, status.connection, logger);
        return;
      case 'connecting': {
        if (status.lastError === undefined) return;
        lost ??= { error: status.lastError, besides: mainOpened, outage: new Outage() };
        if (status.attempt === 1 || !isAlone()) return;
        const news = lost.outage.newsOf(status.lastError);
        if (news !== undefined) {
          logger.warn(
            `The publishing connection of '${name}' is ${news}, and what is published waits. ${status.lastError.message}`,
          );
        }
        return;
      }
      case 'closed':
        if (status.error.closedBy !== 'client' && main.status.state === 'open') {
          logger.error(
            `The publishing connection of '${name}' is closed for good: restart the application. ${status.error.message}`,
          );
        }
        return;
      case 'idle':
        return;
      default:
        status satisfies never;
    }
  });
}

/** What brokers and networks say that are away, or on their way up: after the first of them no other is news. */
const AWAY: ReadonlySet<AmqpErrorCode> = new Set([
  'CONNECT_FAILED',
  'CONNECT_TIMEOUT',
  'HANDSHAKE_TIMEOUT',
  'NOT_AMQP',
  'CONNECTION_CLOSED',
  'CONNECTION_LOST',
]);

/** From a loss to the next open connection: told once however often it is tried, and again for a reason that is not yet told. */
class Outage {
  readonly #told = new Set<string>();

  /** Undefined for what is nothing new. */
  newsOf(error: AmqpError | undefined): 'down' | 'still down' | undefined {
    if (error === undefined) return undefined;
    const isFirst = this.#told.size === 0;
    const isNews = isFirst || !(AWAY.has(error.code) || this.#told.has(error.message));
    this.#told.add(error.message);
    if (!isNews) return undefined;
    return isFirst ? 'down' : 'still down';
  }
}

function textOf(error: AmqpError | undefined): string {
  return error?.message ?? '';
}

function logBlocked(name: string, connection: Connection, logger: Logger): void {
  const blocked = (reason: string): void => {
    logger.warn(`The broker takes no publishes over connection '${name}' for now, and they wait: ${printable(reason)}`);
  };
  connection.on('blocked', blocked);
  connection.on('unblocked', () => {
    logger.log(`The broker takes publishes over connection '${name}' again`);
  });
  // It may have been told with the opening.
  if (connection.blockedReason !== undefined) blocked(connection.blockedReason);
}
