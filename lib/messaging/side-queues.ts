/**
 * The queues beside a queue: where its dead letters go, and where its messages wait for their next attempt. It names them and
 * declares them on demand; what is published to them is decided elsewhere.
 */
import type { AmqpConnection } from '../client/amqp-connection.js';
import type { QueueDeclareOptions } from '../client/channel-options.js';
import { orAborted } from '../client/wait.js';
import { AmqpError } from '../errors.js';
import type { QueueDefinition, Topology } from './definitions.js';
import { derivedName } from './derived-name.js';
import { SharedDeclarations } from './shared-declarations.js';
import { applyTopology, topologyOf } from './topology.js';

/**
 * So much longer than its messages wait, a wait queue lasts unused, in milliseconds. It is declared anew before each publish, and
 * a publish that takes this long has lost its connection.
 */
export const AFTERLIFE = 60 * 60 * 1000;

export interface SideQueuesOptions {
  readonly queue: string;
  readonly topology: Topology;
  /** Where dead letters go. @default `<queue>.dead` */
  readonly deadQueue: string | undefined;
}

export class SideQueues {
  readonly #connection: AmqpConnection;
  readonly #options: SideQueuesOptions;
  readonly #definition: QueueDefinition | undefined;
  readonly #declarations: SharedDeclarations;
  #isDeadQueueThere = false;

  constructor(connection: AmqpConnection, options: SideQueuesOptions) {
    this.#connection = connection;
    this.#declarations = new SharedDeclarations(connection);
    this.#options = options;
    this.#definition = options.topology.queues?.find(({ name }) => name === options.queue);
  }

  /** The queue for dead letters; declared when it is missing, else used as it is. */
  async deadQueue(signal: AbortSignal): Promise<string> {
    const name = this.#options.deadQueue ?? besides(this.#queue, 'dead');
    if (!this.#isDeadQueueThere)
      await orAborted(
        this.#declarations.shared(name, () => this.#ensureDeadQueue(name)),
        signal,
      );
    return name;
  }

  /**
   * The queue whose messages come back after `delay` ms. It is declared by each call, which has its time to live without use begin
   * anew: messages do not count as use, and are lost with their queue.
   */
  async waitQueue(delay: number, signal: AbortSignal): Promise<string> {
    const name = besides(this.#queue, `retry.${delay}${this.#isGuarded ? '.quorum' : ''}`);
    await orAborted(
      this.#declarations.declare(name, (channel) => channel.queueDeclare(name, this.#waiting(delay))),
      signal,
    );
    return name;
  }

  /** What was published did not arrive: a queue may be gone. */
  forget(): void {
    this.#isDeadQueueThere = false;
  }

  get #queue(): string {
    return this.#connection.topology.current(this.#options.queue);
  }

  /**
   * True where messages must not come back the usual way, for which nobody awaits a confirm: to a quorum queue, whose nodes may
   * be away, or to one that refuses messages when it is full.
   */
  get #isGuarded(): boolean {
    const { type, overflow, arguments: args = {} } = this.#definition ?? {};
    const refuses = overflow ?? args['x-overflow'];
    return (
      (type ?? args['x-queue-type']) === 'quorum' ||
      (typeof refuses === 'string' && refuses.startsWith('reject-publish'))
    );
  }

  #waiting(delay: number): QueueDeclareOptions {
    const back = {
      'x-message-ttl': delay,
      'x-dead-letter-exchange': '',
      'x-dead-letter-routing-key': this.#queue,
    };
    // Declaring a quorum queue again does not begin its x-expires anew (RabbitMQ 3.10): it would take its messages with it.
    return this.#isGuarded
      ? {
          arguments: {
            ...back,
            'x-queue-type': 'quorum',
            'x-dead-letter-strategy': 'at-least-once',
            'x-overflow': 'reject-publish',
          },
        }
      : { arguments: { ...back, 'x-queue-type': 'classic', 'x-expires': delay + AFTERLIFE } };
  }

  async #ensureDeadQueue(name: string): Promise<void> {
    try {
      await this.#declarations.alone((channel) => channel.queueDeclare(name, { passive: true }));
    } catch (error) {
      if (!(error instanceof AmqpError) || error.replyCode !== 404) throw error;
      const type = this.#isGuarded ? ('quorum' as const) : undefined;
      const own: Topology = { queues: [{ name, ...(type === undefined ? {} : { type }) }] };
      const isDefined = this.#options.topology.queues?.some((definition) => definition.name === name) === true;
      const connection = await this.#connection.opened();
      await applyTopology(connection, isDefined ? topologyOf(name, this.#options.topology) : own);
    }
    this.#isDeadQueueThere = true;
  }
}

/** A name for a queue beside another one: `billing.dead`. Names that begin with `amq.` are the broker's to give. */
function besides(queue: string, what: string): string {
  const name = `${queue.startsWith('amq.') ? 'nest-amqp.' : ''}${queue}.${what}`;
  return derivedName(name, queue, (digest) => `nest-amqp.${digest}.${what}`);
}
