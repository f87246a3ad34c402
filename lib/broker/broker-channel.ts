/**
 * One channel of a connection to the embedded broker: which method goes where, and what an error ends. Topology, publishing
 * and deliveries are its three parts.
 *
 * ```
 *   channel.open ──► open ──error──► closing ──close-ok──► gone        on error: channel.close is sent, consumers end,
 *                     │                 │ everything else is ignored    unsettled deliveries go back to their queues
 *                     └──channel.close──┴──────────────────► gone
 * ```
 */
import type { Content } from '../protocol/content.js';
import { type Method, type MethodArgs, type MethodName, METHODS } from '../protocol/methods.js';
import { BrokerError, commandInvalid, notImplemented, preconditionFailed } from './broker-error.js';
import { ChannelDeliveries } from './channel-deliveries.js';
import type { ChannelLine, ConnectionLine } from './channel-line.js';
import { shortText } from './closing.js';
import { ChannelPublisher } from './channel-publisher.js';
import { ChannelTopology } from './channel-topology.js';
import { checkName, checkNames } from './names.js';

type Handlers = { readonly [N in MethodName]?: ((channel: BrokerChannel, args: MethodArgs<N>) => void) | undefined };

/** What the connection does after a method. */
type ChannelOutcome = 'open' | 'gone';

export class BrokerChannel implements ChannelLine {
  readonly number: number;
  readonly connection: ConnectionLine;
  readonly topology: ChannelTopology;
  readonly publisher: ChannelPublisher;
  readonly deliveries: ChannelDeliveries;
  #state: 'open' | 'closing' | 'gone' = 'open';

  constructor(number: number, connection: ConnectionLine) {
    this.number = number;
    this.connection = connection;
    this.topology = new ChannelTopology(this);
    this.publisher = new ChannelPublisher(this);
    this.deliveries = new ChannelDeliveries(this);
  }

  reply<N extends MethodName>(name: N, args: MethodArgs<N>): void {
    this.connection.outbox.method(this.number, name, args);
  }

  /** Throws `BrokerError` for what ends the whole connection. */
  handle(method: Method, content: Content | undefined): ChannelOutcome {
    if (method.name === 'channel.open')
      throw new BrokerError('connection', 504, "CHANNEL_ERROR - second 'channel.open' seen");
    if (method.name === 'channel.close') {
      // Also where both sides close at once. The channel then is gone when the client has answered.
      if (this.#state === 'open') this.#close();
      this.publisher.sayConfirms();
      this.reply('channel.close-ok', {});
    } else if (this.#state === 'closing') {
      if (method.name === 'channel.close-ok') this.#state = 'gone';
    } else {
      this.#handleOpen(method, content);
    }
    return this.#state === 'gone' ? 'gone' : 'open';
  }

  #handleOpen(method: Method, content: Content | undefined): void {
    try {
      if (method.name === 'basic.publish') {
        checkName(method.args.routingKey);
        this.publisher.replyAddress = this.deliveries.replyAddress;
        this.publisher.publish(method.args, content as Content);
        return;
      }
      checkNames(method.args);
      if (!this.#carryOut(method) && !this.topology.handle(method)) throw commandInvalid('unimplemented method');
    } catch (error) {
      if (!(error instanceof BrokerError) || error.scope === 'connection') throw error;
      this.#fail(method.name, error);
    }
  }

  /** Whether the method is one of the channel's own. */
  #carryOut<N extends MethodName>({ name, args }: Method<N>): boolean {
    const handler = HANDLERS[name];
    handler?.(this, args);
    return handler !== undefined;
  }

  #fail(blamed: MethodName, { replyCode, replyText }: BrokerError): void {
    this.#end();
    this.#state = 'closing';
    const [classId, methodId] = METHODS[blamed].id;
    this.publisher.sayConfirms();
    this.reply('channel.close', { replyCode, replyText: shortText(replyText), classId, methodId });
  }

  #close(): void {
    this.#end();
    this.#state = 'gone';
  }

  #end(): void {
    this.connection.virtualHost.together(() => {
      this.deliveries.unsubscribeAll();
      this.deliveries.requeueAll();
    });
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  static readonly handlers: Handlers = {
    'channel.flow': (channel, { active }) => {
      if (!active) throw notImplemented('active=false');
      channel.reply('channel.flow-ok', { active });
    },
    'basic.qos': (channel, args) => channel.deliveries.qos(args),
    'basic.consume': (channel, args) => channel.deliveries.consume(args, (name) => channel.topology.queue(name)),
    'basic.cancel': (channel, args) => channel.deliveries.cancel(args),
    'basic.get': (channel, { queue, noAck }) => channel.deliveries.get(channel.topology.queue(queue), noAck),
    'basic.ack': (channel, { deliveryTag, multiple }) => channel.deliveries.settle(deliveryTag, multiple, 'ack'),
    'basic.nack': (channel, { deliveryTag, multiple, requeue }) =>
      channel.deliveries.settle(deliveryTag, multiple, requeue ? 'requeue' : 'reject'),
    'basic.reject': (channel, { deliveryTag, requeue }) =>
      channel.deliveries.settle(deliveryTag, false, requeue ? 'requeue' : 'reject'),
    'basic.recover': (channel, { requeue }) => {
      if (!requeue) throw notImplemented('requeue=false');
      channel.reply('basic.recover-ok', {});
      channel.deliveries.recover();
    },
    'basic.recover-async': (channel, { requeue }) => {
      if (!requeue) throw notImplemented('requeue=false');
      channel.deliveries.recover();
    },
    'confirm.select': (channel, { noWait }) => {
      channel.publisher.selectConfirms();
      if (!noWait) channel.reply('confirm.select-ok', {});
    },
    'tx.select': (channel) => {
      channel.publisher.selectTransactions();
      channel.deliveries.selectTransactions();
      channel.reply('tx.select-ok', {});
    },
    'tx.commit': (channel) => {
      // Queues see one message after the other, as they do without transactions.
      const isWhole = channel.publisher.commit();
      channel.deliveries.commit();
      // What was taken and answered stays so.
      if (!isWhole) throw preconditionFailed('partial tx completion');
      channel.reply('tx.commit-ok', {});
    },
    'tx.rollback': (channel) => {
      channel.publisher.rollback();
      channel.deliveries.rollback();
      channel.reply('tx.rollback-ok', {});
    },
  };
}

const HANDLERS = BrokerChannel.handlers;
