/** The tokens under which a connection's injectables are found: for the default connection their classes, else by name. */
import { Inject, type InjectionToken } from '@nestjs/common';
import { AmqpChannel } from './amqp.channel.js';
import { AmqpConnection } from './amqp.connection.js';
import { AmqpPublisher } from '../messaging/publisher.js';
import { AmqpHealth } from './amqp.health.js';
import { AmqpRpcClient } from './amqp.rpc-client.js';

export const DEFAULT_CONNECTION = 'default';

/** Inside one `AmqpModule`: the connection that everything is published over, see `messaging/publishing-connection`. */
export const PUBLISHING_CONNECTION = Symbol('nest-amqp:publishing connection');

/** Token of the `AmqpConnection` of that name. */
export const getConnectionToken = (name?: string): InjectionToken => token(AmqpConnection, name);
/** Token of the `AmqpChannel` on the connection of that name. */
export const getChannelToken = (name?: string): InjectionToken => token(AmqpChannel, name);
/** Token of the `AmqpPublisher` on the connection of that name. */
export const getPublisherToken = (name?: string): InjectionToken => token(AmqpPublisher, name);
/** Token of the `AmqpRpcClient` on the connection of that name. */
export const getRpcClientToken = (name?: string): InjectionToken => token(AmqpRpcClient, name);
/** Token of the `AmqpHealth` of the connection of that name. */
export const getHealthToken = (name?: string): InjectionToken => token(AmqpHealth, name);

/** Injects the `AmqpConnection` of that name. */
export const InjectConnection = (name?: string): ParameterDecorator & PropertyDecorator =>
  Inject(getConnectionToken(name));
/** Injects the `AmqpChannel` on the connection of that name. */
export const InjectChannel = (name?: string): ParameterDecorator & PropertyDecorator => Inject(getChannelToken(name));
/** Injects the `AmqpPublisher` on the connection of that name. */
export const InjectPublisher = (name?: string): ParameterDecorator & PropertyDecorator =>
  Inject(getPublisherToken(name));
/** Injects the `AmqpRpcClient` on the connection of that name. */
export const InjectRpcClient = (name?: string): ParameterDecorator & PropertyDecorator =>
  Inject(getRpcClientToken(name));
/** Injects the `AmqpHealth` of the connection of that name. */
export const InjectHealth = (name?: string): ParameterDecorator & PropertyDecorator => Inject(getHealthToken(name));

type Injectable =
  typeof AmqpConnection | typeof AmqpChannel | typeof AmqpPublisher | typeof AmqpRpcClient | typeof AmqpHealth;

function token(injectable: Injectable, name = DEFAULT_CONNECTION): InjectionToken {
  return name === DEFAULT_CONNECTION ? injectable : `${injectable.name}:${name}`;
}
