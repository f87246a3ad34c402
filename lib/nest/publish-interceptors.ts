/** Finds the application's publish interceptors among its providers. Calling them is `messaging/publish-interceptor`'s. */
import type { Type } from '@nestjs/common';
import type { ModuleRef } from '@nestjs/core';
import { AmqpError } from '../errors.js';
import type { PublishInterceptor } from '../messaging/publish-interceptor.js';
import type { PublishInterceptors } from '../messaging/intercepted-publish.js';

/**
 * The interceptors, found when they are first asked for, because their providers may need the publisher; undefined where there are
 * none. Of a class that no module provides an instance is made. Throws `INVALID_OPTION` for what is no list, and rejects with it for
 * what is no interceptor.
 */
export function interceptorsOf(
  given: readonly (Type<PublishInterceptor> | PublishInterceptor)[] = [],
  moduleRef: ModuleRef,
): PublishInterceptors | undefined {
  // Past the compiler; a class has a length, too.
  const isList: boolean = Array.isArray(given);
  if (!isList) {
    throw new AmqpError('INVALID_OPTION', 'interceptors of publisher has to be a list: [TenantInterceptor].');
  }
  if (given.length === 0) return undefined;
  let found: Promise<PublishInterceptor[]> | undefined;
  return () => (found ??= Promise.all(given.map((one) => instanceOf(one, moduleRef))));
}

async function instanceOf(
  given: Type<PublishInterceptor> | PublishInterceptor,
  moduleRef: ModuleRef,
): Promise<PublishInterceptor> {
  const instance: unknown = typeof given === 'function' ? await provided(given, moduleRef) : given;
  if (typeof (instance as Partial<PublishInterceptor> | null | undefined)?.intercept === 'function')
    return instance as PublishInterceptor;
  throw new AmqpError(
    'INVALID_OPTION',
    `publisher.interceptors has ${typeof given === 'function' ? given.name : typeof given}, which has no method intercept(message, next).`,
  );
}

async function provided(metatype: Type<PublishInterceptor>, moduleRef: ModuleRef): Promise<unknown> {
  try {
    return moduleRef.get(metatype, { strict: false });
  } catch (error) {
    // By its name: the class is not exported alike by Nest 11 and 12.
    if ((error as Error).constructor.name !== 'UnknownElementException') throw error;
    return await moduleRef.create(metatype);
  }
}
