/** What the shop needs on the broker: declared when it starts, and again after every reconnect. */
import type { Topology } from 'nest-amqp';

export const shopTopology: Topology = {
  exchanges: [
    { name: 'orders', type: 'topic' },
    { name: 'orders.dead', type: 'fanout' },
  ],
  queues: [
    { name: 'billing', deadLetter: { exchange: 'orders.dead' } },
    { name: 'billing.dead' },
    { name: 'pricing' },
    { name: 'order-status' },
  ],
  bindings: [
    { source: 'orders', queue: 'billing', routingKey: 'order.placed' },
    { source: 'orders', queue: 'order-status', routingKey: 'order.billed' },
    { source: 'orders.dead', queue: 'billing.dead' },
  ],
};
