/** Charges placed orders. */
import { Injectable, Logger } from '@nestjs/common';
import { AmqpDelivery, AmqpPublisher, Consume, Delivery, Payload } from 'nest-amqp';
import type { Bill, Order } from './order.js';

/** The card that this shop's customers pay with goes no further, in cents. */
const CARD_LIMIT = 1_000_000;

@Injectable()
export class BillingConsumer {
  readonly #logger = new Logger(BillingConsumer.name);
  readonly #publisher: AmqpPublisher;

  constructor(publisher: AmqpPublisher) {
    this.#publisher = publisher;
  }

  @Consume('billing', { prefetch: 20 })
  async charge(@Payload() order: Order, @AmqpDelivery() delivery: Delivery<Order>): Promise<void> {
    const total = order.price * order.quantity;
    // Thrown errors reject the message; the queue's definition sends it to orders.dead.
    if (total > CARD_LIMIT) throw new Error(`order ${order.id} is over the limit of the card`);
    const bill: Bill = { orderId: order.id, total };
    await this.#publisher.publish('orders', 'order.billed', bill, {
      correlationId: delivery.properties.messageId,
    });
    this.#logger.log(`Order ${order.id} is billed: ${total} cents`);
  }
}
