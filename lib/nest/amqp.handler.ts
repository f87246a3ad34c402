/**
 * Turns what the explorer finds into a delivery handler: one that calls an instance that exists once, or one that has
 * instances of its own made for every delivery, where something about it is request-scoped or transient.
 */
import { type ContextId, ContextIdFactory, type ExternalContextCreator, type ModuleRef } from '@nestjs/core';
import { REQUEST_CONTEXT_ID } from '@nestjs/core/router/request/request-constants.js';
import { quietly } from '../client/listeners.js';
import type { BatchHandler } from '../messaging/batched-deliveries.js';
import { type Log, messageOf, thrownOf } from '../messaging/log.js';
import type { DeliveryHandler } from '../messaging/handled-deliveries.js';
import type { ConsumerDefaults } from './consume-options.js';
import { type DiscoveredHandler, type Wrapper, hostOf } from './amqp.explorer.js';
import { type Assembled, type Run, applies, assemble, parameterNotes, throwIfStopped } from './amqp.listener.js';
import type { Delivered } from './handler-result.js';
import { type NestInternals, nestInternals } from './nest-internals.js';

type GlobalEnhancersOption = ConsumerDefaults['globalEnhancers'];

/** What makes handlers, of one application. */
export class HandlerFactory {
  readonly #nest: NestInternals;
  readonly #log: Log;

  /** Throws `NEST_UNSUPPORTED`. */
  constructor(creator: ExternalContextCreator, moduleRef: ModuleRef, log: Log) {
    this.#nest = nestInternals(creator, moduleRef);
    this.#log = log;
  }

  /** The handler of a method; what is not said about global enhancers comes from `defaults`. */
  create(handler: DiscoveredHandler, defaults: ConsumerDefaults): DeliveryHandler {
    const run = this.#runOf(handler, defaults, false);
    return (delivery) => run(delivery.payload, delivery);
  }

  /** The same of a method that takes many deliveries at once. */
  createBatch(handler: DiscoveredHandler, defaults: ConsumerDefaults): BatchHandler {
    const run = this.#runOf(handler, defaults, true);
    return (deliveries) =>
      run(
        deliveries.map(({ payload }) => payload),
        deliveries,
      );
  }

  #runOf({ wrapper, methodName, name, options }: DiscoveredHandler, defaults: ConsumerDefaults, isBatch: boolean): Run {
    const globalEnhancers = options.globalEnhancers ?? defaults.globalEnhancers;
    const globals = this.#scopedGlobals(globalEnhancers);
    const parameters = parameterNotes();
    const assembleFor = (instance: object, contextId?: ContextId): Assembled =>
      assemble(this.#nest, {
        name,
        instance,
        methodName,
        isBatch,
        moduleKey: wrapper.host?.token ?? '',
        globalEnhancers,
        parameters,
        outcomeKept: (error, thrown) => {
          quietly(() => {
            this.#log.error(
              `A filter of ${name} failed, and what the handler has thrown counts (${messageOf(error)}). ${thrownOf(thrown, 'It')}`,
            );
          });
        },
        ...(contextId === undefined ? {} : { scope: { contextId, inquirerId: wrapper.id } }),
      });
    if (globals.length === 0 && !isPerDelivery(wrapper)) {
      return assembleFor(wrapper.instance as object).run;
    }
    // Filters for what goes wrong before there is an instance; in the place of what is scoped they have nothing.
    let outside: Assembled | undefined;
    return async (payload, delivery) => {
      let run: Run;
      try {
        const contextId = contextIdOf(delivery);
        this.#provideRequest(delivery, wrapper, contextId);
        run = assembleFor(await this.#instanceOf(wrapper, name, globals, contextId), contextId).run;
        throwIfStopped(delivery);
      } catch (error) {
        outside ??= assembleFor(placeholderOf(wrapper));
        return outside.fail(error, payload, delivery);
      }
      return run(payload, delivery);
    };
  }

  #scopedGlobals(globalEnhancers: GlobalEnhancersOption): Wrapper[] {
    const { config } = this.#nest;
    return [
      ...(applies(globalEnhancers, 'guards') ? config.getGlobalRequestGuards() : []),
      ...(applies(globalEnhancers, 'pipes') ? config.getGlobalRequestPipes() : []),
      ...(applies(globalEnhancers, 'interceptors') ? config.getGlobalRequestInterceptors() : []),
      ...(applies(globalEnhancers, 'filters') ? config.getGlobalRequestFilters() : []),
    ];
  }

  /**
   * Whoever asks for `REQUEST` gets the delivery, or the batch of them, with the fields of the payload of the context beside it, as for
   * a request of Nest's own; where all that is made for it is durable, and shared by many deliveries, that payload alone.
   */
  #provideRequest(delivery: Delivered, wrapper: Wrapper, contextId: ContextId): void {
    const { payload } = contextId as { readonly payload?: object };
    const request = wrapper.isDependencyTreeDurable() ? payload : Object.assign(delivery, payload);
    this.#nest.creator.registerRequestProvider(request, contextId);
  }

  /** The instance that a delivery is for, and its enhancers beside it. */
  async #instanceOf(wrapper: Wrapper, name: string, globals: Wrapper[], contextId: ContextId): Promise<object> {
    const { injector } = this.#nest;
    const host = hostOf(wrapper, name);
    const collection = host.controllers.get(wrapper.token) === wrapper ? host.controllers : host.providers;
    const instance = isScoped(wrapper)
      ? await injector.loadPerContext(wrapper.instance, host, collection, contextId, wrapper)
      : (wrapper.instance as object);
    // Nest knows neither of global ones around providers, nor of transient ones around what exists once.
    const getEnhancersMetadata = (): Wrapper[] => [...enhancersOf(wrapper), ...globals];
    await injector.loadEnhancersPerContext({ getEnhancersMetadata }, contextId, wrapper);
    return instance;
  }
}

/** Nest's id of what is made for a delivery, noted on it: `ContextIdFactory.getByRequest(delivery)` finds the same in the handler. */
function contextIdOf(delivery: Delivered): ContextId {
  const contextId = ContextIdFactory.getByRequest(delivery as unknown as Record<symbol, ContextId>);
  Object.defineProperty(delivery, REQUEST_CONTEXT_ID, { value: contextId });
  return contextId;
}

/** True for a class of which every delivery gets an instance of its own. */
function isScoped(wrapper: Wrapper): boolean {
  return wrapper.isTransient || !wrapper.isDependencyTreeStatic();
}

function isPerDelivery(wrapper: Wrapper): boolean {
  return isScoped(wrapper) || enhancersOf(wrapper).some(isScoped);
}

/** Guards, pipes, interceptors and filters that are given as classes. The types forget that there may be none. */
function enhancersOf(wrapper: Wrapper): Wrapper[] {
  return (wrapper.getEnhancersMetadata() as Wrapper[] | undefined) ?? [];
}

/** Has the methods of the class, and has not been constructed. */
function placeholderOf({ instance, metatype }: Wrapper): object {
  return (instance as object | null) ?? (Object.create((metatype as { prototype: object }).prototype) as object);
}
