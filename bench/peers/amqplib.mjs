/**
 * amqplib by its promise API. Without confirms as https://amqp-node.github.io/amqplib/channel_api.html#flowcontrol says: on
 * after `publish` returned false only when 'drain' was emitted. With confirms the callback of each publish settles a promise.
 */
import { once } from 'node:events';
import amqplib from 'amqplib';

import { inFlight, times } from '../meter.mjs';

/** @type {import('./driver.js').Driver} */
export const driver = {
  async publish({ url, exchange, routingKey, queue, body, properties, channels }) {
    const connection = await amqplib.connect(url);
    const open = await times(channels, () => connection.createChannel());
    return {
      async run(count) {
        for (let index = 0; index < count; index += 1) {
          const channel = open[index % channels];
          if (!channel.publish(exchange, routingKey, body, properties(index))) await once(channel, 'drain');
        }
        await Promise.all(open.map((channel) => channel.checkQueue(queue)));
      },
      close: () => connection.close(),
    };
  },

  async confirm({ url, exchange, routingKey, body, properties, inFlight: width, latencies }) {
    const connection = await amqplib.connect(url);
    const channel = await connection.createConfirmChannel();
    /** @param {number} index */
    const publish = (index) =>
      new Promise((resolve, reject) => {
        channel.publish(exchange, routingKey, body, properties(index), (error) => {
          if (error) reject(error);
          else resolve(undefined);
        });
      });
    return {
      run: (count) => inFlight(count, width, publish, latencies),
      close: () => connection.close(),
    };
  },

  async consume({ url, prefetch, noAck, consumers }) {
    const connection = await amqplib.connect(url);
    const open = await times(consumers, async () => {
      const channel = await connection.createChannel();
      if (!noAck) await channel.prefetch(prefetch);
      return channel;
    });
    return {
      async run(queue, tally) {
        for (const channel of open) {
          await channel.consume(
            queue,
            noAck
              ? tally.one
              : (message) => {
                  if (message === null) return;
                  channel.ack(message);
                  tally.one();
                },
            { noAck },
          );
        }
        await tally.done;
      },
      close: () => connection.close(),
    };
  },

  // By hand, as in the RPC tutorial of its examples.
  async rpc({ url, exchange, routingKey, body, inFlight: width, latencies }) {
    const connection = await amqplib.connect(url);
    const channel = await connection.createChannel();
    /** @type {Map<string, (value: unknown) => void>} */
    const pending = new Map();
    await channel.consume(
      'amq.rabbitmq.reply-to',
      (message) => {
        const { correlationId } = message?.properties ?? {};
        pending.get(correlationId)?.(message);
        pending.delete(correlationId);
      },
      { noAck: true },
    );
    let requests = 0;
    const request = () =>
      new Promise((resolve) => {
        const correlationId = String(++requests);
        pending.set(correlationId, resolve);
        channel.publish(exchange, routingKey, body, { correlationId, replyTo: 'amq.rabbitmq.reply-to' });
      });
    return {
      run: (count) => inFlight(count, width, request, latencies),
      close: () => connection.close(),
    };
  },
};
