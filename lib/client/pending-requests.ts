/**
 * The requests of one channel that await their answer. Answers come in order (specification, section 2.2.2), except that
 * RabbitMQ may answer basic.consume and basic.cancel after later requests, so that their answers are matched by consumer tag.
 */
import { AmqpError, ProtocolError, factsOf } from '../errors.js';
import type { Content } from '../protocol/content.js';
import {
  type Method,
  type MethodArgs,
  type MethodName,
  type Reply,
  type RequestName,
  repliesOf,
} from '../protocol/methods.js';

/** An answer, with its message where it carries one. */
export interface Answered<N extends RequestName> {
  readonly method: Reply<N>;
  readonly content: Content | undefined;
}

/** A request that was sent. */
export interface PendingRequest<N extends RequestName> {
  readonly name: N;
  /** For basic.consume and basic.cancel: their answers are matched by this. */
  readonly consumerTag: string | undefined;
  readonly resolve: (answer: Answered<N>) => void;
  readonly reject: (error: AmqpError) => void;
}

type AnyRequest = PendingRequest<RequestName>;

/** Answers that may come after those of later requests, and what they answer. All of them carry the consumer tag. */
const OUT_OF_LINE = new Map<MethodName, RequestName>([
  ['basic.consume-ok', 'basic.consume'],
  ['basic.cancel-ok', 'basic.cancel'],
]);

export class PendingRequests {
  #requests: AnyRequest[] = [];

  /** Notes a request that is about to be sent; the function returned takes it back. */
  add<N extends RequestName>(request: PendingRequest<N>): () => void {
    // `answer` compares the name of the method with the replies of the request before it resolves it.
    const pending = request as unknown as AnyRequest;
    this.#requests.push(pending);
    return () => {
      this.#requests = this.#requests.filter((other) => other !== pending);
    };
  }

  /** Resolves the request that this answers. Throws `ProtocolError` when none is. */
  answer(method: Method, content: Content | undefined): void {
    const outOfLine = OUT_OF_LINE.get(method.name);
    const index = this.#requests.findIndex(({ name, consumerTag }) =>
      outOfLine === undefined
        ? name !== 'basic.consume' && name !== 'basic.cancel'
        : name === outOfLine && consumerTag === (method.args as MethodArgs<'basic.consume-ok'>).consumerTag,
    );
    const request = this.#requests[index];
    const replies: readonly string[] = request === undefined ? [] : repliesOf(request.name);
    if (request === undefined || !replies.includes(method.name)) {
      const asked = request === undefined ? 'nothing was asked' : `${request.name} was asked`;
      throw new ProtocolError(505, `The peer answered with ${method.name} where ${asked}.`, { method: method.name });
    }
    this.#requests.splice(index, 1);
    request.resolve({ method: method as Reply<RequestName>, content });
  }

  /** Rejects every request, but for those named `except`, which the peer still answers. */
  fail(reason: AmqpError, except?: RequestName): void {
    const failed = this.#requests.filter(({ name }) => name !== except);
    this.#requests = this.#requests.filter(({ name }) => name === except);
    // Answers come in order, so the first unanswered request of the method that the broker blames is the culprit.
    const culprit = failed.find(({ name }) => name === reason.method);
    for (const request of failed) request.reject(request === culprit ? reason : unanswered(request.name, reason));
  }
}

function unanswered(name: RequestName, reason: AmqpError): AmqpError {
  return new AmqpError(reason.code, `${name} was not answered. ${reason.message}`, {
    ...factsOf(reason),
    cause: reason,
  });
}
