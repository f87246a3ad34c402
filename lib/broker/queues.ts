/** The queues of a virtual host by name: which may be declared, by whom, and whose an exclusive one is. */
import { randomBytes } from 'node:crypto';
import { requireSame } from './argument-values.js';
import { accessRefused, notFound, resourceLocked } from './broker-error.js';
import type { QueueDeclaration } from './declarations.js';
import { MessageQueue, type QueueHost } from './message-queue.js';
import { queueSettings, requireSameQueueArguments } from './queue-arguments.js';

export class Queues {
  readonly #host: QueueHost;
  readonly #byName = new Map<string, MessageQueue>();
  /** The exclusive ones. */
  readonly #byOwner = new Map<object, Set<MessageQueue>>();

  constructor(host: QueueHost) {
    this.#host = host;
  }

  get(name: string): MessageQueue | undefined {
    return this.#byName.get(name);
  }

  /** Throws 404 when there is none, 405 when it is another connection's own. */
  require(name: string, owner: object): MessageQueue {
    const queue = this.#byName.get(name);
    if (queue === undefined) throw notFound(`no ${this.#host.nameOf('queue', name)}`);
    this.checkOwner(queue, owner);
    return queue;
  }

  /** Throws 405 when it is another connection's own. */
  checkOwner(queue: MessageQueue, owner: object): void {
    if (queue.owner !== undefined && queue.owner !== owner) throw this.#locked(queue.name);
  }

  declare(declaration: QueueDeclaration, owner: object): MessageQueue {
    const { name, passive } = declaration;
    if (!passive && name.startsWith('amq.')) {
      throw accessRefused(`queue name '${name}' contains reserved prefix 'amq.*'`);
    }
    const current = passive ? this.require(name, owner) : this.#byName.get(name);
    if (current === undefined) return this.#create(declaration, owner);
    if (!passive) this.#requireSame(declaration, current, owner);
    current.touch();
    return current;
  }

  /** Its bindings are the caller's to remove. */
  delete(queue: MessageQueue): void {
    this.#byName.delete(queue.name);
    if (queue.owner === undefined) return;
    const owned = this.#byOwner.get(queue.owner);
    owned?.delete(queue);
    if (owned?.size === 0) this.#byOwner.delete(queue.owner);
  }

  ownedBy(owner: object): MessageQueue[] {
    return [...(this.#byOwner.get(owner) ?? [])];
  }

  [Symbol.iterator](): Iterator<MessageQueue> {
    return this.#byName.values();
  }

  #create(declaration: QueueDeclaration, owner: object): MessageQueue {
    const { name: wanted } = declaration;
    const settings = queueSettings(declaration, this.#host.nameOf('queue', wanted));
    const name = wanted === '' ? `amq.gen-${randomBytes(16).toString('base64url')}` : wanted;
    const queue = new MessageQueue(this.#host, { ...declaration, name }, settings, owner);
    this.#byName.set(name, queue);
    if (queue.owner !== undefined) {
      const owned = this.#byOwner.get(owner);
      if (owned === undefined) this.#byOwner.set(owner, new Set([queue]));
      else owned.add(queue);
    }
    return queue;
  }

  #requireSame(declaration: QueueDeclaration, current: MessageQueue, owner: object): void {
    const of = this.#host.nameOf('queue', current.name);
    if (current.owner !== (declaration.exclusive ? owner : undefined)) throw this.#locked(current.name);
    requireSame('durable', of, declaration.durable, current.durable);
    requireSame('auto_delete', of, declaration.autoDelete, current.autoDelete);
    requireSameQueueArguments(declaration.arguments, current, of);
  }

  #locked(name: string): Error {
    return resourceLocked(
      `cannot obtain exclusive access to locked ${this.#host.nameOf('queue', name)}. It could be originally declared on ` +
        'another connection or the exclusive property value does not match that of the original declaration.',
    );
  }
}
