/** Opens a connection, says who the broker is, and closes. */
import { connect } from 'nest-amqp/client';

export async function startConnection(url: string): Promise<string> {
  const connection = await connect(url);
  const { product, version } = connection.serverProperties;
  await connection.close();
  return typeof product === 'string' && typeof version === 'string' ? `${product} ${version}` : 'an unknown broker';
}
