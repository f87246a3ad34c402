/** nest-amqp/client: a `Connection` and its channels. */
import { connect } from 'nest-amqp/client';

import { inFlight, times } from '../meter.mjs';

/** @type {import('./driver.js').Driver} */
export const driver = {
  async publish({ url, exchange, routingKey, queue, body, properties, channels }) {
    const connection = await connect(url);
    const open = await times(channels, () => connection.channel());
    return {
      async run(count) {
        for (let index = 0; index < count; index += 1) {
          const channel = open[index % channels];
          if (!channel.basicPublish(exchange, routingKey, body, properties(index))) await channel.drained();
        }
        await Promise.all(open.map((channel) => channel.queueDeclare(queue, { passive: true })));
      },
      close: () => connection.close(),
    };
  },

  async confirm({ url, exchange, routingKey, body, properties, inFlight: width, latencies }) {
    const connection = await connect(url);
    const channel = await connection.channel({ confirm: true });
    return {
      run: (count) =>
        inFlight(
          count,
          width,
          (index) => channel.basicPublish(exchange, routingKey, body, properties(index)),
          latencies,
        ),
      close: () => connection.close(),
    };
  },

  async consume({ url, prefetch, noAck, consumers }) {
    const connection = await connect(url);
    const open = await times(consumers, async () => {
      const channel = await connection.channel();
      if (!noAck) await channel.basicQos(prefetch);
      return channel;
    });
    return {
      async run(queue, tally) {
        for (const channel of open) {
          await channel.basicConsume(
            queue,
            noAck
              ? tally.one
              : (message) => {
                  message.ack();
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

  // By hand: the client has no helper for requests.
  async rpc({ url, exchange, routingKey, body, inFlight: width, latencies }) {
    const connection = await connect(url);
    const channel = await connection.channel();
    /** @type {Map<string | undefined, (value: unknown) => void>} */
    const pending = new Map();
    await channel.basicConsume(
      'amq.rabbitmq.reply-to',
      (message) => {
        const { correlationId } = message.properties;
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
        channel.basicPublish(exchange, routingKey, body, { correlationId, replyTo: 'amq.rabbitmq.reply-to' });
      });
    return {
      run: (count) => inFlight(count, width, request, latencies),
      close: () => connection.close(),
    };
  },
};
