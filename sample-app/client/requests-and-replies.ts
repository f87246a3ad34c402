/** Asks a question and gets the answer: `reply` answers on one side, `AmqpRequester` asks and awaits on the other. */
import { AmqpConnection, AmqpRequester, type Connection } from 'nest-amqp/client';

export async function answerPrices(connection: Connection, name = 'prices'): Promise<void> {
  const channel = await connection.channel({ confirm: true });
  const queue = await channel.queue(name);
  await queue.basicConsume(async (request) => {
    // To whom, and to which of their questions, is in the request.
    await channel.reply(request, `${request.payload.toString()} cost 3`);
    request.ack();
  });
}

export async function askPrice(url: string, what: string, name = 'prices'): Promise<string> {
  await using connection = new AmqpConnection(url);
  await connection.open();
  await using requester = new AmqpRequester(connection);
  // After two seconds nobody waits for the answer, and nobody finds the question in the queue.
  const reply = await requester.request('', name, what, { timeout: '2s' });
  return reply.payload.toString();
}
