/** A method with Nest's guards, pipes, interceptors and filters around it. Whose method it is, is the handler's to know. */
import type { ContextId, ExternalContextCreator } from '@nestjs/core';
import { AmqpError } from '../errors.js';
import { promiseOf } from '../messaging/handled-deliveries.js';
import type { Delivery } from '../messaging/delivery.js';
import { RejectDelivery, RequeueDelivery, RetryDelivery } from '../messaging/outcome.js';
import { PartialBatchError } from '../messaging/partial-batch-error.js';
import type { BasicProperties } from '../protocol/properties.js';
import { PARAM, PARAMS_METADATA } from './amqp.decorators.js';
import type { ConsumerDefaults, GlobalEnhancers } from './consume-options.js';
import {
  type Delivered,
  HandlerValues,
  isManyValued,
  lastValueOf,
  signalOf,
  stopSignal,
  stoppedBy,
  wantsValues,
} from './handler-result.js';
import { type CreatorParts, type Filters, type NestInternals, unsupported } from './nest-internals.js';

/** What `ExecutionContext.getType()` says while a delivery is handled. */
export const AMQP_CONTEXT_TYPE = 'amqp';

/** Fills decorated parameters; its arguments are those that a handler without decorators gets. */
const paramsFactory = {
  exchangeKeyForValue(type: number, data: unknown, [payload, delivery]: [unknown, Delivery]): unknown {
    switch (type) {
      case PARAM.payload:
        return typeof data === 'string' ? (payload as Record<string, unknown> | null | undefined)?.[data] : payload;
      case PARAM.delivery:
        return delivery;
      case PARAM.signal:
        return delivery.signal;
      case PARAM.header:
        return delivery.headers[data as string];
      case PARAM.properties:
        return data === undefined ? delivery.properties : delivery.properties[data as keyof BasicProperties];
      default:
        return undefined;
    }
  },
};

/** The same of each delivery, for a handler of batches. */
const batchParamsFactory = {
  exchangeKeyForValue(type: number, data: unknown, [payloads, deliveries]: [unknown[], readonly Delivery[]]): unknown {
    if (type === PARAM.signal) return signalOf(deliveries);
    return deliveries.map((delivery, index) =>
      paramsFactory.exchangeKeyForValue(type, data, [payloads[index], delivery]),
    );
  },
};

/** A method and what is around it. */
export interface Target {
  /** `BillingConsumer.charge` */
  readonly name: string;
  /** What the method is called on. */
  readonly instance: object;
  readonly methodName: string;
  /** It takes many deliveries at once. */
  readonly isBatch: boolean;
  /** Key of the module that holds the instance: where its guards, pipes, interceptors and filters are found. */
  readonly moduleKey: string;
  readonly globalEnhancers: ConsumerDefaults['globalEnhancers'];
  readonly parameters: ParameterNotes;
  /** Is told of a filter that broke over what a handler has thrown to say what becomes of a delivery, which counts all the same. */
  readonly outcomeKept: (error: unknown, thrown: unknown) => void;
  /** Of one delivery, whose own instances the enhancers are; left out, they are those that exist once. */
  readonly scope?: { readonly contextId: ContextId; readonly inquirerId: string };
}

/**
 * What Nest reads off the parameters of a handler, once. Nest's own place for that is one for all handlers: in Nest 11 it tells methods
 * apart by the names of their classes, which several modules may use, and in none does it tell a handler of batches from another one.
 */
export interface ParameterNotes {
  readonly get: () => unknown;
  readonly set: (instance: unknown, methodName: unknown, notes: unknown) => void;
}

/** Those of one handler, to be kept with it. */
export function parameterNotes(): ParameterNotes {
  let kept: unknown;
  return {
    get: () => kept,
    set: (_instance, _methodName, notes) => {
      kept = notes;
    },
  };
}

/** A method that runs with all that is around it. */
export interface Assembled {
  readonly run: Run;
  /** Hands an error to the filters. */
  readonly fail: (error: unknown, payload: unknown, delivery: Delivered) => unknown;
}

/** The method of an instance with its guards, pipes, interceptors and filters. Throws `INVALID_DEFINITION` and `NEST_UNSUPPORTED`. */
export function assemble(nest: NestInternals, target: Target): Assembled {
  const { instance, methodName, scope } = target;
  const method = (instance as Record<string, Method>)[methodName];
  if (typeof method !== 'function') {
    throw new AmqpError(
      'INVALID_DEFINITION',
      `${target.name} has @Consume, and is no method of the instance: a field of that name, set in the constructor, hides it. Rename one.`,
    );
  }
  const outcome: { filtered?: (around: Run) => Run } = {};
  const calls: Calls = new WeakMap();
  const run = adapted(nest, target, method.bind(instance), outcome, calls).create(
    instance,
    method,
    methodName,
    PARAMS_METADATA,
    target.isBatch ? batchParamsFactory : paramsFactory,
    scope?.contextId,
    scope?.inquirerId,
    undefined,
    AMQP_CONTEXT_TYPE,
  ) as Run;
  const { filtered } = outcome;
  // Nest would have made a handler without the filters, and called what it was told not to.
  if (filtered === undefined)
    throw unsupported('call of externalErrorProxy.createProxy() in ExternalContextCreator.create()');
  const fail: Assembled['fail'] = async (error, payload, delivery) => {
    const result = await filtered(rejecting(error))(payload, delivery);
    return isManyValued(result) ? await lastValueOf(result, stopSignal(delivery)) : result;
  };
  return { run: settling(run, fail, calls), fail };
}

/** The calls beneath interceptors, of each delivery: nobody hears of their end from an Observable that is unsubscribed from. */
type Calls = WeakMap<object, Promise<unknown>[]>;

type Method = (...args: unknown[]) => unknown;
/** Of a delivery, or of many; may return a promise. */
export type Run = (payload: unknown, delivery: Delivered) => unknown;

/** A decorated parameter, as far as it decides whether its value can be had at once. */
interface Param {
  readonly index: number;
  readonly pipes: readonly unknown[];
  /** Nest 12 validates by it. */
  readonly schema?: unknown;
  readonly type: unknown;
  readonly extractValue: (...args: unknown[]) => unknown;
}

/** Fills the arguments of the method from those that a handler without decorators gets; null when nothing is decorated. */
type ApplyPipes = ((args: unknown[], ...given: unknown[]) => Promise<void> | void) | null;

/** Puts the values of decorated parameters into `args`. */
type Fill = (args: unknown[], ...given: unknown[]) => void;

/** What surrounds a method. Undefined is what Nest has not asked for: then it may be anything. */
interface Surroundings {
  guards?: readonly unknown[];
  interceptors?: readonly unknown[];
  /** Null when nothing is decorated. */
  fill?: Fill | null;
}

/**
 * The creator, with some of its ways changed. By itself it looks for the class among providers only, finds no module for a
 * controller, and then leaves out, without a word, every guard, interceptor and filter that is given as a class. It takes an
 * Observable that completes without a value for a failure. And it puts promises around a method for guards, pipes and
 * interceptors, which is half of what a delivery costs, also where there are none: such a method is called directly.
 */
function adapted(
  { creator, parts }: NestInternals,
  target: Target,
  method: Method,
  outcome: { filtered?: (around: Run) => Run },
  calls: Calls,
): ExternalContextCreator {
  const { moduleKey, globalEnhancers, parameters } = target;
  const contextsOf = <T extends object>(kind: keyof GlobalEnhancers, contexts: T): T =>
    applies(globalEnhancers, kind) ? contexts : withoutGlobals(contexts);
  const interceptorsContextCreator = contextsOf('interceptors', parts.interceptorsContextCreator);
  const found: Surroundings = {};
  const createGuardsFn: ExternalContextCreator['createGuardsFn'] = (guards, ...rest) => {
    found.guards = guards;
    return creator.createGuardsFn(guards, ...rest);
  };
  const createPipesFn = (pipes: never[], params: Param[]): ApplyPipes => {
    if (params.length === 0 && pipes.length > 0) return inTime(pipingPayload(creator, pipes, target));
    if (params.length === 0) found.fill = null;
    else if (pipes.length === 0 && params.every(isPlain)) found.fill = filling(params);
    return inTime(found.fill ?? creator.createPipesFn(pipes, params as never[]));
  };
  const createInterceptors = (...args: unknown[]): unknown[] => {
    const interceptors = interceptorsContextCreator.create(...args);
    found.interceptors = interceptors;
    return interceptors;
  };
  const intercept: CreatorParts['interceptorsConsumer']['intercept'] = (
    interceptors,
    args,
    instance,
    callback,
    next,
    type,
  ) => {
    const noted = (): Promise<unknown> => noting(calls, args[1] as Delivered, next());
    return parts.interceptorsConsumer.intercept(interceptors, args, instance, callback, noted, type);
  };
  const createProxy = (piped: Run, filters: Filters, contextType: string): Run => {
    if (typeof (filters as Partial<Filters>).invokeCustomFilters !== 'function') {
      throw unsupported('ExternalExceptionsHandler.invokeCustomFilters()');
    }
    const { guards, interceptors, fill } = found;
    const filtered = (around: Run): Run =>
      parts.externalErrorProxy.createProxy(around, unlogged(filters, target.outcomeKept), contextType);
    outcome.filtered = filtered;
    return guards?.length === 0 && interceptors?.length === 0 && fill !== undefined
      ? direct(method, fill, filtered)
      : filtered(piped);
  };
  return Object.create(creator, {
    getHostModuleKey: { value: () => moduleKey },
    getContextModuleKey: { value: () => moduleKey },
    transformToResult: { value: (result: unknown) => result },
    createGuardsFn: { value: createGuardsFn },
    createPipesFn: { value: createPipesFn },
    guardsContextCreator: { value: contextsOf('guards', parts.guardsContextCreator) },
    pipesContextCreator: { value: contextsOf('pipes', parts.pipesContextCreator) },
    filtersContextCreator: { value: contextsOf('filters', parts.filtersContextCreator) },
    interceptorsContextCreator: { value: { create: createInterceptors } },
    interceptorsConsumer: { value: { intercept } },
    externalErrorProxy: { value: { createProxy } },
    handlerMetadataStorage: { value: parameters },
  }) as ExternalContextCreator;
}

function noting<T>(calls: Calls, delivered: Delivered, call: Promise<T>): Promise<T> {
  const noted = calls.get(delivered);
  if (noted === undefined) calls.set(delivered, [call]);
  else noted.push(call);
  return call;
}

/**
 * Pipes for a method without parameter decorators: its payload goes through them as if it had `@Payload()`. Nest applies pipes
 * to decorated parameters only, and a ValidationPipe that validates nothing is told by nobody.
 */
function pipingPayload(creator: ExternalContextCreator, pipes: never[], { instance, methodName }: Target): ApplyPipes {
  const types = Reflect.getMetadata('design:paramtypes', instance, methodName) as readonly unknown[] | undefined;
  const payload: Param & { readonly metatype: unknown } = {
    index: 0,
    type: PARAM.payload,
    metatype: types?.[0],
    pipes: [],
    extractValue: (given) => given,
  };
  const apply = creator.createPipesFn(pipes, [payload as never]);
  return async (args, given, delivery) => {
    await apply?.(args, given, delivery);
    args[1] = delivery;
  };
}

/**
 * Fills the arguments of a method that is still to be called: guards, interceptors and pipes may have taken longer than its delivery
 * had, and nobody awaits what it would do.
 */
function inTime(apply: ApplyPipes): ApplyPipes {
  return async (args, payload, delivery) => {
    throwIfStopped(delivery as Delivered);
    if (apply === null) args.push(payload, delivery);
    else await apply(args, payload, delivery);
    throwIfStopped(delivery as Delivered);
  };
}

/** Throws why the work of a handler would be for nothing. */
export function throwIfStopped(delivery: Delivered): void {
  const why = stoppedBy(delivery);
  if (why !== undefined) throw why;
}

/**
 * The filters without the one that Nest puts last, which logs what comes to it: whoever settles the delivery logs that too, with what
 * becomes of the message, and knows an error from `RetryDelivery`. A promise or an Observable of nothing is nothing as well: the
 * filter has only looked, and the message would be lost.
 */
function unlogged(filters: Filters, outcomeKept: Target['outcomeKept']): Pick<Filters, 'next'> {
  return {
    next: async (error, host) => {
      const delivery: Delivered = host.getArgByIndex(1);
      // That it was for nothing is no error of the handler.
      if (error === stoppedBy(delivery)) throw error;
      try {
        const returned = await filters.invokeCustomFilters(error, host);
        const handled = isManyValued(returned) ? await valuesOf(returned, error, delivery) : returned;
        if (handled !== undefined && handled !== null) return handled;
      } catch (thrown) {
        if (saysOutcome(error) && !saysOutcome(thrown)) outcomeKept(error, thrown);
        else throw causedBy(thrown, error);
      }
      throw error;
    },
  };
}

/** True for what is thrown to say what becomes of a delivery. Only what says it too may be put in its place: a filter that breaks does not. */
function saysOutcome(error: unknown): boolean {
  return [RejectDelivery, RequeueDelivery, RetryDelivery, PartialBatchError].some(
    (outcome) => error instanceof outcome,
  );
}

/** What a filter has thrown, with what it was asked about, where it does not say so itself. */
function causedBy(thrown: unknown, error: unknown): unknown {
  if (thrown instanceof Error && thrown !== error && thrown.cause === undefined && Object.isExtensible(thrown)) {
    Object.defineProperty(thrown, 'cause', { value: error, configurable: true, writable: true });
  }
  return thrown;
}

/** The last value of what a filter returned, or all of them for who wants them. Its errors have been through the filters. */
async function valuesOf(returned: unknown, error: unknown, delivery: Delivered): Promise<unknown> {
  if (!wantsValues(delivery)) return await lastValueOf(returned, stopSignal(delivery));
  return new HandlerValues(returned, rethrow, { error });
}

function rethrow(error: unknown): never {
  throw error;
}

/** Whether the global enhancers of a kind apply. */
export function applies(globalEnhancers: ConsumerDefaults['globalEnhancers'], kind: keyof GlobalEnhancers): boolean {
  return typeof globalEnhancers === 'object' ? (globalEnhancers[kind] ?? true) : (globalEnhancers ?? true);
}

/** What finds enhancers of one kind, blind to the global ones. */
function withoutGlobals<T extends object>(contexts: T): T {
  return Object.create(contexts, { getGlobalMetadata: { value: () => [] } }) as T;
}

/** The method, and filters around it only when it fails. */
function direct(method: Method, fill: Fill | null, filtered: (around: Run) => Run): Run {
  return (payload, delivery) => {
    const failed = (error: unknown): unknown => filtered(rejecting(error))(payload, delivery);
    try {
      const args: unknown[] = fill === null ? [payload, delivery] : [];
      fill?.(args, payload, delivery);
      const result = method(...args);
      return promiseOf(result)?.catch(failed) ?? result;
    } catch (error) {
      return failed(error);
    }
  };
}

/**
 * What has values over time counts by its last one, unless its requester wants them all; what goes wrong with it meanwhile is the
 * filters', except that it was for nothing.
 */
function settling(run: Run, fail: Assembled['fail'], calls: Calls): Run {
  return (payload, delivery) => {
    const failed = (error: unknown): unknown => fail(error, payload, delivery);
    const settle = (result: unknown): unknown => {
      if (!isManyValued(result) || result instanceof HandlerValues) return result;
      if (wantsValues(delivery)) return new HandlerValues(result, failed);
      const stop = stopSignal(delivery);
      return lastValueOf(result, stop).catch(async (error: unknown) => {
        if (!stop.aborted || error !== stop.reason) return failed(error);
        // A method that was called is waited for, as it is where nothing stands around it.
        await Promise.all(calls.get(delivery) ?? []);
        throw error;
      });
    };
    const result = run(payload, delivery);
    return promiseOf(result)?.then(settle) ?? settle(result);
  };
}

function rejecting(error: unknown): Run {
  // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what was thrown, whatever it is
  return () => Promise.reject(error);
}

function filling(params: readonly Param[]): Fill {
  return (args, ...given) => {
    for (const { index, extractValue } of params) args[index] = extractValue(...given);
  };
}

/** True for a parameter of ours without pipes. Those of custom decorators may be promises. */
function isPlain({ pipes, schema, type }: Param): boolean {
  return pipes.length === 0 && schema === undefined && typeof type === 'number';
}
