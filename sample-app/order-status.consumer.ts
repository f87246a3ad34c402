/** Keeps the state of orders up to date with what billing says of them. */
import { Injectable } from '@nestjs/common';
import { Consume, Payload } from 'nest-amqp';
import type { Bill, Order } from './order.js';
import { OrdersService } from './orders.service.js';

@Injectable()
export class OrderStatusConsumer {
  readonly #orders: OrdersService;

  constructor(orders: OrdersService) {
    this.#orders = orders;
  }

  @Consume('order-status')
  billed(@Payload() bill: Bill): void {
    this.#orders.update(bill.orderId, { state: 'billed', total: bill.total });
  }

  /** What billing refused ends up here by way of the dead-letter exchange. */
  @Consume('billing.dead')
  refused(@Payload('id') id: Order['id']): void {
    this.#orders.update(id, { state: 'refused' });
  }
}
