/**
 * What the embedded broker answers instead of doing what it was asked, in RabbitMQ's words. Which method is blamed is the
 * caller's to add.
 */

/** A refusal: the code and text of the `channel.close` or `connection.close` that tells of it. */
export class BrokerError extends Error {
  override readonly name = 'BrokerError';
  /** What it ends: the channel alone, or the whole connection. */
  readonly scope: 'channel' | 'connection';
  /** A reply code of AMQP 0-9-1 (specification, section 1.2), for example 404. */
  readonly replyCode: number;

  /** @param replyText - RabbitMQ's text, with its prefix: `NOT_FOUND - no queue 'x' in vhost '/'` */
  constructor(scope: 'channel' | 'connection', replyCode: number, replyText: string) {
    super(replyText);
    this.scope = scope;
    this.replyCode = replyCode;
  }

  get replyText(): string {
    return this.message;
  }
}

export function accessRefused(text: string): BrokerError {
  return new BrokerError('channel', 403, `ACCESS_REFUSED - ${text}`);
}

export function notFound(text: string): BrokerError {
  return new BrokerError('channel', 404, `NOT_FOUND - ${text}`);
}

export function resourceLocked(text: string): BrokerError {
  return new BrokerError('channel', 405, `RESOURCE_LOCKED - ${text}`);
}

export function preconditionFailed(text: string): BrokerError {
  return new BrokerError('channel', 406, `PRECONDITION_FAILED - ${text}`);
}

export function commandInvalid(text: string): BrokerError {
  return new BrokerError('connection', 503, `COMMAND_INVALID - ${text}`);
}

export function notImplemented(text: string): BrokerError {
  return new BrokerError('connection', 540, `NOT_IMPLEMENTED - ${text}`);
}

export function internalError(text: string): BrokerError {
  return new BrokerError('connection', 541, `INTERNAL_ERROR - ${text}`);
}

/** What `run` gives; undefined where that is refused. */
export function unlessRefused<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    if (error instanceof BrokerError) return undefined;
    throw error;
  }
}
