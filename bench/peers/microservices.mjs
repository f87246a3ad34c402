/**
 * @nestjs/microservices on Nest 11 with its RMQ transport: `emit`, which completes with the broker's confirm, and
 * `@EventPattern` that acknowledges by hand, because the transport does not.
 */
import 'reflect-metadata';
import { Controller, Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ClientProxyFactory, Ctx, EventPattern, Payload, Transport } from '@nestjs/microservices';
import { lastValueFrom } from 'rxjs';

import { PATTERN } from '../messages.mjs';
import { inFlight } from '../meter.mjs';
import { AppModule, decorated } from './decorate.mjs';

Logger.overrideLogger(false);

/** @type {import('./driver.js').Driver} */
export const driver = {
  async nestPublish({ url, queue, payload, inFlight: width, latencies }) {
    const client = ClientProxyFactory.create({
      transport: Transport.RMQ,
      options: { urls: [url], queue, persistent: true, queueOptions: { durable: true } },
    });
    await client.connect();
    return {
      run: (count) =>
        inFlight(
          count,
          width,
          () => lastValueFrom(client.emit(PATTERN, payload), { defaultValue: undefined }),
          latencies,
        ),
      close: async () => await client.close(),
    };
  },

  async nestConsume({ url, prefetch, pattern }) {
    /** @type {import('@nestjs/common').INestMicroservice | undefined} */
    let app;
    return {
      async run(queue, tally) {
        class Handler {
          /**
           * @param {{ quantity: number }} order
           * @param {import('@nestjs/microservices').RmqContext} context
           */
          handle(order, context) {
            context.getChannelRef().ack(context.getMessage());
            if (order.quantity === 2) tally.one();
          }
        }
        decorated(Handler, EventPattern(pattern), [Payload(), Ctx()]);
        Controller()(Handler);
        await app?.close();
        app = await NestFactory.createMicroservice(
          { module: AppModule, controllers: [Handler] },
          {
            logger: false,
            transport: Transport.RMQ,
            options: { urls: [url], queue, noAssert: true, noAck: false, prefetchCount: prefetch },
          },
        );
        await app.listen();
        await tally.done;
      },
      close: async () => await app?.close(),
    };
  },
};
