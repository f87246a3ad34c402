/** Finds every `@Consume` of the application. What becomes of them is the registry's. */
import { Injectable } from '@nestjs/common';
import { DiscoveryService, MetadataScanner } from '@nestjs/core';
import { AmqpError } from '../errors.js';
import { type ConsumeOptionsWithQueue, consumeMetadata } from './amqp.decorators.js';

/** One `@Consume` on one method of one instance. */
export interface DiscoveredHandler {
  readonly instance: object;
  readonly methodName: string;
  /** Key of the module that holds the instance: where its guards, pipes, interceptors and filters are found. */
  readonly moduleKey: string;
  /** `BillingConsumer.charge` */
  readonly name: string;
  readonly options: ConsumeOptionsWithQueue;
}

type Wrapper = ReturnType<DiscoveryService['getProviders']>[number];

@Injectable()
export class AmqpExplorer {
  readonly #discovery: DiscoveryService;
  readonly #scanner: MetadataScanner;

  constructor(discovery: DiscoveryService, scanner: MetadataScanner) {
    this.#discovery = discovery;
    this.#scanner = scanner;
  }

  /** The handlers of all providers and controllers. Throws `INVALID_DEFINITION` for one that cannot be wired. */
  explore(): DiscoveredHandler[] {
    const wrappers = [...this.#discovery.getProviders(), ...this.#discovery.getControllers()].filter(
      (wrapper) => !wrapper.isAlias,
    );
    // A factory may provide again what a class has made. The class counts: its module has its guards and pipes.
    const byInstance = new Map<unknown, Wrapper>();
    for (const wrapper of wrappers) {
      if (!byInstance.has(wrapper.instance) || !wrapper.isNotMetatype) byInstance.set(wrapper.instance, wrapper);
    }
    return wrappers
      .filter((wrapper) => !isObject(wrapper.instance) || byInstance.get(wrapper.instance) === wrapper)
      .flatMap((wrapper) => this.#handlersOf(wrapper));
  }

  #handlersOf(wrapper: Wrapper): DiscoveredHandler[] {
    const prototype = prototypeOf(wrapper);
    if (prototype === null) return [];
    return this.#scanner.getAllMethodNames(prototype).flatMap((methodName) => {
      const method: unknown = Reflect.get(prototype, methodName);
      if (typeof method !== 'function') return [];
      const name = `${prototype.constructor.name}.${methodName}`;
      return consumeMetadata(method).map((options) => {
        if (wrapper.isNotMetatype && hasClassEnhancers(prototype.constructor, method)) throw unguarded(name);
        if (wrapper.isTransient || !wrapper.isDependencyTreeStatic()) throw scoped(name);
        return {
          instance: wrapper.instance as object,
          methodName,
          moduleKey: wrapper.host?.token ?? '',
          name,
          options,
        };
      });
    });
  }
}

/** Where a provider's methods are: on its class, or on what a factory or value provider gave. */
function prototypeOf(wrapper: Wrapper): object | null {
  const instance: unknown = wrapper.instance;
  if (isObject(instance)) return Object.getPrototypeOf(instance) as object | null;
  const metatype: unknown = wrapper.metatype;
  return typeof metatype === 'function' && !wrapper.inject
    ? ((metatype.prototype as object | undefined) ?? null)
    : null;
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

/** Where Nest notes what `@UseGuards`, `@UseInterceptors`, `@UsePipes` and `@UseFilters` are given. */
const ENHANCERS = ['__guards__', '__interceptors__', '__pipes__', '__exceptionFilters__'];

/** True for enhancers that Nest would have to make; it makes them only for classes that it makes itself. */
function hasClassEnhancers(...targets: readonly object[]): boolean {
  return targets.some((target) =>
    ENHANCERS.some((key) => {
      const enhancers = (Reflect.getMetadata(key, target) ?? []) as readonly unknown[];
      return enhancers.some((enhancer) => typeof enhancer === 'function');
    }),
  );
}

function unguarded(name: string): AmqpError {
  return new AmqpError(
    'INVALID_DEFINITION',
    `${name} has @Consume and guards, pipes, interceptors or filters that are given as classes, and comes from a factory or as ` +
      'a value: Nest would leave them out. Provide the class itself, or give instances: @UseGuards(new AdminGuard()).',
  );
}

function scoped(name: string): AmqpError {
  return new AmqpError(
    'INVALID_DEFINITION',
    `${name} has @Consume, and is request-scoped or transient, or depends on something request-scoped, which is not supported yet. ` +
      'Make the class a singleton, and resolve what has to be scoped with ModuleRef inside the method.',
  );
}
