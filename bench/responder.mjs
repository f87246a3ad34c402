/** Answers requests on RabbitMQ with their own body, in a process of its own; the same for every client that is measured. */
import { connect } from 'nest-amqp/client';

const [, , url, queue] = process.argv;
const connection = await connect(url);
const channel = await connection.channel();
await channel.basicConsume(
  queue,
  ({ body, properties: { replyTo, correlationId } }) => {
    channel.basicPublish('', replyTo ?? '', body, { correlationId });
  },
  { noAck: true },
);
process.on('disconnect', () => process.exit());
process.send?.('ready');
