/**
 * @cloudamqp/amqp-client: channels of its AMQPClient, whose every publish is a promise; requests with the RPC client of its
 * AMQPSession.
 */
import { AMQPClient, AMQPSession } from '@cloudamqp/amqp-client';

import { inFlight, times } from '../meter.mjs';

// Its default of 8192 would cut large bodies into 16 times as many frames as the other clients.
const FRAME_MAX = 131_072;

/** @param {string} url */
async function opened(url) {
  return await new AMQPClient(`${url}?frameMax=${FRAME_MAX}`).connect();
}

/**
 * Its timestamps are dates.
 *
 * @param {import('../sink/wire.mjs').Properties} properties
 * @returns {import('@cloudamqp/amqp-client').AMQPProperties}
 */
function withDate(properties) {
  const { timestamp } = properties;
  if (timestamp === undefined) return /** @type {{}} */ (properties);
  return { ...properties, timestamp: new Date(timestamp * 1000) };
}

/** @type {import('./driver.js').Driver} */
export const driver = {
  async publish({ url, exchange, routingKey, queue, body, properties, channels, inFlight: width }) {
    const connection = await opened(url);
    const open = await times(channels, () => connection.channel());
    /** @param {number} index */
    const publish = (index) =>
      open[index % channels].basicPublish(exchange, routingKey, body, withDate(properties(index)));
    return {
      async run(count) {
        await inFlight(count, width, publish);
        await Promise.all(open.map((channel) => channel.queueDeclare(queue, { passive: true })));
      },
      close: () => connection.close(),
    };
  },

  async confirm({ url, exchange, routingKey, body, properties, inFlight: width, latencies }) {
    const connection = await opened(url);
    const channel = await connection.channel();
    await channel.confirmSelect();
    return {
      run: (count) =>
        inFlight(
          count,
          width,
          (index) => channel.basicPublish(exchange, routingKey, body, withDate(properties(index))),
          latencies,
        ),
      close: () => connection.close(),
    };
  },

  async consume({ url, prefetch, noAck, consumers }) {
    const connection = await opened(url);
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
            { noAck },
            noAck
              ? tally.one
              : (message) => {
                  void message.ack();
                  tally.one();
                },
          );
        }
        await tally.done;
      },
      close: () => connection.close(),
    };
  },

  async rpc({ url, routingKey, body, inFlight: width, latencies }) {
    const session = await AMQPSession.connect(url, { frameMax: FRAME_MAX });
    const client = await session.rpcClient();
    return {
      // To the queue itself: it has no exchange here.
      run: (count) => inFlight(count, width, () => client.call(routingKey, body), latencies),
      close: () => session.stop(),
    };
  },
};
