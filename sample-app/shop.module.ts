/** The shop: orders come in over HTTP, billing and status go over the broker. */
import { Module } from '@nestjs/common';
import { AmqpModule } from 'nest-amqp';
import { BillingConsumer } from './billing.consumer.js';
import { OrderStatusConsumer } from './order-status.consumer.js';
import { OrdersController } from './orders.controller.js';
import { OrdersService } from './orders.service.js';
import { PricingConsumer } from './pricing.consumer.js';
import { shopTopology } from './shop.topology.js';

@Module({
  imports: [
    AmqpModule.forRoot({
      url: process.env.AMQP_URL ?? 'embedded:shop',
      connection: { connectionName: 'shop' },
      topology: shopTopology,
    }),
  ],
  controllers: [OrdersController],
  providers: [OrdersService, BillingConsumer, OrderStatusConsumer, PricingConsumer],
})
export class ShopModule {}
