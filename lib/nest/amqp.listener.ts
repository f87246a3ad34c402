/** Turns a method into a delivery handler that runs with Nest's guards, pipes, interceptors and filters. */
import type { ExternalContextCreator } from '@nestjs/core';
import { isObservable, lastValueFrom } from 'rxjs';
import type { Delivery } from '../messaging/delivery.js';
import type { DeliveryHandler } from '../messaging/consumer.js';
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
  const method = (instance as Record<string, (...args: unknown[]) => unknown>)[methodName];
  if (method === undefined) throw new Error(`nest-amqp: ${methodName} is not a method`);
  const run = adapted(creator, moduleKey).create(
    instance,
    method,
    methodName,
    PARAMS_METADATA,
    paramsFactory,
    undefined,
    undefined,
    undefined,
    AMQP_CONTEXT_TYPE,
  ) as (payload: unknown, delivery: Delivery) => Promise<unknown>;
  return (delivery) => run(delivery.payload, delivery);
}

/** A decorated parameter, as far as it decides whether its value can be had at once. */
interface Param {
  readonly index: number;
  readonly pipes: readonly unknown[];
  /** Nest 12 validates by it. */
  readonly schema?: unknown;
  readonly type: unknown;
  readonly extractValue: (...args: unknown[]) => unknown;
}

type ApplyPipes = ((args: unknown[], ...params: unknown[]) => Promise<void> | void) | null;

/**
 * The creator, with three of its ways changed. By itself it looks for the class among providers only, finds no module for a
 * controller, and then leaves out, without a word, every guard, interceptor and filter that is given as a class. It takes an
 * Observable that completes without a value for a failure. And it makes promises for every parameter, which is a third of
 * what a delivery costs, also where no pipe waits for anything.
 */
function adapted(creator: ExternalContextCreator, moduleKey: string): ExternalContextCreator {
  return Object.create(creator, {
    getContextModuleKey: { value: () => moduleKey },
    transformToResult: {
      value: (result: unknown) => (isObservable(result) ? lastValueFrom(result, { defaultValue: undefined }) : result),
    },
    createPipesFn: {
      value: (pipes: never[], params: Param[]): ApplyPipes =>
        pipes.length === 0 && params.length > 0 && params.every(isPlain)
          ? (args, ...values) => {
              for (const { index, extractValue } of params) args[index] = extractValue(...values);
            }
          : creator.createPipesFn(pipes, params as never[]),
    },
  }) as ExternalContextCreator;
}

/** True for a parameter of ours without pipes. Those of custom decorators may be promises. */
function isPlain({ pipes, schema, type }: Param): boolean {
  return pipes.length === 0 && schema === undefined && typeof type === 'number';
}
