/** The RPC client as Nest applications inject it. What a request and its reply are is `messaging/rpc-client`'s. */
import { RpcClient } from '../messaging/rpc-client.js';

/**
 * Sends requests to handlers of `@Consume`, or to any AMQP server, and resolves to what they return.
 *
 * @example
 * ```ts
 * constructor(private readonly rpc: AmqpRpcClient) {}
 * const quote = await this.rpc.request<Quote>('pricing', 'quote', { sku }, { timeout: '2s' });
 * ```
 */
export class AmqpRpcClient extends RpcClient {}
