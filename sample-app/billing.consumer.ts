/** Charges placed orders. */
import { Injectable, Logger } from '@nestjs/common';
import { AmqpDelivery, AmqpPublisher, AmqpRpcClient, Consume, Delivery, Payload } from 'nest-amqp';
import type { Bill, Order, Quote } from './order.js';

/** The card that this shop's customers pay with goes no further, in cents. */
const CARD_LIMIT = 1_000_000;

@Injectable()
export class BillingConsumer {
  readonly #logger = new Logger(BillingConsumer.name);
  readonly #publisher: AmqpPublisher;
  readonly #rpc: AmqpRpcClient;

  constructor(publisher: AmqpPublisher, rpc: AmqpRpcClient) {
    this.#publisher = publisher;
    this.#rpc = rpc;
  }

  @Consume('billing', { prefetch: 20 })
  async charge(@Payload() order: Order, @AmqpDelivery() delivery: Delivery<Order>): Promise<void> {
    const { price, quantity } = order;
    const { total } = await this.#rpc.requestToQueue<Quote>('pricing', { price, quantity }, { timeout: '5s' });
    // Thrown errors reject the message; the queue's definition sends it to orders.dead.
    if (total > CARD_LIMIT) throw new Error(`order ${order.id} is over the limit of the card`);
    const bill: Bill = { orderId: order.id, total };
    await this.#publisher.publish('orders', 'order.billed', bill, {
      correlationId: delivery.properties.messageId,
    });
    this.#logger.log(`Order ${order.id} is billed: ${total} cents`);
  }
}
