/** Declares a queue and publishes a message into it, through the default exchange. */
import { connect } from 'nest-amqp/client';

export async function publishHello(url: string, name = 'my_queue'): Promise<void> {
  await using connection = await connect(url);
  const channel = await connection.channel({ confirm: true });
  const queue = await channel.queue(name);
  // Resolves when the broker has confirmed.
  await queue.publish('hello');
}
