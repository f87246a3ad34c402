/** Consumes from a queue: `basicConsume` asks the broker for messages, and the loop over `consume()` takes them one by one. */
import { connect } from 'nest-amqp/client';

export async function consumeUntil(url: string, last: string, name = 'my_queue'): Promise<string[]> {
  await using connection = await connect(url);
  const channel = await connection.channel();
  // It must be declared as it was before, or the broker refuses.
  await channel.queue(name);
  await channel.basicConsume(name);
  const payloads: string[] = [];
  for await (const { consumerTag, deliveryTag, payload } of channel.consume()) {
    console.log(`${consumerTag} got message ${deliveryTag}`);
    payloads.push(payload.toString());
    channel.basicAck(deliveryTag);
    // Leaving the loop cancels the consumer.
    if (payload.toString() === last) break;
  }
  return payloads;
}
