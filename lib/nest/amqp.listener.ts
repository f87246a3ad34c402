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
  return async (delivery) => await run(delivery.payload, delivery);
}

/**
 * The creator, with two of its ways changed. By itself it looks for the class among providers only, finds no module for a
 * controller, and then leaves out, without a word, every guard, interceptor and filter that is given as a class. And it
 * takes an Observable that completes without a value for a failure.
 */
function adapted(creator: ExternalContextCreator, moduleKey: string): ExternalContextCreator {
  return Object.create(creator, {
    getContextModuleKey: { value: () => moduleKey },
    transformToResult: {
      value: async (result: unknown) =>
        isObservable(result) ? await lastValueFrom(result, { defaultValue: undefined }) : result,
    },
  }) as ExternalContextCreator;
}
