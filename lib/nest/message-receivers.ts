/** Makes what gets the messages of a consumer: the one handler that it has, or a router before several. */
import { isDeepStrictEqual } from 'node:util';
import type { ExternalContextCreator, ModuleRef } from '@nestjs/core';
import { DEFAULT_MAX_MESSAGE_SIZE } from '../client/connection-options.js';
import { BatchedDeliveries } from '../messaging/batched-deliveries.js';
import type { MessageReceiver } from '../messaging/consumer.js';
import { handlingWith } from '../messaging/correlation.js';
import { decoderOf } from '../messaging/decoder.js';
import { DeliveryRouter, unmatchedDeliveries } from '../messaging/delivery-router.js';
import type { Log } from '../messaging/log.js';
import { HandledDeliveries } from '../messaging/handled-deliveries.js';
import { retryPolicy } from '../messaging/outcome.js';
import type { FieldTable } from '../protocol/field-table.js';
import { timerMilliseconds } from '../time/duration.js';
import { HandlerFactory } from './amqp.handler.js';
import { replySchemaOf } from './consume-contract.js';
import type { RegisteredConnection } from './connection-registry.js';
import type { ConsumerDefaults } from './consume-options.js';
import { deadLetterOf, type QueueConsumer, type QueueHandler } from './queue-consumers.js';

/** A consumer that is to start, and what it is made of. */
export interface PlannedConsumer extends QueueConsumer {
  readonly registered: RegisteredConnection;
  /** What its handlers leave unsaid. */
  readonly defaults: ConsumerDefaults;
}

export class ReceiverFactory {
  readonly #handlers: HandlerFactory;
  readonly #log: Log;

  /** Throws `NEST_UNSUPPORTED`. */
  constructor(contexts: ExternalContextCreator, moduleRef: ModuleRef, log: Log) {
    this.#handlers = new HandlerFactory(contexts, moduleRef, log);
    this.#log = log;
  }

  /** Who gets the messages: the one handler, or a router before several. */
  receiverOf(planned: PlannedConsumer): MessageReceiver {
    const { registered, defaults, queue, name, handlers, prefetch } = planned;
    const { connection, channel } = registered;
    const receivers = handlers.map((handler) => ({
      when: handler.when,
      receiver: this.#deliveriesOf(handler, planned),
    }));
    const fallback = receivers.find(({ when }) => when === undefined)?.receiver;
    if (fallback !== undefined && receivers.length === 1) return fallback;
    const routes = new Map(
      receivers.flatMap(({ when, receiver }) => (when === undefined ? [] : [[when, receiver] as const])),
    );
    // What no handler is to blame for goes where all of them would send it.
    const deadLetters = handlers.map(({ handler }) => handler.options.deadLetter);
    const deadLetter = deadLetters.every((one) => isDeepStrictEqual(one, deadLetters[0])) ? deadLetters[0] : undefined;
    const unmatched = (): MessageReceiver =>
      unmatchedDeliveries(
        connection,
        {
          name,
          queue,
          topology: registered.topology.topology,
          channel,
          arguments: planned.arguments,
          concurrency: prefetch,
          deadLetter: deadLetterOf({ deadLetter }, defaults, queue),
        },
        [...routes.keys()],
        this.#log,
      );
    return new DeliveryRouter(connection, queue, routes, fallback ?? unmatched());
  }

  #deliveriesOf(
    { handler, concurrency, batch }: QueueHandler,
    { queue, registered, defaults, arguments: args }: PlannedConsumer,
  ): MessageReceiver {
    const {
      connection,
      options: { serializers, publisher, connection: wire },
      topology: { topology },
      channel,
      replier,
    } = registered;
    const { name, options } = handler;
    const { retry = defaults.retry, timeout = defaults.timeout } = options;
    const common = {
      name,
      queue,
      topology,
      channel,
      arguments: args,
      concurrency,
      consumerTimeout: consumerTimeoutOf(args),
      ack: options.ack ?? defaults.ack,
      retry: retry === undefined ? undefined : retryPolicy(retry, name),
      deadLetter: deadLetterOf(options, defaults, queue),
      timeout: timeout === undefined ? undefined : timerMilliseconds(timeout, `timeout of ${name}`),
      decode: decoderOf({
        serializers,
        maxSize: wire.maxMessageSize ?? DEFAULT_MAX_MESSAGE_SIZE,
        contentType: options.contentType,
        schema: options.schema,
      }),
    };
    if (batch === undefined) {
      const run = handlingWith(publisher.carry, this.#handlers.create(handler, defaults));
      return new HandledDeliveries(
        connection,
        { ...common, orderBy: options.orderBy?.bind(options), replier, replySchema: replySchemaOf(options) },
        run,
        this.#log,
      );
    }
    const run = this.#handlers.createBatch(handler, defaults);
    return new BatchedDeliveries(connection, { ...common, ...batch }, run, this.#log);
  }
}

/** The broker's by consumer: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout */
function consumerTimeoutOf(args: FieldTable | undefined): number | undefined {
  const timeout = args?.['x-consumer-timeout'];
  return typeof timeout === 'number' ? timeout : undefined;
}
