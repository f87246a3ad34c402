/** The RPC client as Nest applications inject it, with Observables. What a request and its reply are is `messaging/rpc-client`'s. */
import { Observable } from 'rxjs';
import { type InferInput, type InferReply, MessageContract } from '../messaging/message.js';
import { RpcClient, type RpcRequestOptions, type StreamTarget } from '../messaging/rpc-client.js';

/**
 * Sends requests to handlers of `@Consume`, or to any AMQP server, and resolves to what they return.
 *
 * @example
 * ```ts
 * constructor(private readonly rpc: AmqpRpcClient) {}
 * const quote = await this.rpc.request<Quote>('pricing', 'quote', { sku }, { timeout: '2s' });
 * this.rpc.request$<Quote>('pricing', 'quotes', { sku }).subscribe((quote) => …);
 * ```
 */
export class AmqpRpcClient extends RpcClient {
  /**
   * All values of a handler that returns an Observable or an async iterable, in order; of any other server its one reply. Each
   * subscription sends a request; unsubscribing asks the server to stop. The `timeout` is how long each value may be waited for.
   * Errors are those of `request`; a value that is missing is `REPLY_LOST`.
   */
  request$<T = unknown>(
    exchange: string,
    routingKey: string,
    payload: unknown,
    options?: RpcRequestOptions,
  ): Observable<T>;
  /** The same by a contract: its `reply` makes each value. What does not fit is `INVALID_PAYLOAD`: a payload is not sent then. */
  request$<Contract extends MessageContract>(
    contract: Contract,
    payload: InferInput<Contract>,
    options?: RpcRequestOptions,
  ): Observable<InferReply<Contract>>;
  request$(target: string | MessageContract, key: unknown, payload?: unknown, options?: unknown): Observable<unknown> {
    // The overloads have checked the types; past the compiler `stream` does.
    if (target instanceof MessageContract) {
      const { exchange, routingKey } = target;
      return this.#values({ exchange, routingKey, contract: target }, key, payload as RpcRequestOptions | undefined);
    }
    const to = { exchange: target, routingKey: key as string };
    return this.#values(to, payload, options as RpcRequestOptions | undefined);
  }

  #values(target: StreamTarget, payload: unknown, options: RpcRequestOptions = {}): Observable<unknown> {
    return new Observable((subscriber) => this.stream(target, payload, options, subscriber));
  }
}
