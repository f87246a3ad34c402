/** Places orders and remembers how they stand; a real shop has a database here. */
import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { AmqpPublisher } from 'nest-amqp';
import type { Order, OrderState } from './order.js';

export interface OrderView extends Order {
  readonly state: OrderState;
  /** Cents; once billed. */
  readonly total?: number;
}

@Injectable()
export class OrdersService {
  readonly #orders = new Map<string, OrderView>();
  readonly #publisher: AmqpPublisher;

  constructor(publisher: AmqpPublisher) {
    this.#publisher = publisher;
  }

  /** Resolves when the broker has the order; until then it does not exist. */
  async place(wanted: Omit<Order, 'id'>): Promise<OrderView> {
    const order: Order = { id: randomUUID(), ...wanted };
    // Noted first: it may be billed before the confirm is back.
    const view: OrderView = { ...order, state: 'placed' };
    this.#orders.set(order.id, view);
    try {
      await this.#publisher.publish('orders', 'order.placed', order);
    } catch (error) {
      this.#orders.delete(order.id);
      throw error;
    }
    return view;
  }

  find(id: string): OrderView | undefined {
    return this.#orders.get(id);
  }

  /** Orders of an earlier run are unknown here, and that is no error. */
  update(id: string, change: { readonly state: OrderState; readonly total?: number }): void {
    const order = this.#orders.get(id);
    if (order !== undefined) this.#orders.set(id, { ...order, ...change });
  }
}
