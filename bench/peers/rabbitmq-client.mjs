/**
 * rabbitmq-client. Publishing and consuming over its channels: the `Publisher` and `Consumer` that its README recommends for
 * their recovery cost more, and nest-amqp's channel is not compared with those. Requests with its RPCClient.
 */
import { Connection } from 'rabbitmq-client';

import { inFlight, times } from '../meter.mjs';

/** @param {string} url */
async function opened(url) {
  // Its default of 8192 would cut large bodies into 16 times as many frames as the other clients.
  const connection = new Connection({ url, frameMax: 131_072 });
  await connection.onConnect();
  return connection;
}

/** @type {import('./driver.js').Driver} */
export const driver = {
  async publish({ url, exchange, routingKey, queue, body, properties, channels, inFlight: width }) {
    const connection = await opened(url);
    const open = await times(channels, () => connection.acquire());
    /** @param {number} index */
    const publish = (index) =>
      open[index % channels].basicPublish({ exchange, routingKey, ...properties(index) }, body);
    return {
      async run(count) {
        await inFlight(count, width, publish);
        await Promise.all(open.map((channel) => channel.queueDeclare({ queue, passive: true })));
      },
      close: () => closed(connection, open),
    };
  },

  async confirm({ url, exchange, routingKey, body, properties, inFlight: width, latencies }) {
    const connection = await opened(url);
    const channel = await connection.acquire();
    await channel.confirmSelect();
    return {
      run: (count) =>
        inFlight(
          count,
          width,
          (index) => channel.basicPublish({ exchange, routingKey, ...properties(index) }, body),
          latencies,
        ),
      close: () => closed(connection, [channel]),
    };
  },

  async consume({ url, prefetch, noAck, consumers }) {
    const connection = await opened(url);
    const open = await times(consumers, async () => {
      const channel = await connection.acquire();
      if (!noAck) await channel.basicQos({ prefetchCount: prefetch });
      return channel;
    });
    return {
      async run(queue, tally) {
        for (const channel of open) {
          await channel.basicConsume(
            { queue, noAck },
            noAck
              ? tally.one
              : ({ deliveryTag }) => {
                  channel.basicAck({ deliveryTag });
                  tally.one();
                },
          );
        }
        await tally.done;
      },
      close: () => closed(connection, open),
    };
  },

  async rpc({ url, exchange, routingKey, body, inFlight: width, latencies }) {
    const connection = await opened(url);
    const client = connection.createRPCClient();
    return {
      run: (count) => inFlight(count, width, () => client.send({ exchange, routingKey }, body), latencies),
      async close() {
        await client.close();
        await connection.close();
      },
    };
  },
};

/**
 * Its connection waits for acquired channels to be closed.
 *
 * @param {Connection} connection
 * @param {import('rabbitmq-client').Channel[]} channels
 */
async function closed(connection, channels) {
  await Promise.all(channels.map((channel) => channel.close()));
  await connection.close();
}
