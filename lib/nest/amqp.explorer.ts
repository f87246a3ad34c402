/** Finds every `@Consume` of the application. What becomes of them is the registry's. */
import { Inject, Injectable, type InjectionToken, Optional, Scope } from '@nestjs/common';
import { DiscoveryService, MetadataScanner, ModuleRef } from '@nestjs/core';
import { kindOf, toldOf } from '../client/option-names.js';
import { AmqpError } from '../errors.js';
import { PARAMS_METADATA, consumeMetadata, isFactory } from './amqp.decorators.js';
import type { ConsumeNote, ConsumeOptionsFactory, ConsumeOptionsWithQueue } from './consume-options.js';
import { checkConsumeOptions } from './handler-checks.js';

/** One `@Consume` on one method of one provider, as it is written. */
export interface FoundHandler {
  /** Nest's record of the provider or controller. */
  readonly wrapper: Wrapper;
  readonly methodName: string;
  /** `BillingConsumer.charge` */
  readonly name: string;
  readonly note: ConsumeNote;
}

/** One `@Consume` on one method of one provider, with its options. */
export interface DiscoveredHandler extends FoundHandler {
  readonly options: ConsumeOptionsWithQueue;
}

/** What Nest knows of a provider or controller: its class, its scope, its module, its instances. */
export type Wrapper = ReturnType<DiscoveryService['getProviders']>[number];

@Injectable()
export class AmqpExplorer {
  readonly #discovery: DiscoveryService;
  readonly #scanner: MetadataScanner;

  constructor(discovery: DiscoveryService, scanner: MetadataScanner) {
    this.#discovery = discovery;
    this.#scanner = scanner;
  }

  /**
   * The handlers of all providers and controllers; without `factories` those whose options come from a factory are left out, and no
   * factory is called. Rejects with `INVALID_DEFINITION` for one that cannot be wired, and with `INVALID_OPTION` for a factory that
   * fails, or gives options that cannot be.
   */
  async explore({ factories }: { readonly factories: boolean }): Promise<DiscoveredHandler[]> {
    return await Promise.all(
      this.find()
        .filter(({ note }) => factories || !isFactory(note))
        .map(async (found) => ({ ...found, options: await optionsOf(found.note, found.wrapper, found.name) })),
    );
  }

  /** The same before any factory of options is called. Throws `INVALID_DEFINITION`. */
  find(): FoundHandler[] {
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

  #handlersOf(wrapper: Wrapper): FoundHandler[] {
    const prototype = prototypeOf(wrapper);
    if (prototype === null) return [];
    return this.#scanner.getAllMethodNames(prototype).flatMap((methodName) => {
      const method: unknown = Reflect.get(prototype, methodName);
      if (typeof method !== 'function') return [];
      const name = `${prototype.constructor.name}.${methodName}`;
      return consumeMetadata(method).map((note) => {
        if (!isMadeOfItsClass(wrapper) && hasClassEnhancers(prototype.constructor, methodName, method))
          throw unguarded(name);
        return { wrapper, methodName, name, note };
      });
    });
  }
}

/** Nest makes the enhancers of classes that it makes itself, except those of modules. */
function isMadeOfItsClass({ isNotMetatype, metatype, host }: Wrapper): boolean {
  return !isNotMetatype && metatype !== host?.metatype;
}

/** Those that the decorator was given, or that its factory gives. */
async function optionsOf(note: ConsumeNote, wrapper: Wrapper, name: string): Promise<ConsumeOptionsWithQueue> {
  if (!isFactory(note)) return note;
  const options = await callFactory(note, wrapper, name);
  // Past the compiler: what a factory gives depends on what it was given.
  if (!isObject(options) || Array.isArray(options)) {
    throw new AmqpError(
      'INVALID_OPTION',
      `useFactory of ${name} has returned ${kindOf(options)}; it has to return options: { queue: 'billing' }.`,
    );
  }
  checkConsumeOptions(options as ConsumeOptionsWithQueue, `${name} (from useFactory)`);
  return options as ConsumeOptionsWithQueue;
}

/** With what it injects, found as the constructor of a class in the same module would have it injected. */
async function callFactory(factory: ConsumeOptionsFactory, wrapper: Wrapper, name: string): Promise<unknown> {
  const { inject = [] } = factory;
  const moduleRef = hostOf(wrapper, name).getProviderByKey(ModuleRef).instance;
  class Factory {
    readonly args: unknown[];

    constructor(...args: unknown[]) {
      this.args = args;
    }
  }
  for (const [index, dependency] of inject.entries()) {
    const isOptional = isObject(dependency) && 'optional' in dependency;
    const token = isOptional ? dependency.token : dependency;
    // Of a class that depends on one Nest 11 never says that it cannot be made.
    if (isScoped(moduleRef, token)) throw scopedDependency(name, token);
    Inject(token)(Factory, undefined, index);
    if (isOptional && dependency.optional) Optional()(Factory, undefined, index);
  }
  // Nest says by this name for what it lacks something.
  Object.defineProperty(Factory, 'name', { value: `useFactory of ${name}` });
  const { args } = await moduleRef.create(Factory);
  try {
    return await factory.useFactory(...(args as never[]));
  } catch (cause) {
    throw new AmqpError(
      'INVALID_OPTION',
      `useFactory of ${name} failed, so that there are no options. ${toldOf(cause)}`,
      { cause },
    );
  }
}

/** Nest's record of the module that a handler is in. Throws `INVALID_DEFINITION` for one that is in none. */
export function hostOf({ host }: Wrapper, name: string): NonNullable<Wrapper['host']> {
  if (host !== undefined) return host;
  throw new AmqpError('INVALID_DEFINITION', `${name} has @Consume and is in no module.`);
}

function isScoped(moduleRef: ModuleRef, token: InjectionToken): boolean {
  try {
    return moduleRef.introspect(token as string).scope === Scope.REQUEST;
  } catch {
    return false; // Nobody provides it: making the class says what is missing, or that it may be.
  }
}

function scopedDependency(name: string, token: InjectionToken): AmqpError {
  return new AmqpError(
    'INVALID_DEFINITION',
    `The factory in @Consume of ${name} injects ${typeof token === 'function' ? token.name : String(token)}, which is ` +
      'request-scoped: there is no delivery yet when it is called. Inject something that exists once.',
  );
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
function hasClassEnhancers(metatype: object, methodName: string, method: object): boolean {
  const params = (Reflect.getMetadata(PARAMS_METADATA, metatype, methodName) ?? {}) as Record<
    string,
    { pipes?: unknown[] }
  >;
  const given = [
    ...[metatype, method].flatMap((target) =>
      ENHANCERS.flatMap((key) => (Reflect.getMetadata(key, target) ?? []) as readonly unknown[]),
    ),
    ...Object.values(params).flatMap(({ pipes = [] }) => pipes),
  ];
  return given.some((enhancer) => typeof enhancer === 'function');
}

function unguarded(name: string): AmqpError {
  return new AmqpError(
    'INVALID_DEFINITION',
    `${name} has @Consume and guards, pipes, interceptors or filters that are given as classes, and comes from a factory or as ` +
      'a value: Nest would leave them out. Provide the class itself, or give instances: @UseGuards(new AdminGuard()).',
  );
}
