/**
 * What handlers need of Nest that Nest keeps from the types, in one place. It is looked for at the boot: a Nest that has it no longer
 * is refused by name, where a handler would otherwise run without its guards, or fail with its first message. What is made of it is
 * `amqp.handler`'s and `amqp.listener`'s.
 *
 * | of Nest | is needed for |
 * | --- | --- |
 * | `ModuleRef.injector` | instances of what is request-scoped or transient, and of the enhancers around it |
 * | `guardsContextCreator.config` | which of the global enhancers are so |
 * | `getGlobalMetadata` of the four `…ContextCreator`s | `globalEnhancers: false` |
 * | `interceptorsContextCreator.create` | calling a method directly that has no interceptors |
 * | `interceptorsConsumer.intercept` | knowing of a method that runs on beneath interceptors |
 * | `externalErrorProxy`, and `invokeCustomFilters` of what it is given | filters that say what becomes of a delivery |
 * | `handlerMetadataStorage` | parameters that are told apart although two classes have one name |
 *
 * What cannot be looked for: that `create` asks `getHostModuleKey` for the module whose enhancers a handler has (Nest 11.0 does not,
 * and asks `getContextModuleKey`), and the metadata keys in `amqp.decorators` and `amqp.explorer`. The tests of pipelines and scopes
 * fail where those change.
 */
import { createRequire } from 'node:module';
import type { ArgumentsHost, InjectionToken } from '@nestjs/common';
import type { ContextId, ExternalContextCreator, ModuleRef } from '@nestjs/core';
import { AmqpError } from '../errors.js';
import type { Wrapper } from './amqp.explorer.js';

/** Makes what is request-scoped or transient. */
interface Injector {
  loadPerContext(
    instance: unknown,
    host: unknown,
    collection: Map<InjectionToken, Wrapper>,
    contextId: ContextId,
    wrapper: Wrapper,
  ): Promise<object>;
  loadEnhancersPerContext(
    holder: Pick<Wrapper, 'getEnhancersMetadata'>,
    contextId: ContextId,
    inquirer: Wrapper,
  ): Promise<void>;
}

/** Knows the global enhancers that are request-scoped or transient. */
interface GlobalConfig {
  getGlobalRequestGuards(): Wrapper[];
  getGlobalRequestPipes(): Wrapper[];
  getGlobalRequestInterceptors(): Wrapper[];
  getGlobalRequestFilters(): Wrapper[];
}

/** Finds the enhancers of one kind that a method has. */
interface EnhancersOfKind {
  getGlobalMetadata(...args: unknown[]): unknown[];
}

/** The filters of a handler. */
export interface Filters {
  /** What the filter that takes the error returns; null or undefined when there is none. */
  invokeCustomFilters(error: unknown, host: ArgumentsHost): unknown;
  next(error: unknown, host: ArgumentsHost): unknown;
}

/** What Nest asks of its creator while it makes a handler. */
export interface CreatorParts {
  readonly guardsContextCreator: EnhancersOfKind & { readonly config: GlobalConfig };
  readonly pipesContextCreator: EnhancersOfKind;
  readonly filtersContextCreator: EnhancersOfKind;
  readonly interceptorsContextCreator: EnhancersOfKind & { create(...args: unknown[]): unknown[] };
  /** Calls `next` beneath the interceptors; what is made of it is an Observable. */
  readonly interceptorsConsumer: {
    intercept(
      interceptors: readonly unknown[],
      args: readonly unknown[],
      instance: unknown,
      callback: unknown,
      next: () => Promise<unknown>,
      contextType: string,
    ): unknown;
  };
  /** Hands what the target throws to the filters. */
  readonly externalErrorProxy: {
    createProxy<Target>(target: Target, filters: Pick<Filters, 'next'>, contextType: string): Target;
  };
}

/** The parts of one application's Nest. */
export interface NestInternals {
  readonly creator: ExternalContextCreator;
  readonly parts: CreatorParts;
  readonly config: GlobalConfig;
  readonly injector: Injector;
}

const OF_CREATOR = [
  'guardsContextCreator.getGlobalMetadata',
  'guardsContextCreator.config.getGlobalRequestGuards',
  'guardsContextCreator.config.getGlobalRequestPipes',
  'guardsContextCreator.config.getGlobalRequestInterceptors',
  'guardsContextCreator.config.getGlobalRequestFilters',
  'pipesContextCreator.getGlobalMetadata',
  'filtersContextCreator.getGlobalMetadata',
  'interceptorsContextCreator.getGlobalMetadata',
  'interceptorsContextCreator.create',
  'interceptorsConsumer.intercept',
  'externalErrorProxy.createProxy',
  'handlerMetadataStorage.get',
  'handlerMetadataStorage.set',
];
const OF_MODULE_REF = ['injector.loadPerContext', 'injector.loadEnhancersPerContext'];

/** Throws `NEST_UNSUPPORTED`, with the name of what is missing. */
export function nestInternals(creator: ExternalContextCreator, moduleRef: ModuleRef): NestInternals {
  for (const path of OF_CREATOR) requireMethod(creator, path, 'ExternalContextCreator');
  for (const path of OF_MODULE_REF) requireMethod(moduleRef, path, 'ModuleRef');
  const parts = creator as unknown as CreatorParts;
  const { injector } = moduleRef as unknown as { readonly injector: Injector };
  return { creator, parts, config: parts.guardsContextCreator.config, injector };
}

function requireMethod(owner: object, path: string, ownerName: string): void {
  const method = path
    .split('.')
    .reduce<unknown>((value, name) => (value as Record<string, unknown> | null | undefined)?.[name], owner);
  if (typeof method !== 'function') throw unsupported(`${ownerName}.${path}()`);
}

/** Nest no longer has, or does, what `what` names. */
export function unsupported(what: string): AmqpError {
  const { version } = createRequire(import.meta.url)('@nestjs/core/package.json') as { readonly version: string };
  return new AmqpError(
    'NEST_UNSUPPORTED',
    `@nestjs/core ${version} has no ${what}, without which no @Consume runs with its guards, pipes, interceptors and filters. ` +
      'Use a version of Nest that this version of nest-amqp was tested with, or one of nest-amqp that knows this Nest.',
  );
}
