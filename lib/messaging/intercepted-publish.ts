/**
 * One publish that interceptors are asked about: it ends within its bounds however long they take, and with a known outcome whatever
 * they do. Who they are is said to the publisher, what they may do is in `publish-interceptor`.
 */
import { hasFired } from '../client/request-bounds.js';
import { orLate } from '../client/wait.js';
import { AmqpError } from '../errors.js';
import { timerMilliseconds } from '../time/duration.js';
import { type OutgoingMessage, type PublishInterceptor, type PublishNext, intercepted } from './publish-interceptor.js';

/** Who is asked before each publish, once somebody publishes; undefined where nobody ever is. */
export type PublishInterceptors = () => Promise<readonly PublishInterceptor[]>;

interface Sent {
  readonly result: Promise<void>;
  state: 'under way' | 'confirmed' | 'failed';
}

export class InterceptedPublish {
  readonly #send: PublishNext;
  readonly #timeout: number;
  readonly #signal: AbortSignal | undefined;
  readonly #until: number;
  #isOver = false;
  /** As often as the message was sent. */
  readonly #sent: Sent[] = [];

  /** `timeout` in milliseconds; `send` says by itself when it is too late for what it has sent. */
  constructor(bounds: { readonly timeout: number; readonly signal: AbortSignal | undefined }, send: PublishNext) {
    this.#timeout = bounds.timeout;
    this.#signal = bounds.signal;
    this.#until = performance.now() + bounds.timeout;
    this.#send = send;
  }

  async past(interceptors: PublishInterceptors, message: OutgoingMessage): Promise<void> {
    try {
      const late = (): AmqpError => this.#ended(`was not over within ${this.#timeout} ms`);
      await orLate(this.#asked(interceptors, message), this.#timeout, late, this.#signal);
    } catch (error) {
      // What is under way has the same bounds, and knows better what became of it.
      await this.#underWay();
      if (hasFired(this.#signal) && error === this.#signal?.reason) throw this.#ended('was aborted', error);
      throw error;
    } finally {
      this.#isOver = true;
    }
  }

  async #asked(interceptors: PublishInterceptors, message: OutgoingMessage): Promise<void> {
    await intercepted(await interceptors(), message, (last) => this.#next(last));
    if (this.#sent.length === 0) {
      throw new AmqpError(
        'NOT_PUBLISHED',
        'No interceptor threw, and one of them did not call next: the message was not sent. Await next(message), or throw.',
      );
    }
    // An interceptor that has not awaited what next gave it would otherwise have it confirmed before the broker does.
    await this.#underWay();
  }

  async #underWay(): Promise<void> {
    await Promise.all(this.#sent.filter(({ state }) => state === 'under way').map(({ result }) => result));
  }

  async #next(message: OutgoingMessage): Promise<void> {
    if (this.#isOver) throw this.#ended('was over before an interceptor called next');
    // Past the compiler.
    if (typeof (message as Partial<OutgoingMessage> | undefined)?.options !== 'object') {
      throw new AmqpError(
        'INVALID_ARGUMENT',
        'An interceptor called next without a message to send: next({ ...message }), with its options.',
      );
    }
    const result = this.#send({ ...message, options: { ...message.options, timeout: this.#left(message) } });
    const sent: Sent = { result, state: 'under way' };
    this.#sent.push(sent);
    try {
      await result;
      sent.state = 'confirmed';
    } catch (error) {
      sent.state = 'failed';
      throw error;
    }
  }

  #left({ options: { timeout } }: OutgoingMessage): number {
    const left = Math.max(0, this.#until - performance.now());
    return timeout === undefined ? left : Math.min(left, timerMilliseconds(timeout, 'timeout'));
  }

  #ended(how: string, cause?: unknown): AmqpError {
    const fate =
      this.#sent.length === 0
        ? 'The message was not sent.'
        : this.#sent.some(({ state }) => state === 'confirmed')
          ? 'The broker has the message; an interceptor did not end.'
          : 'The message was not confirmed, and an interceptor did not end.';
    return new AmqpError('ABORTED', `The publish, with its interceptors, ${how}. ${fate}`, { cause });
  }
}
