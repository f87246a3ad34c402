/**
 * @golevelup/nestjs-rabbitmq on Nest 11: `AmqpConnection.publish`, whose promise is the broker's confirm, and
 * `@RabbitSubscribe`. Messages are made persistent, as nest-amqp's are by default.
 */
import 'reflect-metadata';
import { AmqpConnection, RabbitMQModule, RabbitSubscribe } from '@golevelup/nestjs-rabbitmq';
import { NestFactory } from '@nestjs/core';

import { inFlight } from '../meter.mjs';
import { AppModule, decorated } from './decorate.mjs';

/**
 * @param {import('@golevelup/nestjs-rabbitmq').RabbitMQConfig} config
 * @param {import('@nestjs/common').Provider[]} [providers]
 */
async function booted(config, providers = []) {
  const module = { module: AppModule, imports: [RabbitMQModule.forRoot(config)], providers };
  const app = await NestFactory.createApplicationContext(module, { logger: false });
  // Only `listen()`, or this, starts its handlers.
  await app.init();
  return app;
}

/** @type {import('./driver.js').Driver} */
export const driver = {
  async nestPublish({ url, exchange, routingKey, payload, inFlight: width, latencies }) {
    const app = await booted({ uri: url, defaultPublishOptions: { persistent: true } });
    const connection = app.get(AmqpConnection);
    return {
      run: (count) => inFlight(count, width, () => connection.publish(exchange, routingKey, payload), latencies),
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
          async handle(order) {
            if (order.quantity === 2) tally.one();
          }
        }
        decorated(Handler, RabbitSubscribe({ queue, createQueueIfNotExists: false }));
        // Only one application in a process at a time finds its handlers.
        await app?.close();
        app = await booted({ uri: url, prefetchCount: prefetch }, [Handler]);
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
          uri: url,
          exchanges: [{ name: exchange, type: 'topic' }],
          queues: queues.map((name) => ({ name, exchange, routingKey: name })),
          connectionInitOptions: { timeout: 60_000 },
        });
      },
      close: async () => await app?.close(),
    };
  },
};
