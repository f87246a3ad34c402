/** The door `nest-amqp`: the Nest module, its decorators, injectables, definitions and errors. */
export type {
  AmqpConnectionOptions,
  ConnectionSetup,
  ConnectionStatus,
  OpenOptions,
  SetupOptions,
} from './client/amqp-connection.js';
export type { BackoffOptions } from './client/backoff.js';
export type { Channel, ConfirmChannel } from './client/channel.js';
export type {
  ConsumeOptions,
  ConsumerCallbacks,
  ExchangeDeclareOptions,
  PublishOptions,
  QueueDeclareOptions,
  StreamOptions,
} from './client/channel-options.js';
export type { Connection } from './client/connection.js';
export type { ConsumerState, ConsumerStatus } from './client/consumer-status.js';
export type { ConnectionOptions } from './client/connection-options.js';
export type { CredentialsProvider, UserCredentials } from './client/credentials.js';
export type { HostLookup, TlsOptions } from './client/dial.js';
export type { Duration } from './time/duration.js';
export type { BrokerUrls, UrlResolver } from './client/hosts.js';
export type { RepublishOptions } from './client/republish-options.js';
export type { Message } from './client/message.js';
export {
  AmqpError,
  type AmqpErrorCode,
  InvalidPayloadError,
  type PayloadIssue,
  PublishAllError,
  PublishNackedError,
  PublisherBufferFullError,
  PublishOutcomeUnknownError,
  PublishRefusedError,
  RemoteError,
  type RemoteFacts,
  UnroutableError,
} from './errors.js';
export type { DrainOptions } from './messaging/consumer.js';
export { Delivery } from './messaging/delivery.js';
export type { DeadLetterOption } from './messaging/failed-deliveries.js';
export type { OrderBy } from './messaging/handled-deliveries.js';
export type { AckMode } from './messaging/delivery-answers.js';
export {
  type Infer,
  type InferInput,
  type InferReply,
  type InferReplyInput,
  MessageContract,
  type MessageDefinition,
  message,
} from './messaging/message.js';
export { RejectDelivery, RequeueDelivery, RetryDelivery, type RetryOptions } from './messaging/outcome.js';
export { PartialBatchError } from './messaging/partial-batch-error.js';
export type { OutgoingMessage, PublishInterceptor, PublishNext } from './messaging/publish-interceptor.js';
export type { PublishMessageOptions, PublisherOptions } from './messaging/publish-options.js';
export { AmqpPublisher, type ExchangePublisher } from './messaging/publisher.js';
export type { PublishAllOptions, PublishProgress } from './messaging/publish-run.js';
export type { RpcOptions, RpcRequestOptions } from './messaging/rpc-client.js';
export { RegisteredConsumer } from './messaging/registered-consumer.js';
export type { RunningDelivery } from './messaging/running-deliveries.js';
export type { Serializer } from './messaging/serializer.js';
export {
  type BindingDefinition,
  type ExchangeDefinition,
  type QueueDefinition,
  type Topology,
  binding,
  exchange,
  queue,
} from './messaging/definitions.js';
export type { CheckLevel } from './messaging/check-facts.js';
export type { CheckCode, CheckLevels } from './messaging/topology-checks.js';
export { type TopologyConflict, type TopologyEntity, TopologyError } from './messaging/topology-error.js';
export { AmqpChannel } from './nest/amqp.channel.js';
export { AmqpConnection } from './nest/amqp.connection.js';
export { AmqpDelivery, AmqpHeader, AmqpProperties, AmqpSignal, Consume, Payload } from './nest/amqp.decorators.js';
export type { AmqpFeatureOptions } from './nest/amqp.feature.js';
export type { ConsumeBinding } from './nest/consume-topology.js';
export type {
  BatchOptions,
  ConsumeContractOptions,
  ConsumeHandlerOptions,
  ConsumeOptionsFactory,
  ConsumeOptionsWithQueue,
  ConsumeQueueContractOptions,
  ConsumerDefaults,
  GlobalEnhancers,
  HandlingOptions,
  Injected,
} from './nest/consume-options.js';
export type {
  ConsumeDecorator,
  ConsumeSource,
  HandlerDecorator,
  OptionsBeside,
  SourceAlone,
  SourceBesideOptions,
} from './nest/consume-signature.js';
export {
  AmqpHealth,
  type ConnectionHealth,
  type ConsumerHealth,
  type HealthOptions,
  type HealthReport,
} from './nest/amqp.health.js';
export { AMQP_CONTEXT_TYPE } from './nest/amqp.listener.js';
export { AmqpModule } from './nest/amqp.module.js';
export type {
  AmqpModuleExtras,
  AmqpModuleOptions,
  AmqpModulePublisherOptions,
  AmqpOptionsFactory,
} from './nest/amqp.options.js';
export { AmqpRpcClient } from './nest/amqp.rpc-client.js';
export {
  InjectChannel,
  InjectConnection,
  InjectHealth,
  InjectPublisher,
  InjectRpcClient,
  getChannelToken,
  getConnectionToken,
  getHealthToken,
  getPublisherToken,
  getRpcClientToken,
} from './nest/amqp.tokens.js';
export { ConsumerRegistry, type ConsumerRegistryEvents } from './nest/consumer-registry.js';
export type { BasicProperties } from './protocol/properties.js';
export { type FieldTable, type FieldValue, field } from './protocol/field-table.js';
