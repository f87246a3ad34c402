/** What a channel publishes: the rules, confirms, returns, and publishes that wait for tx.commit. */
import type { Content } from '../protocol/content.js';
import type { MethodArgs } from '../protocol/methods.js';
import { notImplemented, preconditionFailed } from './broker-error.js';
import { type BrokerMessage, publishedMessage } from './broker-message.js';
import type { ChannelLine } from './channel-line.js';
import { Confirms } from './confirms.js';
import { checkProperties, replyToOf, withReplyTo } from './publish-rules.js';
import { REPLY_TO } from './reply-to.js';
import type { PublishOutcome, RoutedMessage } from './virtual-host.js';

/** What waits for tx.commit. It was routed when it was published, so that an exchange may go before the commit. */
interface HeldPublish {
  readonly routed: RoutedMessage;
  readonly mandatory: boolean;
}

/** basic.return's code for a message that went nowhere (specification, section 1.2). */
const NO_ROUTE = 312;

export class ChannelPublisher {
  /** Where replies to what is published here go, while the channel consumes them. */
  replyAddress: string | undefined;
  readonly #line: ChannelLine;
  #confirms: Confirms | undefined;
  /** What tx.commit is to publish; undefined without tx.select. */
  #uncommitted: HeldPublish[] | undefined;

  constructor(line: ChannelLine) {
    this.#line = line;
  }

  selectConfirms(): void {
    if (this.#uncommitted !== undefined) throw preconditionFailed('cannot switch from tx to confirm mode');
    const { number, connection } = this.#line;
    this.#confirms ??= new Confirms({
      ack: (deliveryTag, multiple) => connection.outbox.method(number, 'basic.ack', { deliveryTag, multiple }),
      nack: (deliveryTag) =>
        connection.outbox.method(number, 'basic.nack', { deliveryTag, multiple: false, requeue: false }),
    });
  }

  selectTransactions(): void {
    if (this.#confirms !== undefined) throw preconditionFailed('cannot switch from confirm to tx mode');
    this.#uncommitted ??= [];
  }

  publish({ exchange, routingKey, mandatory, immediate }: MethodArgs<'basic.publish'>, content: Content): void {
    const { virtualHost, user, maxMessageSize } = this.#line.connection;
    if (immediate) throw notImplemented('immediate=true');
    if (content.isTooLarge) {
      throw preconditionFailed(`message size ${content.size} is larger than configured max size ${maxMessageSize}`);
    }
    virtualHost.checkPublish(exchange);
    const message = this.#withAddress(publishedMessage(exchange, routingKey, content.propertyBytes, content.body));
    checkProperties(message, user);
    if (this.#uncommitted === undefined) this.#publish(message, mandatory);
    else this.#uncommitted.push({ routed: virtualHost.route(message), mandatory });
  }

  /** The same message with the address of this channel's reply consumer, where it asks for replies there. */
  #withAddress(message: BrokerMessage): BrokerMessage {
    if (replyToOf(message) !== REPLY_TO) return message;
    if (this.replyAddress === undefined) throw preconditionFailed('fast reply consumer does not exist');
    const propertyBytes = withReplyTo(message.propertyBytes, this.replyAddress);
    return publishedMessage(message.exchange, message.routingKey, propertyBytes, message.body);
  }

  #publish(message: BrokerMessage, mandatory: boolean): void {
    const confirms = this.#confirms;
    const { connection } = this.#line;
    if (confirms !== undefined && connection.takesNack()) {
      confirms.nacked();
      return;
    }
    const outcome = this.#returned(message, mandatory, connection.virtualHost.publish(message));
    if (confirms === undefined) return;
    if (outcome === 'rejected') {
      confirms.nacked();
    } else {
      confirms.acked();
      connection.confirmLater(this);
    }
  }

  /** Sends back what is mandatory and went nowhere. */
  #returned(message: BrokerMessage, mandatory: boolean, outcome: PublishOutcome): PublishOutcome {
    if (outcome === 'unroutable' && mandatory) {
      const { exchange, routingKey } = message;
      const args = { replyCode: NO_ROUTE, replyText: 'NO_ROUTE', exchange, routingKey };
      this.#line.connection.outbox.content(this.#line.number, 'basic.return', args, message);
    }
    return outcome;
  }

  /** Tells the client what was held back of its confirms. */
  sayConfirms(): void {
    this.#confirms?.say();
  }

  /** Publishes what was held back; false when a queue refuses some of it. */
  commit(): boolean {
    const uncommitted = this.#held();
    this.#uncommitted = [];
    let isWhole = true;
    const { virtualHost } = this.#line.connection;
    for (const { routed, mandatory } of uncommitted) {
      const outcome = this.#returned(routed.message, mandatory, virtualHost.deliver(routed));
      if (outcome === 'rejected') isWhole = false;
    }
    return isWhole;
  }

  rollback(): void {
    this.#held();
    this.#uncommitted = [];
  }

  #held(): HeldPublish[] {
    if (this.#uncommitted === undefined) throw preconditionFailed('channel is not transactional');
    return this.#uncommitted;
  }
}
