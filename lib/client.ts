/** The door `nest-amqp/client`: the AMQP 0-9-1 client alone. It never imports `@nestjs/*`. */
export { AmqpChannel } from './client/amqp-channel.js';
export {
  AmqpConnection,
  type AmqpConnectionEvents,
  type AmqpConnectionOptions,
  type ConnectionSetup,
  type ConnectionStatus,
  type OpenOptions,
  type SetupOptions,
} from './client/amqp-connection.js';
export { AmqpRequester, type RequesterOptions, type RequestMessageOptions } from './client/amqp-requester.js';
export type { BackoffOptions } from './client/backoff.js';
export { Channel, type ConfirmChannel } from './client/channel.js';
export type {
  ChannelEvents,
  CloseOptions,
  ConsumeOptions,
  ConsumerCallbacks,
  ExchangeDeclareOptions,
  ExchangeDeleteOptions,
  GetOptions,
  NoWaitOptions,
  PublishOptions,
  QueueDeclareOptions,
  QueueDeleteOptions,
  ReplyOptions,
  RequestOptions,
  ReturnedMessage,
  StreamOptions,
  WaitOptions,
} from './client/channel-options.js';
export { type ConnectOptions, Connection, type ConnectionEvents, connect } from './client/connection.js';
export type { ConnectionOptions } from './client/connection-options.js';
export type { CredentialsProvider, Mechanism, SaslMechanism, UserCredentials } from './client/credentials.js';
export type { HostLookup, TlsOptions } from './client/dial.js';
export type { Duration } from './time/duration.js';
export type { BrokerUrls, UrlResolver } from './client/hosts.js';
export { Message } from './client/message.js';
export type { ConnectionMetrics } from './client/metrics.js';
export type { MessageStream } from './client/message-stream.js';
export type { Queue } from './client/queue.js';
export type { RepublishOptions } from './client/republish-options.js';
export { type SrvHostsOptions, type SrvResolver, srvHosts } from './client/srv-hosts.js';
export type { RecordedEntity, TopologyFilter } from './client/topology-record.js';
export {
  AmqpError,
  type AmqpErrorCode,
  type AmqpErrorFacts,
  ProtocolError,
  PublishNackedError,
  PublisherBufferFullError,
  PublishOutcomeUnknownError,
  PublishRefusedError,
  UnroutableError,
} from './errors.js';
export { Decimal, type FieldTable, type FieldValue, TypedField, field } from './protocol/field-table.js';
export type { BasicProperties } from './protocol/properties.js';
