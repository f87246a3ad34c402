/** nest-amqp's Nest module on Nest 11: its publisher with its defaults, `@Consume` with automatic acknowledgement. */
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { AmqpModule, AmqpPublisher, Consume, Payload } from 'nest-amqp';

import { inFlight } from '../meter.mjs';
import { AppModule, decorated } from './decorate.mjs';

/**
 * @param {import('nest-amqp').AmqpModuleOptions} options
 * @param {import('@nestjs/common').Provider[]} [providers]
 */
async function booted(options, providers = []) {
  const module = { module: AppModule, imports: [AmqpModule.forRoot(options)], providers };
  return await NestFactory.createApplicationContext(module, { logger: false });
}

/** @type {import('./driver.js').Driver} */
export const driver = {
  async nestPublish({ url, exchange, routingKey, payload, inFlight: width, latencies }) {
    const app = await booted({ url });
    const publisher = app.get(AmqpPublisher);
    return {
      run: (count) => inFlight(count, width, () => publisher.publish(exchange, routingKey, payload), latencies),
      close: () => app.close(),
    };
  },

  async nestConsume({ url, prefetch }) {
    /** @type {import('@nestjs/common').INestApplicationContext | undefined} */
    let app;
    return {
      async run(queue, tally) {
        class Handler {
          /** @param {{ quantity: number }} order */
          handle(order) {
            if (order.quantity === 2) tally.one();
          }
        }
        decorated(Handler, Consume(queue, { prefetch }), [Payload()]);
        await app?.close();
        app = await booted({ url }, [Handler]);
        await tally.done;
      },
      close: async () => await app?.close(),
    };
  },

  async boot({ url, exchange, queues }) {
    /** @type {import('@nestjs/common').INestApplicationContext | undefined} */
    let app;
    return {
      async run() {
        app = await booted({
          url,
          startupTimeout: '60s',
          topology: {
            exchanges: [{ name: exchange, type: 'topic' }],
            queues: queues.map((name) => ({ name })),
            bindings: queues.map((queue) => ({ source: exchange, queue, routingKey: queue })),
          },
        });
      },
      close: async () => await app?.close(),
    };
  },
};
