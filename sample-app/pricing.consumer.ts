/** Answers what an order costs: what the method returns is the reply to whoever asked. */
import { Injectable } from '@nestjs/common';
import { Consume, Payload } from 'nest-amqp';
import type { Order, Quote } from './order.js';

/** Whoever takes so many pays a tenth less. */
const DOZEN = 12;

@Injectable()
export class PricingConsumer {
  @Consume('pricing')
  quote(@Payload() { price, quantity }: Pick<Order, 'price' | 'quantity'>): Quote {
    const total = price * quantity;
    return { total: quantity < DOZEN ? total : Math.round(total * 0.9) };
  }
}
