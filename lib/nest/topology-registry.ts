/**
 * The topologies of an application: of each connection, what its `forRoot`, the `forFeature`s of any module and the `@Consume`s
 * of any class declare, gathered before the first connection is opened. Declaring it is `messaging/connection-topology`'s.
 */
import { Injectable } from '@nestjs/common';
import { ModulesContainer } from '@nestjs/core';
import { AmqpError, quoted } from '../errors.js';
import type { Topology } from '../messaging/definitions.js';
import { isFactory } from './amqp.decorators.js';
import { AmqpExplorer } from './amqp.explorer.js';
import { DEFAULT_CONNECTION } from './amqp.tokens.js';
import { ConnectionRegistry } from './connection-registry.js';
import { type ConsumeOptionsWithQueue, argumentsOf } from './consume-options.js';
import { topologyIn } from './consume-topology.js';
import { deadLetterOf } from './queue-consumers.js';

/** What an `AmqpModule.forFeature` declares. */
interface Feature {
  readonly connection: string;
  readonly topology: Topology;
  /** The instance of its module, by which Nest's record of it is found. */
  readonly module: object;
}

@Injectable()
export class TopologyRegistry {
  readonly #explorer: AmqpExplorer;
  readonly #modules: ModulesContainer;
  readonly #connections: ConnectionRegistry;
  readonly #features: Feature[] = [];
  #isGathered = false;

  constructor(explorer: AmqpExplorer, connections: ConnectionRegistry, modules: ModulesContainer) {
    this.#explorer = explorer;
    this.#connections = connections;
    this.#modules = modules;
  }

  /** Of every `forFeature`, as it is made. Throws `INVALID_DEFINITION` for one that is made after the application. */
  addFeature(feature: Feature): void {
    if (this.#isGathered) throw tooLate(feature);
    this.#features.push(feature);
  }

  /**
   * Gathers what can be known before anything is declared; options that come from factories are added later, see `addHandler`.
   * Throws `INVALID_DEFINITION` for what is declared in two ways, and for connections that nobody defines.
   */
  gather(): void {
    if (this.#isGathered) return;
    for (const [name, { topology, options }] of this.#connections) {
      topology.add(
        options.topology,
        name === DEFAULT_CONNECTION ? 'AmqpModule.forRoot' : `AmqpModule.forRoot (${name})`,
      );
    }
    for (const feature of this.#features) this.#gatherFeature(feature);
    for (const { name, note } of this.#explorer.find()) if (!isFactory(note)) this.addHandler(name, note);
    for (const [, { topology }] of this.#connections) topology.check();
    this.#isGathered = true;
  }

  /**
   * Adds what a handler declares; doing so twice changes nothing. Returns the name of its queue, or the key of one without a
   * name. Throws `INVALID_DEFINITION` for what is declared otherwise elsewhere.
   */
  addHandler(name: string, options: ConsumeOptionsWithQueue): string {
    const { queue, connection = DEFAULT_CONNECTION } = options;
    const registered = this.#connections.find(connection);
    // The consumer registry says what is wrong with a connection that nobody defines.
    if (registered === undefined) return '';
    const { topology } = registered;
    const { consumers } = registered.options;
    if (consumers === false) return topology.keyOf(queue) ?? '';
    const place = `@Consume of ${name}`;
    topology.add(topologyIn(options, name), place);
    // What nobody consumes from yet is there for what is published meanwhile; a check has to name all that is missing.
    const isLate = !(options.autoStart ?? consumers.autoStart ?? true);
    const isChecked = registered.options.topologyMode === 'check';
    if (typeof queue === 'string' && (options.bind !== undefined || isLate || isChecked)) topology.adopt(queue, place);
    const key = topology.keyOf(queue) ?? '';
    const checked = {
      name,
      queue: key,
      exclusive: options.exclusive ?? false,
      arguments: argumentsOf(options.priority, options.arguments),
      retries: (options.retry ?? consumers.retry) !== undefined,
      prefetch: options.prefetch,
      batchSize: options.batch?.size,
      deadLetter: deadLetterOf(options, consumers, key),
    };
    topology.addConsumer(checked, options);
    return key;
  }

  #gatherFeature({ connection, topology, module }: Feature): void {
    const place = `AmqpModule.forFeature in ${this.#importersOf(module)}`;
    this.#connections.get(connection, `${place} is for`).topology.add(topology, place);
  }

  /** The names of the modules that import it. */
  #importersOf(instance: object): string {
    const all = [...this.#modules.values()];
    const feature = all.find((module) => module.instance === instance);
    const importers = all.filter((module) => feature !== undefined && module.imports.has(feature));
    return importers.map(({ name }) => name).join(' and ');
  }
}

function tooLate({ connection, topology: { exchanges = [], queues = [], bindings = [] } }: Feature): AmqpError {
  const names = [...exchanges, ...queues].flatMap(({ name }) => (name === undefined ? [] : [quoted(name)]));
  const what = names.length > 0 ? names.join(', ') : `${bindings.length} bindings`;
  return new AmqpError(
    'INVALID_DEFINITION',
    `AmqpModule.forFeature with ${what} is loaded after the application has started, when everything is declared on the connection ` +
      `${quoted(connection)}. Import its module in one that is there from the start.`,
  );
}
