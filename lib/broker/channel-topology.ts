/** The methods of classes exchange and queue: what they ask of the virtual host, and what they answer. */
import type { Method, MethodArgs, MethodName } from '../protocol/methods.js';
import { notFound } from './broker-error.js';
import type { ChannelLine } from './channel-line.js';
import { isReplyTo, replyToIsKnown } from './reply-to.js';
import type { MessageQueue } from './message-queue.js';

/** The methods that a client may send, and what they do. */
type Handlers = { readonly [N in MethodName]?: ((topology: ChannelTopology, args: MethodArgs<N>) => void) | undefined };

export class ChannelTopology {
  readonly line: ChannelLine;
  /** What the empty name of a queue stands for. */
  #lastQueue: string | undefined;

  constructor(line: ChannelLine) {
    this.line = line;
  }

  /** Whether the method is one that a client may send. */
  handle<N extends MethodName>({ name, args }: Method<N>): boolean {
    const handler = HANDLERS[name];
    handler?.(this, args);
    return handler !== undefined;
  }

  /** The name of a queue, where the empty name is the queue that this channel declared last. */
  nameOf(queue: string): string {
    if (queue !== '') return queue;
    if (this.#lastQueue === undefined) throw notFound('no previously declared queue');
    return this.#lastQueue;
  }

  queue(name: string): MessageQueue {
    const { virtualHost, owner } = this.line.connection;
    return virtualHost.queue(this.nameOf(name), owner);
  }

  declareQueue(declaration: MethodArgs<'queue.declare'>): void {
    const { virtualHost, owner } = this.line.connection;
    const { queue: name, noWait } = declaration;
    if (isReplyTo(name)) {
      // Not queues, but RabbitMQ says that they are, so that a server can ask whether its client still waits.
      if (!replyToIsKnown(virtualHost, name)) throw notFound(`no queue '${name}' in vhost '${virtualHost.name}'`);
      this.#answer(noWait, 'queue.declare-ok', { queue: name, messageCount: 0, consumerCount: 1 });
      return;
    }
    const queue = virtualHost.declareQueue({ ...declaration, name }, owner);
    this.#lastQueue = queue.name;
    this.#answer(noWait, 'queue.declare-ok', {
      queue: queue.name,
      messageCount: queue.messageCount,
      consumerCount: queue.consumerCount,
    });
  }

  #answer<N extends MethodName>(noWait: boolean, name: N, args: MethodArgs<N>): void {
    if (!noWait) this.line.reply(name, args);
  }

  static readonly handlers: Handlers = {
    'exchange.declare': (topology, { exchange: name, noWait, ...declaration }) => {
      topology.line.connection.virtualHost.declareExchange({ ...declaration, name });
      topology.#answer(noWait, 'exchange.declare-ok', {});
    },
    'exchange.delete': (topology, { exchange, ifUnused, noWait }) => {
      topology.line.connection.virtualHost.deleteExchange(exchange, { ifUnused });
      topology.#answer(noWait, 'exchange.delete-ok', {});
    },
    'exchange.bind': (topology, { noWait, ...binding }) => {
      topology.line.connection.virtualHost.bindExchange(binding);
      topology.#answer(noWait, 'exchange.bind-ok', {});
    },
    'exchange.unbind': (topology, { noWait, ...binding }) => {
      topology.line.connection.virtualHost.unbindExchange(binding);
      topology.#answer(noWait, 'exchange.unbind-ok', {});
    },
    'queue.declare': (topology, args) => topology.declareQueue(args),
    'queue.bind': (topology, { noWait, ...binding }) => {
      const { virtualHost, owner } = topology.line.connection;
      virtualHost.bindQueue({ ...topology.#named(binding) }, owner);
      topology.#answer(noWait, 'queue.bind-ok', {});
    },
    'queue.unbind': (topology, binding) => {
      const { virtualHost, owner } = topology.line.connection;
      virtualHost.unbindQueue(topology.#named(binding), owner);
      topology.#answer(false, 'queue.unbind-ok', {});
    },
    'queue.purge': (topology, { queue, noWait }) => {
      topology.#answer(noWait, 'queue.purge-ok', { messageCount: topology.queue(queue).purge() });
    },
    'queue.delete': (topology, { queue, noWait, ifUnused, ifEmpty }) => {
      const { virtualHost, owner } = topology.line.connection;
      const messageCount = virtualHost.deleteQueue(topology.nameOf(queue), { ifUnused, ifEmpty }, owner);
      topology.#answer(noWait, 'queue.delete-ok', { messageCount });
    },
  };

  /** A binding with the name of its queue, and with that name for the empty key where the queue's name was left out, too. */
  #named<B extends { readonly queue: string; readonly routingKey: string }>(binding: B): B {
    if (binding.queue !== '') return binding;
    const queue = this.nameOf('');
    return { ...binding, queue, routingKey: binding.routingKey === '' ? queue : binding.routingKey };
  }
}

const HANDLERS = ChannelTopology.handlers;
