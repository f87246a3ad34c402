/** Turns a method into a delivery handler that runs with Nest's guards, pipes, interceptors and filters. */
import type { ExternalContextCreator } from '@nestjs/core';
import { isObservable, lastValueFrom } from 'rxjs';
import type { Delivery } from '../messaging/delivery.js';
import { type DeliveryHandler, promiseOf } from '../messaging/consumer.js';
import { PARAM, PARAMS_METADATA } from './amqp.decorators.js';
import type { DiscoveredHandler } from './amqp.explorer.js';

/** What `ExecutionContext.getType()` says while a delivery is handled. */
export const AMQP_CONTEXT_TYPE = 'amqp';

type HandlerMethod = Pick<DiscoveredHandler, 'instance' | 'methodName' | 'moduleKey'>;

/** Fills decorated parameters; its arguments are those that a handler without decorators gets. */
const paramsFactory = {
  exchangeKeyForValue(type: number, data: unknown, [payload, delivery]: [unknown, Delivery]): unknown {
    switch (type) {
      case PARAM.payload:
        return typeof data === 'string' ? (payload as Record<string, unknown> | null | undefined)?.[data] : payload;
      case PARAM.delivery:
        return delivery;
      default:
        return undefined;
    }
  },
};

/** The handler for a method of an instance that the module with this key holds. */
export function createHandler(
  creator: ExternalContextCreator,
  { instance, methodName, moduleKey }: HandlerMethod,
): DeliveryHandler {
  const method = (instance as Record<string, Method>)[methodName];
  if (method === undefined) throw new Error(`nest-amqp: ${methodName} is not a method`);
  const run = adapted(creator, moduleKey, method.bind(instance)).create(
    instance,
    method,
    methodName,
    PARAMS_METADATA,
    paramsFactory,
    undefined,
    undefined,
    undefined,
    AMQP_CONTEXT_TYPE,
  ) as Run;
  return (delivery) => run(delivery.payload, delivery);
}

type Method = (...args: unknown[]) => unknown;
/** Of a delivery; may return a promise. */
type Run = (payload: unknown, delivery: Delivery) => unknown;

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

/** What Nest asks of its creator while it makes a handler, and keeps from the types. */
interface Internals {
  readonly interceptorsContextCreator: { create(...args: unknown[]): unknown[] };
  /** Hands what the target throws to the filters. */
  readonly externalErrorProxy: { createProxy(target: Run, filters: unknown, contextType: string): Run };
}

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
function adapted(creator: ExternalContextCreator, moduleKey: string, method: Method): ExternalContextCreator {
  const { interceptorsContextCreator, externalErrorProxy } = creator as unknown as Internals;
  const found: Surroundings = {};
  const createGuardsFn: ExternalContextCreator['createGuardsFn'] = (guards, ...rest) => {
    found.guards = guards;
    return creator.createGuardsFn(guards, ...rest);
  };
  const createPipesFn = (pipes: never[], params: Param[]): ApplyPipes => {
    if (params.length === 0) found.fill = null;
    else if (pipes.length === 0 && params.every(isPlain)) found.fill = filling(params);
    return found.fill ?? creator.createPipesFn(pipes, params as never[]);
  };
  const createInterceptors = (...args: unknown[]): unknown[] => {
    const interceptors = interceptorsContextCreator.create(...args);
    found.interceptors = interceptors;
    return interceptors;
  };
  const createProxy = (target: Run, filters: unknown, contextType: string): Run => {
    const { guards, interceptors, fill } = found;
    const filtered = (around: Run): Run => externalErrorProxy.createProxy(around, filters, contextType);
    return guards?.length === 0 && interceptors?.length === 0 && fill !== undefined
      ? direct(method, fill, filtered)
      : filtered(target);
  };
  return Object.create(creator, {
    getContextModuleKey: { value: () => moduleKey },
    transformToResult: { value: lastValue },
    createGuardsFn: { value: createGuardsFn },
    createPipesFn: { value: createPipesFn },
    interceptorsContextCreator: { value: { create: createInterceptors } },
    externalErrorProxy: { value: { createProxy } },
  }) as ExternalContextCreator;
}

/** The method, and filters around it only when it fails. */
function direct(method: Method, fill: Fill | null, filtered: (around: Run) => Run): Run {
  return (payload, delivery) => {
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what the method threw, whatever it is
    const failed = (error: unknown): unknown => filtered(() => Promise.reject(error))(payload, delivery);
    try {
      const args: unknown[] = fill === null ? [payload, delivery] : [];
      fill?.(args, payload, delivery);
      const result = lastValue(method(...args));
      return promiseOf(result)?.then(lastValue).catch(failed) ?? result;
    } catch (error) {
      return failed(error);
    }
  };
}

function filling(params: readonly Param[]): Fill {
  return (args, ...given) => {
    for (const { index, extractValue } of params) args[index] = extractValue(...given);
  };
}

/** What a method returns; of an Observable its last value, which is undefined where it completes without one. */
function lastValue(result: unknown): unknown {
  return isObservable(result) ? lastValueFrom(result, { defaultValue: undefined }) : result;
}

/** True for a parameter of ours without pipes. Those of custom decorators may be promises. */
function isPlain({ pipes, schema, type }: Param): boolean {
  return pipes.length === 0 && schema === undefined && typeof type === 'number';
}
