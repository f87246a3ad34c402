/** nest-amqp/client: `AmqpConnection` and `AmqpChannel`, which survive reconnects. They confirm every publish. */
import { AmqpChannel, AmqpConnection } from 'nest-amqp/client';

import { inFlight, times } from '../meter.mjs';

/** @param {string} url */
async function opened(url) {
  const connection = new AmqpConnection(url);
  await connection.open();
  return connection;
}

/** @type {import('./driver.js').Driver} */
export const driver = {
  async confirm({ url, exchange, routingKey, body, properties, inFlight: width, latencies }) {
    const connection = await opened(url);
    const channel = new AmqpChannel(connection);
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
    const connection = await opened(url);
    const open = await times(consumers, async () => {
      const channel = new AmqpChannel(connection);
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
};
