/** The RPC client as Nest applications inject it, with Observables. What a request and its reply are is `messaging/rpc-client`'s. */
import { Observable } from 'rxjs';
import { RpcClient, type RpcRequestOptions } from '../messaging/rpc-client.js';

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
    options: RpcRequestOptions = {},
  ): Observable<T> {
    return new Observable<T>((subscriber) => this.stream<T>(exchange, routingKey, payload, options, subscriber));
  }
}
