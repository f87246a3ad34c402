/** Declares an exchange, binds a queue to it, and publishes through it. */
import { connect } from 'nest-amqp/client';

export async function publishThroughExchange(
  url: string,
  names = { exchange: 'my_exchange', queue: 'my_queue' },
): Promise<void> {
  await using connection = await connect(url);
  const channel = await connection.channel({ confirm: true });
  await channel.exchangeDeclare(names.exchange, 'fanout');
  const queue = await channel.queue(names.queue);
  await queue.bind(names.exchange);
  await channel.basicPublish(names.exchange, '', 'hello, everybody', { mandatory: true });
}
