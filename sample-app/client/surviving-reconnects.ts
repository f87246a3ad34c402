/** The connection that comes back: what was declared, published and consumed through its channel goes on after a loss. */
import { AmqpChannel, AmqpConnection } from 'nest-amqp/client';

export async function sendToOneself(urls: string | string[], texts: readonly string[]): Promise<string[]> {
  await using connection = new AmqpConnection(urls);
  connection.on('status', ({ state }) => {
    console.log(`the connection is ${state}`);
  });
  await connection.open();
  const channel = new AmqpChannel(connection);
  // Without a name it is this connection's alone; after a loss it is declared again, and this handle goes on.
  const queue = await channel.queue();
  for (const text of texts) await queue.publish(text);
  const received: string[] = [];
  for await (const message of queue.consume()) {
    received.push(message.text);
    message.ack();
    if (received.length === texts.length) break;
  }
  return received;
}
