/** The door `nest-amqp/testing`: the embedded broker and helpers for tests. It needs neither Nest nor a RabbitMQ. */
export { EmbeddedBroker } from './broker/embedded-broker.js';
export type { EmbeddedBrokerListenOptions, EmbeddedBrokerOptions, SettledOptions } from './broker/broker-options.js';
export type {
  BindingInfo,
  ChannelInfo,
  ConnectionInfo,
  ExchangeInfo,
  QueueInfo,
  QueuedMessage,
} from './broker/inspection.js';
export {
  type Booted,
  type BootOptions,
  type TestingApp,
  type TestingBuilder,
  bootOnBroker,
} from './testing/boot-on-broker.js';
export { type ReceivedCommand, type ScriptedHandshake, ScriptedPeer } from './testing/scripted-peer.js';
export type { FieldTable, FieldValue } from './protocol/field-table.js';
export type { ContentMethodName, MethodArgs, MethodName } from './protocol/methods.js';
export type { BasicProperties } from './protocol/properties.js';
export type { Duration } from './time/duration.js';
